//! Decides what a Deployment does next: which ReplicaSets to make, resize or remove, and what status to show.
//!
//! In: the Deployment, the ReplicaSets it controls, how many pods of each still run, and the time. Out: a [`Plan`].
//! No I/O. Each plan is one step of a roll-out; the changes that it causes bring the next.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kube::ResourceExt;

use super::sets::{
    DESIRED_REPLICAS, MAX_REPLICAS, REVISION, desired_of, new_set, new_set_annotations, number, replicas_of,
    revision_of, same_template, size_annotations, template_of,
};
use super::status::{
    PROGRESSING, actual, available, carry_failure, condition, counted, deadline_check, is_complete, judge_progress,
    mark_pause, new_condition, progress_deadline, reason, set_condition,
};
use crate::machinery::objects::scaled;

/// What is known about a Deployment.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// The ReplicaSets that it controls.
    pub sets: &'a [Arc<ReplicaSet>],
    /// How many pods have not ended, by the UID of their ReplicaSet. Only asked for by the strategy Recreate.
    pub running_pods: &'a HashMap<String, usize>,
    /// The present time.
    pub now: Timestamp,
}

/// One write.
#[derive(Clone, Debug)]
pub enum Step {
    /// Make this ReplicaSet.
    Create(Box<ReplicaSet>),
    /// Change a ReplicaSet.
    Change(Edit),
    /// Remove a ReplicaSet that has no pods.
    Remove(Arc<ReplicaSet>),
    /// Note the revision on the Deployment.
    NoteRevision(String),
}

/// The changes to one ReplicaSet, written together.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Which.
    pub set: Arc<ReplicaSet>,
    /// From how many replicas to how many, if that changes.
    pub scale: Option<(i32, i32)>,
    /// Annotations to set.
    pub annotations: BTreeMap<String, String>,
    /// The Deployment's minReadySeconds, if the set has another.
    pub min_ready_seconds: Option<i32>,
}

/// What to do, in order, then the status to show, then when to look again.
#[derive(Debug)]
pub struct Plan {
    /// The writes.
    pub steps: Vec<Step>,
    /// The status as it should be.
    pub status: DeploymentStatus,
    /// Look again after this time even if nothing changes.
    pub again: Option<Duration>,
}

/// Decides what to do next.
pub fn plan(observed: Observed<'_>) -> Plan {
    let mut rollout = Rollout::new(observed);
    let spec = observed.deployment.spec.as_ref();
    let paused = spec.and_then(|spec| spec.paused).unwrap_or(false);
    if observed.deployment.metadata.deletion_timestamp.is_some() {
        return rollout.finish(false);
    }
    mark_pause(observed.deployment, &mut rollout.base, observed.now);
    rollout.sync_new_set();
    if paused {
        rollout.scale_all();
        rollout.clean_up_history();
        rollout.finish(false)
    } else if rollout.was_scaled() {
        rollout.scale_all();
        rollout.finish(false)
    } else {
        if rollout.recreates {
            rollout.recreate();
        } else {
            rollout.roll();
        }
        rollout.finish(true)
    }
}

/// The surge and the unavailability that a rolling update may cause, resolved to numbers: percentages of surge
/// round up, of unavailability down, and both can't be 0.
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let desired = desired_of(deployment);
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    if recreates(deployment) {
        return (0, 0);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let surge = surge.map_or(0, |value| scaled(value, desired, true));
    let unavailable = unavailable.map_or(0, |value| scaled(value, desired, false));
    if surge == 0 && unavailable == 0 { (0, 1.min(desired)) } else { (surge, unavailable.min(desired)) }
}

fn recreates(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.type_.as_deref())
        == Some("Recreate")
}

/// A ReplicaSet as this plan leaves it.
struct Set {
    set: Arc<ReplicaSet>,
    replicas: i32,
    annotations: BTreeMap<String, String>,
    min_ready_seconds: Option<i32>,
}

impl Set {
    fn uid(&self) -> &str {
        self.set.metadata.uid.as_deref().unwrap_or_default()
    }
}

struct Rollout<'a> {
    observed: Observed<'a>,
    desired: i32,
    surge: i32,
    unavailable: i32,
    recreates: bool,
    /// Oldest first.
    sets: Vec<Set>,
    /// Which of `sets` has the present template.
    new: Option<usize>,
    revision: i64,
    steps: Vec<Step>,
    /// The status so far, for its conditions.
    base: DeploymentStatus,
}

