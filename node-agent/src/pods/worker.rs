//! One pod's worker: look, compute the status, plan, act, wait for something to change.
//!
//! At most one step and one status patch are under way. Nothing is polled: the worker sleeps until the pod changes in the
//! API, the runtime says that something of it changed, a step ends, a probe reports, or the plan's own time has come.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::act::{self, Change, Task};
use super::context::Context;
use super::ledger::Short;
use super::memory::{Memory, Volumes, Waiting};
use super::plan::{self, Observed, Plan, Step};
use super::probes::{self, Probes};
use super::resize::{self, Granted};
use super::status::{self, Sources};
use super::{Order, PodEntry, mirror, publish, resources, spec, start, termination, volumes};
use crate::clock::{self, Moment, Now};
use crate::runtime::{ContainerState, PodRecord};

/// How long a look is put off while a step runs: what the step itself changes need not be seen twice.
const SETTLE: Duration = Duration::from_millis(250);
/// See [`Worker::fresh_since`].
const FRESH: Duration = Duration::from_secs(1);
/// How soon a failed look or patch is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the API wants of a pod.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The pod as the API has it, or last had it.
    pub pod: Arc<Pod>,
    /// Whether the API has it no more.
    pub gone: bool,
    /// Whether it comes from what the node has kept: the API has not been heard of yet.
    pub kept: bool,
}

/// How a worker is reached.
#[derive(Clone)]
pub struct Inbox {
    /// What is wanted.
    pub wanted: watch::Receiver<Wanted>,
    /// Something of the pod changed in the runtime.
    pub changed: Arc<Notify>,
    /// What the node wants of it.
    pub order: watch::Receiver<Option<Order>>,
}

struct Running {
    future: BoxFuture<'static, Vec<Change>>,
    cancel: CancellationToken,
    is_kill: bool,
    grace_s: i64,
}

/// The worker of one pod.
pub struct Worker {
    context: Arc<Context>,
    inbox: Inbox,
    wanted: Wanted,
    /// What the node has agreed to give the pod's containers.
    granted: Granted,
    /// The pod with that in the place of what it wants: what is acted on.
    pod: Arc<Pod>,
    /// Tells when other pods have given something back.
    freed: watch::Receiver<u64>,
    record: Arc<PodRecord>,
    memory: Memory,
    probes: Probes,
    /// The status last computed.
    status: Arc<PodStatus>,
    /// What the API is believed to have.
    published: Option<PodStatus>,
    /// resourceVersion of the last patch's answer: older news of the pod say nothing of its status.
    patched_version: u64,
    first_seen: Instant,
    first_running: bool,
    /// Whether the pod has been looked at since the worker began.
    looked: bool,
}

impl Worker {
    /// A worker for a pod; `rejected` if the node will not have it.
    pub fn new(context: Arc<Context>, inbox: Inbox, rejected: Option<Waiting>) -> Self {
        let wanted = inbox.wanted.borrow().clone();
        let published = wanted.pod.status.clone();
        let mut memory = Memory { rejected, ..Memory::default() };
        memory.start_time = published.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
        memory.refresh_at = volumes::next_refresh(&wanted.pod, clock::steady());
        let granted = resize::granted_before(&wanted.pod);
        Self {
            pod: Arc::new(resize::as_granted(&wanted.pod, &granted)),
            granted,
            freed: context.ledger.freed(),
            context,
            inbox,
            record: Arc::new(PodRecord { pod: spec::identity(&wanted.pod), ..PodRecord::default() }),
            memory,
            probes: Probes::default(),
            status: Arc::new(published.clone().unwrap_or_default()),
            published,
            wanted,
            patched_version: 0,
            first_seen: Instant::now(),
            first_running: false,
            looked: false,
        }
    }

