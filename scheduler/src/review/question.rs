//! From a question to its answer: what has to be looked up, what happens to the copy, and what becomes of the pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};

use super::api::{
    Leaving, Lost, MoreNodes, Moved, NodeAnswer, Nodes, Origin, Placement, PodName, Spec, Status, WhatIf, Workload,
};
use super::{Error, Problem, Wrong};
use crate::convert;
use crate::core::{NodeSpec, PodKey};
use crate::defrag::settings::{PER_RUN_MAX, Settings};
use crate::defrag::{MIRROR, as_waiting};
use crate::driver::facts::PodFacts;
use crate::driver::owners::OwnerKind;
use crate::driver::state::{Clearing, Outcome, Trial};

/// Pods that one review may ask about, and nodes that it may add: enough for a large cluster's, and answered in seconds.
const COUNT_MAX: i32 = 10_000;
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The labels by which a node says in which zone it is.
const ZONES: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];

/// What the pods that are asked about are.
pub(super) struct Asked {
    /// For which all nodes are told.
    detail: Nodes,
    /// Those that exist.
    pods: Vec<PodFacts>,
    /// The first of each workload.
    workloads: Vec<PodFacts>,
}

/// A pod that loses its node.
pub(super) struct Displaced {
    was: PodKey,
    node: String,
    /// What takes its place; none if nobody makes it anew.
    anew: Option<PodFacts>,
    name: PodName,
}

/// What happens to the cluster.
#[derive(Default)]
pub(super) struct Changes {
    gone: Vec<String>,
    drained: Vec<String>,
    added: Vec<NodeSpec>,
    displaced: Vec<Displaced>,
}

fn wrong(field: impl Into<String>, wrong: Wrong) -> Error {
    Error::Invalid(Problem { field: field.into(), wrong })
}

fn count(field: &str, count: Option<i32>, sum: &mut i32) -> Result<i32, Error> {
    let count = count.unwrap_or(1);
    if count < 0 {
        let why = "must be greater than or equal to 0".to_owned();
        return Err(wrong(field, Wrong::Invalid(count.into(), why)));
    }
    *sum = sum.saturating_add(count);
    if *sum > COUNT_MAX {
        let why = format!("must not be more than {COUNT_MAX} in all");
        return Err(wrong(field, Wrong::Invalid(count.into(), why)));
    }
    Ok(count)
}

/// Finds out what the pods that are asked about are: those that exist, and those that do not yet, as they would be
/// made if the asker made them.
pub(super) async fn look_up(spec: &Spec, asker: &Client) -> Result<Asked, Error> {
    let detail = Nodes::named(&spec.nodes)
        .ok_or_else(|| wrong("spec.nodes", Wrong::NotSupported(spec.nodes.clone(), Nodes::NAMES)))?;
    let mut sum = 0;
    for (index, workload) in spec.workloads.iter().enumerate() {
        count(&format!("spec.workloads[{index}].count"), workload.count, &mut sum)?;
    }
    let mut asked = Asked { detail, pods: Vec::new(), workloads: Vec::new() };
    for (index, PodName { namespace, name }) in spec.pods.iter().enumerate() {
        if name.is_empty() {
            return Err(wrong(format!("spec.pods[{index}].name"), Wrong::Missing));
        }
        let pod = Api::<k8s::Pod>::namespaced(asker.clone(), or_default(namespace)).get(name).await;
        asked.pods.push(as_waiting(pod.map_err(Error::Api)?));
    }
    for (index, group) in spec.pod_groups.iter().enumerate() {
        if group.name.is_empty() {
            return Err(wrong(format!("spec.podGroups[{index}].name"), Wrong::Missing));
        }
        if let Some(number) = group.min_member.filter(|number| *number <= 0) {
            let why = "must be greater than zero".to_owned();
            return Err(wrong(format!("spec.podGroups[{index}].minMember"), Wrong::Invalid(number.into(), why)));
        }
    }
    for (index, workload) in spec.workloads.iter().enumerate() {
        if workload.name.is_empty() {
            return Err(wrong(format!("spec.workloads[{index}].name"), Wrong::Missing));
        }
        asked.workloads.push(PodFacts::from(&admitted(workload, asker).await?));
    }
    Ok(asked)
}

fn or_default(namespace: &str) -> &str {
    if namespace.is_empty() { "default" } else { namespace }
}

