//! Which pods could leave a node so that one that waits fits there: sets of them, the smallest first.
//!
//! What is said here is necessary, not enough: no set of this size is left out that could do, as far as sums tell, and
//! those after whose going the engine takes the pod come first. Whether those that leave find places elsewhere is for who
//! asks to try out.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::engine::{Engine, PodKey};
use super::nodes::NodeId;
use super::nominations::Ask;
use super::preemption::Budgets;
use super::resources::{Demand, ResourceId};

/// A pod that may leave its node.
#[derive(Clone, Debug)]
pub struct Leaver {
    /// The pod.
    pub pod: PodKey,
    /// Of pods with the same number it does not matter which one leaves.
    pub alike: usize,
    /// The budget that its going is counted in.
    pub budget: Option<(String, String)>,
}

/// Some of the pods of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeavingSet {
    /// By their numbers in what was given.
    pub leavers: Vec<usize>,
    /// Without them the node takes the pod that waits, as things are.
    pub is_enough: bool,
}

/// What a node lacks for a pod: of each resource, and in places.
struct Lack(Vec<(ResourceId, i64)>);

impl Lack {
    fn covers(demand: &Demand, resource: ResourceId) -> i64 {
        if resource == ResourceId::PODS { 1 } else { demand.amount(resource) }
    }

    /// How many pods have to go at the least; none if all are not enough.
    fn least(&self, demands: &[&Demand]) -> Option<usize> {
        let mut least = 1;
        for (resource, lack) in &self.0 {
            let mut amounts: Vec<i64> = demands.iter().map(|demand| Lack::covers(demand, *resource)).collect();
            amounts.sort_unstable_by_key(|amount| Reverse(*amount));
            let mut sum = 0;
            let enough = amounts.iter().position(|amount| {
                sum += amount;
                sum >= *lack
            });
            least = least.max(enough? + 1);
        }
        Some(least)
    }
}

/// A walk through the sets of one size.
struct Walk<'a> {
    leavers: &'a [Leaver],
    demands: Vec<&'a Demand>,
    /// The leavers by what makes no difference, those that leave first before the others.
    groups: Vec<Vec<usize>>,
    lack: Lack,
    budgets: &'a Budgets,
    found: Vec<Vec<usize>>,
    /// So many steps may be taken.
    looks: &'a mut usize,
}

impl Walk<'_> {
    fn go(&mut self, group: usize, left: usize, chosen: &mut Vec<usize>) {
        // Every step counts: there may be ever so many that lead to no whole set.
        if *self.looks == 0 {
            return;
        }
        *self.looks -= 1;
        if !self.may_cover(group, left, chosen) {
            return;
        }
        if left == 0 {
            if self.is_within_budgets(chosen) {
                self.found.push(chosen.clone());
            }
            return;
        }
        let Some(all) = self.groups.get(group).cloned() else { return };
        for count in (0..=left.min(all.len())).rev() {
            chosen.extend(&all[..count]);
            self.go(group + 1, left - count, chosen);
            chosen.truncate(chosen.len() - count);
        }
    }

    /// Can the chosen ones with `left` more of the groups still to come be enough?
    fn may_cover(&self, group: usize, left: usize, chosen: &[usize]) -> bool {
        self.lack.0.iter().all(|(resource, lack)| {
            let of = |index: &usize| Lack::covers(self.demands[*index], *resource);
            let have: i64 = chosen.iter().map(of).sum();
            if have >= *lack {
                return true;
            }
            let mut more: Vec<i64> =
                self.groups[group..].iter().flat_map(|all| all.iter().take(left)).map(of).collect();
            more.sort_unstable_by_key(|amount| Reverse(*amount));
            have + more.iter().take(left).sum::<i64>() >= *lack
        })
    }

    fn is_within_budgets(&self, chosen: &[usize]) -> bool {
        let mut spent: BTreeMap<&(String, String), i64> = BTreeMap::new();
        for index in chosen {
            if let Some(budget) = &self.leavers[*index].budget {
                *spent.entry(budget).or_default() += 1;
            }
        }
        spent.into_iter().all(|((namespace, name), count)| {
            let budget = self.budgets.get(namespace).and_then(|budgets| budgets.get(name));
            budget.is_none_or(|budget| count <= budget.allowed)
        })
    }
}

