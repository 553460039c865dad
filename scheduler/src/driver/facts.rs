//! What the driver reads from a watch: pods and nodes decoded field by field.
//!
//! The watches see every pod and node of the cluster, so only the fields that scheduling needs are
//! decoded; of an assigned pod nothing is kept but its demand (shared) and its node.

use gantry_api::meta::POD_GROUP_LABEL;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::time::Duration;

use super::owners::OwnerKind;
use super::queues::QUEUE_LABEL;
use super::volumes::{ClaimUse, Claimant};
use crate::convert;
use crate::core::{Budget, ClassSpec, NodeSpec, PodKey};

/// The reason in the `DisruptionTarget` condition of a pod that makes room for another.
pub const PREEMPTED_REASON: &str = "PreemptionByScheduler";

/// The part of a pod that the scheduler acts on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The UID as a number.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// The pod has run to its end: it holds nothing any more.
    pub finished: bool,
    /// `spec.nodeName`.
    pub node_name: Option<String>,
    /// `spec.schedulerName`.
    pub scheduler_name: String,
    /// `spec.priority`.
    pub priority: i32,
    /// `spec.preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// `spec.schedulingGates` is not empty.
    pub gated: bool,
    /// What the pod asks for; of an assigned pod only what it is to others.
    pub class: ClassSpec,
    /// Reason and message of the `PodScheduled` condition when it is `False`.
    pub not_scheduled: Option<(String, String)>,
    /// The kind and name of the controller that owns a waiting pod, if it is one that makes pods in numbers.
    pub controller: Option<(OwnerKind, String)>,
    /// The UID of the controller that owns it, as a number.
    pub maker: Option<u128>,
    /// How long it has to end, if it says so.
    pub grace: Option<Duration>,
    /// The claims that it uses; `None` if there are none.
    pub claimant: Option<Claimant>,
    /// `status.nominatedNodeName`.
    pub nominated: Option<String>,
    /// `status.startTime`, in seconds.
    pub started: Option<i64>,
    /// It goes because the scheduler made room for another.
    pub preempted: bool,
    /// The group that it belongs to.
    pub group: Option<String>,
    /// The queue that it names.
    pub queue: Option<String>,
}

impl From<&k8s::Pod> for PodFacts {
    fn from(pod: &k8s::Pod) -> Self {
        let meta = &pod.metadata;
        let empty = k8s::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let status = pod.status.as_ref();
        let node_name = spec.node_name.clone().filter(|name| !name.is_empty());
        let uid = meta.uid.clone().unwrap_or_default();
        let class = match node_name {
            Some(_) => convert::placed(pod),
            None => convert::class(pod),
        };
        let condition = |type_: &str, status_: &str| {
            let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
            conditions.into_iter().find(|condition| condition.type_ == type_ && condition.status == status_)
        };
        let target = condition("DisruptionTarget", "True");
        let terminating = meta.deletion_timestamp.is_some();
        let maker = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let controller = maker.filter(|_| node_name.is_none());
        let grace = spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let label = |name: &str| {
            let label = meta.labels.as_ref().and_then(|labels| labels.get(name));
            label.filter(|value| !value.is_empty()).cloned()
        };
        PodFacts {
            group: label(POD_GROUP_LABEL),
            queue: label(QUEUE_LABEL),
            controller: controller.and_then(|owner| {
                Some((OwnerKind::of_controller(&owner.api_version, &owner.kind)?, owner.name.clone()))
            }),
            maker: maker.map(|owner| convert::pod_key(&owner.uid).0),
            grace: grace.map(Duration::from_secs),
            claimant: claimant(pod),
            key: convert::pod_key(&uid),
            uid,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation,
            terminating,
            finished: matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed")),
            node_name,
            scheduler_name: spec.scheduler_name.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            class,
            not_scheduled: condition("PodScheduled", "False").map(|condition| {
                (condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default())
            }),
            nominated: status.and_then(|status| status.nominated_node_name.clone()).filter(|name| !name.is_empty()),
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0.as_second()),
            preempted: terminating && target.is_some_and(|one| one.reason.as_deref() == Some(PREEMPTED_REASON)),
        }
    }
}

