//! Carries out one step of a plan. In: the step and the pod. Out: what changed, for the worker's memory. A step reports
//! failure, it never returns an error: the next plan starts from what is there.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{LifecycleHandler, Pod, PodStatus, ResourceRequirements};
use kube::api::{Api, DeleteParams, Preconditions};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::backoff::go_duration;
use super::check::{self, Question, Target};
use super::context::Context;
use super::events::Kind;
use super::memory::Waiting;
use super::plan::{Kill, Step};
use super::{config, publish, resize, spec, start, volumes};
use crate::clock::Moment;
use crate::runtime::{PodRecord, Resources, RuntimeError};

/// Seconds a container gets even when its preStop hook used them all up.
const GRACE_AFTER_HOOK: Duration = Duration::from_secs(2);

/// What a step changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// The pod has the devices that it asks for.
    Claimed,
    /// The node cannot give the pod what it asks for, and will not have it.
    Refused(Waiting),
    /// The sandbox runs.
    SandboxMade,
    /// It could not be made.
    SandboxFailed,
    /// All volumes are there.
    VolumesMounted,
    /// They are not.
    VolumesFailed,
    /// A container was started.
    Started {
        /// Which.
        name: String,
        /// When the instance before it failed.
        after_failure: Option<Moment>,
    },
    /// A container could not be started.
    StartFailed {
        /// Which.
        name: String,
        /// Why.
        waiting: Waiting,
        /// When to try again; `None` by the usual short back-off.
        retry_at: Option<Moment>,
        /// When the instance before it failed, if an instance was made in spite of the failure.
        counts_after: Option<Moment>,
    },
    /// A container's postStart hook failed.
    Condemned {
        /// The runtime's id.
        id: String,
        /// The message of the Killing event.
        message: String,
    },
    /// The runtime would not remove these containers.
    NotPruned {
        /// The runtime's ids.
        containers: Vec<String>,
    },
    /// A container was given these.
    Resized {
        /// The runtime's id.
        id: String,
        /// The resources.
        resources: Box<ResourceRequirements>,
    },
    /// A container could not be given what it was granted.
    ResizeFailed {
        /// Why.
        message: String,
    },
    /// Volumes and cgroup are gone.
    CleanedUp,
    /// The API would not delete the pod, or something would not go away.
    EndFailed,
    /// The pod ran longer than it may.
    DeadlineExceeded,
    /// Nothing of the pod is left.
    Forgotten,
    /// This was published as the pod's status.
    Published(Box<PodStatus>),
}

/// What a step works on.
#[derive(Clone)]
pub struct Task {
    /// What all workers share.
    pub context: Arc<Context>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// What the runtime had of it when the step was planned.
    pub record: Arc<PodRecord>,
    /// Cancelled when the step has become pointless: waits end early, what has begun is finished.
    pub cancel: CancellationToken,
    /// Objects that the pod's volumes refer to must not be older.
    pub fresh_since: Instant,
    /// The status now computed, for the last one to be published.
    pub status: Arc<PodStatus>,
}

/// Carries out a step.
pub async fn run(task: Task, step: Step) -> Vec<Change> {
    debug!(pod = %spec::full_name(&spec::identity(&task.pod)), ?step, "step");
    match step {
        Step::Claim => task.claim().await.into_iter().collect(),
        Step::StartSandbox { attempt, kill, stop } => task.start_sandbox(attempt, kill, stop).await,
        Step::MountVolumes => vec![task.mount().await],
        Step::Start { name, attempt, after_failure } => start::container(&task, &name, attempt, after_failure).await,
        Step::Kill { containers } => {
            let grace = Duration::from_secs(u64::try_from(spec::grace_s(&task.pod)).unwrap_or(30));
            task.cancellable(task.kill_all(&containers, grace)).await;
            Vec::new()
        }
        Step::Resize { containers, before } => task.resize(&containers, &before).await,
        Step::KillPod { containers, sidecars, grace_s } => {
            let grace = Duration::from_secs(u64::try_from(grace_s).unwrap_or(1));
            task.cancellable(task.kill_pod(&containers, &sidecars, grace)).await;
            Vec::new()
        }
        Step::StopSandboxes { ids } => task.stop_sandboxes(&ids).await,
        Step::CleanUp => task.clean_up().await,
        Step::Finalize => task.finalize().await,
        Step::Forget => task.forget().await,
        Step::Prune { containers, sandboxes } => task.prune(&containers, &sandboxes).await,
        Step::ExceedDeadline => {
            let message = "Pod was active on the node longer than the specified deadline";
            task.context.events.pod(&task.pod, Kind::Normal, "DeadlineExceeded", message);
            vec![Change::DeadlineExceeded]
        }
    }
}

