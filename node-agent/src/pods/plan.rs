//! Decides the next step for one pod. Pure: in go the pod, what the runtime has of it, the worker's memory and the time;
//! out come at most one [`Step`], the containers now waiting in back-off, and when to look again if nothing happens.
//!
//! One step at a time: whatever it does, the next look starts from what is then there. So a lost reply, a crash of the
//! agent or a container that ends meanwhile need no cases of their own.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::backoff::go_duration;
use super::config::ANNOTATION_RESTART_COUNT;
use super::memory::{Memory, Volumes, Waiting};
use super::spec::{self, ContainerRef, Role};
use super::{resize, resources};
use crate::clock::Moment;
use crate::devices;
use crate::runtime::{ContainerRecord, ContainerState, PodRecord, Resources, SandboxRecord};

/// Annotation on containers: the hash of the spec they were made from.
pub const ANNOTATION_HASH: &str = "io.kubernetes.container.hash";

/// Instances of one container name that are kept of those that ran: the latest and the one before it, whose log `logs -p`
/// shows.
const KEPT_INSTANCES: usize = 2;

/// What is known of a pod at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The pod as the API has it (last had it, if it is gone).
    pub pod: &'a Pod,
    /// Whether the API has it no more.
    pub gone: bool,
    /// What the runtime has.
    pub record: &'a PodRecord,
    /// The worker's memory.
    pub memory: &'a Memory,
}

/// A container to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the Killing event says; `None` is the usual "Stopping container".
    pub message: Option<String>,
    /// Seconds it gets, if not the pod's.
    pub grace_s: Option<i64>,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// See to it that the pod has the devices that its containers ask for, before anything of it is made.
    Claim,
    /// Make a sandbox, after ending what is left in older ones.
    StartSandbox {
        /// Its number.
        attempt: u32,
        /// Containers that still run in older sandboxes.
        kill: Vec<Kill>,
        /// Older sandboxes, to be stopped.
        stop: Vec<String>,
    },
    /// Make the volumes (again).
    MountVolumes,
    /// Make and start one container.
    Start {
        /// Its name.
        name: String,
        /// Its number.
        attempt: u32,
        /// When the instance before it ended, if there was one: the restart counts for the back-off.
        after_failure: Option<Moment>,
    },
    /// End these, one by one of their own accord; the pod goes on.
    Kill {
        /// Which.
        containers: Vec<Kill>,
    },
    /// Give running containers what they are granted now.
    Resize {
        /// The runtime's ids and the names.
        containers: Vec<(String, String)>,
        /// The limits of the pod's cgroup before.
        before: Resources,
    },
    /// End all of the pod's containers: these at once, then sidecars in this order.
    KillPod {
        /// App and init containers.
        containers: Vec<Kill>,
        /// Sidecars, last started first.
        sidecars: Vec<Kill>,
        /// Seconds for all of it.
        grace_s: i64,
    },
    /// Stop these sandboxes (and their network).
    StopSandboxes {
        /// Which.
        ids: Vec<String>,
    },
    /// Unmount volumes and remove the cgroup: nothing of the pod runs.
    CleanUp,
    /// Publish the final status, then delete the pod from the API.
    Finalize,
    /// The API has it no more: remove containers, sandboxes, folders. The worker ends.
    Forget,
    /// Remove dead containers and sandboxes nobody will ask for again.
    Prune {
        /// Containers.
        containers: Vec<String>,
        /// Sandboxes.
        sandboxes: Vec<String>,
    },
    /// The pod ran longer than it may.
    ExceedDeadline,
}

/// What to do now, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The step, if there is one.
    pub step: Option<Step>,
    /// Containers that wait in restart back-off.
    pub back_off: HashMap<String, Waiting>,
    /// Look again then, at the latest.
    pub wake_at: Option<Moment>,
}

impl Plan {
    fn wake(&mut self, at: Moment) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }

    fn then(mut self, step: Step) -> Self {
        self.step = Some(step);
        self
    }
}

/// Whether the pod is to end (or has ended) for good.
pub fn is_ending(seen: &Observed<'_>) -> bool {
    let phase = seen.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    seen.gone
        || seen.pod.metadata.deletion_timestamp.is_some()
        || seen.memory.rejected.is_some()
        || seen.memory.deadline_exceeded
        || seen.memory.order.is_some()
        || matches!(phase, Some("Succeeded" | "Failed"))
        || has_run_its_course(seen.pod, seen.record)
}

