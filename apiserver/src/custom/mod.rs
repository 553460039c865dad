//! Custom kinds come and go: what this API server does about CustomResourceDefinitions.
//!
//! ```text
//! definitions in the watch cache ─▶ serve ─▶ LiveCatalog (what this server answers)
//!                                ─▶ plan  ─▶ status (names, conditions), removal of a deleted definition's objects
//! ```
//!
//! Every API server watches the definitions and serves those that are established. Each also plans what is to be written; a
//! write that another server was faster with is a conflict and is planned again from what is there then.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::custom::{Definition, GROUP};
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, Reason, codec, meta};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::auth::Identity;
use crate::cacher::{Filter, Subscription, WatchStart};
use crate::registry::{Caller, DeleteOptions, ListRequest, Position, Registry, Target};

use plan::Step;

/// How long until something that could not be finished is tried again: objects of a deleted kind that finalizers hold.
const RETRY: Duration = Duration::from_secs(1);
/// As whom this loop writes.
const USER: &str = "system:apiserver";

/// The kind of definitions.
fn definitions(registry: &Registry) -> Option<Arc<Resource>> {
    registry.catalog().resource(GROUP, "v1", "customresourcedefinitions").cloned()
}

/// Serves what is established already, before the first request.
pub fn load(registry: &Registry) {
    let Some(crds) = definitions(registry) else { return };
    let mut known = Known::default();
    known.read(registry, &crds);
    serve(registry, &mut known);
}

/// Follows the definitions until shutdown.
pub async fn run(registry: Arc<Registry>, shutdown: CancellationToken) {
    let Some(crds) = definitions(&registry) else { return };
    let mut known = Known::default();
    let mut subscription: Option<Subscription> = None;
    loop {
        if subscription.is_none() {
            subscription = subscribe(&registry, &crds);
        }
        known.read(&registry, &crds);
        serve(&registry, &mut known);
        let unfinished = act(&registry, &crds, &mut known).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY), if unfinished || subscription.is_none() => {}
            open = changed(&mut subscription) => if !open { subscription = None },
        }
    }
}

fn subscribe(registry: &Registry, crds: &Arc<Resource>) -> Option<Subscription> {
    let cache = registry.cacher().resource(crds)?;
    let all = Arc::new(Filter::default());
    cache.watch(&crds.storage_prefix, all, WatchStart::Now).ok().map(|(subscription, _)| subscription)
}

/// Waits for a change and takes those that are there with it; false if the watch ended.
async fn changed(subscription: &mut Option<Subscription>) -> bool {
    let Some(subscription) = subscription else { return std::future::pending().await };
    let mut open = subscription.queue.recv().await.is_some();
    while open {
        match subscription.queue.try_recv() {
            Ok(_) => {}
            Err(tokio::sync::mpsc::error::TryRecvError::Empty) => break,
            Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => open = false,
        }
    }
    open
}

/// The definitions as they were last read: only those that changed are parsed again.
#[derive(Default)]
struct Known {
    by_name: HashMap<String, One>,
    gone: Vec<String>,
}

struct One {
    revision: u64,
    object: Arc<Value>,
    served: bool,
}

impl Known {
    fn read(&mut self, registry: &Registry, crds: &Resource) {
        let Some(cache) = registry.cacher().resource(crds) else { return };
        let mut seen = std::collections::HashSet::new();
        let mut newer = Vec::new();
        cache.for_each(|entry| {
            seen.insert(entry.facts.name.clone());
            if self.by_name.get(&entry.facts.name).is_none_or(|one| one.revision != entry.revision) {
                newer.push((entry.facts.name.clone(), entry.revision, entry.object.clone()));
            }
        });
        for (name, revision, object) in newer {
            match codec::decode(&object) {
                Ok(object) => {
                    drop(self.by_name.insert(name, One { revision, object: Arc::new(object), served: false }));
                }
                Err(error) => tracing::error!(name, %error, "a definition cannot be read"),
            }
        }
        self.gone = self.by_name.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        for name in &self.gone {
            self.by_name.remove(name);
        }
    }
}

/// Makes the catalog what the definitions say.
fn serve(registry: &Registry, known: &mut Known) {
    let catalog = registry.live_catalog();
    for name in std::mem::take(&mut known.gone) {
        if let Some(definition) = catalog.remove(&name) {
            registry.cacher().forget(&definition.storage.storage_prefix);
        }
    }
    let mut changes = Vec::new();
    for (name, one) in known.by_name.iter_mut().filter(|(_, one)| !one.served) {
        one.served = true;
        match Definition::read(&one.object) {
            Ok(definition) => {
                if let Some(definition) = &definition {
                    registry.cacher().redefine(&definition.storage);
                }
                changes.push((name.clone(), one.revision, definition));
            }
            Err(error) => {
                tracing::error!(name, %error, "a definition cannot be served");
                changes.push((name.clone(), one.revision, None));
            }
        }
    }
    if !changes.is_empty() {
        catalog.set_all(changes);
    }
}

/// Writes what the plan says; true if something is left to be done without anything changing first.
async fn act(registry: &Registry, crds: &Arc<Resource>, known: &mut Known) -> bool {
    let objects: Vec<Arc<Value>> = known.by_name.values().map(|one| Arc::clone(&one.object)).collect();
    let mut unfinished = false;
    for step in plan::plan(&objects, Timestamp::now()) {
        let done = match &step {
            Step::Status { new } => write(registry, crds, new).await,
            Step::CleanUp { crd } => clean_up(registry, crds, crd).await,
        };
        match done {
            Ok(done) => unfinished |= !done,
            // Somebody else was faster; the change comes by the watch.
            Err(error) if matches!(error.reason, Reason::Conflict | Reason::NotFound) => {}
            Err(error) => {
                tracing::warn!(%error, "a custom resource definition could not be brought forward");
                unfinished = true;
            }
        }
    }
    unfinished
}

fn caller() -> Caller {
    Caller::new(Identity::new(USER, ["system:masters"]), "kube-apiserver")
}

/// Writes a definition's status (and metadata) as planned, if it is still what was planned with.
async fn write(registry: &Registry, crds: &Arc<Resource>, new: &Value) -> Result<bool, ApiError> {
    let target = Target { resource: crds, subresource: "status", namespace: "", name: meta::name(new) };
    registry.modify(target, &caller(), |_, _| Ok(new.clone())).await.map(|_| true)
}

/// Removes the objects of a definition that is being deleted, then lets it go; false while objects are left.
async fn clean_up(registry: &Registry, crds: &Arc<Resource>, crd: &Value) -> Result<bool, ApiError> {
    let served = Definition::read(crd)?;
    if let Some(definition) = served {
        let storage = &definition.storage;
        let everything = ListRequest { filter: Arc::new(Filter::default()), limit: 0, position: Position::MostRecent };
        let options = DeleteOptions::default();
        let listed = registry.delete_collection(storage, &everything, &options, &caller()).await?;
        if !listed.objects.is_empty() && !registry.list(storage, &everything).await?.objects.is_empty() {
            return Ok(false);
        }
    }
    write(registry, crds, &plan::let_go(crd, Timestamp::now())).await
}
