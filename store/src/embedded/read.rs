//! Reading the embedded engine's file. In: a redb read transaction, which is a snapshot. Out: values, pages and events.

use std::ops::Bound;

use redb::{AccessGuard, Range, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::engine_error;
use super::schema::{self, KEYS, LOG, META, META_LOG, META_OLDEST, META_REVISION, Place, Position, REPLACED, VALUES};
use crate::{Error, Event, EventBatch, EventKind, KeyValue, PAGE_BYTES_MAX, Page, Revision};

/// The most log entries that one call of [`Snapshot::replay`] looks at (it finishes the last revision begun), so that a
/// replay of a long history comes in parts of bounded size.
const REPLAY_ENTRIES_MAX: usize = 2_000;
/// The same in bytes of values.
const REPLAY_BYTES_MAX: usize = 8 << 20;

/// The store at one moment.
pub(super) struct Snapshot {
    txn: ReadTransaction,
    /// The revision of that moment.
    pub(super) revision: Revision,
    /// The oldest revision whose history it has.
    pub(super) oldest: Revision,
}

/// A part of the history.
pub(super) struct Replay {
    /// The batches that have events under the prefix.
    pub(super) batches: Vec<EventBatch>,
    /// Everything up to this revision has been looked at.
    pub(super) through: Revision,
}

/// The tables that have the state of keys, now and before.
struct States {
    keys: ReadOnlyTable<&'static str, Place>,
    replaced: ReadOnlyTable<(&'static str, Revision), Place>,
    values: ReadOnlyTable<Position, &'static [u8]>,
}

impl Snapshot {
    /// The present.
    pub(super) fn take(db: &redb::Database) -> Result<Self, Error> {
        let txn = db.begin_read().map_err(engine_error)?;
        let meta = txn.open_table(META).map_err(engine_error)?;
        let number = |name: &str| -> Result<u64, Error> {
            let value = meta.get(name).map_err(engine_error)?;
            value.map(|v| v.value()).ok_or_else(|| Error::corrupt(format!("{name:?} is missing")))
        };
        let (revision, oldest) = (number(META_REVISION)?, number(META_OLDEST)?);
        drop(meta);
        Ok(Snapshot { txn, revision, oldest })
    }

    /// The number of the log whose records follow this.
    pub(super) fn log_id(&self) -> Result<u64, Error> {
        let meta = self.txn.open_table(META).map_err(engine_error)?;
        let id = meta.get(META_LOG).map_err(engine_error)?;
        id.map(|id| id.value()).ok_or_else(|| Error::corrupt("the number of the log is missing"))
    }

    /// Whether history after `revision` is complete here and it is not in the future.
    pub(super) fn check(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::FutureRevision { requested: revision, current: self.revision });
        }
        if revision < self.oldest {
            return Err(Error::Compacted { oldest: self.oldest });
        }
        Ok(())
    }

    fn states(&self) -> Result<States, Error> {
        Ok(States {
            keys: self.txn.open_table(KEYS).map_err(engine_error)?,
            replaced: self.txn.open_table(REPLACED).map_err(engine_error)?,
            values: self.txn.open_table(VALUES).map_err(engine_error)?,
        })
    }

    /// What is stored under `key`.
    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let states = self.states()?;
        let place = states.keys.get(key).map_err(engine_error)?;
        place.map(|place| states.stored(key, place.value())).transpose()
    }

    /// A page of the keys under `prefix` as they were at `at`.
    pub(super) fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let at = at.unwrap_or(self.revision);
        self.check(at)?;
        let mut page = PageBuilder { items: Vec::new(), bytes: 0, limit };
        let more = if at == self.revision {
            self.list_present(prefix, start_after, &mut page)?
        } else {
            self.list_past(prefix, start_after, at, &mut page)?
        };
        Ok(Page { items: page.items, revision: at, more })
    }

    fn list_present(&self, prefix: &str, start_after: Option<&str>, page: &mut PageBuilder) -> Result<bool, Error> {
        let states = self.states()?;
        for entry in states.keys.range::<&str>((start(prefix, start_after), Bound::Unbounded)).map_err(engine_error)? {
            let (key, place) = entry.map_err(engine_error)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            if page.is_full() {
                return Ok(true);
            }
            page.push(states.stored(key.value(), place.value())?);
        }
        Ok(false)
    }

    /// Walks `keys` and `replaced` side by side, both in key order.
    fn list_past(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Revision,
        page: &mut PageBuilder,
    ) -> Result<bool, Error> {
        let states = self.states()?;
        let keys_range =
            states.keys.range::<&str>((start(prefix, start_after), Bound::Unbounded)).map_err(engine_error)?;
        let replaced_start = match start(prefix, start_after) {
            Bound::Excluded(key) => Bound::Excluded((key, u64::MAX)),
            Bound::Included(key) => Bound::Included((key, 0)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let replaced_range =
            states.replaced.range::<(&str, Revision)>((replaced_start, Bound::Unbounded)).map_err(engine_error)?;
        let mut keys = KeysCursor::new(keys_range)?;
        let mut replaced = ReplacedCursor::new(replaced_range)?;
        loop {
            let key = match (keys.key(), replaced.key()) {
                (Some(a), Some(b)) => a.min(b).to_owned(),
                (Some(key), None) | (None, Some(key)) => key.to_owned(),
                (None, None) => return Ok(false),
            };
            if !key.starts_with(prefix) {
                return Ok(false);
            }
            let before = replaced.first_after(&key, at)?;
            let latest = keys.take(&key)?;
            if let Some(place) = before.or(latest).filter(|(_, modified, _)| *modified <= at) {
                if page.is_full() {
                    return Ok(true);
                }
                page.push(states.stored(&key, place)?);
            }
        }
    }

    /// The changes under `prefix` after revision `after` and up to `to`, from the oldest on, or the first part of them.
    pub(super) fn replay(&self, prefix: &str, after: Revision, to: Revision) -> Result<Replay, Error> {
        self.check(after)?;
        let log = self.txn.open_table(LOG).map_err(engine_error)?;
        let states = self.states()?;
        let mut batches: Vec<EventBatch> = Vec::new();
        let (mut seen, mut bytes, mut through) = (0, 0, after);
        for entry in log.range((after + 1, 0)..=(to, u32::MAX)).map_err(engine_error)? {
            let (position, change) = entry.map_err(engine_error)?;
            let (revision, _) = position.value();
            if revision != through && (seen >= REPLAY_ENTRIES_MAX || bytes >= REPLAY_BYTES_MAX) {
                return Ok(Replay { batches, through });
            }
            (seen, through) = (seen + 1, revision);
            let (code, key) = change.value();
            if !key.starts_with(prefix) {
                continue;
            }
            let event = states.event_at(schema::kind_of(code)?, key, revision)?;
            bytes += event.kv.value.len() + event.prev.as_ref().map_or(0, |kv| kv.value.len());
            match batches.last_mut() {
                Some(batch) if batch.revision == revision => batch.events.push(event),
                _ => batches.push(EventBatch { revision, events: vec![event] }),
            }
        }
        Ok(Replay { batches, through: to })
    }
}

impl States {
    /// What is stored at a place.
    fn stored(&self, key: &str, place: Place) -> Result<KeyValue, Error> {
        schema::stored(&self.values, key, place)
    }

    /// The event of `key` at `revision`, put together from what is kept.
    fn event_at(&self, kind: EventKind, key: &str, revision: Revision) -> Result<Event, Error> {
        let damaged = || Error::corrupt(format!("the log and the states of {key:?} disagree at revision {revision}"));
        let prev = self.replaced.get((key, revision)).map_err(engine_error)?;
        let prev = prev.map(|place| self.stored(key, place.value())).transpose()?;
        let kv = match kind {
            EventKind::Delete => KeyValue { mod_revision: revision, ..prev.clone().ok_or_else(damaged)? },
            EventKind::Put => {
                let mut later = self.replaced.range((key, revision + 1)..=(key, u64::MAX)).map_err(engine_error)?;
                let place = match later.next() {
                    Some(entry) => entry.map_err(engine_error)?.1,
                    None => self.keys.get(key).map_err(engine_error)?.ok_or_else(damaged)?,
                };
                self.stored(key, place.value())?
            }
        };
        if kv.mod_revision != revision {
            return Err(damaged());
        }
        Ok(Event { kind, kv, prev })
    }
}

/// Where a list begins.
fn start<'a>(prefix: &'a str, start_after: Option<&'a str>) -> Bound<&'a str> {
    match start_after {
        Some(key) if key >= prefix => Bound::Excluded(key),
        _ => Bound::Included(prefix),
    }
}

/// A page being filled.
struct PageBuilder {
    items: Vec<KeyValue>,
    bytes: usize,
    limit: usize,
}

impl PageBuilder {
    fn is_full(&self) -> bool {
        self.items.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX
    }

    fn push(&mut self, kv: KeyValue) {
        self.bytes += kv.value.len();
        self.items.push(kv);
    }
}

/// The entry a cursor stands on.
type Head<'a, K> = Option<(AccessGuard<'a, K>, Place)>;

