//! Objects as bytes: what is stored, listed and sent to watchers.
//!
//! In: a [`Value`] once, when it is written; stored bytes ever after. Out: canonical JSON whose resourceVersion is
//! spliced in, lists as concatenations, watch frames, and the few facts the watch cache keeps.
//!
//! Stored bytes have apiVersion, kind and metadata first, so the splice finds its place near the beginning; the other
//! keys are sorted. That makes equal objects equal bytes.

mod facts;
mod fields;
mod skim;

use std::borrow::Cow;
use std::io::Write as _;

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::custom::Converter;
use crate::error::ApiError;
use crate::kinds::Resource;

pub use facts::{ObjectFacts, facts};
pub use fields::Fields;

/// Room for an object of the usual size.
const WRITTEN_BYTES: usize = 4096;
const METADATA: &[u8] = b"\"metadata\":{";

/// Canonical bytes: keys sorted, but apiVersion, kind and metadata first; without `metadata.resourceVersion`.
pub fn encode(object: &Value) -> Bytes {
    write_object(object, false)
}

/// The same bytes with the resourceVersion the object has.
pub fn encode_whole(object: &Value) -> Bytes {
    write_object(object, true)
}

fn write_object(object: &Value, keep_version: bool) -> Bytes {
    let mut out = Vec::with_capacity(WRITTEN_BYTES);
    let Value::Object(map) = object else {
        write_value(&mut out, object);
        return Bytes::from(out);
    };
    out.push(b'{');
    for key in ["apiVersion", "kind"] {
        if let Some(value) = map.get(key) {
            write_key(&mut out, key);
            write_value(&mut out, value);
        }
    }
    write_key(&mut out, "metadata");
    out.push(b'{');
    if let Some(Value::Object(metadata)) = map.get("metadata") {
        write_entries(&mut out, metadata, |key| !keep_version && key == "resourceVersion");
    }
    out.push(b'}');
    write_entries(&mut out, map, |key| matches!(key, "apiVersion" | "kind" | "metadata"));
    out.push(b'}');
    Bytes::from(out)
}

fn write_entries(out: &mut Vec<u8>, map: &Map<String, Value>, skip: impl Fn(&str) -> bool) {
    for (key, value) in map {
        if !skip(key) {
            write_key(out, key);
            write_value(out, value);
        }
    }
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_text(out, key);
    out.push(b':');
}

/// Writes a value as `serde_json` does, whose writer goes through texts byte by byte.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::String(text) => write_text(out, text),
        Value::Number(_) => serde_json::to_writer(out, value).expect("a number goes into memory"),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_value(out, item);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (at, (key, entry)) in map.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(out, key);
                out.push(b':');
                write_value(out, entry);
            }
            out.push(b'}');
        }
    }
}

/// Most texts need no escape, which is found out for many bytes at once.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    let escaped = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    if text.as_bytes().iter().fold(false, |any, byte| any | escaped(byte)) {
        return serde_json::to_writer(out, text).expect("text goes into memory");
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Parses stored bytes.
pub fn decode(stored: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(stored).map_err(ApiError::internal)
}

/// The bytes to store for an object of this version: in the storage's form, without resourceVersion.
pub fn to_storage(resource: &Resource, object: &Value) -> Result<Bytes, ApiError> {
    match &resource.conversion {
        None => Ok(encode(object)),
        Some(conversion) => Ok(encode(&conversion.to_storage(object.clone())?)),
    }
}

/// Bytes of the storage's form (with or without resourceVersion) in the form of this version.
pub fn in_version(resource: &Resource, stored: &Bytes) -> Result<Bytes, ApiError> {
    match &resource.conversion {
        None => Ok(stored.clone()),
        Some(conversion) => Ok(encode_whole(&conversion.out_of_storage(decode(stored)?)?)),
    }
}

/// Parses bytes of the storage's form into an object of this version.
pub fn decode_in_version(resource: &Resource, stored: &[u8]) -> Result<Value, ApiError> {
    let object = decode(stored)?;
    match &resource.conversion {
        None => Ok(object),
        Some(conversion) => conversion.out_of_storage(object),
    }
}