/// Whether all containers have ended and none is to be started again.
fn has_run_its_course(pod: &Pod, record: &PodRecord) -> bool {
    let over = |container: ContainerRef<'_>| {
        latest(record, &container.spec.name)
            .filter(|latest| latest.state == ContainerState::Exited)
            .map(|latest| (latest.exit_code, !spec::restarts(pod, container, latest.exit_code)))
    };
    let mut inits = spec::init_containers(pod).filter(|container| container.role == Role::Init);
    if inits.any(|container| over(container).is_some_and(|(code, final_)| code != 0 && final_)) {
        return true;
    }
    let mut apps = spec::app_containers(pod).peekable();
    apps.peek().is_some() && apps.all(|container| over(container).is_some_and(|(_, final_)| final_))
}

/// The newest instance of a container.
pub fn latest<'a>(record: &'a PodRecord, name: &str) -> Option<&'a ContainerRecord> {
    record.containers.iter().filter(|container| container.name == name).max_by_key(|c| (c.attempt, c.created_at))
}

/// The sandbox in which the pod lives, if there is one that lives.
pub fn live_sandbox<'a>(pod: &Pod, record: &'a PodRecord) -> Option<&'a SandboxRecord> {
    let newest = record.sandboxes.iter().max_by_key(|sandbox| (sandbox.attempt, sandbox.created_at))?;
    (newest.ready && (spec::host_network(pod) || !newest.ips.is_empty())).then_some(newest)
}

/// Decides.
pub fn plan(seen: &Observed<'_>, now: Moment) -> Plan {
    if is_ending(seen) {
        return plan_end(seen, now);
    }
    let mut plan = Plan::default();
    if let Some(deadline) = deadline(seen) {
        if deadline <= now {
            return plan.then(Step::ExceedDeadline);
        }
        plan.wake(deadline);
    }
    if let Some(refresh_at) = seen.memory.refresh_at {
        if refresh_at <= now && seen.memory.volumes != Volumes::Removed {
            return plan.then(Step::MountVolumes);
        }
        plan.wake(refresh_at);
    }
    let Some(sandbox) = live_sandbox(seen.pod, seen.record) else {
        return plan_sandbox(seen, now, plan);
    };
    let strays = stray_kills(seen, sandbox);
    if !strays.is_empty() {
        return plan.then(Step::Kill { containers: strays });
    }
    let condemned = condemned(seen, sandbox);
    if !condemned.is_empty() {
        return plan.then(Step::Kill { containers: condemned });
    }
    if let Some(resize) = next_resize(seen, sandbox) {
        let waits = seen.memory.resize_failed.as_ref();
        match waits.and_then(|(failed_at, _)| seen.memory.retries.until("resize", *failed_at, now)) {
            Some(until) => plan.wake(until),
            None => return plan.then(resize),
        }
    }
    let start = next_start(seen, sandbox, now, &mut plan);
    match start {
        Some(start) => match seen.memory.volumes {
            Volumes::Mounted => plan.then(start),
            Volumes::Failed { retry_at } if retry_at > now => {
                plan.wake(retry_at);
                plan
            }
            _ => plan.then(Step::MountVolumes),
        },
        None => plan_prune(seen, plan),
    }
}