fn claimant(pod: &k8s::Pod) -> Option<Claimant> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(ClaimUse { name: claim.claim_name.clone(), ephemeral: false }),
        (None, Some(_)) => Some(ClaimUse { name: format!("{name}-{}", volume.name), ephemeral: true }),
        _ => None,
    });
    let claims: Vec<ClaimUse> = claims.collect();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    (!claims.is_empty()).then_some(Claimant { namespace, name, uid, claims })
}

/// A volume as far as it may be a claim.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeView {
    name: String,
    persistent_volume_claim: Option<k8s::PersistentVolumeClaimVolumeSource>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

impl From<VolumeView> for k8s::Volume {
    fn from(view: VolumeView) -> Self {
        k8s::Volume {
            name: view.name,
            persistent_volume_claim: view.persistent_volume_claim,
            ephemeral: view.ephemeral.map(|_| k8s::EphemeralVolumeSource::default()),
            ..k8s::Volume::default()
        }
    }
}

/// A pod as the watch decodes it.
#[derive(Clone, Debug)]
pub struct WatchedPod {
    meta: ObjectMeta,
    /// What was read.
    pub facts: PodFacts,
}

/// A namespace as the watch decodes it: its name and labels are what matters.
#[derive(Clone, Debug, Deserialize)]
pub struct WatchedNamespace {
    #[serde(rename = "metadata", deserialize_with = "meta")]
    meta: ObjectMeta,
}

impl WatchedNamespace {
    /// Name and labels.
    pub fn into_parts(self) -> (String, BTreeMap<String, String>) {
        (self.meta.name.unwrap_or_default(), self.meta.labels.unwrap_or_default())
    }
}

/// A disruption budget as the watch decodes it.
#[derive(Clone, Debug, Deserialize)]
pub struct WatchedBudget {
    #[serde(rename = "metadata", deserialize_with = "meta")]
    meta: ObjectMeta,
    #[serde(default)]
    spec: BudgetSpecView,
    #[serde(default)]
    status: BudgetStatusView,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct BudgetSpecView {
    selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BudgetStatusView {
    #[serde(default)]
    disruptions_allowed: i64,
    disrupted_pods: Option<BTreeMap<String, Time>>,
}

impl WatchedBudget {
    /// Namespace and name, and what it says.
    pub fn into_parts(self) -> (ObjectKey, Budget) {
        let budget = Budget {
            selector: convert::requirements(self.spec.selector.as_ref()),
            allowed: self.status.disruptions_allowed,
            disrupted: self.status.disrupted_pods.unwrap_or_default().into_keys().collect(),
        };
        ((self.meta.namespace.unwrap_or_default(), self.meta.name.unwrap_or_default()), budget)
    }
}

/// Namespace and name.
pub type ObjectKey = (String, String);

pub(super) fn meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    MetaView::deserialize(deserializer).map(Into::into)
}

/// A node as the watch decodes it.
#[derive(Clone, Debug)]
pub struct WatchedNode {
    meta: ObjectMeta,
    /// What was read.
    pub spec: NodeSpec,
}

/// What the client has to know of a kind that is read in part.
macro_rules! watched {
    ($type:ty, $kind:literal, $plural:literal, $group:literal, $version:literal, $scope:ty) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.meta
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.meta
            }
        }
    };
}
pub(super) use watched;

watched!(WatchedPod, "Pod", "pods", "", "v1", NamespaceResourceScope);
watched!(WatchedNode, "Node", "nodes", "", "v1", ClusterResourceScope);
watched!(WatchedNamespace, "Namespace", "namespaces", "", "v1", ClusterResourceScope);
watched!(WatchedBudget, "PodDisruptionBudget", "poddisruptionbudgets", "policy", "v1", NamespaceResourceScope);

impl<'de> Deserialize<'de> for WatchedPod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let view = PodView::deserialize(deserializer)?;
        let meta = view.metadata.into();
        let pod = k8s::Pod {
            metadata: meta,
            spec: Some(view.spec.unwrap_or_default().into()),
            status: Some(view.status.unwrap_or_default().into()),
        };
        let facts = PodFacts::from(&pod);
        // The labels are in the facts now; keeping them here too would double them.
        Ok(WatchedPod {
            meta: ObjectMeta { labels: None, annotations: None, owner_references: None, ..pod.metadata },
            facts,
        })
    }
}

