//! `NodeUnschedulable`: a node marked unschedulable takes only pods that tolerate just that.

use super::{Candidate, Plugin, Rule, Scope, taints};
use crate::core::bitset::Bitset;
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;
use crate::core::spec::{ClassSpec, Effect, Taint};

/// The taint that stands for the mark.
pub const TAINT_KEY: &str = "node.kubernetes.io/unschedulable";

/// The rule.
pub struct Unschedulable;

impl Rule for Unschedulable {
    fn plugin(&self) -> Plugin {
        Plugin::NodeUnschedulable
    }

    fn scope(&self) -> Scope {
        Scope::Static
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        if nodes.unschedulable().contains(slot) && !tolerates(candidate.spec) {
            reasons.push(Reason::Unschedulable);
        }
        true
    }

    fn narrow(&self, candidate: Candidate<'_>, nodes: &Nodes, eligible: &mut Bitset) {
        if !tolerates(candidate.spec) {
            eligible.subtract(nodes.unschedulable());
        }
    }
}

fn tolerates(spec: &ClassSpec) -> bool {
    let mark = Taint { key: TAINT_KEY.into(), value: String::new(), effect: Effect::NoSchedule };
    spec.tolerations.iter().any(|toleration| taints::tolerates(toleration, &mark))
}