impl Engine {
    /// The nodes that might take the pod if no more than `most` pods that matter no more than it left, with how many have to
    /// leave at the least: the fewest first, then by name.
    pub fn nodes_to_clear(&mut self, ask: Ask, most: usize) -> Vec<(usize, NodeId)> {
        self.view_for(ask);
        self.nodes.settle_order();
        let Some(demand) = self.classes.get(ask.class).map(|class| class.demand.clone()) else { return Vec::new() };
        let slots: Vec<u32> = self.nodes.present().iter().collect();
        let mut found = Vec::new();
        for slot in slots {
            let Some(verdict) = self.judges(ask.class, slot) else { continue };
            if verdict.unresolvable {
                continue;
            }
            let demands: Vec<&Demand> = self
                .residents
                .on(slot)
                .iter()
                .filter_map(|pod| self.pods.get(pod))
                .filter(|record| record.priority <= ask.priority)
                .map(|record| &*record.demand)
                .collect();
            let least = self.lack(&demand, slot).least(&demands);
            if let Some(least) = least.filter(|least| *least <= most && !demands.is_empty()) {
                found.push((least, self.nodes.order().label(slot), NodeId(slot)));
            }
        }
        found.sort_unstable_by_key(|(least, label, _)| (*least, *label));
        found.into_iter().map(|(least, _, node)| (least, node)).collect()
    }

    /// The sets of `count` of these pods, all on the node, that could make room by leaving; `looks` is how many sets may be
    /// looked at, and what is left of that.
    pub fn leaving_sets(
        &mut self,
        ask: Ask,
        node: NodeId,
        leavers: &[Leaver],
        count: usize,
        budgets: &Budgets,
        looks: &mut usize,
    ) -> Vec<LeavingSet> {
        self.view_for(ask);
        let Some(wanted) = self.classes.get(ask.class).map(|class| class.demand.clone()) else { return Vec::new() };
        let demands: Option<Vec<_>> = leavers.iter().map(|one| self.demand_of(one.pod).cloned()).collect();
        let Some(demands) = demands else { return Vec::new() };
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut by_number: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, one) in leavers.iter().enumerate() {
            let group = *by_number.entry(one.alike).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push(index);
        }
        let demands = demands.iter().map(|demand| &**demand).collect();
        let lack = self.lack(&wanted, node.0);
        let mut walk = Walk { leavers, demands, groups, lack, budgets, found: Vec::new(), looks };
        walk.go(0, count, &mut Vec::new());
        let found = std::mem::take(&mut walk.found);
        let mut sets: Vec<LeavingSet> = found
            .into_iter()
            .map(|chosen| {
                let is_enough = self.takes_without_pods(ask, node, chosen.iter().map(|index| leavers[*index].pod));
                LeavingSet { leavers: chosen, is_enough }
            })
            .collect();
        // What is not enough now may be once those that left are elsewhere, where others matter to the pod.
        if !self.looks_at_others(ask.class) {
            sets.retain(|set| set.is_enough);
        }
        sets
    }

    fn takes_without_pods(&mut self, ask: Ask, node: NodeId, pods: impl Iterator<Item = PodKey>) -> bool {
        let away: Vec<_> = pods.filter_map(|pod| self.think_away(pod)).collect();
        self.view_for(ask);
        let takes = self.takes(ask, node.0);
        for pod in away.into_iter().rev() {
            self.think_back(pod);
        }
        takes
    }

    fn lack(&self, demand: &Demand, slot: u32) -> Lack {
        let free =
            |resource| self.nodes.allocatable(resource, slot).saturating_sub(self.nodes.requested(resource, slot));
        let wanted = demand.requests.iter().copied().chain([(ResourceId::PODS, 1)]);
        let lack = wanted.map(|(resource, amount)| (resource, amount - free(resource)));
        Lack(lack.filter(|(_, lack)| *lack > 0).collect())
    }
}
