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
mod metrics;
pub mod owners;
mod provider;
pub mod queue;
mod recorder;
mod relist;
pub mod state;
pub mod volumes;

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Configuration;
use crate::convert;
use crate::core::PodKey;

pub use metrics::{AttemptResult, Metrics};

use facts::{WatchedBudget, WatchedNamespace, WatchedNode, WatchedPod};
use owners::{OwnerKind, WatchedOwner};
use recorder::{Record, Recorder};
use state::{Action, Attempt, BindOutcome, PodRef, State, Victim};
use volumes::{Choice, StorageKind};

/// Watch events between a watch and the state: a few pages of a list. The watch waits when it is
/// full, and the API server's own buffer behind it.
const INPUT_CAPACITY: usize = 2_048;
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

enum Input {
    Pod(Box<watcher::Event<WatchedPod>>),
    Node(Box<watcher::Event<WatchedNode>>),
    Namespace(Box<watcher::Event<WatchedNamespace>>),
    Budget(Box<watcher::Event<WatchedBudget>>),
    Owner(OwnerKind, Box<watcher::Event<WatchedOwner>>),
    Claim(Box<watcher::Event<PersistentVolumeClaim>>),
    Volume(Box<watcher::Event<PersistentVolume>>),
    Class(Box<watcher::Event<StorageClass>>),
}

/// Which lists have not been complete yet. Deciding on less would over-commit, or place a pod beside one
/// that it must not be near.
#[derive(Clone, Debug, Default)]
struct Awaited(BTreeSet<&'static str>);

/// A watch, which gives its name when it ends.
type Watching = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// All watches, and the lists that they begin with.
fn watches(
    client: &Client,
    inputs: &mpsc::Sender<Input>,
    shutdown: &CancellationToken,
) -> (FuturesUnordered<Watching>, Awaited) {
    let all: FuturesUnordered<Watching> = FuturesUnordered::new();
    let mut awaited = Awaited::default();
    let mut add = |name: &'static str, watching: Watching| {
        awaited.0.insert(name);
        all.push(watching);
    };
    macro_rules! add {
        ($name:literal, $type:ty, $input:path) => {
            let wrap = |event: watcher::Event<$type>| $input(Box::new(event));
            let api = Api::<$type>::all(client.clone());
            add($name, Box::pin(watch($name, api, wrap, inputs.clone(), shutdown.clone())));
        };
    }
    add!("pods", WatchedPod, Input::Pod);
    add!("nodes", WatchedNode, Input::Node);
    add!("namespaces", WatchedNamespace, Input::Namespace);
    add!("poddisruptionbudgets", WatchedBudget, Input::Budget);
    add!("persistentvolumeclaims", PersistentVolumeClaim, Input::Claim);
    add!("persistentvolumes", PersistentVolume, Input::Volume);
    add!("storageclasses", StorageClass, Input::Class);
    for kind in OwnerKind::ALL {
        let wrap = move |event| Input::Owner(kind, Box::new(event));
        let api = Api::<WatchedOwner>::all_with(client.clone(), &kind);
        add(kind.plural(), Box::pin(watch(kind.plural(), api, wrap, inputs.clone(), shutdown.clone())));
    }
    (all, awaited)
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

async fn watch<K>(
    name: &'static str,
    api: Api<K>,
    wrap: impl Fn(watcher::Event<K>) -> Input + Send,
    inputs: mpsc::Sender<Input>,
    shutdown: CancellationToken,
) -> &'static str
where
    K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let mut events = pin!(events);
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return name,
            event = events.next() => event,
        };
        match event {
            None => return name,
            Some(Err(error)) => tracing::warn!(watch = name, %error, "a watch failed, trying again"),
            Some(Ok(event)) => {
                let sent = tokio::select! {
                    () = shutdown.cancelled() => return name,
                    sent = inputs.send(wrap(event)) => sent,
                };
                if sent.is_err() {
                    return name;
                }
            }
        }
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
    awaited: Awaited,
    shutdown: CancellationToken,
}

impl Driver {
    async fn drive(mut self, mut inputs: mpsc::Receiver<Input>, ready: impl FnOnce()) {
        let mut ready = Some(ready);
        loop {
            let deadline = self.state.next_deadline().map(|deadline| self.start + deadline);
            let can_place = self.can_place();
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                Some(bound) = self.binds.join_next(), if !self.binds.is_empty() => self.joined(bound),
                Some(provided) = self.provisions.join_next(), if !self.provisions.is_empty() => self.provided(provided),
                Some(evicted) = self.evictions.join_next(), if !self.evictions.is_empty() => self.evicted(evicted),
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
                () = tokio::time::sleep_until(deadline.unwrap_or(self.start)), if deadline.is_some() && !can_place => {}
            }
            while let Some(bound) = self.binds.try_join_next() {
                self.joined(bound);
            }
            if !self.awaited.0.is_empty() {
                continue;
            }
            if let Some(ready) = ready.take() {
                ready();
            }
            self.place();
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
        self.awaited.0.is_empty() && self.has_capacity() && self.state.is_ready(now)
    }

