//! A write as admission sees it: who does what to which object, and what is told about it on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use gantry_api::kinds::{Gvk, Resource};
use gantry_api::{ApiError, codec, engine, meta};
use serde_json::{Value, json};

use crate::auth::Identity;
use crate::registry::{AsOf, Caller, Current, DeleteOptions, Registry, Target};

/// How many warnings of one request are kept: more would not fit the headers that carry them.
const WARNINGS_MAX: usize = 64;
/// How many bytes all warnings of one request may have, and one of them; Kubernetes cuts at the same lengths.
const WARNING_BYTES_MAX: usize = 4096;
/// A warning that would be cut shorter than this says nothing.
const WARNING_BYTES_MIN: usize = 16;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Creates an object, or posts one to a subresource.
    Create,
    /// Changes one.
    Update,
    /// Deletes one.
    Delete,
    /// Opens a connection to one.
    Connect,
}

impl Operation {
    /// The operation as rules and reviews name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What is told about a request besides its answer.
#[derive(Debug, Default)]
pub struct Notes {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
}

impl Notes {
    /// Warns the client; the same text once.
    pub fn warn(&self, text: impl Into<String>) {
        let mut text = text.into();
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let used: usize = warnings.iter().map(String::len).sum();
        let room = WARNING_BYTES_MAX.saturating_sub(used);
        if warnings.len() >= WARNINGS_MAX || room < text.len().min(WARNING_BYTES_MIN) || warnings.contains(&text) {
            return;
        }
        if text.len() > room {
            let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
        }
        warnings.push(text);
    }

    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        let annotations = self.annotations.lock().unwrap_or_else(PoisonError::into_inner);
        annotations.is_empty() && self.warnings.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes something for the record of the request. The first value of a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut annotations = self.annotations.lock().unwrap_or_else(PoisonError::into_inner);
        annotations.entry(key.into()).or_insert_with(|| value.into());
    }

    /// What was noted for the record.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What plugins that may run twice over one object keep between the two rounds, by plugin.
#[derive(Debug, Default)]
pub struct Rounds {
    state: Mutex<RoundsState>,
}

#[derive(Debug, Default)]
struct RoundsState {
    second: bool,
    wanted: bool,
    plugins: BTreeMap<&'static str, Mutations>,
}

/// What one plugin's mutations did so far.
#[derive(Debug, Default)]
struct Mutations {
    /// Those that asked to be run again if others changed the object after them.
    again: BTreeSet<String>,
    /// Those of them that are to be.
    due: BTreeSet<String>,
    /// The object as the plugin left it.
    left: Option<Value>,
}

impl Rounds {
    fn with<T>(&self, read: impl FnOnce(&mut RoundsState) -> T) -> T {
        read(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this is the second round.
    pub fn is_second(&self) -> bool {
        self.with(|state| state.second)
    }

    /// Starts the second round, if any plugin wants it.
    pub fn start_second(&self) -> bool {
        self.with(|state| {
            state.second = state.wanted;
            state.second
        })
    }

    /// A plugin starts: in the second round, what others changed since it was left makes its mutations due again.
    pub fn enter(&self, plugin: &'static str, object: Option<&Value>) {
        self.with(|state| {
            let second = state.second;
            let mutations = state.plugins.entry(plugin).or_default();
            if second && mutations.left.as_ref() != object {
                mutations.due.append(&mut mutations.again);
            }
        });
    }

    /// Whether a mutation is to run in this round.
    pub fn is_due(&self, plugin: &'static str, id: &str) -> bool {
        self.with(|state| {
            !state.second || state.plugins.get(plugin).is_some_and(|mutations| mutations.due.contains(id))
        })
    }

    /// A mutation ran: if it changed the object, those before it that asked for it run again.
    pub fn ran(&self, plugin: &'static str, id: &str, changed: bool, reinvoke: bool) {
        self.with(|state| {
            let mutations = state.plugins.entry(plugin).or_default();
            if changed {
                mutations.due.append(&mut mutations.again);
                state.wanted = true;
            }
            if reinvoke {
                mutations.again.insert(id.to_owned());
            }
        });
    }

    /// A plugin is done.
    pub fn leave(&self, plugin: &'static str, object: Option<&Value>) {
        self.with(|state| state.plugins.entry(plugin).or_default().left = object.cloned());
    }
}

/// A write, as plugins see it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// What it does.
    pub operation: Operation,
    /// To which resource.
    pub resource: &'a Resource,
    /// Through which subresource; empty for none.
    pub subresource: &'a str,
    /// In which namespace; empty for cluster-wide objects.
    pub namespace: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// Who.
    pub identity: &'a Identity,
    /// The object before.
    pub old: Option<&'a Value>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// How it was asked for.
    pub caller: &'a Caller,
    /// How a deletion was asked for.
    pub delete_options: Option<&'a DeleteOptions>,
    /// What is kept between the rounds of the chain; none outside it.
    pub rounds: Option<&'a Rounds>,
    /// How recent what it goes by must be; none for as recent as each reading of it.
    pub as_of: Option<&'a AsOf>,
}

impl<'a> Attributes<'a> {
    /// A write to `target` that `caller` asked for.
    pub fn new(operation: Operation, target: Target<'a>, caller: &'a Caller) -> Self {
        Self {
            operation,
            resource: target.resource,
            subresource: target.subresource,
            namespace: target.namespace,
            name: target.name,
            identity: &caller.identity,
            old: None,
            dry_run: caller.dry_run,
            caller,
            delete_options: None,
            rounds: None,
            as_of: None,
        }
    }

