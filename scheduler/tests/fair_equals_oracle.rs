#![allow(clippy::unwrap_used)]
//! The tree of queues against the same rules in plain loops, which work everything out anew each time: whose turn it is,
//! who is held back, who owes what to whom, on random trees and histories.
//!
//! `GANTRY_HISTORIES` says how many, `GANTRY_SEED` with which to start.

#[path = "sequences/random.rs"]
mod random;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use gantry_scheduler::core::{Demand, ResourceId};
use gantry_scheduler::fair::{Amounts, Block, DEPTH_MAX, QueueId, QueueSpec, Taken, Tree, WHOLE_SHARE};
use random::Random;

const HISTORIES: u64 = 200;
const NAMES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
const RESOURCES: [ResourceId; 3] = [ResourceId::CPU, ResourceId::MEMORY, ResourceId::PODS];

fn demand(cpu: i64, memory: i64) -> Demand {
    let requests = [(ResourceId::CPU, cpu), (ResourceId::MEMORY, memory)].into_iter().filter(|(_, amount)| *amount > 0);
    Demand {
        requests: requests.collect(),
        scoring_milli_cpu: 0,
        scoring_memory: 0,
        ports: [].into(),
        devices: Default::default(),
        attachments: [].into(),
        exclusive: [].into(),
    }
}

fn asks(demand: &Demand, resource: ResourceId) -> i64 {
    if resource == ResourceId::PODS { 1 } else { demand.amount(resource) }
}

/// What is known, with nothing worked out.
#[derive(Clone, Debug, Default)]
struct Plain {
    queues: BTreeMap<&'static str, QueueSpec>,
    placed: Vec<(&'static str, Demand)>,
    ready: BTreeMap<u64, &'static str>,
    capacity: Amounts,
}

impl Plain {
    /// The queue and all above it, or nothing if that does not end at the top.
    fn path(&self, name: &str) -> Option<Vec<&'static str>> {
        let mut path = Vec::new();
        let mut next = Some(name);
        while let Some(name) = next {
            let (known, spec) = self.queues.get_key_value(name)?;
            if path.contains(known) || path.len() == DEPTH_MAX {
                return None;
            }
            path.push(*known);
            next = spec.parent.as_deref();
        }
        Some(path)
    }

