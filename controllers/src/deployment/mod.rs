//! The Deployment controller: rolls a template out through ReplicaSets.
//!
//! Watches Deployments, ReplicaSets and (for the strategy Recreate) Pods. Writes ReplicaSets, the Deployment's
//! status and revision, and the event `ScalingReplicaSet`. What it decides is in [`plan`].
//!
//! ```text
//! Deployment ─┐
//! ReplicaSet ─┼─▶ queue ─▶ claim ReplicaSets ─▶ plan ─▶ create/resize/remove ─▶ status
//! Pod ────────┘
//! ```

mod plan;
mod sets;
#[cfg(test)]
mod simulation;
mod status;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Patch;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use self::plan::{Edit, Observed, Plan, Step, plan};
use self::sets::{REVISION, replicas_of, same_template, template_of};
use self::status::creation_failed;
use crate::machinery::cache::{Change, Key};
use crate::machinery::claim::claim;
use crate::machinery::context::{Caches, Context, STALE_RETRY};
use crate::machinery::events::Kind;
use crate::machinery::objects::Matcher;
use crate::machinery::owners::{controlled_by, controller_of, is_controlled_by};
use crate::machinery::patch::{delete_params, patch_params, post_params, write_status};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::workload::{Begin, Workload};
use crate::machinery::{Error, is_already_exists, is_namespace_terminating, is_not_found, message_of, pods};

/// See the module's description.
#[derive(Debug)]
pub struct DeploymentController {
    workload: Workload,
}

impl DeploymentController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let workload = Workload::new(context, "deployment-controller");
        workload.listen_to(&workload.caches().deployments);
        listen(workload.caches(), &workload.queue);
        Arc::new(DeploymentController { workload })
    }
}

fn listen(caches: &Caches, queue: &Arc<Queue<Key>>) {
    let (keys, deployments) = (queue.clone(), caches.deployments.clone());
    caches.replica_sets.on_change(move |change| {
        for set in change.sides() {
            if let Some(key) = deployment_key(set) {
                keys.add(key);
            } else if change.new.is_some() {
                let namespace = set.namespace().unwrap_or_default();
                for deployment in deployments.in_namespace(&namespace) {
                    if matcher(&deployment).is_ok_and(|matcher| matcher.takes(set.labels())) {
                        keys.add(Key::of(&*deployment));
                    }
                }
            }
        }
    });
    let (keys, sets) = (queue.clone(), caches.replica_sets.clone());
    caches.pods.on_change(move |change| {
        // Only the end of a pod matters: Recreate waits for it.
        if let Some(key) = ended_pod(change).and_then(|pod| {
            let owner = controller_of(&pod.metadata)?;
            let namespace = pod.namespace().unwrap_or_default();
            let set = sets.get(&Key::new(namespace, owner.name.clone()))?;
            deployment_key(&set)
        }) {
            keys.add(key);
        }
    });
}

fn ended_pod<'a>(change: &Change<'a, Pod>) -> Option<&'a Pod> {
    match (change.old, change.new) {
        (Some(old), None) => Some(old),
        (Some(old), Some(new)) if !pods::is_terminal(old) && pods::is_terminal(new) => Some(new),
        _ => None,
    }
}

fn deployment_key(set: &ReplicaSet) -> Option<Key> {
    let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    Some(Key::new(set.namespace().unwrap_or_default(), owner.name.clone()))
}

fn matcher(deployment: &Deployment) -> Result<Matcher, Error> {
    let selector = deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
    Matcher::new(&selector, || format!("Deployment {}", Key::of(deployment)))
}

impl Controller for DeploymentController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "deployment"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.workload.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let caches = self.workload.caches();
        let deployment = match self.workload.begin(key, &caches.deployments, &caches.replica_sets) {
            Begin::Gone => return Ok(Outcome::Done),
            Begin::Stale => return Ok(Outcome::After(STALE_RETRY)),
            Begin::Ready(deployment) => deployment,
        };
        let matcher = matcher(&deployment)?;
        if matcher.is_empty() {
            self.refuse_empty_selector(&deployment).await?;
            return Ok(Outcome::Done);
        }
        let client = &self.workload.context.client;
        let sets = claim(client, &*deployment, &matcher, &caches.replica_sets).await?;
        let running_pods = running_pods(caches, &sets);
        let plan =
            plan(Observed { deployment: &deployment, sets: &sets, running_pods: &running_pods, now: Timestamp::now() });
        self.act(key, &deployment, plan).await
    }
}

fn running_pods(caches: &Caches, sets: &[Arc<ReplicaSet>]) -> HashMap<String, usize> {
    let mut running = HashMap::new();
    for set in sets {
        let uid = set.uid().unwrap_or_default();
        let pods = caches.pods.indexed(&controlled_by(&uid));
        let count = pods.iter().filter(|pod| !pods::is_terminal(pod)).count();
        running.insert(uid, count);
    }
    running
}

impl DeploymentController {
    fn api(&self, key: &Key) -> Api<Deployment> {
        self.workload.api(key)
    }

    fn sets_api(&self, key: &Key) -> Api<ReplicaSet> {
        self.workload.api(key)
    }

