//! Claims, volumes and storage classes, as far as they say where a pod can go.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{quantity, requirements, term};
use crate::core::spec::Operator;
use crate::core::{Attachment, ClassSpec, NodeSpec, Requirement, Term};
use crate::driver::volumes::places;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The node for which a volume is to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// What matters about a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// The storage class; may be empty.
    pub class: String,
    /// The volume that it has or asks for.
    pub volume: Option<String>,
    /// The node for which a volume is to be made.
    pub selected_node: Option<String>,
    /// It is about to go.
    pub deleting: bool,
    /// Its volume is gone.
    pub lost: bool,
    /// How much it asks for.
    pub request: i64,
    /// It is for one pod at a time.
    pub exclusive: bool,
    /// The UIDs of its owners.
    pub owners: Vec<String>,
    completed: bool,
    modes: BTreeSet<String>,
    volume_mode: String,
    attributes: String,
    selector: Option<Vec<Requirement>>,
}

impl Claim {
    /// Has it got its volume?
    pub fn is_bound(&self) -> bool {
        self.volume.is_some() && self.completed
    }
}

/// What matters about a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// The storage class; may be empty.
    pub class: String,
    /// How much there is.
    pub capacity: i64,
    /// The claim that has it or for which it is reserved, with its UID if that is said.
    pub claim: Option<((String, String), Option<String>)>,
    /// It is free to be had.
    pub available: bool,
    /// From which nodes it can be reached; `None` is all.
    pub terms: Option<Vec<Term>>,
    /// Where it is, by its labels.
    pub places: Vec<(String, Vec<String>)>,
    /// What is attached to the node of its pods.
    pub attachment: Option<Attachment>,
    deleting: bool,
    modes: BTreeSet<String>,
    volume_mode: String,
    attributes: String,
    labels: BTreeMap<String, String>,
}

impl Volume {
    /// Is it large enough and of the right make?
    pub fn could_hold(&self, claim: &Claim) -> bool {
        !self.deleting
            && self.capacity >= claim.request
            && self.volume_mode == claim.volume_mode
            && self.attributes == claim.attributes
    }

    /// Is it reserved for the claim?
    pub fn is_for(&self, key: &(String, String), claim: &Claim) -> bool {
        let of = self.claim.as_ref();
        of.is_some_and(|(of, uid)| of == key && uid.as_ref().is_none_or(|uid| *uid == claim.uid))
    }

    /// May it be used as the claim asks, and is it one of those that the claim selects?
    pub fn suits(&self, claim: &Claim) -> bool {
        let labelled = ClassSpec { labels: self.labels.clone(), ..ClassSpec::default() };
        claim.modes.is_subset(&self.modes)
            && claim.selector.as_ref().is_none_or(|selector| labelled.is_selected_by(selector))
    }

    /// Can it be reached from the node?
    pub fn is_reached_from(&self, node: &NodeSpec) -> bool {
        self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
    }
}

/// What matters about a storage class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Who makes volumes.
    pub provisioner: String,
    /// Its claims get their volumes with a pod's node.
    pub waits: bool,
    /// Where volumes can be made; empty is anywhere.
    pub places: Vec<Term>,
}

fn class_name(meta: &ObjectMeta, class: Option<&String>) -> String {
    let annotated = meta.annotations.as_ref().and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.or(class).cloned().unwrap_or_default()
}

fn storage(amounts: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>) -> i64 {
    amounts.and_then(|amounts| amounts.get("storage")).map_or(0, |amount| quantity::amount("storage", &amount.0))
}

fn mode(mode: Option<&String>) -> String {
    mode.cloned().unwrap_or_else(|| "Filesystem".into())
}