impl Task {
    async fn cancellable(&self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = work => {}
        }
    }

    async fn claim(&self) -> Option<Change> {
        let claimed = tokio::select! {
            () = self.cancel.cancelled() => return None,
            claimed = self.context.devices.claim(&self.pod) => claimed,
        };
        let Err(why) = claimed else { return Some(Change::Claimed) };
        let reason = "UnexpectedAdmissionError";
        let message = format!("Allocate failed due to {why}, which is unexpected");
        self.context.events.pod(&self.pod, Kind::Warning, reason, message.clone());
        Some(Change::Refused(Waiting { reason: reason.into(), message: format!("Pod was rejected: {message}") }))
    }

    async fn mount(&self) -> Change {
        match volumes::mount(&self.context, &self.pod, self.fresh_since).await {
            Ok(()) => Change::VolumesMounted,
            Err(error) => {
                self.context.events.pod(&self.pod, Kind::Warning, "FailedMount", error.to_string());
                Change::VolumesFailed
            }
        }
    }

    async fn start_sandbox(&self, attempt: u32, kill: Vec<Kill>, stop: Vec<String>) -> Vec<Change> {
        let context = &self.context;
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            context.events.pod(&self.pod, Kind::Normal, "SandboxChanged", message);
        }
        let grace = Duration::from_secs(u64::try_from(spec::grace_s(&self.pod)).unwrap_or(30));
        self.kill_all(&kill, grace).await;
        for id in &stop {
            if let Err(error) = context.runtime.stop_sandbox(id).await {
                warn!(sandbox = %id, %error, "cannot stop an old sandbox");
                return vec![Change::SandboxFailed];
            }
        }
        // Volumes are made while the sandbox starts: neither needs the other.
        let (sandbox, volumes) = tokio::join!(self.run_sandbox(attempt), self.mount());
        let sandbox = match sandbox {
            Ok(()) => Change::SandboxMade,
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                context.events.pod(&self.pod, Kind::Warning, "FailedCreatePodSandBox", message);
                Change::SandboxFailed
            }
        };
        vec![sandbox, volumes]
    }

    async fn run_sandbox(&self, attempt: u32) -> Result<(), RuntimeError> {
        let context = &self.context;
        if spec::spec(&self.pod).host_users == Some(false) {
            // With the node's users it would have what its author wanted to keep from it.
            let why = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
            return Err(RuntimeError::Unsupported(why.into()));
        }
        let mut sandbox = config::sandbox(&self.pod, attempt, &context.settings, &context.paths);
        sandbox.handler = self.runtime_handler().await?;
        let failed = |error: std::io::Error| RuntimeError::Failed(error.to_string());
        tokio::fs::create_dir_all(&sandbox.log_directory).await.map_err(failed)?;
        let Ok(_slot) = context.start_slots.acquire().await else {
            return Err(RuntimeError::Unavailable("the agent is stopping".into()));
        };
        let limits = super::resources::pod_cgroup(&self.pod);
        context.runtime.apply_pod_cgroup(&sandbox.cgroup_parent, &limits).await?;
        let began = Instant::now();
        let made = context.runtime.run_sandbox(&sandbox).await.map(drop);
        context.metrics.observe("run_sandbox", began.elapsed(), made.is_ok());
        made
    }

    /// The handler that the pod's RuntimeClass names. Without its class a pod is not run: it may have been chosen to keep the
    /// pod apart.
    async fn runtime_handler(&self) -> Result<String, RuntimeError> {
        let Some(name) = spec::runtime_class(&self.pod) else { return Ok(String::new()) };
        match self.context.objects.runtime_class(name).await {
            Ok(Some(class)) => Ok(class.handler),
            Ok(None) => Err(RuntimeError::Failed(format!("runtimeclass.node.k8s.io \"{name}\" not found"))),
            Err(error) => Err(RuntimeError::Failed(format!("failed to lookup RuntimeClass {name}: {error}"))),
        }
    }

    /// Gives containers what they are granted. The pod's cgroup has room for what was and what is to be until all have it.
    async fn resize(&self, containers: &[(String, String)], before: &Resources) -> Vec<Change> {
        let (runtime, settings) = (&self.context.runtime, &self.context.settings);
        let parent = config::cgroup_parent(&settings.cgroup_root, &spec::identity(&self.pod).uid);
        let after = super::resources::pod_cgroup(&self.pod);
        let failed = |message: String| {
            self.context.events.pod(&self.pod, Kind::Warning, "ResizeError", format!("Error resizing pod: {message}"));
            Change::ResizeFailed { message }
        };
        if let Some(message) = self.in_use(&parent, containers, &after).await {
            return vec![failed(message)];
        }
        if let Err(error) = runtime.apply_pod_cgroup(&parent, &resize::widest(before, &after)).await {
            return vec![failed(error.to_string())];
        }
        let mut changes = Vec::new();
        for (id, name) in containers {
            let Some(container) = spec::container(&self.pod, name) else { continue };
            let resources = super::resources::container_cgroup(&self.pod, container.spec, settings.machine_memory);
            match runtime.update_container(id, &resources).await {
                Ok(()) => {
                    let resources = Box::new(container.spec.resources.clone().unwrap_or_default());
                    changes.push(Change::Resized { id: id.clone(), resources });
                }
                // One that has ended meanwhile is started anew with what it is granted.
                Err(RuntimeError::NotFound(_)) => {}
                Err(error) => {
                    changes.push(failed(error.to_string()));
                    return changes;
                }
            }
        }
        match runtime.apply_pod_cgroup(&parent, &after).await {
            Ok(()) => {
                let message = "Pod resize completed".to_owned();
                self.context.events.pod(&self.pod, Kind::Normal, "ResizeCompleted", message);
            }
            Err(error) => changes.push(failed(error.to_string())),
        }
        changes
    }

    /// Why limits of memory cannot be what they are to be: more is in use, and the kernel would end who uses it. By a rule of the kubelet it
    /// is tried again until less is.
    async fn in_use(&self, parent: &str, containers: &[(String, String)], after: &Resources) -> Option<String> {
        let ids = containers.iter().map(|(id, _)| id.clone()).collect();
        // What cannot be told does not hold anything up.
        let usage = self.context.runtime.usage(&[(parent.to_owned(), ids)]).await.ok()?.pop()?;
        let machine = self.context.settings.machine_memory;
        let limit_of = |name: &str| {
            let container = spec::container(&self.pod, name)?;
            super::resources::container_cgroup(&self.pod, container.spec, machine).memory_limit_bytes
        };
        let limits = containers.iter().filter_map(|(id, name)| {
            Some((format!("container {name:?}"), limit_of(name)?, usage.members.get(id)?.memory_bytes))
        });
        let pod = after.memory_limit_bytes.map(|limit| ("pod".to_owned(), limit, usage.pod.memory_bytes));
        let exceeded = pod.into_iter().chain(limits).filter_map(|(whose, limit, used)| {
            let limit = u64::try_from(limit).ok()?;
            (used > limit)
                .then(|| format!("attempting to set {whose} memory limit ({limit}) below current usage ({used})"))
        });
        let exceeded: Vec<String> = exceeded.collect();
        (!exceeded.is_empty()).then(|| format!("cannot decrease memory limits: {}", exceeded.join(", ")))
    }

    async fn kill_pod(&self, containers: &[Kill], sidecars: &[Kill], grace: Duration) {
        let began = Instant::now();
        self.kill_all(containers, grace).await;
        for sidecar in sidecars {
            let left = grace.saturating_sub(began.elapsed()).max(GRACE_AFTER_HOOK.min(grace));
            self.kill_all(std::slice::from_ref(sidecar), left).await;
        }
    }

    async fn kill_all(&self, kills: &[Kill], grace: Duration) {
        join_all(kills.iter().map(|kill| self.kill(kill, grace))).await;
    }

    async fn kill(&self, kill: &Kill, grace: Duration) {
        let message = kill.message.clone().unwrap_or_else(|| format!("Stopping container {}", kill.name));
        self.context.events.container(&self.pod, &kill.name, Kind::Normal, "Killing", message);
        let began = Instant::now();
        let hook = spec::container(&self.pod, &kill.name)
            .and_then(|container| container.spec.lifecycle.as_ref())
            .and_then(|lifecycle| lifecycle.pre_stop.clone());
        let own = kill.grace_s.and_then(|seconds| u64::try_from(seconds).ok());
        let grace = own.map_or(grace, Duration::from_secs);
        let mut left = grace;
        if let Some(hook) = hook {
            if let Err(error) = self.hook(&kill.name, &kill.id, &hook, grace).await {
                let message = format!("PreStopHook failed: {error}");
                self.context.events.container(&self.pod, &kill.name, Kind::Warning, "FailedPreStopHook", message);
            }
            left = grace.saturating_sub(began.elapsed()).max(GRACE_AFTER_HOOK.min(grace));
        }
        if let Err(error) = self.context.runtime.stop_container(&kill.id, left).await {
            warn!(container = %kill.id, %error, "cannot stop a container");
            // The next look finds it running and tries again; not at once, should the failure be at once.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Runs a lifecycle hook.
    pub async fn hook(&self, name: &str, id: &str, hook: &LifecycleHandler, timeout: Duration) -> Result<(), String> {
        if let Some(sleep) = &hook.sleep {
            let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
            tokio::time::sleep(wanted.min(timeout)).await;
            return Ok(());
        }
        let Some(container) = spec::container(&self.pod, name) else { return Ok(()) };
        let question = if let Some(action) = &hook.exec {
            Question::Exec(action.clone())
        } else if let Some(action) = &hook.http_get {
            Question::Http(action.clone())
        } else {
            return Ok(());
        };
        let target = Target { container_id: id.to_owned(), ip: self.pod_ip(), spec: Arc::new(container.spec.clone()) };
        match tokio::time::timeout(timeout, check::tell(&self.context, &target, &question, timeout)).await {
            Ok(result) => result,
            Err(_) => Err(format!("timed out after {}", go_duration(timeout))),
        }
    }

    /// The pod's address.
    pub fn pod_ip(&self) -> Option<IpAddr> {
        if spec::host_network(&self.pod) {
            return self.context.host_ips.first().copied();
        }
        super::plan::live_sandbox(&self.pod, &self.record).and_then(|sandbox| sandbox.ips.first().copied())
    }

    async fn stop_sandboxes(&self, ids: &[String]) -> Vec<Change> {
        for id in ids {
            if let Err(error) = self.context.runtime.stop_sandbox(id).await {
                let message = format!("error killing pod: failed to \"KillPodSandbox\": {error}");
                self.context.events.pod(&self.pod, Kind::Warning, "FailedKillPod", message);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Vec::new()
    }

    async fn clean_up(&self) -> Vec<Change> {
        let uid = spec::identity(&self.pod).uid;
        let cgroup = config::cgroup_parent(&self.context.settings.cgroup_root, &uid);
        let (volumes, cgroup) =
            tokio::join!(volumes::remove(&self.context, &uid), self.context.runtime.remove_pod_cgroup(&cgroup));
        self.context.tokens.forget(&uid);
        self.context.images.forget(&uid);
        if let Err(error) = volumes {
            warn!(%uid, %error, "cannot remove a pod's volumes");
            return vec![Change::EndFailed];
        }
        if let Err(error) = cgroup {
            warn!(%uid, %error, "cannot remove a pod's cgroup");
            return vec![Change::EndFailed];
        }
        self.context.devices.release(&uid).await;
        vec![Change::CleanedUp]
    }

    async fn finalize(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        match publish::publish(&self.context, &self.pod, self.pod.status.as_ref(), &self.status).await {
            Ok(_) => changes.push(Change::Published(Box::new((*self.status).clone()))),
            Err(error) if publish::is_gone(&error) => return Vec::new(),
            Err(error) => {
                debug!(%error, "cannot publish a pod's last status");
                return vec![Change::EndFailed];
            }
        }
        let who = spec::identity(&self.pod);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &who.namespace);
        let preconditions = Preconditions { uid: Some(who.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }.grace_period(0);
        match api.delete(&who.name, &params).await {
            Ok(_) => {}
            Err(error) if publish::is_gone(&error) => {}
            Err(error) => {
                warn!(pod = %who.name, %error, "cannot delete a pod that has ended");
                changes.push(Change::EndFailed);
                return changes;
            }
        }
        // Until the watch says that it is gone; should that be lost, ask again.
        changes.push(Change::EndFailed);
        changes
    }

    async fn forget(&self) -> Vec<Change> {
        if spec::is_from_file(&self.pod)
            && let Err(error) = super::mirror::remove(&self.context, &self.pod).await
        {
            // What is left is an orphan, which the manager removes when it next lists them.
            debug!(%error, "cannot remove the mirror of a pod that is no more");
        }
        let containers: Vec<_> = self.record.containers.iter().map(|container| container.id.clone()).collect();
        let sandboxes: Vec<_> = self.record.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        if !self.remove(&containers, &sandboxes).await {
            return vec![Change::EndFailed];
        }
        let who = spec::identity(&self.pod);
        if let Err(error) = volumes::remove_folder(&self.context.paths, &who.uid).await {
            warn!(uid = %who.uid, %error, "cannot remove a pod's folder");
            return vec![Change::EndFailed];
        }
        if !who.name.is_empty() {
            let dir = self.context.paths.pod_log_dir(&who);
            match tokio::fs::remove_dir_all(&dir).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!(dir = %dir.display(), %error, "cannot remove the folder of a pod's logs");
                    return vec![Change::EndFailed];
                }
                _ => {}
            }
        }
        vec![Change::Forgotten]
    }

    async fn prune(&self, containers: &[String], sandboxes: &[String]) -> Vec<Change> {
        if !self.remove(containers, sandboxes).await {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return vec![Change::NotPruned { containers: containers.to_vec() }];
        }
        // Their logs go with them; those of the kept instances stay.
        let gone = self.record.containers.iter().filter(|container| containers.contains(&container.id));
        for log in gone.filter_map(|container| container.log_path.clone()) {
            let removed = tokio::task::spawn_blocking(move || super::rotation::remove_all(&log)).await;
            if let Ok(Err(error)) = removed {
                warn!(%error, "cannot remove a container's log");
            }
        }
        Vec::new()
    }

    async fn remove(&self, containers: &[String], sandboxes: &[String]) -> bool {
        let goes_with_its_sandbox =
            |id: &String| self.record.containers.iter().any(|c| c.id == *id && sandboxes.contains(&c.sandbox_id));
        for id in containers {
            if let Err(error) = self.context.runtime.remove_container(id).await {
                warn!(container = %id, %error, "cannot remove a container");
                if !goes_with_its_sandbox(id) {
                    return false;
                }
            }
        }
        for id in sandboxes {
            if let Err(error) = self.context.runtime.remove_sandbox(id).await {
                warn!(sandbox = %id, %error, "cannot remove a sandbox");
                return false;
            }
        }
        true
    }
}
