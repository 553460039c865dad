//! What is done with a pod that no node takes: others may have to go for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::facts::PodFacts;
use super::super::queue::Refused;
use super::{Action, PodRef, State, UNSCHEDULABLE};
use crate::convert;
use crate::core::{Ask, ClassId, Diagnosis, Plugin, PluginSet, PodKey, Preemption, Victims};

/// A pod that has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The UID as a number.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// What a pod that has a node is called. There are many: nothing is kept that can be worked out.
#[derive(Clone, Debug)]
pub(super) struct PlacedName {
    namespace: Box<str>,
    pub(super) name: Box<str>,
    /// Only if it is not the usual text for the pod's key.
    uid: Option<Box<str>>,
    terminating: bool,
}

impl PlacedName {
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// It is not about to go.
    pub(super) fn stays(&self) -> bool {
        !self.terminating
    }

    pub(super) fn of(pod: &PodFacts) -> Self {
        let uid = (convert::usual_uid(pod.key) != pod.uid).then(|| pod.uid.as_str().into());
        let (namespace, name) = (pod.namespace.as_str().into(), pod.name.as_str().into());
        PlacedName { namespace, name, uid, terminating: pod.terminating }
    }

    pub(super) fn named(pod: &PodRef) -> Self {
        let uid = (convert::usual_uid(pod.key) != pod.uid).then(|| pod.uid.as_str().into());
        let (namespace, name) = (pod.namespace.as_str().into(), pod.name.as_str().into());
        PlacedName { namespace, name, uid, terminating: false }
    }
}

/// Why pods of a class and priority have no place, for as long as nothing changes.
#[derive(Clone, Debug)]
pub(super) struct Diagnosed {
    class: ClassId,
    priority: i32,
    never_preempts: bool,
    version: u64,
    diagnosis: Arc<Diagnosis>,
    preemption: Arc<Preemption>,
}

impl State {
    /// No node takes the pod: finds out why, and whether others can make room for it.
    pub(super) fn refuse(&mut self, key: PodKey, now: Duration, actions: &mut Vec<Action>) {
        if let Some((at, why)) = self.blocked(key) {
            return self.hold_back(key, at, why, now, actions);
        }
        self.pass_on(key);
        let Some(pending) = self.pending.get(&key) else { return };
        let ask = Ask { pod: key, class: pending.class, priority: pending.priority };
        let (diagnosis, preemption) = match &pending.hindrance {
            Some(why) => {
                let nodes = self.engine.nodes().count();
                let diagnosis = Diagnosis::refused_at_once(nodes, why.clone(), Plugin::VolumeBinding);
                (Arc::new(diagnosis), Arc::new(Preemption::Failed(BTreeMap::new())))
            }
            None => self.diagnose(ask, pending.never_preempts, actions),
        };
        let nominated = match *preemption {
            Preemption::Found => self.engine.nominated_node(ask.pod).map(|node| Some(node.clone())),
            Preemption::Failed(_) if self.engine.unnominate(ask.pod) => {
                self.freed = true;
                Some(None)
            }
            // Those that were to be moved for it are gone, or stay: its room is not kept any longer.
            Preemption::Never
                if self.moves.are_for(ask.pod) && !self.waits_for_victims(ask) && self.engine.unnominate(ask.pod) =>
            {
                self.freed = true;
                Some(None)
            }
            _ => None,
        };
        let message = diagnosis.message(&preemption);
        let refused = Refused {
            // Without nodes any change may help, so wait for any.
            plugins: if diagnosis.nodes == 0 { PluginSet::ALL } else { diagnosis.plugins },
            preempts: matches!(*preemption, Preemption::Failed(_)) && diagnosis.conflict.is_none(),
            cursor: self.engine.cursor(),
        };
        self.queue.put_unschedulable(ask.pod, refused, now);
        if let Some(pending) = self.pending.get_mut(&ask.pod) {
            actions.extend(pending.report(UNSCHEDULABLE, &message, nominated));
            actions.extend(pending.event(message, now));
        }
    }

    fn diagnose(
        &mut self,
        ask: Ask,
        never_preempts: bool,
        actions: &mut Vec<Action>,
    ) -> (Arc<Diagnosis>, Arc<Preemption>) {
        let is_nominated = self.engine.nominated_node(ask.pod).is_some();
        let version = self.engine.version();
        let known = self.diagnosed.as_ref().filter(|known| {
            let same = known.class == ask.class && known.priority == ask.priority && known.version == version;
            same && known.never_preempts == never_preempts && !is_nominated
        });
        if let Some(known) = known {
            return (known.diagnosis.clone(), known.preemption.clone());
        }
        let diagnosis = Arc::new(self.engine.diagnose_for(ask));
        let preemption = Arc::new(self.make_room(ask, never_preempts, &diagnosis, actions));
        let holds = matches!(*preemption, Preemption::Never | Preemption::Failed(_)) && !is_nominated;
        self.diagnosed = holds.then(|| Diagnosed {
            class: ask.class,
            priority: ask.priority,
            never_preempts,
            // Thinking pods away and back counts as changes, but changes nothing.
            version: self.engine.version(),
            diagnosis: diagnosis.clone(),
            preemption: preemption.clone(),
        });
        (diagnosis, preemption)
    }

