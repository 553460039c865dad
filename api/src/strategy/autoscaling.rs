//! HorizontalPodAutoscaler, in both versions: what version 1 says is judged in the form of version 2.

use serde_json::{Value, json};

use super::Strategy;
use super::field::{at, child, list, set, set_default};
use super::names::NameRule;
use super::rules::{Declared, Field, Rule};
use crate::error::FieldError;
use crate::kinds::autoscaling::to_v2;

const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;
/// In the order in which they are looked at: the field and the type that goes with it.
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];
const SOURCE_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// HorizontalPodAutoscaler in version 2.
pub static AUTOSCALER: Declared = Declared {
    default: default_v2,
    rules: &[("spec", &[Rule::Always(validate_spec)])],
    status: &[("status.currentReplicas", &[Rule::NonNegative]), ("status.desiredReplicas", &[Rule::NonNegative])],
    ..Declared::PLAIN
};

/// HorizontalPodAutoscaler in version 1.
pub struct AutoscalerV1;

impl Strategy for AutoscalerV1 {
    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        AUTOSCALER.validate_create(&to_v2(object.clone()), errors);
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        AUTOSCALER.validate_update(subresource, &to_v2(old.clone()), &to_v2(new.clone()), errors);
    }
}

fn default_v2(object: &mut Value) {
    if at(object, "spec").is_none() {
        return;
    }
    let spec = child(object, "spec");
    if list(spec, "metrics").is_empty() {
        set(spec, "metrics", json!([cpu_metric(DEFAULT_UTILIZATION)]));
    }
    if at(spec, "behavior").is_some() {
        let behavior = child(spec, "behavior");
        let up = child(behavior, "scaleUp");
        set_default(up, "stabilizationWindowSeconds", 0);
        set_default(up, "selectPolicy", "Max");
        set_default(
            up,
            "policies",
            json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ]),
        );
        let down = child(behavior, "scaleDown");
        set_default(down, "selectPolicy", "Max");
        set_default(down, "policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
    }
}

/// The percentage of the requested processor time that an autoscaler without metrics aims at.
pub(crate) const DEFAULT_UTILIZATION: i64 = 80;

/// A metric of version 2: the processor time used, in percent of what is requested.
pub(crate) fn cpu_metric(percent: i64) -> Value {
    json!({
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}},
    })
}

fn validate_spec(spec: &Field<'_>) {
    let (min, max) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if min.is_set() && min.count() < 1 {
        min.invalid("must be greater than or equal to 1");
    }
    if max.count() < 1 {
        max.invalid("must be greater than 0");
    }
    if min.is_set() && max.count() < min.count() {
        max.invalid("must be greater than or equal to `minReplicas`");
    }
    reference(&spec.get("scaleTargetRef"));
    let metrics = spec.get("metrics");
    metrics.items().for_each(|metric| validate_metric(&metric));
    if min.int() == Some(0) && !metrics.items().any(|m| matches!(m.text_of("type"), "Object" | "External")) {
        metrics.forbidden("must specify at least one Object or External metric to support scaling to zero replicas");
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.get("behavior").get(direction);
        if rules.is_set() {
            validate_rules(&rules);
        }
    }
}

fn reference(reference: &Field<'_>) {
    for key in ["kind", "name"] {
        path_segment(&reference.get(key), "");
    }
    let version = reference.get("apiVersion");
    match version.text().matches('/').count() {
        // The core group is what an absent version means.
        0 | 1 => {}
        _ => version.invalid(format!("unexpected GroupVersion string: {}", version.text())),
    }
}

fn path_segment(name: &Field<'_>, missing: &str) {
    if name.is_empty() {
        name.required(missing);
    }
    NameRule::PathSegment.errors(name.text(), false).into_iter().for_each(|detail| name.invalid(detail));
}

