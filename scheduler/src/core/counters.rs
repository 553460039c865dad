//! Counts of pods by place, kept as pods come and go.
//!
//! A counter belongs to one selector of pods and one topology. It is made when the first class or
//! pod that needs it appears and kept by every change after that, so asking is a look-up. Pods that
//! are the same to all selectors (namespace, labels, own terms) are one [`Kind`]; a kind knows the
//! counters that its pods count in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::bitset::Bitset;
use super::changelog::ChangeLog;
use super::maps::{Amounts, NumberMap};
use super::nodes::Nodes;
use super::rules::{node_affinity, taints};
use super::selector;
use super::spec::{ClassSpec, NodeSpec, PodSelector, Term, Toleration};
use super::topology::{Domain, Topologies, TopologyId};

/// The weight in a score of another pod's required affinity.
const REQUIRED_AFFINITY_WEIGHT: i64 = 1;

/// The number of a counter. Valid while someone holds a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterId(pub u32);

/// The number of a kind of pods. Valid while it has pods or someone holds a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KindId(u32);

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Pods that all these select.
    Selected {
        /// The selectors; at least one.
        selectors: Vec<PodSelector>,
        /// Do pods count that are about to go?
        terminating: bool,
    },
    /// Pods with a required anti-affinity to those selected.
    Avoiding(PodSelector),
    /// The sum of the weights with which pods want those selected near them, or (below zero) away.
    Attracting(PodSelector),
}

impl Counted {
    /// The namespaces to look in, if they are given by name alone.
    fn namespaces(&self) -> Option<impl Iterator<Item = &String>> {
        let Counted::Selected { selectors, .. } = self else { return None };
        selectors.iter().find(|selector| selector.namespace_selector.is_none()).map(|one| one.namespaces.iter())
    }
}

/// A pod's node selector and required node affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeAffinity {
    /// The node selector.
    pub selector: BTreeMap<String, String>,
    /// The required terms.
    pub required: Option<Vec<Term>>,
}

/// The nodes on which pods count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeFilter {
    /// Labels that a node must have.
    pub keys: Vec<String>,
    /// The node selector and required node affinity that it must match.
    pub affinity: Option<NodeAffinity>,
    /// The tolerations that its taints must find.
    pub tolerations: Option<Vec<Toleration>>,
}

impl NodeFilter {
    fn includes(&self, node: &NodeSpec) -> bool {
        self.keys.iter().all(|key| node.labels.contains_key(key))
            && self
                .affinity
                .as_ref()
                .is_none_or(|pod| node_affinity::matches(&pod.selector, pod.required.as_deref(), node))
            && self.tolerations.as_ref().is_none_or(|tolerations| taints::accepts(tolerations, &node.taints))
    }
}

/// What tells one counter from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CounterSpec {
    /// What is counted.
    pub counted: Counted,
    /// The topology.
    pub topology_key: String,
    /// On which nodes; `None` is all. A counter with a filter knows its emptiest place.
    pub filter: Option<NodeFilter>,
}

/// One counter.
#[derive(Clone, Debug)]
pub struct Counter {
    spec: Arc<CounterSpec>,
    /// The topology.
    pub topology: TopologyId,
    references: u32,
    /// How many kinds of pods carry the term that this counts.
    carriers: u32,
    by_node: Amounts,
    by_domain: Amounts,
    included: Bitset,
    /// How many included nodes a place has, and how many places have which count.
    members: NumberMap<u32>,
    places: BTreeMap<i64, u32>,
}

impl Counter {
    /// The count on one node.
    #[inline]
    pub fn on_node(&self, slot: u32) -> i64 {
        self.by_node.get(slot)
    }

    /// The count in one place.
    #[inline]
    pub fn in_domain(&self, domain: Domain) -> i64 {
        self.by_domain.get(domain)
    }