    /// The same where all that it goes by is read as of one moment.
    #[must_use]
    pub fn as_of(mut self, moment: &'a AsOf) -> Self {
        self.as_of = Some(moment);
        self
    }

    /// All objects of a kind in the namespace of the write.
    pub(crate) async fn all_of(&self, kind: &Resource, registry: &Registry) -> Result<Vec<Current>, ApiError> {
        registry.find_all(kind, self.namespace, self.as_of.unwrap_or(&AsOf::now())).await
    }

    /// The namespace of the write, if there is one.
    pub(crate) async fn namespace_now(&self, registry: &Registry) -> Result<Option<Current>, ApiError> {
        let Some(namespaces) = registry.catalog().resource("", "v1", "namespaces") else { return Ok(None) };
        registry.find_as_of(namespaces, "", self.namespace, self.as_of.unwrap_or(&AsOf::now())).await
    }

    /// The same with the object as it is before the write.
    #[must_use]
    pub fn with_old(mut self, old: &'a Value) -> Self {
        self.old = Some(old);
        self
    }

    /// The same as a deletion with these options.
    #[must_use]
    pub fn with_delete_options(mut self, options: &'a DeleteOptions) -> Self {
        self.dry_run = options.dry_run;
        self.delete_options = Some(options);
        self
    }

    /// Whether it is about this resource itself, not a subresource.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.is_any(group, plural) && self.subresource.is_empty()
    }

    /// Whether it is about this resource or a subresource of it.
    pub fn is_any(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    /// The kind of the request's object, which may differ from the resource's on a subresource.
    pub fn kind(&self) -> Gvk {
        engine::subresource_kind(self.resource, self.subresource)
    }

    /// The refusal, as Kubernetes words it.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(&self.resource.qualified(), self.name, why)
    }

    /// What is told about the request.
    pub fn notes(&self) -> &'a Notes {
        &self.caller.notes
    }

    /// The request's options, as a review shows them.
    pub fn options(&self) -> Value {
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            // The options of a connection are its object.
            Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if let Some(delete) = self.delete_options {
            delete.show(&mut options);
            return options;
        }
        if !self.caller.manager.is_empty() {
            options["fieldManager"] = json!(self.caller.manager);
        }
        options["fieldValidation"] = json!(self.caller.field_validation.as_str());
        options
    }

    /// The namespace that the write is in, or the one that it is about.
    pub fn namespace_name(&self) -> &'a str {
        if self.is_any("", "namespaces") { self.name } else { self.namespace }
    }

    /// The namespace that the write is in, or the one that it is about; none for other cluster-wide objects.
    pub async fn namespace_object(
        &self,
        registry: &crate::registry::Registry,
    ) -> Result<Option<std::sync::Arc<crate::cacher::Entry>>, ApiError> {
        let name = self.namespace_name();
        if name.is_empty() {
            return Ok(None);
        }
        let missing = || ApiError::not_found("namespaces", name);
        let catalog = registry.catalog();
        let namespaces = catalog.resource("", "v1", "namespaces").ok_or_else(missing)?;
        if let Some(entry) = registry.cached(namespaces, "", name) {
            return Ok(Some(entry));
        }
        // The cache may not have heard of a new one yet.
        let current = registry.current(namespaces, "", name).await?;
        let key = std::sync::Arc::from(current.key.as_str());
        let facts = codec::facts(namespaces, &current.bytes)?;
        let entry = crate::cacher::Entry::with_facts(key, current.revision, current.bytes, facts);
        Ok(Some(std::sync::Arc::new(entry)))
    }
}

/// An object's labels.
pub fn labels(object: &Value) -> Option<&serde_json::Map<String, Value>> {
    meta::get(object, &["metadata", "labels"]).and_then(Value::as_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_within_limits() {
        let notes = Notes::default();
        notes.warn("a");
        notes.warn("a");
        notes.warn("é".repeat(WARNING_BYTES_MAX));
        notes.warn("no room");
        let warnings = notes.warnings();
        assert_eq!((warnings.len(), warnings[0].as_str()), (2, "a"));
        assert!(warnings[1].len() < WARNING_BYTES_MAX && warnings[1].len() > WARNING_BYTES_MAX - 4);
    }

    #[test]
    fn mutations_run_again_after_later_changes_only() {
        let rounds = Rounds::default();
        let (before, after) = (json!({"a": 1}), json!({"a": 2}));
        rounds.enter("p", Some(&before));
        assert!(rounds.is_due("p", "first") && rounds.is_due("p", "second"));
        rounds.ran("p", "first", false, true);
        rounds.ran("p", "second", true, true);
        rounds.leave("p", Some(&after));
        assert!(rounds.start_second());
        rounds.enter("p", Some(&after));
        // The change was the second's own: it does not run again, what stood before it does.
        assert!(rounds.is_due("p", "first") && !rounds.is_due("p", "second"));
    }

    #[test]
    fn what_another_plugin_changed_makes_all_due() {
        let rounds = Rounds::default();
        rounds.enter("p", None);
        rounds.ran("p", "only", false, true);
        rounds.leave("p", None);
        assert!(!rounds.start_second());
        rounds.ran("q", "other", true, false);
        assert!(rounds.start_second());
        rounds.enter("p", Some(&json!({})));
        assert!(rounds.is_due("p", "only"));
    }
}
