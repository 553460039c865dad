//! Files of earlier formats of the embedded engine. In: a file that is open, as it was left. Out: the same in the present format
//! ([`schema`]), all at once.
//!
//! Format 1 had no log in front of it. Formats 1 and 2 had whole records (two revisions, little-endian, and then the value) in the place of
//! what is now a place among the values:
//!
//! ```text
//! current   key                       → the latest record of each stored key
//! past      key, revision             → the record that the change at this revision replaced or removed
//! ```

use std::collections::HashMap;

use redb::{Database, Durability, ReadableTable, Table, TableDefinition, TableHandle, WriteTransaction};

use super::schema::{self, KEYS, META, Place, Position, REPLACED, VALUES};
use super::{engine_error, handle};
use crate::{Error, Revision};

/// The version before there was a log in front of the file.
pub(super) const WITHOUT_LOG: u64 = 1;
/// The version before values had a table of their own.
pub(super) const WITH_RECORDS: u64 = 2;

const CURRENT: TableDefinition<&str, &[u8]> = TableDefinition::new("current");
const PAST: TableDefinition<(&str, Revision), &[u8]> = TableDefinition::new("past");

/// Brings a file that has a log to the present format, durably; what its log has stays to be done. Whether the file's format is one that is
/// known.
pub(super) fn with_log(db: &Database) -> Result<bool, Error> {
    match handle::format_of(db)? {
        Some(schema::FORMAT) => return Ok(true),
        Some(WITH_RECORDS) => {}
        _ => return Ok(false),
    }
    let mut txn = db.begin_write().map_err(engine_error)?;
    rewrite(&txn)?;
    let format = |txn: &WriteTransaction| -> Result<(), redb::Error> {
        txn.open_table(META)?.insert(schema::META_FORMAT, schema::FORMAT)?;
        Ok(())
    };
    format(&txn).map_err(engine_error)?;
    txn.set_quick_repair(true);
    txn.set_durability(Durability::Immediate).map_err(engine_error)?;
    txn.commit().map_err(engine_error)?;
    Ok(true)
}

/// Takes the records out of the tables that had them.
pub(super) fn rewrite(txn: &WriteTransaction) -> Result<(), Error> {
    if !txn.list_tables().map_err(engine_error)?.any(|table| table.name() == CURRENT.name()) {
        return Ok(());
    }
    let mut values = Values { table: txn.open_table(VALUES).map_err(engine_error)?, positions: HashMap::new() };
    {
        let current = txn.open_table(CURRENT).map_err(engine_error)?;
        let mut keys = txn.open_table(KEYS).map_err(engine_error)?;
        for entry in current.iter().map_err(engine_error)? {
            let (key, record) = entry.map_err(engine_error)?;
            let place = values.take(key.value(), record.value())?;
            keys.insert(key.value(), place).map_err(engine_error)?;
        }
        let past = txn.open_table(PAST).map_err(engine_error)?;
        let mut replaced = txn.open_table(REPLACED).map_err(engine_error)?;
        for entry in past.iter().map_err(engine_error)? {
            let (key, record) = entry.map_err(engine_error)?;
            let place = values.take(key.value().0, record.value())?;
            replaced.insert(key.value(), place).map_err(engine_error)?;
        }
    }
    txn.delete_table(CURRENT).map_err(engine_error)?;
    txn.delete_table(PAST).map_err(engine_error)?;
    Ok(())
}

/// The values as they come from the records.
struct Values<'txn> {
    table: Table<'txn, Position, &'static [u8]>,
    /// How many values each change has stored so far: which of its events stored which is not known any more, and does not matter.
    positions: HashMap<Revision, u32>,
}