    /// Is nothing counted anywhere?
    pub fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }

    /// The lowest count among the places with included nodes, and how many such places there are.
    pub fn emptiest(&self) -> (i64, usize) {
        (self.places.keys().next().copied().unwrap_or(0), self.members.len())
    }

    fn counts_on(&self, slot: u32) -> bool {
        self.spec.filter.is_none() || self.included.contains(slot)
    }

    fn add(&mut self, slot: u32, domain: Option<Domain>, amount: i64) {
        self.by_node.add(slot, amount);
        if let Some(domain) = domain
            && self.counts_on(slot)
        {
            self.add_in_domain(domain, amount);
        }
    }

    fn add_in_domain(&mut self, domain: Domain, amount: i64) {
        let (before, now) = self.by_domain.add(domain, amount);
        if before != now && self.members.contains_key(&domain) {
            self.move_place(Some(before), Some(now));
        }
    }

    fn move_place(&mut self, from: Option<i64>, to: Option<i64>) {
        if let Some(count) = to {
            *self.places.entry(count).or_default() += 1;
        }
        if let Some(count) = from
            && let Some(number) = self.places.get_mut(&count)
        {
            *number -= 1;
            if *number == 0 {
                self.places.remove(&count);
            }
        }
    }

    /// A node as it now is counts in its place.
    fn attach(&mut self, slot: u32, domain: Option<Domain>, node: &NodeSpec) {
        if let Some(filter) = &self.spec.filter {
            if domain.is_none() || !filter.includes(node) {
                return;
            }
            self.included.insert(slot);
        }
        let Some(domain) = domain else { return };
        if self.spec.filter.is_some() {
            let members = self.members.entry(domain).or_default();
            *members += 1;
            if *members == 1 {
                self.move_place(None, Some(self.in_domain(domain)));
            }
        }
        self.add_in_domain(domain, self.on_node(slot));
    }

    /// A node as it was no longer counts.
    fn detach(&mut self, slot: u32, domain: Option<Domain>) {
        let Some(domain) = domain.filter(|_| self.counts_on(slot)) else { return };
        self.add_in_domain(domain, -self.on_node(slot));
        if self.spec.filter.is_none() {
            return;
        }
        self.included.remove(slot);
        if let Some(members) = self.members.get_mut(&domain) {
            *members -= 1;
            if *members == 0 {
                self.members.remove(&domain);
                self.move_place(Some(self.in_domain(domain)), None);
            }
        }
    }
}

/// What pods are to selectors, and what they carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct KindSpec {
    namespace: String,
    labels: BTreeMap<String, String>,
    /// The terms that bear on other pods, with the amount each pod adds.
    carried: Vec<(CounterSpec, i64)>,
    terminating: bool,
}

#[derive(Clone, Debug)]
struct Kind {
    spec: Arc<KindSpec>,
    references: u32,
    pods: Amounts,
    carried: Vec<CounterId>,
    counts_in: Vec<(CounterId, i64)>,
}

/// All counters and kinds.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// The topologies that terms name.
    pub topologies: Topologies,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    counters: Vec<Option<Counter>>,
    counter_ids: HashMap<Arc<CounterSpec>, CounterId>,
    free_counters: Vec<u32>,
    kinds: Vec<Option<Kind>>,
    kind_ids: HashMap<Arc<KindSpec>, KindId>,
    free_kinds: Vec<u32>,
    kinds_in: HashMap<String, Vec<KindId>>,
    /// Counters of selected pods, by namespace, and those that must look everywhere.
    selecting_in: HashMap<String, Vec<CounterId>>,
    selecting: Vec<CounterId>,
    /// Counters of what pods carry.
    carriers: Vec<CounterId>,
    epoch: u64,
}

impl Counters {
    /// Rises whenever a class may be touched by other terms than before.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The counter of an id that is held.
    #[inline]
    #[expect(clippy::expect_used, reason = "an id is held only with a reference, which keeps the counter")]
    pub fn get(&self, id: CounterId) -> &Counter {
        self.counters[id.0 as usize].as_ref().expect("a referenced counter")
    }

    /// The counters of terms, carried by placed or waiting pods, that select a pod like this.
    pub fn bearing_on(&self, pod: &ClassSpec) -> (Vec<CounterId>, Vec<CounterId>) {
        let (mut avoiding, mut attracting) = (Vec::new(), Vec::new());
        for id in &self.carriers {
            // One that only classes still hold on to, no pod carries any more.
            let counter = self.get(*id);
            if counter.carriers == 0 {
                continue;
            }
            match &counter.spec.counted {
                Counted::Avoiding(selector) if self.selects(selector, &pod.namespace, &pod.labels) => {
                    avoiding.push(*id)
                }
                Counted::Attracting(selector) if self.selects(selector, &pod.namespace, &pod.labels) => {
                    attracting.push(*id);
                }
                _ => {}
            }
        }
        (avoiding, attracting)
    }

