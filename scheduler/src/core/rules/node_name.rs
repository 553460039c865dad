//! `NodeName`: a pod that names its node goes nowhere else.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::bitset::Bitset;
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;

/// The rule.
pub struct NodeName;

impl Rule for NodeName {
    fn plugin(&self) -> Plugin {
        Plugin::NodeName
    }

    fn scope(&self) -> Scope {
        Scope::Static
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        let wanted = candidate.spec.node_name.as_deref();
        if wanted.is_some_and(|wanted| wanted != nodes.name(slot)) {
            reasons.push(Reason::NodeName);
        }
        true
    }

    fn narrow(&self, candidate: Candidate<'_>, nodes: &Nodes, eligible: &mut Bitset) {
        if let Some(wanted) = &candidate.spec.node_name {
            eligible.intersect(&nodes.slot(wanted).into_iter().collect());
        }
    }
}
