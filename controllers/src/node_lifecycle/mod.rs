//! The node lifecycle controller: notices nodes that have gone silent and closes nodes that are in trouble.
//!
//! Watches Nodes and their Leases. A node that neither renewed its Lease nor posted its status for the grace
//! period gets its conditions set to Unknown, taints that keep new pods away and, as far as its zone's rate allows,
//! taints that make the taint eviction controller empty it; its pods are no longer shown as ready. All of that is
//! taken back when the node speaks again. How long a node was silent is measured by this process's own clock from
//! the changes that it sees, never by the times that nodes write.

mod plan;
mod zones;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kube::api::Patch;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use self::plan::{Observed, condition, plan, ready_of, without_eviction};
use self::zones::{Disruption, Rates, Zones, zone_of};
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, on_node};
use crate::machinery::events::{Kind, Recorder};
use crate::machinery::objects::time;
use crate::machinery::patch::patch_params;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_not_found, pods};

/// Where nodes keep their Leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Zones are counted anew at most this often.
const ZONES_PERIOD: Duration = Duration::from_secs(1);
/// Pods of one node that are marked at a time.
const REQUESTS_MAX: usize = 8;

/// What is remembered of a node between rounds.
#[derive(Clone, Debug)]
struct Health {
    /// When it was last heard of.
    heard: Instant,
    /// What it said then.
    said: Said,
    /// Its pods were marked as not ready since it last was ready.
    marked: bool,
}

/// What counts as a sign of life when it changes.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    lease: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    ready: String,
}

type HealthMap = Arc<Mutex<HashMap<String, Health>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module's description.
#[derive(Debug)]
pub struct NodeLifecycleController {
    context: Arc<Context>,
    queue: Arc<Queue<String>>,
    health: HealthMap,
    zones: Mutex<(Option<Instant>, Zones)>,
    events: Recorder,
}

impl NodeLifecycleController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<String>> = Arc::default();
        let health = HealthMap::default();
        let events = context.events.for_component("node-controller");
        let (keys, known, recorder) = (queue.clone(), health.clone(), events.clone());
        context.caches.nodes.on_change(move |change| {
            let Some(node) = change.sides().next() else {
                return;
            };
            let name = node.name_any();
            if change.new.is_none() {
                lock(&known).remove(&name);
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                recorder.event(&**node, Kind::Normal, "RemovingNode", message);
                return;
            }
            keys.add(name);
        });
        let (keys, known) = (queue.clone(), health.clone());
        context.caches.leases.on_change(move |change| {
            let Some(lease) = change.new else { return };
            if lease.namespace().as_deref() != Some(LEASE_NAMESPACE) {
                return;
            }
            // Most renewals change nothing: they are noted, and only a node thought silent is looked at again.
            let name = lease.name_any();
            if let Some(health) = lock(&known).get_mut(&name) {
                let renewed = renewal(lease);
                if renewed != health.said.lease {
                    health.said.lease = renewed;
                    health.heard = Instant::now();
                    if health.said.ready != "True" {
                        keys.add(name);
                    }
                }
            }
        });
        Arc::new(NodeLifecycleController { context, queue, health, zones: Mutex::default(), events })
    }
}

fn renewal(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0)
}

