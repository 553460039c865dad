//! `TaintToleration`: `NoSchedule` and `NoExecute` taints must be tolerated; `PreferNoSchedule`
//! taints that are not count against a node's score.

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::bitset::Bitset;
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;
use crate::core::spec::{ClassSpec, Effect, Taint, Toleration};

/// The rule.
pub struct Taints;

impl Rule for Taints {
    fn plugin(&self) -> Plugin {
        Plugin::TaintToleration
    }

    fn scope(&self) -> Scope {
        Scope::Static
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        if nodes.spec(slot).is_some_and(|node| !accepts(&candidate.spec.tolerations, &node.taints)) {
            reasons.push(Reason::Taint);
        }
        true
    }

    fn narrow(&self, candidate: Candidate<'_>, nodes: &Nodes, eligible: &mut Bitset) {
        for (taints, slots) in nodes.postings().taint_sets() {
            if !accepts(&candidate.spec.tolerations, taints) {
                slots.iter().for_each(|slot| eligible.remove(*slot));
            }
        }
    }
}

/// Are all taints that keep pods away tolerated?
pub fn accepts(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    taints
        .iter()
        .filter(|taint| taint.effect != Effect::PreferNoSchedule)
        .all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// How many `PreferNoSchedule` taints are not tolerated.
pub fn intolerable(spec: &ClassSpec, taints: &[Taint]) -> u32 {
    taints
        .iter()
        .filter(|taint| taint.effect == Effect::PreferNoSchedule)
        .filter(|taint| !spec.tolerations.iter().any(|toleration| tolerates(toleration, taint)))
        .count() as u32
}

/// Does the toleration match the taint?
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    toleration.effect.is_none_or(|effect| effect == taint.effect)
        && (toleration.key.is_empty() || toleration.key == taint.key)
        && (toleration.exists || toleration.value == taint.value)
}
