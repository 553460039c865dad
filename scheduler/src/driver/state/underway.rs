//! Moves that have begun and are not over: those that leave have to be gone in time, and whoever makes them makes them anew
//! a moment later. Until then what they left looks free and is not, and no other moves are looked for.

use std::sync::Arc;
use std::time::Duration;

use super::super::facts::PodFacts;
use super::{Action, Clearing, PodRef, State};
use crate::core::PodKey;

/// For the eviction, for the node to stop the pod, and for the word of it to come: so much longer than the time that the pod
/// itself has to end.
const GONE_MARGIN: Duration = Duration::from_secs(30);
/// What a pod has to end if it does not say.
const GRACE: Duration = Duration::from_secs(30);
/// Whoever makes a pod anew does so within this, or does not.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// A pod that was told to leave.
#[derive(Clone, Debug)]
struct Leaving {
    pod: PodKey,
    /// Who makes it anew.
    maker: Option<u128>,
    is_gone: bool,
    /// Since when it was seen to be gone.
    gone_at: Option<Duration>,
    /// The one that takes its place is there.
    is_again: bool,
}

/// The moves for one pod.
#[derive(Clone, Debug)]
struct Underway {
    pod: PodRef,
    node: Arc<str>,
    /// By then they must be gone. None once that is over.
    until: Option<Duration>,
    leaving: Vec<Leaving>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Moves {
    underway: Vec<Underway>,
    /// They do not end by time.
    is_frozen: bool,
}

impl Moves {
    /// Are pods moved for this one?
    pub(super) fn are_for(&self, pod: PodKey) -> bool {
        self.underway.iter().any(|one| one.pod.key == pod)
    }

    pub(super) fn begin(&mut self, clearing: &Clearing, now: Duration) {
        let leaving = clearing.leaving.iter().map(|pod| Leaving {
            pod: pod.key,
            maker: pod.maker,
            is_gone: false,
            gone_at: None,
            is_again: false,
        });
        let grace = clearing.leaving.iter().map(|pod| pod.grace.unwrap_or(GRACE)).max().unwrap_or(GRACE);
        let (pod, node) = (clearing.pod.clone(), clearing.node.clone());
        let until = Some(now.saturating_add(grace).saturating_add(GONE_MARGIN));
        self.underway.push(Underway { pod, node, until, leaving: leaving.collect() });
    }

    fn leaving(&mut self) -> impl Iterator<Item = &mut Leaving> {
        self.underway.iter_mut().flat_map(|one| &mut one.leaving)
    }

    /// A pod is not there any more.
    pub(super) fn gone(&mut self, pod: PodKey) {
        if let Some(leaving) = self.leaving().find(|one| one.pod == pod) {
            leaving.is_gone = true;
        }
    }

    /// A pod is there that was not before: it may take the place of one that left, or leaves.
    fn came(&mut self, maker: u128) {
        if let Some(leaving) = self.leaving().find(|one| one.maker == Some(maker) && !one.is_again) {
            leaving.is_again = true;
        }
    }

    /// These do not leave.
    pub(super) fn stay(&mut self, pods: &[PodKey]) {
        for one in &mut self.underway {
            one.leaving.retain(|leaving| !pods.contains(&leaving.pod));
        }
    }

    /// Where time is only thought, nobody is late.
    pub(super) fn freeze(&mut self) {
        self.is_frozen = true;
    }

    /// When time alone changes something.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let again = |one: &Leaving| one.gone_at.filter(|_| !one.is_again).map(|at| at + AGAIN_MAX);
        let times = self.underway.iter().flat_map(|one| one.leaving.iter().filter_map(again).chain(one.until));
        times.min().filter(|_| !self.is_frozen)
    }
}

impl Underway {
    /// Is everyone where he is to be, or was waited for long enough?
    fn is_over(&self, now: Duration, waits: bool) -> bool {
        let is_settled = |one: &Leaving| {
            let is_late = one.gone_at.is_some_and(|at| at + AGAIN_MAX <= now);
            one.is_gone && (one.is_again || one.maker.is_none() || is_late)
        };
        !waits && self.leaving.iter().all(is_settled)
    }
}

impl State {
    /// Is room being made that the pod it is for has not got yet, or that those that left may still come to need?
    pub fn is_making_room(&self) -> bool {
        !self.moves.underway.is_empty()
    }

    /// A pod that this scheduler places is seen: it may be one that was moved, made anew.
    pub(super) fn note_made_anew(&mut self, pod: &PodFacts) {
        if self.moves.underway.is_empty() || pod.terminating || !self.profiles.contains_key(&pod.scheduler_name) {
            return;
        }
        let is_new = !self.pending.contains_key(&pod.key) && !self.names.contains_key(&pod.key);
        if let Some(maker) = pod.maker.filter(|_| is_new) {
            self.moves.came(maker);
        }
    }

    /// Gives up on pods that should be gone by now: the room that they have is not kept for who waits, which may have other
    /// room made. Forgets moves that are over.
    pub(super) fn look_at_moves(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.moves.underway.is_empty() || self.moves.is_frozen {
            return;
        }
        let mut underway = std::mem::take(&mut self.moves.underway);
        let mut is_late = false;
        for one in &mut underway {
            for leaving in one.leaving.iter_mut().filter(|leaving| leaving.is_gone) {
                leaving.gone_at.get_or_insert(now);
            }
            if one.until.take_if(|until| *until <= now).is_some() {
                is_late |= self.give_up_room(one, actions);
            }
        }
        underway.retain(|one| !one.is_over(now, one.until.is_some() && self.waits_there(one)));
        self.moves.underway = underway;
        if is_late {
            self.wake(now);
        }
    }

    fn waits_there(&self, one: &Underway) -> bool {
        self.engine.nominated_node(one.pod.key) == Some(&one.node)
    }

    /// Those that are still there stay in what is thought of the node. Returns whether someone waited for their room.
    fn give_up_room(&mut self, one: &mut Underway, actions: &mut Vec<Action>) -> bool {
        let stuck: Vec<PodKey> = one.leaving.iter().filter(|one| !one.is_gone).map(|one| one.pod).collect();
        one.leaving.retain(|one| one.is_gone);
        for pod in &stuck {
            self.engine.set_preempted(*pod, false);
        }
        self.note_staying(&stuck);
        if !self.waits_there(one) {
            return false;
        }
        self.engine.unnominate(one.pod.key);
        self.freed = true;
        self.left_alone.push(one.pod.key);
        actions.push(Action::Status { pod: one.pod.clone(), condition: None, nominated: Some(None) });
        true
    }
}