fn validate_rules(rules: &Field<'_>) {
    let window = rules.get("stabilizationWindowSeconds");
    if window.count() < 0 {
        window.invalid("must be greater than or equal to zero");
    }
    if window.count() > WINDOW_SECONDS_MAX {
        window.invalid(format!("must be less than or equal to {WINDOW_SECONDS_MAX}"));
    }
    rules.get("selectPolicy").must(&Rule::OneOf(&["Disabled", "Max", "Min"]));
    let policies = rules.get("policies");
    policies.must(&Rule::Required("must specify at least one Policy"));
    for policy in policies.items() {
        policy.get("type").one_of(&["Percent", "Pods"]);
        for key in ["value", "periodSeconds"] {
            if policy.get(key).count() <= 0 {
                policy.get(key).invalid("must be greater than zero");
            }
        }
        let period = policy.get("periodSeconds");
        if period.count() > PERIOD_SECONDS_MAX {
            period.invalid(format!("must be less than or equal to {PERIOD_SECONDS_MAX}"));
        }
    }
    if rules.get("tolerance").quantity().is_some_and(|tolerance| tolerance.signum() < 0) {
        rules.get("tolerance").invalid("must be greater than or equal to 0");
    }
}

fn validate_metric(metric: &Field<'_>) {
    let kind = metric.get("type");
    kind.must(&Rule::Required("must specify a metric source type"));
    kind.one_of(&SOURCE_TYPES);
    let present: Vec<&str> = SOURCES.iter().map(|(field, _)| *field).filter(|f| metric.get(f).is_set()).collect();
    if let Some(first) = present.first() {
        validate_source(first, &metric.get(first));
    }
    let expected = SOURCES.iter().find(|(_, name)| *name == kind.text()).map(|(field, _)| *field);
    match expected {
        Some(field) if !metric.get(field).is_set() => {
            metric.get(field).required("must populate information for the given metric source");
        }
        Some(_) => {}
        None => kind.unsupported(&SOURCE_TYPES),
    }
    if present.len() != 1 {
        for other in present.iter().filter(|field| Some(**field) != expected) {
            metric.get(other).forbidden("must populate the given metric source only");
        }
    }
}

fn validate_source(name: &str, source: &Field<'_>) {
    let target = source.get("target");
    let (value, average, percent) = (target.get("value"), target.get("averageValue"), target.get("averageUtilization"));
    match name {
        "object" => {
            reference(&source.get("describedObject"));
            path_segment(&source.at("metric.name"), "must specify a metric name");
            validate_target(&target);
            if !value.is_set() && !average.is_set() {
                average.required("must set either a target value or averageValue");
            }
        }
        "external" => {
            path_segment(&source.at("metric.name"), "must specify a metric name");
            validate_target(&target);
            match (value.is_set(), average.is_set()) {
                (false, false) => average.required("must set either a target value for metric or a per-pod target"),
                (true, true) => value.forbidden("may not set both a target value for metric and a per-pod target"),
                _ => {}
            }
        }
        "pods" => {
            path_segment(&source.at("metric.name"), "must specify a metric name");
            validate_target(&target);
            average.must(&Rule::Required("must specify a positive target averageValue"));
        }
        _ => {
            source.get("name").must(&Rule::Required("must specify a resource name"));
            if name == "containerResource" {
                source.get("container").must(&Rule::Required("must specify a container"));
                source.get("container").must(&Rule::Text(super::names::dns1123_label));
            }
            validate_target(&target);
            match (percent.is_set(), average.is_set()) {
                (false, false) => percent.required("must set either a target raw value or a target utilization"),
                (true, true) => average.forbidden("may not set both a target raw value and a target utilization"),
                _ => {}
            }
        }
    }
}

fn validate_target(target: &Field<'_>) {
    let kind = target.get("type");
    kind.must(&Rule::Required("must specify a metric target type"));
    if !matches!(kind.text(), "Utilization" | "Value" | "AverageValue") {
        kind.invalid("must be either Utilization, Value, or AverageValue");
    }
    for key in ["value", "averageValue"] {
        if target.get(key).quantity().is_some_and(|quantity| quantity.signum() <= 0) {
            target.get(key).invalid("must be positive");
        }
    }
    let percent = target.get("averageUtilization");
    if percent.is_set() && percent.count() < 1 {
        percent.invalid("must be greater than 0");
    }
}
