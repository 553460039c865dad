//! Pods in queues: which queue a pod is in, what its pods hold, who is held back and why, and who has to give back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::facts::PodFacts;
use super::super::queues::QUEUE_LABEL;
use super::preempting::PlacedName;
use super::{Action, State, UNSCHEDULABLE};
use crate::core::{Ask, Demand, PodKey, PodMap, ResourceId, Victims};
use crate::fair::{Amounts, Block, Fault, QueueId, Taken, asked};

/// Pods that are held back and do not fit, of those that are looked at when a queue may have more.
const PASSED_OVER_MAX: usize = 32;

/// A pod of a queue that has a node.
#[derive(Clone, Debug)]
struct Member {
    queue: QueueId,
    demand: Arc<Demand>,
    priority: i32,
    /// It names the queue itself.
    is_named: bool,
}

/// All of them, and which queues pods of a namespace are in that name none.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    pods: PodMap<Member>,
    /// The least important first, and of equals the last.
    by_queue: BTreeMap<QueueId, BTreeSet<(i32, Reverse<PodKey>)>>,
    defaults: BTreeMap<String, String>,
    /// Pods that wait for a node that they had back from others.
    promised: BTreeSet<PodKey>,
    /// Pods of queues that had to go, and are still there.
    going: BTreeSet<PodKey>,
    /// Namespaces whose default has become another.
    turned: BTreeSet<String>,
}

impl State {
    /// The queue of a pod, by what it says or its namespace.
    fn queue_of(&mut self, namespace: &str, named: Option<&str>) -> Option<QueueId> {
        let named = named.or_else(|| self.members.defaults.get(namespace).map(String::as_str))?;
        Some(self.queue.fair.id(named))
    }

    /// A namespace says in which queue its pods are that name none.
    pub(super) fn note_default(&mut self, namespace: &str, labels: Option<&BTreeMap<String, String>>) {
        let queue = labels.and_then(|labels| labels.get(QUEUE_LABEL)).filter(|name| !name.is_empty());
        if self.members.defaults.get(namespace) != queue {
            match queue {
                Some(queue) => drop(self.members.defaults.insert(namespace.to_owned(), queue.clone())),
                None => drop(self.members.defaults.remove(namespace)),
            }
            self.members.turned.insert(namespace.to_owned());
        }
    }

    /// A pod that waits is in this queue. Returns whether that is news.
    pub(super) fn line_up(&mut self, pod: &PodFacts) -> bool {
        if pod.queue.is_none() && self.members.defaults.is_empty() && self.queue.line_of(pod.key).is_none() {
            return false;
        }
        let line = self.queue_of(&pod.namespace, pod.queue.as_deref());
        let is_news = self.queue.line_of(pod.key) != line;
        self.queue.set_line(pod.key, line);
        is_news
    }

    /// A pod that is accounted to a node holds what it asks for as one of this queue.
    pub(super) fn seat_member(&mut self, key: PodKey, namespace: &str, named: Option<&str>) {
        if named.is_none() && self.members.defaults.is_empty() && self.members.pods.is_empty() {
            return;
        }
        match self.queue_of(namespace, named) {
            Some(queue) => self.seat(key, queue, named.is_some()),
            None => self.unseat(key),
        }
    }

    /// A pod has got a place in thought, or in earnest.
    pub(super) fn seat_waiting(&mut self, key: PodKey) {
        if let Some(line) = self.queue.line_of(key) {
            let is_named = self.pending.get(&key).is_some_and(|pending| pending.queue.is_some());
            self.seat(key, line, is_named);
        }
    }

    fn seat(&mut self, key: PodKey, queue: QueueId, is_named: bool) {
        let Some(demand) = self.engine.demand_of(key).cloned() else { return };
        let priority = self.engine.priority_of(key).unwrap_or(0);
        let known = self.members.pods.get(&key);
        if known.is_some_and(|known| known.queue == queue && known.demand == demand && known.priority == priority) {
            return;
        }
        // First in, then out: the queue must not be forgotten between.
        self.queue.fair.charge(queue, &demand);
        self.unseat(key);
        self.members.by_queue.entry(queue).or_default().insert((priority, Reverse(key)));
        self.members.pods.insert(key, Member { queue, demand, priority, is_named });
    }