/// Stored bytes in the form that the kind has by now: those of a custom kind whose schema has changed since they were written
/// lose what it no longer knows and gain its defaults. `resource` is the stored version.
pub fn settled<'a>(resource: &Resource, stored: &'a [u8]) -> Cow<'a, [u8]> {
    let Some(custom) = &resource.custom else { return Cow::Borrowed(stored) };
    let Ok(mut object) = decode(stored) else { return Cow::Borrowed(stored) };
    let api_version = resource.api_version();
    if object.get("apiVersion").and_then(Value::as_str) != Some(api_version.as_str()) {
        if custom.converter != Converter::None {
            return Cow::Borrowed(stored);
        }
        object["apiVersion"] = Value::from(api_version);
    }
    custom.settle(&mut object);
    let bytes = encode(&object);
    if bytes == stored { Cow::Borrowed(stored) } else { Cow::Owned(bytes.to_vec()) }
}

/// Stored bytes with their resourceVersion, without parsing.
pub fn with_resource_version(stored: &[u8], revision: u64) -> Bytes {
    let mut out = Vec::with_capacity(stored.len() + stamp_len(revision));
    push_stamped(&mut out, stored, revision);
    Bytes::from(out)
}

/// What [`with_resource_version`] was given; none if it did not make these bytes.
pub fn without_resource_version(object: &[u8], revision: u64) -> Option<Bytes> {
    let at = memmem::find(object, METADATA)? + METADATA.len();
    let (head, tail) = object.split_at(at);
    let rest = tail.strip_prefix(format!("\"resourceVersion\":\"{revision}\"").as_bytes())?;
    Some(Bytes::from([head, rest.strip_prefix(b",").unwrap_or(rest)].concat()))
}

/// What a resourceVersion adds to an object, in bytes: what is kept for long is asked for in its size.
fn stamp_len(revision: u64) -> usize {
    br#""resourceVersion":"","#.len() + revision.checked_ilog10().map_or(1, |digits| digits as usize + 1)
}

fn push_stamped(out: &mut Vec<u8>, stored: &[u8], revision: u64) {
    let Some(at) = memmem::find(stored, METADATA) else { return out.extend_from_slice(stored) };
    let (head, tail) = stored.split_at(at + METADATA.len());
    let comma = if tail.first() == Some(&b'}') { "" } else { "," };
    out.extend_from_slice(head);
    write!(out, "\"resourceVersion\":\"{revision}\"{comma}").expect("text goes into memory");
    out.extend_from_slice(tail);
}

/// A list of objects: a concatenation of their bytes.
pub fn write_list(
    resource: &Resource,
    revision: u64,
    continue_token: Option<&str>,
    remaining: Option<u64>,
    items: Vec<Bytes>,
) -> ListPieces {
    let head = list_head(&resource.list_kind, &resource.api_version(), revision, continue_token, remaining);
    let commas = items.len().saturating_sub(1);
    let left = head.len() + items.iter().map(Bytes::len).sum::<usize>() + commas + LIST_TAIL.len();
    ListPieces { head, items: items.into_iter(), left }
}

/// What a list ends with.
const LIST_TAIL: &[u8] = b"]}\n";
/// A piece is this long or longer by less than an object: a list of any length is written with as much memory as this.
const PIECE_BYTES: usize = 64 << 10;

/// A list on its way out, piece by piece.
#[derive(Debug)]
pub struct ListPieces {
    /// What comes before the next object.
    head: Vec<u8>,
    items: std::vec::IntoIter<Bytes>,
    left: usize,
}

impl ListPieces {
    /// How many bytes are still to come.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether nothing is to come.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Everything that is to come.
    pub fn whole(self) -> Bytes {
        let mut out = Vec::with_capacity(self.left);
        self.for_each(|piece| out.extend_from_slice(&piece));
        Bytes::from(out)
    }
}

