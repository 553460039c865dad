//! A Deployment's status: counts, conditions, and when to look again for a roll-out that hangs. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use kube::ResourceExt;

use super::sets::desired_of;
use crate::machinery::objects::{time, to_second};

/// The Deployment has the pods it needs.
pub const AVAILABLE: &str = "Available";
/// The roll-out goes on.
pub const PROGRESSING: &str = "Progressing";
/// Pods can't be made or removed.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Reasons of the condition Progressing.
pub mod reason {
    /// All replicas of the new ReplicaSet are available.
    pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
    /// A ReplicaSet was made for the template.
    pub const NEW_SET: &str = "NewReplicaSetCreated";
    /// There was a ReplicaSet for the template.
    pub const FOUND_NEW_SET: &str = "FoundNewReplicaSet";
    /// ReplicaSets were scaled.
    pub const SET_UPDATED: &str = "ReplicaSetUpdated";
    /// The ReplicaSet could not be made.
    pub const FAILED_CREATE: &str = "ReplicaSetCreateError";
    /// No progress for longer than the deadline.
    pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
    /// The roll-out was paused.
    pub const PAUSED: &str = "DeploymentPaused";
    /// The roll-out was resumed.
    pub const RESUMED: &str = "DeploymentResumed";
}

/// The deadline for progress, if there is one.
pub fn progress_deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).filter(|seconds| *seconds != i32::MAX)
}

/// The condition of this type.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// A condition as of now.
pub fn new_condition(kind: &str, value: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    }
}

/// Sets a condition; one with the same value and reason stays as it is, and the time of the last transition is
/// kept while the value is the same.
pub fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    let conditions = status.conditions.get_or_insert_default();
    if let Some(present) = conditions.iter().find(|c| c.type_ == condition.type_) {
        if present.status == condition.status && present.reason == condition.reason {
            return;
        }
        if present.status == condition.status {
            condition.last_transition_time = present.last_transition_time.clone();
        }
    }
    conditions.retain(|c| c.type_ != condition.type_);
    conditions.push(condition);
}

/// Takes a condition away.
pub fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

/// The pods of a ReplicaSet, by its status.
pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// The available pods of a ReplicaSet, by its status.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn some_if_any(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The status before the progress of the roll-out is judged. `wanted` is the sum of what the sets are asked for,
/// `conditions_from` carries the conditions so far.
pub fn counted<'a>(
    deployment: &Deployment,
    sets: impl Iterator<Item = &'a ReplicaSet> + Clone,
    new_set: Option<&ReplicaSet>,
    wanted: i32,
    max_unavailable: i32,
    conditions_from: &DeploymentStatus,
    now: Timestamp,
) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| sets.clone().map(count).sum::<i32>();
    let available_count = sum(available);
    let ready = sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
    let terminating = sets.clone().try_fold(0, |total, set| {
        let count = set.status.as_ref().map_or(Some(0), |s| s.terminating_replicas);
        count.map(|count| total + count)
    });
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some_if_any(sum(actual)),
        updated_replicas: some_if_any(new_set.map_or(0, actual)),
        ready_replicas: some_if_any(ready),
        available_replicas: some_if_any(available_count),
        unavailable_replicas: some_if_any((wanted - available_count).max(0)),
        terminating_replicas: terminating,
        collision_count: conditions_from.collision_count,
        conditions: conditions_from.conditions.clone(),
    };
    let enough = available_count >= desired_of(deployment) - max_unavailable;
    let condition = if enough {
        new_condition(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".into(), now)
    } else {
        new_condition(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".into(),
            now,
        )
    };
    set_condition(&mut status, condition);
    status
}

/// All pods are of the present template and available, and no old ones are left.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = desired_of(deployment);
    let is = |count: Option<i32>| count.unwrap_or(0) == desired;
    is(status.updated_replicas)
        && is(status.replicas)
        && is(status.available_replicas)
        && status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let old_pods = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(after.updated_replicas) > n(before.updated_replicas)
        || old_pods(after) < old_pods(before)
        || n(after.ready_replicas) > n(before.ready_replicas)
        || n(after.available_replicas) > n(before.available_replicas)
}

fn has_timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let (Some(deadline), Some(progressing)) = (progress_deadline(deployment), condition(status, PROGRESSING)) else {
        return false;
    };
    match progressing.reason.as_deref() {
        Some(reason::NEW_SET_AVAILABLE) => return false,
        Some(reason::TIMED_OUT) => return true,
        _ => {}
    }
    progressing
        .last_update_time
        .as_ref()
        .is_some_and(|from| now.duration_since(from.0) > SignedDuration::from_secs(deadline.into()))
}

