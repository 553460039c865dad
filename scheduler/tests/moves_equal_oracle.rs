#![allow(clippy::unwrap_used)]
//! The moves that are found to make room are the fewest there are, and what comes of them is what was said: on random
//! clusters, against all sets of pods of all nodes, one after the other; and made in earnest by the scheduler that binds.
//!
//! `GANTRY_CLUSTERS` says how many, `GANTRY_SEED` with which to start.

#[path = "clusters/mod.rs"]
mod clusters;
#[path = "sequences/random.rs"]
mod random;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clusters::scheduler::Scheduler;
use clusters::{Cluster, complete, generate, name};
use gantry_scheduler::core::PodKey;
use gantry_scheduler::defrag;
use gantry_scheduler::driver::facts::PodFacts;
use gantry_scheduler::driver::state::{Clearing, Effort, Trial};
use random::Random;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const CLUSTERS: u64 = 150;
/// More moves than that are not looked for.
const MOST: usize = 3;

/// The cluster with small pods everywhere, what its question asks about made in earnest, and large pods that may find no
/// node with room enough.
fn start(cluster: &Cluster, random: &mut Random) -> Scheduler {
    let mut scheduler = Scheduler::new(cluster);
    scheduler.run();
    // About two thirds of all there is.
    let cpus =
        cluster.nodes().map(|node| node["status"]["allocatable"]["cpu"].as_str().unwrap().parse::<i64>().unwrap());
    let small = cpus.sum::<i64>() * 6 / 5;
    for number in 0..small {
        let spec = json!({"schedulerName": "roomy", "priority": random.pick(&[0, 0, 10]), "containers": [
            {"name": "main", "resources": {"requests": {"cpu": format!("{}m", random.within(3, 7) * 100)}}}]});
        let labels = json!({"app": random.pick(&["web", "db", "small"])});
        let started = format!("2026-01-02T04:04:{:02}Z", random.below(60));
        let pod = complete(&json!({"metadata": {"labels": labels}, "spec": spec}));
        scheduler.make(owned(pod, format!("small-{number}"), &started));
    }
    scheduler.run();
    for workload in &cluster.workloads {
        for number in 0..workload["count"].as_u64().unwrap() {
            let name = format!("{}-{number}", workload["name"].as_str().unwrap());
            scheduler.make(owned(complete(&workload["template"]), name, "2026-01-02T05:04:05Z"));
        }
    }
    scheduler.run();
    for number in 0..2 {
        let spec = json!({"priority": random.pick(&[0, 10]), "containers": [
            {"name": "main", "resources": {"requests": {"cpu": format!("{}m", random.within(10, 25) * 100)}}}]});
        let labels = json!({"app": "large"});
        let pod = complete(&json!({"metadata": {"labels": labels}, "spec": spec}));
        scheduler.make(owned(pod, format!("large-{number}"), "2026-01-02T06:04:05Z"));
    }
    scheduler.run();
    scheduler.now += Duration::from_secs(10);
    scheduler
}

/// A pod that a controller made.
fn owned(mut pod: Value, name: String, started: &str) -> Value {
    let uid = clusters::uid(&name);
    (pod["metadata"]["name"], pod["metadata"]["uid"]) = (json!(name), json!(uid));
    pod["metadata"]["ownerReferences"] = json!([clusters::owner("ReplicaSet", "other")]);
    pod["status"]["startTime"] = json!(started);
    pod
}

fn movable(scheduler: &Scheduler) -> Vec<PodFacts> {
    let pods = scheduler.pods.values().map(|pod| serde_json::from_value(pod.clone()).unwrap());
    pods.filter_map(|pod| defrag::movable(&pod, Duration::ZERO, 0)).collect()
}

fn trial(scheduler: &Scheduler) -> Trial {
    let mut trial = scheduler.state.trial(scheduler.now);
    trial.settle();
    trial
}

/// Some of them, as many as that, in all ways.
fn sets<'a>(pods: &[&'a PodFacts], count: usize) -> Vec<Vec<&'a PodFacts>> {
    match (count, pods) {
        (0, _) => vec![Vec::new()],
        (_, []) => Vec::new(),
        (_, [first, rest @ ..]) => {
            let with = sets(rest, count - 1).into_iter().map(|set| [vec![*first], set].concat());
            with.chain(sets(rest, count)).collect()
        }
    }
}

/// Do budgets let these go, all of them and each by itself?
fn may_go(cluster: &Cluster, pods: &[&PodFacts]) -> bool {
    let budgets: Vec<&Value> = cluster.of_kind("PodDisruptionBudget").collect();
    let is_about = |budget: &Value, pod: &PodFacts| {
        pod.class.labels.get("app").is_some_and(|app| budget["spec"]["selector"]["matchLabels"]["app"] == **app)
    };
    let alone = |pod: &&PodFacts| budgets.iter().filter(|budget| is_about(budget, pod)).count() <= 1;
    let together = |budget: &&Value| {
        let going = pods.iter().filter(|pod| is_about(budget, pod)).count();
        going == 0 || i64::try_from(going).unwrap() <= budget["status"]["disruptionsAllowed"].as_i64().unwrap()
    };
    pods.iter().all(alone) && budgets.iter().all(together)
}

