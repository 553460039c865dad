#![allow(clippy::unwrap_used)]
//! Pods in queues: whose turn it is, who is held back, who has to give back. Scenarios, and random histories in which no queue
//! ever has more than its limit and no pod is held back without need.
//!
//! `GANTRY_HISTORIES` says how many, `GANTRY_SEED` with which to start.

#[path = "support/objects.rs"]
mod objects;
#[path = "sequences/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_scheduler::config::Configuration;
use gantry_scheduler::driver::queues::QUEUE_LABEL;
use gantry_scheduler::driver::state::{Action, BindOutcome, State};
use objects::{Pod, histories, key, see_group, see_node};
use random::Random;
use serde_json::{Value, json};

const HISTORIES: usize = 300;

/// So often each pod may be tried before time passes.
const TRIES_MAX: usize = 20;

/// A scheduler's state, and the cluster that it acts on: bindings succeed, and who has to go is gone at the end of a round.
struct World {
    state: State,
    now: Duration,
    pods: BTreeMap<String, Pod>,
    /// Parent and limit.
    queues: BTreeMap<String, (Option<String>, Option<i64>)>,
    messages: BTreeMap<String, String>,
    /// Who had to go, in order.
    gone: Vec<String>,
    /// Who got a node, in order.
    bound: Vec<String>,
}

impl World {
    fn new() -> World {
        World {
            state: State::new(&Configuration::default()),
            now: Duration::ZERO,
            pods: BTreeMap::new(),
            queues: BTreeMap::new(),
            messages: BTreeMap::new(),
            gone: Vec::new(),
            bound: Vec::new(),
        }
    }

    fn node(&mut self, name: &str, cpus: i64) {
        see_node(&mut self.state, name, cpus * 1_000);
    }

    fn queue(&mut self, name: &str, spec: Value) {
        let parent = spec["parent"].as_str().map(str::to_owned);
        let limit = spec["limit"]["cpu"].as_str().map(|text| text.parse::<i64>().unwrap() * 1_000);
        self.queues.insert(name.to_owned(), (parent, limit));
        let queue = json!({"metadata": {"name": name}, "spec": spec});
        self.state.queue_seen(serde_json::from_value(queue).unwrap());
    }

    fn group(&mut self, name: &str, min: usize) {
        see_group(&mut self.state, name, min, Duration::ZERO);
    }

    fn member(&mut self, name: &str, milli_cpu: i64, group: &str, queue: &str) {
        let (group, queue) = (Some(group.to_owned()), Some(queue.to_owned()));
        self.made(name, Pod { milli_cpu, group, priority: 0, queue, node: None });
    }

    fn important(&mut self, name: &str, milli_cpu: i64, queue: Option<&str>, priority: i32) {
        self.made(name, Pod { milli_cpu, group: None, priority, queue: queue.map(str::to_owned), node: None });
    }

    fn made(&mut self, name: &str, pod: Pod) {
        self.pods.insert(name.to_owned(), pod);
        let facts = self.pods[name].facts(name);
        self.state.pod_seen(facts, self.now);
    }

    fn pod(&mut self, name: &str, milli_cpu: i64, queue: &str) {
        self.important(name, milli_cpu, Some(queue), 0);
    }

    fn pod_goes(&mut self, name: &str) {
        self.pods.remove(name);
        self.messages.remove(name);
        self.state.pod_gone(key(name));
    }

    /// Decides once about all that is to be tried now; nobody goes yet.
    fn decide(&mut self) {
        let mut actions = Vec::new();
        self.state.wake(self.now);
        while self.state.schedule_next(self.now, &mut actions).is_some() {}
        for action in actions {
            self.act(action, &mut Vec::new());
        }
    }

    /// Goes on until nothing moves, for so many seconds.
    fn later(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        loop {
            let mut leaving = Vec::new();
            self.state.wake(self.now);
            let mut actions = Vec::new();
            let mut tries = 0;
            while self.state.schedule_next(self.now, &mut actions).is_some() {
                tries += 1;
                assert!(tries <= TRIES_MAX * (1 + self.pods.len()), "it goes in circles: {:?}", self.messages);
                for action in std::mem::take(&mut actions) {
                    self.act(action, &mut leaving);
                }
                self.check_limits();
            }
            let is_over = leaving.is_empty();
            for name in leaving {
                self.pod_goes(&name);
                self.gone.push(name);
            }
            if is_over {
                let Some(next) = self.state.next_deadline().filter(|next| *next <= end) else { break };
                self.now = self.now.max(next);
            }
        }
        self.now = end;
    }

