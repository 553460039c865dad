//! The scheduler that binds, as far as it decides, in a world that does at once what it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_scheduler::config::{Configuration, Profile};
use gantry_scheduler::convert::usual_uid;
use gantry_scheduler::core::{PodKey, Scoring, Strategy};
use gantry_scheduler::driver::facts::{PodFacts, WatchedBudget, WatchedNamespace, WatchedNode, WatchedPod};
use gantry_scheduler::driver::gangs::WatchedGroup;
use gantry_scheduler::driver::owners::{OwnerKind, WatchedOwner};
use gantry_scheduler::driver::state::{Action, BindOutcome, State};
use serde_json::{Value, json};

use super::{Cluster, complete, name};

/// So often each pod may be tried before time passes.
const TRIES_MAX: usize = 20;

pub fn configuration() -> Configuration {
    let resources = vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)];
    let scoring = Scoring { strategy: Strategy::LeastAllocated, resources };
    let roomy = Profile { scheduler_name: "roomy".to_owned(), scoring, ..Profile::default() };
    Configuration { profiles: vec![Profile::default(), roomy], ..Configuration::default() }
}

/// What became of a pod: its node, who had to go for it, and why it has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fate {
    pub node: Option<String>,
    pub victims: Vec<String>,
    pub message: Option<String>,
}

/// The scheduler that binds, as far as it decides, with a world that does at once what it asks for.
pub struct Scheduler {
    pub state: State,
    pub now: Duration,
    pub pods: BTreeMap<String, Value>,
    pub fates: BTreeMap<String, Fate>,
    pub made: u128,
}

pub fn facts(pod: &Value) -> PodFacts {
    serde_json::from_value::<WatchedPod>(pod.clone()).unwrap().facts
}

impl Scheduler {
    pub fn new(cluster: &Cluster) -> Scheduler {
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

    pub fn owner(state: &mut State, kind: OwnerKind, object: Value) {
        let (key, selector) = serde_json::from_value::<WatchedOwner>(object).unwrap().into_parts();
        state.owners().seen(kind, key, selector);
    }

    pub fn make(&mut self, pod: Value) {
        let action = self.state.pod_seen(facts(&pod), self.now);
        self.pods.insert(name(&pod), pod);
        self.act(action.into_iter().collect(), &mut Vec::new());
    }

    /// What breaks the last ties between pods is their UIDs, which are random. Here they are those that the review
    /// makes up, so that all else can be compared.
    pub fn next_uid(&mut self) -> String {
        self.made += 1;
        usual_uid(PodKey(u128::MAX - self.made))
    }

    pub fn delete(&mut self, pod: &str) {
        if let Some(pod) = self.pods.remove(pod) {
            self.state.pod_gone(facts(&pod).key);
        }
    }

    pub fn act(&mut self, actions: Vec<Action>, going: &mut Vec<String>) {
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
                // Who asks for moves makes them.
                Action::Status { .. } | Action::FailedEvent { .. } | Action::Move(_) => {}
            }
        }
    }

    /// Goes on until nothing moves.
    pub fn run(&mut self) {
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
    pub fn follow(&mut self, cluster: &Cluster) {
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
                let mut pod = complete(&workload["template"]);
                (pod["metadata"]["name"], pod["metadata"]["uid"]) = (json!(name), json!(self.next_uid()));
                if let Some(owner) = &owner {
                    pod["metadata"]["ownerReferences"] = json!([super::owner("ReplicaSet", owner)]);
                }
                self.make(pod);
            }
        }
        self.run();
    }
}
