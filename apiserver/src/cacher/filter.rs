//! Which objects a list or watch selects.
//!
//! In: namespace, name and selectors of a request. Out: [`Filter`], matched against [`ObjectFacts`] only, and the
//! [`Scope`] under which a watcher is indexed so that a change reaches only those that can select it.

use gantry_api::codec::ObjectFacts;
use gantry_api::selector::{FieldSelector, LabelSelector};

/// The objects a request is about.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this namespace; empty for all.
    pub namespace: String,
    /// Only this name.
    pub name: Option<String>,
    /// Only objects with such labels.
    pub labels: Option<LabelSelector>,
    /// Only objects with such fields.
    pub fields: Option<FieldSelector>,
}

/// The index bucket of a watcher: the narrowest property that all it selects has in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything.
    All,
    /// One namespace.
    Namespace(String),
    /// One object.
    Name(String, String),
    /// Pods of one node; those that wait for one are of the node without a name.
    Node(String),
}

/// The field whose equality is indexed.
pub const NODE_FIELD: &str = "spec.nodeName";

impl Filter {
    /// Whether an object is selected.
    pub fn matches(&self, facts: &ObjectFacts) -> bool {
        (self.namespace.is_empty() || self.namespace == facts.namespace)
            && self.name.as_ref().is_none_or(|name| *name == facts.name)
            && self.labels.as_ref().is_none_or(|labels| labels.matches(&facts.labels))
            && self.fields.as_ref().is_none_or(|fields| fields.matches(|field| facts.fields.get(field)))
    }

    /// Whether anything beyond the key prefix narrows the selection.
    pub fn is_selective(&self) -> bool {
        self.name.is_some() || self.labels.is_some() || self.fields.is_some()
    }

    /// The node that everything selected is on; empty if on none yet.
    pub fn node(&self) -> Option<&str> {
        self.fields.as_ref().and_then(|fields| fields.exact(NODE_FIELD))
    }

    /// Where a watcher with this filter is indexed.
    pub fn scope(&self) -> Scope {
        if let Some(name) = &self.name {
            return Scope::Name(self.namespace.clone(), name.clone());
        }
        if let Some(node) = self.node() {
            return Scope::Node(node.to_owned());
        }
        if self.namespace.is_empty() { Scope::All } else { Scope::Namespace(self.namespace.clone()) }
    }
}

/// The node an object is on, as far as its selectable fields say; empty if it waits for one, none if its kind knows no nodes.
pub fn node_of(facts: &ObjectFacts) -> Option<&str> {
    facts.fields.get(NODE_FIELD)
}
