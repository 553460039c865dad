//! Version 1 of a HorizontalPodAutoscaler, stored as version 2.
//!
//! Version 1 has one metric, the processor time. What else version 2 says travels in annotations, in the form of version
//! 1's own types, so that an object that is read and written in version 1 loses nothing.

use serde_json::{Map, Value, json};

use super::Conversion;
use crate::error::ApiError;
use crate::meta;
use crate::strategy::autoscaling::{DEFAULT_UTILIZATION, cpu_metric};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Converts between `autoscaling/v1` and `autoscaling/v2`.
pub struct AutoscalerVersions;

impl Conversion for AutoscalerVersions {
    fn to_storage(&self, object: Value) -> Result<Value, ApiError> {
        Ok(to_v2(object))
    }

    fn out_of_storage(&self, object: Value) -> Result<Value, ApiError> {
        Ok(to_v1(object))
    }
}

/// An object of version 1 in the form of version 2.
pub(crate) fn to_v2(mut object: Value) -> Value {
    object["apiVersion"] = json!("autoscaling/v2");
    let mut annotated = |name: &str| {
        let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
        let text = annotations.remove(name)?;
        if annotations.is_empty() {
            meta::metadata_mut(&mut object).remove("annotations");
        }
        serde_json::from_str::<Value>(text.as_str()?).ok()
    };
    let metrics = annotated(METRICS);
    let current = annotated(CURRENT_METRICS);
    let conditions = annotated(CONDITIONS);
    let behavior = annotated(BEHAVIOR);
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut all: Vec<Value> = items(metrics).map(|metric| metric_to_v2(metric, false)).collect();
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage").and_then(|p| p.as_i64()) {
            all.push(cpu_metric(percent));
        }
        if all.is_empty() {
            all.push(cpu_metric(DEFAULT_UTILIZATION));
        }
        spec.insert("metrics".to_owned(), Value::Array(all));
        if let Some(behavior) = behavior.filter(|b| b.as_object().is_some_and(|b| !b.is_empty())) {
            spec.insert("behavior".to_owned(), rename_behavior(behavior, str::to_ascii_lowercase));
        }
    }
    let has_more = current.is_some() || conditions.is_some();
    if has_more || object.get("status").is_some_and(Value::is_object) {
        let status = meta::object_mut(&mut object, "status");
        let percent = status.remove("currentCPUUtilizationPercentage");
        let metrics: Vec<Value> = match (current, percent) {
            (Some(current), _) => items(Some(current)).map(|metric| metric_to_v2(metric, true)).collect(),
            (None, Some(percent)) => {
                vec![
                    json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}),
                ]
            }
            (None, None) => Vec::new(),
        };
        if !metrics.is_empty() {
            status.insert("currentMetrics".to_owned(), Value::Array(metrics));
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
    }
    object
}

/// An object of version 2 in the form of version 1.
pub(crate) fn to_v1(mut object: Value) -> Value {
    object["apiVersion"] = json!("autoscaling/v1");
    let mut told: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics: Vec<Value> = items(spec.remove("metrics")).collect();
        let percent = metrics.iter().find_map(utilization);
        let others: Vec<Value> =
            metrics.into_iter().filter(|m| utilization(m).is_none()).map(|m| metric_to_v1(m, false)).collect();
        if let Some(percent) = percent {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
        }
        if !others.is_empty() {
            told.push((METRICS, Value::Array(others)));
        }
        if let Some(behavior) = spec.remove("behavior") {
            told.push((BEHAVIOR, rename_behavior(behavior, capital)));
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let current: Vec<Value> = items(status.remove("currentMetrics")).collect();
        let percent = current.iter().rev().find_map(|metric| {
            let cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
            metric.pointer("/resource/current/averageUtilization").filter(|_| cpu).cloned()
        });
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
        if !current.is_empty() {
            let current: Vec<Value> = current.into_iter().map(|metric| metric_to_v1(metric, true)).collect();
            told.push((CURRENT_METRICS, Value::Array(current)));
        }
        if let Some(conditions) = status.remove("conditions").filter(|c| c.as_array().is_some_and(|c| !c.is_empty())) {
            told.push((CONDITIONS, conditions));
        }
        for count in ["currentReplicas", "desiredReplicas"] {
            status.entry(count).or_insert_with(|| json!(0));
        }
    }
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        for name in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR] {
            annotations.remove(name);
        }
    }
    if !told.is_empty() {
        let metadata = meta::metadata_mut(&mut object);
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        for (name, value) in told {
            annotations[name] = json!(value.to_string());
        }
    }
    object
}

fn items(list: Option<Value>) -> impl Iterator<Item = Value> {
    list.and_then(|list| if let Value::Array(items) = list { Some(items) } else { None })
        .unwrap_or_default()
        .into_iter()
}

/// The percentage of a metric that version 1 has a field for.
fn utilization(metric: &Value) -> Option<Value> {
    let cpu = metric["type"] == "Resource" && metric["resource"]["name"] == "cpu";
    metric.pointer("/resource/target/averageUtilization").filter(|_| cpu).cloned()
}

/// The annotation holds the fields under Go's names.
fn rename_behavior(behavior: Value, first: fn(&str) -> String) -> Value {
    match behavior {
        Value::Object(map) => {
            let renamed = map.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| {
                let (head, tail) = key.split_at(key.chars().next().map_or(0, char::len_utf8));
                (format!("{}{tail}", first(head)), rename_behavior(value, first))
            });
            Value::Object(renamed.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(|item| rename_behavior(item, first)).collect()),
        other => other,
    }
}

fn capital(head: &str) -> String {
    head.to_ascii_uppercase()
}

