//! Feeds the graph: from the shared caches for the types that other controllers watch anyway, and from a
//! metadata-only watch for every other type that can be listed, watched and deleted. What is served is asked
//! again from time to time and when a CustomResourceDefinition changes.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::discovery::ApiResource;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::graph::{Node, Type};
use crate::machinery::cache::Cache;
use crate::machinery::context::Caches;
use crate::machinery::discovery::{Served, discover};

/// How often the API is asked what it serves.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);
/// A new CustomResourceDefinition is served a little after it is written.
const DISCOVERY_SETTLE: Duration = Duration::from_millis(500);

/// Objects of these types come and go by time alone.
fn is_ignored(resource: &ApiResource) -> bool {
    resource.plural == "events" && matches!(&*resource.group, "" | "events.k8s.io")
}

fn feed<K>(cache: &Cache<K>, shared: &Arc<Shared>, namespaced: bool)
where
    K: Resource<DynamicType = ()>
        + Metadata<Ty = ObjectMeta>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let kind = Arc::new(Type { resource: ApiResource::erase::<K>(&()), namespaced });
    let shared = shared.clone();
    cache.on_change(move |change| match (change.old, change.new) {
        (old, Some(new)) => {
            // A name that was given again is another object.
            if let Some(old) = old.filter(|old| old.meta().uid != new.meta().uid) {
                shared.remove(old.meta().uid.as_deref().unwrap_or_default());
            }
            let meta = Resource::meta(&**new);
            let uid = meta.uid.as_deref().unwrap_or_default();
            shared.observe(uid, Node::new(kind.clone(), meta));
        }
        (Some(old), None) => {
            shared.remove(Resource::meta(&**old).uid.as_deref().unwrap_or_default());
        }
        (None, None) => {}
    });
}

/// Feeds the graph from the shared caches. Answers with the resource types that need no watch of their own.
pub fn feed_from_caches(caches: &Caches, shared: &Arc<Shared>) -> HashSet<(String, String)> {
    let mut covered = HashSet::new();
    macro_rules! feed {
        ($cache:ident, $namespaced:expr, $kind:ty) => {
            feed(&caches.$cache, shared, $namespaced);
            let resource = ApiResource::erase::<$kind>(&());
            covered.insert((resource.group, resource.plural));
        };
    }
    use k8s_openapi::api::{apps, coordination, core, discovery, policy};
    feed!(pods, true, core::v1::Pod);
    feed!(replica_sets, true, apps::v1::ReplicaSet);
    feed!(replication_controllers, true, core::v1::ReplicationController);
    feed!(resource_quotas, true, core::v1::ResourceQuota);
    feed!(claims, true, core::v1::PersistentVolumeClaim);
    feed!(disruption_budgets, true, policy::v1::PodDisruptionBudget);
    feed!(deployments, true, apps::v1::Deployment);
    feed!(nodes, false, core::v1::Node);
    feed!(leases, true, coordination::v1::Lease);
    feed!(namespaces, false, core::v1::Namespace);
    feed!(service_accounts, true, core::v1::ServiceAccount);
    feed!(services, true, core::v1::Service);
    feed!(endpoint_slices, true, discovery::v1::EndpointSlice);
    feed!(endpoints, true, core::v1::Endpoints);
    covered
}

struct Monitor {
    stop: CancellationToken,
    synced: Arc<AtomicBool>,
}

/// Keeps one metadata watch for each served type that the caches don't cover, until shutdown.
pub async fn keep_watching(
    client: Client,
    watch_client: Client,
    covered: HashSet<(String, String)>,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    let mut monitors: HashMap<Served, Monitor> = HashMap::new();
    let mut tasks = JoinSet::new();
    let crds_changed = Arc::new(Notify::new());
    let mut wait = Duration::from_millis(50);
    loop {
        match discover(&client).await {
            Ok(served) => {
                wait = DISCOVERY_PERIOD;
                let wanted: HashSet<Served> = served
                    .iter()
                    .filter(|s| s.watchable && s.deletable && !is_ignored(&s.resource))
                    .filter(|s| !covered.contains(&(s.resource.group.clone(), s.resource.plural.clone())))
                    .cloned()
                    .collect();
                shared.set_served(served);
                monitors.retain(|served, monitor| {
                    let keep = wanted.contains(served);
                    if !keep {
                        monitor.stop.cancel();
                    }
                    keep
                });
                for served in wanted {
                    monitors.entry(served.clone()).or_insert_with(|| {
                        let monitor = Monitor { stop: shutdown.child_token(), synced: Arc::default() };
                        tasks.spawn(watch(
                            watch_client.clone(),
                            served,
                            shared.clone(),
                            monitor.synced.clone(),
                            crds_changed.clone(),
                            monitor.stop.clone(),
                        ));
                        monitor
                    });
                }
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "discovery failed");
                wait = (wait * 2).min(DISCOVERY_PERIOD);
            }
        }
        // Until all are in, look again soon whether they are.
        let all_in = |monitors: &HashMap<Served, Monitor>| monitors.values().all(|m| m.synced.load(Ordering::Acquire));
        let next = tokio::time::Instant::now() + wait;
        loop {
            shared.set_complete(shared.has_served() && all_in(&monitors));
            let tick = if shared.is_complete() {
                next
            } else {
                next.min(tokio::time::Instant::now() + Duration::from_millis(100))
            };
            tokio::select! {
                () = shutdown.cancelled() => {
                    while tasks.join_next().await.is_some() {}
                    return;
                }
                () = crds_changed.notified() => {
                    tokio::time::sleep(DISCOVERY_SETTLE).await;
                    break;
                }
                () = tokio::time::sleep_until(tick) => {
                    if tick == next {
                        break;
                    }
                }
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Watches the metadata of one type.
async fn watch(
    client: Client,
    served: Served,
    shared: Arc<Shared>,
    synced: Arc<AtomicBool>,
    crds_changed: Arc<Notify>,
    stop: CancellationToken,
) {
    let is_crd = served.resource.group == "apiextensions.k8s.io";
    let kind = Arc::new(Type { resource: served.resource.clone(), namespaced: served.namespaced });
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &served.resource);
    let mut stream = watcher(api, Config::default()).default_backoff().boxed();
    let mut known: HashSet<String> = HashSet::new();
    let mut listing: HashSet<String> = HashSet::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            event = stream.next() => event,
        };
        let Some(event) = event else { break };
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(object)) => {
                let uid = object.metadata.uid.clone().unwrap_or_default();
                shared.observe(&uid, Node::new(kind.clone(), &object.metadata));
                listing.insert(uid);
            }
            Ok(Event::InitDone) => {
                for uid in known.difference(&listing) {
                    shared.remove(uid);
                }
                known = std::mem::take(&mut listing);
                synced.store(true, Ordering::Release);
            }
            Ok(Event::Apply(object)) => {
                let uid = object.metadata.uid.clone().unwrap_or_default();
                shared.observe(&uid, Node::new(kind.clone(), &object.metadata));
                known.insert(uid);
                if is_crd {
                    crds_changed.notify_one();
                }
            }
            Ok(Event::Delete(object)) => {
                let uid = object.metadata.uid.unwrap_or_default();
                shared.remove(&uid);
                known.remove(&uid);
                if is_crd {
                    crds_changed.notify_one();
                }
            }
            Err(error) => {
                tracing::debug!(
                    kind = served.resource.kind,
                    error = &error as &dyn std::error::Error,
                    "metadata watch failed, trying again"
                );
            }
        }
    }
    for uid in &known {
        shared.forget(uid);
    }
}
