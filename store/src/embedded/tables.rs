//! Changes of the tables of the embedded engine's file ([`schema`]). In: the operations of a transaction and its revision. Out: the
//! tables as they are after it, and its events; or the conflict that kept it from happening.

use bytes::Bytes;
use redb::{ReadableTable, Table, WriteTransaction};

use super::engine_error;
use super::schema::{self, KEYS, LOG, Place, Position, REPLACED, VALUES};
use crate::{Error, Event, EventKind, KeyValue, Op, Precondition, Revision};

/// The tables that a commit works on.
pub(super) struct Tables<'txn> {
    keys: Table<'txn, &'static str, Place>,
    values: Table<'txn, Position, &'static [u8]>,
    replaced: Table<'txn, (&'static str, Revision), Place>,
    log: Table<'txn, Position, (u8, &'static str)>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, Error> {
        Ok(Tables {
            keys: txn.open_table(KEYS).map_err(engine_error)?,
            values: txn.open_table(VALUES).map_err(engine_error)?,
            replaced: txn.open_table(REPLACED).map_err(engine_error)?,
            log: txn.open_table(LOG).map_err(engine_error)?,
        })
    }

    /// Does one transaction at `revision`: its events, or the conflict that kept it from happening.
    pub(super) fn transact(
        &mut self,
        revision: Revision,
        mut ops: Vec<Op>,
    ) -> Result<Result<Vec<Event>, Error>, Error> {
        if ops.len() == 1
            && let Some(Op::Put { precondition: Some(Precondition::Absent), .. }) = ops.first()
            && let Some(Op::Put { key, value, .. }) = ops.pop()
        {
            return self.create(revision, key, value);
        }
        let mut befores = Vec::with_capacity(ops.len());
        for op in &ops {
            let place = self.keys.get(op.key()).map_err(engine_error)?.map(|place| place.value());
            if !holds(op.precondition(), place) {
                let current = place.map(|place| self.stored(op.key(), place)).transpose()?;
                return Ok(Err(Error::Conflict { key: op.key().to_owned(), current }));
            }
            befores.push(place);
        }
        let mut events = Vec::with_capacity(ops.len());
        for (op, before) in ops.into_iter().zip(befores) {
            let prev = before.map(|place| self.stored(op.key(), place)).transpose()?;
            let event = match (op, prev) {
                (Op::Delete { .. }, None) => continue,
                (Op::Delete { .. }, Some(prev)) => {
                    self.keys.remove(prev.key.as_str()).map_err(engine_error)?;
                    let kv = KeyValue { mod_revision: revision, ..prev.clone() };
                    Event { kind: EventKind::Delete, kv, prev: Some(prev) }
                }
                (Op::Put { key, value, .. }, prev) => {
                    let create_revision = prev.as_ref().map_or(revision, |prev| prev.create_revision);
                    let place = (create_revision, revision, position(events.len()));
                    self.keys.insert(key.as_str(), place).map_err(engine_error)?;
                    self.store(place, &value)?;
                    let kv = KeyValue { key, value, create_revision, mod_revision: revision };
                    Event { kind: EventKind::Put, kv, prev }
                }
            };
            self.remember(revision, events.len(), &event, before)?;
            events.push(event);
        }
        Ok(Ok(events))
    }

    /// Stores a key that there is not, in one descent: of two that want it, nearly none meets the other.
    fn create(&mut self, revision: Revision, key: String, value: Bytes) -> Result<Result<Vec<Event>, Error>, Error> {
        let place = (revision, revision, 0);
        let there = self.keys.insert(key.as_str(), place).map_err(engine_error)?.map(|there| there.value());
        if let Some(there) = there {
            self.keys.insert(key.as_str(), there).map_err(engine_error)?;
            let current = Some(self.stored(&key, there)?);
            return Ok(Err(Error::Conflict { key, current }));
        }
        self.store(place, &value)?;
        let kv = KeyValue { key, value, create_revision: revision, mod_revision: revision };
        let event = Event { kind: EventKind::Put, kv, prev: None };
        self.remember(revision, 0, &event, None)?;
        Ok(Ok(vec![event]))
    }

    fn store(&mut self, place: Place, value: &[u8]) -> Result<(), Error> {
        self.values.insert(schema::position(place), value).map_err(engine_error)?;
        Ok(())
    }

    /// What is stored at a place.
    fn stored(&self, key: &str, place: Place) -> Result<KeyValue, Error> {
        schema::stored(&self.values, key, place)
    }

    /// Adds an event to the history.
    fn remember(
        &mut self,
        revision: Revision,
        index: usize,
        event: &Event,
        before: Option<Place>,
    ) -> Result<(), Error> {
        let key = event.kv.key.as_str();
        if let Some(before) = before {
            self.replaced.insert((key, revision), before).map_err(engine_error)?;
        }
        self.log.insert((revision, position(index)), (schema::kind_code(event.kind), key)).map_err(engine_error)?;
        Ok(())
    }

    /// Removes up to `budget` events at or before `oldest` from the history: how many, and whether some are left.
    pub(super) fn compact(&mut self, oldest: Revision, budget: usize) -> Result<(usize, bool), Error> {
        let mut dropped = Vec::new();
        for entry in self.log.range(..=(oldest, u32::MAX)).map_err(engine_error)?.take(budget) {
            let (at, change) = entry.map_err(engine_error)?;
            dropped.push((at.value(), change.value().1.to_owned()));
        }
        for (at, key) in &dropped {
            let before = self.replaced.remove((key.as_str(), at.0)).map_err(engine_error)?;
            if let Some(before) = before.map(|place| place.value()) {
                self.values.remove(schema::position(before)).map_err(engine_error)?;
            }
            self.log.remove(*at).map_err(engine_error)?;
        }
        Ok((dropped.len(), dropped.len() == budget))
    }
}

/// The position of an event in its transaction, which has at most [`crate::TXN_OPS_MAX`] of them.
fn position(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Whether a precondition holds.
fn holds(precondition: Option<Precondition>, current: Option<Place>) -> bool {
    match precondition {
        None => true,
        Some(Precondition::Absent) => current.is_none(),
        Some(Precondition::Present) => current.is_some(),
        Some(Precondition::ModRevision(revision)) => current.is_some_and(|(_, modified, _)| modified == revision),
    }
}