impl Values<'_> {
    /// Stores the value of a record: where it is now.
    fn take(&mut self, key: &str, record: &[u8]) -> Result<Place, Error> {
        let short = || Error::corrupt(format!("the record of {key:?} has {} bytes", record.len()));
        let (created, rest) = record.split_first_chunk::<8>().ok_or_else(short)?;
        let (modified, value) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (created, modified) = (u64::from_le_bytes(*created), u64::from_le_bytes(*modified));
        let next = self.positions.entry(modified).or_default();
        let place = (created, modified, *next);
        *next += 1;
        self.table.insert(schema::position(place), value).map_err(engine_error)?;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use futures::StreamExt;
    use redb::ReadableDatabase;

    use super::*;
    use crate::embedded::Embedded;
    use crate::{EventBatch, Op, Options, Page, Store};

    /// Makes a file what the version before wrote.
    fn age(dir: &Path) {
        let db = Database::open(dir.join("store.redb")).unwrap();
        let now = db.begin_read().unwrap();
        let (keys, values) = (now.open_table(KEYS).unwrap(), now.open_table(VALUES).unwrap());
        let record = |place: Place| {
            let value = values.get(schema::position(place)).unwrap().unwrap();
            [&place.0.to_le_bytes(), &place.1.to_le_bytes(), value.value()].concat()
        };
        let txn = db.begin_write().unwrap();
        {
            let mut current = txn.open_table(CURRENT).unwrap();
            for entry in keys.iter().unwrap() {
                let (key, place) = entry.unwrap();
                current.insert(key.value(), record(place.value()).as_slice()).unwrap();
            }
            let mut past = txn.open_table(PAST).unwrap();
            for entry in now.open_table(REPLACED).unwrap().iter().unwrap() {
                let (key, place) = entry.unwrap();
                past.insert(key.value(), record(place.value()).as_slice()).unwrap();
            }
            txn.open_table(META).unwrap().insert(schema::META_FORMAT, WITH_RECORDS).unwrap();
        }
        txn.delete_table(KEYS).unwrap();
        txn.delete_table(VALUES).unwrap();
        txn.delete_table(REPLACED).unwrap();
        txn.commit().unwrap();
    }

    fn put(key: &str, value: &str) -> Op {
        Op::Put { key: key.to_owned(), value: Bytes::copy_from_slice(value.as_bytes()), precondition: None }
    }

    fn delete(key: &str) -> Op {
        Op::Delete { key: key.to_owned(), precondition: None }
    }

    /// All that can be read: the state at each revision, and all changes.
    async fn all(store: &Embedded) -> (Vec<Page>, Vec<EventBatch>) {
        let status = store.status().await.unwrap();
        let mut pages = Vec::new();
        for revision in status.oldest_revision..=status.revision {
            pages.push(store.list("", None, 0, Some(revision)).await.unwrap());
        }
        let mut watch = store.watch("", status.oldest_revision).await.unwrap();
        let mut changes: Vec<EventBatch> = Vec::new();
        while changes.last().map_or(status.oldest_revision, |batch| batch.revision) < status.revision {
            changes.push(watch.next().await.unwrap().unwrap());
        }
        (pages, changes)
    }

    async fn changed(store: &Embedded) {
        for ops in [
            vec![put("a", "1"), put("b", "1"), put("c", "1")],
            vec![put("b", "2")],
            vec![delete("a"), put("c", "3"), put("d", "3")],
            vec![put("a", "4"), delete("b")],
        ] {
            store.txn(ops).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_file_of_the_format_before_keeps_its_history() {
        let dir = tempfile::tempdir().unwrap();
        let open = || async { Embedded::open(dir.path(), &Options::default()).await.unwrap() };
        let store = open().await;
        changed(&store).await;
        store.compact(store.current_revision().await.unwrap() - 2).await.unwrap();
        changed(&store).await;
        let before = all(&store).await;
        store.close().await.unwrap();
        age(dir.path());
        assert!(crate::embedded::is_whole(dir.path()).await.unwrap());
        let store = open().await;
        assert_eq!(all(&store).await, before);
        // What is compacted now takes its values with it.
        let revision = store.txn(vec![delete("a"), delete("c"), delete("d")]).await.unwrap();
        store.compact(revision).await.unwrap();
        store.close().await.unwrap();
        let store = open().await;
        let (pages, changes) = all(&store).await;
        assert!(pages.iter().all(|page| page.items.is_empty()) && changes.is_empty(), "{pages:?}");
        store.close().await.unwrap();
        let db = Database::open(dir.path().join("store.redb")).unwrap();
        let txn = db.begin_read().unwrap();
        assert_eq!(txn.open_table(VALUES).unwrap().iter().unwrap().count(), 0);
        assert_eq!(txn.open_table(REPLACED).unwrap().iter().unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_only_the_log_has_is_done_in_the_file_that_was_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path(), &Options::default()).await.unwrap();
        changed(&store).await;
        store.close().await.unwrap();
        let store = Embedded::open(dir.path(), &Options::default()).await.unwrap();
        changed(&store).await;
        let before = all(&store).await;
        // As a crash leaves it: the changes since the start are in the log only.
        let crashed = tempfile::tempdir().unwrap();
        for name in ["store.redb", "store.log"] {
            std::fs::copy(dir.path().join(name), crashed.path().join(name)).unwrap();
        }
        store.close().await.unwrap();
        age(crashed.path());
        let store = Embedded::open(crashed.path(), &Options::default()).await.unwrap();
        assert_eq!(all(&store).await, before);
        store.close().await.unwrap();
    }
}
