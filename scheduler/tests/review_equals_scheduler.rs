#![allow(clippy::unwrap_used)]
//! What a placement review says is what the scheduler then does: the same node for each pod, the same victims, the same
//! words, on random clusters. The review is asked as in earnest, through the API (one in memory) and the watches that
//! it follows; the scheduler's state is told the same objects, and then lets happen what the review was asked about.
//!
//! `GANTRY_CLUSTERS` says how many, `GANTRY_SEED` with which to start.

#[path = "clusters/mod.rs"]
mod clusters;
#[path = "sequences/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clusters::{Cluster, api::Api, generate};
use gantry_scheduler::config::{Configuration, Profile};
use gantry_scheduler::convert::usual_uid;
use gantry_scheduler::core::{PodKey, Scoring, Strategy};
use gantry_scheduler::driver::facts::{PodFacts, WatchedBudget, WatchedNamespace, WatchedNode, WatchedPod};
use gantry_scheduler::driver::gangs::WatchedGroup;
use gantry_scheduler::driver::owners::{OwnerKind, WatchedOwner};
use gantry_scheduler::driver::state::{Action, BindOutcome, State};
use gantry_scheduler::review::Reviewer;
use gantry_scheduler::review::api::{Origin, Spec, Status};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const CLUSTERS: u64 = 1_000;

/// So often each pod may be tried before time passes.
const TRIES_MAX: usize = 20;

fn configuration() -> Configuration {
    let resources = vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)];
    let scoring = Scoring { strategy: Strategy::LeastAllocated, resources };
    let roomy = Profile { scheduler_name: "roomy".to_owned(), scoring, ..Profile::default() };
    Configuration { profiles: vec![Profile::default(), roomy], ..Configuration::default() }
}

/// What became of a pod: its node, who had to go for it, and why it has none.
#[derive(Clone, Debug, Default, PartialEq)]
struct Fate {
    node: Option<String>,
    victims: Vec<String>,
    message: Option<String>,
}

fn fates(status: &Status) -> BTreeMap<String, Fate> {
    let told = status.placements.iter().filter(|one| one.origin != Origin::Waiting);
    let fate = |one: &gantry_scheduler::review::api::Placement| Fate {
        node: one.node.clone(),
        victims: one.victims.iter().map(|victim| victim.name.clone()).collect(),
        message: one.message.clone(),
    };
    told.map(|one| (one.name.clone(), fate(one))).collect()
}

/// The scheduler that binds, as far as it decides, with a world that does at once what it asks for.
struct Scheduler {
    state: State,
    now: Duration,
    pods: BTreeMap<String, Value>,
    fates: BTreeMap<String, Fate>,
    made: u128,
}

