//! Who has to go for whom, and what pods that wait for a node mean to others.

use std::collections::BTreeMap;

use super::{Oracle, Placed, Refusal};
use crate::core::engine::PodKey;
use crate::core::preemption::Budget;
use crate::core::spec::{ClassSpec, Operator};

/// Node, victims (the most important first), and how many of them break a budget.
pub type OracleVictims = (String, Vec<PodKey>, usize);

/// Budgets by namespace and name.
type Budgets = BTreeMap<String, BTreeMap<String, Budget>>;

impl Oracle {
    /// The node for a pod that others may wait beside, or that waits itself.
    pub fn best_for(&self, pod: PodKey, spec: &ClassSpec, priority: i32) -> Option<String> {
        let crowded = self.with_nominated(pod, priority);
        if let Some((node, ..)) = self.nominated.get(&pod)
            && self.nodes.contains_key(node)
            && refusal(&crowded, self, spec, node).is_none()
        {
            return Some(node.clone());
        }
        let (best, _) = crowded.best(spec)?;
        if refusal(&crowded, self, spec, &best).is_none() {
            return Some(best);
        }
        let (best, _) = self.best(spec)?;
        if refusal(&crowded, self, spec, &best).is_none() { Some(best) } else { None }
    }

    /// Every node with what it says to the pod, nominated pods counted.
    pub fn verdicts_for(&self, pod: PodKey, spec: &ClassSpec, priority: i32) -> Vec<(String, Option<Refusal>)> {
        self.with_nominated(pod, priority).verdicts(spec)
    }