impl<'de> Deserialize<'de> for WatchedNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let view = NodeView::deserialize(deserializer)?;
        let spec = view.spec.unwrap_or_default();
        let node = k8s::Node {
            metadata: view.metadata.into(),
            spec: Some(k8s::NodeSpec {
                taints: spec.taints,
                unschedulable: spec.unschedulable,
                ..k8s::NodeSpec::default()
            }),
            status: Some(k8s::NodeStatus {
                allocatable: view.status.unwrap_or_default().allocatable,
                ..k8s::NodeStatus::default()
            }),
        };
        let spec = convert::node(&node);
        // The labels are in the spec now; keeping them here too would double them.
        Ok(WatchedNode { meta: ObjectMeta { labels: None, ..node.metadata }, spec })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetaView {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    annotations: Option<AnnotationsView>,
}

/// The one annotation that is read.
#[derive(Deserialize)]
struct AnnotationsView {
    #[serde(rename = "gantry.io/gpu-devices")]
    devices: Option<String>,
}

impl From<MetaView> for ObjectMeta {
    fn from(view: MetaView) -> Self {
        ObjectMeta {
            name: view.name,
            namespace: view.namespace,
            uid: view.uid,
            resource_version: view.resource_version,
            generation: view.generation,
            deletion_timestamp: view.deletion_timestamp,
            labels: view.labels,
            owner_references: view.owner_references,
            annotations: view
                .annotations
                .and_then(|view| Some([(convert::DEVICES_ANNOTATION.to_owned(), view.devices?)].into())),
            ..ObjectMeta::default()
        }
    }
}

