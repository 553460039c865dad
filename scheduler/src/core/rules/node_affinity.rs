//! `NodeAffinity`: the node selector and the required terms must match; preferred terms that match
//! add their weights to a node's score.

use std::collections::BTreeMap;

use super::{Candidate, Plugin, Rule, Scope};
use crate::core::bitset::Bitset;
use crate::core::explain::Reason;
use crate::core::nodes::Nodes;
use crate::core::selector;
use crate::core::spec::{ClassSpec, NodeSpec, Term};

/// The rule.
pub struct NodeAffinity;

impl Rule for NodeAffinity {
    fn plugin(&self) -> Plugin {
        Plugin::NodeAffinity
    }

    fn scope(&self) -> Scope {
        Scope::Static
    }

    fn refuse(&self, candidate: Candidate<'_>, nodes: &Nodes, slot: u32, reasons: &mut Vec<Reason>) -> bool {
        if nodes.spec(slot).is_some_and(|node| !accepts(candidate.spec, node)) {
            reasons.push(Reason::NodeAffinity);
        }
        true
    }

    fn narrow(&self, candidate: Candidate<'_>, nodes: &Nodes, eligible: &mut Bitset) {
        for (key, value) in &candidate.spec.node_selector {
            eligible.intersect(&nodes.postings().with_label(key, value));
        }
        if let Some(terms) = &candidate.spec.required {
            let mut any = Bitset::default();
            for term in terms {
                any.union(&selector::select(term, nodes, eligible));
            }
            *eligible = any;
        }
    }
}

fn accepts(spec: &ClassSpec, node: &NodeSpec) -> bool {
    matches(&spec.node_selector, spec.required.as_deref(), node)
}

/// Do the selector and one of the required terms, if there are any, match the node?
pub fn matches(selector: &BTreeMap<String, String>, required: Option<&[Term]>, node: &NodeSpec) -> bool {
    selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && required.is_none_or(|terms| terms.iter().any(|term| selector::matches(term, node)))
}

/// The nodes that a required affinity names, if every term of it names some: the others need not be
/// looked at. An empty list means that the terms contradict themselves.
pub fn names(spec: &ClassSpec) -> Option<Vec<&str>> {
    let terms = spec.required.as_ref().filter(|terms| !terms.is_empty())?;
    let mut all = Vec::new();
    for term in terms {
        all.extend(selector::names(term)?);
    }
    Some(all)
}

/// Is the node one of those that the affinity names, if it does?
pub fn is_named(spec: &ClassSpec, name: &str) -> bool {
    names(spec).is_none_or(|names| names.contains(&name))
}

/// The sum of the weights of the preferred terms that match the node.
pub fn preference(spec: &ClassSpec, node: &NodeSpec) -> i64 {
    spec.preferred
        .iter()
        .filter(|preferred| selector::matches(&preferred.term, node))
        .map(|preferred| i64::from(preferred.weight))
        .sum()
}
