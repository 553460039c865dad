//! `metadata.managedFields`: who owns which fields.
//!
//! In: the entries as they stand in an object. Out: one set of fields per manager, and the entries again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::fieldset::FieldSet;
use crate::error::quote;
use crate::meta;

/// How many managers from updates an object keeps; the oldest beyond that are merged.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The manager that stands for merged old updates.
const ANCIENT: &str = "ancient-changes";

/// How a manager sets fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Who a manager is. An applier is the same one in whichever version it applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ManagerId {
    pub manager: String,
    pub operation: Operation,
    /// Empty for an applier.
    api_version: String,
    pub subresource: String,
}

impl ManagerId {
    pub fn new(manager: &str, operation: Operation, api_version: &str, subresource: Option<&str>) -> Self {
        ManagerId {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => api_version.to_owned(),
            },
            subresource: subresource.unwrap_or_default().to_owned(),
        }
    }

    /// The manager as a conflict names it: `"kubectl-client-side-apply" using apps/v1`.
    pub fn shown(&self) -> String {
        let mut text = quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// What one manager owns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Owned {
    pub fields: FieldSet,
    /// The version its field names belong to.
    pub api_version: String,
    /// When it last changed something, as written.
    pub time: Option<String>,
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Managed {
    pub entries: BTreeMap<ManagerId, Owned>,
}

impl Managed {
    /// Reads the entries of an object; an absent list is empty.
    pub fn decode(object: &Value) -> Result<Managed, String> {
        Managed::decode_list(meta::get(object, &["metadata", "managedFields"]))
    }

    /// Reads a list of entries.
    pub fn decode_list(list: Option<&Value>) -> Result<Managed, String> {
        let list = match list {
            None => return Ok(Managed::default()),
            Some(Value::Array(list)) => list,
            Some(_) => return Err("managedFields must be a list".to_owned()),
        };
        let mut managed = Managed::default();
        for (i, entry) in list.iter().enumerate() {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => return Err(format!("invalid fieldsType {} in managed fields entry {i}", quote(other))),
            }
            let fields = match entry.get("fieldsV1") {
                None | Some(Value::Null) => FieldSet::new(),
                Some(fields) => FieldSet::from_value(fields).map_err(|e| format!("error decoding set: {e}"))?,
            };
            let mut id = ManagerId::new(text("manager"), operation, api_version, Some(text("subresource")));
            id.manager = text("manager").to_owned();
            let time = entry.get("time").and_then(Value::as_str).map(str::to_owned);
            managed.entries.insert(id, Owned { fields, api_version: api_version.to_owned(), time });
        }
        Ok(managed)
    }

    /// Writes the entries into an object, in Kubernetes' order: appliers first, then by time.
    pub fn encode(self, object: &mut Value) {
        let mut entries: Vec<(ManagerId, Owned)> = self.entries.into_iter().collect();
        let key = |(id, owned): &(ManagerId, Owned)| (id.operation, seconds(owned.time.as_deref()), id.manager.clone());
        entries.sort_by(|a, b| {
            let rest = |(id, owned): &(ManagerId, Owned)| (owned.api_version.clone(), id.subresource.clone());
            key(a).cmp(&key(b)).then_with(|| rest(a).cmp(&rest(b)))
        });
        if entries.is_empty() {
            strip(object);
            return;
        }
        let list = entries.into_iter().map(|(id, owned)| {
            let mut entry = Map::new();
            let mut put = |name: &str, text: &str| {
                if !text.is_empty() {
                    entry.insert(name.to_owned(), Value::from(text));
                }
            };
            put("manager", &id.manager);
            put("operation", id.operation.as_str());
            put("apiVersion", &owned.api_version);
            put("time", owned.time.as_deref().unwrap_or_default());
            put("fieldsType", "FieldsV1");
            put("subresource", &id.subresource);
            entry.insert("fieldsV1".to_owned(), owned.fields.to_value());
            Value::Object(entry)
        });
        let list = Value::Array(list.collect());
        meta::metadata_mut(object).insert("managedFields".to_owned(), list);
    }

    /// Takes fields away from every manager but one. Managers left with nothing go.
    pub fn take_from_others(&mut self, taker: Option<&ManagerId>, fields: &FieldSet) {
        for (id, owned) in &mut self.entries {
            if Some(id) != taker {
                owned.fields.subtract(fields);
            }
        }
        self.entries.retain(|_, owned| !owned.fields.is_empty());
    }

    /// Merges the oldest managers from updates until no more than ten are left.
    pub fn cap(&mut self) {
        let mut updaters: Vec<ManagerId> =
            self.entries.keys().filter(|id| id.operation == Operation::Update).cloned().collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        updaters.sort_by_cached_key(|id| (seconds(self.entries[id].time.as_deref()), id.clone()));
        let mut first_of: BTreeMap<String, ManagerId> = BTreeMap::new();
        for id in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                return;
            }
            let version = id.api_version.clone();
            // The first of a version only marks it: merging it alone would gain nothing.
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, id);
                continue;
            };
            let bucket = ManagerId::new(ANCIENT, Operation::Update, &version, None);
            if !self.entries.contains_key(&bucket)
                && let Some(owned) = self.entries.remove(first)
            {
                self.entries.insert(bucket.clone(), owned);
            }
            if id == bucket {
                continue;
            }
            let Some(merged) = self.entries.remove(&id) else { continue };
            if let Some(ancient) = self.entries.get_mut(&bucket) {
                ancient.fields = std::mem::take(&mut ancient.fields).union(merged.fields);
                ancient.time = merged.time;
            }
            count -= 1;
        }
    }
}

/// Takes `metadata.managedFields` out of an object.
pub(super) fn strip(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata").and_then(Value::as_object_mut).and_then(|metadata| metadata.remove("managedFields"))
}

/// Whether a request asks for its managedFields to be forgotten: by an empty list, or by one empty entry.
pub(super) fn is_reset(object: &Value) -> bool {
    match meta::get(object, &["metadata", "managedFields"]) {
        Some(Value::Array(list)) => match list.as_slice() {
            [] => true,
            [only] => only.as_object().is_some_and(Map::is_empty),
            _ => false,
        },
        _ => false,
    }
}

fn seconds(time: Option<&str>) -> i64 {
    time.and_then(|t| t.parse::<Timestamp>().ok()).map_or(0, Timestamp::as_second)
}