/// Until when the pod may run. The kubelet holds its clock against the pod's startTime whenever it looks, so that a clock which is set
/// forward ends pods. Here startTime is believed once, by an agent that finds the pod begun; from then on its time is measured.
fn deadline(seen: &Observed<'_>) -> Option<Moment> {
    let seconds = spec::spec(seen.pod).active_deadline_seconds?;
    Some(seen.memory.active_since?.after(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

fn plan_sandbox(seen: &Observed<'_>, now: Moment, mut plan: Plan) -> Plan {
    if !seen.memory.claimed && running(seen.record).next().is_none() && devices::plan::asks(seen.pod) {
        return plan.then(Step::Claim);
    }
    if let Some(failed_at) = seen.memory.sandbox_failed_at
        && let Some(until) = seen.memory.retries.until("sandbox", failed_at, now)
    {
        plan.wake(until);
        return plan;
    }
    let attempt = seen.record.sandboxes.iter().map(|sandbox| sandbox.attempt + 1).max().unwrap_or(0);
    let kill = running(seen.record).map(|container| kill(container, None)).collect();
    let stop = seen.record.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
    plan.then(Step::StartSandbox { attempt, kill, stop })
}

fn running(record: &PodRecord) -> impl Iterator<Item = &ContainerRecord> {
    // One whose state is unknown is ended like one that runs: only then is it sure not to run twice.
    let alive = |state| matches!(state, ContainerState::Running | ContainerState::Unknown);
    record.containers.iter().filter(move |container| alive(container.state))
}

fn kill(container: &ContainerRecord, message: Option<String>) -> Kill {
    Kill { id: container.id.clone(), name: container.name.clone(), message, grace_s: None }
}

/// What runs and should not: in an older sandbox, an older instance of its name, of a name the spec does not have, or in
/// a state the runtime does not know.
fn stray_kills(seen: &Observed<'_>, sandbox: &SandboxRecord) -> Vec<Kill> {
    let stray = |container: &&ContainerRecord| {
        container.sandbox_id != sandbox.id
            || container.state == ContainerState::Unknown
            || latest(seen.record, &container.name).is_some_and(|latest| latest.id != container.id)
            || (spec::container(seen.pod, &container.name).is_none() && !spec::is_ephemeral(seen.pod, &container.name))
    };
    running(seen.record).filter(stray).map(|container| kill(container, None)).collect()
}

/// What runs and must be started anew: its probes failed, or its spec changed.
fn condemned(seen: &Observed<'_>, sandbox: &SandboxRecord) -> Vec<Kill> {
    let mut kills = Vec::new();
    for container in running(seen.record).filter(|container| container.sandbox_id == sandbox.id) {
        if let Some(condemned) = seen.memory.condemned.get(&container.id) {
            let kill = kill(container, Some(condemned.message.clone()));
            kills.push(Kill { grace_s: condemned.grace_s, ..kill });
            continue;
        }
        let Some(wanted) = spec::container(seen.pod, &container.name) else { continue };
        let made_from = container.annotations.get(ANNOTATION_HASH);
        let changed = made_from.is_some_and(|hash| *hash != spec::container_hash(wanted.spec));
        if changed && wanted.role != Role::Init {
            let message = format!("Container {} definition changed, will be restarted", container.name);
            kills.push(kill(container, Some(message)));
            continue;
        }
        let given = || resize::given(seen.pod, wanted.spec, container, seen.memory);
        if wanted.role != Role::Init && resize::needs_restart(wanted.spec, &given()) {
            let message = format!("Container {} resize requires restart", container.name);
            kills.push(kill(container, Some(message)));
        }
    }
    kills
}

/// Containers that run with other resources than they are granted.
pub fn unequal<'a>(seen: &Observed<'a>, sandbox: &SandboxRecord) -> Vec<(&'a ContainerRecord, ContainerRef<'a>)> {
    let here = running(seen.record).filter(|container| container.sandbox_id == sandbox.id);
    let found = here.filter_map(|record| Some((record, spec::container(seen.pod, &record.name)?)));
    let unequal = |(record, container): &(&ContainerRecord, ContainerRef<'_>)| {
        let given = resize::given(seen.pod, container.spec, record, seen.memory);
        let granted = container.spec.resources.clone().unwrap_or_default();
        container.role != Role::Init && !resize::same(&given, &granted)
    };
    found.filter(unequal).collect()
}

fn next_resize(seen: &Observed<'_>, sandbox: &SandboxRecord) -> Option<Step> {
    let unequal = unequal(seen, sandbox);
    if unequal.is_empty() {
        return None;
    }
    let mut before = resize::wanted(seen.pod);
    for (record, container) in &unequal {
        let given = resize::given(seen.pod, container.spec, record, seen.memory);
        before.insert(container.spec.name.clone(), given);
    }
    let before = resources::pod_cgroup(&resize::as_granted(seen.pod, &before));
    let containers = unequal.iter().map(|(record, _)| (record.id.clone(), record.name.clone())).collect();
    Some(Step::Resize { containers, before })
}

/// The next container to start in this sandbox, if one is due.
fn next_start(seen: &Observed<'_>, sandbox: &SandboxRecord, now: Moment, plan: &mut Plan) -> Option<Step> {
    if let Some(start) = next_ephemeral(seen, sandbox, now, plan) {
        return Some(start);
    }
    let initialized = spec::app_containers(seen.pod).any(|container| {
        let name = &container.spec.name;
        seen.record.containers.iter().any(|c| c.name == *name && c.sandbox_id == sandbox.id)
    });
    for container in spec::init_containers(seen.pod) {
        let here = latest(seen.record, &container.spec.name).filter(|c| c.sandbox_id == sandbox.id);
        match (container.role, here.map(|here| (here.state, here))) {
            (Role::Init, _) if initialized => {}
            (Role::Init, Some((ContainerState::Exited, here))) if here.exit_code == 0 => {}
            (Role::Init, Some((ContainerState::Running | ContainerState::Unknown, _))) => return None,
            (Role::Sidecar, Some((ContainerState::Running, here))) => {
                if !initialized && !has_started(seen.memory, container, here) {
                    return None;
                }
            }
            _ => {
                let start = start(seen, sandbox, container, now, plan);
                if start.is_some() || !initialized {
                    return start;
                }
            }
        }
    }
    spec::app_containers(seen.pod).find_map(|container| {
        let here = latest(seen.record, &container.spec.name).filter(|c| c.sandbox_id == sandbox.id);
        let alive = here.is_some_and(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown));
        if alive { None } else { start(seen, sandbox, container, now, plan) }
    })
}

/// The next ephemeral container that has not been started: they come first, as whoever added one may want to see why the
/// others do not.
fn next_ephemeral(seen: &Observed<'_>, sandbox: &SandboxRecord, now: Moment, plan: &mut Plan) -> Option<Step> {
    let statuses = seen.pod.status.as_ref().and_then(|status| status.ephemeral_container_statuses.as_deref());
    let has_run = |name: &str| {
        let known = statuses.unwrap_or_default().iter().find(|status| status.name == name);
        known.is_some_and(|status| status.container_id.is_some())
    };
    spec::ephemeral_containers(seen.pod).iter().find_map(|ephemeral| {
        let name = &ephemeral.container.name;
        match latest(seen.record, name) {
            Some(last) if last.state != ContainerState::Created => None,
            None if has_run(name) => None,
            _ => start(seen, sandbox, ephemeral.as_ref(), now, plan),
        }
    })
}

/// Whether a running container counts as started: at once without a startup probe.
pub fn has_started(memory: &Memory, container: ContainerRef<'_>, record: &ContainerRecord) -> bool {
    container.spec.startup_probe.is_none() || memory.started.contains(&record.id)
}

fn start(
    seen: &Observed<'_>,
    sandbox: &SandboxRecord,
    container: ContainerRef<'_>,
    now: Moment,
    plan: &mut Plan,
) -> Option<Step> {
    let name = &container.spec.name;
    if let Some(retry_at) = seen.memory.retry_at.get(name).filter(|at| **at > now) {
        plan.wake(*retry_at);
        return None;
    }
    let last = latest(seen.record, name);
    let mut after_failure = None;
    if let Some(last) = last {
        if last.state == ContainerState::Created {
            // Made and never started (the agent died between the two): it is made anew under the same number, or, if the
            // runtime will not let go of it, under the next.
            if seen.memory.stuck.contains(&last.id) {
                return Some(Step::Start { name: name.clone(), attempt: last.attempt + 1, after_failure: None });
            }
            return Some(Step::Prune { containers: vec![last.id.clone()], sandboxes: Vec::new() });
        }
        let fresh_sandbox = last.sandbox_id != sandbox.id;
        let redefined =
            last.annotations.get(ANNOTATION_HASH).is_some_and(|h| *h != spec::container_hash(container.spec));
        let given = resize::given(seen.pod, container.spec, last, seen.memory);
        let changed = redefined || container.role != Role::Init && resize::needs_restart(container.spec, &given);
        let rerun_init = fresh_sandbox && container.role == Role::Init;
        if !rerun_init && !changed && !spec::restarts(seen.pod, container, last.exit_code) {
            return None;
        }
        let ended_at = seen.memory.ended.get(&last.id).copied().unwrap_or(now);
        if !fresh_sandbox && !changed {
            if let Some(until) = seen.memory.restarts.until(name, ended_at, now) {
                plan.wake(until);
                plan.back_off.insert(name.clone(), crash_loop(seen, name));
                return None;
            }
            after_failure = Some(ended_at);
        }
    }
    let attempt = last.map_or_else(|| lost_attempts(seen.pod, name), |last| last.attempt + 1);
    Some(Step::Start { name: name.clone(), attempt, after_failure })
}

/// How often a container had been restarted when this instance of it was started. Not the instance's number: one that
/// never ran has a number too.
pub fn restarts(instance: &ContainerRecord) -> u32 {
    let count = instance.annotations.get(ANNOTATION_RESTART_COUNT).and_then(|count| count.parse().ok());
    count.unwrap_or(instance.attempt)
}

/// [`restarts`] of the instance that is to be started as number `attempt`.
pub fn restarts_of_next(record: &PodRecord, name: &str, attempt: u32) -> u32 {
    match latest(record, name) {
        Some(last) if last.state == ContainerState::Created => restarts(last),
        Some(last) => restarts(last) + 1,
        None => attempt,
    }
}

/// If the runtime knows nothing of a container that the pod's status has seen run, its number goes on from there. One that
/// was made and never started did not run: its number is used again. A status that names no container has already counted
/// the one that is lost.
fn lost_attempts(pod: &Pod, name: &str) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let mut all = lists.into_iter().flatten().flatten();
    let Some(known) = all.find(|status| status.name == name) else { return 0 };
    let ended = known.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let waits = known.state.as_ref().is_some_and(|state| state.waiting.is_some());
    let ran =
        known.container_id.is_some() && (!waits || ended.is_some_and(|ended| ended.container_id == known.container_id));
    u32::try_from(known.restart_count).unwrap_or(0) + u32::from(ran)
}

