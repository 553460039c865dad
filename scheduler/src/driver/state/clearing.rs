//! Room for the rest of a group: who would have to go so that all of it fits. Others go only if it then does.
//!
//! All is tried in thought: who has to go for one is gone for the next, and takes its share of the disruption budgets with
//! it. In the end all is as before, and either every pod of the group waits for its node, with the victims on their way, or
//! none does and nobody has to go.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::ganging::Round;
use super::{Action, Found, State};
use crate::core::{Ask, Away, PodKey};

/// A pod's place, once those that hold it now are gone.
pub(super) struct Seat {
    ask: Ask,
    node: Arc<str>,
    victims: Vec<PodKey>,
    reclaims: bool,
}

/// What becomes of the room that a group lacks.
pub(super) enum Room {
    /// Those that have to go for it are on their way.
    Coming,
    /// These have to go.
    Found(Vec<Seat>),
    /// There is none.
    None {
        /// Others of lower priority may make it, should they change.
        preempts: bool,
    },
}

/// What is thought for the time being.
#[derive(Default)]
struct Thoughts {
    away: Vec<Away>,
    held: Vec<(PodKey, Found)>,
    seats: Vec<Seat>,
    /// The budgets that allow one fewer, once for each.
    spent: Vec<(String, String)>,
}

impl State {
    /// Which of the pods wait for which nodes.
    pub(super) fn nominations(&self, pods: &[PodKey]) -> Vec<(Ask, Arc<str>)> {
        let nomination = |pod: &PodKey| {
            let pending = self.pending.get(pod)?;
            let ask = Ask { pod: *pod, class: pending.class, priority: pending.priority };
            Some((ask, self.engine.nominated_node(*pod)?.clone()))
        };
        pods.iter().filter_map(nomination).collect()
    }

    /// Who would have to go so that enough of the group fit, with those that do in their places.
    pub(super) fn room_for_rest(&mut self, round: &Round<'_>, placed: &[(PodKey, Found)], refused: &[PodKey]) -> Room {
        // Where they waited before is decided anew.
        for pod in refused {
            self.freed |= self.engine.unnominate(*pod);
        }
        let wanted = round.needed - placed.len();
        let mut thoughts = Thoughts::default();
        let (mut hopeless, mut preempts) = (BTreeSet::new(), false);
        for (index, pod) in refused.iter().enumerate() {
            let still = refused.len() - index;
            if thoughts.seats.len() == wanted || thoughts.seats.len() + still < wanted {
                break;
            }
            let Some(pending) = self.pending.get(pod) else { continue };
            let likes = (pending.class, pending.priority);
            preempts |= !pending.never_preempts && pending.hindrance.is_none();
            if !hopeless.contains(&likes) && !self.clear(round, *pod, &mut thoughts) {
                hopeless.insert(likes);
            }
        }
        let Thoughts { away, held, mut seats, spent } = thoughts;
        for (pod, found) in held.iter().rev() {
            self.let_go(*pod, found);
        }
        for pod in away.into_iter().rev() {
            self.engine.think_back(pod);
        }
        for (namespace, name) in spent {
            if let Some(budget) = self.budgets.get_mut(&namespace).and_then(|budgets| budgets.get_mut(&name)) {
                budget.allowed += 1;
            }
        }
        if seats.len() < wanted {
            return Room::None { preempts };
        }
        seats.extend(placed.iter().map(|(_, found)| self.chair(found, Vec::new(), false)));
        Room::Found(seats)
    }

    fn chair(&self, found: &Found, victims: Vec<PodKey>, reclaims: bool) -> Seat {
        Seat { ask: found.ask, node: self.engine.node_name(found.node).clone(), victims, reclaims }
    }

    /// Finds a place for one more of a group, and who has to go for it. Otherwise nothing has changed but thoughts.
    fn clear(&mut self, round: &Round<'_>, pod: PodKey, thoughts: &mut Thoughts) -> bool {
        let (mut victims, mut reclaims) = (Vec::new(), false);
        // Where someone has gone for another one there may be enough for two.
        let mut found = if thoughts.away.is_empty() { None } else { self.find(pod) };
        if found.is_none() {
            let Some(pending) = self.pending.get(&pod) else { return false };
            if pending.never_preempts || pending.hindrance.is_some() || self.blocked(pod).is_some() {
                return false;
            }
            let ask = Ask { pod, class: pending.class, priority: pending.priority };
            let Some((all, owed)) = self.victims_for(ask) else { return false };
            reclaims = owed;
            // Making one of its own go is no help.
            if all.pods.iter().any(|victim| self.gangs.of(*victim).is_some_and(|group| group == *round.key)) {
                return false;
            }
            for victim in &all.pods {
                let name = self.names.get(victim).map(|placed| &*placed.name);
                thoughts.spent.extend(self.engine.spend(*victim, name, &mut self.budgets));
                thoughts.away.extend(self.engine.think_away(*victim));
            }
            victims = all.pods;
            found = self.find(pod);
        }
        let Some(found) = found else { return false };
        self.hold(pod, &found);
        thoughts.seats.push(self.chair(&found, victims, reclaims));
        thoughts.held.push((pod, found));
        true
    }

    /// After an attempt that failed, with nothing held any more: who waits for which node from now on, and who has to go.
    pub(super) fn settle_room(&mut self, room: Room, waited_for: Vec<(Ask, Arc<str>)>, actions: &mut Vec<Action>) {
        match room {
            Room::Coming => {
                for (ask, node) in waited_for {
                    // Looked at anew, it may be of another class.
                    let class = self.pending.get(&ask.pod).map_or(ask.class, |pending| pending.class);
                    self.engine.nominate(Ask { class, ..ask }, &node);
                }
            }
            Room::Found(mut seats) => {
                // Whoever claims a node takes it from those that matter less.
                seats.sort_by_key(|seat| Reverse(seat.ask.priority));
                for Seat { ask, node, victims, reclaims } in seats {
                    self.claim(ask, &node, &victims, reclaims, actions);
                }
            }
            Room::None { .. } => self.freed |= !waited_for.is_empty(),
        }
    }
}
