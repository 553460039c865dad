//! The scheduler component: watches pods, nodes and namespaces, asks the core, binds.
//!
//! ```text
//! watch pods   ─┐                       ┌─▶ bind (bounded parallelism) ─┐
//! watch nodes  ─┼─▶ state (pure) ─▶ core ├─▶ make victims go ────────────┤
//! watch others ─┘       ▲               └─▶ events, conditions          │ outcome
//!                       └────────────────────────────────────────────────┘
//! ```
//!
//! One task owns the [`state::State`] and decides one pod after the other; everything that waits
//! for the network happens in other tasks and comes back as a message.

mod binder;
mod evictor;
pub mod facts;
mod following;
pub mod gangs;
pub(crate) mod intake;
mod metrics;
mod mover;
pub mod owners;
mod provider;
pub mod queue;
mod queue_status;
pub mod queues;
mod recorder;
mod relist;
pub mod state;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Configuration;
use crate::core::PodKey;

pub use metrics::{AttemptResult, Metrics};

use binder::Wishes;
use intake::{Awaited, INPUT_CAPACITY, Input, watches};
use mover::Mover;
use recorder::{Record, Recorder};
use state::{Action, Attempt, BindOutcome, PodRef, QueueReport, State, Victim};
use volumes::Choice;

/// Events applied, and pods placed, before the other gets its turn.
const BATCH: usize = 512;

/// Pods for which others are being made to go, at once; no pod is tried while so many are.
const EVICTIONS_MAX: usize = 64;

/// What can be set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which pods are placed, by `spec.schedulerName`, and how; and back-off times.
    pub configuration: Configuration,
    /// Bindings in flight at once.
    pub bind_parallelism: usize,
    /// What tells this process from others in events (the host's name).
    pub instance: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            configuration: Configuration::default(),
            // Enough to keep group commit busy, few enough to leave the API server to others.
            bind_parallelism: 128,
            instance: "gantry".into(),
        }
    }
}

/// Why the scheduler stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A watch ended for good; watches retry by themselves, so this is a defect.
    #[error("the watch of {0} ended")]
    WatchEnded(&'static str),
}

/// Runs the scheduler until `shutdown`. `ready` is called once all watches have listed.
pub async fn run(
    client: Client,
    options: Options,
    metrics: Metrics,
    ready: impl FnOnce() + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (inputs, receiver) = mpsc::channel(INPUT_CAPACITY);
    let (mut watching, awaited) = watches(&client, &inputs, &shutdown);
    drop(inputs);
    let (recorder, writing) = recorder::recorder(client.clone(), options.instance.clone());
    let driver = Driver {
        state: State::new(&options.configuration),
        client,
        options,
        metrics,
        recorder,
        start: Instant::now(),
        binds: JoinSet::new(),
        evictions: JoinSet::new(),
        provisions: JoinSet::new(),
        queue_reports: JoinSet::new(),
        written: queue_status::Written::new(),
        next_report: Instant::now(),
        mover: Mover::new(),
        awaited,
        shutdown: shutdown.clone(),
    };
    let stopping = shutdown.clone();
    // Dropping out of the select drops the watches; the driver ends the recorder by dropping it.
    let driving = async move {
        tokio::select! {
            () = driver.drive(receiver, ready) => Ok(()),
            Some(name) = watching.next() => Err(name),
        }
    };
    let writing = async {
        // What is still queued at shutdown gets a moment, no more.
        tokio::select! {
            () = writing => {}
            () = async { stopping.cancelled().await; tokio::time::sleep(Duration::from_secs(2)).await } => {}
        }
    };
    let (result, ()) = tokio::join!(driving, writing);
    match result {
        Err(what) if !shutdown.is_cancelled() => Err(Error::WatchEnded(what)),
        _ => Ok(()),
    }
}

struct Bound {
    pod: PodRef,
    outcome: Option<BindOutcome>,
    node: Arc<str>,
    attempts: u32,
    first_seen: Duration,
    began: Instant,
}

/// How making pods go for one ended.
struct Evicted {
    pod: PodRef,
    node: Arc<str>,
    told: Vec<Victim>,
    failed: Vec<PodKey>,
}

struct Driver {
    state: State,
    client: Client,
    options: Options,
    metrics: Metrics,
    recorder: Recorder,
    start: Instant,
    binds: JoinSet<Bound>,
    evictions: JoinSet<Evicted>,
    /// Volumes being provided for pods that have their node.
    provisions: JoinSet<(PodRef, Result<(), String>)>,
    /// What queues use, being written: one at a time.
    queue_reports: JoinSet<Vec<(QueueReport, bool)>>,
    written: queue_status::Written,
    next_report: Instant,
    mover: Mover,
    awaited: Awaited,
    shutdown: CancellationToken,
}

