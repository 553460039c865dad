//! What a class asks of other pods, as counters: its own terms and those that bear on it.

use super::counters::{Counted, CounterId, CounterSpec, Counters, NodeAffinity, NodeFilter};
use super::nodes::Nodes;
use super::spec::{ClassSpec, Spread, SpreadMode};
use super::topology::HOSTNAME;

/// A spread constraint that must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hard {
    /// The pods that count.
    pub counter: CounterId,
    /// How many more than in the emptiest place there may be, after placing.
    pub max_skew: i64,
    /// With fewer places, the emptiest counts as empty.
    pub min_domains: i64,
    /// 1 if the pod itself counts.
    pub itself: i64,
}

/// A spread constraint that counts in the score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Soft {
    /// The pods that count.
    pub counter: CounterId,
    /// The tolerated skew.
    pub max_skew: i64,
    /// Is the place the node itself?
    pub is_hostname: bool,
}

/// The counters that decide about a class. Two classes that differ in nothing else but what selectors
/// look at, and for which these are equal, have the same places at the same scores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Constraints {
    /// One for each required affinity term; each counts pods that all the terms select.
    pub affinity: Vec<CounterId>,
    /// Does the pod match its own required affinity?
    pub affinity_to_itself: bool,
    /// One for each required anti-affinity term.
    pub anti_affinity: Vec<CounterId>,
    /// Pods whose required anti-affinity is to a pod like this.
    pub avoided: Vec<CounterId>,
    /// What adds to the score, with weights.
    pub attraction: Vec<(CounterId, i64)>,
    /// Spread constraints that must hold.
    pub hard: Vec<Hard>,
    /// Spread constraints that count in the score.
    pub soft: Vec<Soft>,
    /// Is a node that lacks one of the soft constraints' keys the last choice?
    pub soft_needs_all_keys: bool,
}

impl Constraints {
    /// Reads what `pod` asks for, with a reference on each counter.
    pub fn resolve(pod: &ClassSpec, counters: &mut Counters, nodes: &Nodes) -> Constraints {
        let mut all = Constraints::default();
        let affinity = &pod.pod_affinity;
        let selects = |counters: &Counters, selector| counters.selects(selector, &pod.namespace, &pod.labels);
        let selectors: Vec<_> = affinity.required.iter().map(|term| term.selector.clone()).collect();
        all.affinity_to_itself = !selectors.is_empty() && selectors.iter().all(|one| selects(counters, one));
        let count = |counters: &mut Counters, selectors: Vec<_>, key: &String| {
            let counted = Counted::Selected { selectors, terminating: true };
            counters.acquire(CounterSpec { counted, topology_key: key.clone(), filter: None }, nodes)
        };
        for term in &affinity.required {
            all.affinity.push(count(counters, selectors.clone(), &term.topology_key));
        }
        for term in &affinity.anti_required {
            all.anti_affinity.push(count(counters, vec![term.selector.clone()], &term.topology_key));
        }
        for (list, sign) in [(&affinity.preferred, 1), (&affinity.anti_preferred, -1)] {
            for weighted in list {
                let id = count(counters, vec![weighted.term.selector.clone()], &weighted.term.topology_key);
                all.attraction.push((id, sign * i64::from(weighted.weight)));
            }
        }
        let (avoided, attracted) = counters.bearing_on(pod);
        for id in avoided.iter().chain(&attracted) {
            counters.hold(*id);
        }
        all.avoided = avoided;
        all.attraction.extend(attracted.into_iter().map(|id| (id, 1)));
        all.resolve_spread(pod, counters, nodes);
        all
    }

    fn resolve_spread(&mut self, pod: &ClassSpec, counters: &mut Counters, nodes: &Nodes) {
        let keys = |soft: bool| -> Vec<String> {
            let mut keys: Vec<_> = pod
                .spread
                .iter()
                .filter(|one| (one.mode != SpreadMode::DoNotSchedule) == soft)
                .filter(|one| one.mode != SpreadMode::Default)
                .map(|one| one.topology_key.clone())
                .collect();
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        let (hard_keys, soft_keys) = (keys(false), keys(true));
        self.soft_needs_all_keys = !soft_keys.is_empty();
        for spread in &pod.spread {
            let soft = spread.mode != SpreadMode::DoNotSchedule;
            let counter = counters.acquire(counter(pod, spread, if soft { &soft_keys } else { &hard_keys }), nodes);
            if soft {
                let is_hostname = spread.topology_key == HOSTNAME;
                self.soft.push(Soft { counter, max_skew: i64::from(spread.max_skew), is_hostname });
            } else {
                self.hard.push(Hard {
                    counter,
                    max_skew: i64::from(spread.max_skew),
                    min_domains: i64::from(spread.min_domains),
                    itself: i64::from(counters.selects(&spread.selector, &pod.namespace, &pod.labels)),
                });
            }
        }
    }

    /// All counters that are held.
    pub fn counters(&self) -> impl Iterator<Item = CounterId> + '_ {
        let lists = self.affinity.iter().chain(&self.anti_affinity).chain(&self.avoided).copied();
        let weighted = self.attraction.iter().map(|(id, _)| *id);
        let spread = self.hard.iter().map(|one| one.counter).chain(self.soft.iter().map(|one| one.counter));
        lists.chain(weighted).chain(spread)
    }

    /// Gives the references back.
    pub fn release(&self, counters: &mut Counters) {
        self.counters().for_each(|id| counters.release(id));
    }
}

fn counter(pod: &ClassSpec, spread: &Spread, keys: &[String]) -> CounterSpec {
    let mut selector = spread.selector.clone();
    if selector.labels.as_ref().is_some_and(Vec::is_empty) {
        // Kubernetes counts no pod for a selector that selects all.
        selector.labels = None;
    }
    CounterSpec {
        counted: Counted::Selected { selectors: vec![selector], terminating: false },
        topology_key: spread.topology_key.clone(),
        filter: Some(NodeFilter {
            keys: keys.to_vec(),
            affinity: spread
                .honors_affinity
                .then(|| NodeAffinity { selector: pod.node_selector.clone(), required: pod.required.clone() }),
            tolerations: spread.honors_taints.then(|| pod.tolerations.clone()),
        }),
    }
}
