//! Binding a pod to a node, in the pod's bytes: of all writes it is the one made most often, and it changes three fields.

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::codec::Fields;
use crate::error::{ApiError, FieldError};
use crate::meta;

/// What a Binding asks for.
#[derive(Debug)]
pub struct Binding<'a> {
    /// The node.
    pub node: &'a str,
    /// The pod's UID must be this; empty for any.
    uid: &'a str,
    /// The pod's version must be this; empty for any.
    resource_version: &'a str,
    annotations: Option<&'a Map<String, Value>>,
    labels: Option<&'a Map<String, Value>>,
}

impl<'a> Binding<'a> {
    /// Reads a Binding of the pod `name`.
    ///
    /// # Errors
    /// If it names no node, or something else than a node.
    pub fn of(object: &'a Value, name: &str) -> Result<Self, ApiError> {
        let node = meta::str_at(object, &["target", "name"]);
        let kind = meta::str_at(object, &["target", "kind"]);
        let mut errors = Vec::new();
        if !matches!(kind, "" | "Node") {
            errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
        }
        if node.is_empty() {
            errors.push(FieldError::required("target.name", ""));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Binding", name, errors));
        }
        let texts = |key: &str| meta::get(object, &["metadata", key]).and_then(Value::as_object);
        Ok(Self {
            node,
            uid: meta::uid(object),
            resource_version: meta::resource_version(object),
            annotations: texts("annotations"),
            labels: texts("labels"),
        })
    }

    /// The stored bytes of the pod, bound. `pod` is what is stored with its resourceVersion.
    ///
    /// # Errors
    /// A conflict if the pod is not the one that was meant, is being deleted, is bound already or is not to be scheduled yet.
    pub fn apply(&self, pod: &[u8], now: Timestamp) -> Result<Bytes, ApiError> {
        let mut pod = Fields::of(pod)?;
        let (mut metadata, mut spec, mut status) = (pod.below("metadata")?, pod.below("spec")?, pod.below("status")?);
        self.check(&metadata, &spec)?;
        metadata.remove("resourceVersion");
        for (key, added) in [("annotations", self.annotations), ("labels", self.labels)] {
            let Some(added) = added.filter(|added| !added.is_empty()) else { continue };
            let mut texts = metadata.below(key)?;
            for (name, value) in added {
                texts.set(name, value.to_string());
            }
            let texts = texts.encoded();
            metadata.set(key, texts);
        }
        spec.set("nodeName", Value::from(self.node).to_string());
        // Whoever looks for pods that wait for a node must not find one that has it.
        status.remove("nominatedNodeName");
        let conditions = with_scheduled(status.get("conditions").unwrap_or("[]"), now)?;
        status.set("conditions", conditions);
        let parts = [("metadata", metadata.encoded()), ("spec", spec.encoded()), ("status", status.encoded())];
        for (key, value) in parts {
            pod.set(key, value);
        }
        Ok(Bytes::from(pod.encoded()))
    }