    /// Does the selector select a pod of this namespace with these labels?
    pub fn selects(&self, selector: &PodSelector, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let in_namespace = selector.namespaces.contains(namespace)
            || selector.namespace_selector.as_ref().is_some_and(|wanted| {
                let empty = BTreeMap::new();
                selector::meets_all(wanted, self.namespaces.get(namespace).unwrap_or(&empty))
            });
        in_namespace && selector.labels.as_ref().is_some_and(|wanted| selector::meets_all(wanted, labels))
    }

    fn counts_kind(&self, counted: &Counted, kind: &KindSpec) -> bool {
        match counted {
            Counted::Selected { selectors, terminating } => {
                (*terminating || !kind.terminating)
                    && selectors.iter().all(|selector| self.selects(selector, &kind.namespace, &kind.labels))
            }
            Counted::Avoiding(_) | Counted::Attracting(_) => false,
        }
    }

    /// The counter of a spec, with one reference more.
    pub fn acquire(&mut self, spec: CounterSpec, nodes: &Nodes) -> CounterId {
        if let Some(id) = self.counter_ids.get(&spec).copied() {
            self.hold(id);
            return id;
        }
        let known = || nodes.present().iter().filter_map(|slot| Some((slot, nodes.spec(slot)?)));
        let topology = self.topologies.id(&spec.topology_key, known());
        let spec = Arc::new(spec);
        let mut counter = Counter {
            spec: spec.clone(),
            topology,
            references: 1,
            carriers: 0,
            by_node: Amounts::default(),
            by_domain: Amounts::default(),
            included: Bitset::default(),
            members: NumberMap::default(),
            places: BTreeMap::new(),
        };
        if spec.filter.is_some() {
            for (slot, node) in known() {
                counter.attach(slot, self.topologies.domain(topology, slot), node);
            }
        }
        let id = CounterId(self.free_counters.pop().unwrap_or_else(|| {
            self.counters.push(None);
            self.counters.len() as u32 - 1
        }));
        match &spec.counted {
            Counted::Selected { .. } => {
                for kind_id in self.kinds_for(&spec.counted) {
                    let Some(kind) = self.kinds[kind_id.0 as usize].as_ref() else { continue };
                    if !self.counts_kind(&spec.counted, &kind.spec) {
                        continue;
                    }
                    for (slot, count) in kind.pods.iter() {
                        counter.add(slot, self.topologies.domain(topology, slot), count);
                    }
                    if let Some(kind) = self.kinds[kind_id.0 as usize].as_mut() {
                        kind.counts_in.push((id, 1));
                    }
                }
                self.register_selecting(id, &spec.counted);
            }
            Counted::Avoiding(_) | Counted::Attracting(_) => self.carriers.push(id),
        }
        self.counters[id.0 as usize] = Some(counter);
        self.counter_ids.insert(spec, id);
        id
    }

    fn register_selecting(&mut self, id: CounterId, counted: &Counted) {
        match counted.namespaces() {
            Some(namespaces) => {
                for namespace in namespaces {
                    self.selecting_in.entry(namespace.clone()).or_default().push(id);
                }
            }
            None => self.selecting.push(id),
        }
    }

    fn kinds_for(&self, counted: &Counted) -> Vec<KindId> {
        match counted.namespaces() {
            Some(namespaces) => namespaces.filter_map(|name| self.kinds_in.get(name)).flatten().copied().collect(),
            None => self.kinds_in.values().flatten().copied().collect(),
        }
    }

    /// One reference more.
    pub fn hold(&mut self, id: CounterId) {
        if let Some(counter) = self.counters[id.0 as usize].as_mut() {
            counter.references += 1;
        }
    }

    /// One reference less; the last takes the counter away.
    pub fn release(&mut self, id: CounterId) {
        let Some(counter) = self.counters[id.0 as usize].as_mut() else { return };
        counter.references -= 1;
        if counter.references > 0 {
            return;
        }
        let Some(counter) = self.counters[id.0 as usize].take() else { return };
        self.counter_ids.remove(&counter.spec);
        self.free_counters.push(id.0);
        let without = |list: &mut Vec<CounterId>| list.retain(|one| *one != id);
        if !matches!(counter.spec.counted, Counted::Selected { .. }) {
            without(&mut self.carriers);
            return;
        }
        match counter.spec.counted.namespaces() {
            Some(namespaces) => {
                for namespace in namespaces {
                    if let Some(list) = self.selecting_in.get_mut(namespace) {
                        without(list);
                        if list.is_empty() {
                            self.selecting_in.remove(namespace);
                        }
                    }
                }
            }
            None => without(&mut self.selecting),
        }
        for kind in self.kinds_for(&counter.spec.counted) {
            if let Some(kind) = self.kinds[kind.0 as usize].as_mut() {
                kind.counts_in.retain(|(one, _)| *one != id);
            }
        }
    }