#[derive(Deserialize)]
struct PodView {
    metadata: MetaView,
    spec: Option<PodSpecView>,
    status: Option<PodStatusView>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpecView {
    node_name: Option<String>,
    scheduler_name: Option<String>,
    priority: Option<i32>,
    preemption_policy: Option<String>,
    os: Option<k8s::PodOS>,
    node_selector: Option<BTreeMap<String, String>>,
    affinity: Option<AffinityView>,
    topology_spread_constraints: Option<Vec<k8s::TopologySpreadConstraint>>,
    tolerations: Option<Vec<k8s::Toleration>>,
    scheduling_gates: Option<Vec<k8s::PodSchedulingGate>>,
    containers: Option<Vec<ContainerView>>,
    init_containers: Option<Vec<ContainerView>>,
    overhead: Option<BTreeMap<String, Quantity>>,
    resources: Option<k8s::ResourceRequirements>,
    volumes: Option<Vec<VolumeView>>,
    termination_grace_period_seconds: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AffinityView {
    node_affinity: Option<k8s::NodeAffinity>,
    pod_affinity: Option<k8s::PodAffinity>,
    pod_anti_affinity: Option<k8s::PodAntiAffinity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerView {
    name: Option<String>,
    ports: Option<Vec<k8s::ContainerPort>>,
    resources: Option<k8s::ResourceRequirements>,
    restart_policy: Option<String>,
}

impl From<ContainerView> for k8s::Container {
    fn from(view: ContainerView) -> Self {
        k8s::Container {
            name: view.name.unwrap_or_default(),
            ports: view.ports,
            resources: view.resources,
            restart_policy: view.restart_policy,
            ..k8s::Container::default()
        }
    }
}

impl From<PodSpecView> for k8s::PodSpec {
    fn from(view: PodSpecView) -> Self {
        let containers = |list: Option<Vec<ContainerView>>| list.map(|list| list.into_iter().map(Into::into).collect());
        k8s::PodSpec {
            node_name: view.node_name,
            scheduler_name: view.scheduler_name,
            priority: view.priority,
            preemption_policy: view.preemption_policy,
            os: view.os,
            node_selector: view.node_selector,
            affinity: view.affinity.map(|affinity| k8s::Affinity {
                node_affinity: affinity.node_affinity,
                pod_affinity: affinity.pod_affinity,
                pod_anti_affinity: affinity.pod_anti_affinity,
            }),
            topology_spread_constraints: view.topology_spread_constraints,
            tolerations: view.tolerations,
            scheduling_gates: view.scheduling_gates,
            containers: containers(view.containers).unwrap_or_default(),
            init_containers: containers(view.init_containers),
            overhead: view.overhead,
            resources: view.resources,
            termination_grace_period_seconds: view.termination_grace_period_seconds,
            volumes: view.volumes.map(|volumes| volumes.into_iter().map(Into::into).collect()),
            ..k8s::PodSpec::default()
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatusView {
    phase: Option<String>,
    conditions: Option<Vec<k8s::PodCondition>>,
    nominated_node_name: Option<String>,
    start_time: Option<Time>,
    container_statuses: Option<Vec<ContainerStatusView>>,
    init_container_statuses: Option<Vec<ContainerStatusView>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatusView {
    name: Option<String>,
    resources: Option<k8s::ResourceRequirements>,
    allocated_resources: Option<BTreeMap<String, Quantity>>,
}

impl From<PodStatusView> for k8s::PodStatus {
    fn from(view: PodStatusView) -> Self {
        let statuses = |list: Option<Vec<ContainerStatusView>>| {
            list.map(|list| {
                list.into_iter()
                    .map(|one| k8s::ContainerStatus {
                        name: one.name.unwrap_or_default(),
                        resources: one.resources,
                        allocated_resources: one.allocated_resources,
                        ..k8s::ContainerStatus::default()
                    })
                    .collect()
            })
        };
        k8s::PodStatus {
            phase: view.phase,
            conditions: view.conditions,
            nominated_node_name: view.nominated_node_name,
            start_time: view.start_time,
            container_statuses: statuses(view.container_statuses),
            init_container_statuses: statuses(view.init_container_statuses),
            ..k8s::PodStatus::default()
        }
    }
}

#[derive(Deserialize)]
struct NodeView {
    metadata: MetaView,
    spec: Option<NodeSpecView>,
    status: Option<NodeStatusView>,
}

#[derive(Default, Deserialize)]
struct NodeSpecView {
    taints: Option<Vec<k8s::Taint>>,
    unschedulable: Option<bool>,
}

#[derive(Default, Deserialize)]
struct NodeStatusView {
    allocatable: Option<BTreeMap<String, Quantity>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_watched_pod_has_what_the_whole_pod_has() {
        let json = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "7", "generation": 2,
                "labels": {"app": "a"}, "annotations": {"gantry.io/gpu-devices": "2", "note": "n"},
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"},
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}],
                "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {}}}]},
            "spec": {
                "schedulerName": "default-scheduler", "priority": 5, "preemptionPolicy": "Never",
                "nodeSelector": {"a": "b"}, "os": {"name": "linux"}, "overhead": {"cpu": "1"},
                "terminationGracePeriodSeconds": 45, "schedulingGates": [{"name": "g"}],
                "volumes": [{"name": "e", "emptyDir": {}}, {"name": "v", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}],
                "tolerations": [{"operator": "Exists"}],
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "zone"}]}},
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                    "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}],
                "initContainers": [{"name": "i", "image": "x", "resources": {"requests": {"cpu": "9"}}}],
                "containers": [{"name": "c", "image": "x", "env": [{"name": "E"}],
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
            },
            "status": {"phase": "Pending", "nominatedNodeName": "n", "startTime": "2026-01-02T03:04:05Z", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "m"}]},
        });
        let whole: k8s::Pod = serde_json::from_value(json.clone()).unwrap();
        let watched: WatchedPod = serde_json::from_value(json).unwrap();
        assert_eq!(watched.facts, PodFacts::from(&whole));
        assert_eq!(watched.facts.class.demand.requests.milli_cpu, 10_000);
        assert_eq!(watched.facts.class.pod_affinity.anti_required[0].selector.namespaces, ["d".to_owned()].into());
        assert_eq!(watched.facts.class.spread.len(), 1);
        assert_eq!(watched.meta.resource_version.as_deref(), Some("7"));
        let number = convert::pod_key("u").0;
        assert_eq!((watched.facts.maker, watched.facts.grace), (Some(number), Some(Duration::from_secs(45))));
        assert!(watched.facts.gated && watched.facts.never_preempts);
        let claims = watched.facts.claimant.as_ref().unwrap().claims.iter();
        assert_eq!(
            claims.map(|one| (one.name.as_str(), one.ephemeral)).collect::<Vec<_>>(),
            [("data", false), ("p-x", true)]
        );
        assert_eq!(watched.facts.controller, Some((OwnerKind::ReplicaSet, "r".to_owned())));
        assert_eq!((watched.facts.nominated.as_deref(), watched.facts.started), (Some("n"), Some(1_767_323_045)));
    }
}
