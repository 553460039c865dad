//! The fields that field selectors may name, besides `metadata.name` and `metadata.namespace`.

use std::borrow::Cow;

use crate::kinds::{FieldPath, SelectableField};

const fn with(
    label: &'static str,
    path: &'static [&'static str],
    absent: &'static str,
    or_that_of: Option<&'static str>,
) -> SelectableField {
    SelectableField {
        label: Cow::Borrowed(label),
        path: FieldPath::Fixed(path),
        absent: Cow::Borrowed(absent),
        or_that_of,
    }
}

const fn field(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    with(label, path, "", None)
}

const fn flag(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    with(label, path, "false", None)
}

const fn count(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    with(label, path, "0", None)
}

pub(super) const POD_FIELDS: &[SelectableField] = &[
    field("spec.nodeName", &["spec", "nodeName"]),
    // The name that clients from before version 1 use.
    field("spec.host", &["spec", "nodeName"]),
    field("spec.restartPolicy", &["spec", "restartPolicy"]),
    field("spec.schedulerName", &["spec", "schedulerName"]),
    field("spec.serviceAccountName", &["spec", "serviceAccountName"]),
    flag("spec.hostNetwork", &["spec", "hostNetwork"]),
    field("status.phase", &["status", "phase"]),
    field("status.podIP", &["status", "podIP"]),
    field("status.nominatedNodeName", &["status", "nominatedNodeName"]),
];
pub(super) const NODE_FIELDS: &[SelectableField] = &[flag("spec.unschedulable", &["spec", "unschedulable"])];
pub(super) const NAMESPACE_FIELDS: &[SelectableField] =
    &[field("status.phase", &["status", "phase"]), field("name", &["metadata", "name"])];
pub(super) const SECRET_FIELDS: &[SelectableField] = &[field("type", &["type"])];
pub(super) const SERVICE_FIELDS: &[SelectableField] =
    &[field("spec.clusterIP", &["spec", "clusterIP"]), field("spec.type", &["spec", "type"])];
pub(super) const REPLICAS_FIELDS: &[SelectableField] = &[count("status.replicas", &["status", "replicas"])];
pub(super) const JOB_FIELDS: &[SelectableField] = &[count("status.successful", &["status", "succeeded"])];
pub(super) const REQUEST_FIELDS: &[SelectableField] = &[field("spec.signerName", &["spec", "signerName"])];
pub(super) const SLICE_FIELDS: &[SelectableField] =
    &[field("spec.nodeName", &["spec", "nodeName"]), field("spec.driver", &["spec", "driver"])];
/// The paths are those of the stored form, the core version's; the labels are those of both versions.
pub(super) const EVENT_FIELDS: &[SelectableField] = &[
    field("involvedObject.kind", &["involvedObject", "kind"]),
    field("involvedObject.namespace", &["involvedObject", "namespace"]),
    field("involvedObject.name", &["involvedObject", "name"]),
    field("involvedObject.uid", &["involvedObject", "uid"]),
    field("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
    field("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
    field("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
    field("regarding.kind", &["involvedObject", "kind"]),
    field("regarding.namespace", &["involvedObject", "namespace"]),
    field("regarding.name", &["involvedObject", "name"]),
    field("regarding.uid", &["involvedObject", "uid"]),
    field("regarding.apiVersion", &["involvedObject", "apiVersion"]),
    field("regarding.resourceVersion", &["involvedObject", "resourceVersion"]),
    field("regarding.fieldPath", &["involvedObject", "fieldPath"]),
    field("reason", &["reason"]),
    field("reportingComponent", &["reportingComponent"]),
    field("reportingController", &["reportingComponent"]),
    // Who reports an event in the new way names no source.
    with("source", &["source", "component"], "", Some("reportingComponent")),
    field("type", &["type"]),
];