fn crash_loop(seen: &Observed<'_>, name: &str) -> Waiting {
    let delay = go_duration(seen.memory.restarts.delay(name));
    let pod = spec::full_name(&spec::identity(seen.pod));
    Waiting {
        reason: "CrashLoopBackOff".into(),
        message: format!("back-off {delay} restarting failed container={name} pod={pod}"),
    }
}

fn plan_prune(seen: &Observed<'_>, plan: Plan) -> Plan {
    let mut by_name: HashMap<&str, Vec<&ContainerRecord>> = HashMap::new();
    // One that never ran tells nothing of those that did, and stands in the place of none.
    for container in seen.record.containers.iter().filter(|container| container.state != ContainerState::Created) {
        by_name.entry(&container.name).or_default().push(container);
    }
    let mut containers = Vec::new();
    for instances in by_name.values_mut() {
        instances.sort_by_key(|container| std::cmp::Reverse((container.attempt, container.created_at)));
        let surplus = instances.iter().skip(KEPT_INSTANCES);
        containers.extend(surplus.filter(|c| c.state == ContainerState::Exited).map(|c| c.id.clone()));
    }
    containers.sort();
    let newest = seen.record.sandboxes.iter().max_by_key(|sandbox| (sandbox.attempt, sandbox.created_at));
    let empty = |id: &str| !seen.record.containers.iter().any(|c| c.sandbox_id == id && !containers.contains(&c.id));
    let dead = seen.record.sandboxes.iter().filter(|s| !s.ready && newest.is_some_and(|newest| newest.id != s.id));
    let sandboxes: Vec<_> = dead.filter(|s| empty(&s.id)).map(|s| s.id.clone()).collect();
    if containers.is_empty() && sandboxes.is_empty() {
        return plan;
    }
    plan.then(Step::Prune { containers, sandboxes })
}