impl<'a> Rollout<'a> {
    fn new(observed: Observed<'a>) -> Self {
        let deployment = observed.deployment;
        let mut sorted: Vec<Arc<ReplicaSet>> = observed.sets.to_vec();
        sorted.sort_by_key(|set| (set.creation_timestamp(), set.name_any()));
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        let new =
            template.and_then(|template| sorted.iter().position(|set| same_template(&template_of(set), template)));
        let newest_old =
            sorted.iter().enumerate().filter(|(at, _)| Some(*at) != new).map(|(_, set)| revision_of(set)).max();
        let (surge, unavailable) = fenceposts(deployment);
        Rollout {
            desired: desired_of(deployment),
            surge,
            unavailable,
            recreates: recreates(deployment),
            sets: sorted
                .into_iter()
                .map(|set| Set {
                    replicas: replicas_of(&set),
                    annotations: BTreeMap::new(),
                    min_ready_seconds: None,
                    set,
                })
                .collect(),
            new,
            revision: newest_old.unwrap_or(0).saturating_add(1),
            steps: Vec::new(),
            base: deployment.status.clone().unwrap_or_default(),
            observed,
        }
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<'a> {
        let new = self.new;
        (0..self.sets.len()).filter(move |at| Some(*at) != new)
    }

    fn active(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|at| self.sets[*at].replicas > 0).collect()
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(|set| set.replicas).sum()
    }

    /// Brings revision, annotations and minReadySeconds of the present template's set up to date, if it exists.
    fn sync_new_set(&mut self) {
        let Some(at) = self.new else { return };
        let deployment = self.observed.deployment;
        let set = &mut self.sets[at];
        set.annotations = new_set_annotations(deployment, set.set.annotations(), self.revision);
        let of_deployment = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
        let of_set = set.set.spec.as_ref().and_then(|s| s.min_ready_seconds);
        if of_deployment.unwrap_or(0) != of_set.unwrap_or(0) {
            set.min_ready_seconds = Some(of_deployment.unwrap_or(0));
        }
        let revision = set.annotations.get(REVISION).or_else(|| set.set.annotations().get(REVISION)).cloned();
        let name = set.set.name_any();
        if let Some(revision) = revision {
            self.note_revision(revision);
        }
        if progress_deadline(deployment).is_some() && condition(&self.base, PROGRESSING).is_none() {
            let message = format!("Found new replica set \"{name}\"");
            let found = new_condition(PROGRESSING, "True", reason::FOUND_NEW_SET, message, self.observed.now);
            set_condition(&mut self.base, found);
        }
    }

    fn note_revision(&mut self, revision: String) {
        if self.observed.deployment.annotations().get(REVISION) != Some(&revision) {
            self.steps.push(Step::NoteRevision(revision));
        }
    }

    /// Whether the Deployment was resized since its sets were. Recreating with several active sets takes them all
    /// to nothing anyway.
    fn was_scaled(&self) -> bool {
        let active = self.active();
        if self.recreates && active.len() > 1 {
            return false;
        }
        active.into_iter().any(|at| {
            number(self.sets[at].set.annotations(), DESIRED_REPLICAS)
                .is_some_and(|desired| desired != i64::from(self.desired))
        })
    }

    fn resize(&mut self, at: usize, replicas: i32) {
        let size = size_annotations(self.desired, self.surge);
        let set = &mut self.sets[at];
        for (name, value) in size {
            if set.set.annotations().get(&name) != Some(&value) {
                set.annotations.insert(name, value);
            }
        }
        set.replicas = replicas.max(0);
    }

    fn create_new_set(&mut self) {
        let deployment = self.observed.deployment;
        let replicas = self.new_set_size(0);
        let set = new_set(deployment, replicas, self.revision, self.surge);
        if progress_deadline(deployment).is_some() {
            let message = format!("Created new replica set \"{}\"", set.name_any());
            let now = self.observed.now;
            let created = new_condition(PROGRESSING, "True", reason::NEW_SET, message, now);
            set_condition(&mut self.base, created);
        }
        self.steps.push(Step::Create(Box::new(set)));
        self.note_revision(self.revision.to_string());
    }

    /// How large the present template's set may be, given its size now.
    fn new_set_size(&self, now: i32) -> i32 {
        if self.recreates {
            return self.desired;
        }
        let room = self.desired.saturating_add(self.surge) - self.total();
        if room <= 0 {
            return now;
        }
        now + room.min(self.desired - now)
    }

    /// One step of a rolling update.
    fn roll(&mut self) {
        let Some(new) = self.new else {
            self.create_new_set();
            return;
        };
        let size = self.sets[new].replicas;
        if size != self.desired {
            let target = if size > self.desired { self.desired } else { self.new_set_size(size) };
            self.resize(new, target);
            if target != size {
                return;
            }
        } else {
            // Keeps the size annotations right after a change of the surge.
            self.resize(new, size);
        }
        if self.shrink_old_sets(new) {
            return;
        }
        let status = self.observed.deployment.status.clone().unwrap_or_default();
        if is_complete(self.observed.deployment, &status) {
            self.clean_up_history();
        }
    }

    /// Takes pods from old sets as far as availability allows, unhealthy ones first.
    fn shrink_old_sets(&mut self, new: usize) -> bool {
        let old: Vec<usize> = self.old().filter(|at| self.sets[*at].replicas > 0).collect();
        if old.is_empty() {
            return false;
        }
        let minimum = self.desired - self.unavailable;
        let new_unavailable = self.sets[new].replicas - available(&self.sets[new].set);
        let removable = self.total() - minimum - new_unavailable;
        if removable <= 0 {
            return false;
        }
        let mut removed = 0;
        for at in &old {
            let size = self.sets[*at].replicas;
            let healthy = available(&self.sets[*at].set);
            let unhealthy = (size - healthy).max(0).min(removable - removed);
            if unhealthy > 0 {
                self.resize(*at, size - unhealthy);
                removed += unhealthy;
            }
        }
        // A status may lag behind a set that was just shrunk: never count more than the set is asked for.
        let all_available: i32 = self.sets.iter().map(|set| available(&set.set).min(set.replicas)).sum();
        let mut spare = all_available - minimum;
        for at in old {
            let size = self.sets[at].replicas;
            let part = size.min(spare);
            if part > 0 {
                self.resize(at, size - part);
                spare -= part;
                removed += part;
            }
        }
        removed > 0
    }

    /// One step of the strategy Recreate: all old pods must have ended before the first new one is made.
    fn recreate(&mut self) {
        let old: Vec<usize> = self.old().filter(|at| self.sets[*at].replicas > 0).collect();
        if !old.is_empty() {
            for at in old {
                self.resize(at, 0);
            }
            return;
        }
        if self.old_pods_run() {
            return;
        }
        let Some(new) = self.new else {
            self.create_new_set();
            return;
        };
        let changes = self.sets[new].replicas != self.desired;
        self.resize(new, self.desired);
        let status = self.observed.deployment.status.clone().unwrap_or_default();
        if !changes && is_complete(self.observed.deployment, &status) {
            self.clean_up_history();
        }
    }

    fn old_pods_run(&self) -> bool {
        if self.old().any(|at| actual(&self.sets[at].set) > 0) {
            return true;
        }
        let new = self.new.map(|at| self.sets[at].uid());
        self.observed.running_pods.iter().any(|(uid, pods)| *pods > 0 && Some(uid.as_str()) != new)
    }

    /// Follows a change of the Deployment's size, or of anything while paused, without moving the roll-out on.
    fn scale_all(&mut self) {
        let active = self.active();
        if active.len() <= 1 {
            let newest_old = self.old().last();
            let only = active.first().copied().or(self.new).or(newest_old);
            if let Some(only) = only {
                let wrong_size = self.sets[only].replicas != self.desired;
                // A set of the right size still notes it, so that the change is not seen as one again.
                if wrong_size || !active.is_empty() {
                    self.resize(only, self.desired);
                }
            }
            return;
        }
        if self.new_set_is_saturated() {
            for at in self.old().collect::<Vec<_>>() {
                if self.sets[at].replicas > 0 {
                    self.resize(at, 0);
                }
            }
            return;
        }
        if !self.recreates {
            self.scale_in_proportion(active);
        }
    }

    fn new_set_is_saturated(&self) -> bool {
        let Some(new) = self.new.map(|at| &self.sets[at]) else {
            return false;
        };
        let noted = number(new.set.annotations(), DESIRED_REPLICAS);
        new.replicas == self.desired && noted == Some(self.desired.into()) && available(&new.set) == self.desired
    }

    /// Spreads a change of size over the active sets in proportion to their sizes.
    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let allowed = if self.desired > 0 { self.desired.saturating_add(self.surge) } else { 0 };
        let to_add = allowed - self.total();
        // Larger sets first; of the same size the newer when growing, the older when shrinking.
        active.sort_by(|a, b| {
            let by_size = self.sets[*b].replicas.cmp(&self.sets[*a].replicas);
            by_size.then(if to_add > 0 { b.cmp(a) } else { a.cmp(b) })
        });
        let mut added = 0;
        let mut sizes = Vec::new();
        for at in &active {
            let part = self.proportion(&self.sets[*at], to_add, added);
            sizes.push(self.sets[*at].replicas + part);
            added += part;
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (at, size) in active.into_iter().zip(sizes) {
            self.resize(at, size);
        }
    }

    fn proportion(&self, set: &Set, to_add: i32, added: i32) -> i32 {
        if set.replicas == 0 || to_add == 0 || to_add == added {
            return 0;
        }
        let fraction = self.fraction(set);
        let left = to_add - added;
        // A set never grows while the Deployment shrinks or the other way round, whatever its annotations say.
        fraction.clamp(left.min(0), left.max(0))
    }

    fn fraction(&self, set: &Set) -> i32 {
        if self.desired == 0 {
            return -set.replicas;
        }
        let max_now = f64::from(self.desired.saturating_add(self.surge));
        let max_before = number(set.set.annotations(), MAX_REPLICAS)
            .filter(|max| *max > 0)
            .or_else(|| {
                let status = self.observed.deployment.status.as_ref()?;
                status.replicas.map(i64::from)
            })
            .unwrap_or(0);
        if max_before == 0 {
            return 0;
        }
        #[expect(clippy::cast_precision_loss, reason = "replica counts are 32 bits wide")]
        let size = f64::from(set.replicas) * max_now / max_before as f64;
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
        let rounded = size.round() as i32;
        rounded.saturating_sub(set.replicas)
    }

    /// Removes the oldest of the old, empty sets beyond the history's limit.
    fn clean_up_history(&mut self) {
        let spec = self.observed.deployment.spec.as_ref();
        let Some(limit) = spec.and_then(|spec| spec.revision_history_limit) else {
            return;
        };
        if limit == i32::MAX {
            return;
        }
        let mut old: Vec<(Arc<ReplicaSet>, i32)> = self
            .old()
            .map(|at| &self.sets[at])
            .filter(|set| set.set.metadata.deletion_timestamp.is_none())
            .map(|set| (set.set.clone(), set.replicas))
            .collect();
        let limit = usize::try_from(limit).unwrap_or(0);
        let excess = old.len().saturating_sub(limit);
        old.sort_by_key(|(set, _)| (revision_of(set), set.creation_timestamp(), set.name_any()));
        for (set, replicas) in old.into_iter().take(excess) {
            let observed = set.status.as_ref().and_then(|s| s.observed_generation);
            let in_use = actual(&set) != 0
                || replicas != 0
                || replicas_of(&set) != 0
                || set.metadata.generation.unwrap_or(0) > observed.unwrap_or(0);
            if !in_use {
                self.steps.push(Step::Remove(set));
            }
        }
    }

    /// The plan. While a roll-out goes on its progress is judged too.
    fn finish(mut self, judges: bool) -> Plan {
        let (deployment, now) = (self.observed.deployment, self.observed.now);
        let mut edits = Vec::new();
        for set in &mut self.sets {
            let before = replicas_of(&set.set);
            let scale = (before != set.replicas).then_some((before, set.replicas));
            let annotations = std::mem::take(&mut set.annotations);
            if scale.is_some() || !annotations.is_empty() || set.min_ready_seconds.is_some() {
                edits.push(Step::Change(Edit {
                    set: set.set.clone(),
                    scale,
                    annotations,
                    min_ready_seconds: set.min_ready_seconds,
                }));
            }
        }
        edits.append(&mut self.steps);
        let new = self.new.map(|at| &*self.sets[at].set);
        let all = self.sets.iter().map(|set| &*set.set);
        let wanted = self.total();
        let mut status = counted(deployment, all.clone(), new, wanted, self.unavailable, &self.base, now);
        if judges {
            judge_progress(deployment, &mut status, new, now);
            carry_failure(&mut status, all, new);
        }
        let again = judges.then(|| deadline_check(deployment, &status, now)).flatten();
        Plan { steps: edits, status, again }
    }
}
