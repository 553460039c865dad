//! Resource amounts: by name at the edge, by column number inside.
//!
//! Units are Kubernetes' for scheduling: milli-CPUs, bytes, and plain counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::devices::DeviceDemand;
use super::spec::{Attachment, HostPort, Scoring, Strategy};

/// CPU that a container without a CPU request is scored with: `0.1`.
pub const DEFAULT_MILLI_CPU_REQUEST: i64 = 100;
/// Memory that a container without a memory request is scored with: 200 MiB.
pub const DEFAULT_MEMORY_REQUEST: i64 = 200 * 1024 * 1024;

/// Amounts above this are taken as this, so that sums of thousands stay in range.
pub const AMOUNT_MAX: i64 = 1 << 53;

/// The number of a resource's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId(pub u32);

impl ResourceId {
    /// `cpu`, in thousandths of a CPU.
    pub const CPU: ResourceId = ResourceId(0);
    /// `memory`, in bytes.
    pub const MEMORY: ResourceId = ResourceId(1);
    /// `ephemeral-storage`, in bytes.
    pub const EPHEMERAL_STORAGE: ResourceId = ResourceId(2);
    /// `pods`.
    pub const PODS: ResourceId = ResourceId(3);
    /// [`GPU_MILLI`]: shares of devices; in scores, all that is taken of devices.
    pub const GPU_MILLI: ResourceId = ResourceId(4);
}

pub use gantry_api::policy::room::GPU_MILLI;

const FIXED: [&str; 5] = ["cpu", "memory", "ephemeral-storage", "pods", GPU_MILLI];

/// Amounts by name: what a node can give, or what a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of ephemeral storage.
    pub ephemeral_storage: i64,
    /// Pods (of a node: how many it may run; of a pod: not used).
    pub pods: i64,
    /// Extended resources and huge pages.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Adds `amount` of the resource called `name`.
    pub fn add(&mut self, name: &str, amount: i64) {
        let field = self.field_mut(name);
        *field = field.saturating_add(amount).min(AMOUNT_MAX);
    }

    /// Sets the resource called `name`.
    pub fn set(&mut self, name: &str, amount: i64) {
        *self.field_mut(name) = amount.clamp(0, AMOUNT_MAX);
    }

    fn field_mut(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.milli_cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.ephemeral_storage,
            "pods" => &mut self.pods,
            other => self.extended.entry(other.to_owned()).or_default(),
        }
    }

    /// Adds all of `other`.
    pub fn add_all(&mut self, other: &Resources) {
        for (name, amount) in other.iter() {
            self.add(name, amount);
        }
    }

    /// Raises each resource to that of `other`, if that is more.
    pub fn raise_to(&mut self, other: &Resources) {
        for (name, amount) in other.iter() {
            let field = self.field_mut(name);
            *field = (*field).max(amount);
        }
    }

    /// The resources that are not zero, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let fixed = [self.milli_cpu, self.memory, self.ephemeral_storage, self.pods];
        FIXED
            .into_iter()
            .zip(fixed)
            .chain(self.extended.iter().map(|(name, amount)| (name.as_str(), *amount)))
            .filter(|(_, amount)| *amount != 0)
    }
}

/// All that a pod takes from a node, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodDemand {
    /// What must be free on a node and is taken from it.
    pub requests: Resources,
    /// CPU that counts in the score: the requests, with the default for containers that have none.
    pub scoring_milli_cpu: i64,
    /// Memory that counts in the score, likewise.
    pub scoring_memory: i64,
    /// The ports the pod opens on its node.
    pub ports: Vec<HostPort>,
    /// The devices that it takes, which are among the requests too.
    pub devices: DeviceDemand,
    /// The volumes that are attached for it, each once.
    pub attachments: Vec<Attachment>,
    /// The claims that no other pod may use at the same time, as `namespace/name`.
    pub exclusive: Vec<String>,
}

/// All that a pod takes from a node, by column. Shared by all pods of the same shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Demand {
    /// What is asked for, without zeros, ascending by column; `pods` is not in it (it is always 1).
    pub requests: Box<[(ResourceId, i64)]>,
    /// See [`PodDemand::scoring_milli_cpu`].
    pub scoring_milli_cpu: i64,
    /// See [`PodDemand::scoring_memory`].
    pub scoring_memory: i64,
    /// The ports the pod opens on its node.
    pub ports: Box<[HostPort]>,
    /// See [`PodDemand::devices`].
    pub devices: DeviceDemand,
    /// See [`PodDemand::attachments`].
    pub attachments: Box<[Attachment]>,
    /// See [`PodDemand::exclusive`].
    pub exclusive: Box<[String]>,
}

impl Demand {
    /// What is asked for of one resource.
    pub fn amount(&self, resource: ResourceId) -> i64 {
        let found = self.requests.binary_search_by_key(&resource, |(resource, _)| *resource);
        found.map_or(0, |index| self.requests[index].1)
    }
}

/// How nodes are compared, by column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoringColumns {
    /// What is better.
    pub strategy: Strategy,
    /// The columns that count, with their weights.
    pub resources: Box<[(ResourceId, i64)]>,
}

/// The names behind the column numbers, and the demands seen.
#[derive(Clone, Debug)]
pub struct ResourceTable {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, ResourceId>,
    demands: HashMap<PodDemand, Arc<Demand>>,
}

impl Default for ResourceTable {
    fn default() -> Self {
        let mut table = ResourceTable { names: Vec::new(), ids: HashMap::new(), demands: HashMap::new() };
        for name in FIXED {
            table.id(name);
        }
        table
    }
}

impl ResourceTable {
    /// The column of the resource called `name`, made if it is new.
    pub fn id(&mut self, name: &str) -> ResourceId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = ResourceId(self.names.len() as u32);
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.ids.insert(name, id);
        id
    }

    /// The name of a column.
    pub fn name(&self, id: ResourceId) -> &str {
        self.names.get(id.0 as usize).map_or("", |name| name)
    }

    /// A way of scoring by column.
    pub fn scoring(&mut self, scoring: &Scoring) -> ScoringColumns {
        let resources = scoring.resources.iter().map(|(name, weight)| (self.id(name), *weight)).collect();
        ScoringColumns { strategy: scoring.strategy.clone(), resources }
    }

    /// The demand by column, shared with every pod of the same shape.
    pub fn demand(&mut self, pod: &PodDemand) -> Arc<Demand> {
        if let Some(demand) = self.demands.get(pod) {
            return demand.clone();
        }
        // Shapes that no pod has any more are let go now and then, when the table has doubled.
        if self.demands.len() >= 1024 && self.demands.len().is_power_of_two() {
            self.demands.retain(|_, demand| Arc::strong_count(demand) > 1);
        }
        let mut requests: Vec<_> = pod
            .requests
            .iter()
            .filter(|(name, _)| *name != "pods")
            .map(|(name, amount)| (self.id(name), amount))
            .collect();
        requests.sort_unstable();
        let demand = Arc::new(Demand {
            requests: requests.into(),
            scoring_milli_cpu: pod.scoring_milli_cpu,
            scoring_memory: pod.scoring_memory,
            ports: pod.ports.clone().into(),
            devices: pod.devices,
            attachments: pod.attachments.clone().into(),
            exclusive: pod.exclusive.clone().into(),
        });
        self.demands.insert(pod.clone(), demand.clone());
        demand
    }
}
