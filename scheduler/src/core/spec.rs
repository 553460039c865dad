//! What the engine is told: nodes and classes of pods, in its own plain types.

use std::collections::{BTreeMap, BTreeSet};

use super::resources::{PodDemand, Resources};
use super::selector;

/// What matters about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// How many devices it has that pods take whole, or in shares. Zero also if not known.
    pub devices: u16,
    /// How many volumes may be attached to it, by their driver; a driver that is not in it has no limit.
    pub attach_limits: BTreeMap<String, i64>,
}

/// A volume that is attached to the node of a pod: once, however many pods there use it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attachment {
    /// Whose volume it is.
    pub driver: String,
    /// What the driver calls it.
    pub volume: String,
}

/// What matters about a pod that wants a place. Pods with equal specs are one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClassSpec {
    /// `spec.nodeName`, for a pod that names its node.
    pub node_name: Option<String>,
    /// `spec.os.name`.
    pub os: Option<String>,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// The required node affinity: any of these terms. `None` when there is none; an empty list
    /// matches no node.
    pub required: Option<Vec<Term>>,
    /// The preferred node affinity.
    pub preferred: Vec<PreferredTerm>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// What the pod takes from its node.
    pub demand: PodDemand,
    /// The devices that it has on its node, of a pod of which that is known.
    pub held_devices: Vec<u16>,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Which pods it wants near, and which away.
    pub pod_affinity: PodAffinity,
    /// How pods like it are to be spread.
    pub spread: Vec<Spread>,
    /// What its volumes ask of a node: all of this.
    pub volumes: Vec<VolumeNeed>,
    /// How nodes that fit are compared by what they have free; the profile says so, not the pod.
    pub scoring: Scoring,
}

impl ClassSpec {
    /// Do the pod's labels meet all of this?
    pub fn is_selected_by(&self, wanted: &[Requirement]) -> bool {
        selector::meets_all(wanted, &self.labels)
    }
}

/// How nodes are compared by what they have free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scoring {
    /// What is better.
    pub strategy: Strategy,
    /// The resources that count, with their weights. [`Strategy::BinPacking`] and
    /// [`Strategy::Fragmentation`] do not look at these.
    pub resources: Vec<(String, i64)>,
}

/// What makes a node better.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// The fuller the better, over CPU, memory and whatever else the pod asks for, so that whole nodes
    /// stay empty; where nodes have devices, so that these stay of use to the pods to be expected.
    #[default]
    BinPacking,
    /// The less stays free the better, by weight, measured by the largest node.
    BestFit,
    /// The less of what the pod asks for is free, by weight, measured by the largest node, the better.
    DotProduct,
    /// The fewer devices, or rests of them, the expected pods can no longer use, the better.
    Fragmentation,
    /// The fuller the better, by weight.
    MostAllocated,
    /// The emptier the better, by weight.
    LeastAllocated,
    /// Points by the percentage in use: between those given, on a straight line.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// What a volume asks of a node: one of the terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeNeed {
    /// Why.
    pub kind: VolumeNeedKind,
    /// The terms; without any, no node will do.
    pub terms: Vec<Term>,
}

/// Why a volume asks for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VolumeNeedKind {
    /// It can be reached from some nodes only.
    Reach,
    /// It is in a zone.
    Zone,
    /// It has yet to be found or made.
    Find,
    /// There has to be room to make it.
    Room,
    /// It is gone.
    Gone,
}

/// Which pods a term is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodSelector {
    /// Their namespaces, by name.
    pub namespaces: BTreeSet<String>,
    /// Or by the namespaces' labels. `None` selects none, an empty list all.
    pub namespace_selector: Option<Vec<Requirement>>,
    /// Their labels. `None` selects no pod, an empty list all.
    pub labels: Option<Vec<Requirement>>,
}

/// A term of affinity or anti-affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityTerm {
    /// The pods.
    pub selector: PodSelector,
    /// Nodes with the same value of this label are one place.
    pub topology_key: String,
}

