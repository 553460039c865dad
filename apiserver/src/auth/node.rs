//! What a node may do: its own objects, and what the pods bound to it need.
//!
//! In: a node's identity and a request. Out: allowed, or no opinion with the reason. Which Secrets and ConfigMaps a node may read
//! follows from the pods that are bound to it now, so a node that is taken over gives away no more than what it runs.

use std::sync::Arc;

use gantry_api::codec;
use gantry_api::kinds::{Catalog, Resource};
use serde_json::Value;

use super::authorizer::{Authorizer, Decision, Request};
use super::identity::Identity;
use crate::cacher::{Cacher, Filter};

/// Decides for identities in `system:nodes`.
pub struct NodeAuthorizer {
    cacher: Arc<Cacher>,
    pods: Arc<Resource>,
    claims: Arc<Resource>,
    volumes: Arc<Resource>,
    attachments: Arc<Resource>,
}

impl NodeAuthorizer {
    /// Decides by what is in the cache; `None` where the kinds are not known by which it does.
    pub fn new(cacher: &Arc<Cacher>, catalog: &Catalog) -> Option<Self> {
        let kind = |group: &str, plural: &str| catalog.resource(group, "v1", plural).map(Arc::clone);
        Some(Self {
            cacher: Arc::clone(cacher),
            pods: kind("", "pods")?,
            claims: kind("", "persistentvolumeclaims")?,
            volumes: kind("", "persistentvolumes")?,
            attachments: kind("storage.k8s.io", "volumeattachments")?,
        })
    }

    /// The pods on a node, in a namespace or (with an empty one) in all.
    fn pods_on(&self, node: &str, namespace: &str) -> Vec<Value> {
        let Some(cache) = self.cacher.resource(&self.pods) else {
            return Vec::new();
        };
        let filter = Filter { namespace: namespace.to_owned(), fields: node_filter(node), ..Filter::default() };
        let prefix = self.pods.prefix((!namespace.is_empty()).then_some(namespace));
        let page = cache.list(&prefix, None, 0, &filter);
        page.entries.iter().filter_map(|entry| codec::decode(&entry.object).ok()).collect()
    }

    fn object(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Value> {
        let entry = self.cacher.resource(resource)?.get(&resource.key(namespace, name))?;
        codec::decode(&entry.object).ok()
    }

    /// Whether a volume of the cluster is one that a pod on the node has a claim on.
    fn is_claimed(&self, node: &str, volume: &str) -> bool {
        let Some(volume) = self.object(&self.volumes, "", volume) else { return false };
        let claim = &volume["spec"]["claimRef"];
        let (Some(namespace), Some(name)) = (claim["namespace"].as_str(), claim["name"].as_str()) else { return false };
        self.pods_on(node, namespace).iter().any(|pod| references(pod, "persistentvolumeclaims", name))
    }

    /// Whether the driver of a volume that a pod on the node has a claim on needs a secret.
    fn is_secret_of_volume(&self, node: &str, request: &Request) -> bool {
        let wanted = |reference: &Value| {
            reference["namespace"] == request.namespace.as_str() && reference["name"] == request.name.as_str()
        };
        self.pods_on(node, "").iter().any(|pod| {
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
            claims(pod).iter().any(|claim| {
                let claim = self.object(&self.claims, namespace, claim).unwrap_or_default();
                let volume = claim["spec"]["volumeName"].as_str();
                let volume = volume.and_then(|name| self.object(&self.volumes, "", name)).unwrap_or_default();
                let csi = &volume["spec"]["csi"];
                ["nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
                    .iter()
                    .any(|key| wanted(&csi[*key]))
            })
        })
    }

    /// Whether an attachment is one to this node.
    fn is_attached_here(&self, node: &str, name: &str) -> bool {
        self.object(&self.attachments, "", name).is_none_or(|attachment| attachment["spec"]["nodeName"] == node)
    }

    /// Whether a pod on the node names the object.
    fn is_referenced(&self, node: &str, request: &Request) -> bool {
        !request.name.is_empty()
            && !request.namespace.is_empty()
            && self
                .pods_on(node, &request.namespace)
                .iter()
                .any(|pod| references(pod, &request.resource, &request.name))
    }
}

fn node_filter(node: &str) -> Option<gantry_api::selector::FieldSelector> {
    gantry_api::selector::FieldSelector::parse(&format!("{}={node}", crate::cacher::NODE_FIELD)).ok()
}

/// Whether a pod's spec names a Secret, ConfigMap, claim or service account.
fn references(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    if resource == "serviceaccounts" {
        return spec["serviceAccountName"] == name;
    }
    let keys: &[&str] = match resource {
        "secrets" => &["secretName", "secretRef", "secretKeyRef", "secret", "imagePullSecrets", "nodePublishSecretRef"],
        "configmaps" => &["configMap", "configMapRef", "configMapKeyRef"],
        "persistentvolumeclaims" => return claims(pod).iter().any(|claim| claim == name),
        _ => return false,
    };
    names_below(spec, keys, name, 0)
}

/// The names of the claims that a pod has.
fn claims(pod: &Value) -> Vec<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let claim = |volume: &Value| {
        let claimed = volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned);
        // One of its own is named after the pod.
        let own = || Some(format!("{name}-{}", volume["name"].as_str()?));
        claimed.or_else(|| volume["ephemeral"].is_object().then(own).flatten())
    };
    volumes.filter_map(claim).collect()
}

