//! The scopes of a quota: which objects it is about.

use serde_json::Value;

use crate::meta;
use crate::strategy::pod::qos_class;

/// One condition on an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// `Terminating`, `PriorityClass`, ….
    pub scope: String,
    /// `Exists`, `DoesNotExist`, `In`, `NotIn`.
    pub operator: String,
    /// The values of `In` and `NotIn`.
    pub values: Vec<String>,
}

/// What a quota's scopes and scope selector ask of an object.
pub fn selectors(quota: &Value) -> Vec<Selector> {
    let list = |path: &[&str]| meta::get(quota, path).and_then(Value::as_array).into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plain = list(&["spec", "scopes"]).map(|scope| Selector {
        scope: text(scope),
        operator: "Exists".to_owned(),
        values: Vec::new(),
    });
    let expressions = list(&["spec", "scopeSelector", "matchExpressions"]).map(|expression| Selector {
        scope: text(&expression["scopeName"]),
        operator: text(&expression["operator"]),
        values: expression["values"].as_array().into_iter().flatten().map(text).collect(),
    });
    plain.chain(expressions).collect()
}

/// Whether one of `names` satisfies the selector; none of them is an object without the field.
fn names_match(selector: &Selector, names: &[&str]) -> bool {
    let listed = || names.iter().any(|name| selector.values.iter().any(|value| value == name));
    match selector.operator.as_str() {
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        "In" => listed(),
        "NotIn" => !listed(),
        _ => false,
    }
}

/// The facts about a pod that scopes ask for.
pub(super) fn facts(pod: &Value) -> (bool, bool) {
    (is_terminating(pod), is_best_effort(pod))
}

fn is_terminating(pod: &Value) -> bool {
    meta::get(pod, &["spec", "activeDeadlineSeconds"]).and_then(Value::as_i64).is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(pod: &Value) -> bool {
    match meta::str_at(pod, &["status", "qosClass"]) {
        "" => pod.get("spec").is_some_and(|spec| qos_class(spec) == "BestEffort"),
        class => class == "BestEffort",
    }
}

pub(super) fn pod_is_in(selector: &Selector, pod: &Value) -> bool {
    match selector.scope.as_str() {
        "Terminating" => is_terminating(pod),
        "NotTerminating" => !is_terminating(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = meta::str_at(pod, &["spec", "priorityClassName"]);
            names_match(selector, if class.is_empty() { &[] } else { std::slice::from_ref(&class) })
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|names| !names.is_empty()) || !term["namespaceSelector"].is_null()
    };
    let terms = |kind: &str, when: &str| {
        meta::get(pod, &["spec", "affinity", kind, when]).and_then(Value::as_array).into_iter().flatten()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        terms(kind, "requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || terms(kind, "preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

pub(super) fn claim_is_in(selector: &Selector, claim: &Value) -> bool {
    if selector.scope != "VolumeAttributesClass" {
        return false;
    }
    let paths: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    let names: Vec<&str> = paths.iter().map(|path| meta::str_at(claim, path)).filter(|name| !name.is_empty()).collect();
    names_match(selector, &names)
}