impl Driver {
    async fn drive(mut self, mut inputs: mpsc::Receiver<Input>, ready: impl FnOnce()) {
        let mut ready = Some(ready);
        loop {
            let deadline = self.state.next_deadline().map(|deadline| self.start + deadline);
            let can_place = self.can_place();
            let next_moves = self.mover.next();
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                Some(bound) = self.binds.join_next(), if !self.binds.is_empty() => self.joined(bound),
                Some(provided) = self.provisions.join_next(), if !self.provisions.is_empty() => self.provided(provided),
                Some(evicted) = self.evictions.join_next(), if !self.evictions.is_empty() => self.evicted(evicted),
                Some(written) = self.queue_reports.join_next(), if !self.queue_reports.is_empty() => self.reported(written),
                Some(happening) = self.mover.happens(), if self.mover.is_busy() => self.happened(happening),
                input = inputs.recv() => match input {
                    None => break,
                    Some(input) => {
                        self.apply(input);
                        for _ in 1..BATCH {
                            let Ok(input) = inputs.try_recv() else { break };
                            self.apply(input);
                        }
                    }
                },
                () = tokio::task::yield_now(), if can_place => {}
                () = tokio::time::sleep_until(self.next_report), if self.has_reports() => {}
                () = tokio::time::sleep_until(next_moves), if self.wants_moves() => {}
                () = tokio::time::sleep_until(deadline.unwrap_or(self.start)), if deadline.is_some() && !can_place => {}
            }
            while let Some(bound) = self.binds.try_join_next() {
                self.joined(bound);
            }
            if !self.awaited.is_over() {
                continue;
            }
            if let Some(ready) = ready.take() {
                ready();
            }
            self.place();
            self.report_queues();
            self.look_for_moves();
            self.metrics.sizes(self.state.queue_counts(), self.state.cache_counts());
        }
        // Bindings under way get a moment to end; what they did, the next start learns from the API.
        let ended = async {
            while self.binds.join_next().await.is_some() {}
            while self.evictions.join_next().await.is_some() {}
            while self.provisions.join_next().await.is_some() {}
        };
        if tokio::time::timeout(Duration::from_secs(2), ended).await.is_err() {
            tracing::warn!("bindings were still under way at shutdown");
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn can_place(&mut self) -> bool {
        let now = self.now();
        self.awaited.is_over() && self.has_capacity() && self.state.is_ready(now)
    }

    fn has_capacity(&self) -> bool {
        self.binds.len() + self.provisions.len() < self.options.bind_parallelism && self.evictions.len() < EVICTIONS_MAX
    }

    fn has_reports(&self) -> bool {
        self.awaited.is_over() && self.queue_reports.is_empty() && self.state.has_queue_reports()
    }

    /// Tells what queues use, if that has changed, and not too often.
    fn report_queues(&mut self) {
        if !self.has_reports() || Instant::now() < self.next_report {
            return;
        }
        self.next_report = Instant::now() + queue_status::PERIOD;
        let mut reports = self.state.queue_reports();
        reports.retain(|report| self.written.get(&report.name) != Some(report));
        for report in &mut reports {
            let before = self.written.get(&report.name);
            report.is_fault_news = before.is_none_or(|before| before.fault != report.fault);
            report.dropped.extend(before.into_iter().flat_map(|before| before.used.keys().cloned()));
            report.dropped.extend(self.state.queue_told(&report.name).cloned());
            report.dropped.retain(|name| !report.used.contains_key(name));
        }
        if !reports.is_empty() {
            self.queue_reports.spawn(queue_status::write(self.client.clone(), reports));
        }
    }

    fn reported(&mut self, written: Result<Vec<(QueueReport, bool)>, tokio::task::JoinError>) {
        for (report, is_written) in written.unwrap_or_default() {
            if is_written {
                let report = QueueReport { dropped: Vec::new(), is_fault_news: false, ..report };
                self.written.insert(report.name.clone(), report);
            } else {
                self.state.tell_again(&report.name);
            }
        }
    }

    fn apply(&mut self, input: Input) {
        let now = self.now();
        let action = self.awaited.apply(&mut self.state, input, now);
        self.act(action);
    }

    /// Places pods while there are any and bindings may start, one batch at most.
    fn place(&mut self) {
        self.state.wake(self.now());
        let mut actions = Vec::new();
        for _ in 0..BATCH {
            if !self.has_capacity() {
                return;
            }
            let began = Instant::now();
            let now = self.now();
            let Some(attempt) = self.state.schedule_next(now, &mut actions) else {
                self.act(actions);
                return;
            };
            self.metrics.decided(began.elapsed());
            if attempt == Attempt::Unschedulable {
                let profiles = &self.options.configuration.profiles;
                let profile = profiles.first().map_or("", |profile| profile.scheduler_name.as_str());
                self.metrics.attempted(AttemptResult::Unschedulable, profile, began.elapsed());
            }
            self.act(std::mem::take(&mut actions));
        }
    }

    fn act(&mut self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            let record = match action {
                Action::Bind { pod, node, devices, attempts, first_seen } => {
                    let (client, shutdown) = (self.client.clone(), self.shutdown.clone());
                    let began = Instant::now();
                    let profile = self.options.configuration.profile(&pod.scheduler_name);
                    let wishes = Wishes { devices, if_fits: profile.is_some_and(|profile| profile.if_fits) };
                    self.binds.spawn(async move {
                        let outcome = binder::bind(&client, &pod, &node, &wishes, &shutdown).await;
                        Bound { pod, outcome, node, attempts, first_seen, began }
                    });
                    continue;
                }
                Action::Provide { pod, node, choice } => {
                    self.provide(pod, node, choice);
                    continue;
                }
                Action::Preempt { pod, node, victims } => {
                    self.preempt(pod, node, victims);
                    continue;
                }
                Action::Move(clearing) => {
                    self.evict(clearing);
                    continue;
                }
                Action::Status { pod, condition, nominated } => Record::Status(pod, condition, nominated),
                Action::FailedEvent { pod, message } => {
                    tracing::info!(namespace = pod.namespace, pod = pod.name, message, "unable to schedule pod");
                    Record::Failed(pod, message)
                }
            };
            self.record(record);
        }
    }

