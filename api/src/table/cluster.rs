//! How nodes, namespaces, leases and kinds without columns of their own are printed.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Doc, Printer, Row, age_of, items, name_of, text_or};
use crate::meta;

const NODE_INFO: &str = "io.k8s.api.core.v1.NodeSystemInfo";
const NODE_STATUS: &str = "io.k8s.api.core.v1.NodeStatus";
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) static NODE: Printer = Printer::new(
    &[
        Column::NAME,
        Column::text("Status", Doc::Text("The status of the node")),
        Column::text("Roles", Doc::Text("The roles of the node")),
        Column::AGE,
        Column::text("Version", Doc::Field(NODE_INFO, "kubeletVersion")),
        Column::wide("Internal-IP", Doc::Field(NODE_STATUS, "addresses")),
        Column::wide("External-IP", Doc::Field(NODE_STATUS, "addresses")),
        Column::wide("OS-Image", Doc::Field(NODE_INFO, "osImage")),
        Column::wide("Kernel-Version", Doc::Field(NODE_INFO, "kernelVersion")),
        Column::wide("Container-Runtime", Doc::Field(NODE_INFO, "containerRuntimeVersion")),
    ],
    node,
);

fn node(node: &Value, now: Timestamp) -> Row {
    let info = |field: &str| text_or(node, &["status", "nodeInfo", field], "<unknown>");
    vec![
        name_of(node),
        json!(node_status(node)),
        json!(node_roles(node)),
        age_of(node, now),
        json!(meta::str_at(node, &["status", "nodeInfo", "kubeletVersion"])),
        json!(node_address(node, "InternalIP")),
        json!(node_address(node, "ExternalIP")),
        json!(info("osImage")),
        json!(info("kernelVersion")),
        json!(info("containerRuntimeVersion")),
    ]
    .into()
}

fn node_status(node: &Value) -> String {
    let mut ready =
        items(node, &["status", "conditions"]).iter().rev().filter(|c| meta::str_at(c, &["type"]) == "Ready");
    let ready = match ready.next() {
        None => "Unknown",
        Some(condition) if meta::str_at(condition, &["status"]) == "True" => "Ready",
        Some(_) => "NotReady",
    };
    let unschedulable = meta::get(node, &["spec", "unschedulable"]).and_then(Value::as_bool).unwrap_or_default();
    if unschedulable { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

fn node_roles(node: &Value) -> String {
    let labels = meta::get(node, &["metadata", "labels"]).and_then(Value::as_object);
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE_PREFIX) {
        Some(role) => Some(role.to_owned()),
        None if key == ROLE_LABEL => value.as_str().map(str::to_owned),
        None => None,
    };
    let roles: BTreeSet<String> =
        labels.into_iter().flatten().filter_map(role).filter(|role| !role.is_empty()).collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn node_address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let mut found = items(node, &["status", "addresses"]).iter().filter(|a| meta::str_at(a, &["type"]) == kind);
    found.next().map_or("<none>", |address| meta::str_at(address, &["address"]))
}

pub(super) static NAMESPACE: Printer = Printer::new(
    &[Column::NAME, Column::text("Status", Doc::Text("The status of the namespace")), Column::AGE],
    |namespace, now| {
        let phase = meta::str_at(namespace, &["status", "phase"]);
        vec![name_of(namespace), json!(phase), age_of(namespace, now)].into()
    },
);

pub(super) static LEASE: Printer = Printer::new(
    &[
        Column::NAME,
        Column::text("Holder", Doc::Field("io.k8s.api.coordination.v1.LeaseSpec", "holderIdentity")),
        Column::AGE,
    ],
    |lease, now| {
        let holder = meta::str_at(lease, &["spec", "holderIdentity"]);
        vec![name_of(lease), json!(holder), age_of(lease, now)].into()
    },
);

/// A kind without columns of its own.
pub(super) static OTHER: Printer =
    Printer::new(&[Column::NAME, Column::AGE], |object, now| vec![name_of(object), age_of(object, now)].into());