/// The places of keys, one after another.
struct KeysCursor<'a> {
    range: Range<'a, &'static str, Place>,
    head: Head<'a, &'static str>,
}

impl<'a> KeysCursor<'a> {
    fn new(range: Range<'a, &'static str, Place>) -> Result<Self, Error> {
        let mut cursor = KeysCursor { range, head: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<(), Error> {
        let next = self.range.next().transpose().map_err(engine_error)?;
        self.head = next.map(|(key, place)| (key, place.value()));
        Ok(())
    }

    fn key(&self) -> Option<&str> {
        self.head.as_ref().map(|(key, _)| key.value())
    }

    /// The place of `key`, if it is next.
    fn take(&mut self, key: &str) -> Result<Option<Place>, Error> {
        let Some((_, place)) = self.head.as_ref().filter(|(head, _)| head.value() == key) else { return Ok(None) };
        let place = *place;
        self.advance()?;
        Ok(Some(place))
    }
}

/// The places that were replaced, one after another.
struct ReplacedCursor<'a> {
    range: Range<'a, (&'static str, Revision), Place>,
    head: Head<'a, (&'static str, Revision)>,
}

impl<'a> ReplacedCursor<'a> {
    fn new(range: Range<'a, (&'static str, Revision), Place>) -> Result<Self, Error> {
        let mut cursor = ReplacedCursor { range, head: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<(), Error> {
        let next = self.range.next().transpose().map_err(engine_error)?;
        self.head = next.map(|(key, place)| (key, place.value()));
        Ok(())
    }

    fn key(&self) -> Option<&str> {
        self.head.as_ref().map(|(key, _)| key.value().0)
    }

    /// The first place of `key` that was replaced after revision `at`; leaves the cursor behind those of `key`.
    fn first_after(&mut self, key: &str, at: Revision) -> Result<Option<Place>, Error> {
        let mut found = None;
        while let Some((head, place)) = self.head.as_ref().filter(|(head, _)| head.value().0 == key) {
            if found.is_none() && head.value().1 > at {
                found = Some(*place);
            }
            self.advance()?;
        }
        Ok(found)
    }
}
