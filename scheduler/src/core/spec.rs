//! What the engine is told: nodes and classes of pods, in its own plain types.

use std::collections::BTreeMap;

use super::resources::{PodDemand, Resources};

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
}

/// What matters about a pod that wants a place. Pods with equal specs are one class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClassSpec {
    /// `spec.nodeName`, for a pod that names its node.
    pub node_name: Option<String>,
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
}

/// A node selector term: all its requirements hold. A term without any matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Term {
    /// `matchExpressions`, on labels.
    pub expressions: Vec<Requirement>,
    /// `matchFields`; the only field is `metadata.name`.
    pub fields: Vec<Requirement>,
}

impl Term {
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key, or `metadata.name` among fields.
    pub key: String,
    /// How key and values relate.
    pub operator: Operator,
    /// The values.
    pub values: Vec<String>,
}

/// A node selector operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
