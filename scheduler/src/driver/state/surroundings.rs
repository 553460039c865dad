//! What pods are placed among: nodes, namespaces and disruption budgets, as they come, change and go.

use std::collections::BTreeMap;

use super::super::facts::ObjectKey;
use super::State;
use crate::core::{Budget, NodeChange, NodeSpec};

impl State {
    /// A list of all nodes begins.
    pub fn nodes_relist(&mut self) {
        self.nodes.relist();
    }

    /// The list of all nodes is complete.
    pub fn nodes_listed(&mut self) {
        for node in self.nodes.listed() {
            self.node_gone(&node);
        }
    }

    /// A list of all namespaces begins.
    pub fn namespaces_relist(&mut self) {
        self.namespaces.relist();
    }

    /// The list of all namespaces is complete.
    pub fn namespaces_listed(&mut self) {
        for name in self.namespaces.listed() {
            self.namespace_gone(&name);
        }
    }

    /// A namespace is new or has changed.
    pub fn namespace_seen(&mut self, name: String, labels: BTreeMap<String, String>) {
        self.namespaces.saw(&name);
        self.note_default(&name, Some(&labels));
        self.freed |= self.engine.set_namespace(&name, labels);
    }

    /// A namespace is gone.
    pub fn namespace_gone(&mut self, name: &String) {
        self.namespaces.gone(name);
        self.note_default(name, None);
        self.freed |= self.engine.remove_namespace(name);
    }

    /// A list of all disruption budgets begins.
    pub fn budgets_relist(&mut self) {
        self.known_budgets.relist();
    }

    /// The list of all disruption budgets is complete.
    pub fn budgets_listed(&mut self) {
        for key in self.known_budgets.listed() {
            self.budget_gone(&key);
        }
    }

    /// A disruption budget is new or has changed. That lets no one in: budgets only say who goes first.
    pub fn budget_seen(&mut self, key: ObjectKey, budget: Budget) {
        self.known_budgets.saw(&key);
        self.budgets.entry(key.0).or_default().insert(key.1, budget);
    }

    /// A disruption budget is gone.
    pub fn budget_gone(&mut self, key: &ObjectKey) {
        self.known_budgets.gone(key);
        if let Some(budgets) = self.budgets.get_mut(&key.0) {
            budgets.remove(&key.1);
            if budgets.is_empty() {
                self.budgets.remove(&key.0);
            }
        }
    }

    /// A node is new or has changed.
    pub fn node_seen(&mut self, mut node: NodeSpec) -> NodeChange {
        self.nodes.saw(&node.name);
        let limits = self.storage.limits(&node.name);
        if !limits.is_empty() {
            node.attach_limits = limits;
        }
        self.set_node(node)
    }

    pub(super) fn set_node(&mut self, node: NodeSpec) -> NodeChange {
        let change = self.engine.set_node(node);
        if change.any() {
            self.capacity_changed = true;
            self.turned = self.turned.union(change.may_help());
            self.freed = true;
        }
        change
    }

    /// A node is gone. Who waits for it must look elsewhere.
    pub fn node_gone(&mut self, name: &String) {
        self.nodes.gone(name);
        self.capacity_changed = true;
        self.engine.remove_node(name);
        self.going_at = u64::MAX;
        self.left_alone.extend(self.engine.nominated_on(name));
    }
}
