//! What the embedded engine's file holds, and how records are encoded. Pure: no I/O.
//!
//! ```text
//! current   key                       → the latest record of each stored key
//! past      key, revision             → the record that the change at this revision replaced or removed
//! log       revision, position        → what changed: kind and key
//! meta      name                      → format version, current revision, oldest revision, number of the log
//! ```
//!
//! A value is written once when it is stored and once more only when it is replaced. The state of a key at a revision
//! R is the first record in `past` with a revision greater than R, or else the one in `current`, provided it
//! was written at or before R. Compacting up to C drops the log up to C and exactly the `past` entries that it names.

use bytes::Bytes;
use redb::TableDefinition;

use crate::{Error, EventKind, KeyValue, Revision};

/// The version of this layout. A file with another one is refused, but for [`FORMAT_WITHOUT_LOG`].
pub(super) const FORMAT: u64 = 2;
/// The version before there was a log in front of the file; such a file gets one.
pub(super) const FORMAT_WITHOUT_LOG: u64 = 1;

/// Names in [`META`].
pub(super) const META_FORMAT: &str = "format";
/// The current revision.
pub(super) const META_REVISION: &str = "revision";
/// The oldest revision that can be read.
pub(super) const META_OLDEST: &str = "oldest";

/// The number of the log whose records follow what is in the file.
pub(super) const META_LOG: &str = "log";

pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const CURRENT: TableDefinition<&str, &[u8]> = TableDefinition::new("current");
pub(super) const PAST: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("past");
pub(super) const LOG: TableDefinition<(u64, u32), (u8, &str)> = TableDefinition::new("log");

/// A record is the two revisions, little-endian, and then the value.
const HEADER_BYTES: usize = 16;

/// The record of a value.
pub(super) fn encode(create_revision: Revision, mod_revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + value.len());
    record.extend_from_slice(&create_revision.to_le_bytes());
    record.extend_from_slice(&mod_revision.to_le_bytes());
    record.extend_from_slice(value);
    record
}

/// The two revisions and the value of a record.
fn split<'a>(key: &str, record: &'a [u8]) -> Result<(Revision, Revision, &'a [u8]), Error> {
    let short = || Error::corrupt(format!("the record of {key:?} has {} bytes", record.len()));
    let (create, rest) = record.split_first_chunk::<8>().ok_or_else(short)?;
    let (modified, value) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    Ok((u64::from_le_bytes(*create), u64::from_le_bytes(*modified), value))
}

/// What a record says.
pub(super) fn decode(key: &str, record: &[u8]) -> Result<KeyValue, Error> {
    let (create_revision, mod_revision, value) = split(key, record)?;
    Ok(KeyValue { key: key.to_owned(), value: Bytes::copy_from_slice(value), create_revision, mod_revision })
}

/// An event's kind as it stands in the log.
pub(super) fn kind_code(kind: EventKind) -> u8 {
    match kind {
        EventKind::Put => 0,
        EventKind::Delete => 1,
    }
}

/// An event's kind out of the log.
pub(super) fn kind_of(code: u8) -> Result<EventKind, Error> {
    match code {
        0 => Ok(EventKind::Put),
        1 => Ok(EventKind::Delete),
        other => Err(Error::corrupt(format!("the log has an event of kind {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_what_was_put_in() {
        let record = encode(3, 9, b"value");
        let kv = decode("k", &record).unwrap();
        assert_eq!((kv.create_revision, kv.mod_revision, &kv.value[..]), (3, 9, &b"value"[..]));
        for short in 0..HEADER_BYTES {
            assert!(matches!(decode("k", &record[..short]), Err(Error::Corrupt { .. })));
        }
        assert!(decode("k", &record[..HEADER_BYTES]).unwrap().value.is_empty());
    }

    #[test]
    fn kinds_keep_their_codes() {
        for kind in [EventKind::Put, EventKind::Delete] {
            assert_eq!(kind_of(kind_code(kind)).unwrap(), kind);
        }
        assert!(kind_of(7).is_err());
    }
}
