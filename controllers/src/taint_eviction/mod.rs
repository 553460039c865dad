//! The taint eviction controller: deletes pods from nodes with `NoExecute` taints that they don't tolerate, or
//! no longer.

mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::api::Patch;
use kube::{Api, ResourceExt};
use serde_json::json;

use self::plan::{Fate, Since, evicting, fate};
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, on_node};
use crate::machinery::events::{Kind, Recorder};
use crate::machinery::objects::time;
use crate::machinery::patch::{delete_params, patch_params};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_not_found, pods};

/// When taints without a time were first seen, by node. Bounded by the number of such taints.
type FirstSeen = HashMap<String, Vec<Since>>;

/// See the module's description.
#[derive(Debug)]
pub struct TaintEvictionController {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
    first_seen: Arc<Mutex<FirstSeen>>,
    /// Pods that are to leave later, to tell when that is called off.
    waiting: Mutex<HashSet<Key>>,
    events: Recorder,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn same_evicting(a: Option<&Arc<Node>>, b: Option<&Arc<Node>>) -> bool {
    let taints =
        |node: Option<&Arc<Node>>| node.map(|node| evicting(node).cloned().collect::<Vec<Taint>>()).unwrap_or_default();
    taints(a) == taints(b)
}

impl TaintEvictionController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<Key>> = Arc::default();
        let first_seen: Arc<Mutex<FirstSeen>> = Arc::default();
        let (keys, seen, all_pods) = (queue.clone(), first_seen.clone(), context.caches.pods.clone());
        context.caches.nodes.on_change(move |change| {
            if same_evicting(change.old, change.new) {
                return;
            }
            if let Some(node) = change.sides().next() {
                let name = node.name_any();
                note_first_seen(&mut lock(&seen), &name, change.new.map(|node| &**node));
                for pod in all_pods.indexed(&on_node(&name)) {
                    keys.add(Key::of(&*pod));
                }
            }
        });
        let (keys, nodes) = (queue.clone(), context.caches.nodes.clone());
        context.caches.pods.on_change(move |change| {
            let Some(pod) = change.new else { return };
            let bound_before = change.old.is_some_and(|old| pods::node_name(old) == pods::node_name(pod));
            let same_tolerations = change.old.is_some_and(|old| {
                old.spec.as_ref().map(|s| &s.tolerations) == pod.spec.as_ref().map(|s| &s.tolerations)
            });
            if pods::node_name(pod).is_empty() || (bound_before && same_tolerations) {
                return;
            }
            let node = nodes.get(&Key::cluster(pods::node_name(pod)));
            if node.is_some_and(|node| evicting(&node).next().is_some()) {
                keys.add(Key::of(&**pod));
            }
        });
        Arc::new(TaintEvictionController {
            events: context.events.for_component("taint-eviction-controller"),
            waiting: Mutex::default(),
            context,
            queue,
            first_seen,
        })
    }

    fn taints(&self, node: &Node) -> Vec<Since> {
        let seen = lock(&self.first_seen);
        let seen = seen.get(&node.name_any());
        evicting(node)
            .map(|taint| {
                let noted = seen.into_iter().flatten().find(|noted| noted.taint == *taint).map(|noted| noted.since);
                let added = taint.time_added.as_ref().map(|time| time.0);
                Since { taint: taint.clone(), since: added.or(noted).unwrap_or_else(Timestamp::now) }
            })
            .collect()
    }
}

fn note_first_seen(seen: &mut FirstSeen, name: &str, node: Option<&Node>) {
    let before = seen.remove(name).unwrap_or_default();
    let now: Vec<Since> = node
        .into_iter()
        .flat_map(evicting)
        .filter(|taint| taint.time_added.is_none())
        .map(|taint| {
            let known = before.iter().find(|since| since.taint == *taint);
            known.cloned().unwrap_or_else(|| Since { taint: taint.clone(), since: Timestamp::now() })
        })
        .collect();
    if !now.is_empty() {
        seen.insert(name.to_owned(), now);
    }
}

/// Since when the pod is on its node.
fn bound_since(pod: &Pod) -> Timestamp {
    pods::condition(pod, "PodScheduled")
        .filter(|condition| condition.status == "True")
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map(|time| time.0)
        .or_else(|| pod.creation_timestamp().map(|time| time.0))
        .unwrap_or(Timestamp::MIN)
}

impl Controller for TaintEvictionController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "taint-eviction"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        let pod = caches.pods.get(key).filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let Some(pod) = pod else {
            lock(&self.waiting).remove(key);
            return Ok(Outcome::Done);
        };
        let node = caches.nodes.get(&Key::cluster(pods::node_name(&pod)));
        let taints = node.map(|node| self.taints(&node)).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        match fate(&tolerations, &taints, bound_since(&pod)) {
            Fate::Stays => {
                if lock(&self.waiting).remove(key) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.events.event(&*pod, Kind::Normal, "TaintManagerEviction", message);
                }
                Ok(Outcome::Done)
            }
            Fate::Leaves(at) => {
                let left = at.duration_since(Timestamp::now());
                if left.is_positive() {
                    lock(&self.waiting).insert(key.clone());
                    let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
                    return Ok(Outcome::After(left));
                }
                self.evict(key, &pod).await?;
                lock(&self.waiting).remove(key);
                Ok(Outcome::Done)
            }
        }
    }
}

impl TaintEvictionController {
    async fn evict(&self, key: &Key, pod: &Pod) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {key}");
        self.events.event(pod, Kind::Normal, "TaintManagerEviction", message);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let uid = pod.uid().unwrap_or_default();
        let patch = json!({
            "metadata": {"uid": uid},
            "status": {"conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": time(Timestamp::now()),
            }]},
        });
        let marked = api.patch_status(&key.name, &patch_params(), &Patch::Strategic(&patch)).await;
        match marked {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other.map(|_| ())?,
        }
        match api.delete(&key.name, &delete_params(&uid)).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