    fn check(&self, metadata: &Fields<'_>, spec: &Fields<'_>) -> Result<(), ApiError> {
        let name = metadata.text("name")?;
        let refuse = |why: String| Err(ApiError::conflict("pods/binding", &name, why));
        let expected = [("uid", "UID", self.uid), ("resourceVersion", "ResourceVersion", self.resource_version)];
        for (key, what, wanted) in expected {
            let found = metadata.text(key)?;
            if !wanted.is_empty() && wanted != found {
                return refuse(format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                ));
            }
        }
        if metadata.get("deletionTimestamp").is_some_and(|time| time != "null") {
            return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        let bound = spec.text("nodeName")?;
        if !bound.is_empty() {
            return refuse(format!("pod {name} is already assigned to node \"{bound}\""));
        }
        if spec.get("schedulingGates").is_some_and(|gates| !matches!(gates, "null" | "[]")) {
            return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        Ok(())
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    status: String,
    last_transition_time: Option<String>,
}

/// The conditions, with the one that tells that the pod has its node.
fn with_scheduled(conditions: &str, now: Timestamp) -> Result<String, ApiError> {
    let present: Option<Vec<&RawValue>> = serde_json::from_str(conditions).map_err(ApiError::internal)?;
    let mut since = meta::time(now);
    let mut all: Vec<String> = Vec::new();
    let mut place = None;
    for text in present.unwrap_or_default() {
        let condition: Condition = serde_json::from_str(text.get()).map_err(ApiError::internal)?;
        if condition.r#type == "PodScheduled" {
            place = Some(all.len());
            if condition.status == "True" {
                since = condition.last_transition_time.unwrap_or(since);
            }
        }
        all.push(text.get().to_owned());
    }
    let scheduled =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": since})
            .to_string();
    match place {
        Some(at) => all[at] = scheduled,
        None => all.push(scheduled),
    }
    Ok(format!("[{}]", all.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::error::Reason;

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "uid": "u", "resourceVersion": "7", "labels": {"b": "1", "d": "1"}},
            "spec": {"containers": [{"name": "c", "image": "i"}], "priority": 0},
            "status": {"phase": "Pending", "nominatedNodeName": "n0", "conditions": [
                {"type": "Other", "status": "False"},
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            ]},
        })
    }

    fn at() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn apply(pod: &Value, binding: &Value) -> Result<Value, ApiError> {
        let bytes = Binding::of(binding, "p")?.apply(&codec::encode_whole(pod), at())?;
        let bound = codec::decode(&bytes)?;
        assert_eq!(codec::encode(&bound), bytes, "the bytes are those that the object would be written as");
        Ok(bound)
    }

    #[test]
    fn a_pod_gets_its_node_and_what_the_binding_brings() {
        let binding = json!({"metadata": {"uid": "u", "annotations": {"a": "x"}, "labels": {"b": "2", "c": "3"}}, "target": {"name": "n1"}});
        let mut expected = pod();
        expected["metadata"] =
            json!({"name": "p", "uid": "u", "labels": {"b": "2", "c": "3", "d": "1"}, "annotations": {"a": "x"}});
        expected["spec"]["nodeName"] = json!("n1");
        expected["status"] = json!({"phase": "Pending", "conditions": [
            {"type": "Other", "status": "False"},
            {"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]});
        assert_eq!(apply(&pod(), &binding).unwrap(), expected);
        let mut bare = pod();
        bare["status"] = json!({});
        let bound = apply(&bare, &json!({"target": {"name": "n1"}})).unwrap();
        assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    }

    #[test]
    fn a_pod_that_cannot_be_bound_is_refused() {
        let refused = |change: &dyn Fn(&mut Value), binding: Value| {
            let mut pod = pod();
            change(&mut pod);
            let error = apply(&pod, &binding).unwrap_err();
            (error.reason, error.message)
        };
        let to = || json!({"target": {"name": "n1"}});
        let all = [
            refused(&|pod| pod["spec"]["nodeName"] = json!("n0"), to()),
            refused(&|pod| pod["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z"), to()),
            refused(&|pod| pod["spec"]["schedulingGates"] = json!([{"name": "g"}]), to()),
            refused(&|_| {}, json!({"metadata": {"uid": "v"}, "target": {"name": "n1"}})),
            refused(&|_| {}, json!({"metadata": {"resourceVersion": "6"}, "target": {"name": "n1"}})),
        ];
        let whys = [
            "pod p is already assigned to node \"n0\"",
            "pod p is being deleted, cannot be assigned to a host",
            "pod p has non-empty .spec.schedulingGates",
            "Precondition failed: UID in precondition: v, UID in object meta: u",
            "Precondition failed: ResourceVersion in precondition: 6, ResourceVersion in object meta: 7",
        ];
        for ((reason, message), why) in all.iter().zip(whys) {
            assert!(*reason == Reason::Conflict && message.ends_with(why), "{message}");
        }
        let nowhere = Binding::of(&json!({"target": {"kind": "Pod"}}), "p").unwrap_err();
        assert_eq!((nowhere.reason, nowhere.details.unwrap().causes.len()), (Reason::Invalid, 2));
    }
}
