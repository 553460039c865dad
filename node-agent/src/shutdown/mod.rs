//! Lets the pods end in order before the machine goes down. That an agent ends is no such thing: its pods go on.
//!
//! ```text
//!   logind: PrepareForShutdown ─┐                ┌─▶ Node: not ready, "node is shutting down"
//!   gantry node shutdown ───────┴─▶ one at a time┼─▶ pods that are new here: refused
//!                                                └─▶ an order to each pod, priority by priority
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::pods::context::Context;
use crate::pods::events::Kind;
use crate::pods::{Addressed, Order, PodEntry, spec};
use crate::runtime::{ContainerState, PodRecord};
use plan::{Group, Policy};

#[cfg(unix)]
pub mod control;
#[cfg(unix)]
mod dbus;
#[cfg(unix)]
mod logind;
pub mod plan;

/// The reason of a pod that was ended for it.
const REASON: &str = "Terminated";
/// What it says.
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// Looks at how far pods are.
const POLL: Duration = Duration::from_millis(100);
/// How long it may take an agent that was just started to know its pods: it waits for the API server, and then begins with what
/// it has kept.
const KNOWN_WAIT: Duration = Duration::from_secs(20);
/// Looks at how far that is.
const KNOWN_POLL: Duration = Duration::from_millis(500);
/// Lines of progress that may wait for whoever reads them: about two a pod. What comes on top is not shown.
const LINES_MAX: usize = 256;
/// Questions that may wait for the one before: nobody has reason to ask more than that.
const ASKS_MAX: usize = 8;

/// What is asked of the node.
pub enum Ask {
    /// The machine is about to go down. Closed when the pods have ended, or their time is over.
    Begin(mpsc::Sender<String>),
    /// It is not, after all.
    Cancel(mpsc::Sender<String>),
}

/// A channel for one question.
pub fn lines() -> (mpsc::Sender<String>, mpsc::Receiver<String>) {
    mpsc::channel(LINES_MAX)
}

/// Sees to it that pods end before the machine does.
pub struct Keeper {
    context: Arc<Context>,
    policy: Policy,
    orders: mpsc::Sender<Addressed>,
    down: watch::Sender<bool>,
    asks: (mpsc::Sender<Ask>, mpsc::Receiver<Ask>),
}

impl Keeper {
    /// A keeper that sends `orders` to the pods' manager, and tells through `down` whether the machine goes down.
    pub fn new(
        context: Arc<Context>,
        policy: Policy,
        orders: mpsc::Sender<Addressed>,
        down: watch::Sender<bool>,
    ) -> Self {
        Self { context, policy, orders, down, asks: mpsc::channel(ASKS_MAX) }
    }

    /// Works until `stop`.
    pub async fn run(mut self, run_dir: std::path::PathBuf, stop: CancellationToken) {
        #[cfg(unix)]
        let others = {
            let (asks, total) = (self.asks.0.clone(), self.policy.waits().then(|| self.policy.total()));
            async move {
                let follow = async {
                    match total {
                        Some(total) => logind::follow(logind::BUS.into(), total, asks.clone()).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::join!(control::serve(&run_dir, asks.clone()), follow);
            }
        };
        #[cfg(not(unix))]
        let others = async move { drop(run_dir) };
        let work = async {
            while let Some(ask) = self.asks.1.recv().await {
                match ask {
                    Ask::Begin(lines) => self.begin(&lines).await,
                    Ask::Cancel(lines) => self.cancel(&lines),
                }
            }
        };
        stop.run_until_cancelled(async { tokio::join!(work, others) }).await;
    }

    fn tell(&self, message: &str) {
        self.context.events.node(&self.context.node_name, Kind::Normal, "NodeShutdown", message);
        info!("{message}");
    }

    async fn begin(&self, lines: &mpsc::Sender<String>) {
        self.tell("Shutdown manager detected shutdown event");
        self.down.send_replace(true);
        self.wait_until_known().await;
        let mut active = self.context.directory.list();
        active.retain(|entry| !has_ended(entry));
        let policy = self.policy.or_usual();
        for group in plan::groups(&policy, active.iter().map(|entry| &*entry.pod)) {
            self.end(&group, lines).await;
        }
        info!("the pods have had their time");
    }

    /// Waits until all that runs is known, as it is not at once when the agent has just been started.
    async fn wait_until_known(&self) {
        let deadline = Instant::now() + KNOWN_WAIT;
        loop {
            let known: HashSet<String> =
                self.context.directory.list().into_iter().filter_map(|entry| entry.pod.metadata.uid.clone()).collect();
            let runs = |record: &PodRecord| record.sandboxes.iter().any(|sandbox| sandbox.ready);
            match self.context.runtime.list().await {
                Ok(records) if records.iter().all(|record| !runs(record) || known.contains(&record.pod.uid)) => return,
                _ if Instant::now() >= deadline => return warn!("not all that runs here is known"),
                _ => tokio::time::sleep(KNOWN_POLL).await,
            }
        }
    }

    async fn end(&self, group: &Group, lines: &mpsc::Sender<String>) {
        let (count, priority, seconds) = (group.pods.len(), group.period.priority, group.period.seconds);
        show(lines, format!("{count} pods of priority {priority} and above have {seconds} s"));
        for (uid, grace_s) in &group.pods {
            let order = Order { reason: REASON.into(), message: MESSAGE.into(), grace_s: *grace_s, disrupts: true };
            if self.orders.send((uid.clone(), order)).await.is_err() {
                return;
            }
        }
        let deadline = Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let mut left: Vec<&String> = group.pods.iter().map(|(uid, _)| uid).collect();
        loop {
            let entries = self.context.directory.list();
            left.retain(|uid| {
                let entry = entries.iter().find(|entry| entry.pod.metadata.uid.as_ref() == Some(uid));
                let ended = entry.is_none_or(|entry| has_ended(entry) && self.gave_back(uid));
                if let Some(entry) = entry.filter(|_| ended) {
                    let who = spec::identity(&entry.pod);
                    show(lines, format!("{}/{} has ended", who.namespace, who.name));
                }
                !ended
            });
            if left.is_empty() || Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        if !left.is_empty() {
            warn!(pods = left.len(), "pods did not end in the time that they had");
            show(lines, format!("{} pods have not ended in their time", left.len()));
        }
    }

    /// Whether drivers have taken back what a pod had of them; some of the drivers are pods that end later.
    fn gave_back(&self, uid: &str) -> bool {
        let records = std::fs::read_dir(self.context.paths.claims(uid));
        records.map_or(true, |mut records| records.next().is_none())
    }

    fn cancel(&self, lines: &mpsc::Sender<String>) {
        match self.down.send_replace(false) {
            true => self.tell("Shutdown manager detected shutdown cancellation"),
            false => show(lines, "the node was not shutting down".to_owned()),
        }
    }
}

fn show(lines: &mpsc::Sender<String>, line: String) {
    // Whoever asked may have gone.
    let _ = lines.try_send(line);
}

/// Whether nothing of a pod runs, and the node knows how it ended.
fn has_ended(entry: &PodEntry) -> bool {
    let phase = entry.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let alive = |state| matches!(state, ContainerState::Running | ContainerState::Unknown);
    matches!(phase, Some("Succeeded" | "Failed"))
        && !entry.record.containers.iter().any(|container| alive(container.state))
        && !entry.record.sandboxes.iter().any(|sandbox| sandbox.ready)
}
