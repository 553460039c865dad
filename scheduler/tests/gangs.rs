#![allow(clippy::unwrap_used)]
//! Groups of pods: all that are needed, or none. Scenarios, and random histories in which no group is ever bound in part
//! but for what happened to it after it was whole.
//!
//! `GANTRY_HISTORIES` says how many, `GANTRY_SEED` with which to start.

#[path = "support/objects.rs"]
mod objects;
#[path = "sequences/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_scheduler::config::Configuration;
use gantry_scheduler::driver::facts::PodFacts;
use gantry_scheduler::driver::state::{Action, BindOutcome, State};
use objects::{Pod, histories, key, see_group, see_node};
use random::Random;

const HISTORIES: usize = 500;

/// A scheduler's state, and the cluster that it acts on.
struct World {
    state: State,
    now: Duration,
    /// Pods without an end; where they are is told below.
    pods: BTreeMap<String, Pod>,
    /// Where pods are, or are being bound.
    nodes_of: BTreeMap<String, String>,
    /// Bindings that have not been answered.
    underway: BTreeSet<String>,
    nodes: BTreeMap<String, i64>,
    /// What groups need.
    groups: BTreeMap<String, usize>,
    messages: BTreeMap<String, String>,
    /// Pods that have been told to go.
    leaving: BTreeSet<String>,
}

impl World {
    fn new() -> World {
        World {
            state: State::new(&Configuration::default()),
            now: Duration::ZERO,
            pods: BTreeMap::new(),
            nodes_of: BTreeMap::new(),
            underway: BTreeSet::new(),
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            messages: BTreeMap::new(),
            leaving: BTreeSet::new(),
        }
    }

    fn node(&mut self, name: &str, milli_cpu: i64) {
        see_node(&mut self.state, name, milli_cpu);
        self.nodes.insert(name.to_owned(), milli_cpu);
    }

    fn group(&mut self, name: &str, min: usize, hold_seconds: u64) {
        see_group(&mut self.state, name, min, Duration::from_secs(hold_seconds));
        self.groups.insert(name.to_owned(), min);
    }

    fn group_goes(&mut self, name: &str) {
        self.state.group_gone(&("default".to_owned(), name.to_owned()));
        self.groups.remove(name);
    }

    fn facts(&self, name: &str) -> PodFacts {
        let node = self.nodes_of.get(name).filter(|_| !self.underway.contains(name)).cloned();
        Pod { node, ..self.pods[name].clone() }.facts(name)
    }

    fn pod(&mut self, name: &str, milli_cpu: i64, group: Option<&str>) {
        self.important(name, milli_cpu, group, 0);
    }

    fn important(&mut self, name: &str, milli_cpu: i64, group: Option<&str>, priority: i32) {
        let pod = Pod { milli_cpu, priority, group: group.map(str::to_owned), ..Pod::default() };
        self.pods.insert(name.to_owned(), pod);
        let facts = self.facts(name);
        let action = self.state.pod_seen(facts, self.now);
        assert_eq!(action, None);
    }

    fn pod_goes(&mut self, name: &str) {
        self.leaving.remove(name);
        self.pods.remove(name);
        self.nodes_of.remove(name);
        self.underway.remove(name);
        self.messages.remove(name);
        self.state.pod_gone(key(name));
    }

