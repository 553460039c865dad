//! Which pods would have to go for one that matters more.
//!
//! Per node, all pods of lower priority are thought away; if the pod then fits, they come back one
//! after the other, those first whose going would break a disruption budget, then by importance, and
//! who no longer fits beside it is a victim. The node is chosen by its victims: the fewest broken
//! budgets, the least important most important victim, the smallest sum of priorities, the fewest
//! victims, the one that started last.
//!
//! Victims are worked out on few nodes only. Sums by priority tell for each node below which priority
//! pods must go at the least; nodes are looked at in that order, until none can be better.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::counters::KindId;
use super::engine::{Engine, PodKey, PodRecord};
use super::explain::{Diagnosis, Preemption};
use super::nodes::NodeId;
use super::nominations::Ask;
use super::resources::{Demand, ResourceId};
use super::rules::{RULES, resources};
use super::selector;
use super::spec::Requirement;

/// As many nodes with victims are enough to choose from, or a tenth of those that come into question
/// if that is more: as in Kubernetes.
const CANDIDATES_MIN: usize = 100;
const CANDIDATES_SHARE: usize = 10;

/// So many nodes are looked at for pods that owe their room, at most.
const RECLAIMED_NODES_MAX: usize = 1_000;

/// A disruption budget, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Which pods of its namespace it is about; one that selects all or nothing protects none.
    pub selector: Option<Vec<Requirement>>,
    /// How many of them may go now.
    pub allowed: i64,
    /// The pods, by name, that are about to go and have been counted.
    pub disrupted: BTreeSet<String>,
}

/// All budgets, by namespace and name.
pub type Budgets = BTreeMap<String, BTreeMap<String, Budget>>;

/// The name of a pod.
pub type NameOf<'a> = &'a dyn Fn(PodKey) -> Option<String>;

/// Who has to go, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victims {
    /// The node.
    pub node: NodeId,
    /// The pods, the most important first.
    pub pods: Vec<PodKey>,
    /// How many of them break a budget.
    pub violations: usize,
}

/// A pod that is thought away from its node.
#[derive(Debug)]
pub struct Away {
    pod: PodKey,
    record: PodRecord,
}

/// A pod that might have to go.
#[derive(Clone, Debug)]
struct Potential {
    key: PodKey,
    priority: i32,
    started: i64,
    demand: Arc<Demand>,
    devices: Box<[u16]>,
    kind: KindId,
}

impl Potential {
    /// The more important come first: higher priority, then the older.
    fn importance(&self) -> (Reverse<i32>, i64, PodKey) {
        (Reverse(self.priority), self.started, self.key)
    }
}

/// By what nodes are compared; the smallest is best.
type Cost = (usize, i32, i64, usize, Reverse<i64>, u64);

/// What keeps a node from taking the pod with some of its pods thought away.
enum Trial<'a> {
    /// Only sums count: what is free of what the pod asks for, and how many pods there may be more.
    Sums { wanted: &'a [(ResourceId, i64)], free: Vec<i64>, places: i64 },
    /// The engine itself is changed, and changed back.
    World { slot: u32, ask: Ask },
}

impl Trial<'_> {
    /// Thinks a pod away (`sign` 1) or back (-1).
    fn free(&mut self, engine: &mut Engine, pod: &Potential, sign: i64) {
        match self {
            Trial::Sums { wanted, free, places } => {
                *places += sign;
                for ((resource, _), free) in wanted.iter().zip(free) {
                    *free += sign * pod.demand.amount(*resource);
                }
            }
            Trial::World { slot, .. } => {
                engine.nodes.charge(*slot, &pod.demand, &pod.devices, -sign);
                engine.log.push(*slot, false);
                engine.counters.count(pod.kind, *slot, -sign, &engine.nodes, &mut engine.log);
            }
        }
    }

    fn fits(&self, engine: &mut Engine) -> bool {
        match self {
            Trial::Sums { wanted, free, places } => {
                *places > 0 && wanted.iter().zip(free).all(|((_, amount), free)| amount <= free)
            }
            Trial::World { slot, ask } => engine.takes(*ask, *slot),
        }
    }
}

impl Engine {
    /// The pods that would have to go for the asker, on the node where that costs the least. `None`:
    /// their going helps nowhere.
    pub fn preempt(&mut self, ask: Ask, budgets: &Budgets, name_of: NameOf<'_>) -> Option<Victims> {
        self.preempt_some(ask, budgets, name_of, &|_| true)
    }