/// Reads a claim.
pub fn claim(claim: &k8s::PersistentVolumeClaim) -> ((String, String), Claim) {
    let meta = &claim.metadata;
    let empty = k8s::PersistentVolumeClaimSpec::default();
    let spec = claim.spec.as_ref().unwrap_or(&empty);
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|annotations| annotations.get(key)).cloned();
    let read = Claim {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        class: class_name(meta, spec.storage_class_name.as_ref()),
        volume: spec.volume_name.clone().filter(|name| !name.is_empty()),
        selected_node: annotation(SELECTED_NODE),
        deleting: meta.deletion_timestamp.is_some(),
        lost: claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Lost")),
        request: storage(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref())),
        exclusive: spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod"),
        owners: meta.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect(),
        completed: annotation(BIND_COMPLETED).is_some(),
        modes: spec.access_modes.iter().flatten().cloned().collect(),
        volume_mode: mode(spec.volume_mode.as_ref()),
        attributes: spec.volume_attributes_class_name.clone().unwrap_or_default(),
        selector: spec.selector.as_ref().and_then(|selector| requirements(Some(selector))),
    };
    ((meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default()), read)
}

/// Reads a volume.
pub fn volume(volume: &k8s::PersistentVolume) -> (String, Volume) {
    let meta = &volume.metadata;
    let empty = k8s::PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&empty);
    let claim = spec.claim_ref.as_ref().map(|claim| {
        let key = (claim.namespace.clone().unwrap_or_default(), claim.name.clone().unwrap_or_default());
        (key, claim.uid.clone().filter(|uid| !uid.is_empty()))
    });
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let labels = meta.labels.clone().unwrap_or_default();
    let read = Volume {
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        class: class_name(meta, spec.storage_class_name.as_ref()),
        capacity: storage(spec.capacity.as_ref()),
        claim,
        available: volume.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Available")),
        terms: required.map(|selector| selector.node_selector_terms.iter().map(term).collect()),
        places: places(&labels),
        attachment: spec
            .csi
            .as_ref()
            .map(|csi| Attachment { driver: csi.driver.clone(), volume: csi.volume_handle.clone() }),
        deleting: meta.deletion_timestamp.is_some(),
        modes: spec.access_modes.iter().flatten().cloned().collect(),
        volume_mode: mode(spec.volume_mode.as_ref()),
        attributes: spec.volume_attributes_class_name.clone().unwrap_or_default(),
        labels,
    };
    (meta.name.clone().unwrap_or_default(), read)
}

/// Where a driver can make volumes of a class, and how large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The storage class.
    pub class: String,
    /// For which nodes; `None` is for none.
    pub place: Option<Term>,
    /// The largest volume.
    pub largest: i64,
}

/// Reads how many volumes can be attached to a node, by driver.
pub fn csi_node(node: &CSINode) -> (String, BTreeMap<String, i64>) {
    let limits = node.spec.drivers.iter().filter_map(|driver| {
        let count = driver.allocatable.as_ref()?.count?;
        Some((driver.name.clone(), i64::from(count)))
    });
    (node.metadata.name.clone().unwrap_or_default(), limits.collect())
}

/// Reads whether a driver says where it has how much storage.
pub fn csi_driver(driver: &CSIDriver) -> (String, bool) {
    (driver.metadata.name.clone().unwrap_or_default(), driver.spec.storage_capacity.unwrap_or(false))
}

/// Reads how much storage there is somewhere.
pub fn capacity(capacity: &CSIStorageCapacity) -> ((String, String), Capacity) {
    let meta = &capacity.metadata;
    let amount = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
    let place = requirements(capacity.node_topology.as_ref()).map(|expressions| {
        // A selector without conditions is for all nodes, a term without any for none.
        let all = Requirement { key: "metadata.name".into(), operator: Operator::NotIn, values: Vec::new() };
        let fields = if expressions.is_empty() { vec![all] } else { Vec::new() };
        Term { expressions, fields }
    });
    let read = Capacity {
        class: capacity.storage_class_name.clone(),
        place,
        // What says nothing has no room.
        largest: amount.map_or(-1, |amount| quantity::amount("storage", &amount.0)),
    };
    ((meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default()), read)
}

/// Reads a storage class.
pub fn class(class: &StorageClass) -> (String, Class) {
    let places = class.allowed_topologies.iter().flatten().map(|place| {
        let expressions = place.match_label_expressions.iter().flatten().map(|one| Requirement {
            key: one.key.clone(),
            operator: Operator::In,
            values: one.values.clone(),
        });
        Term { expressions: expressions.collect(), fields: Vec::new() }
    });
    let read = Class {
        provisioner: class.provisioner.clone(),
        waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
        places: places.collect(),
    };
    (class.metadata.name.clone().unwrap_or_default(), read)
}