/// A pod of the workload as it would be stored.
async fn admitted(workload: &Workload, asker: &Client) -> Result<k8s::Pod, Error> {
    let metadata = workload.template.metadata.clone().unwrap_or_default();
    let pod = k8s::Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", workload.name)),
            labels: metadata.labels,
            annotations: metadata.annotations,
            ..ObjectMeta::default()
        },
        spec: Some(workload.template.spec.clone().unwrap_or_default()),
        status: None,
    };
    let api = Api::<k8s::Pod>::namespaced(asker.clone(), or_default(&workload.namespace));
    api.create(&PostParams { dry_run: true, field_manager: None }, &pod).await.map_err(Error::Api)
}

/// What happens to the cluster first, with the pods that lose their node.
pub(super) async fn changes(spec: &Spec, trial: &Trial, client: &Client) -> Result<Changes, Error> {
    let Some(WhatIf { drain, lose_zones, add }) = &spec.what_if else { return Ok(Changes::default()) };
    let mut changes = Changes::default();
    for (index, name) in drain.iter().enumerate() {
        trial.node(name).ok_or_else(|| not_found(format!("spec.whatIf.drain[{index}]"), name))?;
        changes.drained.push(name.clone());
    }
    for (index, zone) in lose_zones.iter().enumerate() {
        let nodes = trial.nodes_labelled(&ZONES, zone);
        if nodes.is_empty() {
            return Err(not_found(format!("spec.whatIf.loseZones[{index}]"), zone));
        }
        changes.gone.extend(nodes);
    }
    let mut sum = 0;
    for (index, MoreNodes { like, count: wanted }) in add.iter().enumerate() {
        let field = format!("spec.whatIf.add[{index}]");
        let model = trial.node(like).ok_or_else(|| not_found(format!("{field}.like"), like))?;
        for number in 1..=count(&format!("{field}.count"), *wanted, &mut sum)? {
            changes.added.push(another(model, &format!("{like}-like-{}", sum - wanted.unwrap_or(1) + number)));
        }
    }
    let losing: BTreeSet<&String> = changes.drained.iter().chain(&changes.gone).collect();
    let mut displaced = Vec::new();
    for node in losing {
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = Api::<k8s::Pod>::all(client.clone()).list(&params).await.map_err(Error::Api)?;
        displaced.extend(pods.items.into_iter().filter_map(|pod| displace(pod, node)));
    }
    changes.displaced = displaced;
    Ok(changes)
}

fn not_found(field: String, name: &str) -> Error {
    wrong(field, Wrong::NotFound(name.to_owned()))
}

/// A node like another, new and free for all.
fn another(model: &NodeSpec, name: &str) -> NodeSpec {
    let mut node = NodeSpec { name: name.to_owned(), unschedulable: false, ..model.clone() };
    if let Some(host) = node.labels.get_mut(HOSTNAME) {
        *host = name.to_owned();
    }
    // What a node agent or an administrator put there because of that node's state.
    node.taints.retain(|taint| !taint.key.starts_with("node.kubernetes.io/"));
    node
}

/// What becomes of a pod whose node is drained or gone; none for one that belongs to the node.
fn displace(pod: k8s::Pod, node: &str) -> Option<Displaced> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)).cloned();
    let annotations = pod.metadata.annotations.as_ref();
    let belongs = owner.as_ref().is_some_and(|owner| matches!(owner.kind.as_str(), "DaemonSet" | "Node"))
        || annotations.is_some_and(|all| all.contains_key(MIRROR));
    let facts = as_waiting(pod);
    if belongs || facts.finished || facts.terminating {
        return None;
    }
    let name = PodName { namespace: facts.namespace.clone(), name: facts.name.clone() };
    let was = facts.key;
    Some(Displaced { was, node: node.to_owned(), anew: owner.map(|_| facts), name })
}

/// A pod of which the answer tells.
struct Told {
    key: PodKey,
    placement: Placement,
}

/// How many moves may be looked for; none if nobody asks.
pub(super) fn moves(spec: &Spec, settings: &Settings) -> Result<Option<usize>, Error> {
    let Some(wish) = &spec.defragment else { return Ok(None) };
    let Some(moves) = wish.moves else { return Ok(Some(settings.moves_per_run)) };
    if !(1..=PER_RUN_MAX).contains(&i64::from(moves)) {
        let why = format!("must be between 1 and {PER_RUN_MAX}, inclusive");
        return Err(wrong("spec.defragment.moves", Wrong::Invalid(moves.into(), why)));
    }
    Ok(usize::try_from(moves).ok())
}