    /// Works until the pod is gone and forgotten, or until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut step: Option<Running> = None;
        let mut patch: Option<BoxFuture<'static, (PodStatus, Result<Pod, kube::Error>)>> = None;
        let mut patch_after: Option<Moment> = None;
        let mut look = true;
        let mut wake_at: Option<Moment> = None;
        loop {
            if look {
                look = false;
                match self.look(step.is_some()).await {
                    Ok(plan) => {
                        wake_at = plan.wake_at;
                        if let (Some(next), None) = (plan.step, &step) {
                            step = Some(self.begin(next));
                        }
                    }
                    Err(error) => {
                        debug!(%error, "cannot look at a pod");
                        wake_at = Some(clock::steady().after(RETRY));
                    }
                }
            }
            if patch.is_none() && patch_after.is_none_or(|at| at <= clock::steady()) && self.must_publish() {
                patch_after = None;
                patch = Some(self.patch());
            }
            let alarm = [wake_at, patch_after].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changes = running(&mut step) => {
                    step = None;
                    look = true;
                    if self.apply_all(changes) {
                        return;
                    }
                }
                (status, result) = optional(&mut patch) => {
                    patch = None;
                    patch_after = self.patched(status, result);
                }
                Ok(()) = self.inbox.order.changed() => {
                    self.memory.order.clone_from(&self.inbox.order.borrow_and_update());
                    // What is under way and no end is pointless now, and an end has to come sooner.
                    if let Some(step) = &step {
                        step.cancel.cancel();
                    }
                    look = true;
                }
                Ok(()) = self.freed.changed(), if matches!(self.memory.short, Some(Short::Deferred(_))) => look = true,
                changed = self.inbox.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    look |= self.take_wanted(step.as_ref());
                }
                report = self.probes.next() => {
                    if let Some(report) = report {
                        probes::apply(report, &mut self.memory);
                        look = true;
                    }
                }
                () = self.inbox.changed.notified() => {
                    if step.is_some() {
                        wake_at = Some(clock::steady().after(SETTLE));
                    } else {
                        look = true;
                    }
                }
                () = sleep_until(alarm) => {
                    look |= wake_at.is_some_and(|at| at <= clock::steady());
                    if patch_after.is_some_and(|at| at <= clock::steady()) {
                        patch_after = None;
                    }
                }
            }
        }
    }

    /// Observes, computes the status and plans.
    async fn look(&mut self, busy: bool) -> Result<Plan, crate::runtime::RuntimeError> {
        let uid = spec::identity(&self.wanted.pod).uid;
        let mut record = self.context.runtime.pod(&uid).await?;
        start::undo_interrupted(&mut record, &self.context.paths).await;
        let now = Now::read();
        let ids: HashSet<&str> = record.containers.iter().map(|container| container.id.as_str()).collect();
        self.memory.keep_only(&ids);
        self.memory.see(&record, now);
        termination::read(&record, &mut self.memory, &self.wanted.pod, &self.context.paths, now.steady).await;
        self.record = Arc::new(record);
        self.looked = true;
        let now = Now::read();
        let (pod, gone) = (&self.wanted.pod, self.wanted.gone);
        let ending = plan::is_ending(&Observed { pod, gone, record: &self.record, memory: &self.memory });
        self.grant(ending);
        let seen = Observed { pod: &self.pod, gone: self.wanted.gone, record: &self.record, memory: &self.memory };
        let plan = plan::plan(&seen, now.steady);
        let alive = |state| matches!(state, ContainerState::Running | ContainerState::Unknown);
        let ended = ending
            && !self.record.containers.iter().any(|container| alive(container.state))
            && !self.record.sandboxes.iter().any(|sandbox| sandbox.ready);
        self.compute(&plan.back_off, ended, now.wall);
        self.tell_back_off(&plan.back_off, busy);
        self.probes.fit(&self.context, &self.wanted.pod, &self.record, &mut self.memory, ending);
        self.show();
        Ok(plan)
    }

    /// Agrees to what the spec wants now, if the node has it. A pod that ends keeps what it has.
    fn grant(&mut self, ending: bool) {
        let wanted = resize::wanted(&self.wanted.pod);
        if wanted == self.granted {
            self.memory.short = None;
            self.pod = self.wanted.pod.clone();
            return;
        }
        if ending {
            self.pod = Arc::new(resize::as_granted(&self.wanted.pod, &self.granted));
            return;
        }
        // What is freed from here on may be what is missing.
        self.freed.borrow_and_update();
        let requests = resources::pod_requests(&self.wanted.pod);
        let uid = spec::identity(&self.wanted.pod).uid;
        match self.context.ledger.change(&uid, requests, &self.context.allocatable) {
            Ok(()) => {
                self.granted = wanted;
                self.memory.short = None;
                self.memory.resize_failed = None;
                self.pod = self.wanted.pod.clone();
            }
            Err(short) => {
                if self.memory.short.as_ref() != Some(&short) {
                    let (reason, message) = match &short {
                        Short::Deferred(why) => ("ResizeDeferred", format!("Pod resize Deferred: {why}")),
                        Short::Infeasible(why) => ("ResizeInfeasible", format!("Pod resize Infeasible: {why}")),
                    };
                    self.context.events.pod(&self.wanted.pod, super::events::Kind::Warning, reason, message);
                }
                self.memory.short = Some(short);
                self.pod = Arc::new(resize::as_granted(&self.wanted.pod, &self.granted));
            }
        }
    }

    fn compute(&mut self, back_off: &HashMap<String, Waiting>, ended: bool, now: Timestamp) {
        if self.wanted.gone {
            return;
        }
        let sources = Sources {
            pod: &self.pod,
            old: &self.status,
            record: &self.record,
            memory: &self.memory,
            back_off,
            ended,
            host_ips: &self.context.host_ips,
            scheme: self.context.runtime.scheme(),
            now,
        };
        let status = status::compute(&sources);
        if !self.first_running && status.phase.as_deref() == Some("Running") {
            self.first_running = true;
            self.context.metrics.pod_running(self.first_seen.elapsed());
        }
        self.status = Arc::new(status);
    }

    fn tell_back_off(&mut self, back_off: &HashMap<String, Waiting>, busy: bool) {
        let who = spec::identity(&self.wanted.pod);
        for name in back_off.keys() {
            let told = self.memory.waiting.get(name).is_some_and(|waiting| waiting.reason == "CrashLoopBackOff");
            if busy || told {
                continue;
            }
            let message = format!("Back-off restarting failed container {name} in pod {}", spec::full_name(&who));
            self.context.events.container(&self.wanted.pod, name, super::events::Kind::Warning, "BackOff", message);
            self.memory.waiting.insert(name.clone(), back_off[name].clone());
        }
    }

    /// Lets the node's API see what is known.
    fn show(&self) {
        let who = spec::identity(&self.wanted.pod);
        let mut pod = (*self.wanted.pod).clone();
        pod.status = Some((*self.status).clone());
        let entry = PodEntry { pod: Arc::new(pod), record: self.record.clone() };
        self.context.directory.put(&who.namespace, &who.name, entry);
    }

    fn leave(&self) {
        let who = spec::identity(&self.wanted.pod);
        self.context.directory.remove(&who.namespace, &who.name, &who.uid);
    }

    fn begin(&mut self, step: Step) -> Running {
        let cancel = CancellationToken::new();
        let (pod, gone) = (&self.wanted.pod, self.wanted.gone);
        let grace_s = plan::grace_s(&Observed { pod, gone, record: &self.record, memory: &self.memory });
        let is_kill = matches!(step, Step::KillPod { .. } | Step::Kill { .. });
        if let Step::MountVolumes = step {
            self.memory.refresh_at = volumes::next_refresh(&self.wanted.pod, clock::steady());
        }
        let task = Task {
            context: self.context.clone(),
            pod: self.pod.clone(),
            record: self.record.clone(),
            cancel: cancel.clone(),
            fresh_since: self.fresh_since(),
            status: self.status.clone(),
        };
        Running { future: act::run(task, step).boxed(), cancel, is_kill, grace_s }
    }

    /// How old the objects may be which a step reads. Never older than the pod; and while something is missing, or a
    /// container is started, only a moment, so that a burst of pods shares one answer.
    fn fresh_since(&self) -> Instant {
        let now = Instant::now();
        let horizon = match self.memory.volumes {
            Volumes::Mounted => volumes::REFRESH_TOLERANCE,
            _ => FRESH,
        };
        now.checked_sub(horizon).unwrap_or(now).max(self.first_seen)
    }

    /// Takes over what the API now wants; true if it matters.
    fn take_wanted(&mut self, step: Option<&Running>) -> bool {
        let new = self.inbox.wanted.borrow_and_update().clone();
        let matters = new.gone != self.wanted.gone || spec::acts_differ(&self.wanted.pod, &new.pod);
        let repair = self.overwritten(&new.pod);
        if self.wanted.kept && !new.kept {
            // Now it is known what the API has of the status.
            self.published.clone_from(&new.pod.status);
        }
        if spec::is_from_file(&new.pod) {
            // It is told of only when something happened to its mirror.
            self.published = None;
        }
        self.wanted = new;
        let ending = self.wanted.gone || self.wanted.pod.metadata.deletion_timestamp.is_some();
        if let Some(step) = step
            && ending
            && (!step.is_kill || spec::grace_s(&self.wanted.pod) < step.grace_s)
        {
            step.cancel.cancel();
        }
        matters || repair
    }

    /// Whether someone else has written over our part of the status (as the node lifecycle does when a node was lost).
    fn overwritten(&mut self, pod: &Pod) -> bool {
        let version = version(pod);
        let (Some(theirs), Some(ours)) = (&pod.status, &self.published) else { return false };
        if version <= self.patched_version || self.patched_version == 0 || own_part(theirs) == own_part(ours) {
            return false;
        }
        self.published = Some(theirs.clone());
        true
    }

    fn must_publish(&self) -> bool {
        !self.wanted.gone && !self.wanted.kept && self.looked && self.published.as_ref() != Some(&*self.status)
    }

    fn patch(&self) -> BoxFuture<'static, (PodStatus, Result<Pod, kube::Error>)> {
        let (context, pod) = (self.context.clone(), self.wanted.pod.clone());
        let (before, status) = (self.published.clone(), self.status.clone());
        let again = self.patched_version > 0;
        async move {
            let result = match spec::is_from_file(&pod) {
                true => mirror::publish(&context, &pod, &status, again).await,
                false => publish::publish(&context, &pod, before.as_ref(), &status).await,
            };
            ((*status).clone(), result)
        }
        .boxed()
    }

    /// Takes over a patch's result; returns when the next one may be tried.
    fn patched(&mut self, status: PodStatus, result: Result<Pod, kube::Error>) -> Option<Moment> {
        match result {
            Ok(pod) => {
                self.patched_version = self.patched_version.max(version(&pod));
                self.published = Some(status);
                None
            }
            Err(error) if publish::is_gone(&error) && !spec::is_from_file(&self.wanted.pod) => {
                // The watch will say so; until then there is nobody to tell.
                self.published = Some(status);
                None
            }
            Err(error) => {
                warn!(pod = ?self.wanted.pod.metadata.name, %error, "cannot publish a pod's status");
                Some(clock::steady().after(RETRY))
            }
        }
    }

    /// Takes a step's changes over; true if nothing of the pod is left.
    fn apply_all(&mut self, changes: Vec<Change>) -> bool {
        let forgotten = changes.iter().any(|change| matches!(change, Change::Forgotten));
        for change in changes {
            self.apply(change);
        }
        if forgotten {
            self.leave();
        }
        forgotten
    }

    fn apply(&mut self, change: Change) {
        let now = clock::steady();
        let memory = &mut self.memory;
        match change {
            Change::Claimed => memory.claimed = true,
            Change::Refused(why) => {
                memory.rejected = Some(why);
                self.context.ledger.release(&spec::identity(&self.wanted.pod).uid);
            }
            Change::SandboxMade => {
                memory.sandbox_failed_at = None;
                memory.retries.reset("sandbox");
            }
            Change::SandboxFailed => {
                memory.retries.bump("sandbox", now, now);
                memory.sandbox_failed_at = Some(now);
            }
            Change::VolumesMounted => {
                memory.volumes = Volumes::Mounted;
                memory.retries.reset("volumes");
            }
            Change::VolumesFailed if memory.volumes == Volumes::Mounted => {
                // What is mounted stays as it was; the next refresh tries again.
            }
            Change::VolumesFailed => {
                memory.retries.bump("volumes", now, now);
                memory.volumes = Volumes::Failed { retry_at: now.after(memory.retries.delay("volumes")) };
            }
            Change::Started { name, after_failure } => {
                memory.retries.reset(&name);
                memory.waiting.remove(&name);
                memory.retry_at.remove(&name);
                if let Some(failed_at) = after_failure {
                    memory.restarts.bump(&name, failed_at, now);
                }
            }
            Change::StartFailed { name, waiting, retry_at, counts_after } => {
                if let Some(failed_at) = counts_after {
                    memory.restarts.bump(&name, failed_at, now);
                }
                let retry_at = retry_at.unwrap_or_else(|| {
                    memory.retries.bump(&name, now, now);
                    now.after(memory.retries.delay(&name))
                });
                memory.retry_at.insert(name.clone(), retry_at);
                memory.waiting.insert(name, waiting);
            }
            Change::Condemned { id, message } => {
                memory.condemned.insert(id, super::memory::Condemned { message, grace_s: None });
            }
            Change::NotPruned { containers } => memory.stuck.extend(containers),
            Change::Resized { id, resources } => {
                memory.given.insert(id, *resources);
                memory.resize_failed = None;
                memory.retries.reset("resize");
            }
            Change::ResizeFailed { message } => {
                memory.retries.bump("resize", now, now);
                memory.resize_failed = Some((now, message));
            }
            Change::CleanedUp => {
                memory.cleaned = true;
                memory.volumes = Volumes::Removed;
                memory.delete_retry_at = None;
            }
            Change::EndFailed => memory.delete_retry_at = Some(now.after(RETRY)),
            Change::DeadlineExceeded => memory.deadline_exceeded = true,
            Change::Published(status) => self.published = Some(*status),
            Change::Forgotten => {}
        }
    }
}

/// The agent's own part of a status, roughly: enough to notice that another has written there.
fn own_part(status: &PodStatus) -> (Option<&str>, Option<&str>, Vec<(&str, &str)>) {
    let conditions = status.conditions.iter().flatten();
    let mut own: Vec<_> = conditions
        .filter(|condition| status::OWN_CONDITIONS.contains(&condition.type_.as_str()))
        .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
        .collect();
    own.sort_unstable();
    (status.phase.as_deref(), status.pod_ip.as_deref(), own)
}

/// A pod's resourceVersion as a number; 0 if it is none.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

async fn running(step: &mut Option<Running>) -> Vec<Change> {
    match step {
        Some(step) => (&mut step.future).await,
        None => pending().await,
    }
}

async fn optional<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn sleep_until(at: Option<Moment>) {
    match at {
        Some(at) => {
            tokio::time::sleep(at.since(clock::steady())).await;
        }
        None => pending().await,
    }
}