    /// The same, among those pods of lower priority that may go for the asker.
    pub fn preempt_some(
        &mut self,
        ask: Ask,
        budgets: &Budgets,
        name_of: NameOf<'_>,
        may_go: &dyn Fn(PodKey) -> bool,
    ) -> Option<Victims> {
        if self.priorities.keys().next().is_none_or(|lowest| *lowest >= ask.priority) {
            return None;
        }
        self.view_for(ask);
        let demand = self.classes.get(ask.class)?.demand.clone();
        let candidates = self.candidates(ask, &demand);
        let enough = CANDIDATES_MIN.max(candidates.len() / CANDIDATES_SHARE);
        let mut guard = Guard { budgets, name_of, by_kind: HashMap::new() };
        let lower = |pods: &mut Vec<Potential>| pods.retain(|pod| pod.priority < ask.priority && may_go(pod.key));
        let mut best: Option<(Cost, Victims)> = None;
        let mut found = 0;
        for (bound, order, slot) in candidates {
            if let Some(((0, highest, ..), _)) = &best
                && (bound > *highest || found >= enough)
            {
                break;
            }
            let Some((victims, violations)) = self.victims_on(ask, &demand, slot, &lower, &mut guard) else { continue };
            found += 1;
            let cost = cost(&victims, violations, order);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                let pods = victims.iter().map(|victim| victim.key).collect();
                best = Some((cost, Victims { node: NodeId(slot), pods, violations }));
            }
        }
        best.map(|(_, victims)| victims)
    }

    /// The pods that would have to go for the asker, whatever their priority, among those that owe it their room. `pods`
    /// are these, those that had best go first; on a node, `chosen` are those that may all go together, given with the
    /// least important first.
    pub fn reclaim(
        &mut self,
        ask: Ask,
        budgets: &Budgets,
        name_of: NameOf<'_>,
        pods: impl Iterator<Item = PodKey>,
        chosen: &dyn Fn(&[PodKey]) -> BTreeSet<PodKey>,
    ) -> Option<Victims> {
        self.view_for(ask);
        self.nodes.settle_order();
        let demand = self.classes.get(ask.class)?.demand.clone();
        let mut guard = Guard { budgets, name_of, by_kind: HashMap::new() };
        let choose = |potential: &mut Vec<Potential>| {
            let keys: Vec<PodKey> = potential.iter().rev().map(|pod| pod.key).collect();
            let chosen = chosen(&keys);
            potential.retain(|pod| chosen.contains(&pod.key));
        };
        let mut seen = BTreeSet::new();
        let mut best: Option<(Cost, Victims)> = None;
        let mut found = 0;
        for pod in pods {
            let Some(slot) = self.pods.get(&pod).map(|record| record.slot) else { continue };
            if !seen.insert(slot) || self.nodes.spec(slot).is_none() {
                continue;
            }
            if found >= CANDIDATES_MIN || seen.len() > RECLAIMED_NODES_MAX {
                break;
            }
            let Some((victims, violations)) = self.victims_on(ask, &demand, slot, &choose, &mut guard) else {
                continue;
            };
            found += 1;
            let cost = cost(&victims, violations, self.nodes.order().label(slot));
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                let pods = victims.iter().map(|victim| victim.key).collect();
                best = Some((cost, Victims { node: NodeId(slot), pods, violations }));
            }
        }
        best.map(|(_, victims)| victims)
    }

    /// The nodes on which something might be won, with the lowest priority that a most important
    /// victim can have there, best first.
    fn candidates(&mut self, ask: Ask, demand: &Demand) -> Vec<(i32, u64, u32)> {
        self.nodes.settle_order();
        self.classes.refresh(ask.class, &mut self.counters, &self.nodes);
        let mut eligible = self.nodes.present().clone();
        if let Some(candidate) = self.classes.candidate(ask.class, &self.counters) {
            for rule in RULES {
                rule.narrow(candidate, &self.nodes, &mut eligible);
            }
        }
        let mut candidates = Vec::new();
        for slot in eligible.iter() {
            if let Some(bound) = self.lowest_band(ask, demand, slot) {
                candidates.push((bound, self.nodes.order().label(slot), slot));
            }
        }
        candidates.sort_unstable();
        candidates
    }

    /// The lowest priority such that without the pods up to it there is room, as far as sums tell.
    fn lowest_band(&mut self, ask: Ask, demand: &Demand, slot: u32) -> Option<i32> {
        let (nodes, pods) = (&self.nodes, &self.pods);
        let bands = self
            .residents
            .bands(slot, self.log.latest(slot), |key| pods.get(&key).map(|record| (record.priority, &*record.demand)));
        let places = nodes.allocatable(ResourceId::PODS, slot) - nodes.requested(ResourceId::PODS, slot);
        let lower = bands.iter().take_while(|band| band.priority < ask.priority);
        let mut enough = lower.filter(|band| {
            let fits = |(resource, amount): &(ResourceId, i64)| {
                *amount <= free(nodes, *resource, slot) + band.amount(*resource)
            };
            places + band.pods > 0 && demand.requests.iter().all(fits)
        });
        enough.next().map(|band| band.priority)
    }

    /// The victims on one node, the most important first, and how many budgets they break.
    fn victims_on(
        &mut self,
        ask: Ask,
        demand: &Demand,
        slot: u32,
        choose: &dyn Fn(&mut Vec<Potential>),
        guard: &mut Guard<'_>,
    ) -> Option<(Vec<Potential>, usize)> {
        let verdict = self.judges(ask.class, slot);
        if verdict.is_some_and(|verdict| verdict.unresolvable) {
            return None;
        }
        let mut potential = self.potential(slot);
        potential.sort_unstable_by_key(Potential::importance);
        choose(&mut potential);
        let mut trial = self.trial(ask, demand, slot);
        for pod in &potential {
            trial.free(self, pod, 1);
        }
        let mut victims = Vec::new();
        let mut violations = 0;
        let possible = trial.fits(self);
        if possible {
            let (violating, others) = guard.split(self, potential);
            let count = violating.len();
            for (index, pod) in violating.into_iter().chain(others).enumerate() {
                trial.free(self, &pod, -1);
                if !trial.fits(self) {
                    trial.free(self, &pod, 1);
                    violations += usize::from(index < count);
                    victims.push(pod);
                }
            }
            victims.sort_unstable_by_key(Potential::importance);
        } else {
            victims = potential;
        }
        for pod in &victims {
            trial.free(self, pod, -1);
        }
        (possible && !victims.is_empty()).then_some((victims, violations))
    }

    fn potential(&self, slot: u32) -> Vec<Potential> {
        let records = self.residents.on(slot).iter().filter_map(|key| Some((*key, self.pods.get(key)?)));
        records
            .map(|(key, record)| Potential {
                key,
                priority: record.priority,
                started: record.started,
                demand: record.demand.clone(),
                devices: record.devices().into(),
                kind: record.kind,
            })
            .collect()
    }

    fn trial<'a>(&self, ask: Ask, demand: &'a Demand, slot: u32) -> Trial<'a> {
        let plain = self.classes.candidate(ask.class, &self.counters).is_some_and(|one| one.asks_for_amounts_only());
        if !plain {
            return Trial::World { slot, ask };
        }
        let nodes = &self.nodes;
        Trial::Sums {
            wanted: &demand.requests,
            free: demand.requests.iter().map(|(resource, _)| free(nodes, *resource, slot)).collect(),
            places: nodes.allocatable(ResourceId::PODS, slot) - nodes.requested(ResourceId::PODS, slot),
        }
    }

    /// What preemption came to, when [`Self::preempt`] found nothing: how many nodes say what.
    pub fn preemption_failure(&mut self, ask: Ask, diagnosis: &Diagnosis) -> Preemption {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let resolvable = diagnosis.nodes - diagnosis.unresolvable - diagnosis.feasible;
        if self.priorities.keys().next().is_none_or(|lowest| *lowest >= ask.priority) {
            counts.insert(Preemption::NO_VICTIMS.into(), resolvable);
            return Preemption::Failed(counts);
        }
        self.view_for(ask);
        let Some(demand) = self.classes.get(ask.class).map(|class| class.demand.clone()) else {
            return Preemption::Failed(counts);
        };
        let slots: Vec<u32> = self.nodes.present().iter().collect();
        for slot in slots {
            let verdict = self.judges(ask.class, slot);
            if verdict.is_none_or(|verdict| verdict.unresolvable) {
                continue;
            }
            for text in self.texts_without_lower(ask, &demand, slot) {
                *counts.entry(text).or_default() += 1;
            }
        }
        Preemption::Failed(counts)
    }

    /// Why the node does not take the asker even without its pods of lower priority.
    fn texts_without_lower(&mut self, ask: Ask, demand: &Demand, slot: u32) -> Vec<String> {
        let mut potential = self.potential(slot);
        potential.retain(|pod| pod.priority < ask.priority);
        if potential.is_empty() {
            return vec![Preemption::NO_VICTIMS.into()];
        }
        let mut trial = self.trial(ask, demand, slot);
        for pod in &potential {
            trial.free(self, pod, 1);
        }
        let reasons = match &trial {
            Trial::Sums { wanted, free, places } => resources::reasons(wanted, free, *places),
            Trial::World { .. } => {
                let verdict = self.judges(ask.class, slot).or_else(|| {
                    self.view_none();
                    let verdict = self.judges(ask.class, slot);
                    self.view_for(ask);
                    verdict
                });
                verdict.map(|verdict| verdict.reasons).unwrap_or_default()
            }
        };
        for pod in &potential {
            trial.free(self, pod, -1);
        }
        reasons.into_iter().map(|reason| reason.text(|resource| self.table.name(resource).to_owned())).collect()
    }

    /// Is a pod of lower priority about to leave the node that the asker waits for, because a pod
    /// that matters more wants its room? Then there is nothing to do but to wait.
    pub fn waits_for_victims(&mut self, ask: Ask) -> bool {
        self.waits_for_some(ask, |priority| priority < ask.priority)
    }

    /// The same, whatever the priority of the pod that is about to leave.
    pub fn waits_for_any(&mut self, ask: Ask) -> bool {
        self.waits_for_some(ask, |_| true)
    }

    fn waits_for_some(&mut self, ask: Ask, counts: impl Fn(i32) -> bool) -> bool {
        let Some(slot) = self.nominated_node(ask.pod).and_then(|node| self.nodes.slot(node)) else { return false };
        if self.nodes.spec(slot).is_none() {
            return false;
        }
        self.view_for(ask);
        if self.judges(ask.class, slot).is_some_and(|verdict| verdict.unresolvable) {
            return false;
        }
        let mut records = self.residents.on(slot).iter().filter_map(|key| self.pods.get(key));
        records.any(|record| counts(record.priority) && record.preempted)
    }

    /// Might pods that changed since `cursor` make way for one of this class and priority, though none
    /// could before? Says yes in doubt.
    pub fn may_preempt(&mut self, class: super::ClassId, priority: i32, cursor: u64) -> bool {
        if self.priorities.keys().next().is_none_or(|lowest| *lowest >= priority) {
            return false;
        }
        let ask = Ask { pod: PodKey::default(), class, priority };
        if !self.log.reaches_back_to(cursor) || self.looks_at_others(class) {
            return true;
        }
        let Some(demand) = self.classes.get(class).map(|class| class.demand.clone()) else { return false };
        let changed: Vec<u32> = self.log.since(cursor).map(|change| change.slot).collect();
        changed.into_iter().any(|slot| {
            self.nodes.spec(slot).is_some()
                && self.lowest_band(ask, &demand, slot).is_some()
                && self.judges(class, slot).is_none_or(|verdict| !verdict.unresolvable)
        })
    }

    /// How far changes of nodes have been noted: for [`Self::may_preempt`].
    pub fn cursor(&self) -> u64 {
        self.log.end()
    }

    /// Thinks a pod away from its node, to be thought back.
    pub fn think_away(&mut self, pod: PodKey) -> Option<Away> {
        let record = self.pods.get(&pod)?.clone();
        // Its kind stays known meanwhile.
        self.counters.hold_kind(record.kind);
        self.remove_pod(pod);
        Some(Away { pod, record })
    }

    /// Thinks a pod back to its node.
    pub fn think_back(&mut self, Away { pod, record }: Away) {
        self.insert_pod(pod, record);
    }

    /// Takes note in the budgets that a pod goes: those that allow fewer to go now.
    pub fn spend(&self, pod: PodKey, name: Option<&str>, budgets: &mut Budgets) -> Vec<(String, String)> {
        let spent = self.budgets_of(pod, name, budgets);
        for (namespace, name) in &spent {
            if let Some(budget) = budgets.get_mut(namespace).and_then(|budgets| budgets.get_mut(name)) {
                budget.allowed -= 1;
            }
        }
        spent
    }

    /// The budgets in which it counts that a pod goes.
    pub fn budgets_of(&self, pod: PodKey, name: Option<&str>, budgets: &Budgets) -> Vec<(String, String)> {
        let kind = self.pods.get(&pod).and_then(|record| self.counters.identity(record.kind));
        let Some((namespace, labels)) = kind else { return Vec::new() };
        let known = budgets.get(namespace).into_iter().flatten();
        let counts =
            |budget: &Budget| budget.guards(labels) && !name.is_some_and(|name| budget.disrupted.contains(name));
        known.filter(|(_, budget)| counts(budget)).map(|(name, _)| (namespace.to_owned(), name.clone())).collect()
    }

    /// Is the pod being made to go?
    pub fn is_preempted(&self, pod: PodKey) -> bool {
        self.pods.get(&pod).is_some_and(|record| record.preempted)
    }

    /// Marks a placed pod as one that is being made to go, or (its removal having failed) not.
    pub fn set_preempted(&mut self, pod: PodKey, preempted: bool) {
        if let Some(record) = self.pods.get_mut(&pod) {
            record.preempted = preempted;
        }
    }
}