fn facts(pod: &Value) -> PodFacts {
    serde_json::from_value::<WatchedPod>(pod.clone()).unwrap().facts
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

impl Scheduler {
    fn new(cluster: &Cluster) -> Scheduler {
        let mut state = State::new(&configuration());
        for object in &cluster.objects {
            let read = object.clone();
            match object["kind"].as_str().unwrap() {
                "Namespace" => {
                    let (name, labels) = serde_json::from_value::<WatchedNamespace>(read).unwrap().into_parts();
                    state.namespace_seen(name, labels);
                }
                "Node" => drop(state.node_seen(serde_json::from_value::<WatchedNode>(read).unwrap().spec)),
                "PodDisruptionBudget" => {
                    let (key, budget) = serde_json::from_value::<WatchedBudget>(read).unwrap().into_parts();
                    state.budget_seen(key, budget);
                }
                "PodGroup" => {
                    let (key, spec) = serde_json::from_value::<WatchedGroup>(read).unwrap().into_parts();
                    state.group_seen(&key, spec);
                }
                "Queue" => state.queue_seen(serde_json::from_value(read).unwrap()),
                "Service" => Scheduler::owner(&mut state, OwnerKind::Service, read),
                "ReplicaSet" => Scheduler::owner(&mut state, OwnerKind::ReplicaSet, read),
                "PersistentVolume" => state.storage().volume_seen(&serde_json::from_value(read).unwrap()),
                "PersistentVolumeClaim" => state.storage().claim_seen(&serde_json::from_value(read).unwrap()),
                "Pod" => {}
                other => panic!("{other}"),
            }
        }
        let mut scheduler =
            Scheduler { state, now: Duration::ZERO, pods: BTreeMap::new(), fates: BTreeMap::new(), made: 0 };
        for pod in cluster.pods() {
            scheduler.make(pod.clone());
        }
        scheduler
    }

    fn owner(state: &mut State, kind: OwnerKind, object: Value) {
        let (key, selector) = serde_json::from_value::<WatchedOwner>(object).unwrap().into_parts();
        state.owners().seen(kind, key, selector);
    }

    fn make(&mut self, pod: Value) {
        let action = self.state.pod_seen(facts(&pod), self.now);
        self.pods.insert(name(&pod), pod);
        self.act(action.into_iter().collect(), &mut Vec::new());
    }

    /// What breaks the last ties between pods is their UIDs, which are random. Here they are those that the review
    /// makes up, so that all else can be compared.
    fn next_uid(&mut self) -> String {
        self.made += 1;
        usual_uid(PodKey(u128::MAX - self.made))
    }

    fn delete(&mut self, pod: &str) {
        if let Some(pod) = self.pods.remove(pod) {
            self.state.pod_gone(facts(&pod).key);
        }
    }

    fn act(&mut self, actions: Vec<Action>, going: &mut Vec<String>) {
        for action in actions {
            match action {
                Action::Bind { pod, node, .. } => {
                    let mut followed = Vec::new();
                    self.state.bound(pod.key, BindOutcome::Bound, self.now, &mut followed);
                    let bound = self.pods.get_mut(&pod.name).unwrap();
                    bound["spec"]["nodeName"] = json!(*node);
                    let told = facts(bound);
                    self.state.pod_seen(told, self.now);
                    let fate = self.fates.entry(pod.name).or_default();
                    (fate.node, fate.message) = (Some(node.to_string()), None);
                    assert_eq!(followed, []);
                }
                // Its volumes take their time; it has its node.
                Action::Provide { pod, node, .. } => {
                    let fate = self.fates.entry(pod.name).or_default();
                    (fate.node, fate.message) = (Some(node.to_string()), None);
                }
                Action::Preempt { pod, victims, .. } => {
                    self.state.preempted(pod.key, &[]);
                    let names: Vec<String> = victims.into_iter().map(|victim| victim.name).collect();
                    going.extend(names.clone());
                    self.fates.entry(pod.name).or_default().victims.extend(names);
                }
                Action::Status { pod, condition: Some((_, message)), .. } => {
                    self.fates.entry(pod.name).or_default().message = Some(message);
                }
                Action::Status { .. } | Action::FailedEvent { .. } => {}
            }
        }
    }

    /// Goes on until nothing moves.
    fn run(&mut self) {
        loop {
            let (mut actions, mut going) = (Vec::new(), Vec::new());
            self.state.wake(self.now);
            let mut tries = 0;
            while self.state.schedule_next(self.now, &mut actions).is_some() {
                tries += 1;
                assert!(tries <= TRIES_MAX * (1 + self.pods.len()), "it goes in circles");
                let actions = std::mem::take(&mut actions);
                self.act(actions, &mut going);
            }
            for pod in going {
                self.delete(&pod);
            }
            self.state.wake(self.now);
            if self.state.is_ready(self.now) {
                continue;
            }
            if self.state.queue_counts().backoff == 0 || self.now > Duration::from_secs(240) {
                return;
            }
            self.now = self.state.next_deadline().unwrap();
        }
    }

    /// Lets happen what the review was asked about.
    fn follow(&mut self, cluster: &Cluster) {
        let mut displaced: Vec<(String, Value)> = Vec::new();
        let leaving: BTreeSet<&String> = cluster.drained.iter().chain(&cluster.gone).collect();
        for node in leaving {
            for pod in cluster.pods().filter(|pod| pod["spec"]["nodeName"] == **node) {
                displaced.push((name(pod), pod.clone()));
            }
        }
        for node in cluster.nodes() {
            if cluster.drained.contains(&name(node)) {
                let mut node = node.clone();
                node["spec"]["unschedulable"] = json!(true);
                self.state.node_seen(serde_json::from_value::<WatchedNode>(node).unwrap().spec);
            }
        }
        for node in &cluster.gone {
            self.state.node_gone(node);
        }
        for node in &cluster.added {
            self.state.node_seen(serde_json::from_value::<WatchedNode>(node.clone()).unwrap().spec);
        }
        for (name, _) in &displaced {
            self.delete(name);
        }
        self.state.wake(self.now);
        self.fates.clear();
        for (_, mut pod) in displaced {
            if pod["metadata"]["ownerReferences"].is_null() {
                continue;
            }
            pod["spec"].as_object_mut().unwrap().remove("nodeName");
            pod["metadata"]["uid"] = json!(self.next_uid());
            pod["status"] = json!({});
            self.make(pod);
        }
        for (index, workload) in cluster.workloads.iter().enumerate() {
            let owner = workload["selector"].as_object().map(|_| {
                let set = json!({"metadata": {"name": format!("set-{index}"), "namespace": "default"},
                    "spec": {"selector": workload["selector"]}});
                Scheduler::owner(&mut self.state, OwnerKind::ReplicaSet, set.clone());
                name(&set)
            });
            for number in 0..workload["count"].as_u64().unwrap() {
                let name = format!("{}-{number}", workload["name"].as_str().unwrap());
                let mut pod = clusters::complete(&workload["template"]);
                (pod["metadata"]["name"], pod["metadata"]["uid"]) = (json!(name), json!(self.next_uid()));
                if let Some(owner) = &owner {
                    pod["metadata"]["ownerReferences"] = json!([clusters::owner("ReplicaSet", owner)]);
                }
                self.make(pod);
            }
        }
        self.run();
    }
}

async fn review(cluster: &Cluster) -> Status {
    let client = kube::Client::new(Api::router(cluster), "default");
    let stop = CancellationToken::new();
    let reviewer = Reviewer::new(client.clone(), configuration(), stop.clone());
    let spec: Spec = serde_json::from_value(cluster.question()).unwrap();
    let status = reviewer.answer(spec, &client).await.unwrap();
    stop.cancel();
    status
}

/// The first difference, if there is one; and how much there was to compare.
fn compare(seed: u64, runtime: &tokio::runtime::Runtime) -> Result<Seen, String> {
    let cluster = generate(seed);
    let told = fates(&runtime.block_on(review(&cluster)));
    let mut scheduler = Scheduler::new(&cluster);
    scheduler.run();
    // Some time later.
    scheduler.now += Duration::from_secs(10);
    scheduler.follow(&cluster);
    let mut seen = Seen::default();
    for (name, fate) in &told {
        let done = scheduler.fates.get(name).cloned().unwrap_or_default();
        if *fate != done {
            return Err(format!("{name}: the review says {fate:#?}\nthe scheduler does {done:#?}\nin {cluster:#?}"));
        }
        seen.placed += usize::from(fate.node.is_some());
        seen.refused += usize::from(fate.message.is_some());
        seen.victims += fate.victims.len();
    }
    seen.displaced += told.keys().filter(|name| name.starts_with("pod-")).count();
    Ok(seen)
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    placed: usize,
    refused: usize,
    victims: usize,
    displaced: usize,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn what_a_review_says_is_what_the_scheduler_does() {
    let (first, count) = (number("GANTRY_SEED", 1), number("GANTRY_CLUSTERS", CLUSTERS));
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Ok(Seen::default()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || sum.lock().unwrap().is_err() {
                        return;
                    }
                    let found = compare(seed, &runtime);
                    let mut sum = sum.lock().unwrap();
                    match (found, &mut *sum) {
                        (Ok(seen), Ok(sum)) => {
                            sum.placed += seen.placed;
                            sum.refused += seen.refused;
                            sum.victims += seen.victims;
                            sum.displaced += seen.displaced;
                        }
                        (Err(why), Ok(_)) => *sum = Err(format!("cluster {seed}: {why}")),
                        (_, Err(_)) => {}
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap().unwrap_or_else(|why| panic!("{why}"));
    println!("{count} clusters: {sum:?}");
    // Clusters in which nothing happens would show nothing.
    let enough = usize::try_from(count / 10).unwrap();
    assert!(
        sum.placed > enough && sum.refused > enough && sum.victims > enough / 4 && sum.displaced > enough,
        "{sum:?}"
    );
}