    /// The kind of pods like `pod`, with one reference more.
    pub fn acquire_kind(&mut self, pod: &ClassSpec, terminating: bool, nodes: &Nodes) -> KindId {
        let spec = KindSpec {
            namespace: pod.namespace.clone(),
            labels: pod.labels.clone(),
            carried: carried(pod),
            terminating,
        };
        if let Some(id) = self.kind_ids.get(&spec).copied() {
            self.hold_kind(id);
            return id;
        }
        let spec = Arc::new(spec);
        let id = KindId(self.free_kinds.pop().unwrap_or_else(|| {
            self.kinds.push(None);
            self.kinds.len() as u32 - 1
        }));
        let mut counts_in = Vec::new();
        let mut held = Vec::new();
        for (carried, amount) in &spec.carried {
            let id = self.acquire(carried.clone(), nodes);
            if let Some(counter) = self.counters[id.0 as usize].as_mut() {
                counter.carriers += 1;
                self.epoch += u64::from(counter.carriers == 1);
            }
            held.push(id);
            counts_in.push((id, *amount));
        }
        let local = self.selecting_in.get(&spec.namespace).into_iter().flatten();
        for counter in local.chain(&self.selecting) {
            if self.counts_kind(&self.get(*counter).spec.counted, &spec) {
                counts_in.push((*counter, 1));
            }
        }
        self.kinds_in.entry(spec.namespace.clone()).or_default().push(id);
        self.kind_ids.insert(spec.clone(), id);
        self.kinds[id.0 as usize] =
            Some(Kind { spec, references: 1, pods: Amounts::default(), carried: held, counts_in });
        id
    }

    /// The namespace and the labels of a kind's pods.
    pub fn identity(&self, id: KindId) -> Option<(&str, &BTreeMap<String, String>)> {
        let kind = self.kinds.get(id.0 as usize)?.as_ref()?;
        Some((&kind.spec.namespace, &kind.spec.labels))
    }

    /// One reference more.
    pub fn hold_kind(&mut self, id: KindId) {
        if let Some(kind) = self.kinds[id.0 as usize].as_mut() {
            kind.references += 1;
        }
    }

    /// One reference less; the last takes the kind away.
    pub fn release_kind(&mut self, id: KindId) {
        let Some(kind) = self.kinds[id.0 as usize].as_mut() else { return };
        kind.references -= 1;
        if kind.references > 0 {
            return;
        }
        let Some(kind) = self.kinds[id.0 as usize].take() else { return };
        self.kind_ids.remove(&kind.spec);
        if let Some(list) = self.kinds_in.get_mut(&kind.spec.namespace) {
            list.retain(|one| *one != id);
            if list.is_empty() {
                self.kinds_in.remove(&kind.spec.namespace);
            }
        }
        self.free_kinds.push(id.0);
        for id in kind.carried {
            if let Some(counter) = self.counters[id.0 as usize].as_mut() {
                counter.carriers -= 1;
            }
            self.release(id);
        }
    }

    /// A pod of this kind came to (`sign` 1) or left (-1) a node.
    pub fn count(&mut self, kind: KindId, slot: u32, sign: i64, nodes: &Nodes, log: &mut ChangeLog) {
        let Some(kind) = self.kinds[kind.0 as usize].as_mut() else { return };
        kind.pods.add(slot, sign);
        for (id, amount) in &kind.counts_in {
            let Some(counter) = self.counters[id.0 as usize].as_mut() else { continue };
            let domain = self.topologies.domain(counter.topology, slot);
            counter.add(slot, domain, sign * amount);
            tell_neighbours(&self.topologies, counter.topology, domain, nodes, log);
        }
    }