impl Iterator for ListPieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut out = std::mem::take(&mut self.head);
        out.reserve(self.left.min(PIECE_BYTES + PIECE_BYTES / 4));
        while out.len() < PIECE_BYTES
            && let Some(item) = self.items.next()
        {
            out.extend_from_slice(&item);
            if !self.items.as_slice().is_empty() {
                out.push(b',');
            }
        }
        if self.items.as_slice().is_empty() {
            out.extend_from_slice(LIST_TAIL);
        }
        self.left -= out.len();
        Some(Bytes::from(out))
    }
}

/// The same, of `PartialObjectMetadata`.
pub fn write_metadata_list<'a>(
    revision: u64,
    continue_token: Option<&str>,
    remaining: Option<u64>,
    items: impl Iterator<Item = &'a Bytes>,
) -> Result<Bytes, ApiError> {
    let mut out = list_head("PartialObjectMetadataList", "meta.k8s.io/v1", revision, continue_token, remaining);
    for (at, item) in items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&to_metadata_only(item)?);
    }
    out.extend_from_slice(LIST_TAIL);
    Ok(Bytes::from(out))
}

fn list_head(
    kind: &str,
    api_version: &str,
    revision: u64,
    continue_token: Option<&str>,
    remaining: Option<u64>,
) -> Vec<u8> {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), Value::from(revision.to_string()));
    if let Some(token) = continue_token {
        metadata.insert("continue".to_owned(), Value::from(token));
    }
    if let Some(remaining) = remaining {
        metadata.insert("remainingItemCount".to_owned(), Value::from(remaining));
    }
    let mut out = Vec::with_capacity(4096);
    out.push(b'{');
    write_key(&mut out, "kind");
    write_value(&mut out, &Value::from(kind));
    write_key(&mut out, "apiVersion");
    write_value(&mut out, &Value::from(api_version));
    write_key(&mut out, "metadata");
    write_value(&mut out, &Value::Object(metadata));
    write_key(&mut out, "items");
    out.push(b'[');
    out
}

/// A watch frame: `{"type": …, "object": …}` and a newline.
pub fn watch_frame(event: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + event.len() + FRAME_BYTES);
    push_frame_head(&mut out, event);
    out.extend_from_slice(object);
    out.extend_from_slice(FRAME_TAIL);
    Bytes::from(out)
}

/// The watch frame of stored bytes and, as a view into it, the object with its resourceVersion.
pub fn stamped_frame(event: &str, stored: &[u8], revision: u64) -> (Bytes, Bytes) {
    let mut out = Vec::with_capacity(stored.len() + stamp_len(revision) + event.len() + FRAME_BYTES);
    push_frame_head(&mut out, event);
    let start = out.len();
    push_stamped(&mut out, stored, revision);
    let end = out.len();
    out.extend_from_slice(FRAME_TAIL);
    let frame = Bytes::from(out);
    let object = frame.slice(start..end);
    (frame, object)
}

/// What a frame has besides the event and the object.
const FRAME_BYTES: usize = br#"{"type":"","object":"#.len() + FRAME_TAIL.len();
const FRAME_TAIL: &[u8] = b"}\n";

fn push_frame_head(out: &mut Vec<u8>, event: &str) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

/// A BOOKMARK event of a resource; `initial_events_end` marks the end of a streaming list.
pub fn bookmark(resource: &Resource, revision: u64, initial_events_end: bool) -> Bytes {
    bookmark_of(&resource.kind, &resource.api_version(), revision, initial_events_end)
}

/// A BOOKMARK event of a watch for `PartialObjectMetadata`.
pub fn metadata_bookmark(revision: u64, initial_events_end: bool) -> Bytes {
    bookmark_of("PartialObjectMetadata", "meta.k8s.io/v1", revision, initial_events_end)
}