/// A term that counts in a node's score.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightedAffinityTerm {
    /// 1 to 100.
    pub weight: i32,
    /// The term.
    pub term: AffinityTerm,
}

/// A pod's affinity and anti-affinity to other pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodAffinity {
    /// A pod that all these select must be in the same place, term by term.
    pub required: Vec<AffinityTerm>,
    /// Pods near which it had rather be.
    pub preferred: Vec<WeightedAffinityTerm>,
    /// No pod that one of these selects may be in the same place.
    pub anti_required: Vec<AffinityTerm>,
    /// Pods away from which it had rather be.
    pub anti_preferred: Vec<WeightedAffinityTerm>,
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The pods that are counted: in the pod's own namespace, those with these labels.
    pub selector: PodSelector,
    /// Nodes with the same value of this label are one place.
    pub topology_key: String,
    /// How many pods more than in the emptiest place there may be.
    pub max_skew: i32,
    /// With fewer places than this, the emptiest counts as having no pod.
    pub min_domains: i32,
    /// Do only nodes that the pod's node selector and node affinity match count?
    pub honors_affinity: bool,
    /// Do only nodes whose taints the pod tolerates count?
    pub honors_taints: bool,
    /// What an imbalance means.
    pub mode: SpreadMode,
}

/// What it means if a place has too many pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpreadMode {
    /// The pod is not placed there.
    DoNotSchedule,
    /// It is rather placed elsewhere; a node without one of the keys is the last choice.
    ScheduleAnyway,
    /// Likewise, as the cluster's default: a node without a key is judged by the other constraints.
    Default,
}

/// A node selector term: all its requirements hold. A term without any matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term {
    /// `matchExpressions`, on labels.
    pub expressions: Vec<Requirement>,
    /// `matchFields`; the only field is `metadata.name`.
    pub fields: Vec<Requirement>,
}

impl Term {
    /// Does the node meet all of it?
    pub fn matches(&self, node: &NodeSpec) -> bool {
        selector::matches(self, node)
    }

    /// Has the term no requirement at all?
    pub fn is_empty(&self) -> bool {
        self.expressions.is_empty() && self.fields.is_empty()
    }
}

/// A term that adds its weight to a node's score.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreferredTerm {
    /// 1 to 100.
    pub weight: i32,
    /// What the node should match.
    pub term: Term,
}

/// A key, an operator and values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key, or `metadata.name` among fields.
    pub key: String,
    /// How key and values relate.
    pub operator: Operator,
    /// The values.
    pub values: Vec<String>,
}

/// A node selector operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// The value is one of these.
    In,
    /// There is no value, or it is none of these.
    NotIn,
    /// There is a value.
    Exists,
    /// There is no value.
    DoesNotExist,
    /// The value, as an integer, is greater.
    Gt,
    /// The value, as an integer, is smaller.
    Lt,
    /// An operator that is not known matches nothing.
    Unknown,
}

/// A node's taint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Taint {
    /// The key.
    pub key: String,
    /// The value; may be empty.
    pub value: String,
    /// The effect.
    pub effect: Effect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// They are not placed here.
    NoSchedule,
    /// They are rather placed elsewhere.
    PreferNoSchedule,
    /// They are not placed here, and evicted.
    NoExecute,
}

/// A pod's toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// The taint's key; empty with `exists` tolerates every key.
    pub key: String,
    /// `operator: Exists` (any value); otherwise the value must be equal.
    pub exists: bool,
    /// The taint's value.
    pub value: String,
    /// The taint's effect; `None` is any.
    pub effect: Option<Effect>,
}

/// The transport protocol of a host port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port that a pod opens on its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port number.
    pub port: u16,
    /// The node's address it is opened on; `0.0.0.0` is all.
    pub ip: String,
}

impl HostPort {
    /// The address that stands for all.
    pub const ANY: &'static str = "0.0.0.0";
}