    fn act(&mut self, action: Action, leaving: &mut Vec<String>) {
        match action {
            Action::Bind { pod, node, .. } => {
                self.pods.get_mut(&pod.name).unwrap().node = Some(node.to_string());
                self.messages.remove(&pod.name);
                self.bound.push(pod.name.clone());
                self.state.bound(pod.key, BindOutcome::Bound, self.now, &mut Vec::new());
                let facts = self.pods[&pod.name].facts(&pod.name);
                self.state.pod_seen(facts, self.now);
            }
            Action::Status { pod, condition, .. } => {
                self.messages.extend(condition.map(|(_, message)| (pod.name, message)));
            }
            Action::Preempt { pod, victims, .. } => {
                self.state.preempted(pod.key, &[]);
                leaving.extend(victims.into_iter().map(|victim| victim.name));
            }
            Action::FailedEvent { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// The queue and those above it.
    fn path(&self, name: &str) -> Vec<String> {
        let mut path: Vec<String> = Vec::new();
        let mut next = Some(name.to_owned());
        while let Some(name) = next.filter(|name| !path.contains(name)) {
            next = self.queues.get(&name).and_then(|(parent, _)| parent.clone());
            path.push(name);
        }
        path
    }

    fn used(&self, queue: &str) -> i64 {
        let is_below = |pod: &&Pod| pod.queue.as_ref().is_some_and(|of| self.path(of).iter().any(|one| one == queue));
        self.pods.values().filter(|pod| pod.node.is_some()).filter(is_below).map(|pod| pod.milli_cpu).sum()
    }

    fn check_limits(&self) {
        for (name, (_, limit)) in &self.queues {
            let used = self.used(name);
            assert!(limit.is_none_or(|limit| used <= limit), "{name} uses {used} of {limit:?}");
        }
    }

    fn placed(&self) -> BTreeSet<&str> {
        self.pods.iter().filter(|(_, pod)| pod.node.is_some()).map(|(name, _)| name.as_str()).collect()
    }
}

#[test]
fn the_queue_with_the_smallest_share_for_its_weight_is_next() {
    let mut world = World::new();
    world.queue("a", json!({"weight": 2}));
    world.queue("b", json!({}));
    for number in 0..6 {
        world.pod(&format!("a{number}"), 1_000, "a");
    }
    for number in 0..6 {
        world.pod(&format!("b{number}"), 1_000, "b");
    }
    world.node("one", 9);
    world.later(400);
    let of_a = world.placed().iter().filter(|name| name.starts_with('a')).count();
    assert_eq!((of_a, world.placed().len()), (6, 9), "two to one: {:?}", world.bound);
    assert_eq!(&world.bound[..3], ["a0", "b0", "a1"], "by turns, not one queue after the other");
}

#[test]
fn a_queue_at_its_limit_waits_though_there_is_room() {
    let mut world = World::new();
    world.node("one", 10);
    world.queue("all", json!({"limit": {"cpu": "3"}}));
    world.queue("a", json!({"parent": "all"}));
    world.queue("b", json!({"parent": "all", "limit": {"cpu": "1"}}));
    for (name, milli_cpu, queue) in [("a1", 2_000, "a"), ("b1", 1_000, "b"), ("b2", 500, "b"), ("a2", 500, "a")] {
        world.pod(name, milli_cpu, queue);
    }
    world.later(30);
    assert_eq!(world.placed(), ["a1", "b1"].into());
    assert_eq!(world.messages["b2"], "queue \"b\" is at its limit: cpu: requested 500m, used 1, limited 1");
    assert_eq!(world.messages["a2"], "queue \"all\" is at its limit: cpu: requested 500m, used 3, limited 3");
    // Nothing else moves them, and then at once what there is room for.
    world.node("two", 10);
    world.later(30);
    assert_eq!(world.placed().len(), 2);
    world.pod_goes("b1");
    world.later(1);
    assert_eq!(world.placed(), ["a1", "a2", "b2"].into());
    world.queue("all", json!({"limit": {"cpu": "4"}}));
    world.pod("a3", 1_000, "a");
    world.later(1);
    assert!(world.placed().contains("a3"), "{:?}", world.messages);
}

#[test]
fn a_pod_waits_for_its_queue() {
    let mut world = World::new();
    world.node("one", 10);
    world.pod("early", 1_000, "late");
    world.later(1);
    assert_eq!(world.messages["early"], "queue \"late\" not found");
    world.queue("late", json!({"parent": "top"}));
    world.later(1);
    assert_eq!(world.messages["early"], "queue \"late\" is below queue \"top\", which is not there");
    world.queue("top", json!({}));
    world.pod("lost", 1_000, "top");
    world.later(1);
    assert_eq!(world.placed(), ["early"].into());
    assert_eq!(world.messages["lost"], "queue \"top\" has queues below it; a pod must name one of those");
    // The queue of a namespace is that of its pods that name none.
    world.important("plain", 1_000, None, 0);
    world.later(1);
    world.queue("late", json!({"parent": "top", "limit": {"cpu": "2"}}));
    world.state.namespace_seen("default".to_owned(), [(QUEUE_LABEL.to_owned(), "late".to_owned())].into());
    world.important("more", 1_000, None, 0);
    world.later(1);
    assert_eq!(world.placed(), ["early", "plain"].into());
    assert!(world.messages["more"].starts_with("queue \"late\" is at its limit"), "{:?}", world.messages);
}

#[test]
fn what_is_guaranteed_is_had_back_from_who_borrowed_it() {
    let mut world = World::new();
    world.node("one", 2);
    world.node("two", 2);
    world.queue("owner", json!({"guarantee": {"cpu": "2"}}));
    world.queue("guest", json!({"guarantee": {"cpu": "1"}}));
    for name in ["g1", "g2", "g3"] {
        world.important(name, 1_000, Some("guest"), 1_000);
    }
    world.important("free", 1_000, None, 0);
    world.later(1);
    assert_eq!(world.placed().len(), 4);
    for name in ["o1", "o2", "o3"] {
        world.pod(name, 1_000, "owner");
    }
    world.later(60);
    assert_eq!(world.gone.len(), 2, "so many as were borrowed, and not the pod in no queue: {:?}", world.gone);
    assert_eq!(world.used("owner"), 2_000);
    assert_eq!(world.used("guest"), 1_000);
    // And it stays so: nobody's priority takes back what is another's.
    world.important("g4", 1_000, Some("guest"), 2_000);
    world.later(60);
    assert_eq!(world.used("owner"), 2_000);
    assert!(world.gone.iter().all(|name| name.starts_with('g') || name == "free"), "{:?}", world.gone);
}

#[test]
fn two_queues_do_not_take_the_same_room_in_turns() {
    let mut world = World::new();
    world.node("one", 2);
    world.queue("cpus", json!({"guarantee": {"cpu": "2"}}));
    world.queue("places", json!({"guarantee": {"pods": "1"}}));
    world.pod("p0", 2_000, "places");
    world.later(1);
    world.pod("c0", 2_000, "cpus");
    // Whoever has to go is made anew, as by a controller.
    for round in 1..=5 {
        let gone = world.gone.len();
        world.later(20);
        let gone = world.gone[gone..].to_owned();
        for name in gone {
            let (of, queue) = if name.starts_with('p') { ("p", "places") } else { ("c", "cpus") };
            world.pod(&format!("{of}{round}"), 2_000, queue);
        }
    }
    assert!(world.gone.is_empty(), "{:?}", world.gone);
    // What is beyond the guarantee goes, whatever else is within.
    world.node("two", 4);
    for name in ["p6", "p7"] {
        world.pod(name, 2_000, "places");
    }
    world.queue("places", json!({"guarantee": {"pods": "1"}, "limit": {"cpu": "6"}}));
    world.later(60);
    assert_eq!(world.used("cpus"), 2_000, "{:?}", world.gone);
    assert_eq!(world.placed().len(), 3);
}

#[test]
fn a_group_that_its_queue_has_no_room_for_waits_and_lets_others_try() {
    let mut world = World::new();
    world.node("one", 10);
    world.queue("narrow", json!({"limit": {"cpu": "1"}}));
    world.group("pair", 2);
    world.member("p1", 600, "pair", "narrow");
    world.member("p2", 600, "pair", "narrow");
    world.later(60);
    assert_eq!(world.placed(), BTreeSet::new());
    let why = "PodGroup \"pair\": 1 of 2 needed pods fit: queue \"narrow\" is at its limit: cpu: requested 600m, used 600m, limited 1";
    assert_eq!(world.messages["p1"], why);
    // What it took in thought is for who needs less.
    world.pod("small", 1_000, "narrow");
    world.later(1);
    assert_eq!(world.placed(), ["small"].into());
    world.queue("narrow", json!({"limit": {"cpu": "2"}}));
    world.pod_goes("small");
    world.later(1);
    assert_eq!(world.placed(), ["p1", "p2"].into());
}

#[test]
fn a_group_that_its_queue_holds_back_keeps_no_node_from_others() {
    let mut world = World::new();
    world.node("one", 2);
    world.queue("narrow", json!({"limit": {"cpu": "2"}}));
    world.group("pair", 2);
    world.pod("low", 2_000, "wide");
    world.queue("wide", json!({}));
    world.later(1);
    assert_eq!(world.placed(), ["low"].into());
    // Others go for the group, and before they are gone its queue has no room for it any more.
    let (group, queue) = (Some("pair".to_owned()), Some("narrow".to_owned()));
    let pod = Pod { milli_cpu: 1_000, group, priority: 10, queue, node: None };
    for name in ["p1", "p2"] {
        world.made(name, pod.clone());
    }
    world.decide();
    world.queue("narrow", json!({"limit": {"cpu": "0"}}));
    // With one more of them all are tried.
    world.made("p3", pod);
    world.later(15);
    world.important("late", 1_500, None, 0);
    world.pod_goes("low");
    world.later(30);
    // As the watch does when what is told of the group has been written.
    world.later(30);
    assert_eq!(world.placed(), ["late"].into(), "{:?}", world.messages);
}

fn history(seed: u64) -> (usize, usize) {
    let random = &mut Random::new(seed);
    let mut world = World::new();
    let mut number = 0;
    let mut held = 0;
    for node in ["one", "two", "three"] {
        world.node(node, random.within(1, 4));
    }
    world.group("pair", 2);
    world.group("trio", 3);
    for _ in 0..random.within(15, 40) {
        match random.below(8) {
            0 => {
                let name = random.pick(&["top", "a", "b", "c"]);
                let mut spec = json!({"weight": random.within(1, 3)});
                if name != "top" && random.chance(2, 3) {
                    spec["parent"] = json!("top");
                }
                // A limit below what is used already is nobody's fault.
                let least = world.used(name) / 1_000 + 1;
                if random.chance(1, 2) {
                    spec["limit"] = json!({"cpu": (least + random.within(0, 3)).to_string()});
                }
                if random.chance(1, 2) {
                    let resource = random.pick(&["cpu", "cpu", "pods"]);
                    spec["guarantee"] = json!({resource: random.within(1, 3).to_string()});
                }
                let above = world.queues.get("top").and_then(|(_, limit)| *limit);
                let joins = spec["parent"].is_string() && above.is_some();
                if !joins {
                    world.queue(name, spec);
                }
            }
            1..=4 => {
                let queue = random.pick(&[Some("a"), Some("b"), Some("c"), None]);
                let group = random.chance(1, 4).then(|| random.pick(&["pair", "trio"]).to_owned());
                for milli_cpu in random.several(1, 3, |random| random.within(1, 4) * 500) {
                    number += 1;
                    let (priority, queue) = (random.pick(&[0, 0, 10]), queue.map(str::to_owned));
                    let pod = Pod { milli_cpu, group: group.clone(), priority, queue, node: None };
                    world.made(&format!("pod-{number}"), pod);
                }
            }
            5 | 6 => {
                let names: Vec<String> = world.pods.keys().cloned().collect();
                if !names.is_empty() {
                    world.pod_goes(&random.pick(&names));
                }
            }
            _ => world.later(u64::try_from(random.within(1, 20)).unwrap()),
        }
    }
    world.later(60);
    // What a group's pods together are too much for, each alone may not be.
    let is_held = |message: &str| message.starts_with("queue") && message.contains("is at its limit");
    for (name, message) in world.messages.iter().filter(|(_, message)| is_held(message)) {
        let pod = &world.pods[name];
        held += 1;
        let full = world.path(pod.queue.as_ref().unwrap()).into_iter().any(|queue| {
            let limit = world.queues.get(&queue).and_then(|(_, limit)| *limit);
            limit.is_some_and(|limit| world.used(&queue) + pod.milli_cpu > limit)
        });
        assert!(full, "{name} is held back without need: {message}");
    }
    let gone = world.gone.len();
    for name in world.pods.keys().cloned().collect::<Vec<_>>() {
        world.pod_goes(&name);
    }
    world.later(1);
    let (_, accounted, assumed) = world.state.cache_counts();
    assert_eq!((accounted, assumed, world.state.queue_counts().unschedulable), (0, 0, 0), "nothing is left behind");
    (held, gone)
}

#[test]
fn no_queue_has_more_than_its_limit_and_nobody_is_held_back_without_need() {
    let played = histories(HISTORIES, history);
    let held: usize = played.iter().map(|(held, _)| held).sum();
    let gone: usize = played.iter().map(|(_, gone)| gone).sum();
    let enough = played.len() / 10;
    assert!(held > enough && gone > enough, "{held} held back and {gone} gone show little");
}