/// A BOOKMARK event of any kind.
pub fn bookmark_of(kind: &str, api_version: &str, revision: u64, initial_events_end: bool) -> Bytes {
    let mut metadata = serde_json::json!({ "resourceVersion": revision.to_string() });
    if initial_events_end {
        metadata["annotations"] = serde_json::json!({ "k8s.io/initial-events-end": "true" });
    }
    let object = serde_json::json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata });
    watch_frame("BOOKMARK", object.to_string().as_bytes())
}

/// An ERROR event around a Status.
pub fn error_frame(status: &Value) -> Bytes {
    watch_frame("ERROR", status.to_string().as_bytes())
}

/// An object's bytes as `PartialObjectMetadata`, without parsing all of it.
pub fn to_metadata_only(object: &[u8]) -> Result<Bytes, ApiError> {
    #[derive(Deserialize)]
    struct OnlyMeta<'a> {
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
    }
    let only: OnlyMeta<'_> = serde_json::from_slice(object).map_err(ApiError::internal)?;
    let metadata = only.metadata.map_or("{}", RawValue::get);
    let mut out = Vec::with_capacity(metadata.len() + 80);
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    out.extend_from_slice(metadata.as_bytes());
    out.push(b'}');
    Ok(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kinds::Catalog;

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "7",
                "labels": {"app": "we\"b"}, "finalizers": ["a/b"], "deletionTimestamp": "2024-01-01T00:00:00Z",
                "ownerReferences": [{"uid": "rs1", "kind": "ReplicaSet"}],
            },
            "spec": {"nodeName": "n1", "hostNetwork": true, "containers": [{"name": "\"metadata\":{"}]},
            "status": {"phase": "Running"},
        })
    }

    #[test]
    fn the_version_is_left_out_and_spliced_back() {
        let stored = encode(&pod());
        assert!(stored.starts_with(b"{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{"));
        let read = with_resource_version(&stored, 42);
        let mut wanted = pod();
        wanted["metadata"]["resourceVersion"] = json!("42");
        assert_eq!(decode(&read).unwrap(), wanted);
        assert_eq!(without_resource_version(&read, 42).unwrap(), stored);
        assert_eq!(without_resource_version(&read, 43), None);
        let bare = encode(&json!({"kind": "X", "apiVersion": "v1"}));
        assert_eq!(without_resource_version(&with_resource_version(&bare, 1), 1).unwrap(), bare);
        assert_eq!(decode(&with_resource_version(&bare, 1)).unwrap()["metadata"]["resourceVersion"], "1");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ -~\t\n\u{0}-\u{1f}\u{7f}é]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_are_written_as_serde_json_writes_them(value in any_value()) {
            let mut written = Vec::new();
            write_value(&mut written, &value);
            prop_assert_eq!(String::from_utf8(written).unwrap(), value.to_string());
        }
    }

    #[test]
    fn a_frame_holds_its_object_with_the_version() {
        let stored = encode(&pod());
        let (frame, object) = stamped_frame("ADDED", &stored, u64::MAX);
        assert_eq!(object, with_resource_version(&stored, u64::MAX));
        assert_eq!(frame, watch_frame("ADDED", &object));
    }

    #[test]
    fn facts_of_objects_with_other_shapes_are_what_there_is() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("", "v1", "pods").unwrap();
        for odd in [json!({"spec": null}), json!({"spec": [1], "status": "x"}), json!({"spec": {"nodeName": {"a": 1}}})]
        {
            let found = facts(resource, &encode(&odd)).unwrap();
            assert_eq!((found.name.as_str(), &found.fields["spec.nodeName"]), ("", ""), "{odd}");
        }
        assert!(facts(resource, b"{\"metadata\":{}").is_err());
        assert!(facts(resource, b"[]").is_err());
    }

    #[test]
    fn the_source_of_an_event_that_names_none_is_who_reports_it() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("", "v1", "events").unwrap();
        let source = |event| facts(resource, &encode(&event)).unwrap().fields["source"].to_owned();
        assert_eq!(source(json!({"source": {"component": "old"}, "reportingComponent": "new"})), "old");
        assert_eq!(source(json!({"reportingComponent": "new", "source": {"component": ""}})), "new");
        assert_eq!(source(json!({"reportingComponent": "new", "source": {}})), "new");
        assert_eq!(source(json!({"source": {}})), "");
    }

    #[test]
    fn facts_are_read_from_the_bytes() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("", "v1", "pods").unwrap();
        let facts = facts(resource, &encode(&pod())).unwrap();
        assert_eq!((facts.namespace.as_str(), facts.name.as_str(), facts.uid.as_str()), ("default", "web", "u1"));
        assert_eq!(&facts.labels["app"], "we\"b");
        assert_eq!(&facts.fields["spec.nodeName"], "n1");
        assert_eq!(&facts.fields["spec.hostNetwork"], "true");
        assert_eq!(&facts.fields["status.phase"], "Running");
        assert_eq!(&facts.fields["status.podIP"], "");
        assert_eq!(facts.owners, ["rs1"]);
        assert!(facts.deleting && facts.finalized);
    }

    #[test]
    fn lists_and_frames_are_made_of_bytes() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("", "v1", "pods").unwrap();
        let item = with_resource_version(&encode(&pod()), 3);
        let items = [item.clone(), item.clone()];
        let list = decode(&write_list(resource, 9, Some("tok"), Some(5), items.to_vec()).whole()).unwrap();
        assert_eq!(list["kind"], "PodList");
        assert_eq!(list["metadata"], json!({"resourceVersion": "9", "continue": "tok", "remainingItemCount": 5}));
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
        let partial = decode(&write_metadata_list(9, None, None, items.iter()).unwrap()).unwrap();
        assert_eq!(partial["items"][0]["kind"], "PartialObjectMetadata");
        assert_eq!(partial["items"][0]["metadata"]["name"], "web");
        let frame = decode(&watch_frame("ADDED", &item)).unwrap();
        assert_eq!(frame["object"]["metadata"]["resourceVersion"], "3");
        let end = decode(&bookmark(resource, 9, true)).unwrap();
        assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    }

    #[test]
    fn a_long_list_comes_in_pieces_that_make_a_whole() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("", "v1", "configmaps").unwrap();
        let object = |size: usize| encode(&json!({"metadata": {"name": "a"}, "data": {"key": "x".repeat(size)}}));
        for (count, size) in [(0, 0), (1, 10), (1, 3 * PIECE_BYTES), (7, PIECE_BYTES), (5_000, 100)] {
            let items = vec![object(size); count];
            let pieces = write_list(resource, 9, None, None, items.clone());
            let length = pieces.len();
            let pieces: Vec<Bytes> = pieces.collect();
            assert!(pieces.iter().all(|piece| piece.len() < PIECE_BYTES + size + 200), "{count} of {size}");
            assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), length, "{count} of {size}");
            let list = decode(&pieces.concat()).unwrap();
            assert_eq!(list["items"].as_array().unwrap().len(), count);
            assert_eq!(write_list(resource, 9, None, None, items).whole(), pieces.concat());
        }
    }

    #[test]
    fn an_event_is_stored_once_and_read_in_both_versions() {
        let catalog = Catalog::builtin();
        let new = catalog.resource("events.k8s.io", "v1", "events").unwrap();
        let object = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
                            "regarding": {"name": "p"}});
        let stored = to_storage(new, &object).unwrap();
        let facts = facts(new, &stored).unwrap();
        assert_eq!(&facts.fields["regarding.name"], "p");
        let read = with_resource_version(&stored, 4);
        let back = decode(&in_version(new, &read).unwrap()).unwrap();
        assert_eq!((&back["regarding"]["name"], &back["metadata"]["resourceVersion"]), (&json!("p"), &json!("4")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), revision: u64) {
            let catalog = Catalog::builtin();
            let resource = catalog.resource("", "v1", "pods").unwrap();
            let _ = facts(resource, &body);
            let _ = to_metadata_only(&body);
            let _ = with_resource_version(&body, revision);
        }
    }
}
