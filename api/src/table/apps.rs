//! How workloads are printed.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Doc, Printer, Row, age_of, items, name_of, number};
use crate::meta;
use crate::selector::{LabelSelector, format_label_selector};

const DEPLOYMENT_STATUS: &str = "io.k8s.api.apps.v1.DeploymentStatus";
const REPLICA_SET_SPEC: &str = "io.k8s.api.apps.v1.ReplicaSetSpec";
const REPLICA_SET_STATUS: &str = "io.k8s.api.apps.v1.ReplicaSetStatus";

pub(super) static DEPLOYMENT: Printer = Printer::new(
    &[
        Column::NAME,
        Column::text("Ready", Doc::Text("Number of the pod with ready state")),
        Column::text("Up-to-date", Doc::Field(DEPLOYMENT_STATUS, "updatedReplicas")),
        Column::text("Available", Doc::Field(DEPLOYMENT_STATUS, "availableReplicas")),
        Column::AGE,
        Column::CONTAINERS,
        Column::IMAGES,
        Column::wide("Selector", Doc::Field("io.k8s.api.apps.v1.DeploymentSpec", "selector")),
    ],
    deployment,
);

fn deployment(deployment: &Value, now: Timestamp) -> Row {
    let status = |field: &str| number(deployment, &["status", field]);
    let selector = deployment.get("spec").and_then(|spec| spec.get("selector")).unwrap_or(&Value::Null);
    let selector = LabelSelector::from_object(selector).map_or_else(|_| "<invalid>".to_owned(), |s| s.to_string());
    vec![
        name_of(deployment),
        json!(format!("{}/{}", status("readyReplicas"), number(deployment, &["spec", "replicas"]))),
        json!(status("updatedReplicas")),
        json!(status("availableReplicas")),
        age_of(deployment, now),
        json!(template(deployment, "name")),
        json!(template(deployment, "image")),
        json!(selector),
    ]
    .into()
}

pub(super) static REPLICA_SET: Printer = Printer::new(
    &[
        Column::NAME,
        Column::integer("Desired", Doc::Field(REPLICA_SET_SPEC, "replicas")),
        Column::integer("Current", Doc::Field(REPLICA_SET_STATUS, "replicas")),
        Column::integer("Ready", Doc::Field(REPLICA_SET_STATUS, "readyReplicas")),
        Column::AGE,
        Column::CONTAINERS,
        Column::IMAGES,
        Column::wide("Selector", Doc::Field(REPLICA_SET_SPEC, "selector")),
    ],
    replica_set,
);

fn replica_set(set: &Value, now: Timestamp) -> Row {
    vec![
        name_of(set),
        json!(number(set, &["spec", "replicas"])),
        json!(number(set, &["status", "replicas"])),
        json!(number(set, &["status", "readyReplicas"])),
        age_of(set, now),
        json!(template(set, "name")),
        json!(template(set, "image")),
        json!(format_label_selector(meta::get(set, &["spec", "selector"]))),
    ]
    .into()
}

/// A field of each container in the pod template.
fn template(object: &Value, field: &str) -> String {
    let containers = items(object, &["spec", "template", "spec", "containers"]);
    containers.iter().map(|container| meta::str_at(container, &[field])).collect::<Vec<_>>().join(",")
}