    async fn act(&self, key: &Key, observed: &Deployment, plan: Plan) -> Result<Outcome, Error> {
        let mut current = observed.clone();
        for step in plan.steps {
            match step {
                Step::Create(set) => self.create(key, &current, &set).await?,
                Step::Change(edit) => self.change(key, &current, &edit).await?,
                Step::Remove(set) => self.remove(key, &set).await?,
                Step::NoteRevision(revision) => {
                    let patch = json!({"metadata": {
                        "uid": current.uid(),
                        "annotations": {REVISION: revision},
                    }});
                    current = self.api(key).patch(&key.name, &patch_params(), &Patch::Merge(&patch)).await?;
                }
            }
        }
        let before = observed.status.clone().unwrap_or_default();
        let written = write_status(&self.api(key), &current, &before, &plan.status).await?;
        let newest = written.as_ref().unwrap_or(&current);
        self.workload.own.wrote(key, &self.workload.context.caches.deployments, newest);
        Ok(plan.again.map_or(Outcome::Done, Outcome::After))
    }

    async fn create(&self, key: &Key, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        let api = self.sets_api(key);
        let cache = &self.workload.context.caches.replica_sets;
        match api.create(&post_params(), set).await {
            Ok(created) => {
                self.workload.fresh.wrote(key, cache, &created);
                if replicas_of(set) > 0 {
                    self.tell_scaled(deployment, set, 0, replicas_of(set));
                }
                Ok(())
            }
            Err(error) if is_already_exists(&error) => self.settle_clash(key, deployment, set).await,
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let words = message_of(&error);
                self.workload.events.event(
                    deployment,
                    Kind::Warning,
                    "ReplicaSetCreateError",
                    format!("Failed to create new replica set \"{}\": {words}", set.name_any()),
                );
                let before = deployment.status.clone().unwrap_or_default();
                let failed = creation_failed(deployment, &set.name_any(), &words, Timestamp::now());
                if let Some(failed) = failed {
                    write_status(&self.api(key), deployment, &before, &failed).await?;
                }
                Err(error.into())
            }
        }
    }

    /// A ReplicaSet of the wanted name exists: it is ours from a moment ago, or the hash clashes and has to change.
    async fn settle_clash(&self, key: &Key, deployment: &Deployment, set: &ReplicaSet) -> Result<(), Error> {
        let present = self.sets_api(key).get(&set.name_any()).await?;
        let ours =
            is_controlled_by(&present.metadata, deployment) && same_template(&template_of(&present), &template_of(set));
        if ours {
            self.workload.fresh.wrote(key, &self.workload.context.caches.replica_sets, &present);
            return Ok(());
        }
        let before = deployment.status.clone().unwrap_or_default();
        let mut after = before.clone();
        after.collision_count = Some(before.collision_count.unwrap_or(0).saturating_add(1));
        write_status(&self.api(key), deployment, &before, &after).await?;
        Err(Error::Retry("the name of the new ReplicaSet is taken, trying another"))
    }

    async fn change(&self, key: &Key, deployment: &Deployment, edit: &Edit) -> Result<(), Error> {
        let set = &edit.set;
        let mut patch = json!({"metadata": {
            "uid": set.uid(),
            "resourceVersion": set.resource_version(),
        }});
        if !edit.annotations.is_empty() {
            patch["metadata"]["annotations"] = json!(edit.annotations);
        }
        let mut spec = serde_json::Map::new();
        if let Some((_, replicas)) = edit.scale {
            spec.insert("replicas".into(), replicas.into());
        }
        if let Some(seconds) = edit.min_ready_seconds {
            spec.insert("minReadySeconds".into(), seconds.into());
        }
        if !spec.is_empty() {
            patch["spec"] = Value::Object(spec);
        }
        let changed = self.sets_api(key).patch(&set.name_any(), &patch_params(), &Patch::Merge(&patch)).await?;
        self.workload.fresh.wrote(key, &self.workload.context.caches.replica_sets, &changed);
        if let Some((from, to)) = edit.scale {
            self.tell_scaled(deployment, set, from, to);
        }
        Ok(())
    }

    async fn remove(&self, key: &Key, set: &ReplicaSet) -> Result<(), Error> {
        let uid = set.uid().unwrap_or_default();
        let deleted = self.sets_api(key).delete(&set.name_any(), &delete_params(&uid)).await;
        match deleted {
            Ok(_) => {
                let cache = &self.workload.context.caches.replica_sets;
                self.workload.fresh.deleted(key, cache, Key::of(set), uid);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let name = set.name_any();
        self.workload.events.event(
            deployment,
            Kind::Normal,
            "ScalingReplicaSet",
            format!("Scaled {direction} replica set {name} from {from} to {to}"),
        );
    }

    async fn refuse_empty_selector(&self, deployment: &Deployment) -> Result<(), Error> {
        self.workload.events.event(
            deployment,
            Kind::Warning,
            "SelectingAll",
            "This deployment is selecting all pods. A non-empty selector is required.".into(),
        );
        let before = deployment.status.clone().unwrap_or_default();
        let mut after = before.clone();
        after.observed_generation = deployment.metadata.generation;
        let api = self.api(&Key::of(deployment));
        write_status(&api, deployment, &before, &after).await?;
        Ok(())
    }
}
