//! An encoded struct as its fields, for changes of a few of them: what is not changed is neither parsed nor written anew.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::write_key;
use crate::error::ApiError;

/// The keys of an encoded struct, each with its encoded value, in the order of the text.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// The fields of a struct. An error if the text is none.
    pub fn of(text: &'a [u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(text).map_err(ApiError::internal)
    }

    /// The encoded value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find_map(|(name, value)| (name == key).then_some(&**value))
    }

    /// The value of a key that has a text; empty for none.
    pub fn text(&self, key: &str) -> Result<Cow<'_, str>, ApiError> {
        let Some(value) = self.get(key) else { return Ok(Cow::Borrowed("")) };
        let Key(text) = serde_json::from_str(value).map_err(ApiError::internal)?;
        Ok(text)
    }

    /// The fields of a struct within; none where there is no such key.
    pub fn below(&self, key: &str) -> Result<Fields<'_>, ApiError> {
        match self.get(key) {
            None | Some("null") => Ok(Fields::default()),
            Some(value) => Fields::of(value.as_bytes()),
        }
    }

    /// Gives a key an encoded value. A new key takes its place among the others, which are sorted.
    pub fn set(&mut self, key: &str, value: String) {
        if let Some((_, old)) = self.0.iter_mut().find(|(name, _)| name == key) {
            *old = Cow::Owned(value);
            return;
        }
        let place = self.0.partition_point(|(name, _)| &**name < key);
        self.0.insert(place, (Cow::Owned(key.to_owned()), Cow::Owned(value)));
    }

    /// Takes a key away.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    /// The struct, encoded.
    pub fn encoded(&self) -> String {
        let length = self.0.iter().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>();
        let mut out = Vec::with_capacity(length + 2);
        out.push(b'{');
        for (key, value) in &self.0 {
            write_key(&mut out, key);
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
        String::from_utf8(out).expect("texts one after the other are a text")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Struct;

        impl<'de> Visitor<'de> for Struct {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(32);
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    fields.push((key, Cow::Borrowed(value.get())));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Struct)
    }
}

/// A text, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(""))
            }
        }

        deserializer.deserialize_any(Text).map(Key)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_changed_stays_as_it_was_written() {
        let text = r#"{"a":1.50,"c":{"x":[1, 2]},"d\n":"\u00e4"}"#;
        let mut fields = Fields::of(text.as_bytes()).unwrap();
        assert_eq!(fields.encoded(), text);
        fields.set("b", "null".into());
        fields.set("c", "[]".into());
        assert_eq!(fields.encoded(), r#"{"a":1.50,"b":null,"c":[],"d\n":"\u00e4"}"#);
        assert_eq!((fields.text("d\n").unwrap().as_ref(), fields.text("x").unwrap().as_ref()), ("ä", ""));
        fields.set("a", "2".into());
        fields.remove("d\n");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&fields.encoded()).unwrap(),
            json!({"a": 2, "b": null, "c": []})
        );
        assert!(fields.text("c").is_err() && fields.below("a").is_err());
        assert_eq!(fields.below("b").unwrap().encoded(), "{}");
    }
}