    /// Who has to go for the pod, and where, if that helps.
    pub fn preempt(
        &self,
        pod: PodKey,
        spec: &ClassSpec,
        priority: i32,
        budgets: &Budgets,
        names: &BTreeMap<PodKey, String>,
    ) -> Option<OracleVictims> {
        let crowded = self.with_nominated(pod, priority);
        let mut best: Option<(Vec<i64>, OracleVictims)> = None;
        for (node, verdict) in crowded.verdicts(spec) {
            if verdict.is_some_and(|refusal| refusal.unresolvable) {
                continue;
            }
            let Some((victims, violations)) = self.victims(&crowded, spec, priority, &node, budgets, names) else {
                continue;
            };
            let cost = self.cost(&victims, violations);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, (node, victims, violations)));
            }
        }
        best.map(|(_, victims)| victims)
    }

    /// Why each node that others' going might have helped with does not take the pod even so.
    pub fn preemption_failure(&self, pod: PodKey, spec: &ClassSpec, priority: i32) -> BTreeMap<String, usize> {
        let crowded = self.with_nominated(pod, priority);
        let mut counts = BTreeMap::new();
        for (node, verdict) in crowded.verdicts(spec) {
            if verdict.is_none_or(|refusal| refusal.unresolvable) {
                continue;
            }
            let lower = self.lower(&node, priority);
            let mut texts = vec!["No preemption victims found for incoming pod".to_owned()];
            if !lower.is_empty() {
                let (crowded, bare) = (crowded.without(&lower), self.without(&lower));
                texts = refusal(&crowded, &bare, spec, &node).map(|refusal| refusal.reasons).unwrap_or_default();
            }
            for text in texts {
                *counts.entry(text).or_insert(0) += 1;
            }
        }
        counts
    }

    fn with_nominated(&self, pod: PodKey, priority: i32) -> Oracle {
        let mut crowded = self.clone();
        for (key, (node, spec, of)) in &self.nominated {
            if *key != pod && *of >= priority {
                // Of devices it has none yet: those that it will get may still be in use.
                let (standing, devices) = Default::default();
                let placed = Placed { node: node.clone(), spec: spec.clone(), standing, devices };
                crowded.pods.insert(*key, placed);
            }
        }
        crowded
    }

    fn without(&self, pods: &[PodKey]) -> Oracle {
        let mut rest = self.clone();
        for pod in pods {
            rest.pods.remove(pod);
        }
        rest
    }

    /// The pods of lower priority on the node, the most important first.
    fn lower(&self, node: &str, priority: i32) -> Vec<PodKey> {
        let mut lower = Vec::new();
        for (key, placed) in &self.pods {
            if placed.node == node && placed.standing.priority < priority {
                lower.push(*key);
            }
        }
        lower.sort_by_key(|key| (-i64::from(self.pods[key].standing.priority), self.started(*key), *key));
        lower
    }

    fn started(&self, pod: PodKey) -> i64 {
        self.pods[&pod].standing.started.unwrap_or(i64::MAX)
    }

    fn victims(
        &self,
        crowded: &Oracle,
        spec: &ClassSpec,
        priority: i32,
        node: &str,
        budgets: &Budgets,
        names: &BTreeMap<PodKey, String>,
    ) -> Option<(Vec<PodKey>, usize)> {
        let lower = self.lower(node, priority);
        let fits = |gone: &[PodKey]| refusal(&crowded.without(gone), &self.without(gone), spec, node).is_none();
        if lower.is_empty() || !fits(&lower) {
            return None;
        }
        let violating = self.violating(&lower, budgets, names);
        let mut gone = lower.clone();
        let mut violations = 0;
        for breaks in [true, false] {
            for pod in &lower {
                if violating.contains(pod) != breaks {
                    continue;
                }
                let mut fewer = gone.clone();
                fewer.retain(|one| one != pod);
                if fits(&fewer) {
                    gone = fewer;
                } else if breaks {
                    violations += 1;
                }
            }
        }
        if gone.is_empty() { None } else { Some((gone, violations)) }
    }

    fn violating(&self, lower: &[PodKey], budgets: &Budgets, names: &BTreeMap<PodKey, String>) -> Vec<PodKey> {
        let mut left = budgets.clone();
        let mut violating = Vec::new();
        for pod in lower {
            let placed = &self.pods[pod].spec;
            let Some(budgets) = left.get_mut(&placed.namespace) else { continue };
            let mut breaks = false;
            for budget in budgets.values_mut() {
                let Some(wanted) = &budget.selector else { continue };
                let mut about = !wanted.is_empty() && !placed.labels.is_empty();
                for one in wanted {
                    let value = placed.labels.get(&one.key);
                    about = about
                        && match one.operator {
                            Operator::In => value.is_some_and(|value| one.values.contains(value)),
                            Operator::NotIn => value.is_none_or(|value| !one.values.contains(value)),
                            Operator::Exists => value.is_some(),
                            Operator::DoesNotExist => value.is_none(),
                            _ => false,
                        };
                }
                if about && !names.get(pod).is_some_and(|name| budget.disrupted.contains(name)) {
                    budget.allowed -= 1;
                    breaks = breaks || budget.allowed < 0;
                }
            }
            if breaks {
                violating.push(*pod);
            }
        }
        violating
    }

    fn cost(&self, victims: &[PodKey], violations: usize) -> Vec<i64> {
        let priority = |pod: &PodKey| i64::from(self.pods[pod].standing.priority);
        let highest = victims.iter().map(priority).max().unwrap_or(0);
        let mut sum = 0;
        let mut earliest = i64::MAX;
        for pod in victims {
            sum += priority(pod) + (1i64 << 31);
            if priority(pod) == highest {
                earliest = earliest.min(self.started(*pod));
            }
        }
        vec![violations as i64, highest, sum, victims.len() as i64, -earliest]
    }
}

/// What the node says with the nominated pods there, or else without.
fn refusal(crowded: &Oracle, bare: &Oracle, spec: &ClassSpec, node: &str) -> Option<Refusal> {
    for oracle in [crowded, bare] {
        for (name, refusal) in oracle.verdicts(spec) {
            if name == node && refusal.is_some() {
                return refusal;
            }
        }
    }
    None
}
