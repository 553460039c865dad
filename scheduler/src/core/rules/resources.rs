//! `NodeResourcesFit`: what the pod asks for must be free on the node, one by one, and the number
//! of pods below the node's limit.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;
use crate::core::resources::{Demand, ResourceId};

/// The rule.
pub struct Fit;

impl Rule for Fit {
    fn plugin(&self) -> Plugin {
        Plugin::NodeResourcesFit
    }

    fn scope(&self) -> Scope {
        Scope::Usage
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        if !pod_fits(nodes, slot) {
            reasons.push(Reason::TooManyPods);
        }
        let mut unresolvable = false;
        for (resource, amount) in &candidate.demand.requests {
            let allocatable = nodes.allocatable(*resource, slot);
            if *amount > allocatable.saturating_sub(nodes.requested(*resource, slot)) {
                reasons.push(Reason::Insufficient(*resource));
                unresolvable |= *amount > allocatable;
            }
        }
        let (wanted, devices) = (candidate.demand.devices, nodes.devices(slot));
        if reasons.is_empty() && !devices.fits(wanted) {
            reasons.push(Reason::Devices);
            unresolvable = devices.count() < usize::from(wanted.count);
        }
        unresolvable
    }
}

fn pod_fits(nodes: &Nodes, slot: u32) -> bool {
    nodes.requested(ResourceId::PODS, slot) < nodes.allocatable(ResourceId::PODS, slot)
}

/// Why it does not fit where this much is free of what is wanted, and so many pods may be more.
pub fn reasons(wanted: &[(ResourceId, i64)], free: &[i64], places: i64) -> Vec<Reason> {
    let missing = wanted.iter().zip(free).filter(|((_, amount), free)| amount > free);
    let crowded = (places <= 0).then_some(Reason::TooManyPods);
    crowded.into_iter().chain(missing.map(|((resource, _), _)| Reason::Insufficient(*resource))).collect()
}

/// Is all that is asked for free?
#[inline]
pub fn fits(demand: &Demand, nodes: &Nodes, slot: u32) -> bool {
    pod_fits(nodes, slot)
        && (demand.devices.is_none() || nodes.devices(slot).fits(demand.devices))
        && demand.requests.iter().all(|(resource, amount)| {
            *amount <= nodes.allocatable(*resource, slot).saturating_sub(nodes.requested(*resource, slot))
        })
}
