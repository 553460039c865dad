//! Has moves looked for while pods wait, tells of them, and makes them if it may: pods are evicted through the API, which
//! asks the disruption budgets.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Driver;
use super::recorder::Record;
use super::state::{Clearing, Effort, Move};
use crate::core::PodKey;
use crate::defrag::settings::Mode;
use crate::defrag::turns::Turns;
use crate::defrag::{self, Found, Pace, Wanted};

/// How often an eviction is tried while the server does not answer as it should. A budget that refuses it does so for
/// longer than is waited here.
const ATTEMPTS: u32 = 4;
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// What became of the moves for one pod.
pub(super) struct Moved {
    clearing: Clearing,
    /// How many of the pods were told to go, the first ones.
    told: usize,
    /// Those that stay.
    failed: Vec<PodKey>,
}

/// What the driver keeps about moves.
pub(super) struct Mover {
    pace: Pace,
    turns: Turns,
    next: Instant,
    /// One search at a time: it has a copy of all that is known.
    searching: JoinSet<Option<Box<Found>>>,
    /// As many as one search may come to.
    evicting: JoinSet<Box<Moved>>,
}

impl Mover {
    pub(super) fn new() -> Self {
        let (pace, turns, next) = (Pace::default(), Turns::default(), Instant::now());
        Mover { pace, turns, next, searching: JoinSet::new(), evicting: JoinSet::new() }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// What a search came to, or moves that were made.
    pub(super) async fn happens(&mut self) -> Option<Happening> {
        tokio::select! {
            Some(found) = self.searching.join_next(), if !self.searching.is_empty() => Some(Happening::Found(found)),
            Some(moved) = self.evicting.join_next(), if !self.evicting.is_empty() => Some(Happening::Moved(moved)),
            else => None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.searching.is_empty() || !self.evicting.is_empty()
    }
}

/// See [`Mover::happens`].
pub(super) enum Happening {
    Found(Result<Option<Box<Found>>, JoinError>),
    Moved(Result<Box<Moved>, JoinError>),
}

impl Driver {
    /// Are there pods for which moves are to be looked for?
    pub(super) fn wants_moves(&self) -> bool {
        let settings = &self.options.configuration.defragmentation;
        let waits = self.awaited.is_over() && self.state.queue_counts().unschedulable > 0;
        // Those that were moved may not be there again yet, and their room would be given away.
        settings.mode != Mode::Off && waits && !self.mover.is_busy() && !self.state.is_making_room()
    }

    /// Looks for moves if it is time to.
    pub(super) fn look_for_moves(&mut self) {
        if !self.wants_moves() || Instant::now() < self.mover.next {
            return;
        }
        let (settings, now) = (self.options.configuration.defragmentation.clone(), self.now());
        self.mover.next = Instant::now() + settings.interval;
        let left = match settings.mode {
            Mode::Move => self.mover.pace.left(&settings, now),
            Mode::Off | Mode::Propose => settings.moves_per_run,
        };
        if left == 0 {
            return;
        }
        // To look takes a copy of all that is known.
        if !self.state.has_stranded(settings.wait, now) {
            return;
        }
        let (trial, client, turns) = (self.state.trial(now), self.client.clone(), self.mover.turns.clone());
        let effort = Effort::new(self.shutdown.clone());
        self.mover.searching.spawn(async move {
            let (wanted, now) = (Wanted::Since(settings.wait, turns), Timestamp::now().as_second());
            match defrag::search(trial, wanted, left, &settings, &client, now, effort).await {
                Ok(found) => Some(Box::new(found)),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "no moves were looked for");
                    None
                }
            }
        });
    }