/// What became of the pods, and of the copy.
pub(super) struct Answered {
    pub(super) trial: Trial,
    told: Vec<(PodKey, Placement)>,
    lost: Vec<Lost>,
    moves: Vec<Moved>,
}

impl Answered {
    /// Adds those that wait for nothing but room.
    pub(super) fn tell_of_stranded(&mut self) {
        for key in self.trial.stranded(Duration::ZERO) {
            if let Some(outcome) = self.trial.outcome(key) {
                let (namespace, name) = (outcome.pod.namespace, outcome.pod.name);
                let placement = Placement { namespace, name, origin: Origin::Waiting, ..Placement::default() };
                self.told.push((key, complete(&self.trial, Told { key, placement })));
            }
        }
    }

    /// The pods that got no node.
    pub(super) fn unplaced(&self) -> Vec<PodKey> {
        self.told.iter().filter(|(_, placement)| placement.node.is_none()).map(|(key, _)| *key).collect()
    }

    /// Takes down the moves that make room for some.
    pub(super) fn make_room(&mut self, found: Vec<Clearing>) {
        for Clearing { pod, node, moves, .. } in found {
            let of_pod = self.told.iter_mut().filter(|(key, _)| *key == pod.key);
            for (_, placement) in of_pod {
                (placement.node, placement.message) = (Some(node.to_string()), None);
                placement.nodes.clear();
            }
            let for_pod = PodName { namespace: pod.namespace, name: pod.name };
            self.moves.extend(moves.into_iter().map(|one| Moved {
                namespace: one.pod.namespace,
                name: one.pod.name,
                uid: one.pod.uid,
                from: node.to_string(),
                to: one.to.to_string(),
                for_pod: for_pod.clone(),
            }));
        }
    }

    pub(super) fn status(self) -> Status {
        let placements: Vec<Placement> = self.told.into_iter().map(|(_, placement)| placement).collect();
        let placed = placements.iter().filter(|placement| placement.node.is_some()).count();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Status {
            nodes: number(self.trial.node_count()),
            placed: number(placed),
            unplaced: number(placements.len() - placed),
            placements,
            lost: self.lost,
            moves: self.moves,
        }
    }
}

/// Lets happen what is to happen and tells what becomes of the pods.
pub(super) fn answer(mut trial: Trial, spec: &Spec, asked: Asked, changes: Changes) -> Answered {
    let mut told: Vec<Told> = Vec::new();
    let detail = asked.detail;
    for pod in asked.pods.iter().filter(|pod| pod.node_name.is_none() && detail != Nodes::None) {
        trial.ask_all_nodes(pod.key);
    }
    // Those that wait already are ahead of all that is asked about.
    trial.settle();
    trial.pause();
    let before: BTreeMap<PodKey, Option<Arc<str>>> = trial.decided().into_iter().collect();
    for pod in asked.pods {
        let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
        let (key, current_node, left_to) = (pod.key, pod.node_name.clone(), left_to(&pod));
        let is_placed_here = exist(&mut trial, pod, detail);
        let message = (!is_placed_here).then_some(left_to);
        told.push(Told {
            key,
            placement: Placement { namespace, name, current_node, message, ..Placement::default() },
        });
    }
    let lost = change(&mut trial, changes, &mut told);
    for group in &spec.pod_groups {
        let min_member = group.min_member.and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
        trial.set_group(or_default(&group.namespace), &group.name, min_member);
    }
    for (index, (workload, pod)) in spec.workloads.iter().zip(asked.workloads).enumerate() {
        make(&mut trial, workload, index, &pod, detail, &mut told);
    }
    trial.settle();
    let is_told: BTreeSet<PodKey> = told.iter().map(|one| one.key).collect();
    for (key, node) in trial.decided() {
        let moved = node.is_some() && before.get(&key).is_none_or(Option::is_none);
        if let Some(outcome) = trial.outcome(key).filter(|_| moved && !is_told.contains(&key)) {
            let (namespace, name) = (outcome.pod.namespace, outcome.pod.name);
            let placement = Placement { namespace, name, origin: Origin::Waiting, ..Placement::default() };
            told.push(Told { key, placement });
        }
    }
    let told = told.into_iter().map(|one| (one.key, complete(&trial, one))).collect();
    Answered { trial, told, lost, moves: Vec::new() }
}

