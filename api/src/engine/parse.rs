//! Reads a request body: JSON or YAML text into a value, with the fields that occur twice.
//!
//! In: bytes of any kind. Out: a [`Value`] (the last of several equal keys counts, as in Kubernetes) and the paths of
//! duplicates, or what is wrong with the text. Nesting, aliases and nodes are bounded.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{BodyFormat, yaml};
use crate::error::quote;

/// How many duplicates are told; as in Kubernetes.
pub(super) const DUPLICATES_MAX: usize = 100;
/// A body that was read.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The document.
    pub value: Value,
    /// Paths of fields that occur more than once.
    pub duplicates: Vec<String>,
    /// The same as Kubernetes' reader of YAML tells it, by line; none where the text was read as JSON.
    pub repeated_lines: Vec<String>,
}

/// Reads a body. The error is the text after Kubernetes' introduction.
pub fn parse(body: &[u8], format: BodyFormat) -> Result<Parsed, String> {
    match format {
        BodyFormat::Json => json(body).map_err(|error| json_error(body, &error)),
        BodyFormat::Yaml => {
            // Clients send JSON as YAML, too (kubectl apply --server-side does).
            let looks_like_json = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
            let mut parsed = match looks_like_json.then(|| json(body)) {
                Some(Ok(parsed)) => parsed,
                _ => yaml::parse(body)?,
            };
            if !parsed.duplicates.is_empty() {
                parsed.repeated_lines = yaml::repeated_lines(body);
            }
            Ok(parsed)
        }
        BodyFormat::Protobuf => Err("this body is read by its schema only".to_owned()),
    }
}

fn json(body: &[u8]) -> Result<Parsed, serde_json::Error> {
    let mut parsed = Parsed::default();
    let mut path = String::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Seed { path: &mut path, duplicates: &mut parsed.duplicates, visited: &mut None, whole_floats: false };
    parsed.value = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(parsed)
}