    /// The queue in which a pod has its place.
    pub(super) fn seat_of(&self, key: PodKey) -> Option<QueueId> {
        self.members.pods.get(&key).map(|member| member.queue)
    }

    /// A pod leaves its node, or its queue.
    pub(super) fn unseat(&mut self, key: PodKey) {
        if self.members.pods.is_empty() {
            return;
        }
        let Some(member) = self.members.pods.remove(&key) else { return };
        if let Some(pods) = self.members.by_queue.get_mut(&member.queue) {
            pods.remove(&(member.priority, Reverse(key)));
            if pods.is_empty() {
                self.members.by_queue.remove(&member.queue);
            }
        }
        self.members.going.remove(&key);
        self.queue.fair.release(member.queue, &member.demand);
    }

    /// These have to go for a pod, which has their room back if they owed it.
    pub(super) fn note_going(&mut self, pod: PodKey, victims: &[PodKey], reclaims: bool) {
        self.members.going.extend(victims.iter().filter(|victim| self.members.pods.contains_key(victim)));
        if reclaims {
            self.members.promised.insert(pod);
        }
    }

    /// They did not go.
    pub(super) fn note_staying(&mut self, victims: &[PodKey]) {
        for victim in victims {
            self.members.going.remove(victim);
        }
    }

    /// What will be, once those that have to go are gone and those that they go for are there.
    fn soon(&mut self, asker: PodKey) -> Taken {
        let Members { promised, going, pods, .. } = &mut self.members;
        promised.retain(|pod| self.engine.nominated_node(*pod).is_some());
        let (mut taken, fair) = (Taken::new(), &self.queue.fair);
        for member in going.iter().filter_map(|pod| pods.get(pod)) {
            fair.take(member.queue, &member.demand, &mut taken);
        }
        for pod in promised.iter().filter(|pod| **pod != asker) {
            let demand = self.pending.get(pod).and_then(|pending| self.engine.class_demand(pending.class));
            if let (Some(line), Some(demand)) = (self.queue.line_of(*pod), demand) {
                fair.give(line, demand, &mut taken);
            }
        }
        taken
    }

    /// After events: pods of namespaces whose default is another now change queues, and those that are held back without
    /// need are tried.
    pub(super) fn wake_queues(&mut self, now: Duration) {
        let turned = std::mem::take(&mut self.members.turned);
        if !turned.is_empty() {
            self.move_members(&turned, now);
        }
        if self.capacity_changed {
            self.capacity_changed = false;
            let capacity = self.engine.capacity();
            self.queue.fair.set_capacity(capacity);
        }
        if !self.queue.fair.is_loosened() {
            return;
        }
        for queue in self.queue.fair.take_loosened() {
            let mut room = self.queue.fair.headroom(queue);
            let (mut chosen, mut passed_over) = (Vec::new(), 0);
            for pod in self.queue.held_by(queue) {
                let demand = self.pending.get(&pod).and_then(|pending| self.engine.class_demand(pending.class));
                let line = self.queue.line_of(pod).filter(|line| self.queue.fair.is_under(*line, queue));
                // What is kept back by something else now, or by nothing, is to be told so, or tried.
                let fits = line.zip(demand).zip(room.as_mut()).is_none_or(|((line, demand), room)| {
                    match self.queue.fair.block(line, demand) {
                        Some((at, Block::Limit { .. })) => at != queue,
                        Some((_, Block::Fault(_))) => true,
                        None => take_from(room, demand),
                    }
                });
                if fits {
                    chosen.push(pod);
                } else {
                    passed_over += 1;
                    if passed_over >= PASSED_OVER_MAX {
                        break;
                    }
                }
            }
            for pod in chosen {
                self.queue.let_try(pod, now);
            }
        }
    }

