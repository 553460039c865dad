//! How nodes, namespaces, leases and kinds without columns of their own are printed.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Doc, OBJECT_META, Printer, Row, Show, age_of, items, name_of, text_or};
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
pub(super) static OTHER: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column { kind: "date", ..Column::text("Created At", Doc::Field(OBJECT_META, "creationTimestamp")) },
        Show::Text(&["metadata", "creationTimestamp"], ""),
    ),
]);

/// A kind that shows its age and nothing else.
pub(super) static NAME_AGE: Printer = Printer::each(&[(Column::NAME, Show::Name), (Column::AGE, Show::Age)]);

pub(super) static COMPONENT_STATUS: Printer = Printer::new(
    &[
        Column::NAME,
        Column::text("Status", Doc::Text("Status of the component conditions")),
        Column::text("Message", Doc::Text("Message of the component conditions")),
        Column::text("Error", Doc::Text("Error of the component conditions")),
    ],
    |component, _| {
        let mut healthy = items(component, &["conditions"]).iter().filter(|c| meta::str_at(c, &["type"]) == "Healthy");
        let none = Value::Null;
        let condition = healthy.next().unwrap_or(&none);
        let status = match meta::str_at(condition, &["status"]) {
            "" => "Unknown",
            "True" => "Healthy",
            _ => "Unhealthy",
        };
        let text = |key: &str| json!(meta::str_at(condition, &[key]));
        vec![name_of(component), json!(status), text("message"), text("error")].into()
    },
);

const PRIORITY: &str = "io.k8s.api.scheduling.v1.PriorityClass";

pub(super) static PRIORITY_CLASS: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::integer("Value", Doc::Field(PRIORITY, "value")), Show::Number(&["value"])),
    (Column::flag("Global-Default", Doc::Field(PRIORITY, "globalDefault")), Show::Flag(&["globalDefault"])),
    (Column::AGE, Show::Age),
    (Column::text("PreemptionPolicy", Doc::Field(PRIORITY, "preemptionPolicy")), Show::Text(&["preemptionPolicy"], "")),
]);

pub(super) static RUNTIME_CLASS: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::text("Handler", Doc::Field("io.k8s.api.node.v1.RuntimeClass", "handler")), Show::Text(&["handler"], "")),
    (Column::AGE, Show::Age),
]);

pub(super) static RESOURCE_CLAIM: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("State", Doc::Text("A summary of the current state (allocated, pending, reserved, etc.).")),
        Show::With(|claim, _| {
            let deleted = meta::is_deleting(claim);
            let allocated = meta::get(claim, &["status", "allocation"]).is_some();
            let reserved = allocated && !items(claim, &["status", "reservedFor"]).is_empty();
            let states = [
                ("deleted", deleted),
                ("pending", !allocated && !deleted),
                ("allocated", allocated),
                ("reserved", reserved),
            ];
            json!(states.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect::<Vec<_>>().join(","))
        }),
    ),
    (Column::AGE, Show::Age),
]);

const SLICE: &str = "io.k8s.api.resource.v1.ResourceSliceSpec";

pub(super) static RESOURCE_SLICE: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::text("Node", Doc::Field(SLICE, "nodeName")), Show::Text(&["spec", "nodeName"], "")),
    (Column::text("Driver", Doc::Field(SLICE, "driver")), Show::Text(&["spec", "driver"], "")),
    (
        Column::text("Pool", Doc::Field("io.k8s.api.resource.v1.ResourcePool", "name")),
        Show::Text(&["spec", "pool", "name"], ""),
    ),
    (Column::AGE, Show::Age),
]);

const GROUP_SPEC: &str = "io.x-k8s.scheduling.v1alpha1.PodGroupSpec";
const GROUP_STATUS: &str = "io.x-k8s.scheduling.v1alpha1.PodGroupStatus";

pub(super) static POD_GROUP: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::text("Phase", Doc::Field(GROUP_STATUS, "phase")), Show::Text(&["status", "phase"], "")),
    (Column::integer("MinMember", Doc::Field(GROUP_SPEC, "minMember")), Show::Number(&["spec", "minMember"])),
    (Column::integer("Scheduled", Doc::Field(GROUP_STATUS, "scheduled")), Show::Number(&["status", "scheduled"])),
    (Column::integer("Running", Doc::Field(GROUP_STATUS, "running")), Show::Number(&["status", "running"])),
    (Column::integer("Succeeded", Doc::Field(GROUP_STATUS, "succeeded")), Show::Number(&["status", "succeeded"])),
    (Column::integer("Failed", Doc::Field(GROUP_STATUS, "failed")), Show::Number(&["status", "failed"])),
    (Column::AGE, Show::Age),
]);

const QUEUE_SPEC: &str = "io.gantry.scheduling.v1alpha1.QueueSpec";
const QUEUE_STATUS: &str = "io.gantry.scheduling.v1alpha1.QueueStatus";

pub(super) static QUEUE: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::text("Parent", Doc::Field(QUEUE_SPEC, "parent")), Show::Text(&["spec", "parent"], "<none>")),
    (Column::integer("Weight", Doc::Field(QUEUE_SPEC, "weight")), Show::Number(&["spec", "weight"])),
    (
        Column::text("Guarantee", Doc::Field(QUEUE_SPEC, "guarantee")),
        Show::With(|queue, _| amounts(queue, &["spec", "guarantee"])),
    ),
    (Column::text("Limit", Doc::Field(QUEUE_SPEC, "limit")), Show::With(|queue, _| amounts(queue, &["spec", "limit"]))),
    (
        Column::text("Used", Doc::Field(QUEUE_STATUS, "used")),
        Show::With(|queue, _| amounts(queue, &["status", "used"])),
    ),
    (Column::text("Share", Doc::Field(QUEUE_STATUS, "share")), Show::Text(&["status", "share"], "<none>")),
    (Column::integer("Waiting", Doc::Field(QUEUE_STATUS, "waiting")), Show::Number(&["status", "waiting"])),
    (Column::AGE, Show::Age),
]);

/// `cpu: 4, memory: 8Gi`.
fn amounts(object: &Value, path: &[&str]) -> Value {
    let amounts = meta::get(object, path).and_then(Value::as_object);
    let shown = |(name, amount): (&String, &Value)| match amount.as_str() {
        Some(text) => format!("{name}: {text}"),
        None => format!("{name}: {amount}"),
    };
    let shown: Vec<String> = amounts.into_iter().flatten().map(shown).collect();
    if shown.is_empty() { json!("<none>") } else { json!(shown.join(", ")) }
}
