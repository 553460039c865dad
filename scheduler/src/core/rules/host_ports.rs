//! `NodePorts`: a host port is free if no pod has it on the same address, or on all addresses.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;
use crate::core::resources::Demand;
use crate::core::spec::HostPort;

/// The rule.
pub struct HostPorts;

impl Rule for HostPorts {
    fn plugin(&self) -> Plugin {
        Plugin::NodePorts
    }

    fn scope(&self) -> Scope {
        Scope::Usage
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        if !fits(candidate.demand, nodes, slot) {
            reasons.push(Reason::Ports);
        }
        false
    }
}

/// Are all ports free on the node?
pub fn fits(demand: &Demand, nodes: &Nodes, slot: u32) -> bool {
    let used = nodes.ports(slot);
    demand.ports.iter().all(|wanted| !used.iter().any(|taken| conflict(wanted, taken)))
}

fn conflict(a: &HostPort, b: &HostPort) -> bool {
    let any = |port: &HostPort| port.ip == HostPort::ANY;
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || any(a) || any(b))
}
