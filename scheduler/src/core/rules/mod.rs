//! The rules that decide whether a node may take a pod: one file each, in Kubernetes' order.
//!
//! A rule is *static* if only a change of the node itself (labels, taints, its being marked
//! unschedulable) can change its answer; those are compiled. Rules about *usage* look at what the
//! pods on the node take, and are asked again whenever that changes. Rules about *places* look at the
//! pods around, through counters.

pub mod attachments;
pub mod exclusive;
pub mod host_ports;
pub mod node_affinity;
pub mod node_name;
pub mod os;
pub mod pod_affinity;
pub mod resources;
pub mod spread;
pub mod taints;
pub mod unschedulable;
pub mod volumes;

use super::bitset::Bitset;
use super::constraints::Constraints;
use super::counters::Counters;
use super::explain::{Reason, Verdict};
use super::nodes::Nodes;
use super::resources::{Demand, ScoringColumns};
use super::spec::ClassSpec;

/// A class as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// What the pod is.
    pub spec: &'a ClassSpec,
    /// What it takes, by column.
    pub demand: &'a Demand,
    /// How nodes are compared for it.
    pub scoring: &'a ScoringColumns,
    /// What it asks of other pods, and they of it.
    pub constraints: &'a Constraints,
    /// The counts of pods by place.
    pub counters: &'a Counters,
}

impl Candidate<'_> {
    /// Is it a matter of amounts alone whether a node that suits the pod has room for it?
    pub fn asks_for_amounts_only(&self) -> bool {
        let Constraints { affinity, anti_affinity, avoided, hard, .. } = self.constraints;
        let lists = [affinity, anti_affinity, avoided];
        let Demand { ports, devices, attachments, exclusive, .. } = self.demand;
        let no_volumes = self.spec.volumes.is_empty() && attachments.is_empty() && exclusive.is_empty();
        let anywhere = ports.is_empty() && devices.is_none() && no_volumes;
        anywhere && lists.iter().all(|list| list.is_empty()) && hard.is_empty()
    }
}

/// What an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The node itself.
    Static,
    /// What the pods on the node take.
    Usage,
    /// The pods on the node and on others.
    Places,
}

/// One rule.
pub trait Rule: Sync {
    /// Its name, as in Kubernetes.
    fn plugin(&self) -> Plugin;

    /// What the answer depends on.
    fn scope(&self) -> Scope;

    /// Appends to `reasons` why the node does not do; nothing if it does. Returns whether the node
    /// would be refused even with all its pods gone.
    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool;

    /// Takes out of `eligible` all nodes that a static rule refuses: the same answer as asking
    /// [`Rule::refuse`] for each, at less cost.
    fn narrow(&self, _candidate: Candidate<'_>, _nodes: &Nodes, _eligible: &mut Bitset) {}
}

/// All rules, in the order in which they are asked. The first that refuses gives the reasons.
pub const RULES: [&dyn Rule; 13] = [
    &unschedulable::Unschedulable,
    &node_name::NodeName,
    &os::Os,
    &taints::Taints,
    &node_affinity::NodeAffinity,
    &host_ports::HostPorts,
    &resources::Fit,
    &exclusive::Exclusive,
    &attachments::Attachments,
    &volumes::Volumes(Plugin::VolumeBinding),
    &volumes::Volumes(Plugin::VolumeZone),
    &spread::Spread,
    &pod_affinity::PodAffinity,
];

/// Asks all rules about one node. `None`: the node fits.
pub fn judge(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> Option<Verdict> {
    if !node_affinity::is_named(candidate.spec, nodes.name(slot)) {
        return Some(Verdict { plugin: Plugin::NodeAffinity, reasons: vec![Reason::NotNamed], unresolvable: true });
    }
    RULES.iter().find_map(|rule| {
        let mut reasons = Vec::new();
        let unresolvable = rule.refuse(candidate, nodes, slot, &mut reasons);
        (!reasons.is_empty()).then(|| Verdict { plugin: rule.plugin(), reasons, unresolvable })
    })
}

/// Do all static rules accept the node?
pub fn accepts_statically(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> bool {
    let mut reasons = Vec::new();
    RULES.iter().filter(|rule| rule.scope() == Scope::Static).all(|rule| {
        rule.refuse(candidate, nodes, slot, &mut reasons);
        reasons.is_empty()
    })
}

/// Do the rules about usage accept the node? The hot path: no allocation, no reasons.
#[inline]
pub fn accepts_usage(candidate: Candidate<'_>, nodes: &Nodes, slot: u32) -> bool {
    resources::fits(candidate.demand, nodes, slot)
        && (candidate.demand.ports.is_empty() || host_ports::fits(candidate.demand, nodes, slot))
        && (candidate.demand.exclusive.is_empty() || exclusive::fits(candidate.demand, nodes))
        && (candidate.demand.attachments.is_empty() || attachments::fits(candidate.demand, nodes, slot))
}

/// A rule's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plugin {
    /// `NodeUnschedulable`
    NodeUnschedulable,
    /// `NodeName`
    NodeName,
    /// `PodOS`, which Kubernetes leaves to the node
    PodOs,
    /// `TaintToleration`
    TaintToleration,
    /// `NodeAffinity`
    NodeAffinity,
    /// `NodePorts`
    NodePorts,
    /// `NodeResourcesFit`
    NodeResourcesFit,
    /// `VolumeRestrictions`
    VolumeRestrictions,
    /// `NodeVolumeLimits`
    NodeVolumeLimits,
    /// `VolumeBinding`
    VolumeBinding,
    /// `VolumeZone`
    VolumeZone,
    /// `PodTopologySpread`
    PodTopologySpread,
    /// `InterPodAffinity`
    InterPodAffinity,
}

/// A set of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PluginSet(u16);

impl PluginSet {
    /// No rule.
    pub const NONE: PluginSet = PluginSet(0);

    /// Every rule.
    pub const ALL: PluginSet = PluginSet(u16::MAX);

    /// These rules.
    pub fn of(plugins: impl IntoIterator<Item = Plugin>) -> Self {
        plugins.into_iter().fold(Self::NONE, |set, plugin| set.with(plugin))
    }

    /// The set with `plugin` added.
    #[must_use]
    pub fn with(self, plugin: Plugin) -> Self {
        PluginSet(self.0 | 1 << plugin as u16)
    }

    /// Is `plugin` in the set?
    pub fn contains(self, plugin: Plugin) -> bool {
        self.0 & (1 << plugin as u16) != 0
    }

    /// The rules of both sets.
    #[must_use]
    pub fn union(self, other: PluginSet) -> Self {
        PluginSet(self.0 | other.0)
    }

    /// Is some rule in both sets?
    pub fn overlaps(self, other: PluginSet) -> bool {
        self.0 & other.0 != 0
    }
}
