//! Keys and records as etcd has them. In: our keys, etcd's protobuf. Out: bytes to ask for, our types. Pure.

use bytes::Bytes;
use etcd_client::proto::PbKeyValue;

use crate::{Error, KeyValue, Revision};

/// What is put before every key.
#[derive(Clone, Debug)]
pub(super) struct Root(String);

impl Root {
    /// The root for a prefix from the options: it ends in a slash, so that one user's is never the start of another's.
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/');
        Root(if prefix.is_empty() { String::new() } else { format!("{prefix}/") })
    }

    /// A key, or prefix, as etcd knows it.
    pub(super) fn full(&self, key: &str) -> Vec<u8> {
        [self.0.as_bytes(), key.as_bytes()].concat()
    }

    /// A key that is never stored but lies under the root, for requests that only want to know revisions.
    pub(super) fn marker(&self) -> Vec<u8> {
        self.full("\0")
    }

    /// A record as ours.
    pub(super) fn record(&self, kv: PbKeyValue) -> Result<KeyValue, Error> {
        let foreign = |key: &[u8]| Error::corrupt(format!("etcd returned the key {:?}", String::from_utf8_lossy(key)));
        let key = kv.key.strip_prefix(self.0.as_bytes()).ok_or_else(|| foreign(&kv.key))?;
        let key = std::str::from_utf8(key).map_err(|_| foreign(&kv.key))?.to_owned();
        Ok(KeyValue {
            key,
            value: Bytes::from(kv.value),
            create_revision: revision(kv.create_revision),
            mod_revision: revision(kv.mod_revision),
        })
    }
}

/// The end of the range of all keys that start with `prefix`; all zero bytes mean "no end" to etcd.
pub(super) fn range_end(prefix: &[u8]) -> Vec<u8> {
    let Some(last) = prefix.iter().rposition(|byte| *byte < 0xff) else { return vec![0] };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

/// Where a list of `prefix` after `start_after` begins.
pub(super) fn range_start(prefix: Vec<u8>, start_after: Option<Vec<u8>>) -> Vec<u8> {
    let start = match start_after {
        Some(mut key) if key >= prefix => {
            key.push(0);
            key
        }
        _ => prefix,
    };
    // etcd takes no empty key; a zero byte comes before every other.
    if start.is_empty() { vec![0] } else { start }
}

/// A revision of etcd, which are never negative.
pub(super) fn revision(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}

/// A revision for etcd; one that etcd cannot have becomes its last.
pub(super) fn wire(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_do_not_overlap() {
        assert_eq!(Root::new("/gantry").full("pods/a"), b"/gantry/pods/a");
        assert_eq!(Root::new("/gantry/").full(""), b"/gantry/");
        assert_eq!(Root::new("").full("pods"), b"pods");
        let kv = |key: &[u8]| PbKeyValue { key: key.to_vec(), ..PbKeyValue::default() };
        let root = Root::new("/gantry");
        assert_eq!(root.record(kv(b"/gantry/a")).unwrap().key, "a");
        assert!(root.record(kv(b"/gantry2/a")).is_err());
        assert!(root.record(kv(b"/gantry/\xff")).is_err());
    }

    #[test]
    fn ranges_cover_a_prefix() {
        assert_eq!(range_end(b"a/"), b"a0");
        assert_eq!(range_end(b"a\xff"), b"b");
        assert_eq!(range_end(b""), b"\0");
        assert_eq!(range_end(b"\xff\xff"), b"\0");
        let start = |prefix: &[u8], after: Option<&[u8]>| range_start(prefix.to_vec(), after.map(<[u8]>::to_vec));
        assert_eq!(start(b"a/", None), b"a/");
        assert_eq!(start(b"a/", Some(b"a")), b"a/");
        assert_eq!(start(b"a/", Some(b"a/")), b"a/\0");
        assert_eq!(start(b"a/", Some(b"a/x")), b"a/x\0");
        assert_eq!(start(b"", None), b"\0");
    }
}
