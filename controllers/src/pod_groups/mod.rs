//! The PodGroup controller: tells how far the pods of each group have come.
//!
//! Watches PodGroups and Pods, by the label that names the group. Writes the group's status; what the scheduler does with
//! groups does not depend on it. What it decides is in [`plan`].

pub(crate) mod kind;
mod plan;

use std::sync::Arc;

use gantry_api::meta::POD_GROUP_LABEL;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};

use self::kind::PodGroup;
use self::plan::plan;
use crate::machinery::cache::{Change, Key};
use crate::machinery::context::Context;
use crate::machinery::patch::write_status;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, pods};

/// See the module's description.
#[derive(Debug)]
pub struct PodGroupsController {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

/// The group that a pod names.
fn group_of(pod: &Pod) -> Option<Key> {
    let name = pod.labels().get(POD_GROUP_LABEL)?;
    Some(Key::new(pod.namespace().unwrap_or_default(), name.clone()))
}

/// The index name of a group's pods.
fn of_group(key: &Key) -> String {
    format!("group/{key}")
}

/// The index name that a pod has for its group.
pub(crate) fn pod_index(pod: &Pod) -> Option<String> {
    group_of(pod).map(|key| of_group(&key))
}

/// Whether a pod's change can change what is told of its group.
fn matters(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    let seen = |pod: &Pod| (pods::phase(pod).to_owned(), pods::node_name(pod).is_empty(), group_of(pod));
    seen(old) != seen(new)
}

impl PodGroupsController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<Key>> = Arc::default();
        let keys = queue.clone();
        context.caches.pod_groups.on_change(move |change| {
            if let Some(group) = change.new {
                keys.add(Key::of(&**group));
            }
        });
        let (keys, groups) = (queue.clone(), context.caches.pod_groups.clone());
        context.caches.pods.on_change(move |change| {
            if !change.sides().any(|pod| pod.labels().contains_key(POD_GROUP_LABEL)) || !matters(change) {
                return;
            }
            let named = change.sides().filter_map(|pod| group_of(pod));
            named.filter(|key| groups.get(key).is_some()).for_each(|key| keys.add(key));
        });
        Arc::new(PodGroupsController { context, queue })
    }
}

impl Controller for PodGroupsController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "pod-groups"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        let Some(group) = caches.pod_groups.get(key) else { return Ok(Outcome::Done) };
        let status = plan(&group, &caches.pods.indexed(&of_group(key)), Timestamp::now());
        let api: Api<PodGroup> = Api::namespaced(self.context.client.clone(), &key.namespace);
        write_status(&api, &*group, &group.status, &status).await?;
        Ok(Outcome::Done)
    }
}
