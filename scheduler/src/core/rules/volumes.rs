//! `VolumeBinding` and `VolumeZone`: a node must reach the pod's volumes, or there must be some for it.
//!
//! Who knows the volumes says for each what a node has to be; see [`VolumeNeed`].

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::bitset::Bitset;
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;
use crate::core::selector;
use crate::core::spec::{NodeSpec, VolumeNeed, VolumeNeedKind};

/// One of the two rules.
pub struct Volumes(pub Plugin);

impl VolumeNeedKind {
    /// The rule that is about it.
    pub fn plugin(self) -> Plugin {
        match self {
            VolumeNeedKind::Zone => Plugin::VolumeZone,
            VolumeNeedKind::Reach | VolumeNeedKind::Find | VolumeNeedKind::Room | VolumeNeedKind::Gone => {
                Plugin::VolumeBinding
            }
        }
    }
}

fn met(need: &VolumeNeed, node: &NodeSpec) -> bool {
    need.terms.iter().any(|term| selector::matches(term, node))
}

impl Rule for Volumes {
    fn plugin(&self) -> Plugin {
        self.0
    }

    fn scope(&self) -> Scope {
        Scope::Static
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        let Some(node) = nodes.spec(slot) else { return true };
        for need in candidate.spec.volumes.iter().filter(|need| need.kind.plugin() == self.0) {
            let reason = Reason::Volume(need.kind);
            if !met(need, node) && !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        // How much room there is is asked only where a volume could be made at all.
        if reasons.contains(&Reason::Volume(VolumeNeedKind::Find)) {
            reasons.retain(|reason| *reason != Reason::Volume(VolumeNeedKind::Room));
        }
        true
    }

    fn narrow(&self, candidate: Candidate<'_>, nodes: &Nodes, eligible: &mut Bitset) {
        for need in candidate.spec.volumes.iter().filter(|need| need.kind.plugin() == self.0) {
            let mut any = Bitset::default();
            for term in &need.terms {
                any.union(&selector::select(term, nodes, eligible));
            }
            *eligible = any;
        }
    }
}