    /// Tries all pods that are to be tried now; what is decided at once must leave every group whole.
    fn run(&mut self) {
        self.state.wake(self.now);
        loop {
            let mut actions = Vec::new();
            let tried = self.state.schedule_next(self.now, &mut actions);
            let (mut touched, mut cleared) = (BTreeSet::new(), BTreeSet::new());
            let mut seats = BTreeMap::new();
            for action in actions {
                match action {
                    Action::Bind { pod, node, .. } => {
                        self.nodes_of.insert(pod.name.clone(), node.to_string());
                        self.underway.insert(pod.name.clone());
                        self.messages.remove(&pod.name);
                        touched.extend(self.pods[&pod.name].group.clone());
                    }
                    Action::Status { pod, condition, nominated } => {
                        self.messages.extend(condition.map(|(_, message)| (pod.name.clone(), message)));
                        seats.extend(nominated.flatten().map(|node| (pod.name, node.to_string())));
                    }
                    Action::Preempt { pod, victims, .. } => {
                        self.state.preempted(pod.key, &[]);
                        self.leaving.extend(victims.into_iter().map(|victim| victim.name));
                        cleared.extend(self.pods[&pod.name].group.clone());
                    }
                    Action::FailedEvent { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            for group in touched {
                let needed = *self.groups.get(&group).unwrap_or_else(|| panic!("{group} is no group, and bound"));
                let there = self.members(&group).filter(|name| self.nodes_of.contains_key(*name)).count();
                assert!(there >= needed, "{group} has {there} of {needed} pods");
            }
            self.check_cleared(&cleared, &seats);
            self.check_room();
            if tried.is_none() {
                return;
            }
        }
    }

    fn members<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a String> {
        self.pods.iter().filter(move |(_, pod)| pod.group.as_deref() == Some(group)).map(|(name, _)| name)
    }

    /// Others go for a group only if all that it needs then fits.
    fn check_cleared(&self, cleared: &BTreeSet<String>, seats: &BTreeMap<String, String>) {
        for group in cleared {
            let there = self.members(group).filter(|name| self.nodes_of.contains_key(*name)).count();
            let coming: Vec<&String> = self.members(group).filter(|name| seats.contains_key(*name)).collect();
            assert!(there + coming.len() >= self.groups[group], "{group}: {there} are there, and {coming:?} come");
            for (node, all) in &self.nodes {
                let stays = self.nodes_of.iter().filter(|(pod, at)| *at == node && !self.leaving.contains(*pod));
                let used: i64 = stays.map(|(pod, _)| self.pods[pod].milli_cpu).sum();
                let wanted: i64 =
                    coming.iter().filter(|pod| seats[**pod] == *node).map(|pod| self.pods[*pod].milli_cpu).sum();
                assert!(wanted == 0 || used + wanted <= *all, "{group} on {node}: {used} and {wanted} of {all}");
            }
        }
    }

    fn check_room(&self) {
        let mut used: BTreeMap<&String, i64> = BTreeMap::new();
        for (pod, node) in &self.nodes_of {
            *used.entry(node).or_default() += self.pods[pod].milli_cpu;
        }
        for (node, used) in used {
            assert!(self.nodes.get(node).is_none_or(|all| used <= *all), "{node} has {used}");
        }
    }

    /// The API answers a binding.
    fn answer(&mut self, name: &str, is_made: bool) {
        self.underway.remove(name);
        let outcome = if is_made { BindOutcome::Bound } else { BindOutcome::Refused("no".to_owned()) };
        if !is_made {
            self.nodes_of.remove(name);
        }
        self.state.bound(key(name), outcome, self.now, &mut Vec::new());
        if is_made {
            let facts = self.facts(name);
            self.state.pod_seen(facts, self.now);
        }
    }

    fn answer_all(&mut self) {
        for name in self.underway.clone() {
            self.answer(&name, true);
        }
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.run();
    }

    fn placed(&self) -> Vec<&str> {
        self.nodes_of.keys().map(String::as_str).collect()
    }
}

fn trio(world: &mut World) {
    for name in ["a", "b", "c"] {
        world.pod(name, 1_000, Some("trio"));
    }
}

#[test]
fn all_of_a_group_or_none() {
    let mut world = World::new();
    world.node("one", 2_000);
    world.group("trio", 3, 0);
    trio(&mut world);
    world.run();
    assert_eq!(world.placed(), [""; 0]);
    let why = "PodGroup \"trio\": 2 of 3 needed pods fit: 0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(world.messages.values().collect::<Vec<_>>(), [why; 3], "all are told the same");
    // What was only thought of is taken back: the room is there for others.
    world.pod("single", 1_500, None);
    world.run();
    assert_eq!(world.placed(), ["single"]);

    world.node("two", 3_000);
    world.later(2);
    assert_eq!(world.placed(), ["a", "b", "c", "single"]);
}

#[test]
fn a_group_waits_for_its_pods_and_for_its_object() {
    let mut world = World::new();
    world.node("one", 8_000);
    world.pod("a", 1_000, Some("trio"));
    world.run();
    assert_eq!(world.messages["a"], "PodGroup \"trio\" not found");
    world.group("trio", 3, 0);
    world.later(2);
    let siblings = "cannot find enough sibling pods, current pods number: 1, minMember of group: 3 (PodGroup \"trio\")";
    assert_eq!((world.messages["a"].as_str(), world.placed().len()), (siblings, 0));
    world.pod("b", 1_000, Some("trio"));
    world.pod("c", 1_000, Some("trio"));
    // With the last one all are tried, whether or not the first would wait longer.
    world.run();
    assert_eq!(world.placed(), ["a", "b", "c"]);
}

#[test]
fn more_than_enough_go_their_own_way() {
    let mut world = World::new();
    world.node("one", 4_000);
    world.group("trio", 3, 0);
    trio(&mut world);
    world.pod("d", 1_000, Some("trio"));
    world.pod("e", 1_000, Some("trio"));
    world.run();
    assert_eq!(world.placed().len(), 4);
    world.answer_all();
    // One of a group that is whole is like any pod.
    world.pod_goes("a");
    world.later(2);
    assert_eq!(world.placed(), ["b", "c", "d", "e"]);
}

#[test]
fn a_group_may_hold_its_room_for_a_while() {
    let mut world = World::new();
    world.node("one", 2_000);
    world.group("trio", 3, 30);
    trio(&mut world);
    world.run();
    world.pod("single", 1_000, None);
    world.later(20);
    assert_eq!(world.placed(), [""; 0], "two places are held, the third is not there");
    assert!(world.messages["a"].starts_with("PodGroup \"trio\": 2 of 3 needed pods fit: "), "{:?}", world.messages);
    assert_eq!(world.state.next_deadline().map(|at| at <= Duration::from_secs(30)), Some(true));
    world.later(10);
    assert!(world.messages["a"].starts_with("PodGroup \"trio\": not enough of its pods got nodes within 30 s"));
    world.later(2);
    assert_eq!(world.placed(), ["single"], "{:?}", world.messages);

    // What is held counts once the rest has room.
    let mut world = World::new();
    world.node("one", 2_000);
    world.group("trio", 3, 30);
    trio(&mut world);
    world.run();
    world.node("two", 1_000);
    world.later(5);
    assert_eq!(world.placed(), ["a", "b", "c"]);
    assert_eq!(world.state.cache_counts().2, 3, "three bindings are under way");
    world.answer_all();
    assert_eq!(world.state.cache_counts().2, 0);
}

#[test]
fn of_two_groups_one_gets_all() {
    let mut world = World::new();
    world.node("one", 1_000);
    world.node("two", 1_000);
    for group in ["x", "y"] {
        world.group(group, 2, 0);
    }
    for (name, group) in [("x1", "x"), ("y1", "y"), ("x2", "x"), ("y2", "y")] {
        world.pod(name, 1_000, Some(group));
    }
    world.run();
    assert_eq!(world.placed(), ["x1", "x2"]);
    world.answer_all();
    for pod in ["x1", "x2"] {
        world.pod_goes(pod);
    }
    world.later(2);
    assert_eq!(world.placed(), ["y1", "y2"]);
}

#[test]
fn others_go_for_a_group_only_if_all_of_it_then_fits() {
    let mut world = World::new();
    world.node("one", 2_000);
    world.node("two", 2_000);
    for (name, milli_cpu, priority) in [("small", 1_000, 0), ("large", 2_000, 0), ("king", 1_000, 100)] {
        world.important(name, milli_cpu, None, priority);
    }
    world.run();
    world.answer_all();
    assert_eq!(world.placed().len(), 3);
    world.group("four", 4, 0);
    for name in ["a", "b", "c", "d"] {
        world.important(name, 1_000, Some("four"), 10);
    }
    world.later(1);
    assert_eq!(world.leaving, BTreeSet::new(), "three of four would fit, and nobody goes for less than four");
    assert!(world.messages["a"].starts_with("PodGroup \"four\": 0 of 4 needed pods fit: "), "{:?}", world.messages);

    world.group("four", 3, 0);
    world.later(10);
    assert_eq!(world.leaving, ["large", "small"].map(str::to_owned).into(), "{:?}", world.messages);
    assert_eq!(world.placed().len(), 3, "they are not there yet");
    // Their room is kept: against equals too, and while only one of them has gone.
    world.pod_goes("large");
    world.important("late", 1_000, None, 10);
    world.later(10);
    assert_eq!(world.placed(), ["king", "small"]);
    world.pod_goes("small");
    world.later(10);
    assert_eq!(world.placed(), ["a", "b", "c", "king"]);
    assert_eq!(world.leaving, BTreeSet::new());
}

#[test]
fn a_group_that_lost_a_pod_keeps_no_room_that_others_left_for_it() {
    let mut world = World::new();
    world.node("one", 2_000);
    world.pod("small", 2_000, None);
    world.run();
    world.answer_all();
    world.group("pair", 2, 0);
    world.important("a", 1_000, Some("pair"), 10);
    world.important("b", 1_000, Some("pair"), 10);
    world.later(1);
    assert_eq!(world.leaving, ["small".to_owned()].into());
    world.pod("late", 1_500, None);
    world.pod_goes("b");
    world.pod_goes("small");
    world.later(20);
    assert_eq!(world.placed(), ["late"], "{:?}", world.messages);
}

#[test]
fn a_node_that_is_held_for_a_group_is_given_up_to_who_matters_more() {
    let mut world = World::new();
    world.node("one", 2_000);
    world.group("trio", 3, 60);
    trio(&mut world);
    world.run();
    world.important("urgent", 2_000, None, 10);
    world.run();
    assert_eq!(world.leaving, BTreeSet::new(), "nobody has to be deleted: {:?}", world.messages);
    assert!(world.messages["a"].ends_with("a pod that matters more took a node that was held for it"));
    world.later(2);
    assert_eq!(world.placed(), ["urgent"]);
}

/// A random history. Groups that are whole may lose pods, and bindings may be refused; nothing else makes a part of one.
fn history(seed: u64) -> usize {
    let random = &mut Random::new(seed);
    let mut world = World::new();
    let mut bound = 0;
    let mut number = 0;
    for _ in 0..random.within(20, 60) {
        match random.below(13) {
            0 | 1 => world.node(&format!("node-{}", random.below(4)), random.within(1, 4) * 1_000),
            2 => {
                let name = random.pick(&["x", "y", "z"]);
                world.group(name, random.below(4) + 1, random.pick(&[0, 0, 5, 20]));
            }
            3 if random.chance(1, 3) => world.group_goes(random.pick(&["x", "y", "z"])),
            4..=7 => {
                let group = random.pick(&[Some("x"), Some("y"), Some("z"), None]);
                for milli_cpu in random.several(1, 3, |random| random.within(1, 4) * 500) {
                    number += 1;
                    let priority = random.pick(&[0, 0, 0, 10, 100]);
                    world.important(&format!("pod-{number}"), milli_cpu, group, priority);
                }
            }
            8 => {
                let names: Vec<String> = world.pods.keys().cloned().collect();
                if !names.is_empty() {
                    world.pod_goes(&random.pick(&names));
                }
            }
            9 | 10 => {
                for name in world.underway.clone() {
                    if random.chance(2, 3) {
                        let is_made = !random.chance(1, 6);
                        world.answer(&name, is_made);
                        bound += usize::from(is_made);
                    }
                }
            }
            11 => {
                for name in world.leaving.clone() {
                    if random.chance(2, 3) {
                        world.pod_goes(&name);
                    }
                }
            }
            _ => world.now += Duration::from_secs(random.pick(&[1, 3, 30, 400])),
        }
        // A node that is made smaller than what it holds is nobody's fault.
        let shrunk = world.nodes.clone().into_iter().filter(|(node, all)| {
            let used: i64 =
                world.nodes_of.iter().filter(|(_, at)| *at == node).map(|(pod, _)| world.pods[pod].milli_cpu).sum();
            used > *all
        });
        for (node, _) in shrunk.collect::<Vec<_>>() {
            world.nodes.remove(&node);
        }
        world.run();
        let (_, _, assumed) = world.state.cache_counts();
        assert!(assumed >= world.underway.len(), "what is being bound is accounted");
    }
    for name in world.pods.keys().cloned().collect::<Vec<_>>() {
        world.pod_goes(&name);
    }
    world.run();
    assert_eq!((world.state.cache_counts().1, world.state.cache_counts().2), (0, 0), "nothing is left behind");
    bound
}

#[test]
fn no_group_is_ever_bound_in_part() {
    let played = histories(HISTORIES, history);
    let bound: usize = played.iter().sum();
    assert!(bound > played.len(), "{bound} bindings show little");
}