    fn provide(&mut self, pod: PodRef, node: Arc<str>, choice: Choice) {
        let client = self.client.clone();
        self.provisions.spawn(async move {
            let outcome = provider::provide(&client, &choice, &node).await;
            (pod, outcome)
        });
    }

    fn provided(&mut self, provided: Result<(PodRef, Result<(), String>), tokio::task::JoinError>) {
        let (pod, outcome) = match provided {
            Ok(provided) => provided,
            Err(error) => {
                tracing::error!(%error, "a task that provides volumes failed");
                return;
            }
        };
        let mut actions = Vec::new();
        self.state.provided(pod.key, outcome, self.now(), &mut actions);
        self.act(actions);
    }

    fn preempt(&mut self, pod: PodRef, node: Arc<str>, victims: Vec<Victim>) {
        self.metrics.preempts(victims.len());
        let (client, shutdown) = (self.client.clone(), self.shutdown.clone());
        let (namespace, name) = (&pod.namespace, &pod.name);
        tracing::info!(namespace, pod = name, node = &*node, victims = victims.len(), "pods make room");
        self.evictions.spawn(async move {
            let (told, failed) = evictor::evict(&client, &pod, victims, &shutdown).await;
            Evicted { pod, node, told, failed }
        });
    }

    fn evicted(&mut self, evicted: Result<Evicted, tokio::task::JoinError>) {
        let Evicted { pod, node, told, failed } = match evicted {
            Ok(evicted) => evicted,
            Err(error) => {
                tracing::error!(%error, "a task that makes pods go failed");
                return;
            }
        };
        self.state.preempted(pod.key, &failed);
        for victim in told {
            let note = format!("Preempted by pod {} on node {node}", pod.uid);
            self.record(Record::Preempted { victim, preemptor: pod.clone(), note });
        }
    }

    fn record(&self, record: Record) {
        if !self.recorder.send(record) {
            self.metrics.dropped();
        }
    }

    fn joined(&mut self, bound: Result<Bound, tokio::task::JoinError>) {
        let bound = match bound {
            Ok(bound) => bound,
            Err(error) => {
                tracing::error!(%error, "a binding task failed");
                return;
            }
        };
        let Some(outcome) = bound.outcome else { return };
        let now = self.now();
        let Bound { pod, node, attempts, first_seen, began, .. } = bound;
        let result = match &outcome {
            BindOutcome::Bound => {
                tracing::info!(namespace = pod.namespace, pod = pod.name, node = &*node, "pod bound");
                self.metrics.pod_scheduled(attempts, now.saturating_sub(first_seen));
                self.record(Record::Scheduled(pod.clone(), node.to_string()));
                AttemptResult::Scheduled
            }
            outcome => {
                tracing::warn!(namespace = pod.namespace, pod = pod.name, node = &*node, ?outcome, "pod not bound");
                AttemptResult::Error
            }
        };
        self.metrics.attempted(result, &pod.scheduler_name, began.elapsed());
        let mut actions = Vec::new();
        self.state.bound(pod.key, outcome, now, &mut actions);
        self.act(actions);
    }
}