/// Looks below any of `keys` for the name; specs are shallow, and depth is bounded by the decoder.
fn names_below(value: &Value, keys: &[&str], name: &str, depth: usize) -> bool {
    if depth > 32 {
        return false;
    }
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            (keys.contains(&key.as_str()) && is_named(value, name)) || names_below(value, keys, name, depth + 1)
        }),
        Value::Array(items) => items.iter().any(|item| names_below(item, keys, name, depth + 1)),
        _ => false,
    }
}

fn is_named(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text == name,
        Value::Array(items) => items.iter().any(|item| is_named(item, name)),
        _ => ["name", "secretName", "claimName"].iter().any(|key| value[*key] == name),
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, identity: &Identity, request: &Request) -> Decision {
        let Some(node) = identity.node_name() else {
            return Decision::NoOpinion(String::new());
        };
        if !request.is_resource {
            return Decision::NoOpinion(String::new());
        }
        let verb = request.verb.as_str();
        let reads = matches!(verb, "get" | "list" | "watch");
        let own = request.name.is_empty() || request.name == node;
        let allowed = match (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()) {
            ("", "nodes", "") => reads || verb == "create" || (own && matches!(verb, "update" | "patch")),
            ("", "nodes", "status") => own && matches!(verb, "get" | "update" | "patch"),
            // Pods: admission narrows writes to the node's own; reads must select them.
            ("", "pods", "") => match verb {
                "list" | "watch" => request.node_selector.as_deref() == Some(node) || self.reads_own_pod(node, request),
                "get" => self.may_see_pod(node, request),
                "create" | "delete" => true,
                _ => false,
            },
            ("", "pods", "status") => matches!(verb, "get" | "update" | "patch"),
            ("", "pods", "eviction") => verb == "create",
            ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => {
                if !reads {
                    false
                } else if self.is_referenced(node, request)
                    || (request.resource == "secrets" && verb == "get" && self.is_secret_of_volume(node, request))
                {
                    true
                } else {
                    return Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"));
                }
            }
            ("", "persistentvolumeclaims", "status") => {
                matches!(verb, "get" | "update" | "patch") && self.is_referenced(node, request)
            }
            ("", "persistentvolumes", "") => verb == "get" && self.is_claimed(node, &request.name),
            ("storage.k8s.io", "volumeattachments", "") => verb == "get" && self.is_attached_here(node, &request.name),
            ("storage.k8s.io", "csinodes", "") => {
                verb == "create" || (request.name == node && matches!(verb, "get" | "update" | "patch" | "delete"))
            }
            ("", "serviceaccounts", "") => verb == "get" && self.is_referenced(node, request),
            ("", "serviceaccounts", "token") => verb == "create" && self.is_referenced(node, request),
            ("", "services" | "namespaces" | "endpoints", "") => reads,
            ("discovery.k8s.io", "endpointslices", "") => reads,
            ("coordination.k8s.io", "leases", "") => {
                request.namespace == "kube-node-lease"
                    && (verb == "create"
                        || (request.name == node && matches!(verb, "get" | "update" | "patch" | "delete")))
            }
            ("" | "events.k8s.io", "events", "") => matches!(verb, "create" | "patch" | "update"),
            ("node.k8s.io", "runtimeclasses", "") | ("storage.k8s.io", "csidrivers", "") => reads,
            ("authentication.k8s.io", "tokenreviews", "") | ("authorization.k8s.io", "subjectaccessreviews", "") => {
                verb == "create"
            }
            _ => false,
        };
        if allowed { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

impl NodeAuthorizer {
    /// Its own pods, and pods that are not there, so that it learns that they are gone.
    fn may_see_pod(&self, node: &str, request: &Request) -> bool {
        let cache = self.cacher.resource(&self.pods);
        let entry = cache.and_then(|cache| cache.get(&self.pods.key(&request.namespace, &request.name)));
        entry.is_none_or(|entry| entry.facts.fields.get(crate::cacher::NODE_FIELD).is_some_and(|name| name == node))
    }

    fn reads_own_pod(&self, node: &str, request: &Request) -> bool {
        !request.name.is_empty() && !request.namespace.is_empty() && self.may_see_pod(node, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_wherever_a_spec_names_them() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "vol"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}}, {"name": "own", "ephemeral": {}},
                {"name": "d", "csi": {"nodePublishSecretRef": {"name": "publish"}}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "ca"}}, {"secret": {"name": "proj"}}]}}],
            "containers": [{"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}], "envFrom": [{"configMapRef": {"name": "env"}}]}],
        }});
        for (resource, name, found) in [
            ("secrets", "pull", true),
            ("secrets", "vol", true),
            ("secrets", "proj", true),
            ("secrets", "key", true),
            ("secrets", "publish", true),
            ("persistentvolumeclaims", "claim", true),
            ("persistentvolumeclaims", "p-own", true),
            ("persistentvolumeclaims", "own", false),
            ("secrets", "ca", false),
            ("secrets", "other", false),
            ("configmaps", "ca", true),
            ("configmaps", "env", true),
            ("configmaps", "vol", false),
            ("serviceaccounts", "sa", true),
        ] {
            assert_eq!(references(&pod, resource, name), found, "{resource} {name}");
        }
    }
}
