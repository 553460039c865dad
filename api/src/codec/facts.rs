//! The few facts of an object that the watch cache keeps beside its bytes.
//!
//! In: stored bytes. Out: the metadata that reads select by and the selectable fields, found in one pass over the text that
//! neither builds nor checks what it passes: whoever wrote the bytes has.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::skim::{self, Skim};
use crate::error::ApiError;
use crate::kinds::{Resource, SelectableField};
use crate::texts::Texts;

/// The selectable field that every kind has.
const NAME_FIELD: &str = "metadata.name";

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

impl ObjectFacts {
    /// The facts of an object that is like this one, but for what each has of its own.
    pub fn of_another(&self, name: &str, uid: &str) -> Self {
        let own = |label, text| if label == NAME_FIELD { name } else { text };
        Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            fields: Texts::of_sorted(self.fields.iter().map(|(label, text)| (label, own(label, text)))),
            ..self.clone()
        }
    }
}

#[derive(Default)]
struct StoredMeta<'a> {
    name: Cow<'a, str>,
    namespace: Cow<'a, str>,
    uid: Cow<'a, str>,
    labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    owners: Vec<StoredOwner>,
    deleting: bool,
    finalized: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StoredOwner {
    uid: String,
}

/// The facts of a stored object, without parsing all of it.
pub fn facts(resource: &Resource, stored: &[u8]) -> Result<ObjectFacts, ApiError> {
    let selectable = &resource.selectable_fields;
    let mut found = Found { meta: StoredMeta::default(), texts: vec![None; selectable.len()] };
    let all = mask(selectable.len().min(SELECTABLE_MAX));
    Below { fields: selectable, here: all, depth: 0 }.read(&mut Skim::of(stored)?, &mut found)?;
    let Found { meta, texts } = found;
    let mut fields: Vec<(&str, &str)> = Vec::with_capacity(2 + selectable.len());
    fields.push((NAME_FIELD, &meta.name));
    if resource.namespaced {
        fields.push(("metadata.namespace", &meta.namespace));
    }
    let value = |at: usize| texts.get(at)?.as_deref().filter(|text| !text.is_empty());
    for (at, field) in selectable.iter().enumerate() {
        let other = || selectable.iter().position(|other| Some(&*other.label) == field.or_that_of);
        let text = value(at).or_else(|| value(other()?));
        fields.push((&field.label, text.unwrap_or(&field.absent)));
    }
    // The first of one label counts, as the metadata's come first and are no kind's own.
    fields.sort_by_key(|(label, _)| *label);
    fields.dedup_by_key(|(label, _)| *label);
    Ok(ObjectFacts {
        labels: Texts::of_sorted(&meta.labels),
        fields: Texts::of_sorted(fields.iter().map(|(label, text)| (label, text))),
        owners: meta.owners.into_iter().map(|owner| owner.uid).collect(),
        deleting: meta.deleting,
        finalized: meta.finalized,
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

struct Found<'a> {
    meta: StoredMeta<'a>,
    /// By selectable field.
    texts: Vec<Option<Cow<'a, str>>>,
}

impl<'a> StoredMeta<'a> {
    fn read(skim: &mut Skim<'a>) -> Result<Self, ApiError> {
        let mut meta = StoredMeta::default();
        while let Some(key) = skim.key()? {
            match &*key {
                "name" => meta.name = whole_text(skim.value()?)?,
                "namespace" => meta.namespace = whole_text(skim.value()?)?,
                "uid" => meta.uid = whole_text(skim.value()?)?,
                "labels" => {
                    skim.enter()?;
                    while let Some(label) = skim.key()? {
                        meta.labels.insert(label, whole_text(skim.value()?)?);
                    }
                }
                "ownerReferences" => meta.owners = serde_json::from_slice(skim.value()?).map_err(ApiError::internal)?,
                "deletionTimestamp" => meta.deleting = skim.value()? != b"null",
                "finalizers" => {
                    let finalizers = serde_json::from_slice::<Vec<IgnoredAny>>(skim.value()?);
                    meta.finalized = !finalizers.map_err(ApiError::internal)?.is_empty();
                }
                _ => {
                    skim.value()?;
                }
            }
        }
        Ok(meta)
    }
}

/// A value that has to be a text.
fn whole_text(value: &[u8]) -> Result<Cow<'_, str>, ApiError> {
    skim::text(value).ok_or_else(|| ApiError::internal("a text in the metadata is none"))
}

/// A struct on the way to some selectable fields.
struct Below<'f> {
    fields: &'f [SelectableField],
    /// The fields that lie below, a bit each.
    here: u64,
    /// How many steps of their paths led here.
    depth: usize,
}

impl Below<'_> {
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

    fn read<'a>(&self, skim: &mut Skim<'a>, found: &mut Found<'a>) -> Result<(), ApiError> {
        while let Some(key) = skim.key()? {
            if self.depth == 0 && key == "metadata" {
                skim.enter()?;
                found.meta = StoredMeta::read(skim)?;
                continue;
            }
            match self.step(&key) {
                // Where a struct is expected and there is none, there are no fields.
                (here, 0) if here != 0 && skim.is_struct() => {
                    skim.enter()?;
                    Below { fields: self.fields, here, depth: self.depth + 1 }.read(skim, found)?;
                }
                (_, 0) => {
                    skim.value()?;
                }
                (_, ending) => {
                    let text = scalar(skim.value()?)?;
                    for (at, slot) in found.texts.iter_mut().enumerate().take(SELECTABLE_MAX) {
                        if ending & (1 << at) != 0 {
                            slot.clone_from(&text);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The text of a scalar; none for anything else.
fn scalar(value: &[u8]) -> Result<Option<Cow<'_, str>>, ApiError> {
    if let Some(text) = skim::text(value) {
        return Ok(Some(text));
    }
    Ok(match serde_json::from_slice(value).map_err(ApiError::internal)? {
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Number(number) => Some(match number.as_f64() {
            Some(float) if number.is_f64() => float.to_string().into(),
            _ => number.to_string().into(),
        }),
        _ => None,
    })
}