/// The way down: containers, sandboxes, volumes and cgroup, and last the API's object.
fn plan_end(seen: &Observed<'_>, now: Moment) -> Plan {
    let mut plan = Plan::default();
    let alive: Vec<_> = running(seen.record).collect();
    if !alive.is_empty() {
        let (sidecars, containers) = split_sidecars(seen.pod, &alive);
        return plan.then(Step::KillPod { containers, sidecars, grace_s: grace_s(seen) });
    }
    let ready: Vec<_> = seen.record.sandboxes.iter().filter(|s| s.ready).map(|s| s.id.clone()).collect();
    if !ready.is_empty() {
        return plan.then(Step::StopSandboxes { ids: ready });
    }
    if !seen.memory.cleaned {
        if let Some(failed_at) = seen.memory.delete_retry_at.filter(|at| *at > now) {
            plan.wake(failed_at);
            return plan;
        }
        return plan.then(Step::CleanUp);
    }
    if seen.gone {
        return plan.then(Step::Forget);
    }
    if seen.pod.metadata.deletion_timestamp.is_some() {
        if let Some(retry_at) = seen.memory.delete_retry_at.filter(|at| *at > now) {
            plan.wake(retry_at);
            return plan;
        }
        return plan.then(Step::Finalize);
    }
    plan
}

/// Seconds that all of the pod's containers get together.
pub fn grace_s(seen: &Observed<'_>) -> i64 {
    let own = spec::grace_s(seen.pod);
    seen.memory.order.as_ref().map_or(own, |order| own.min(order.grace_s.max(1)))
}

fn split_sidecars(pod: &Pod, alive: &[&ContainerRecord]) -> (Vec<Kill>, Vec<Kill>) {
    let order: Vec<&str> = spec::init_containers(pod)
        .filter(|container| container.role == Role::Sidecar)
        .map(|container| container.spec.name.as_str())
        .collect();
    let position = |container: &ContainerRecord| order.iter().position(|name| *name == container.name);
    let (mut sidecars, others): (Vec<&ContainerRecord>, Vec<&ContainerRecord>) =
        alive.iter().copied().partition(|container| position(container).is_some());
    sidecars.sort_by_key(|container| std::cmp::Reverse(position(container)));
    let kills = |list: Vec<&ContainerRecord>| list.into_iter().map(|container| kill(container, None)).collect();
    (kills(sidecars), kills(others))
}
