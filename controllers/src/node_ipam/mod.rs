//! Gives each node its part of the cluster's pod range as `spec.podCIDR` and `spec.podCIDRs`.
//!
//! What is given out is read from the nodes themselves, so nothing is kept anywhere else.

mod plan;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::Patch;
use kube::{Api, ResourceExt};
use serde_json::json;

use self::plan::Pool;
use crate::machinery::Error;
use crate::machinery::cache::Key;
use crate::machinery::context::Context;
use crate::machinery::events::{Kind, Recorder};
use crate::machinery::patch::patch_params;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};

/// A node that found no free range tries again after this time.
const FULL_RETRY: Duration = Duration::from_secs(30);

/// See the module's description.
#[derive(Debug)]
pub struct NodeIpamController {
    context: Arc<Context>,
    queue: Arc<Queue<String>>,
    pool: Arc<Mutex<Pool>>,
    events: Recorder,
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

fn range_of(node: &Node) -> Option<&str> {
    let spec = node.spec.as_ref()?;
    spec.pod_cidr
        .as_deref()
        .or_else(|| spec.pod_cidrs.as_ref()?.first().map(String::as_str))
        .filter(|range| !range.is_empty())
}

impl NodeIpamController {
    /// The controller, listening to the shared caches. Fails if the ranges in the options make no sense.
    pub fn new(context: Arc<Context>) -> Result<Arc<Self>, String> {
        let options = &context.options;
        let pool = Pool::new(&options.cluster_cidr, options.node_cidr_mask)?;
        let pool = Arc::new(Mutex::new(pool));
        let queue: Arc<Queue<String>> = Arc::default();
        let (keys, ranges) = (queue.clone(), pool.clone());
        context.caches.nodes.on_change(move |change| {
            match (change.old, change.new) {
                (Some(old), None) => lock(&ranges).release(&old.name_any()),
                (_, Some(node)) => match range_of(node) {
                    Some(range) => lock(&ranges).occupy(&node.name_any(), range),
                    None => keys.add(node.name_any()),
                },
                (None, None) => {}
            };
        });
        Ok(Arc::new(NodeIpamController { events: context.events.for_component("cidrAllocator"), queue, pool, context }))
    }
}

impl Controller for NodeIpamController {
    type Key = String;

    fn name(&self) -> &'static str {
        "node-ipam"
    }

    fn queue(&self) -> &Queue<String> {
        &self.queue
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, Error> {
        let key = Key::cluster(name.clone());
        let Some(node) = self.context.caches.nodes.get(&key) else {
            return Ok(Outcome::Done);
        };
        if range_of(&node).is_some() || node.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let range = lock(&self.pool).allocate(name);
        let Some(range) = range else {
            let message = format!("Node {name} status is now: CIDRNotAvailable");
            self.events.event(&*node, Kind::Normal, "CIDRNotAvailable", message);
            return Ok(Outcome::After(FULL_RETRY));
        };
        let patch = json!({
            "metadata": {"uid": node.uid()},
            "spec": {"podCIDR": range, "podCIDRs": [range]},
        });
        let api: Api<Node> = Api::all(self.context.client.clone());
        api.patch(name, &patch_params(), &Patch::Merge(&patch)).await?;
        tracing::info!(node = name, range, "pod range given out");
        Ok(Outcome::Done)
    }
}
