//! How many objects of each type each namespace holds. It follows the graph, which sees every object of every type anyway, so
//! that a quota on a number costs no watch and no list of its own.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use gantry_api::policy::quota::count_name;

use super::graph::Node;

/// Told of each change: the namespace, the quota's name of the type, and whether an object went.
type Listener = Box<dyn Fn(&str, &str, bool) + Send + Sync>;

/// See the module's description. One entry a type and namespace that holds objects of it.
#[derive(Default)]
pub struct Counts {
    numbers: Mutex<HashMap<String, HashMap<String, usize>>>,
    listeners: Mutex<Vec<Listener>>,
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counts").finish_non_exhaustive()
    }
}

impl Counts {
    /// Calls `listener` on each change from now on.
    pub fn on_change(&self, listener: impl Fn(&str, &str, bool) + Send + Sync + 'static) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// How many objects of the type that quotas call `name` a namespace holds.
    pub fn get(&self, namespace: &str, name: &str) -> usize {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.get(namespace).and_then(|types| types.get(name)).copied().unwrap_or(0)
    }

    /// An object came.
    pub fn added(&self, node: &Node) {
        self.change(node, false);
    }

    /// An object went.
    pub fn removed(&self, node: &Node) {
        self.change(node, true);
    }

    fn change(&self, node: &Node, removed: bool) {
        if node.namespace.is_empty() {
            return;
        }
        let name = count_name(&node.kind.resource.group, &node.kind.resource.plural);
        {
            let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
            let types = numbers.entry(node.namespace.clone()).or_default();
            let number = types.entry(name.clone()).or_default();
            *number = if removed { number.saturating_sub(1) } else { *number + 1 };
            if *number == 0 {
                types.remove(&name);
            }
            if types.is_empty() {
                numbers.remove(&node.namespace);
            }
        }
        for listener in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(&node.namespace, &name, removed);
        }
    }
}
