//! `VolumeRestrictions`: a claim with the access mode `ReadWriteOncePod` is used by one pod at a time, in the whole cluster.
//! Where the pod that uses it stands, its going would help.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;
use crate::core::resources::Demand;

/// The rule.
pub struct Exclusive;

impl Rule for Exclusive {
    fn plugin(&self) -> Plugin {
        Plugin::VolumeRestrictions
    }

    fn scope(&self) -> Scope {
        Scope::Usage
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, _slot: u32, reasons: &mut Vec<Reason>) -> bool {
        if !fits(candidate.demand, nodes) {
            reasons.push(Reason::ClaimInUse);
        }
        false
    }
}

/// Does nobody use any of the claims that the pod wants for itself?
pub fn fits(demand: &Demand, nodes: &Nodes) -> bool {
    !demand.exclusive.iter().any(|claim| nodes.is_in_use(claim))
}
