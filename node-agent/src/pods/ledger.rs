//! What the pods of this node have been given of it. A pod that is to get more is given it here, or not: two that want the
//! last of something never both get it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::resources::Amounts;

/// The resources whose amounts a running pod may change.
pub const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What was given, by the pods' UIDs.
pub struct Ledger {
    given: Mutex<HashMap<String, Amounts>>,
    freed: watch::Sender<u64>,
}

/// Why a pod is not given more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Short {
    /// Others have it.
    Deferred(String),
    /// The node is too small.
    Infeasible(String),
}

impl Default for Ledger {
    fn default() -> Self {
        Self { given: Mutex::default(), freed: watch::channel(0).0 }
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Amounts>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a pod has that was let in.
    pub fn put(&self, uid: &str, amounts: Amounts) {
        self.lock().insert(uid.to_owned(), amounts);
    }

    /// A pod gives back what it had.
    pub fn release(&self, uid: &str) {
        if self.lock().remove(uid).is_some() {
            self.freed.send_modify(|times| *times += 1);
        }
    }

    /// What all pods together have, and how many they are (as `pods`).
    pub fn used(&self) -> Amounts {
        total(self.lock().values())
    }

    /// Gives a pod other amounts of what can be changed, if the node has them.
    pub fn change(&self, uid: &str, wanted: Amounts, allocatable: &Amounts) -> Result<(), Short> {
        let mut given = self.lock();
        let others = total(given.iter().filter(|(other, _)| *other != uid).map(|(_, amounts)| amounts));
        let before = given.get(uid).cloned().unwrap_or_default();
        let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(0);
        for name in RESIZABLE {
            let (requested, used) = (of(&wanted, name), of(&others, name));
            let Some(capacity) = allocatable.get(name).filter(|_| requested > of(&before, name)) else { continue };
            if requested > *capacity {
                return Err(Short::Infeasible(format!(
                    "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
                )));
            }
            if used.saturating_add(requested) > *capacity {
                return Err(Short::Deferred(format!(
                    "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
                )));
            }
        }
        let less = RESIZABLE.iter().any(|name| of(&wanted, name) < of(&before, name));
        given.insert(uid.to_owned(), wanted);
        drop(given);
        if less {
            self.freed.send_modify(|times| *times += 1);
        }
        Ok(())
    }

    /// Tells whenever something was given back.
    pub fn freed(&self) -> watch::Receiver<u64> {
        self.freed.subscribe()
    }
}

fn total<'a>(all: impl Iterator<Item = &'a Amounts>) -> Amounts {
    let mut total = Amounts::new();
    for amounts in all {
        for (name, amount) in amounts {
            let entry = total.entry(name.clone()).or_default();
            *entry = entry.saturating_add(*amount);
        }
        *total.entry("pods".into()).or_default() += 1;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(milli: i64) -> Amounts {
        Amounts::from([("cpu".into(), milli)])
    }

    #[test]
    fn what_others_have_is_waited_for_and_what_the_node_lacks_is_never_given() {
        let (ledger, node) = (Ledger::default(), cpu(1000));
        ledger.put("a", cpu(400));
        ledger.put("b", cpu(500));
        assert_eq!(ledger.used(), Amounts::from([("cpu".into(), 900), ("pods".into(), 2)]));
        let deferred = "Node didn't have enough resource: cpu, requested: 600, used: 500, capacity: 1000".to_owned();
        assert_eq!(ledger.change("a", cpu(600), &node), Err(Short::Deferred(deferred)));
        let infeasible = "Node didn't have enough capacity: cpu, requested: 1100, capacity: 1000".to_owned();
        assert_eq!(ledger.change("a", cpu(1100), &node), Err(Short::Infeasible(infeasible)));
        assert_eq!(ledger.used()["cpu"], 900);
        let freed = ledger.freed();
        assert!(!freed.has_changed().unwrap());
        assert_eq!(ledger.change("b", cpu(100), &node), Ok(()));
        assert!(freed.has_changed().unwrap());
        assert_eq!(ledger.change("a", cpu(600), &node), Ok(()));
        ledger.release("a");
        assert_eq!(ledger.used()["cpu"], 100);
    }

    #[test]
    fn less_is_given_even_where_the_node_has_become_too_small() {
        let ledger = Ledger::default();
        ledger.put("a", cpu(2000));
        assert_eq!(ledger.change("a", cpu(1500), &cpu(1000)), Ok(()));
    }
}
