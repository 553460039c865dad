//! Pods of a group are decided together: as many as the group needs get their nodes at once, or none goes anywhere.
//!
//! Whoever of a group is to be tried, all of it is. Nodes are given to one after the other, in thought; if they are
//! enough, all are bound, and if not, all is taken back. A group that asks for it keeps its nodes for a while instead, so
//! that the room that it waits for does not go to others piece by piece; then it gives them up at once.

use std::sync::Arc;
use std::time::Duration;

use super::super::facts::ObjectKey;
use super::super::gangs::GroupSpec;
use super::super::queue::Refused;
use super::clearing::Room;
use super::{Action, Attempt, Found, State, UNSCHEDULABLE};
use crate::core::{Ask, Plugin, PluginSet, PodKey, Preemption};
use crate::fair::QueueId;

/// The pods of a group that have no node for good.
struct Members {
    /// Nodes are held for these.
    held: Vec<PodKey>,
    /// These wait.
    open: Vec<PodKey>,
}

/// An attempt at a group.
pub(super) struct Round<'a> {
    pub(super) key: &'a Arc<ObjectKey>,
    spec: GroupSpec,
    /// The pod that was to be tried.
    first: PodKey,
    /// How many of its pods have nodes, or are as good as there.
    there: usize,
    /// How many more it takes.
    pub(super) needed: usize,
}

/// What the pods of a group are told that go nowhere now.
struct Told<'a> {
    why: &'a str,
    plugins: PluginSet,
    /// Others may have to go for them, if that helps.
    preempts: bool,
    /// The queue that holds them back.
    at: Option<QueueId>,
}

impl<'a> Told<'a> {
    fn new(why: &'a str, plugins: PluginSet) -> Self {
        Told { why, plugins, preempts: false, at: None }
    }
}

impl State {
    /// A list of all groups begins.
    pub fn groups_relist(&mut self) {
        self.gangs.relist();
    }

    /// The list of all groups is complete.
    pub fn groups_listed(&mut self) {
        for key in self.gangs.listed() {
            self.group_gone(&key);
        }
    }

    /// A group is new or has changed.
    pub fn group_seen(&mut self, key: &ObjectKey, spec: GroupSpec) {
        if self.gangs.set(key, Some(spec)) {
            self.stirred.insert(Arc::new(key.clone()));
        }
    }

    /// A group is gone.
    pub fn group_gone(&mut self, key: &ObjectKey) {
        if self.gangs.set(key, None) {
            self.stirred.insert(Arc::new(key.clone()));
        }
    }

    /// Lets the pods of groups try again that have got another pod, or ask for something else.
    pub(super) fn wake_gangs(&mut self, now: Duration) {
        for key in std::mem::take(&mut self.stirred) {
            for pod in self.members(&key).open {
                self.queue.wake_one(pod, now);
            }
        }
    }

    fn members(&self, key: &ObjectKey) -> Members {
        let mut members = Members { held: Vec::new(), open: Vec::new() };
        let Some(gang) = self.gangs.get(key) else { return members };
        for (_, pod) in &gang.waiting {
            match self.pending.get(pod) {
                Some(pending) if pending.held.is_some() => members.held.push(*pod),
                Some(pending) if !pending.gated && !pending.assumed => members.open.push(*pod),
                _ => {}
            }
        }
        members
    }

