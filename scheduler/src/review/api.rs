//! A placement review as it stands in the API.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

/// The group and version.
pub const API_VERSION: &str = "scheduling.gantry.io/v1alpha1";
/// The kind.
pub const KIND: &str = "PlacementReview";
/// The plural.
pub const PLURAL: &str = "placementreviews";

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// Pods that exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodName>,
    /// Pods that do not exist yet, in the order in which they would be made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<Workload>,
    /// Groups of pods that do not exist yet, or ask for something else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod_groups: Vec<PodGroup>,
    /// What happens to the cluster first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_if: Option<WhatIf>,
    /// For which pods all nodes are to be told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nodes: String,
    /// Which pods could move so that those have room that get no node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defragment: Option<Defragment>,
}

/// That moves are to be looked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Defragment {
    /// How many pods may move; by default as many as the scheduler's configuration says of one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moves: Option<i32>,
}

/// A pod that exists.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A group of pods that are of use only together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodGroup {
    /// Its namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// So many of its pods must have nodes before any may go there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_member: Option<i32>,
}

/// Pods that are alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Workload {
    /// What answers call it.
    pub name: String,
    /// The namespace of its pods.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// How many pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i32>,
    /// The selector of the controller that would make the pods, by which they are spread if they say nothing themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// The pods.
    pub template: PodTemplateSpec,
}

/// What happens to the cluster first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WhatIf {
    /// These nodes are drained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drain: Vec<String>,
    /// All nodes of these zones are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lose_zones: Vec<String>,
    /// Nodes are added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<MoreNodes>,
}

/// Nodes that are added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoreNodes {
    /// The node that they are like.
    pub like: String,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i32>,
}

/// For which pods all nodes are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nodes {
    /// For none.
    #[default]
    None,
    /// For the pods that exist, and for the first pod of each workload.
    First,
    /// For all pods.
    All,
}

impl Nodes {
    /// How they are called.
    pub const NAMES: &[&str] = &["None", "First", "All"];

    /// That of this name; the empty one is the default.
    pub fn named(name: &str) -> Option<Nodes> {
        match name {
            "" | "None" => Some(Nodes::None),
            "First" => Some(Nodes::First),
            "All" => Some(Nodes::All),
            _ => None,
        }
    }
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// How many nodes there are, after what happened to the cluster.
    pub nodes: i64,
    /// How many of the pods get a node.
    pub placed: i64,
    /// How many get none.
    pub unplaced: i64,
    /// What becomes of the pods: first of those that exist, then of those that lose their node, then of those that are
    /// new, then of others that waited and get a node now.
    pub placements: Vec<Placement>,
    /// Pods whose node is lost and that nobody makes anew.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// Pods that would have to move so that others have room; what placements tell is as if they had.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Moved>,
}

/// A pod that moves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Moved {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node that it leaves.
    pub from: String,
    /// The node that the one that takes its place would get.
    pub to: String,
    /// The pod that has its room then.
    #[serde(rename = "for")]
    pub for_pod: PodName,
}

/// Why a pod is in the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It exists and was asked about.
    #[default]
    Pod,
    /// It is one of a workload's.
    Workload,
    /// It takes the place of one that loses its node.
    Displaced,
    /// It waits already, and gets a node now.
    Waiting,
}

/// What becomes of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Its namespace.
    pub namespace: String,
    /// Its name, or that of the pod whose place it takes.
    pub name: String,
    /// Why it is told.
    pub origin: Origin,
    /// The workload that it is one of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The node that it is on now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_node: Option<String>,
    /// The node that it would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// That node's score, in thousandths of a point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<i64>,
    /// Pods that would have to make room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub victims: Vec<Leaving>,
    /// Why it gets no node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What each node says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeAnswer>,
}

/// A pod that would have to make room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Leaving {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its priority.
    pub priority: i32,
}

/// A pod that is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lost {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
}

/// What a node says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAnswer {
    /// Its name.
    pub name: String,
    /// Its score, in thousandths of a point, if it would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<i64>,
    /// Why it would not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}
