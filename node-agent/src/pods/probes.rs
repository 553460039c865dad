//! Startup, readiness and liveness probes: one task a probe of a running container. In: the probe and whom to ask. Out: a
//! report each time its verdict changes, and Unhealthy events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::check::{self, Answer, Question, Target};
use super::context::Context;
use super::events::Kind as EventKind;
use super::memory::{Condemned, Memory};
use super::plan::{has_started, live_sandbox};
use super::spec::{self, Role};
use crate::clock::{self, Moment};
use crate::runtime::{ContainerState, PodRecord};

/// Reports that may wait: each probe of a pod has at most one under way, and no pod has so many.
const QUEUE_LEN: usize = 64;

/// How often a question is put that could not be put, before the probe waits for its next turn.
const TRIES: usize = 3;

/// What a probe decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Whether the container has come up; until then nothing else is asked.
    Startup,
    /// Whether it can serve.
    Readiness,
    /// Whether it is to live on.
    Liveness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// A probe's verdict has changed.
#[derive(Clone, Debug)]
pub struct Report {
    container_id: String,
    container: String,
    kind: Kind,
    ok: bool,
    /// How long the container gets to end, if the probe says so itself.
    grace_s: Option<i64>,
}

/// The probes of one pod.
pub struct Probes {
    sender: mpsc::Sender<Report>,
    receiver: mpsc::Receiver<Report>,
    running: HashMap<(String, Kind), DropGuard>,
    adopted: HashSet<String>,
}

impl Default for Probes {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        Self { sender, receiver, running: HashMap::new(), adopted: HashSet::new() }
    }
}

impl Probes {
    /// The next report.
    pub async fn next(&mut self) -> Option<Report> {
        self.receiver.recv().await
    }

    /// Starts and ends probes so that they fit what runs.
    pub fn fit(
        &mut self,
        context: &Arc<Context>,
        pod: &Arc<Pod>,
        record: &PodRecord,
        memory: &mut Memory,
        ending: bool,
    ) {
        let mut wanted = HashSet::new();
        for container in spec::all_containers(pod).filter(|container| container.role != Role::Init) {
            let running = |record: &&crate::runtime::ContainerRecord| {
                record.name == container.spec.name && record.state == ContainerState::Running
            };
            let Some(instance) = record.containers.iter().find(running) else { continue };
            if self.adopted.insert(instance.id.clone()) {
                adopt(pod, &instance.id, memory);
            }
            let kinds: &[Kind] = match has_started(memory, container, instance) {
                false if ending => &[],
                false => &[Kind::Startup],
                true if ending => &[Kind::Readiness],
                true => &[Kind::Readiness, Kind::Liveness],
            };
            for kind in kinds {
                let Some(probe) = kind.of(container.spec) else { continue };
                let key = (instance.id.clone(), *kind);
                wanted.insert(key.clone());
                let ip = match spec::host_network(pod) {
                    true => context.host_ips.first().copied(),
                    false => live_sandbox(pod, record).and_then(|sandbox| sandbox.ips.first().copied()),
                };
                self.running.entry(key).or_insert_with(|| {
                    let target =
                        Target { container_id: instance.id.clone(), ip, spec: Arc::new(container.spec.clone()) };
                    let stop = CancellationToken::new();
                    let prober = Prober {
                        context: context.clone(),
                        pod: pod.clone(),
                        target,
                        kind: *kind,
                        probe: probe.clone(),
                        began: memory.begun.get(&instance.id).copied().unwrap_or_else(clock::steady),
                        // An adopted container's first failures count from where they stood.
                        last: (*kind == Kind::Readiness).then(|| memory.ready.get(&instance.id).copied()).flatten(),
                        reports: self.sender.clone(),
                    };
                    let cancelled = stop.clone();
                    tokio::spawn(async move { cancelled.run_until_cancelled(prober.run()).await });
                    stop.drop_guard()
                });
            }
        }
        self.running.retain(|key, _| wanted.contains(key));
        self.adopted.retain(|id| record.containers.iter().any(|container| container.id == *id));
    }
}

