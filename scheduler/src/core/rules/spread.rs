//! `PodTopologySpread`: no place may have many more of the counted pods than the emptiest.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::constraints::Hard;
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;

/// The rule.
pub struct Spread;

impl Rule for Spread {
    fn plugin(&self) -> Plugin {
        Plugin::PodTopologySpread
    }

    fn scope(&self) -> Scope {
        Scope::Places
    }

    fn refuse(&self, candidate: Candidate<'_>, _nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        for hard in &candidate.constraints.hard {
            let counter = candidate.counters.get(hard.counter);
            let Some(domain) = candidate.counters.topologies.domain(counter.topology, slot) else {
                reasons.push(Reason::SpreadLabel);
                return true;
            };
            if !accepts(candidate, hard, counter.in_domain(domain)) {
                reasons.push(Reason::Spread);
                return false;
            }
        }
        false
    }
}

/// May a place with this count have one more?
pub fn accepts(candidate: Candidate<'_>, hard: &Hard, count: i64) -> bool {
    let (emptiest, places) = candidate.counters.get(hard.counter).emptiest();
    let emptiest = if (places as i64) < hard.min_domains { 0 } else { emptiest };
    count + hard.itself - emptiest <= hard.max_skew
}
