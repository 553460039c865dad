//! Room for pods that wait though the cluster has enough of it, in pieces: which pods would have to move, and few of them.
//!
//! ```text
//! state ─▶ copy ─▶ who waits, which nodes might do ─▶ API: the pods there ─▶ the fewest moves, tried out on the copy
//! ```
//!
//! Proposed for a placement review, or by the scheduler that binds, which also makes the moves if it may: it evicts the pods,
//! and who makes them makes them anew.

pub mod settings;
pub mod turns;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use k8s_openapi::api::core::v1 as k8s;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::core::PodKey;
use crate::driver::facts::PodFacts;
use crate::driver::state::{Clearing, Effort, Trial};
use settings::Settings;
use turns::Turns;

/// Nodes whose pods are looked at for one pod that waits: those from which the fewest would have to leave.
const NODES_MAX: usize = 32;
/// A pod of this priority or above is one that the cluster itself needs.
const CRITICAL: i32 = 2_000_000_000;
/// What a pod carries that a node agent made by itself.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
/// By which a pod says whether it may be moved.
const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";

/// Who wants room.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// These pods, as far as they wait.
    Pods(Vec<PodKey>),
    /// Whoever has waited for so long, as far as it is their turn.
    Since(Duration, Turns),
}

/// A pod as if it had no node yet, beside which node it has.
pub(crate) fn as_waiting(mut pod: k8s::Pod) -> PodFacts {
    let node = pod.spec.as_mut().and_then(|spec| spec.node_name.take()).filter(|name| !name.is_empty());
    if let Some(node) = node {
        // What it is told about its place is not what it asks for.
        let started = pod.status.take().and_then(|status| status.start_time).map(|time| time.0.as_second());
        let facts = PodFacts::from(&pod);
        return PodFacts { node_name: Some(node), started, ..facts };
    }
    PodFacts::from(&pod)
}

/// The pod, if it may be moved: somebody makes it anew elsewhere, it holds nothing that would be lost, and it has not
/// started lately. `now` is the time of day in seconds.
pub fn movable(pod: &k8s::Pod, cool_down: Duration, now: i64) -> Option<PodFacts> {
    let (meta, spec, status) = (&pod.metadata, pod.spec.as_ref()?, pod.status.as_ref());
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let note = |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
    let belongs = matches!(owner.kind.as_str(), "DaemonSet" | "Node") || note(MIRROR).is_some();
    let class = spec.priority_class_name.as_deref().unwrap_or_default();
    let is_critical = class.starts_with("system-") || spec.priority.unwrap_or(0) >= CRITICAL;
    let is_local = |volume: &k8s::Volume| volume.empty_dir.is_some() || volume.host_path.is_some();
    let keeps_data = spec.volumes.iter().flatten().any(is_local);
    let is_safe = match note(SAFE_TO_EVICT) {
        Some("true") => true,
        Some("false") => false,
        _ => !keeps_data,
    };
    let ends = meta.deletion_timestamp.is_some()
        || matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    let started = status.and_then(|status| status.start_time.as_ref()).map(|time| time.0.as_second());
    let age = started.map_or(0, |started| u64::try_from(now - started).unwrap_or(0));
    let has_rested = cool_down.is_zero() || age >= cool_down.as_secs();
    let may = !belongs && !is_critical && is_safe && !ends && has_rested;
    may.then(|| as_waiting(pod.clone())).filter(|facts| facts.node_name.is_some())
}