/// Where a metric's source of version 1 keeps what version 2 keeps below `target` or `current`: source, field of version
/// 1, field of version 2. `T` stands for `target` or `current`, as the field's name begins.
const VALUES: [(&str, &str, &str); 8] = [
    ("object", "averageValue", "averageValue"),
    ("object", "TValue", "value"),
    ("pods", "TAverageValue", "averageValue"),
    ("resource", "TAverageUtilization", "averageUtilization"),
    ("resource", "TAverageValue", "averageValue"),
    ("containerResource", "TAverageUtilization", "averageUtilization"),
    ("containerResource", "TAverageValue", "averageValue"),
    ("external", "TValue", "value"),
];

fn values(source: &str, observed: bool) -> impl Iterator<Item = (String, &'static str)> {
    let prefix = if observed { "current" } else { "target" };
    let per_pod = format!("{prefix}AverageValue");
    let external = (source == "external").then_some((per_pod, "averageValue"));
    let source = source.to_owned();
    let fitting = VALUES.iter().filter(move |(name, _, _)| *name == source);
    let named = fitting.map(move |(_, v1, v2)| {
        let v1 = v1.strip_prefix('T').map_or_else(|| (*v1).to_owned(), |rest| format!("{prefix}{rest}"));
        (v1, *v2)
    });
    named.chain(external)
}

fn metric_to_v2(metric: Value, observed: bool) -> Value {
    let Value::Object(metric) = metric else { return metric };
    let part = if observed { "current" } else { "target" };
    let convert = |source: &str, body: Value| {
        let Value::Object(mut body) = body else { return body };
        let mut held = Map::new();
        for (v1, v2) in values(source, observed) {
            if let Some(value) = body.remove(&v1) {
                held.insert(v2.to_owned(), value);
            }
        }
        if !observed {
            let kind = match (source, held.contains_key("averageUtilization"), held.contains_key("averageValue")) {
                (_, true, _) => "Utilization",
                ("object" | "external", _, true) | ("pods" | "resource" | "containerResource", ..) => "AverageValue",
                _ => "Value",
            };
            held.insert("type".to_owned(), json!(kind));
        }
        if source == "object"
            && let Some(target) = body.remove("target")
        {
            body.insert("describedObject".to_owned(), target);
        }
        let mut identifier = Map::new();
        for (v1, v2) in [("metricName", "name"), ("selector", "selector"), ("metricSelector", "selector")] {
            if let Some(value) = body.remove(v1) {
                identifier.insert(v2.to_owned(), value);
            }
        }
        if !identifier.is_empty() {
            body.insert("metric".to_owned(), Value::Object(identifier));
        }
        body.insert(part.to_owned(), Value::Object(held));
        Value::Object(body)
    };
    each_source(metric, convert)
}

fn metric_to_v1(metric: Value, observed: bool) -> Value {
    let Value::Object(metric) = metric else { return metric };
    let part = if observed { "current" } else { "target" };
    let convert = |source: &str, body: Value| {
        let Value::Object(mut body) = body else { return body };
        let held = body.remove(part).unwrap_or_default();
        if let Some(described) = body.remove("describedObject") {
            body.insert("target".to_owned(), described);
        }
        for (v1, v2) in values(source, observed) {
            if let Some(value) = held.get(v2) {
                body.insert(v1, value.clone());
            }
        }
        if let Some(Value::Object(mut identifier)) = body.remove("metric") {
            if let Some(name) = identifier.remove("name") {
                body.insert("metricName".to_owned(), name);
            }
            if let Some(selector) = identifier.remove("selector") {
                let key = if source == "external" { "metricSelector" } else { "selector" };
                body.insert(key.to_owned(), selector);
            }
        }
        Value::Object(body)
    };
    each_source(metric, convert)
}

fn each_source(metric: Map<String, Value>, convert: impl Fn(&str, Value) -> Value) -> Value {
    let parts = metric.into_iter().map(|(key, value)| {
        let value = if value.is_object() { convert(&key, value) } else { value };
        (key, value)
    });
    Value::Object(parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_loses_nothing_of_version_2() {
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"},
                "minReplicas": 1, "maxReplicas": 5,
                "metrics": [
                    {"type": "Pods", "pods": {
                        "metric": {"name": "rate", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "3"},
                    }},
                    {"type": "Object", "object": {
                        "describedObject": {"kind": "Ingress", "name": "x", "apiVersion": "networking.k8s.io/v1"},
                        "metric": {"name": "hits"}, "target": {"type": "Value", "value": "10k"},
                    }},
                    {"type": "External", "external": {
                        "metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "30"},
                    }},
                    cpu_metric(60),
                ],
                "behavior": {"scaleDown": {"selectPolicy": "Max", "policies": [
                    {"type": "Percent", "value": 10, "periodSeconds": 60},
                ]}},
            },
            "status": {
                "currentReplicas": 2, "desiredReplicas": 3,
                "currentMetrics": [{"type": "Resource", "resource": {
                    "name": "cpu", "current": {"averageUtilization": 41, "averageValue": "100m"},
                }}],
                "conditions": [{"type": "AbleToScale", "status": "True"}],
            },
        });
        let v1 = to_v1(v2.clone());
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 60);
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 41);
        let metrics = v1["metadata"]["annotations"][METRICS].as_str().unwrap();
        assert!(metrics.contains(r#""targetAverageValue":"3""#), "{metrics}");
        let behavior = v1["metadata"]["annotations"][BEHAVIOR].as_str().unwrap();
        assert!(behavior.contains(r#""ScaleDown":{"Policies":[{"PeriodSeconds":60"#), "{behavior}");
        assert_eq!(to_v2(v1), v2);
    }

    #[test]
    fn an_autoscaler_of_version_1_without_a_target_aims_at_the_default() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 2}});
        assert_eq!(to_v2(v1)["spec"]["metrics"], json!([cpu_metric(80)]));
    }
}
