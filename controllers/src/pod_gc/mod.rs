//! Removes pods that nobody else will: those of nodes that no longer exist, those deleted before they were bound,
//! those stuck on nodes out of service, and the oldest of too many ended ones.

mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Patch;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use self::plan::{Observed, Why, plan};
use crate::machinery::cache::Key;
use crate::machinery::context::Context;
use crate::machinery::objects::time;
use crate::machinery::patch::{delete_params, patch_params};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_not_found, message_of, pods};

/// How often all pods are looked at.
const PERIOD: Duration = Duration::from_secs(20);
/// Pods removed at a time.
const REQUESTS_MAX: usize = 8;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// See the module's description.
#[derive(Debug)]
pub struct PodGc {
    context: Arc<Context>,
    queue: Queue<()>,
    missing_since: Mutex<HashMap<String, Instant>>,
}

impl PodGc {
    /// The controller; it goes by the clock alone.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue = Queue::default();
        queue.add_after((), PERIOD);
        Arc::new(PodGc { context, queue, missing_since: Mutex::default() })
    }

    /// Nodes that pods are bound to, that have been missing for the quarantine, and that the API denies.
    async fn gone_nodes(&self, pods: &[Arc<Pod>]) -> Result<HashSet<String>, Error> {
        let nodes = &self.context.caches.nodes;
        let missing: HashSet<&str> = pods
            .iter()
            .map(|pod| pods::node_name(pod))
            .filter(|name| !name.is_empty())
            .filter(|name| nodes.get(&Key::cluster(*name)).is_none())
            .collect();
        let due: Vec<String> = {
            let mut since = self.missing_since.lock().unwrap_or_else(PoisonError::into_inner);
            since.retain(|name, _| missing.contains(&**name));
            for name in missing {
                since.entry(name.to_owned()).or_insert_with(Instant::now);
            }
            let quarantine = self.context.options.missing_node_quarantine;
            since.iter().filter(|(_, since)| since.elapsed() >= quarantine).map(|(name, _)| name.clone()).collect()
        };
        let api: Api<Node> = Api::all(self.context.client.clone());
        let mut gone = HashSet::new();
        for name in due {
            if api.get_metadata_opt(&name).await?.is_none() {
                gone.insert(name);
            }
        }
        Ok(gone)
    }

    fn out_of_service(&self) -> HashSet<String> {
        let is_out = |node: &Node| {
            let tainted =
                node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE);
            let ready = node
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
                .any(|c| c.type_ == "Ready" && c.status == "True");
            tainted && !ready
        };
        let nodes = self.context.caches.nodes.all();
        let out = nodes.iter().filter(|node| is_out(node));
        out.map(|node| node.name_any()).collect()
    }

    async fn remove(&self, pod: &Pod, why: Why) -> Result<(), kube::Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &namespace);
        let name = pod.name_any();
        let uid = pod.uid().unwrap_or_default();
        tracing::info!(namespace, name, ?why, "removing a pod");
        if why == Why::NodeGone && !pods::is_terminal(pod) {
            // Whoever counts failures sees that this one was not the pod's fault.
            let patch = json!({
                "metadata": {"uid": uid},
                "status": {"phase": "Failed", "conditions": [{
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists",
                    "lastTransitionTime": time(Timestamp::now()),
                }]},
            });
            api.patch_status(&name, &patch_params(), &Patch::Strategic(&patch)).await?;
        }
        let params = delete_params(&uid).grace_period(0);
        api.delete(&name, &params).await.map(|_| ())
    }
}

impl Controller for PodGc {
    type Key = ();

    fn name(&self) -> &'static str {
        "pod-gc"
    }

    fn queue(&self) -> &Queue<()> {
        &self.queue
    }

    async fn reconcile(&self, (): &()) -> Result<Outcome, Error> {
        let all = self.context.caches.pods.all();
        let plan = plan(&Observed {
            gone_nodes: &self.gone_nodes(&all).await?,
            out_of_service: &self.out_of_service(),
            ended_max: self.context.options.terminated_pod_threshold,
            pods: &all,
        });
        futures::stream::iter(plan)
            .for_each_concurrent(REQUESTS_MAX, |(pod, why)| async move {
                match self.remove(&pod, why).await {
                    Err(error) if !is_not_found(&error) => {
                        tracing::warn!(pod = %Key::of(&*pod), error = message_of(&error), "pod not removed");
                    }
                    _ => {}
                }
            })
            .await;
        Ok(Outcome::After(PERIOD))
    }
}