    /// Tries the pods of a group together.
    pub(super) fn attempt_gang(
        &mut self,
        first: PodKey,
        key: &Arc<ObjectKey>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Attempt {
        let members = self.members(key);
        let (spec, underway) = match self.gangs.get(key) {
            Some(gang) => (gang.spec, gang.waiting.len()),
            None => (None, 0),
        };
        // Those whose binding is under way are as good as there.
        let going = underway - members.held.len() - members.open.len() - self.gated_members(key);
        let there = going + self.gangs.get(key).map_or(0, |gang| gang.placed);
        let Some(spec) = spec else {
            let why = format!("PodGroup {:?} not found", key.1);
            self.leave_seats(&members.open);
            return self.refuse_gang(&members.open, first, &Told::new(&why, PluginSet::NONE), now, actions);
        };
        let needed = spec.min_member.saturating_sub(there);
        if needed == 0 && members.held.is_empty() {
            // Enough of the group is there: what comes now goes its own way.
            return self.attempt_alone(first, now, actions);
        }
        let count = members.held.len() + members.open.len();
        if count < needed {
            let (all, min) = (there + count, spec.min_member);
            let why = format!(
                "cannot find enough sibling pods, current pods number: {all}, minMember of group: {min} (PodGroup {:?})",
                key.1
            );
            self.leave_seats(&members.open);
            return self.refuse_gang(&members.open, first, &Told::new(&why, PluginSet::NONE), now, actions);
        }
        self.queue.fair.suppose();
        let attempt = self.place_gang(&Round { key, spec, first, there, needed }, members, now, actions);
        self.queue.fair.conclude();
        attempt
    }

    /// A group that cannot become whole keeps no room from others, whoever has gone for it.
    fn leave_seats(&mut self, pods: &[PodKey]) {
        for pod in pods {
            self.freed |= self.engine.unnominate(*pod);
        }
    }

    fn gated_members(&self, key: &ObjectKey) -> usize {
        let waiting = self.gangs.get(key).into_iter().flat_map(|gang| &gang.waiting);
        waiting.filter(|(_, pod)| self.pending.get(pod).is_some_and(|pending| pending.gated)).count()
    }

    fn place_gang(&mut self, round: &Round<'_>, members: Members, now: Duration, actions: &mut Vec<Action>) -> Attempt {
        let Round { key, spec, first, there, needed } = *round;
        // What is held is looked at anew: its node may have become smaller, or another one better.
        let mut all = members.held;
        let (came, had_nodes) = (self.came, !all.is_empty());
        for pod in &all {
            if let Some(found) = self.pending.get_mut(pod).and_then(|pending| pending.held.take()) {
                self.let_go(*pod, &found);
            }
        }
        all.extend(members.open);
        let waited_for = self.nominations(&all);
        let is_awaited = waited_for.iter().any(|(ask, _)| self.waits_for_victims(*ask));
        let mut placed: Vec<(PodKey, Found)> = Vec::new();
        let mut refused: Vec<PodKey> = Vec::new();
        for pod in &all {
            self.refresh_class(*pod);
            match self.find(*pod) {
                Some(found) => {
                    self.hold(*pod, &found);
                    placed.push((*pod, found));
                }
                None => refused.push(*pod),
            }
        }
        if placed.len() >= needed {
            self.gangs.set_since(key, None);
            for (pod, found) in placed {
                self.queue.take_out(pod, now);
                self.send(pod, found, now, actions);
            }
            // The rest is like any other pod from now on.
            for pod in refused.iter().filter(|pod| **pod != first) {
                self.queue.put_back(*pod, now);
            }
            if refused.contains(&first) {
                self.refuse(first, now, actions);
                return Attempt::Unschedulable;
            }
            return Attempt::Assumed;
        }
        let (why, plugins) = self.why_gang_waits(key, spec, there + placed.len(), refused.first().copied());
        let at = refused.first().and_then(|pod| self.blocked(*pod)).map(|(at, _)| at);
        // Whom a queue holds back waits for that, and for no node.
        let is_coming = is_awaited && at.is_none();
        let room = if is_coming { Room::Coming } else { self.room_for_rest(round, &placed, &refused) };
        let at = at.filter(|_| matches!(room, Room::None { .. }));
        if matches!(room, Room::None { .. }) && spec.hold > Duration::ZERO && !placed.is_empty() {
            self.keep(key, placed, &why, now, actions);
            return self.refuse_gang(&refused, first, &Told { at, ..Told::new(&why, plugins) }, now, actions);
        }
        for (pod, found) in placed.iter().rev() {
            self.let_go(*pod, found);
        }
        self.gangs.set_since(key, None);
        // All is as before, but for what was held.
        self.came = came;
        self.freed |= had_nodes;
        let preempts = matches!(room, Room::None { preempts: true });
        self.settle_room(room, waited_for, actions);
        self.refuse_gang(&all, first, &Told { why: &why, plugins, preempts, at }, now, actions)
    }

    /// Why not enough of a group fit, in the words for one that does not, as things are with the others in their places.
    fn why_gang_waits(
        &mut self,
        key: &ObjectKey,
        spec: GroupSpec,
        fit: usize,
        refused: Option<PodKey>,
    ) -> (String, PluginSet) {
        let group = format!("PodGroup {:?}: {fit} of {} needed pods fit", key.1, spec.min_member);
        let Some((pod, pending)) = refused.and_then(|pod| Some((pod, self.pending.get(&pod)?))) else {
            return (group, PluginSet::ALL);
        };
        if let Some((_, why)) = self.blocked(pod) {
            return (format!("{group}: {why}"), PluginSet::NONE);
        }
        if let Some(hindrance) = &pending.hindrance {
            return (format!("{group}: {hindrance}"), PluginSet::NONE.with(Plugin::VolumeBinding));
        }
        let ask = Ask { pod, class: pending.class, priority: pending.priority };
        let diagnosis = self.engine.diagnose_for(ask);
        let plugins = if diagnosis.nodes == 0 { PluginSet::ALL } else { diagnosis.plugins };
        (format!("{group}: {}", diagnosis.message(&Preemption::Found)), plugins)
    }

    /// Keeps the nodes of those that fit, until the rest fits too or the group's time is over.
    fn keep(
        &mut self,
        key: &Arc<ObjectKey>,
        placed: Vec<(PodKey, Found)>,
        why: &str,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        for (pod, found) in placed {
            self.queue.take_out(pod, now);
            if let Some(pending) = self.pending.get_mut(&pod) {
                pending.held = Some(found);
                let waited = pending.nominated.is_some();
                actions.extend(pending.report(UNSCHEDULABLE, why, waited.then_some(None)));
            }
        }
        let since = self.gangs.get(key).and_then(|gang| gang.since).unwrap_or(now);
        self.gangs.set_since(key, Some(since));
    }

    /// Gives up the nodes that groups have held for as long as they may.
    pub(super) fn end_holds(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let is_over = self.gangs.deadline().is_some_and(|deadline| deadline <= now);
        if !is_over && self.gangs.displaced.is_empty() {
            return;
        }
        let displaced = std::mem::take(&mut self.gangs.displaced);
        for (since, key) in self.gangs.holding.clone() {
            let hold = self.gangs.hold_of(&key);
            let group = format!("PodGroup {:?}", key.1);
            let why = if displaced.contains(&key) {
                format!("{group}: a pod that matters more took a node that was held for it")
            } else if since + hold <= now {
                format!("{group}: not enough of its pods got nodes within {} s", hold.as_secs())
            } else {
                continue;
            };
            self.gangs.set_since(&key, None);
            let members = self.members(&key);
            for pod in members.open {
                self.queue.take_out(pod, now);
                self.queue.put_back_tried(pod, now);
            }
            for pod in members.held {
                let Some(found) = self.pending.get_mut(&pod).and_then(|pending| pending.held.take()) else { continue };
                self.let_go(pod, &found);
                // The whole group backs off, so that who waits for its room goes first.
                self.queue.put_back_tried(pod, now);
                if let Some(pending) = self.pending.get_mut(&pod) {
                    actions.extend(pending.report(UNSCHEDULABLE, &why, None));
                    actions.extend(pending.event(why.clone(), now));
                }
            }
            self.freed = true;
        }
        self.wake(now);
    }

    /// A pod that waits is of its group no more: what was held for it is not.
    pub(super) fn leave_group(&mut self, pod: PodKey, now: Duration) {
        let Some(found) = self.pending.get_mut(&pod).and_then(|pending| pending.held.take()) else { return };
        self.let_go(pod, &found);
        self.queue.put_back(pod, now);
        self.freed = true;
    }

    /// Takes back what was done for a pod in thought.
    pub(super) fn let_go(&mut self, pod: PodKey, found: &Found) {
        let Some(pending) = self.pending.get_mut(&pod).filter(|pending| pending.assumed) else { return };
        pending.assumed = false;
        self.assumed -= 1;
        self.storage.forget(&found.choice);
        self.unseat(pod);
        self.engine.remove_pod(pod);
        if let Some(scores) = &mut self.scores {
            scores.remove(&pod);
        }
    }

    /// None of these goes anywhere now: one word for all, and no tries one by one.
    fn refuse_gang(
        &mut self,
        pods: &[PodKey],
        first: PodKey,
        &Told { why, plugins, preempts, at }: &Told<'_>,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> Attempt {
        let refused = Refused { plugins, preempts, cursor: self.engine.cursor() };
        for pod in pods {
            if *pod != first {
                self.queue.take_out(*pod, now);
            }
            match at {
                Some(queue) => self.queue.put_held(*pod, queue),
                None => self.queue.put_unschedulable(*pod, refused, now),
            }
            let nominated = self.engine.nominated_node(*pod).cloned();
            if let Some(pending) = self.pending.get_mut(pod) {
                // What it waits for is written where that is news.
                let is_news = pending.nominated.as_deref() != nominated.as_deref();
                actions.extend(pending.report(UNSCHEDULABLE, why, is_news.then_some(nominated)));
                actions.extend(pending.event(why.to_owned(), now));
            }
        }
        if at.is_none() {
            self.pass_on(first);
        }
        Attempt::Unschedulable
    }
}
