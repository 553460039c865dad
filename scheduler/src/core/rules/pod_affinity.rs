//! `InterPodAffinity`: pods that must be near others, or must not; also the wishes of the others.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::counters::CounterId;
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;

/// The rule.
pub struct PodAffinity;

/// How a place stands to the required affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// Every term finds a pod.
    Near,
    /// Some term finds none.
    Lonely,
    /// The node lacks the label of some term.
    Nowhere,
}

impl Rule for PodAffinity {
    fn plugin(&self) -> Plugin {
        Plugin::InterPodAffinity
    }

    fn scope(&self) -> Scope {
        Scope::Places
    }

    fn refuse(&self, candidate: Candidate<'_>, _nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        let constraints = candidate.constraints;
        let nearness = constraints.affinity.iter().map(|id| nearness(candidate, *id, slot)).max();
        if !nearness.is_none_or(|nearness| accepts(candidate, nearness)) {
            reasons.push(Reason::PodAffinity);
            return true;
        }
        if constraints.anti_affinity.iter().any(|id| count(candidate, *id, slot) > 0) {
            reasons.push(Reason::PodAntiAffinity);
        } else if constraints.avoided.iter().any(|id| count(candidate, *id, slot) > 0) {
            reasons.push(Reason::Avoided);
        }
        false
    }
}

/// Does the required affinity accept a place like that? The first pod of a group that wants to be
/// together has nobody to be near to, so it may go anywhere.
pub fn accepts(candidate: Candidate<'_>, nearness: Nearness) -> bool {
    match nearness {
        Nearness::Near => true,
        Nearness::Lonely => {
            let constraints = candidate.constraints;
            constraints.affinity_to_itself
                && constraints.affinity.iter().all(|id| candidate.counters.get(*id).is_empty())
        }
        Nearness::Nowhere => false,
    }
}

/// How one required term finds a node.
pub fn nearness(candidate: Candidate<'_>, id: CounterId, slot: u32) -> Nearness {
    let counter = candidate.counters.get(id);
    match candidate.counters.topologies.domain(counter.topology, slot) {
        None => Nearness::Nowhere,
        Some(domain) if counter.in_domain(domain) > 0 => Nearness::Near,
        Some(_) => Nearness::Lonely,
    }
}

/// The count in a node's place; none without a place.
pub fn count(candidate: Candidate<'_>, id: CounterId, slot: u32) -> i64 {
    let counter = candidate.counters.get(id);
    candidate.counters.topologies.domain(counter.topology, slot).map_or(0, |domain| counter.in_domain(domain))
}
