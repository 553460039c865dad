//! Why a pod has no place: reasons a node, and Kubernetes' one-line summary of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::resources::ResourceId;
use super::rules::{Plugin, PluginSet};
use super::spec::VolumeNeedKind;

/// One reason why a node does not take a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The node is marked unschedulable.
    Unschedulable,
    /// The pod names another node.
    NodeName,
    /// The node runs another operating system.
    Os,
    /// The node has a taint that the pod does not tolerate.
    Taint,
    /// Node selector or required node affinity.
    NodeAffinity,
    /// The pod's affinity names nodes, and this is none of them.
    NotNamed,
    /// The terms of the pod's affinity contradict each other in the node's name.
    AffinityConflict,
    /// A host port is taken.
    Ports,
    /// The node runs as many pods as it may.
    TooManyPods,
    /// Not enough of a resource is free.
    Insufficient(ResourceId),
    /// In sum there is enough of the node's devices, but not as the pod wants it.
    Devices,
    /// A pod uses a claim that is for one pod at a time.
    ClaimInUse,
    /// No more volumes can be attached to the node.
    TooManyVolumes,
    /// The node does not suit a volume.
    Volume(VolumeNeedKind),
    /// The node lacks the label of a topology spread constraint.
    SpreadLabel,
    /// The node's place has too many of the pods that are to be spread.
    Spread,
    /// A pod that the pod must be near is not near.
    PodAffinity,
    /// A pod that the pod must not be near is.
    PodAntiAffinity,
    /// A pod nearby must not be near such a pod.
    Avoided,
}

impl Reason {
    /// The text that Kubernetes prints.
    pub fn text(self, resource_name: impl Fn(ResourceId) -> String) -> String {
        match self {
            Reason::Unschedulable => "node(s) were unschedulable".into(),
            Reason::NodeName => "node(s) didn't match the requested node name".into(),
            Reason::Os => "node(s) didn't match the pod's operating system".into(),
            Reason::Taint => "node(s) had untolerated taint(s)".into(),
            Reason::NodeAffinity => "node(s) didn't match Pod's node affinity/selector".into(),
            Reason::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]".into(),
            Reason::AffinityConflict => "pod affinity terms conflict".into(),
            Reason::Ports => "node(s) didn't have free ports for the requested pod ports".into(),
            Reason::Devices => "node(s) didn't have free devices for the pod".into(),
            Reason::TooManyPods => "Too many pods".into(),
            Reason::ClaimInUse => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode".into()
            }
            Reason::TooManyVolumes => "node(s) exceed max volume count".into(),
            Reason::Volume(VolumeNeedKind::Reach) => "node(s) didn't match PersistentVolume's node affinity".into(),
            Reason::Volume(VolumeNeedKind::Find) => "node(s) didn't find available persistent volumes to bind".into(),
            Reason::Volume(VolumeNeedKind::Room) => "node(s) did not have enough free storage".into(),
            Reason::Volume(VolumeNeedKind::Gone) => {
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into()
            }
            Reason::Volume(VolumeNeedKind::Zone) => "node(s) had no available volume zone".into(),
            Reason::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)".into()
            }
            Reason::Spread => "node(s) didn't match pod topology spread constraints".into(),
            Reason::PodAffinity => "node(s) didn't match pod affinity rules".into(),
            Reason::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules".into(),
            Reason::Avoided => "node(s) didn't satisfy existing pods anti-affinity rules".into(),
            Reason::Insufficient(resource) => format!("Insufficient {}", resource_name(resource)),
        }
    }
}

/// What the rules found for one node: nothing, or the reasons of the first rule that refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The rule that refused.
    pub plugin: Plugin,
    /// Its reasons.
    pub reasons: Vec<Reason>,
    /// Would it stay refused with all its pods gone? Then preemption cannot help.
    pub unresolvable: bool,
}

/// The reasons, node by node in name order. `None`: the node fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Node name and verdict.
    pub nodes: Vec<(Arc<str>, Option<Verdict>)>,
}

/// The reasons, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them fit.
    pub feasible: usize,
    /// How often each reason was given, by its text.
    pub reasons: BTreeMap<String, usize>,
    /// The rules that refused some node.
    pub plugins: PluginSet,
    /// How many nodes preemption cannot help with.
    pub unresolvable: usize,
    /// Every node is refused at once, for this reason.
    pub conflict: Option<String>,
}

/// What came of preemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// The pod has `preemptionPolicy: Never`.
    Never,
    /// Pods are about to leave the node that the pod waits for.
    Waiting,
    /// Pods are made to leave a node.
    Found,
    /// It helps nowhere: how many nodes say what. Those that nothing is said of are beyond help.
    Failed(BTreeMap<String, usize>),
}

