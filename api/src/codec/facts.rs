//! The few facts of an object that the watch cache keeps beside its bytes.
//!
//! In: stored bytes. Out: the metadata that reads select by and the selectable fields, found in one pass over the text that
//! builds nothing of what it passes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::ApiError;
use crate::kinds::{Resource, SelectableField};
use crate::texts::Texts;

/// The few decoded fields of an object that the watch cache keeps beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectFacts {
    /// The namespace; empty for a cluster-wide kind.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
    /// Labels.
    pub labels: Texts,
    /// Selectable fields by label, with `metadata.name` and `metadata.namespace`.
    pub fields: Texts,
    /// The UIDs of its owners.
    pub owners: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether finalizers hold it.
    pub finalized: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct StoredMeta<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    labels: BTreeMap<String, String>,
    owner_references: Vec<StoredOwner>,
    deletion_timestamp: Option<IgnoredAny>,
    finalizers: Vec<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StoredOwner {
    uid: String,
}

/// The facts of a stored object, without parsing all of it.
pub fn facts(resource: &Resource, stored: &[u8]) -> Result<ObjectFacts, ApiError> {
    let mut found = Found { meta: StoredMeta::default(), texts: vec![None; resource.selectable_fields.len()] };
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    let all = resource.selectable_fields.len().min(SELECTABLE_MAX);
    let top = Below { fields: &resource.selectable_fields, here: mask(all), depth: 0, found: &mut found };
    deserializer.deserialize_map(top).and_then(|()| deserializer.end()).map_err(ApiError::internal)?;
    let Found { meta, texts } = found;
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    fields.insert("metadata.name", &meta.name);
    if resource.namespaced {
        fields.insert("metadata.namespace", &meta.namespace);
    }
    for (field, text) in resource.selectable_fields.iter().zip(&texts) {
        fields.insert(&field.label, text.as_deref().unwrap_or(&field.absent));
    }
    Ok(ObjectFacts {
        labels: Texts::from(&meta.labels),
        fields: Texts::from(&fields),
        owners: meta.owner_references.into_iter().map(|owner| owner.uid).collect(),
        deleting: meta.deletion_timestamp.is_some(),
        finalized: !meta.finalizers.is_empty(),
        namespace: meta.namespace.into_owned(),
        name: meta.name.into_owned(),
        uid: meta.uid.into_owned(),
    })
}

/// How many selectable fields are looked for: a bit each. A custom kind has eight at most, the built-in ones fewer than twenty.
const SELECTABLE_MAX: usize = 64;

fn mask(fields: usize) -> u64 {
    if fields >= SELECTABLE_MAX { u64::MAX } else { (1 << fields) - 1 }
}

struct Found<'de> {
    meta: StoredMeta<'de>,
    /// By selectable field.
    texts: Vec<Option<String>>,
}

/// A struct on the way to some selectable fields.
struct Below<'f, 'o, 'de> {
    fields: &'f [SelectableField],
    /// The fields that lie below, a bit each.
    here: u64,
    /// How many steps of their paths led here.
    depth: usize,
    found: &'o mut Found<'de>,
}

impl Below<'_, '_, '_> {
    /// The fields whose path goes on with this key, and those of them that end there.
    fn step(&self, key: &str) -> (u64, u64) {
        let (mut on, mut ending) = (0, 0);
        for (at, field) in self.fields.iter().enumerate().take(SELECTABLE_MAX) {
            if self.here & (1 << at) != 0 && field.path.segment(self.depth) == Some(key) {
                match field.path.segment(self.depth + 1) {
                    Some(_) => on |= 1 << at,
                    None => ending |= 1 << at,
                }
            }
        }
        (on, ending)
    }
}

/// What a key of [`Below`] leads to.
enum Step {
    Meta,
    On(u64),
    End(u64),
    Past,
}

struct Key<'k, 'f, 'o, 'de>(&'k Below<'f, 'o, 'de>);

impl<'de> DeserializeSeed<'de> for Key<'_, '_, '_, '_> {
    type Value = Step;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Step, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_, '_, '_> {
    type Value = Step;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Step, E> {
        if self.0.depth == 0 && key == "metadata" {
            return Ok(Step::Meta);
        }
        Ok(match self.0.step(key) {
            (0, 0) => Step::Past,
            (on, 0) => Step::On(on),
            (_, ending) => Step::End(ending),
        })
    }
}

impl<'de> DeserializeSeed<'de> for Below<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Below<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(step) = map.next_key_seed(Key(&self))? {
            match step {
                Step::Meta => self.found.meta = map.next_value()?,
                Step::On(here) => map.next_value_seed(Below {
                    fields: self.fields,
                    here,
                    depth: self.depth + 1,
                    found: &mut *self.found,
                })?,
                Step::End(ending) => {
                    let Scalar(text) = map.next_value()?;
                    for (at, slot) in self.found.texts.iter_mut().enumerate().take(SELECTABLE_MAX) {
                        if ending & (1 << at) != 0 {
                            slot.clone_from(&text);
                        }
                    }
                }
                Step::Past => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    // Where a struct is expected and there is none, there are no fields.
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// The text of a scalar; none for anything else.
struct Scalar(Option<String>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarText).map(Scalar)
    }
}

struct ScalarText;

impl<'de> Visitor<'de> for ScalarText {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