/// The paths of a JSON text's fields in the order in which they stand there; one that stands there twice comes twice.
pub fn fields_in_order(body: &[u8]) -> Vec<String> {
    let mut visited = Some(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed =
        Seed { path: &mut String::new(), duplicates: &mut Vec::new(), visited: &mut visited, whole_floats: false };
    // What stands before an error is in order, too; whoever asks has read the text already.
    let _ = seed.deserialize(&mut deserializer);
    visited.unwrap_or_default()
}

/// A JSON error in the words of Go's decoder, as far as they can be told.
fn json_error(body: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    if !error.is_syntax() {
        return error.to_string();
    }
    let line_start =
        body.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    let at = line_start + error.column().saturating_sub(1);
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    match body.get(at).map(|b| *b as char) {
        Some(c) if what == "expected value" => format!("invalid character '{c}' looking for beginning of value"),
        Some(c) if what.starts_with("key must be") => {
            format!("invalid character '{c}' looking for beginning of object key string")
        }
        Some(c) if what.starts_with("expected `:`") => format!("invalid character '{c}' after object key"),
        Some(c) if what.starts_with("trailing char") => format!("invalid character '{c}' after top-level value"),
        Some(c) if what.contains("`}`") => format!("invalid character '{c}' after object key:value pair"),
        Some(c) if what.contains("`]`") => format!("invalid character '{c}' after array element"),
        _ => text,
    }
}

/// A body's beginning, as Kubernetes shows a body it can't make sense of.
pub fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let cut = &body[..body.len().min(MAX)];
    let more = if body.len() > MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(cut)),
        Some(_) => {
            let hex: String = cut.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// The strict-decoding text of a duplicate.
pub fn duplicate_text(path: &str) -> String {
    format!("duplicate field {}", quote(path))
}

/// Reads a value and notes the fields that occur twice.
pub(super) struct Seed<'s> {
    pub path: &'s mut String,
    pub duplicates: &'s mut Vec<String>,
    /// Every field's path in the order of the text, if somebody asks.
    pub visited: &'s mut Option<Vec<String>>,
    /// YAML does not tell 1 from 1.0 once it is JSON, as Kubernetes converts it.
    pub whole_floats: bool,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if self.whole_floats && value.fract() == 0.0 && value.abs() < 9.0e15 {
            return Ok(Value::from(value as i64));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<Value, E> {
        String::from_utf8(value.to_vec()).map(Value::String).map_err(|_| E::custom("a text is not UTF-8"))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        let length = self.path.len();
        loop {
            fmt::Write::write_fmt(self.path, format_args!("[{}]", items.len())).map_err(A::Error::custom)?;
            let (path, duplicates, visited) = (&mut *self.path, &mut *self.duplicates, &mut *self.visited);
            let seed = Seed { path, duplicates, visited, whole_floats: self.whole_floats };
            let item = seq.next_element_seed(seed)?;
            self.path.truncate(length);
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let length = self.path.len();
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(&key);
            if let Some(visited) = self.visited {
                visited.push(self.path.clone());
            }
            let known = map.contains_key(&key);
            if known && self.duplicates.len() < DUPLICATES_MAX && !self.duplicates.contains(self.path) {
                self.duplicates.push(self.path.clone());
            }
            let (path, duplicates, visited) = (&mut *self.path, &mut *self.duplicates, &mut *self.visited);
            let seed = Seed { path, duplicates, visited, whole_floats: self.whole_floats };
            let value = entries.next_value_seed(seed)?;
            self.path.truncate(length);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Keys are text; YAML's numbers and booleans are written as such.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok("null".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn duplicates_are_told_by_path_and_the_last_counts() {
        let parsed = parse(br#"{"a":1,"b":[{"c":1,"c":2}],"a":3}"#, BodyFormat::Json).unwrap();
        assert_eq!(parsed.duplicates, ["b[0].c", "a"]);
        assert_eq!(parsed.value, json!({"a": 3, "b": [{"c": 2}]}));
        let yaml = parse(b"a: 1\nb:\n- c: 1\n  c: 2\n", BodyFormat::Yaml).unwrap();
        assert_eq!(yaml.duplicates, ["b[0].c"]);
        assert_eq!(yaml.repeated_lines, ["line 4: key \"c\" already set in map"]);
        assert_eq!(yaml.value, json!({"a": 1, "b": [{"c": 2}]}));
    }

    #[test]
    fn yaml_reads_as_kubernetes_reads_it() {
        let text = b"mode: 0644\nratio: 1.0\ntext: '1'\nnothing: ~\nlist: [a, 2, true]\nanchor: &x {a: 1}\nalias: *x\n1: one\n";
        let parsed = parse(text, BodyFormat::Yaml).unwrap();
        assert_eq!(
            parsed.value,
            json!({"mode": 420, "ratio": 1, "text": "1", "nothing": null, "list": ["a", 2, true],
                   "anchor": {"a": 1}, "alias": {"a": 1}, "1": "one"})
        );
    }

    #[test]
    fn malformed_bodies_are_told_as_go_tells_them() {
        let cases: [(&[u8], &str); 5] = [
            (b"", "unexpected end of JSON input"),
            (b"{\"a\":", "unexpected end of JSON input"),
            (b"x", "invalid character 'x' looking for beginning of value"),
            (b"{} x", "invalid character 'x' after top-level value"),
            (b"{\"a\":1 x}", "invalid character 'x' after object key:value pair"),
        ];
        for (body, message) in cases {
            assert_eq!(parse(body, BodyFormat::Json).unwrap_err(), message);
        }
        let yaml = parse(b"a: b: c\n  - d", BodyFormat::Yaml).unwrap_err();
        assert!(yaml.starts_with("error converting YAML to JSON: yaml: "), "{yaml}");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let before = vec![format!("*a{}", level - 1); 10].join(",");
            text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(parse(text.as_bytes(), BodyFormat::Yaml).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&body, BodyFormat::Json);
            let _ = parse(&body, BodyFormat::Yaml);
        }

        #[test]
        fn no_yaml_like_text_makes_it_panic(text in "[ \\n:{}\\[\\]&*!|>'\"a-c0-9,#?-]{0,120}") {
            let _ = parse(text.as_bytes(), BodyFormat::Yaml);
            let _ = parse(text.as_bytes(), BodyFormat::Json);
        }
    }
}