/// The fewest moves, by trying all.
fn fewest(cluster: &Cluster, scheduler: &Scheduler, pod: PodKey, movable: &[PodFacts]) -> Option<usize> {
    let trial = trial(scheduler);
    let ask = trial.ask_of(pod)?;
    let mut by_node: BTreeMap<&str, Vec<&PodFacts>> = BTreeMap::new();
    for pod in movable.iter().filter(|pod| pod.priority <= ask.priority) {
        by_node.entry(pod.node_name.as_deref().unwrap()).or_default().push(pod);
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (pod.priority, Reverse(pod.started.unwrap_or(i64::MAX)), pod.key));
    }
    (1..=MOST).find(|count| {
        by_node.iter().any(|(node, pods)| {
            let (node, mut sets) = (Arc::from(*node), sets(pods, *count).into_iter());
            sets.any(|set| may_go(cluster, &set) && trial.moved(ask, &node, &set).is_some())
        })
    })
}

/// Makes the moves; everyone must be where it was said.
fn make(scheduler: &mut Scheduler, clearing: &Clearing) {
    let mut actions = Vec::new();
    assert!(scheduler.state.start_moves(clearing, scheduler.now, &mut actions), "nothing has changed since");
    scheduler.act(actions, &mut Vec::new());
    // As long as the others are there, it waits for that node, and who else comes does not get it.
    scheduler.run();
    assert_eq!(scheduler.pods[&clearing.pod.name]["spec"]["nodeName"], Value::Null);
    scheduler.state.preempted(clearing.pod.key, &[]);
    scheduler.now += Duration::from_secs(30);
    scheduler.fates.clear();
    let leaving: Vec<Value> = clearing.moves.iter().map(|one| scheduler.pods[&one.pod.name].clone()).collect();
    for pod in &leaving {
        scheduler.delete(&name(pod));
    }
    for mut pod in leaving {
        pod["spec"].as_object_mut().unwrap().remove("nodeName");
        pod["metadata"]["name"] = json!(format!("{}-again", name(&pod)));
        pod["metadata"]["uid"] = json!(scheduler.next_uid());
        pod["status"] = json!({});
        scheduler.make(pod);
    }
    scheduler.run();
    let node = |name: &str| scheduler.pods[name]["spec"]["nodeName"].as_str().map(str::to_owned);
    assert_eq!(node(&clearing.pod.name).as_deref(), Some(&*clearing.node), "{:?}", scheduler.fates);
    for one in &clearing.moves {
        assert_eq!(node(&format!("{}-again", one.pod.name)).as_deref(), Some(&*one.to), "{:?}", scheduler.fates);
    }
    assert!(scheduler.fates.values().all(|fate| fate.victims.is_empty()), "nobody has to go: {:?}", scheduler.fates);
}

fn compare(seed: u64) -> [usize; MOST + 1] {
    let (mut cluster, random) = (generate(seed), &mut Random::new(seed));
    // Most of them are full, and over. Every other one has nothing but room, which small pods then break up.
    let is_plain = seed % 2 == 1;
    cluster.objects.retain(|object| object["kind"] != "Pod" || (!is_plain && random.chance(1, 4)));
    if is_plain {
        cluster.workloads.clear();
        let nodes = cluster.objects.iter_mut().filter(|object| object["kind"] == "Node");
        nodes.for_each(|node| {
            node["spec"] = json!({});
            node["status"]["allocatable"]["pods"] = json!("20");
        });
    }
    let mut scheduler = start(&cluster, random);
    let movable = movable(&scheduler);
    let mut seen = [0; MOST + 1];
    let stranded = trial(&scheduler).stranded(Duration::ZERO);
    let mut first = None;
    for pod in stranded {
        let search = trial(&scheduler).make_room(pod, &movable, MOST, &mut Effort::new(CancellationToken::new()));
        let wanted = fewest(&cluster, &scheduler, pod, &movable);
        let found = search.found.as_ref().map(|clearing| clearing.moves.len());
        if found != wanted && search.is_complete {
            panic!("{found:?} moves found where {wanted:?} do: {:?} of {cluster:#?}", search.found);
        }
        assert!(found.is_none_or(|found| wanted.is_some_and(|wanted| wanted <= found)));
        seen[found.unwrap_or(0)] += 1;
        first = first.or(search.found);
    }
    if let Some(clearing) = first {
        let names: BTreeSet<&str> = clearing.moves.iter().map(|one| one.pod.name.as_str()).collect();
        assert_eq!(names.len(), clearing.moves.len());
        make(&mut scheduler, &clearing);
    }
    seen
}

#[test]
fn the_moves_found_are_the_fewest_and_do_what_was_said() {
    let number = |variable: &str, default: u64| {
        std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (first, count) = (number("GANTRY_SEED", 1), number("GANTRY_CLUSTERS", CLUSTERS));
    let mut sum = [0; MOST + 1];
    for seed in first..first + count {
        let seen = std::panic::catch_unwind(|| compare(seed)).unwrap_or_else(|_| panic!("cluster {seed} fails"));
        for (sum, seen) in sum.iter_mut().zip(seen) {
            *sum += seen;
        }
    }
    println!("none, one, two, three moves: {sum:?}");
    let enough = usize::try_from(count).unwrap() / 30;
    assert!(sum[0] > enough && sum[1] > enough && sum[2] > enough / 3, "{sum:?} shows little");
}