impl Controller for NodeLifecycleController {
    type Key = String;

    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn queue(&self) -> &Queue<String> {
        &self.queue
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, Error> {
        let Some(node) = self.context.caches.nodes.get(&Key::cluster(name.clone())) else {
            lock(&self.health).remove(name);
            return Ok(Outcome::Done);
        };
        let health = self.hear(name, &node);
        let options = &self.context.options;
        let mut plan = plan(Observed {
            node: &node,
            silent_for: health.heard.elapsed(),
            grace: options.node_monitor_grace,
            startup_grace: options.node_startup_grace,
            disruption: self.disruption(),
            now: Timestamp::now(),
        });
        // A node that has just been given up waits a round, until the zones have been counted with it.
        let just_lost = !plan.conditions.is_empty();
        if plan.begins_eviction && (just_lost || !self.may_evict(&node)) {
            plan.taints = without_eviction(&node, plan.taints);
        }
        let mut current = Node::clone(&node);
        if !plan.conditions.is_empty() {
            current = self.write_conditions(name, &plan.conditions).await?;
            lock(&self.zones).0 = None;
        }
        if let Some(taints) = &plan.taints {
            self.write_taints(&current, taints).await?;
        }
        let was_ready = health.said.ready == "True";
        match plan.ready {
            "True" => self.set_marked(name, false),
            "False" | "Unknown" if !health.marked => {
                if was_ready || ready_of(&node) == "True" {
                    let message = format!("Node {name} status is now: NodeNotReady");
                    self.events.event(&*node, Kind::Normal, "NodeNotReady", message);
                }
                self.mark_pods(name).await?;
                self.set_marked(name, true);
            }
            _ => {}
        }
        let wait = match plan.patience {
            Some(patience) if plan.ready == "True" || plan.ready.is_empty() => patience,
            _ => options.node_monitor_period,
        };
        // A little more than the patience, so that it has run out when the key comes up.
        Ok(Outcome::After(wait + Duration::from_millis(10)))
    }
}

impl NodeLifecycleController {
    /// Notes what the node says now and answers with what is remembered from before.
    fn hear(&self, name: &str, node: &Node) -> Health {
        let lease = self.context.caches.leases.get(&Key::new(LEASE_NAMESPACE, name)).and_then(|lease| renewal(&lease));
        let ready = condition(node, "Ready");
        let said = Said {
            lease,
            heartbeat: ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|time| time.0),
            ready: ready.map(|c| c.status.clone()).unwrap_or_default(),
        };
        let mut all = lock(&self.health);
        let Some(health) = all.get_mut(name) else {
            let health = Health {
                heard: Instant::now(),
                // A node that says itself that it is not ready has told its pods already.
                marked: said.ready == "False",
                said,
            };
            all.insert(name.to_owned(), health.clone());
            drop(all);
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.events.event(node, Kind::Normal, "RegisteredNode", message);
            return health;
        };
        // Unknown is what we write ourselves: no sign of life.
        let spoke = health.said.lease != said.lease
            || health.said.heartbeat != said.heartbeat
            || (health.said.ready != said.ready && said.ready != "Unknown");
        if spoke {
            health.heard = Instant::now();
        }
        let before = Health { heard: health.heard, ..health.clone() };
        health.said = said;
        before
    }

    fn set_marked(&self, name: &str, marked: bool) {
        if let Some(health) = lock(&self.health).get_mut(name) {
            health.marked = marked;
        }
    }

    fn disruption(&self) -> Disruption {
        let mut guard = lock(&self.zones);
        let (counted, zones) = &mut *guard;
        if counted.is_none_or(|at| at.elapsed() >= ZONES_PERIOD) {
            let nodes = self.context.caches.nodes.all();
            zones.count(nodes.iter().map(|node| &**node));
            *counted = Some(Instant::now());
        }
        zones.disruption()
    }

    fn may_evict(&self, node: &Node) -> bool {
        let options = &self.context.options;
        let rates = Rates {
            normal: options.node_eviction_rate,
            reduced: options.secondary_node_eviction_rate,
            unhealthy_share: options.unhealthy_zone_threshold,
            large: options.large_zone_threshold,
        };
        lock(&self.zones).1.may_evict(&zone_of(node), &rates, Instant::now())
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.context.client.clone())
    }

    async fn write_conditions(&self, name: &str, conditions: &[NodeCondition]) -> Result<Node, Error> {
        let patch = json!({"status": {"conditions": conditions}});
        let node = self.api().patch_status(name, &patch_params(), &Patch::Strategic(&patch)).await?;
        Ok(node)
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<(), Error> {
        let patch = json!({
            "metadata": {"resourceVersion": node.resource_version(), "uid": node.uid()},
            "spec": {"taints": if taints.is_empty() { json!(null) } else { json!(taints) }},
        });
        self.api().patch(&node.name_any(), &patch_params(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Shows the node's pods as not ready, so that no traffic is sent to them.
    async fn mark_pods(&self, node: &str) -> Result<(), Error> {
        let ready = self.context.caches.pods.indexed(&on_node(node));
        let ready: Vec<Arc<Pod>> = ready.into_iter().filter(|pod| pods::is_ready(pod)).collect();
        let total = ready.len();
        let results: Vec<Result<(), kube::Error>> = futures::stream::iter(ready)
            .map(|pod| async move { self.mark_pod(&pod).await })
            .buffer_unordered(REQUESTS_MAX)
            .collect()
            .await;
        let mut failures = results.into_iter().filter_map(Result::err).peekable();
        match failures.next() {
            None => Ok(()),
            Some(first) => Err(Error::Partial { failed: 1 + failures.count(), total, first: first.to_string() }),
        }
    }

    async fn mark_pod(&self, pod: &Pod) -> Result<(), kube::Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &namespace);
        let patch = json!({
            "metadata": {"uid": pod.uid()},
            "status": {"conditions": [{
                "type": "Ready",
                "status": "False",
                "lastTransitionTime": time(Timestamp::now()),
            }]},
        });
        let patched = api.patch_status(&pod.name_any(), &patch_params(), &Patch::Strategic(&patch)).await;
        match patched {
            Ok(_) => {
                self.events.event(pod, Kind::Warning, "NodeNotReady", "Node is not ready".into());
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