    /// Rare, and so looks at all pods: nothing else needs to know which pods a namespace has.
    fn move_members(&mut self, turned: &BTreeSet<String>, now: Duration) {
        let in_turned = |(key, placed): (&PodKey, &PlacedName)| {
            let namespace = placed.namespace().to_owned();
            let is_free = self.members.pods.get(key).is_none_or(|member| !member.is_named);
            (is_free && turned.contains(&namespace)).then_some((*key, namespace))
        };
        let placed: Vec<(PodKey, String)> = self.names.iter().filter_map(in_turned).collect();
        for (key, namespace) in placed {
            match self.queue_of(&namespace, None) {
                Some(queue) => self.seat(key, queue, false),
                None => self.unseat(key),
            }
        }
        let pending = self.pending.iter().filter(|(_, pending)| pending.queue.is_none());
        let waiting: Vec<(PodKey, String)> = pending
            .filter(|(_, pending)| turned.contains(&pending.pod.namespace))
            .map(|(key, pending)| (*key, pending.pod.namespace.clone()))
            .collect();
        for (key, namespace) in waiting {
            let line = self.queue_of(&namespace, None);
            if self.queue.line_of(key) == line {
                continue;
            }
            self.queue.set_line(key, line);
            match self.pending.get(&key) {
                Some(pending) if pending.assumed => match line {
                    Some(line) => self.seat(key, line, false),
                    None => self.unseat(key),
                },
                Some(pending) if pending.gated => self.queue.gate(key, pending.class, pending.priority),
                Some(pending) => self.queue.add(key, pending.class, pending.priority, now),
                None => {}
            }
        }
    }

    /// What keeps a pod from being placed whatever the nodes say, because of its queue.
    pub(super) fn blocked(&self, key: PodKey) -> Option<(QueueId, String)> {
        let line = self.queue.line_of(key)?;
        let demand = self.engine.class_demand(self.pending.get(&key)?.class)?;
        let (at, block) = self.queue.fair.block(line, demand)?;
        Some((at, self.told(&block, self.queue.fair.name(line))))
    }

    fn told(&self, block: &Block, own: &str) -> String {
        match block {
            Block::Fault(Fault::Missing(name)) if **name == *own => format!("queue {name:?} not found"),
            Block::Fault(Fault::Missing(name)) => format!("queue {own:?} is below queue {name:?}, which is not there"),
            Block::Fault(Fault::Cycle(name)) => format!("queue {name:?} is above itself"),
            Block::Fault(Fault::TooDeep(name)) => format!("queue {name:?} has too many queues above it"),
            Block::Fault(Fault::NotLast(name)) => {
                format!("queue {name:?} has queues below it; a pod must name one of those")
            }
            Block::Limit { queue, resource, used, wanted, limit } => {
                let name = self.engine.resource_name(*resource);
                let text = |amount: i64| gantry_amount(*resource, amount);
                let (used, wanted, limit) = (text(*used), text(*wanted), text(*limit));
                format!("queue {queue:?} is at its limit: {name}: requested {wanted}, used {used}, limited {limit}")
            }
        }
    }

    /// The pod waits until its queue may have more.
    pub(super) fn hold_back(
        &mut self,
        key: PodKey,
        at: QueueId,
        why: String,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        self.queue.put_held(key, at);
        let waited = self.engine.unnominate(key);
        self.freed |= waited;
        if let Some(pending) = self.pending.get_mut(&key) {
            let is_told = waited || pending.nominated.is_some();
            actions.extend(pending.report(UNSCHEDULABLE, &why, is_told.then_some(None)));
            actions.extend(pending.event(why, now));
        }
    }

    /// No node takes the pod: others of its queue that were held back may have the room.
    pub(super) fn pass_on(&mut self, key: PodKey) {
        if let Some(line) = self.queue.line_of(key) {
            self.queue.fair.passed(line);
        }
    }

    /// The pods that owe the asker their room, as few as make it fit.
    pub(super) fn reclaim(&mut self, ask: Ask) -> Option<Victims> {
        let line = self.queue.line_of(ask.pod)?;
        let demand = self.engine.class_demand(ask.class)?.clone();
        let soon = self.soon(ask.pod);
        let fair = &self.queue.fair;
        if !fair.may_reclaim(line, &demand, &soon) {
            return None;
        }
        let debtors = fair.debtors(line, &demand, &soon);
        let members = &self.members;
        let pods = debtors.iter().filter_map(|queue| members.by_queue.get(queue)).flatten().map(|(_, key)| key.0);
        let chosen = |least_first: &[PodKey]| {
            let mut taken = soon.clone();
            let mut chosen = BTreeSet::new();
            for pod in least_first {
                let Some(member) = members.pods.get(pod) else { continue };
                if members.going.contains(pod) {
                    chosen.insert(*pod);
                } else if fair.owes_without(member.queue, line, &demand, &taken)
                    && !fair.stands(member.queue, line, &member.demand, &taken)
                {
                    fair.take(member.queue, &member.demand, &mut taken);
                    chosen.insert(*pod);
                }
            }
            chosen
        };
        let names = &self.names;
        let name_of = |pod: PodKey| names.get(&pod).map(|placed| placed.name.to_string());
        self.engine.reclaim(ask, &self.budgets, &name_of, pods, &chosen)
    }