/// What is said of a pod that this scheduler does not place.
fn left_to(pod: &PodFacts) -> String {
    format!("it is left to the scheduler {:?}", pod.scheduler_name)
}

/// A pod that exists: one that waits has been tried; one that has a node is tried as if it had none. Returns whether it is
/// for this scheduler to place.
fn exist(trial: &mut Trial, pod: PodFacts, detail: Nodes) -> bool {
    if pod.node_name.is_none() && trial.outcome(pod.key).is_some() {
        return true;
    }
    trial.remove_pod(pod.key);
    if detail != Nodes::None {
        trial.ask_all_nodes(pod.key);
    }
    trial.add_pod(PodFacts { node_name: None, ..pod })
}

/// Lets happen to the cluster what is to happen.
fn change(trial: &mut Trial, changes: Changes, told: &mut Vec<Told>) -> Vec<Lost> {
    for name in &changes.drained {
        if let Some(node) = trial.node(name).cloned() {
            trial.set_node(NodeSpec { unschedulable: true, ..node });
        }
    }
    for name in &changes.gone {
        trial.remove_node(name);
    }
    for node in changes.added {
        trial.set_node(node);
    }
    for pod in &changes.displaced {
        trial.remove_pod(pod.was);
    }
    trial.wake();
    let mut lost = Vec::new();
    for Displaced { node, anew, name: PodName { namespace, name }, .. } in changes.displaced {
        let Some(pod) = anew else {
            lost.push(Lost { namespace, name, node });
            continue;
        };
        let key = trial.new_key();
        trial.add_pod(PodFacts { key, uid: convert::usual_uid(key), node_name: None, ..pod });
        let origin = Origin::Displaced;
        let placement = Placement { namespace, name, origin, current_node: Some(node), ..Placement::default() };
        told.push(Told { key, placement });
    }
    lost
}

/// Makes the pods of a workload.
fn make(trial: &mut Trial, workload: &Workload, index: usize, pod: &PodFacts, detail: Nodes, told: &mut Vec<Told>) {
    let controller = workload.selector.as_ref().map(|selector: &LabelSelector| {
        // A name that no object can have: it is there for this question only.
        let name = format!("{}/{index}", workload.name);
        trial.add_owner(OwnerKind::ReplicaSet, &pod.namespace, &name, convert::requirements(Some(selector)));
        (OwnerKind::ReplicaSet, name)
    });
    for number in 0..workload.count.unwrap_or(1) {
        let key = trial.new_key();
        let name = if workload.count.is_none() { workload.name.clone() } else { format!("{}-{number}", workload.name) };
        if detail == Nodes::All || (detail == Nodes::First && number == 0) {
            trial.ask_all_nodes(key);
        }
        let facts = PodFacts {
            key,
            uid: convert::usual_uid(key),
            name: name.clone(),
            controller: controller.clone(),
            ..pod.clone()
        };
        let mut placement = Placement {
            namespace: pod.namespace.clone(),
            name,
            origin: Origin::Workload,
            workload: Some(workload.name.clone()),
            ..Placement::default()
        };
        if !trial.add_pod(facts) {
            placement.message = Some(left_to(pod));
        }
        told.push(Told { key, placement });
    }
}

fn complete(trial: &Trial, Told { key, mut placement }: Told) -> Placement {
    let Some(Outcome { node, score, victims, message, opinions, .. }) = trial.outcome(key) else { return placement };
    placement.node = node.map(|node| node.to_string());
    placement.score = score.filter(|_| placement.node.is_some());
    placement.message = message.filter(|_| placement.node.is_none());
    let leaving = victims.into_iter().map(|one| Leaving {
        namespace: one.pod.namespace,
        name: one.pod.name,
        priority: one.priority,
    });
    placement.victims = leaving.collect();
    let answers = opinions.into_iter().map(|one| NodeAnswer {
        name: one.node.to_string(),
        score: one.score,
        reasons: one.reasons,
    });
    placement.nodes = answers.collect();
    placement
}