impl Preemption {
    /// What a node says that has no pod of lower priority.
    pub const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
}

impl Diagnosis {
    /// What is said when a rule refuses the pod before it looks at any node.
    pub fn refused_at_once(nodes: usize, reason: String, plugin: Plugin) -> Diagnosis {
        let plugins = PluginSet::NONE.with(plugin);
        Diagnosis { nodes, unresolvable: nodes, conflict: Some(reason), plugins, ..Diagnosis::default() }
    }

    /// Kubernetes' message, as in the event and the pod's condition.
    pub fn message(&self, preemption: &Preemption) -> String {
        Message { diagnosis: self, preemption }.to_string()
    }
}

struct Message<'a> {
    diagnosis: &'a Diagnosis,
    preemption: &'a Preemption,
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnosis { nodes, unresolvable, reasons, .. } = self.diagnosis;
        if *nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{nodes} nodes are available:")?;
        if let Some(conflict) = &self.diagnosis.conflict {
            write!(f, " {conflict}.")?;
        } else {
            // Sorted as text, count first, as Kubernetes does.
            let mut counted: Vec<_> = reasons.iter().map(|(text, count)| format!("{count} {text}")).collect();
            counted.sort_unstable();
            write!(f, " {}.", counted.join(", "))?;
        }
        match self.preemption {
            Preemption::Never => f.write_str(" preemption: not eligible due to preemptionPolicy=Never."),
            Preemption::Waiting => {
                f.write_str(" preemption: not eligible due to a terminating pod on the nominated node.")
            }
            Preemption::Found => Ok(()),
            Preemption::Failed(counts) => {
                let mut parts: Vec<_> = counts
                    .iter()
                    .filter(|(_, count)| **count > 0)
                    .map(|(text, count)| format!("{count} {text}"))
                    .collect();
                if *unresolvable > 0 {
                    parts.push(format!("{unresolvable} Preemption is not helpful for scheduling"));
                }
                parts.sort_unstable();
                write!(f, " preemption: 0/{nodes} nodes are available: {}.", parts.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis(nodes: usize, unresolvable: usize, reasons: &[(&str, usize)]) -> Diagnosis {
        let reasons = reasons.iter().map(|(text, count)| ((*text).to_owned(), *count)).collect();
        Diagnosis { nodes, unresolvable, reasons, ..Diagnosis::default() }
    }

    #[test]
    fn messages_read_as_kubernetes_writes_them() {
        let cpu = ("Insufficient cpu", 1);
        let affinity = ("node(s) didn't match Pod's node affinity/selector", 2);
        let failed = |counts: &[(&str, usize)]| {
            Preemption::Failed(counts.iter().map(|(text, count)| ((*text).to_owned(), *count)).collect())
        };
        let cases = [
            (diagnosis(0, 0, &[]), Preemption::Never, "no nodes available to schedule pods"),
            (
                diagnosis(3, 2, &[affinity, cpu]),
                failed(&[(Preemption::NO_VICTIMS, 1)]),
                "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector. \
                 preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
                 2 Preemption is not helpful for scheduling.",
            ),
            (
                diagnosis(2, 2, &[affinity]),
                failed(&[(Preemption::NO_VICTIMS, 0)]),
                "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. \
                 preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            ),
            (diagnosis(1, 0, &[cpu]), Preemption::Found, "0/1 nodes are available: 1 Insufficient cpu."),
            (
                diagnosis(1, 0, &[cpu]),
                Preemption::Never,
                "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
            ),
            (
                diagnosis(1, 0, &[cpu]),
                Preemption::Waiting,
                "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to a terminating pod on the \
                 nominated node.",
            ),
            (
                diagnosis(4, 1, &[("Insufficient cpu", 3), ("node(s) were unschedulable", 1)]),
                failed(&[("Insufficient cpu", 1), (Preemption::NO_VICTIMS, 2)]),
                "0/4 nodes are available: 1 node(s) were unschedulable, 3 Insufficient cpu. preemption: 0/4 nodes are \
                 available: 1 Insufficient cpu, 1 Preemption is not helpful for scheduling, \
                 2 No preemption victims found for incoming pod.",
            ),
            (
                Diagnosis { conflict: Some("pod affinity terms conflict".into()), ..diagnosis(2, 2, &[]) },
                failed(&[]),
                "0/2 nodes are available: pod affinity terms conflict. preemption: 0/2 nodes are available: \
                 2 Preemption is not helpful for scheduling.",
            ),
        ];
        for (diagnosis, preemption, expected) in cases {
            assert_eq!(diagnosis.message(&preemption), expected);
        }
    }
}
