//! The kinds that keep so many pods of a template, and in what they differ: the form of the selector and of the status.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde::Serialize;

use crate::machinery::cache::Cache;
use crate::machinery::context::Caches;
use crate::machinery::workload::Cached;

/// A kind that keeps so many pods of a template.
pub trait Replicas: Cached + Serialize {
    /// The controller's name in logs and metrics.
    const NAME: &'static str;
    /// Its name in events.
    const COMPONENT: &'static str;
    /// The status.
    type Status: Clone + Default + Serialize + Send + Sync;

    /// Where its objects are cached.
    fn cache(caches: &Caches) -> &Arc<Cache<Self>>;
    /// Which pods it takes.
    fn selector(&self) -> LabelSelector;
    /// How many pods it is asked to have.
    fn replicas(&self) -> i32;
    /// For how long a pod must be ready to count as available.
    fn min_ready_seconds(&self) -> i32;
    /// What its pods are like.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The status as it is.
    fn status(&self) -> Self::Status;
    /// The conditions as they are.
    fn conditions(&self) -> Vec<Condition>;
    /// The status with these numbers and conditions.
    fn new_status(&self, counts: Counts, conditions: Vec<Condition>) -> Self::Status;
}

/// A condition of either kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// The type.
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in a word.
    pub reason: Option<String>,
    /// Why.
    pub message: Option<String>,
    /// Since when.
    pub last_transition_time: Option<Time>,
}

/// The pods of a set, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that run or will.
    pub active: i32,
    /// Those with all labels of the template.
    pub fully_labeled: i32,
    /// Those that are ready.
    pub ready: i32,
    /// Those that have been ready for long enough.
    pub available: i32,
    /// Those that are being deleted.
    pub terminating: i32,
}

fn some_if_any(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

macro_rules! conditions {
    ($status:expr) => {
        $status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten()
            .map(|condition| Condition {
                type_: condition.type_.clone(),
                status: condition.status.clone(),
                reason: condition.reason.clone(),
                message: condition.message.clone(),
                last_transition_time: condition.last_transition_time.clone(),
            })
            .collect()
    };
}

macro_rules! typed {
    ($type:ident, $conditions:expr) => {{
        let conditions: Vec<$type> = $conditions
            .into_iter()
            .map(|condition| $type {
                type_: condition.type_,
                status: condition.status,
                reason: condition.reason,
                message: condition.message,
                last_transition_time: condition.last_transition_time,
            })
            .collect();
        (!conditions.is_empty()).then_some(conditions)
    }};
}

impl Replicas for ReplicaSet {
    const NAME: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";
    type Status = ReplicaSetStatus;

    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.replica_sets
    }

    fn selector(&self) -> LabelSelector {
        self.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default()
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn conditions(&self) -> Vec<Condition> {
        conditions!(self.status.as_ref())
    }

    fn new_status(&self, counts: Counts, conditions: Vec<Condition>) -> ReplicaSetStatus {
        ReplicaSetStatus {
            replicas: counts.active,
            fully_labeled_replicas: some_if_any(counts.fully_labeled),
            ready_replicas: some_if_any(counts.ready),
            available_replicas: some_if_any(counts.available),
            terminating_replicas: Some(counts.terminating),
            observed_generation: self.metadata.generation,
            conditions: typed!(ReplicaSetCondition, conditions),
        }
    }
}

impl Replicas for ReplicationController {
    const NAME: &'static str = "replicationcontroller";
    const COMPONENT: &'static str = "replication-controller";
    type Status = ReplicationControllerStatus;

    fn cache(caches: &Caches) -> &Arc<Cache<Self>> {
        &caches.replication_controllers
    }

    fn selector(&self) -> LabelSelector {
        let selector = self.spec.as_ref().and_then(|spec| spec.selector.clone());
        LabelSelector { match_labels: selector, match_expressions: None }
    }

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn status(&self) -> ReplicationControllerStatus {
        self.status.clone().unwrap_or_default()
    }

    fn conditions(&self) -> Vec<Condition> {
        conditions!(self.status.as_ref())
    }

    fn new_status(&self, counts: Counts, conditions: Vec<Condition>) -> ReplicationControllerStatus {
        ReplicationControllerStatus {
            replicas: counts.active,
            fully_labeled_replicas: some_if_any(counts.fully_labeled),
            ready_replicas: some_if_any(counts.ready),
            available_replicas: some_if_any(counts.available),
            observed_generation: self.metadata.generation,
            conditions: typed!(ReplicationControllerCondition, conditions),
        }
    }
}
