//! Node selector terms, for one node and for all nodes at once.

use std::collections::BTreeMap;

use super::bitset::Bitset;
use super::nodes::Nodes;
use super::spec::{NodeSpec, Operator, Requirement, Term};

/// The only field that a node selector may name.
pub const NAME_FIELD: &str = "metadata.name";

/// Does the node meet all of the term's requirements? An empty term matches no node.
pub fn matches(term: &Term, node: &NodeSpec) -> bool {
    !term.is_empty()
        && term.expressions.iter().all(|wanted| meets(wanted, node.labels.get(&wanted.key).map(String::as_str)))
        && term.fields.iter().all(|wanted| meets_field(wanted, &node.name))
}

/// The nodes among `among` that match the term.
pub fn select(term: &Term, nodes: &Nodes, among: &Bitset) -> Bitset {
    if term.is_empty() {
        return Bitset::default();
    }
    let mut selected = match names(term) {
        // A term that names its nodes costs as many look-ups as names.
        Some(names) => {
            let mut named: Bitset = names.iter().filter_map(|name| nodes.slot(name)).collect();
            named.intersect(among);
            named
        }
        None => among.clone(),
    };
    for wanted in &term.expressions {
        nodes.postings().narrow(wanted, &mut selected);
    }
    if !term.fields.is_empty() {
        let failing: Vec<u32> = selected
            .iter()
            .filter(|slot| !term.fields.iter().all(|wanted| meets_field(wanted, nodes.name(*slot))))
            .collect();
        for slot in failing {
            selected.remove(slot);
        }
    }
    selected
}

/// The node names that the term's fields restrict it to; `None` if they do not.
pub fn names(term: &Term) -> Option<Vec<&str>> {
    let mut lists = term
        .fields
        .iter()
        .filter(|field| field.key == NAME_FIELD && field.operator == Operator::In)
        .map(|field| &field.values);
    let first = lists.next()?;
    let rest: Vec<_> = lists.collect();
    Some(first.iter().filter(|name| rest.iter().all(|list| list.contains(name))).map(String::as_str).collect())
}

/// Do the labels meet all requirements?
pub fn meets_all(wanted: &[Requirement], labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|wanted| meets(wanted, labels.get(&wanted.key).map(String::as_str)))
}

fn meets_field(wanted: &Requirement, name: &str) -> bool {
    wanted.key == NAME_FIELD
        && match wanted.operator {
            Operator::In | Operator::NotIn => meets(wanted, Some(name)),
            _ => false,
        }
}

fn meets(wanted: &Requirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| wanted.values.iter().any(|one| one == value));
    let numbers = || -> Option<(i64, i64)> { Some((value?.parse().ok()?, wanted.values.first()?.parse().ok()?)) };
    match wanted.operator {
        Operator::In => listed(),
        Operator::NotIn => !listed(),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::Gt => numbers().is_some_and(|(value, bound)| value > bound),
        Operator::Lt => numbers().is_some_and(|(value, bound)| value < bound),
        Operator::Unknown => false,
    }
}
