//! Topologies: which nodes are one place by a label, for the labels that some term names.

use std::collections::HashMap;
use std::sync::Arc;

use super::spec::NodeSpec;

/// The label that is the node's own.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// A topology with more places than this is fine: what changes in one place touches few nodes, which are told one by
/// one. In a coarse one it may touch a third of the cluster, so nodes are kept in groups by place instead.
const COARSE_MAX: usize = 256;

/// The number of a topology key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopologyId(pub u32);

/// One value of a topology key.
pub type Domain = u32;

/// The nodes that have no value.
const NOWHERE: Domain = u32::MAX;

#[derive(Clone, Debug, Default)]
struct Topology {
    key: Arc<str>,
    is_fine: bool,
    domains: HashMap<Arc<str>, Domain>,
    values: Vec<Arc<str>>,
    /// How many nodes a place has; a place without any gives its number to another.
    sizes: Vec<u32>,
    free: Vec<Domain>,
    /// Per slot.
    of: Vec<Domain>,
}

impl Topology {
    fn domain(&self, slot: u32) -> Option<Domain> {
        self.of.get(slot as usize).copied().filter(|domain| *domain != NOWHERE)
    }

    fn set(&mut self, slot: u32, value: Option<&str>) {
        if let Some(domain) = self.domain(slot) {
            if value == Some(&*self.values[domain as usize]) {
                return;
            }
            self.sizes[domain as usize] -= 1;
            if self.sizes[domain as usize] == 0 {
                self.domains.remove(&self.values[domain as usize]);
                self.free.push(domain);
            }
            self.of[slot as usize] = NOWHERE;
        }
        let Some(value) = value else { return };
        let domain = self.domains.get(value).copied().unwrap_or_else(|| self.add(value));
        self.sizes[domain as usize] += 1;
        if slot as usize >= self.of.len() {
            self.of.resize(slot as usize + 1, NOWHERE);
        }
        self.of[slot as usize] = domain;
    }

    fn add(&mut self, value: &str) -> Domain {
        let value: Arc<str> = value.into();
        let domain = match self.free.pop() {
            Some(domain) => {
                self.values[domain as usize] = value.clone();
                domain
            }
            None => {
                self.values.push(value.clone());
                self.sizes.push(0);
                self.values.len() as Domain - 1
            }
        };
        self.domains.insert(value, domain);
        domain
    }
}

/// All topologies.
#[derive(Clone, Debug, Default)]
pub struct Topologies {
    by_key: HashMap<Arc<str>, TopologyId>,
    all: Vec<Topology>,
    epoch: u64,
}

impl Topologies {
    /// The topology of a key, made of `nodes` if it is new.
    pub fn id<'a>(&mut self, key: &str, nodes: impl Iterator<Item = (u32, &'a NodeSpec)>) -> TopologyId {
        if let Some(id) = self.by_key.get(key) {
            return *id;
        }
        let id = TopologyId(self.all.len() as u32);
        let key: Arc<str> = key.into();
        let mut topology = Topology { key: key.clone(), is_fine: &*key == HOSTNAME, ..Topology::default() };
        for (slot, node) in nodes {
            topology.set(slot, node.labels.get(&*key).map(String::as_str));
        }
        topology.is_fine |= topology.domains.len() > COARSE_MAX;
        self.all.push(topology);
        self.by_key.insert(key, id);
        id
    }

    /// Enters what is known of a node now, if anything.
    pub fn set(&mut self, slot: u32, node: Option<&NodeSpec>) {
        for topology in &mut self.all {
            topology.set(slot, node.and_then(|node| node.labels.get(&*topology.key)).map(String::as_str));
            if !topology.is_fine && topology.domains.len() > COARSE_MAX {
                topology.is_fine = true;
                self.epoch += 1;
            }
        }
    }

    /// Where a node is.
    #[inline]
    pub fn domain(&self, id: TopologyId, slot: u32) -> Option<Domain> {
        self.all[id.0 as usize].domain(slot)
    }

    /// Are the places many and small?
    pub fn is_fine(&self, id: TopologyId) -> bool {
        self.all[id.0 as usize].is_fine
    }

    /// The key and value of a place that has other nodes too.
    pub fn shared_place(&self, id: TopologyId, domain: Domain) -> Option<(&str, &str)> {
        let topology = &self.all[id.0 as usize];
        (topology.sizes[domain as usize] > 1).then(|| (&*topology.key, &*topology.values[domain as usize]))
    }

    /// The topology's key.
    pub fn key(&self, id: TopologyId) -> &str {
        &self.all[id.0 as usize].key
    }

    /// Rises whenever a topology turned fine: groups of nodes are then to be made afresh.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}