/// Why no moves were looked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Which pods are on nodes was not told.
    #[error("the pods of nodes cannot be listed")]
    Pods(#[source] kube::Error),
    /// The search ended early.
    #[error("the search for moves was broken off")]
    Broken(#[source] tokio::task::JoinError),
}

/// What a search came to.
#[derive(Debug)]
pub struct Found {
    /// In it the moves have happened.
    pub trial: Trial,
    /// The moves.
    pub clearings: Vec<Clearing>,
    /// Who waited.
    pub waiting: Vec<PodKey>,
    /// Those of them that were looked at, and that no moves help.
    pub in_vain: Vec<PodKey>,
}

/// Finds moves, `most` at most in all, that make room for those that want some.
pub async fn search(
    mut trial: Trial,
    wanted: Wanted,
    most: usize,
    settings: &Settings,
    client: &Client,
    now: i64,
    mut effort: Effort,
) -> Result<Found, Error> {
    let looked = tokio::task::spawn_blocking(move || {
        trial.settle();
        let (waiting, turns): (Vec<PodKey>, Turns) = match wanted {
            Wanted::Pods(pods) => (pods.into_iter().filter(|pod| trial.is_stranded(*pod)).collect(), Turns::default()),
            Wanted::Since(waited, turns) => (trial.stranded(waited), turns),
        };
        let pods = turns.choose(waiting.clone(), most, |one, other| trial.are_alike(one, other));
        let mut nodes = BTreeSet::new();
        for (index, pod) in pods.iter().enumerate() {
            if !pods[..index].iter().any(|before| trial.are_alike(*before, *pod)) {
                nodes.extend(trial.nodes_to_clear(*pod, most).into_iter().take(NODES_MAX));
            }
        }
        (trial, waiting, pods, nodes)
    });
    let (mut trial, waiting, pods, nodes) = looked.await.map_err(Error::Broken)?;
    let mut may_move = Vec::new();
    for node in nodes {
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let there = Api::<k8s::Pod>::all(client.clone()).list(&params).await.map_err(Error::Pods)?;
        may_move.extend(there.items.iter().filter_map(|pod| movable(pod, settings.cool_down, now)));
    }
    let found = tokio::task::spawn_blocking(move || {
        let (clearings, mut in_vain) = make_room(&mut trial, &pods, &may_move, most, &mut effort);
        // What is true of one is true of all that are like it.
        let firsts = std::mem::take(&mut in_vain);
        let is_like = |pod: &PodKey| firsts.iter().any(|first| trial.are_alike(*first, *pod));
        in_vain.extend(waiting.iter().filter(|pod| is_like(pod)));
        Found { trial, clearings, waiting, in_vain }
    });
    found.await.map_err(Error::Broken)
}

/// The fewest moves for one pod after the other, `most` at most in all; and of those that are alike the first one that none
/// helped.
pub fn make_room(
    trial: &mut Trial,
    pods: &[PodKey],
    movable: &[PodFacts],
    most: usize,
    effort: &mut Effort,
) -> (Vec<Clearing>, Vec<PodKey>) {
    let (mut found, mut left) = (Vec::<Clearing>::new(), most);
    let mut hopeless: Vec<PodKey> = Vec::new();
    for pod in pods {
        if left == 0 || effort.is_spent() {
            break;
        }
        if hopeless.iter().any(|other| trial.are_alike(*other, *pod)) {
            continue;
        }
        match trial.make_room(*pod, movable, left, effort).found {
            Some(clearing) => {
                left -= clearing.moves.len();
                found.push(clearing);
            }
            None => hopeless.push(*pod),
        }
    }
    (found, hopeless)
}

/// How many moves were made lately.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// When; as many as may be made in an hour at most.
    made: VecDeque<Duration>,
}

impl Pace {
    const HOUR: Duration = Duration::from_secs(3_600);

    /// How many may be made now.
    pub fn left(&mut self, settings: &Settings, now: Duration) -> usize {
        while self.made.front().is_some_and(|made| *made + Self::HOUR <= now) {
            self.made.pop_front();
        }
        settings.moves_per_hour.saturating_sub(self.made.len()).min(settings.moves_per_run)
    }

    /// So many were made.
    pub fn made(&mut self, count: usize, now: Duration) {
        self.made.extend(std::iter::repeat_n(now, count));
    }
}

#[cfg(test)]
mod tests;