    /// As far up as it is whole.
    fn line_of(&self, name: &'static str) -> Vec<&'static str> {
        self.path(name).unwrap_or_else(|| vec![name])
    }

    fn used(&self, name: &str, resource: ResourceId) -> i64 {
        let below = self.placed.iter().filter(|(queue, _)| self.line_of(queue).contains(&name));
        below.map(|(_, demand)| asks(demand, resource)).sum()
    }

    fn guaranteed(&self, name: &str, resource: ResourceId) -> i64 {
        self.queues.get(name).and_then(|spec| spec.guarantee.get(&resource)).copied().unwrap_or(0)
    }

    fn is_faulty(&self, name: &str) -> bool {
        let is_above = |other: &&str| self.path(other).is_some_and(|path| path[1..].contains(&name));
        self.path(name).is_none() || self.queues.keys().any(is_above)
    }

    fn share(&self, name: &str) -> u64 {
        let part = |resource| {
            let all = u128::try_from(*self.capacity.get(&resource).unwrap_or(&0)).unwrap().max(1);
            u64::try_from(u128::try_from(self.used(name, resource)).unwrap() * u128::from(WHOLE_SHARE) / all).unwrap()
        };
        part(ResourceId::CPU).max(part(ResourceId::MEMORY))
    }

    fn rank(&self, name: &'static str) -> (bool, u64, &'static str) {
        let spec = self.queues.get(name);
        let guarantee = spec.map(|spec| &spec.guarantee).filter(|all| !all.is_empty());
        let short =
            guarantee.is_some_and(|all| all.iter().all(|(resource, amount)| self.used(name, *resource) < *amount));
        let weight = spec.map_or(1, |spec| u64::from(spec.weight));
        (!short, self.share(name) / weight, name)
    }

    /// From the top down: of all queues there with someone ready below, the one that comes first.
    fn first(&self) -> Option<u64> {
        let mut under: Option<&str> = None;
        loop {
            if let Some((turn, _)) = self.ready.iter().find(|(_, queue)| Some(**queue) == under) {
                return Some(*turn);
            }
            let lines = self.ready.values().map(|queue| self.line_of(queue));
            let here: BTreeSet<&'static str> = lines
                .filter_map(|line| match under {
                    None => line.last().copied(),
                    Some(above) => line.iter().position(|one| *one == above)?.checked_sub(1).map(|at| line[at]),
                })
                .collect();
            under = Some(here.into_iter().min_by_key(|name| self.rank(name))?);
        }
    }

    fn over(&self, name: &'static str, demand: &Demand) -> Option<(&'static str, ResourceId)> {
        self.line_of(name).into_iter().find_map(|name| {
            let limit = &self.queues.get(name)?.limit;
            let mut wanted: Vec<ResourceId> = RESOURCES.into_iter().filter(|one| asks(demand, *one) > 0).collect();
            // Pods are looked at last.
            wanted.sort_by_key(|resource| *resource == ResourceId::PODS);
            let exceeds = |resource: &ResourceId| {
                limit.get(resource).is_some_and(|limit| self.used(name, *resource) + asks(demand, *resource) > *limit)
            };
            wanted.into_iter().find(exceeds).map(|resource| (name, resource))
        })
    }

    fn within(&self, name: &str, demand: &Demand) -> bool {
        let listed = |one: &ResourceId| asks(demand, *one) > 0 && self.guaranteed(name, *one) > 0;
        let fits = |one: ResourceId| self.used(name, one) + asks(demand, one) <= self.guaranteed(name, one);
        let listed: Vec<ResourceId> = RESOURCES.into_iter().filter(listed).collect();
        !listed.is_empty() && listed.into_iter().all(fits)
    }

    fn stands(&self, own: &'static str, other: &'static str, demand: &Demand) -> bool {
        let up = self.line_of(other);
        let Some(side) = self.line_of(own).into_iter().rev().find(|one| !up.contains(one)) else { return false };
        let listed = |one: &ResourceId| asks(demand, *one) > 0 && self.guaranteed(side, *one) > 0;
        let mut listed = RESOURCES.into_iter().filter(listed).peekable();
        listed.peek().is_some() && listed.all(|one| self.used(side, one) <= self.guaranteed(side, one))
    }

    fn owes(&self, from: &'static str, to: &'static str, demand: &Demand) -> bool {
        let (down, up) = (self.line_of(from), self.line_of(to));
        let apart: Vec<&str> = down.iter().filter(|one| !up.contains(one)).copied().collect();
        let Some(entitled) = up.iter().rev().find(|one| !down.contains(one)).filter(|one| self.within(one, demand))
        else {
            return false;
        };
        let wanted = |one: &ResourceId| asks(demand, *one) > 0 && self.guaranteed(entitled, *one) > 0;
        let borrows = |name: &str| {
            RESOURCES.into_iter().filter(wanted).any(|one| self.used(name, one) > self.guaranteed(name, one))
        };
        !apart.is_empty() && apart.into_iter().all(borrows)
    }
}

fn amounts(random: &mut Random) -> Amounts {
    let mut amounts = Amounts::new();
    for resource in RESOURCES {
        if random.chance(1, 3) {
            amounts.insert(resource, random.within(1, 12));
        }
    }
    amounts
}

fn change(random: &mut Random, tree: &mut Tree<u64, u64>, plain: &mut Plain, turn: u64) {
    let name = random.pick(&NAMES);
    match random.below(10) {
        0 | 1 => {
            let parent = random.chance(2, 3).then(|| random.pick(&NAMES).to_owned());
            let weight = u32::try_from(random.within(1, 3)).unwrap();
            let spec = QueueSpec { parent, weight, guarantee: amounts(random), limit: amounts(random) };
            tree.set(name, Some(spec.clone()));
            plain.queues.insert(name, spec);
        }
        2 if random.chance(1, 3) => {
            tree.set(name, None);
            plain.queues.remove(name);
        }
        3 => {
            let capacity: Amounts = [(ResourceId::CPU, random.within(1, 40)), (ResourceId::MEMORY, 20)].into();
            tree.set_capacity(capacity.clone());
            plain.capacity = capacity;
        }
        4 | 5 => {
            let demand = demand(random.within(0, 3), random.within(0, 2));
            let id = tree.id(name);
            tree.charge(id, &demand);
            plain.placed.push((name, demand));
        }
        6 if !plain.placed.is_empty() => {
            let (name, demand) = plain.placed.swap_remove(random.below(plain.placed.len()));
            let id = tree.find(name).unwrap();
            tree.release(id, &demand);
        }
        7 | 8 => {
            let id = tree.id(name);
            tree.push(id, turn, turn);
            plain.ready.insert(turn, name);
        }
        9 if !plain.ready.is_empty() => {
            let turn = *plain.ready.keys().nth(random.below(plain.ready.len())).unwrap();
            let name = plain.ready.remove(&turn).unwrap();
            let id = tree.find(name).unwrap();
            tree.remove(id, turn);
            tree.waits(id, true);
            tree.waits(id, false);
        }
        _ => {}
    }
}

fn compare(random: &mut Random, tree: &mut Tree<u64, u64>, plain: &Plain) -> usize {
    let first = tree.first().map(|(_, turn)| turn);
    assert_eq!(first, plain.first(), "whose turn it is: {plain:#?}");
    let mut owing = 0;
    let demand = demand(random.within(0, 4), random.within(0, 4));
    for name in NAMES {
        let Some(id) = tree.find(name) else { continue };
        assert_eq!(tree.share(id), plain.share(name), "{name}: {plain:#?}");
        assert_eq!(tree.fault(id).is_some(), plain.is_faulty(name), "{name}: {:?} {plain:#?}", tree.fault(id));
        let over = match tree.block(id, &demand) {
            Some((_, Block::Limit { queue, resource, .. })) => Some((queue.to_string(), resource)),
            Some((_, Block::Fault(_))) | None => None,
        };
        let wanted = plain.over(name, &demand).map(|(queue, resource)| (queue.to_owned(), resource));
        assert_eq!(over, wanted.filter(|_| !plain.is_faulty(name)), "{name}: {plain:#?}");
        let mut debtors = Vec::new();
        for from in NAMES {
            let Some(other) = tree.find(from) else { continue };
            let owes = plain.owes(from, name, &demand);
            assert_eq!(tree.owes(other, id, &demand), owes, "{from} to {name}: {plain:#?}");
            for (_, demand) in plain.placed.iter().filter(|(queue, _)| *queue == from) {
                let stands = tree.stands(other, id, demand, &Taken::new());
                assert_eq!(stands, plain.stands(from, name, demand), "{from} against {name}: {plain:#?}");
                // Nobody who could have it back, whatever the asker.
                let mut without = plain.clone();
                let at = without.placed.iter().position(|placed| *placed == (from, demand.clone())).unwrap();
                without.placed.remove(at);
                assert!(!without.owes(name, from, demand) || stands, "{from} would take it back: {plain:#?}");
            }
            if owes && plain.placed.iter().any(|(queue, _)| *queue == from) {
                debtors.push((Reverse(plain.share(from)), from, other));
            }
        }
        debtors.sort();
        let debtors: Vec<QueueId> = debtors.into_iter().map(|(.., id)| id).collect();
        assert_eq!(tree.debtors(id, &demand, &Taken::new()), debtors, "to {name}: {plain:#?}");
        owing += debtors.len();
    }
    owing
}

#[test]
fn the_tree_of_queues_says_what_plain_loops_say() {
    let number = |variable: &str, default: u64| {
        std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (start, count) = (number("GANTRY_SEED", 1), number("GANTRY_HISTORIES", HISTORIES));
    let mut owing = 0;
    for seed in start..start + count {
        let played = std::panic::catch_unwind(|| {
            let random = &mut Random::new(seed);
            let (mut tree, mut plain) = (Tree::default(), Plain::default());
            let mut owing = 0;
            for turn in 0..random.within(10, 80) {
                change(random, &mut tree, &mut plain, u64::try_from(turn).unwrap());
                owing += compare(random, &mut tree, &plain);
            }
            owing
        });
        owing += played.unwrap_or_else(|_| panic!("history {seed} fails"));
    }
    assert!(owing > usize::try_from(count).unwrap(), "{owing} debts show little");
}
