//! What the embedded engine's file holds. Pure: no I/O.
//!
//! ```text
//! keys      key                       → where the key's value is, and since when it is and the key has been there
//! values    revision, position        → the value that this change stored
//! replaced  key, revision             → the same as in `keys`, of the value that the change at this revision replaced or removed
//! log       revision, position        → what changed: kind and key
//! meta      name                      → format version, current revision, oldest revision, number of the log
//! ```
//!
//! A value is written once, behind all others: what changes all over the file is small. The state of a key at a revision
//! R is the first place in `replaced` with a revision greater than R, or else the one in `keys`, provided it
//! was written at or before R. Compacting up to C drops the log up to C and exactly the `replaced` entries that it names, with
//! their values.

use bytes::Bytes;
use redb::{ReadableTable, TableDefinition};

use super::engine_error;
use crate::{Error, EventKind, KeyValue, Revision};

/// The version of this layout. Files of the two before are rewritten when they are opened ([`super::upgrade`]).
pub(super) const FORMAT: u64 = 3;

/// Where a value is, and its history: the revision at which its key was created, and the revision and position at which the value was
/// written.
pub(super) type Place = (Revision, Revision, u32);
/// A change: its revision, and which one it is in its transaction. Of the file's values no two have the same.
pub(super) type Position = (Revision, u32);

/// Names in [`META`].
pub(super) const META_FORMAT: &str = "format";
/// The current revision.
pub(super) const META_REVISION: &str = "revision";
/// The oldest revision that can be read.
pub(super) const META_OLDEST: &str = "oldest";

/// The number of the log whose records follow what is in the file.
pub(super) const META_LOG: &str = "log";

pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const KEYS: TableDefinition<&str, Place> = TableDefinition::new("keys");
pub(super) const VALUES: TableDefinition<Position, &[u8]> = TableDefinition::new("values");
pub(super) const REPLACED: TableDefinition<(&str, Revision), Place> = TableDefinition::new("replaced");
pub(super) const LOG: TableDefinition<Position, (u8, &str)> = TableDefinition::new("log");

/// The change that wrote the value at a place.
pub(super) fn position((_, modified, position): Place) -> Position {
    (modified, position)
}

/// What is stored at a place.
pub(super) fn stored(
    values: &impl ReadableTable<Position, &'static [u8]>,
    key: &str,
    place: Place,
) -> Result<KeyValue, Error> {
    let (create_revision, mod_revision, _) = place;
    let value = values.get(position(place)).map_err(engine_error)?;
    let value =
        value.ok_or_else(|| Error::corrupt(format!("the value of {key:?} at revision {mod_revision} is missing")))?;
    Ok(KeyValue { key: key.to_owned(), value: Bytes::copy_from_slice(value.value()), create_revision, mod_revision })
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
    fn kinds_keep_their_codes() {
        for kind in [EventKind::Put, EventKind::Delete] {
            assert_eq!(kind_of(kind_code(kind)).unwrap(), kind);
        }
        assert!(kind_of(7).is_err());
    }
}
