//! `PodOS`: a pod that says which operating system it is for goes to no node with another.
//!
//! Kubernetes leaves this to the node, which then refuses the pod for good. A node that does not say
//! what it runs is not judged.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::bitset::Bitset;
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;

/// The label that says what a node runs.
pub const LABEL: &str = "kubernetes.io/os";

/// The rule.
pub struct Os;

impl Rule for Os {
    fn plugin(&self) -> Plugin {
        Plugin::PodOs
    }

    fn scope(&self) -> Scope {
        Scope::Static
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        let Some(wanted) = &candidate.spec.os else { return true };
        if nodes.spec(slot).and_then(|node| node.labels.get(LABEL)).is_some_and(|runs| runs != wanted) {
            reasons.push(Reason::Os);
        }
        true
    }

    fn narrow(&self, candidate: Candidate<'_>, nodes: &Nodes, eligible: &mut Bitset) {
        let Some(wanted) = &candidate.spec.os else { return };
        let others: Vec<u32> = nodes.postings().with_other_value(LABEL, wanted).collect();
        others.into_iter().for_each(|slot| eligible.remove(slot));
    }
}
