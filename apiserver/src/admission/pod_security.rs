//! `PodSecurity`: the labels of a namespace say what its pods may do. What each level forbids is decided by
//! [`gantry_api::policy::pod_security`].

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use gantry_api::policy::pod_security::{Level, Policy, Standard, details, evaluate, reasons};
use gantry_api::{ApiError, codec, meta};
use serde_json::Value;

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::{Known, Registry};

/// How many pods of a namespace are looked at when it becomes stricter; Kubernetes looks at as many.
const PODS_MAX: usize = 3000;
/// Subresources of pods that change nothing of what a pod may do.
const HARMLESS: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

pub(super) struct PodSecurity;

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        Phases::validate_if(matches!(attributes.operation, Operation::Create | Operation::Update))
    }

    fn depends_on(&self, _: &Attributes<'_>, _: &Registry) -> Dependence {
        Dependence::Kind(Known::Namespaces)
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        if attributes.is("", "namespaces") {
            return namespace(attributes, object, registry);
        }
        if attributes.is_any("", "pods") {
            if HARMLESS.contains(&attributes.subresource) {
                return Ok(());
            }
            let changed = attributes.operation == Operation::Create
                || attributes.old.is_none_or(|old| is_significant(old, object));
            return if changed { pod(attributes, object, true, registry).await } else { Ok(()) };
        }
        match template(attributes, object) {
            Some(template) => pod(attributes, template, false, registry).await,
            None => Ok(()),
        }
    }
}

/// The pod that a workload would make.
fn template<'a>(attributes: &Attributes<'_>, object: &'a Value) -> Option<&'a Value> {
    if !attributes.subresource.is_empty() {
        return None;
    }
    match (attributes.resource.group.as_str(), attributes.resource.plural.as_str()) {
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets")
        | ("batch", "jobs") => meta::get(object, &["spec", "template"]),
        ("batch", "cronjobs") => meta::get(object, &["spec", "jobTemplate", "spec", "template"]),
        ("", "podtemplates") => meta::get(object, &["template"]),
        _ => None,
    }
}

/// What else of a running pod can change is of no interest: new containers, or new images of old ones.
fn is_significant(old: &Value, new: &Value) -> bool {
    let images = |pod: &Value, list: &str| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let containers = meta::get(pod, &["spec", list]).and_then(Value::as_array).into_iter().flatten();
        containers.map(|container| (text(&container["name"]), text(&container["image"]))).collect()
    };
    if ["containers", "initContainers"].iter().any(|list| {
        let image = |pod| images(pod, list).into_iter().map(|(_, image)| image).collect::<Vec<_>>();
        image(old) != image(new)
    }) {
        return true;
    }
    let before = images(old, "ephemeralContainers");
    images(new, "ephemeralContainers").iter().any(|container| !before.contains(container))
}

async fn pod(attributes: &Attributes<'_>, pod: &Value, enforce: bool, registry: &Registry) -> Result<(), ApiError> {
    let Some(found) = attributes.namespace_now(registry).await? else {
        return Ok(());
    };
    // Most namespaces ask for nothing and are not worth a parse.
    if memchr::memmem::find(&found.bytes, b"pod-security.kubernetes.io/").is_none() {
        return Ok(());
    }
    let namespace = codec::decode(&found.bytes)?;
    let (policy, _) = Policy::of_labels(meta::get(&namespace, &["metadata", "labels"]));
    if policy.is_privileged() {
        return Ok(());
    }
    let judge = |standard: Standard| evaluate(standard, &pod["metadata"], &pod["spec"]);
    let notes = attributes.notes();
    if enforce {
        notes.annotate("pod-security.kubernetes.io/enforce-policy", policy.enforce.to_string());
        let violations = judge(policy.enforce);
        if !violations.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&violations));
            return Err(attributes.forbidden(why));
        }
    }
    let would = |standard: Standard| {
        let violations = judge(standard);
        (!violations.is_empty()).then(|| format!("would violate PodSecurity \"{standard}\": {}", details(&violations)))
    };
    if let Some(text) = would(policy.audit) {
        notes.annotate("pod-security.kubernetes.io/audit-violations", text);
    }
    if let Some(text) = would(policy.warn) {
        notes.warn(text);
    }
    Ok(())
}

/// A namespace's labels must be right; who makes it stricter is told which of its pods would not be let in any more.
fn namespace(attributes: &Attributes<'_>, object: &Value, registry: &Registry) -> Result<(), ApiError> {
    let labels = |namespace| Policy::of_labels(meta::get(namespace, &["metadata", "labels"]));
    let (policy, errors) = labels(object);
    let (before, errors_before) = attributes.old.map_or((Policy::PRIVILEGED, Vec::new()), labels);
    if !errors.is_empty() && errors != errors_before {
        return Err(ApiError::invalid("", "Namespace", attributes.name, errors));
    }
    let (new, old) = (policy.enforce, before.enforce);
    let relaxed = new.version == old.version && new.level <= old.level;
    if attributes.operation != Operation::Update || new.level == Level::Privileged || relaxed {
        return Ok(());
    }
    for warning in pods_beyond(registry, attributes.name, new)? {
        attributes.notes().warn(warning);
    }
    Ok(())
}

/// What is told about the pods of a namespace that are beyond a standard.
fn pods_beyond(registry: &Registry, namespace: &str, standard: Standard) -> Result<Vec<String>, ApiError> {
    let catalog = registry.catalog();
    let pods = catalog.resource("", "v1", "pods");
    let Some((cache, pods)) = pods.and_then(|pods| Some((registry.cacher().resource(pods)?, pods))) else {
        return Ok(Vec::new());
    };
    let page = cache.list(&pods.prefix(Some(namespace)), None, 0, &Default::default());
    let total = page.entries.len();
    // One pod of each owner first: its siblings are like it.
    let (mut seen, mut ordered, mut siblings) = (BTreeSet::new(), Vec::new(), Vec::new());
    for entry in &page.entries {
        let first = entry.facts.owners.first().is_none_or(|owner| seen.insert(owner.clone()));
        if first { ordered.push(entry) } else { siblings.push(entry) }
    }
    ordered.extend(siblings);
    ordered.truncate(PODS_MAX);
    let mut warnings = Vec::new();
    if ordered.len() < total {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {} of {total} existing pods",
            ordered.len()
        ));
    }
    let mut beyond: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for entry in ordered {
        let pod = codec::decode(&entry.object)?;
        let violations = evaluate(standard, &pod["metadata"], &pod["spec"]);
        if !violations.is_empty() {
            beyond.entry(reasons(&violations)).or_default().insert(&entry.facts.name);
        }
    }
    if !beyond.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut told: Vec<String> = beyond
        .into_iter()
        .map(|(why, names)| {
            let first = names.first().copied().unwrap_or_default();
            match names.len() {
                1 => format!("{first}: {why}"),
                2 => format!("{first} (and 1 other pod): {why}"),
                many => format!("{first} (and {} other pods): {why}", many - 1),
            }
        })
        .collect();
    told.sort_unstable();
    warnings.extend(told);
    Ok(warnings)
}