    /// A node changed its labels or taints, came or went: `change` is what makes it so.
    pub fn node_changes(&mut self, slot: u32, nodes: &Nodes, log: &mut ChangeLog) {
        for counter in self.counters.iter_mut().flatten() {
            let domain = self.topologies.domain(counter.topology, slot);
            counter.detach(slot, domain);
            if !counter.by_node.is_empty() {
                tell_neighbours(&self.topologies, counter.topology, domain, nodes, log);
            }
        }
        let node = nodes.spec(slot);
        self.topologies.set(slot, node);
        for counter in self.counters.iter_mut().flatten() {
            let domain = self.topologies.domain(counter.topology, slot);
            if let Some(node) = node {
                counter.attach(slot, domain, node);
            }
            if !counter.by_node.is_empty() {
                tell_neighbours(&self.topologies, counter.topology, domain, nodes, log);
            }
        }
    }

    /// Sets a namespace's labels; `None` is that it is gone. Returns whether anything changed.
    pub fn set_namespace(
        &mut self,
        name: &str,
        labels: Option<BTreeMap<String, String>>,
        nodes: &Nodes,
        log: &mut ChangeLog,
    ) -> bool {
        let unlabelled = BTreeMap::new();
        let same = self.namespaces.get(name).unwrap_or(&unlabelled) == labels.as_ref().unwrap_or(&unlabelled);
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        if same {
            return false;
        }
        self.epoch += 1;
        for kind in self.kinds_in.get(name).cloned().unwrap_or_default() {
            for counter in self.selecting.clone() {
                self.recount(kind, counter, nodes, log);
            }
        }
        true
    }

    /// Whether a kind counts in a counter may have changed.
    fn recount(&mut self, kind_id: KindId, id: CounterId, nodes: &Nodes, log: &mut ChangeLog) {
        let Some(kind) = self.kinds[kind_id.0 as usize].as_ref() else { return };
        let counts = self.counts_kind(&self.get(id).spec.counted, &kind.spec);
        let counted = kind.counts_in.contains(&(id, 1));
        if counts == counted {
            return;
        }
        let (Some(kind), Some(counter)) =
            (self.kinds[kind_id.0 as usize].as_mut(), self.counters[id.0 as usize].as_mut())
        else {
            return;
        };
        let sign = if counts {
            kind.counts_in.push((id, 1));
            1
        } else {
            kind.counts_in.retain(|(one, _)| *one != id);
            -1
        };
        for (slot, count) in kind.pods.iter() {
            let domain = self.topologies.domain(counter.topology, slot);
            counter.add(slot, domain, sign * count);
            log.push(slot, false);
            tell_neighbours(&self.topologies, counter.topology, domain, nodes, log);
        }
    }
}

/// In a fine topology, the other nodes of a place are told that its count changed.
fn tell_neighbours(
    topologies: &Topologies,
    topology: TopologyId,
    domain: Option<Domain>,
    nodes: &Nodes,
    log: &mut ChangeLog,
) {
    if let Some(domain) = domain.filter(|_| topologies.is_fine(topology))
        && let Some((key, value)) = topologies.shared_place(topology, domain)
    {
        nodes.postings().slots(key, value).for_each(|slot| log.push(slot, false));
    }
}

/// The terms of a pod that bear on others.
fn carried(pod: &ClassSpec) -> Vec<(CounterSpec, i64)> {
    let affinity = &pod.pod_affinity;
    let mut amounts: Vec<(CounterSpec, i64)> = Vec::new();
    let mut add = |counted: Counted, topology_key: &String, amount: i64| {
        let spec = CounterSpec { counted, topology_key: topology_key.clone(), filter: None };
        match amounts.iter_mut().find(|(known, _)| *known == spec) {
            Some((_, sum)) => *sum += amount,
            None => amounts.push((spec, amount)),
        }
    };
    for term in &affinity.anti_required {
        add(Counted::Avoiding(term.selector.clone()), &term.topology_key, 1);
    }
    for term in &affinity.required {
        add(Counted::Attracting(term.selector.clone()), &term.topology_key, REQUIRED_AFFINITY_WEIGHT);
    }
    for (list, sign) in [(&affinity.preferred, 1), (&affinity.anti_preferred, -1)] {
        for weighted in list {
            let amount = sign * i64::from(weighted.weight);
            add(Counted::Attracting(weighted.term.selector.clone()), &weighted.term.topology_key, amount);
        }
    }
    amounts
}