    pub(super) fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Found(Ok(None)) => {}
            Happening::Found(Ok(Some(found))) => {
                self.mover.turns.looked(&found.waiting, &found.in_vain);
                // Each was found as if those before it had happened: what is only told are all of them, what is made is
                // one at a time, and the next is looked for when it is done.
                let is_told = self.options.configuration.defragmentation.mode == Mode::Propose;
                for clearing in found.clearings.into_iter().take(if is_told { usize::MAX } else { 1 }) {
                    self.found(clearing);
                }
            }
            Happening::Moved(Ok(moved)) => self.moved(*moved),
            Happening::Found(Err(error)) | Happening::Moved(Err(error)) => {
                tracing::error!(%error, "a task that moves pods failed");
            }
        }
    }

    /// Tells of moves, or begins them if they still help.
    fn found(&mut self, clearing: Clearing) {
        let count = clearing.moves.len();
        if self.options.configuration.defragmentation.mode == Mode::Propose {
            self.metrics.moves("proposed", count);
            let note = format!("Would fit on node {} if {} moved", clearing.node, told(&clearing.moves));
            self.record(Record::MovesProposed(clearing.pod, note));
            return;
        }
        let mut actions = Vec::new();
        let now = self.now();
        if self.state.start_moves(&clearing, now, &mut actions) {
            self.mover.pace.made(count, now);
            self.act(actions);
        } else {
            self.mover.turns.failed(clearing.pod.key);
        }
    }

    /// Evicts the pods that a move is about.
    pub(super) fn evict(&mut self, clearing: Clearing) {
        let (namespace, pod, node) = (&clearing.pod.namespace, &clearing.pod.name, &*clearing.node);
        tracing::info!(namespace, pod, node, moves = clearing.moves.len(), "pods are moved to make room");
        let (client, shutdown) = (self.client.clone(), self.shutdown.clone());
        self.mover.evicting.spawn(async move {
            // One after the other: if one has to stay, the others need not go.
            for (told, one) in clearing.moves.iter().enumerate() {
                if shutdown.is_cancelled() {
                    let failed = clearing.moves[told..].iter().map(|one| one.pod.key).collect();
                    return Box::new(Moved { clearing, told, failed });
                }
                if let Err(error) = evict(&client, one, &shutdown).await {
                    let (namespace, pod) = (&one.pod.namespace, &one.pod.name);
                    tracing::warn!(namespace, pod, error = &error as &dyn std::error::Error, "a pod is not moved");
                    let failed = clearing.moves[told..].iter().map(|one| one.pod.key).collect();
                    return Box::new(Moved { clearing, told, failed });
                }
            }
            Box::new(Moved { told: clearing.moves.len(), clearing, failed: Vec::new() })
        });
    }

    fn moved(&mut self, Moved { clearing, told: count, failed }: Moved) {
        self.state.preempted(clearing.pod.key, &failed);
        self.metrics.moves("moved", count);
        self.metrics.moves("refused", failed.len());
        let Clearing { pod, node, moves, .. } = clearing;
        for Move { pod: leaver, to } in &moves[..count] {
            let note = format!(
                "Moved from node {node} to make room for pod {}/{}; node {to} has room for it",
                pod.namespace, pod.name
            );
            self.record(Record::Moved { pod: leaver.clone(), for_pod: pod.clone(), note });
        }
        if failed.is_empty() {
            let note = format!("Made room on node {node}: moved {}", told(&moves));
            self.record(Record::RoomMade(pod, note));
        } else {
            self.mover.turns.failed(pod.key);
        }
    }
}

/// Pods and where they go, for a sentence.
fn told(moves: &[Move]) -> String {
    let each = moves.iter().map(|one| format!("{}/{} to {}", one.pod.namespace, one.pod.name, one.to));
    each.collect::<Vec<_>>().join(", ")
}

async fn evict(client: &Client, one: &Move, shutdown: &CancellationToken) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &one.pod.namespace);
    // The UID keeps it from meeting another pod that took the name. (The client's own method does not send what it is given.)
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": one.pod.name, "namespace": one.pod.namespace},
        "deleteOptions": {"preconditions": {"uid": one.pod.uid}}});
    let (mut delay, mut left) = (RETRY_FIRST, ATTEMPTS);
    loop {
        left -= 1;
        let params = PostParams::default();
        let asked = api.create_subresource::<_, Value>("eviction", &one.pod.name, &params, &eviction).await;
        let error = match asked {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => error,
        };
        // Another one has its name, or it changed all the time.
        let is_conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
        if is_conflict {
            let found = api.get_metadata_opt(&one.pod.name).await?;
            if found.is_none_or(|found| found.metadata.uid.as_deref() != Some(&*one.pod.uid)) {
                return Ok(());
            }
        }
        let is_final = matches!(&error, kube::Error::Api(status) if status.code < 500 && !is_conflict);
        if is_final || left == 0 {
            return Err(error);
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(error),
            () = tokio::time::sleep(delay) => delay *= 2,
        }
    }
}
