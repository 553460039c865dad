//! Reads a request body in YAML.
//!
//! In: bytes of any kind. Out: what [`parse`](super::parse) makes of JSON, too; and, for texts whose fields occur twice, the
//! lines of the second ones, which is how Kubernetes' reader of YAML tells them. Nesting, aliases and nodes are bounded.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::parse::{DUPLICATES_MAX, Parsed, Seed};
use crate::error::quote;

/// How deep a document may nest; JSON's bound is serde_json's 128.
const DEPTH_MAX: usize = 100;
/// How many nodes a document may have once aliases are followed: far more than 3 MiB of manifest holds.
const NODES_MAX: usize = 500_000;
/// How much aliases may repeat, in events of the parser: more than a manifest with anchors does, and little enough that a
/// few hundred bytes of aliases of aliases do not keep a processor busy.
const REPLAYED_MAX: usize = 20_000;
/// Enough for the deepest document that is read, with a debugger's frames, too.
const STACK_BYTES: usize = 8 << 20;

/// Reads a document. The error is the text after Kubernetes' introduction.
pub(super) fn parse(body: &[u8]) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let read = || {
        let mut path = String::new();
        let duplicates = &mut parsed.duplicates;
        serde_saphyr::with_deserializer_from_slice_with_options(body, options(), |deserializer| {
            Seed { path: &mut path, duplicates, visited: &mut None, whole_floats: true }.deserialize(deserializer)
        })
        .map_err(|error| error.to_string())
    };
    let value = on_a_big_stack(read).unwrap_or_else(|| Err("there is no thread to read it".to_owned()));
    parsed.value = value.map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
    Ok(parsed)
}

/// `line 9: key "foo" already set in map` of every key that its map has had before, those of inner maps first.
pub(super) fn repeated_lines(body: &[u8]) -> Vec<String> {
    let read = || {
        serde_saphyr::with_deserializer_from_slice_with_options(body, options(), |deserializer| {
            Repeated::deserialize(deserializer).map(|repeated| repeated.0)
        })
    };
    on_a_big_stack(read).and_then(Result::ok).unwrap_or_default()
}

fn options() -> serde_saphyr::Options {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = DEPTH_MAX;
    budget.max_nodes = NODES_MAX;
    budget.max_documents = 1;
    serde_saphyr::options! {
        budget: Some(budget),
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED_MAX },
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// The parser recurses with large frames, and the stack of whoever asks may be small.
fn on_a_big_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("yaml".to_owned()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, work).ok().and_then(|thread| thread.join().ok())
    })
}

/// The keys below a node that occur again.
struct Repeated(Vec<String>);

impl<'de> Deserialize<'de> for Repeated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RepeatedVisitor)
    }
}

struct RepeatedVisitor;

impl RepeatedVisitor {
    fn none<E>() -> Result<Repeated, E> {
        Ok(Repeated(Vec::new()))
    }
}

impl<'de> Visitor<'de> for RepeatedVisitor {
    type Value = Repeated;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Repeated, E> {
        Self::none()
    }

    fn visit_i64<E>(self, _: i64) -> Result<Repeated, E> {
        Self::none()
    }

    fn visit_u64<E>(self, _: u64) -> Result<Repeated, E> {
        Self::none()
    }

    fn visit_f64<E>(self, _: f64) -> Result<Repeated, E> {
        Self::none()
    }

    fn visit_str<E>(self, _: &str) -> Result<Repeated, E> {
        Self::none()
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Repeated, E> {
        Self::none()
    }

    fn visit_unit<E>(self) -> Result<Repeated, E> {
        Self::none()
    }

    fn visit_none<E>(self) -> Result<Repeated, E> {
        Self::none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Repeated, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Repeated, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Repeated, A::Error> {
        let mut found = Vec::new();
        while let Some(Repeated(inner)) = seq.next_element()? {
            add(&mut found, inner);
        }
        Ok(Repeated(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Repeated, A::Error> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        while let Some(Key(key)) = entries.next_key()? {
            let value: Spanned<Repeated> = entries.next_value()?;
            add(&mut found, value.value.0);
            if seen.contains(&key) {
                add(&mut found, vec![format!("line {}: key {key} already set in map", value.referenced.line())]);
            } else {
                seen.insert(key);
            }
        }
        Ok(Repeated(found))
    }
}

fn add(found: &mut Vec<String>, more: Vec<String>) {
    let room = DUPLICATES_MAX.saturating_sub(found.len());
    found.extend(more.into_iter().take(room));
}

/// A key as Go prints it: text in quotes, other scalars bare.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<Key, E> {
        Ok(Key(quote(value)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Key, E> {
        Ok(Key("<nil>".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        assert!(!parse(text.as_bytes()).unwrap().duplicates.is_empty(), "{text}");
        repeated_lines(text.as_bytes())
    }

    #[test]
    fn a_key_that_occurs_again_is_told_with_the_line_of_its_value() {
        assert_eq!(lines("\nfoo: 1\nbar: 2\nfoo: 3\n"), ["line 4: key \"foo\" already set in map"]);
        assert_eq!(lines("foo: 1\nfoo:\n  bar: 2\n"), ["line 3: key \"foo\" already set in map"]);
        assert_eq!(
            lines("a:\n- b: 1\n  b: 2\n  b:\na: 3\n"),
            [
                "line 3: key \"b\" already set in map",
                "line 4: key \"b\" already set in map",
                "line 5: key \"a\" already set in map",
            ]
        );
        assert_eq!(lines("1: a\n1: b\n"), ["line 2: key 1 already set in map"]);
        assert_eq!(lines("{\"a\": 1,\n \"a\": 2}"), ["line 2: key \"a\" already set in map"]);
    }

    #[test]
    fn what_a_merge_brings_in_may_be_set_over() {
        let text = "base: &base {a: 1}\nuse:\n  <<: *base\n  a: 2\n";
        assert_eq!(parse(text.as_bytes()).unwrap().duplicates, [""; 0]);
        assert_eq!(repeated_lines(text.as_bytes()), [""; 0]);
    }
}
