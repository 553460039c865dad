//! `NodeVolumeLimits`: no more volumes of a driver are attached to a node than the driver says it can have. A volume counts
//! once, however many pods use it there.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;
use crate::core::resources::Demand;

/// The rule.
pub struct Attachments;

impl Rule for Attachments {
    fn plugin(&self) -> Plugin {
        Plugin::NodeVolumeLimits
    }

    fn scope(&self) -> Scope {
        Scope::Usage
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        if !fits(candidate.demand, nodes, slot) {
            reasons.push(Reason::TooManyVolumes);
        }
        false
    }
}

/// Can all volumes be attached beside those that are?
pub fn fits(demand: &Demand, nodes: &Nodes, slot: u32) -> bool {
    let Some(node) = nodes.spec(slot) else { return false };
    let is_new = |driver: &str| {
        let of_driver = demand.attachments.iter().filter(move |wanted| wanted.driver == driver);
        of_driver.filter(|wanted| !nodes.is_attached(slot, wanted)).count()
    };
    node.attach_limits.iter().all(|(driver, limit)| {
        let new = is_new(driver);
        new == 0 || {
            let there = nodes.attached(slot).filter(|attached| attached.driver == *driver).count();
            i64::try_from(there + new).is_ok_and(|sum| sum <= *limit)
        }
    })
}