    /// May a pod go for one of this queue because that matters more? Not if its own queue has no more than its guarantee.
    pub(super) fn is_spared(&self, pod: PodKey, line: Option<QueueId>) -> bool {
        let member = self.members.pods.get(&pod).filter(|member| Some(member.queue) != line);
        member.is_some_and(|member| self.queue.fair.is_within(member.queue))
    }

    /// The queues of which something else is to be told, with what they use: how many pods have nodes, and how many wait.
    pub fn queue_reports(&mut self) -> Vec<QueueReport> {
        let changed = self.queue.fair.take_changed();
        changed.into_iter().filter_map(|id| self.queue_report(id)).collect()
    }

    /// Is something else to be told of any queue?
    pub fn has_queue_reports(&self) -> bool {
        self.queue.fair.is_changed()
    }

    /// What a queue uses was not written: it is to be told again.
    pub fn tell_again(&mut self, name: &str) {
        if let Some(id) = self.queue.fair.find(name) {
            self.queue.fair.tell(id);
        }
    }

    /// The resources of which a queue's status says that it uses some.
    pub fn queue_told(&self, name: &str) -> impl Iterator<Item = &String> {
        self.told_used.get(name).into_iter().flatten()
    }

    fn queue_report(&self, id: QueueId) -> Option<QueueReport> {
        let fair = &self.queue.fair;
        let (used, placed, waiting) = fair.usage(id)?;
        let amounts = used.iter().map(|(resource, amount)| {
            (self.engine.resource_name(*resource).to_owned(), gantry_amount(*resource, *amount))
        });
        // Of queues above others it is no fault to be that.
        let fault = fair.fault(id).filter(|fault| !matches!(fault, Fault::NotLast(_)));
        let fault = fault.map(|fault| self.told(&Block::Fault(fault), fair.name(id)));
        // Of what there is no more the driver takes note: a report is compared with the last one without it.
        let dropped = Vec::new();
        let (name, share) = (fair.name(id).to_string(), fair.share(id));
        Some(QueueReport {
            name,
            used: amounts.collect(),
            share,
            placed,
            waiting,
            fault,
            dropped,
            is_fault_news: false,
        })
    }
}

/// What is told of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    /// Its name.
    pub name: String,
    /// What its pods and those of the queues below ask for, by resource.
    pub used: BTreeMap<String, String>,
    /// The largest part of the cluster that this is, in billionths.
    pub share: u64,
    /// How many of its own pods have nodes.
    pub placed: usize,
    /// How many of its own pods wait.
    pub waiting: usize,
    /// Why none of its pods can be placed.
    pub fault: Option<String>,
    /// Resources of which it used something when this was last told, and does no more.
    pub dropped: Vec<String>,
    /// What is said of faults is not what was last told.
    pub is_fault_news: bool,
}

/// An amount as users write it.
fn gantry_amount(resource: ResourceId, amount: i64) -> String {
    const UNITS: [(&str, i64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    if resource == ResourceId::CPU {
        return if amount % 1_000 == 0 { (amount / 1_000).to_string() } else { format!("{amount}m") };
    }
    if matches!(resource, ResourceId::MEMORY | ResourceId::EPHEMERAL_STORAGE) {
        let unit = UNITS.iter().find(|(_, unit)| amount != 0 && amount % unit == 0);
        return unit.map_or_else(|| amount.to_string(), |(name, unit)| format!("{}{name}", amount / unit));
    }
    amount.to_string()
}

/// Takes what is asked for from the room that there is, if it is enough.
fn take_from(room: &mut Amounts, demand: &Demand) -> bool {
    let enough =
        |(resource, amount): (ResourceId, i64)| amount <= 0 || room.get(&resource).is_none_or(|left| amount <= *left);
    if !asked(demand).all(enough) {
        return false;
    }
    for (resource, amount) in asked(demand) {
        if let Some(left) = room.get_mut(&resource) {
            *left -= amount;
        }
    }
    true
}