/// After a restart of the agent a container is what its status said it was, until a probe says otherwise.
fn adopt(pod: &Pod, id: &str, memory: &mut Memory) {
    let Some(status) = &pod.status else { return };
    let all = [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
    let is_it = |container_id: &String| container_id.rsplit("://").next() == Some(id);
    for status in all.filter(|status| status.container_id.as_ref().is_some_and(is_it)) {
        memory.ready.insert(id.to_owned(), status.ready);
        if status.started == Some(true) {
            memory.started.insert(id.to_owned());
        }
    }
}

/// Takes a report into account.
pub fn apply(report: Report, memory: &mut Memory) {
    match (report.kind, report.ok) {
        (Kind::Readiness, ok) => {
            memory.ready.insert(report.container_id, ok);
        }
        (Kind::Startup, true) => {
            memory.started.insert(report.container_id);
        }
        (Kind::Liveness, true) => {}
        (kind @ (Kind::Startup | Kind::Liveness), false) => {
            let word = kind.name().to_lowercase();
            let message = format!("Container {} failed {word} probe, will be restarted", report.container);
            memory.condemned.insert(report.container_id, Condemned { message, grace_s: report.grace_s });
        }
    }
}

struct Prober {
    context: Arc<Context>,
    pod: Arc<Pod>,
    target: Target,
    kind: Kind,
    probe: Probe,
    began: Moment,
    last: Option<bool>,
    reports: mpsc::Sender<Report>,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(default))
}

impl Prober {
    async fn run(mut self) {
        let Some(question) = self.question() else { return };
        let first_at = self.began.after(seconds(self.probe.initial_delay_seconds, 0));
        tokio::time::sleep(first_at.since(clock::steady())).await;
        let mut ticks = tokio::time::interval(seconds(self.probe.period_seconds, 10));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let mut run: (bool, u64) = (true, 0);
        loop {
            ticks.tick().await;
            // What could not be asked says nothing of the container, and does not count.
            let Some(ok) = self.ask(&question, timeout).await else { continue };
            run = if run.0 == ok { (ok, run.1 + 1) } else { (ok, 1) };
            let threshold = match ok {
                true => seconds(self.probe.success_threshold, 1),
                false => seconds(self.probe.failure_threshold, 3),
            };
            if run.1 < threshold.as_secs() || self.last == Some(ok) {
                continue;
            }
            self.last = Some(ok);
            let report = Report {
                container_id: self.target.container_id.clone(),
                container: self.target.spec.name.clone(),
                kind: self.kind,
                ok,
                grace_s: self.probe.termination_grace_period_seconds,
            };
            if self.reports.send(report).await.is_err()
                || (self.kind != Kind::Readiness && !ok)
                || self.kind == Kind::Startup
            {
                return;
            }
        }
    }

    /// Whether the container does well; none if that could not be found out.
    async fn ask(&self, question: &Question, timeout: Duration) -> Option<bool> {
        let (kind, name) = (self.kind.name(), &self.target.spec.name);
        let tell = |reason, message| {
            self.context.events.container(&self.pod, name, EventKind::Warning, reason, message);
        };
        if let Some(good) = self.context.runtime.answers(&self.target.container_id, kind).await {
            if !good {
                tell("Unhealthy", format!("{kind} probe failed: the simulation has it fail"));
            }
            return Some(good);
        }
        let mut failed = String::new();
        for _ in 0..TRIES {
            match check::ask(&self.context, &self.target, question, timeout).await {
                Ok(Answer::Good) => return Some(true),
                Ok(Answer::Odd(output)) => {
                    tell("ProbeWarning", format!("{kind} probe warning: {output}"));
                    return Some(true);
                }
                Ok(Answer::Bad(output)) => {
                    tell("Unhealthy", format!("{kind} probe failed: {output}"));
                    return Some(false);
                }
                Err(error) => failed = error,
            }
        }
        tell("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {failed}"));
        None
    }

    fn question(&self) -> Option<Question> {
        if let Some(action) = &self.probe.exec {
            return Some(Question::Exec(action.clone()));
        }
        if let Some(action) = &self.probe.http_get {
            return Some(Question::Http(action.clone()));
        }
        if let Some(action) = &self.probe.tcp_socket {
            return Some(Question::Tcp(action.clone()));
        }
        self.probe.grpc.as_ref().map(|action| Question::Grpc(action.clone()))
    }
}