    fn has_capacity(&self) -> bool {
        self.binds.len() + self.provisions.len() < self.options.bind_parallelism && self.evictions.len() < EVICTIONS_MAX
    }

    fn apply(&mut self, input: Input) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let now = self.now();
        match input {
            Input::Pod(event) => match *event {
                Init => self.state.pods_relist(),
                InitApply(pod) | Apply(pod) => {
                    let action = self.state.pod_seen(pod.facts, now);
                    self.act(action);
                }
                Delete(pod) => self.state.pod_gone(pod.facts.key),
                InitDone => {
                    self.state.pods_listed();
                    self.awaited.0.remove("pods");
                }
            },
            Input::Node(event) => match *event {
                Init => self.state.nodes_relist(),
                InitApply(node) | Apply(node) => {
                    self.state.node_seen(node.spec);
                }
                Delete(node) => self.state.node_gone(&node.spec.name),
                InitDone => {
                    self.state.nodes_listed();
                    self.awaited.0.remove("nodes");
                }
            },
            Input::Namespace(event) => match *event {
                Init => self.state.namespaces_relist(),
                InitApply(namespace) | Apply(namespace) => {
                    let (name, labels) = namespace.into_parts();
                    self.state.namespace_seen(name, labels);
                }
                Delete(namespace) => self.state.namespace_gone(&namespace.into_parts().0),
                InitDone => {
                    self.state.namespaces_listed();
                    self.awaited.0.remove("namespaces");
                }
            },
            other => self.apply_other(other),
        }
    }

    /// What is only asked about when a pod is tried.
    fn apply_other(&mut self, input: Input) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match input {
            // These have been taken care of.
            Input::Pod(_) | Input::Node(_) | Input::Namespace(_) => {}
            Input::Budget(event) => match *event {
                Init => self.state.budgets_relist(),
                InitApply(budget) | Apply(budget) => {
                    let (key, budget) = budget.into_parts();
                    self.state.budget_seen(key, budget);
                }
                Delete(budget) => self.state.budget_gone(&budget.into_parts().0),
                InitDone => {
                    self.state.budgets_listed();
                    self.awaited.0.remove("poddisruptionbudgets");
                }
            },
            Input::Claim(event) => match *event {
                Init => self.state.storage().relist(StorageKind::Claims),
                InitApply(claim) | Apply(claim) => self.state.storage().claim_seen(&claim),
                Delete(claim) => {
                    let (key, _) = convert::volumes::claim(&claim);
                    self.state.storage().claim_gone(&key);
                }
                InitDone => {
                    self.state.storage().listed(StorageKind::Claims);
                    self.awaited.0.remove("persistentvolumeclaims");
                }
            },
            Input::Volume(event) => match *event {
                Init => self.state.storage().relist(StorageKind::Volumes),
                InitApply(volume) | Apply(volume) => self.state.storage().volume_seen(&volume),
                Delete(volume) => self.state.storage().volume_gone(&volume.metadata.name.unwrap_or_default()),
                InitDone => {
                    self.state.storage().listed(StorageKind::Volumes);
                    self.awaited.0.remove("persistentvolumes");
                }
            },
            Input::Class(event) => match *event {
                Init => self.state.storage().relist(StorageKind::Classes),
                InitApply(class) | Apply(class) => self.state.storage().class_seen(&class),
                Delete(class) => self.state.storage().class_gone(&class.metadata.name.unwrap_or_default()),
                InitDone => {
                    self.state.storage().listed(StorageKind::Classes);
                    self.awaited.0.remove("storageclasses");
                }
            },
            Input::Owner(kind, event) => match *event {
                Init => self.state.owners().relist(kind),
                InitApply(owner) | Apply(owner) => {
                    let (key, selector) = owner.into_parts();
                    self.state.owners().seen(kind, key, selector);
                }
                Delete(owner) => self.state.owners().gone(kind, &owner.into_parts().0),
                InitDone => {
                    self.state.owners().listed(kind);
                    self.awaited.0.remove(kind.plural());
                }
            },
        }
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
                    self.binds.spawn(async move {
                        let outcome = binder::bind(&client, &pod, &node, &devices, &shutdown).await;
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
