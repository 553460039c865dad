//! What a store must hold after a history, kept in memory and as simple as can be; and random transactions for it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::disk::Dice;
use crate::{Event, EventKind, FIRST_REVISION, KeyValue, Op, Precondition, Revision};

/// Few keys, so that transactions meet.
const KEYS: usize = 14;

/// The state of a store and its history.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Model {
    pub(super) revision: Revision,
    pub(super) oldest: Revision,
    pub(super) current: BTreeMap<String, KeyValue>,
    /// What each revision after `oldest` changed.
    pub(super) log: BTreeMap<Revision, Vec<Event>>,
}

/// What a transaction comes to: its revision, or the key in conflict.
pub(super) type Answer = Result<Revision, String>;

impl Model {
    pub(super) fn new() -> Self {
        Model { revision: FIRST_REVISION, oldest: FIRST_REVISION, current: BTreeMap::new(), log: BTreeMap::new() }
    }

    /// Does a transaction.
    pub(super) fn txn(&mut self, ops: &[Op]) -> Answer {
        for op in ops {
            let current = self.current.get(op.key());
            let holds = match op.precondition() {
                None => true,
                Some(Precondition::Absent) => current.is_none(),
                Some(Precondition::Present) => current.is_some(),
                Some(Precondition::ModRevision(r)) => current.is_some_and(|kv| kv.mod_revision == r),
            };
            if !holds {
                return Err(op.key().to_owned());
            }
        }
        let revision = self.revision + 1;
        let events: Vec<Event> = ops.iter().filter_map(|op| self.change(revision, op)).collect();
        if !events.is_empty() {
            self.revision = revision;
            self.log.insert(revision, events);
        }
        Ok(self.revision)
    }

    fn change(&mut self, revision: Revision, op: &Op) -> Option<Event> {
        match op {
            Op::Put { key, value, .. } => {
                let prev = self.current.get(key).cloned();
                let create_revision = prev.as_ref().map_or(revision, |kv| kv.create_revision);
                let kv = KeyValue { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision };
                self.current.insert(key.clone(), kv.clone());
                Some(Event { kind: EventKind::Put, kv, prev })
            }
            Op::Delete { key, .. } => {
                let prev = self.current.remove(key)?;
                let kv = KeyValue { mod_revision: revision, ..prev.clone() };
                Some(Event { kind: EventKind::Delete, kv, prev: Some(prev) })
            }
        }
    }

    /// Drops the history before a revision.
    pub(super) fn compact(&mut self, before: Revision) {
        self.oldest = self.oldest.max(before);
        self.log = self.log.split_off(&(self.oldest + 1));
    }

    /// The state at a revision that is kept.
    pub(super) fn at(&self, revision: Revision) -> BTreeMap<String, KeyValue> {
        let mut state = self.current.clone();
        for event in self.log.range(revision + 1..).rev().flat_map(|(_, events)| events) {
            match &event.prev {
                Some(prev) => state.insert(prev.key.clone(), prev.clone()),
                None => state.remove(&event.kv.key),
            };
        }
        state
    }

    /// A transaction that may or may not hold here.
    pub(super) fn random_ops(&self, dice: &mut Dice) -> Vec<Op> {
        let mut ops: Vec<Op> = Vec::new();
        for _ in 0..1 + dice.below(4) {
            let key = format!("key/{:02}", dice.below(KEYS));
            if ops.iter().any(|op| op.key() == key) {
                continue;
            }
            let stored = self.current.get(&key).map(|kv| kv.mod_revision);
            let precondition = match (dice.below(8), stored) {
                (0..4, _) => None,
                (4, _) => Some(Precondition::Absent),
                (5, _) => Some(Precondition::Present),
                (_, Some(revision)) => Some(Precondition::ModRevision(revision)),
                (_, None) => Some(Precondition::ModRevision(self.revision)),
            };
            ops.push(if dice.once_in(4) {
                Op::Delete { key, precondition }
            } else {
                Op::Put { key, value: random_value(dice), precondition }
            });
        }
        ops
    }
}

/// Mostly a few hundred bytes; some values fill pages.
fn random_value(dice: &mut Dice) -> Bytes {
    let len = match dice.below(20) {
        0 => 0,
        1 => 6_000 + dice.below(20_000),
        _ => dice.below(400),
    };
    let byte = dice.next() as u8;
    Bytes::from(vec![byte; len])
}