fn free(nodes: &super::Nodes, resource: ResourceId, slot: u32) -> i64 {
    nodes.allocatable(resource, slot).saturating_sub(nodes.requested(resource, slot))
}

fn cost(victims: &[Potential], violations: usize, order: u64) -> Cost {
    let highest = victims.first().map_or(i32::MIN, |victim| victim.priority);
    // Lifted above zero, so that of two nodes with victims below it the one with fewer is better.
    let sum = victims.iter().map(|victim| i64::from(victim.priority) + (1 << 31)).sum();
    let of_highest = victims.iter().filter(|victim| victim.priority == highest);
    let earliest = of_highest.map(|victim| victim.started).min().unwrap_or(i64::MAX);
    (violations, highest, sum, victims.len(), Reverse(earliest), order)
}

/// Tells whose going would break a budget.
struct Guard<'a> {
    budgets: &'a Budgets,
    name_of: NameOf<'a>,
    /// The budgets that are about a kind of pods, by their number in the kind's namespace.
    by_kind: HashMap<KindId, Vec<usize>>,
}

impl Guard<'_> {
    /// Those that would break a budget if all went, in this order, and the others.
    fn split(&mut self, engine: &Engine, pods: Vec<Potential>) -> (Vec<Potential>, Vec<Potential>) {
        let mut left: HashMap<(&str, usize), i64> = HashMap::new();
        pods.into_iter().partition(|pod| {
            let Some((namespace, labels)) = engine.counters.identity(pod.kind) else { return false };
            let Some((namespace, budgets)) = self.budgets.get_key_value(namespace) else { return false };
            let mut breaks = false;
            let matching = self.by_kind.entry(pod.kind).or_insert_with(|| {
                let budgets = budgets.values().enumerate();
                budgets.filter(|(_, budget)| budget.is_about(labels)).map(|(index, _)| index).collect()
            });
            for index in matching {
                let Some(budget) = budgets.values().nth(*index) else { continue };
                let counted = !budget.disrupted.is_empty()
                    && (self.name_of)(pod.key).is_some_and(|name| budget.disrupted.contains(&name));
                if !counted {
                    let left = left.entry((namespace, *index)).or_insert(budget.allowed);
                    *left -= 1;
                    breaks |= *left < 0;
                }
            }
            breaks
        })
    }
}

impl Budget {
    /// Does it guard pods with these labels from eviction? One that selects all does.
    pub fn guards(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector::meets_all(selector, labels))
    }

    /// Does preemption spare pods with these labels for it? (One that selects all spares nobody, as in Kubernetes.)
    pub fn is_about(&self, labels: &BTreeMap<String, String>) -> bool {
        let selector = self.selector.as_ref().filter(|selector| !selector.is_empty() && !labels.is_empty());
        selector.is_some_and(|selector| selector::meets_all(selector, labels))
    }
}
