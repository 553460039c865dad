//! Configurations that admission acts on, compiled once and kept until they change.
//!
//! In: the watch cache of a kind of configuration. Out: its compiled items in the order of their objects' names, and for each
//! kind of request those that its rules match. A request costs a comparison of revisions and, if there are any items, one
//! look into the index; what changed is compiled by the first request after the change.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use gantry_api::codec;
use gantry_api::kinds::Catalog;
use serde_json::Value;

use super::attributes::Attributes;
use super::rules::{Asked, Constraint, Matched};
use crate::registry::{Known, Registry};

/// Something that applies to some requests.
pub trait Item: Send + Sync + Sized + 'static {
    /// Reads the items of a configuration object.
    fn compile(object: &Value) -> Vec<Self>;

    /// To which requests it applies.
    fn constraint(&self) -> &Constraint;
}

/// An item that applies to a request, and as what.
pub struct Candidate<T> {
    /// The item.
    pub item: Arc<T>,
    /// As what the request matches it.
    pub matched: Matched,
}

impl<T> Clone for Candidate<T> {
    fn clone(&self) -> Self {
        Self { item: Arc::clone(&self.item), matched: self.matched.clone() }
    }
}

/// The items of one object.
struct Part<T> {
    key: Arc<str>,
    revision: u64,
    items: Vec<Arc<T>>,
}

/// All items as of one revision of their kind and one catalog.
struct State<T> {
    changed: u64,
    catalog: Arc<Catalog>,
    parts: Vec<Part<T>>,
    /// By kind of request. It is bounded by what the catalog serves.
    index: RwLock<HashMap<String, Arc<[Candidate<T>]>>>,
}

/// The compiled form of all objects of one kind.
pub struct Compiled<T> {
    kind: Known,
    state: RwLock<Option<Arc<State<T>>>>,
}

impl<T: Item> Compiled<T> {
    /// Follows this kind.
    pub fn new(kind: Known) -> Self {
        Self { kind, state: RwLock::new(None) }
    }

    /// Whether there are any.
    pub fn any(&self, registry: &Registry) -> bool {
        self.state(registry).is_some()
    }

    /// The items that the request matches, in order.
    pub fn candidates(&self, attributes: &Attributes<'_>, registry: &Registry) -> Arc<[Candidate<T>]> {
        let Some(state) = self.state(registry) else { return Arc::from([]) };
        let asked = Asked {
            operation: attributes.operation,
            resource: attributes.resource,
            subresource: attributes.subresource,
        };
        state.candidates(&asked, attributes.name)
    }

    /// The current state; none if there are no objects.
    fn state(&self, registry: &Registry) -> Option<Arc<State<T>>> {
        let cache = registry.known(self.kind).filter(|cache| !cache.is_empty())?;
        let (catalog, changed) = (registry.live_catalog().now(), cache.changed());
        let fresh = |state: &Arc<State<T>>| state.changed == changed && Arc::ptr_eq(&state.catalog, &catalog);
        let known = self.state.read().unwrap_or_else(PoisonError::into_inner).clone();
        let state = match known {
            Some(state) if fresh(&state) => state,
            _ => {
                let mut slot = self.state.write().unwrap_or_else(PoisonError::into_inner);
                // Of requests that come at once, one compiles.
                match slot.clone().filter(|state| fresh(state)) {
                    Some(state) => state,
                    None => {
                        let mut parts = Vec::new();
                        let before = slot.as_ref().map(|state| state.parts.as_slice()).unwrap_or_default();
                        let before: HashMap<&str, &Part<T>> = before.iter().map(|part| (&*part.key, part)).collect();
                        cache.for_each(|entry| {
                            let kept = before.get(&*entry.key);
                            parts.push(match kept.filter(|part| part.revision == entry.revision) {
                                Some(part) => part.share(),
                                None => Part::compile(entry),
                            });
                        });
                        let state =
                            Arc::new(State { changed, catalog: Arc::clone(&catalog), parts, index: RwLock::default() });
                        *slot = Some(Arc::clone(&state));
                        state
                    }
                }
            }
        };
        (!state.parts.is_empty()).then_some(state)
    }
}

impl<T: Item> Part<T> {
    fn compile(entry: &crate::cacher::Entry) -> Self {
        let items = match codec::decode(&entry.object) {
            Ok(object) => T::compile(&object).into_iter().map(Arc::new).collect(),
            Err(error) => {
                tracing::error!(key = %entry.key, %error, "a stored object cannot be read");
                Vec::new()
            }
        };
        Self { key: Arc::clone(&entry.key), revision: entry.revision, items }
    }

    fn share(&self) -> Self {
        Self { key: Arc::clone(&self.key), revision: self.revision, items: self.items.clone() }
    }
}

impl<T: Item> State<T> {
    fn candidates(&self, asked: &Asked<'_>, name: &str) -> Arc<[Candidate<T>]> {
        let resource = asked.resource;
        let key = [asked.operation.as_str(), &resource.group, &resource.version, &resource.plural, asked.subresource]
            .join("/");
        let known = self.index.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let found = known.unwrap_or_else(|| {
            let items = self.parts.iter().flat_map(|part| &part.items);
            let found: Arc<[Candidate<T>]> = items
                .filter_map(|item| {
                    let matched = item.constraint().resolve(&self.catalog, asked, None)?;
                    Some(Candidate { item: Arc::clone(item), matched })
                })
                .collect();
            self.index.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&found));
            found
        });
        if !found.iter().any(|candidate| candidate.item.constraint().looks_at_names()) {
            return found;
        }
        let named = found.iter().filter_map(|candidate| {
            let matched = candidate.item.constraint().resolve(&self.catalog, asked, Some(name))?;
            Some(Candidate { item: Arc::clone(&candidate.item), matched })
        });
        named.collect()
    }
}

/// Whether the request is about what configures admission itself, which nothing configured may block.
pub fn is_exempt(attributes: &Attributes<'_>) -> bool {
    attributes.resource.group == "admissionregistration.k8s.io"
        && matches!(
            attributes.resource.kind.as_str(),
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}
