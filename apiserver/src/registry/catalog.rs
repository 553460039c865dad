//! The kinds there are, while custom kinds come and go.
//!
//! In: the established CustomResourceDefinitions, whenever they change. Out: a [`Catalog`] that is whole at any time; requests
//! take it once and keep it.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use gantry_api::custom::{Definition, GROUP, compare_versions};
use gantry_api::kinds::{Catalog, Resource};
use tokio::sync::watch;

use super::Registry;

/// The catalog of now.
pub struct LiveCatalog {
    state: RwLock<State>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

struct State {
    catalog: Arc<Catalog>,
    /// By the definition's name.
    definitions: HashMap<String, Definition>,
    /// The resourceVersion up to which each known definition was worked on, established or not.
    worked: HashMap<String, u64>,
}

impl LiveCatalog {
    /// Only the built-in kinds.
    pub fn new(builtin: Catalog) -> Self {
        let state = State { catalog: Arc::new(builtin), definitions: HashMap::new(), worked: HashMap::new() };
        Self { state: RwLock::new(state), changes: watch::Sender::new(0) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All kinds there are now.
    pub fn now(&self) -> Arc<Catalog> {
        Arc::clone(&self.read().catalog)
    }

    /// How often the catalog has changed.
    pub fn version(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Tells of changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The stored version of a custom kind.
    pub fn stored(&self, resource: &Resource) -> Option<Arc<Resource>> {
        let custom = resource.custom.as_ref()?;
        self.read().definitions.get(&custom.definition).map(|definition| Arc::clone(&definition.storage))
    }

    /// The state of a definition that is served, by its resourceVersion; 0 if it is not known.
    pub fn worked_on(&self, definition: &str) -> u64 {
        self.read().worked.get(definition).copied().unwrap_or_default()
    }

    /// Serves a definition as it is at `revision`, or no longer.
    pub fn set(&self, name: &str, revision: u64, definition: Option<Definition>) {
        self.set_all(vec![(name.to_owned(), revision, definition)]);
    }

    /// The same for many at once.
    pub fn set_all(&self, changes: Vec<(String, u64, Option<Definition>)>) {
        let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut changed = false;
        for (name, revision, definition) in changes {
            changed |= match definition {
                Some(definition) => {
                    state.definitions.insert(name.clone(), definition);
                    true
                }
                None => state.definitions.remove(&name).is_some(),
            };
            state.worked.insert(name, revision);
        }
        if changed {
            state.rebuild();
        }
        drop(state);
        // Who waits for a definition that is not served is told as well.
        self.changes.send_modify(|count| *count += u64::from(changed));
    }

    /// Forgets a definition that is gone; returns what was served of it.
    pub fn remove(&self, name: &str) -> Option<Definition> {
        let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.worked.remove(name);
        let removed = state.definitions.remove(name);
        if removed.is_some() {
            state.rebuild();
        }
        drop(state);
        self.changes.send_modify(|count| *count += u64::from(removed.is_some()));
        removed
    }
}

impl State {
    fn rebuild(&mut self) {
        let mut served: Vec<Arc<Resource>> =
            self.definitions.values().flat_map(|definition| definition.served.iter().cloned()).collect();
        served.sort_by(|a, b| {
            (&a.group, compare_versions(&a.version, &b.version), &a.plural).cmp(&(
                &b.group,
                std::cmp::Ordering::Equal,
                &b.plural,
            ))
        });
        self.catalog = Arc::new(self.catalog.with_custom(served));
    }
}

/// How long a request waits for a definition that is known to be newer than what is served.
const CATCH_UP: Duration = Duration::from_secs(3);

impl Registry {
    /// The kind that a path names. Who has seen a definition established, or has changed it, is served by it at once: a request
    /// waits for this server's catalog to reach what its cache has.
    pub async fn resolve(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let found = self.live_catalog().now().resource(group, version, plural).cloned();
        if found.as_ref().is_some_and(|resource| resource.custom.is_none()) || !group.contains('.') {
            return found;
        }
        let crds = self.catalog().resource(GROUP, "v1", "customresourcedefinitions")?;
        let name = format!("{plural}.{group}");
        let Some(entry) = self.cached(crds, "", &name) else { return found };
        if self.live_catalog().worked_on(&name) < entry.revision {
            let mut changes = self.live_catalog().subscribe();
            let caught_up = async {
                while self.live_catalog().worked_on(&name) < entry.revision {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(CATCH_UP, caught_up).await;
        }
        self.live_catalog().now().resource(group, version, plural).cloned()
    }
}