    fn make_room(
        &mut self,
        ask: Ask,
        never_preempts: bool,
        diagnosis: &Diagnosis,
        actions: &mut Vec<Action>,
    ) -> Preemption {
        if never_preempts {
            return Preemption::Never;
        }
        if self.waits_for_victims(ask) {
            return Preemption::Waiting;
        }
        let Some((victims, reclaims)) = self.victims_for(ask) else {
            return self.engine.preemption_failure(ask, diagnosis);
        };
        let node = self.engine.node_name(victims.node).clone();
        self.claim(ask, &node, &victims.pods, reclaims, actions);
        Preemption::Found
    }

    /// Is someone about to leave the node that the pod waits for?
    pub(super) fn waits_for_victims(&mut self, ask: Ask) -> bool {
        // Those that are moved, or owe their room, may matter as much.
        if self.queue.line_of(ask.pod).is_some() || self.moves.are_for(ask.pod) {
            self.engine.waits_for_any(ask)
        } else {
            self.engine.waits_for_victims(ask)
        }
    }

    /// Who would have to go for the pod, where that costs the least, and whether they owe it their room.
    pub(super) fn victims_for(&mut self, ask: Ask) -> Option<(Victims, bool)> {
        if let Some(owed) = self.reclaim(ask) {
            return Some((owed, true));
        }
        // Taken out for a while, so that the engine can be asked with what is known beside it.
        let mut engine = std::mem::take(&mut self.engine);
        let names = &self.names;
        let name_of = |pod: PodKey| names.get(&pod).map(|placed| placed.name.to_string());
        let line = self.queue.line_of(ask.pod);
        let found = engine.preempt_some(ask, &self.budgets, &name_of, &|pod| !self.is_spared(pod, line));
        self.engine = engine;
        found.map(|victims| (victims, false))
    }

    /// The pod waits for the node from now on, and these have to go there.
    pub(super) fn claim(
        &mut self,
        ask: Ask,
        node: &Arc<str>,
        victims: &[PodKey],
        reclaims: bool,
        actions: &mut Vec<Action>,
    ) {
        let victims = self.take_room(ask, node, victims, reclaims, actions);
        if let Some(pending) = self.pending.get(&ask.pod)
            && !victims.is_empty()
        {
            actions.push(Action::Preempt { pod: pending.pod.clone(), node: node.clone(), victims });
        }
    }

    /// The same, but for telling those that have to go: gives them.
    pub(super) fn take_room(
        &mut self,
        ask: Ask,
        node: &Arc<str>,
        victims: &[PodKey],
        reclaims: bool,
        actions: &mut Vec<Action>,
    ) -> Vec<Victim> {
        for pod in victims {
            self.engine.set_preempted(*pod, true);
        }
        self.note_going(ask.pod, victims, reclaims);
        // Who matters less and waits for the same node may not fit there any more.
        for pod in self.engine.nominated_below(node, ask.priority) {
            self.engine.unnominate(pod);
            self.left_alone.push(pod);
            if let Some(pending) = self.pending.get(&pod) {
                actions.push(Action::Status { pod: pending.pod.clone(), condition: None, nominated: Some(None) });
            }
        }
        self.freed |= self.engine.nominated_node(ask.pod).is_some_and(|kept| kept != node);
        // What was owed must not go to those again who had it, however much they matter.
        let priority = if reclaims { i32::MAX } else { ask.priority };
        self.engine.nominate(Ask { priority, ..ask }, node);
        // Those that are going already need not be told.
        let mut told = Vec::new();
        for pod in victims {
            // Who only holds its place for its group gives that up, and waits on.
            match self.gangs.of(*pod).filter(|_| self.pending.get(pod).is_some_and(|pending| pending.held.is_some())) {
                Some(group) => self.gangs.displace(group),
                None => told.extend(self.victim(*pod)),
            }
        }
        told
    }

    fn victim(&self, key: PodKey) -> Option<Victim> {
        if let Some(placed) = self.names.get(&key) {
            let uid = placed.uid.as_ref().map_or_else(|| convert::usual_uid(key), ToString::to_string);
            let (namespace, name) = (placed.namespace.to_string(), placed.name.to_string());
            return (!placed.terminating).then_some(Victim { key, uid, namespace, name });
        }
        // Its binding is under way.
        let pod = &self.pending.get(&key)?.pod;
        Some(Victim { key, uid: pod.uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone() })
    }

    /// One that had to go is gone: who waits for that node is tried, even if others have taken the room meanwhile.
    pub(super) fn note_left(&mut self, key: PodKey) {
        if self.engine.is_preempted(key)
            && let Some(node) = self.engine.node_of(key)
        {
            self.left_alone.extend(self.engine.nominated_on(node));
        }
    }

    /// Making pods go for `key` has ended; these are still there.
    pub fn preempted(&mut self, key: PodKey, failed: &[PodKey]) {
        for pod in failed {
            self.engine.set_preempted(*pod, false);
        }
        self.note_staying(failed);
        self.moves.stay(failed);
        if !failed.is_empty() {
            self.left_alone.push(key);
        }
    }

    /// The node that a pod waits for, now that its status says `told`: a status that says the same as
    /// before is no news, and what was decided since may not be in it.
    pub(super) fn nomination(&self, key: PodKey, told: Option<&String>) -> Option<Arc<str>> {
        match self.pending.get(&key) {
            Some(known) if known.nominated.as_ref() == told => self.engine.nominated_node(key).cloned(),
            _ => told.map(|node| node.as_str().into()),
        }
    }

    pub(super) fn renominate(&mut self, ask: Ask, node: Option<Arc<str>>) {
        match node {
            Some(node) if self.engine.nominated_node(ask.pod) == Some(&node) => {}
            Some(node) => self.engine.nominate(ask, &node),
            None => self.freed |= self.engine.unnominate(ask.pod),
        }
    }
}