/// Judges the progress of the roll-out and sets the condition Progressing.
pub fn judge_progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    new_set: Option<&ReplicaSet>,
    now: Timestamp,
) {
    if progress_deadline(deployment).is_none() {
        remove_condition(status, PROGRESSING);
        return;
    }
    let before = deployment.status.clone().unwrap_or_default();
    let current = condition(status, PROGRESSING).cloned();
    let was_complete = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(reason::NEW_SET_AVAILABLE));
    if was_complete {
        return;
    }
    let who = match new_set {
        Some(set) => format!("ReplicaSet \"{}\"", set.name_any()),
        None => format!("Deployment \"{}\"", deployment.name_any()),
    };
    if is_complete(deployment, status) {
        let message = format!("{who} has successfully progressed.");
        let condition = new_condition(PROGRESSING, "True", reason::NEW_SET_AVAILABLE, message, now);
        set_condition(status, condition);
    } else if has_progressed(&before, status) {
        let message = format!("{who} is progressing.");
        let mut condition = new_condition(PROGRESSING, "True", reason::SET_UPDATED, message, now);
        if let Some(current) = current.filter(|c| c.status == "True") {
            condition.last_transition_time = current.last_transition_time;
        }
        // Set anew each time, for the time of the last update is what the deadline counts from.
        remove_condition(status, PROGRESSING);
        set_condition(status, condition);
    } else if has_timed_out(deployment, status, now) {
        let message = format!("{who} has timed out progressing.");
        let condition = new_condition(PROGRESSING, "False", reason::TIMED_OUT, message, now);
        set_condition(status, condition);
    }
}

/// Carries a failure of the ReplicaSets over, the new one's first.
pub fn carry_failure<'a>(
    status: &mut DeploymentStatus,
    sets: impl Iterator<Item = &'a ReplicaSet>,
    new_set: Option<&'a ReplicaSet>,
) {
    let failure = new_set.into_iter().chain(sets).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    });
    match failure {
        None => remove_condition(status, REPLICA_FAILURE),
        Some(failure) => set_condition(
            status,
            DeploymentCondition {
                type_: REPLICA_FAILURE.into(),
                status: failure.status.clone(),
                reason: failure.reason.clone(),
                message: failure.message.clone(),
                last_transition_time: failure.last_transition_time.clone(),
                last_update_time: failure.last_transition_time.clone(),
            },
        ),
    }
}

/// Sets the conditions of a roll-out that was paused or resumed, so that the time in between does not count
/// towards the deadline.
pub fn mark_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    if progress_deadline(deployment).is_none() {
        return;
    }
    let current = condition(status, PROGRESSING).and_then(|c| c.reason.as_deref());
    if current == Some(reason::TIMED_OUT) {
        return;
    }
    let was_paused = current == Some(reason::PAUSED);
    let is_paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let (reason, message) = match (is_paused, was_paused) {
        (true, false) => (reason::PAUSED, "Deployment is paused"),
        (false, true) => (reason::RESUMED, "Deployment is resumed"),
        _ => return,
    };
    let condition = new_condition(PROGRESSING, "Unknown", reason, message.into(), now);
    set_condition(status, condition);
}

/// After how long a roll-out that makes no progress has to be looked at again.
pub fn deadline_check(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<std::time::Duration> {
    let deadline = progress_deadline(deployment)?;
    let progressing = condition(status, PROGRESSING)?;
    if is_complete(deployment, status)
        || progressing.reason.as_deref() == Some(reason::TIMED_OUT)
        || progressing.reason.as_deref() == Some(reason::PAUSED)
    {
        return None;
    }
    let passed = now.duration_since(progressing.last_update_time.as_ref()?.0);
    let left = SignedDuration::from_secs(deadline.into()).saturating_sub(passed);
    let seconds = u64::try_from(left.as_secs()).unwrap_or(0);
    Some(std::time::Duration::from_secs(seconds + 1))
}

/// The status of a Deployment whose new ReplicaSet could not be made.
pub fn creation_failed(
    deployment: &Deployment,
    set_name: &str,
    error: &str,
    now: Timestamp,
) -> Option<DeploymentStatus> {
    progress_deadline(deployment)?;
    let mut status = deployment.status.clone().unwrap_or_default();
    let message = format!("Failed to create new replica set \"{set_name}\": {error}");
    let condition = new_condition(PROGRESSING, "False", reason::FAILED_CREATE, message, to_second(now));
    set_condition(&mut status, condition);
    Some(status)
}
