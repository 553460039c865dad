//! Reading the embedded engine's file. In: a redb read transaction, which is a snapshot. Out: values, pages and events.

use std::ops::Bound;

use redb::{AccessGuard, Range, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::engine_error;
use super::schema::{self, CURRENT, LOG, META, META_LOG, META_OLDEST, META_REVISION, PAST};
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

type Past = ReadOnlyTable<(&'static str, u64), &'static [u8]>;
type Current = ReadOnlyTable<&'static str, &'static [u8]>;

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

    /// What is stored under `key`.
    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let current = self.txn.open_table(CURRENT).map_err(engine_error)?;
        let record = current.get(key).map_err(engine_error)?;
        record.map(|record| schema::decode(key, record.value())).transpose()
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
        let current = self.txn.open_table(CURRENT).map_err(engine_error)?;
        for entry in current.range::<&str>((start(prefix, start_after), Bound::Unbounded)).map_err(engine_error)? {
            let (key, record) = entry.map_err(engine_error)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            if page.is_full() {
                return Ok(true);
            }
            page.push(schema::decode(key.value(), record.value())?);
        }
        Ok(false)
    }

    /// Walks `current` and `past` side by side, both in key order.
    fn list_past(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Revision,
        page: &mut PageBuilder,
    ) -> Result<bool, Error> {
        let current = self.txn.open_table(CURRENT).map_err(engine_error)?;
        let past = self.txn.open_table(PAST).map_err(engine_error)?;
        let current_range =
            current.range::<&str>((start(prefix, start_after), Bound::Unbounded)).map_err(engine_error)?;
        let past_start = match start(prefix, start_after) {
            Bound::Excluded(key) => Bound::Excluded((key, u64::MAX)),
            Bound::Included(key) => Bound::Included((key, 0)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let past_range = past.range::<(&str, u64)>((past_start, Bound::Unbounded)).map_err(engine_error)?;
        let mut currents = CurrentCursor::new(current_range)?;
        let mut pasts = PastCursor::new(past_range)?;
        loop {
            let key = match (currents.key(), pasts.key()) {
                (Some(a), Some(b)) => a.min(b).to_owned(),
                (Some(key), None) | (None, Some(key)) => key.to_owned(),
                (None, None) => return Ok(false),
            };
            if !key.starts_with(prefix) {
                return Ok(false);
            }
            let replaced = pasts.first_after(&key, at)?;
            let latest = currents.take(&key)?;
            if let Some(kv) = replaced.or(latest).filter(|kv| kv.mod_revision <= at) {
                if page.is_full() {
                    return Ok(true);
                }
                page.push(kv);
            }
        }
    }

    /// The changes under `prefix` after revision `after` and up to `to`, from the oldest on, or the first part of them.
    pub(super) fn replay(&self, prefix: &str, after: Revision, to: Revision) -> Result<Replay, Error> {
        self.check(after)?;
        let log = self.txn.open_table(LOG).map_err(engine_error)?;
        let current = self.txn.open_table(CURRENT).map_err(engine_error)?;
        let past = self.txn.open_table(PAST).map_err(engine_error)?;
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
            let event = event_at(&current, &past, schema::kind_of(code)?, key, revision)?;
            bytes += event.kv.value.len() + event.prev.as_ref().map_or(0, |kv| kv.value.len());
            match batches.last_mut() {
                Some(batch) if batch.revision == revision => batch.events.push(event),
                _ => batches.push(EventBatch { revision, events: vec![event] }),
            }
        }
        Ok(Replay { batches, through: to })
    }
}

/// The event of `key` at `revision`, put together from what is kept.
fn event_at(current: &Current, past: &Past, kind: EventKind, key: &str, revision: Revision) -> Result<Event, Error> {
    let damaged = || Error::corrupt(format!("the log and the records of {key:?} disagree at revision {revision}"));
    let prev = past.get((key, revision)).map_err(engine_error)?;
    let prev = prev.map(|record| schema::decode(key, record.value())).transpose()?;
    let kv = match kind {
        EventKind::Delete => KeyValue { mod_revision: revision, ..prev.clone().ok_or_else(damaged)? },
        EventKind::Put => {
            let mut later = past.range((key, revision + 1)..=(key, u64::MAX)).map_err(engine_error)?;
            let record = match later.next() {
                Some(entry) => entry.map_err(engine_error)?.1,
                None => current.get(key).map_err(engine_error)?.ok_or_else(damaged)?,
            };
            schema::decode(key, record.value())?
        }
    };
    if kv.mod_revision != revision {
        return Err(damaged());
    }
    Ok(Event { kind, kv, prev })
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
type Head<'a, K> = Option<(AccessGuard<'a, K>, AccessGuard<'a, &'static [u8]>)>;

/// The latest records, one after another.
struct CurrentCursor<'a> {
    range: Range<'a, &'static str, &'static [u8]>,
    head: Head<'a, &'static str>,
}

impl<'a> CurrentCursor<'a> {
    fn new(range: Range<'a, &'static str, &'static [u8]>) -> Result<Self, Error> {
        let mut cursor = CurrentCursor { range, head: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.head = self.range.next().transpose().map_err(engine_error)?;
        Ok(())
    }

    fn key(&self) -> Option<&str> {
        self.head.as_ref().map(|(key, _)| key.value())
    }

    /// The record of `key`, if it is next.
    fn take(&mut self, key: &str) -> Result<Option<KeyValue>, Error> {
        let Some((head, record)) = self.head.as_ref().filter(|(head, _)| head.value() == key) else { return Ok(None) };
        let kv = schema::decode(head.value(), record.value())?;
        self.advance()?;
        Ok(Some(kv))
    }
}

/// The replaced records, one after another.
struct PastCursor<'a> {
    range: Range<'a, (&'static str, u64), &'static [u8]>,
    head: Head<'a, (&'static str, u64)>,
}

impl<'a> PastCursor<'a> {
    fn new(range: Range<'a, (&'static str, u64), &'static [u8]>) -> Result<Self, Error> {
        let mut cursor = PastCursor { range, head: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.head = self.range.next().transpose().map_err(engine_error)?;
        Ok(())
    }

    fn key(&self) -> Option<&str> {
        self.head.as_ref().map(|(key, _)| key.value().0)
    }

    /// The first record of `key` that was replaced after revision `at`; leaves the cursor behind the records of `key`.
    fn first_after(&mut self, key: &str, at: Revision) -> Result<Option<KeyValue>, Error> {
        let mut found = None;
        while let Some((head, record)) = self.head.as_ref().filter(|(head, _)| head.value().0 == key) {
            if found.is_none() && head.value().1 > at {
                found = Some(schema::decode(key, record.value())?);
            }
            self.advance()?;
        }
        Ok(found)
    }
}
