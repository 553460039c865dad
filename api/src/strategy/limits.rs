//! ResourceQuota and LimitRange: what a namespace may use.

use serde_json::Value;

use super::field::{at, child, deep, entries, list_mut, set, text};
use super::names;
use super::rules::{Declared, Field, Rule};
use crate::error::FieldError;
use crate::quantity::Quantity;

/// Resources without a domain that a quota may name.
const QUOTA: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
/// Of these there are only whole ones.
const WHOLE: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const CONTAINER: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];
const COMPUTE: [&str; 6] = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// ResourceQuota.
pub static RESOURCE_QUOTA: Declared = Declared {
    rules: &[("spec.hard", &[Rule::Check(quota_amounts)]), ("spec", &[Rule::Check(scopes)])],
    status: &[("status.hard", &[Rule::Check(quota_amounts)]), ("status.used", &[Rule::Check(quota_amounts)])],
    update: |subresource, old, new| {
        let sorted = |quota: &Field<'_>| {
            let mut scopes: Vec<String> = quota.at("spec.scopes").items().map(|s| s.text().to_owned()).collect();
            scopes.sort();
            scopes.dedup();
            scopes
        };
        if subresource.is_empty() && sorted(old) != sorted(new) {
            new.at("spec.scopes").invalid("field is immutable");
        }
    },
    warnings: quota_warnings,
    ..Declared::PLAIN
};

/// LimitRange.
pub static LIMIT_RANGE: Declared = Declared {
    default: |object| {
        if at(object, "spec").is_some() {
            list_mut(child(object, "spec"), "limits").iter_mut().for_each(default_limits);
        }
    },
    rules: &[("spec.limits", &[Rule::Distinct("type")]), ("spec.limits[]", &[Rule::Check(limits)])],
    ..Declared::PLAIN
};

/// Queue.
pub static QUEUE: Declared = Declared {
    generation: true,
    rules: &[
        ("spec.parent", &[Rule::Text(names::dns1123_subdomain)]),
        ("spec.weight", &[Rule::Positive]),
        ("spec.guarantee", &[Rule::Check(queue_amounts)]),
        ("spec.limit", &[Rule::Check(queue_amounts)]),
        ("", &[Rule::Check(queue)]),
    ],
    status: &[("status.conditions[]", &[Rule::Check(super::cluster::condition)])],
    ..Declared::PLAIN
};

/// Resources without a domain of which pods get some from nodes.
const PLACED: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pods"];

fn queue_amounts(amounts: &Field<'_>) {
    for (name, amount) in amounts.entries() {
        if !name.contains('/') && !PLACED.contains(&name) && !name.starts_with("hugepages-") {
            let detail = "must be cpu, memory, ephemeral-storage, pods, huge pages or fully qualified";
            amount.report(FieldError::invalid(amount.path(), name, detail));
        }
        for detail in names::qualified(name) {
            amount.report(FieldError::invalid(amount.path(), name, detail));
        }
        if amount.quantity().is_some_and(|quantity| quantity.signum() < 0) {
            amount.invalid("must be greater than or equal to 0");
        }
    }
}

fn queue(queue: &Field<'_>) {
    let parent = queue.at("spec.parent");
    if !parent.is_empty() && parent.text() == queue.at("metadata.name").text() {
        parent.invalid("must not be the queue itself");
    }
    let guarantee = queue.at("spec.guarantee");
    for (name, limit) in queue.at("spec.limit").entries() {
        let guaranteed =
            guarantee.entries().find(|(other, _)| *other == name).and_then(|(_, amount)| amount.quantity());
        if let (Some(guaranteed), Some(limited)) = (guaranteed, limit.quantity())
            && guaranteed > limited
        {
            limit.invalid("must be greater than or equal to the guarantee");
        }
    }
}

fn is_quota(name: &str) -> bool {
    QUOTA.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// A resource's name that is standard or has a domain. The name is the key at which the field is.
fn resource_name(field: &Field<'_>, name: &str) -> bool {
    let wrong = names::qualified(name);
    for detail in &wrong {
        field.report(FieldError::invalid(field.path(), name, detail.as_str()));
    }
    let standard = is_quota(name) || name == "storage";
    let fits = name.contains('/') || standard;
    if wrong.is_empty() && !fits {
        field.report(FieldError::invalid(field.path(), name, "must be a standard resource type or fully qualified"));
    }
    wrong.is_empty() && fits
}

fn quota_amounts(amounts: &Field<'_>) {
    for (name, amount) in amounts.entries() {
        resource_name(&amount, name);
        if !name.contains('/') && !is_quota(name) {
            amount.report(FieldError::invalid(amount.path(), name, "must be a standard resource for quota"));
        }
        let Some(quantity) = amount.quantity() else { continue };
        if quantity.signum() < 0 {
            amount.invalid("must be greater than or equal to 0");
        }
        if (WHOLE.contains(&name) || is_extended(name)) && quantity.milli_value() % 1000 != 0 {
            amount.invalid("must be an integer");
        }
    }
}

/// A resource of somebody else's, of which there are only whole ones.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

fn scope_fits(scope: &str, resource: &str) -> bool {
    if !is_quota(resource) {
        return true;
    }
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || COMPUTE.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn scopes(spec: &Field<'_>) {
    let hard = spec.get("hard");
    let scopes = spec.get("scopes");
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.text()) {
            scopes.invalid("unsupported scope");
        }
        for _ in hard.entries().filter(|(resource, _)| !scope_fits(scope.text(), resource)) {
            scopes.invalid("unsupported scope applied to resource");
        }
    }
    conflicting(&scopes, &scopes.items().map(|scope| scope.text()).collect::<Vec<_>>());
    let selector = spec.get("scopeSelector");
    let expressions = selector.get("matchExpressions");
    for requirement in expressions.items() {
        requirement_fits(&requirement, &expressions, &hard, &selector);
    }
    let named: Vec<&str> = expressions.items().map(|expression| expression.text_of("scopeName")).collect();
    conflicting(&scopes, &named);
}

fn requirement_fits(requirement: &Field<'_>, list: &Field<'_>, hard: &Field<'_>, selector: &Field<'_>) {
    // The paths of these errors have no index.
    let at = |key: &str| requirement.get(key).told_at(format!("{}.{key}", list.path()));
    let (scope, operator, values) = (at("scopeName"), at("operator"), at("values"));
    if !SCOPES.contains(&scope.text()) {
        scope.invalid("unsupported scope");
    }
    for _ in hard.entries().filter(|(resource, _)| !scope_fits(scope.text(), resource)) {
        selector.told_at(list.path()).invalid("unsupported scope applied to resource");
    }
    let by_presence = !matches!(scope.text(), "PriorityClass" | "VolumeAttributesClass");
    if SCOPES.contains(&scope.text()) && by_presence && operator.text() != "Exists" {
        operator.invalid(
            "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
             ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
             ResourceQuotaScopeCrossNamespacePodAffinity",
        );
    }
    match operator.text() {
        "In" | "NotIn" => values
            .must(&Rule::Required("must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            values.invalid("must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector");
        }
        "Exists" | "DoesNotExist" => {}
        _ => operator.invalid("not a valid selector operator"),
    }
}

fn conflicting(scopes: &Field<'_>, named: &[&str]) {
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if named.contains(&one) && named.contains(&other) {
            scopes.invalid("conflicting scopes");
        }
    }
}

fn quota_warnings(quota: &Value) -> Vec<String> {
    let amount = |name: &str| deep(quota, &["spec", "hard", name]).and_then(|value| Quantity::from_value(value).ok());
    let mut warnings = Vec::new();
    for resource in ["cpu", "memory", "ephemeral-storage"] {
        let mut request_name = format!("requests.{resource}");
        let mut request = amount(&request_name);
        if request.is_none() && resource != "ephemeral-storage" {
            request_name = resource.to_owned();
            request = amount(resource);
        }
        let limit_name = format!("limits.{resource}");
        if let (Some(request), Some(limit)) = (request, amount(&limit_name))
            && request > limit
        {
            warnings
                .push(format!("ResourceQuota {request_name} ({request}) should be less than {limit_name} ({limit})"));
        }
    }
    warnings
}

/// What is not said of a container is taken from what is said.
fn default_limits(item: &mut Value) {
    if text(item, "type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let given: Vec<(String, Value)> = entries(item, from).map(|(k, v)| (k.clone(), v.clone())).collect();
        for (name, amount) in given {
            if deep(item, &[to, &name]).is_none() {
                set(child(item, to), &name, amount);
            }
        }
    }
}

const KINDS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn limits(item: &Field<'_>) {
    let kind = item.get("type");
    let wrong = names::qualified(kind.text());
    wrong.iter().for_each(|detail| kind.invalid(detail.as_str()));
    if wrong.is_empty()
        && !kind.text().contains('/')
        && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind.text())
    {
        kind.invalid("must be a standard limit type or fully qualified");
    }
    let of_pod = kind.text() == "Pod";
    let mut resources: Vec<&str> = Vec::new();
    for field in KINDS {
        let map = item.get(field);
        if of_pod && field.starts_with("default") {
            if !map.is_empty() {
                map.forbidden("may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, amount) in map.entries() {
            limit_name(kind.text(), &amount, name);
            if !resources.contains(&name) {
                resources.push(name);
            }
        }
    }
    if kind.text() == "PersistentVolumeClaim"
        && !item.get("min").get("storage").is_set()
        && !item.get("max").get("storage").is_set()
    {
        item.get("limits").required("either minimum or maximum storage value is required, but neither was provided");
    }
    resources.iter().for_each(|resource| limits_fit(item, resource, of_pod));
}

fn limit_name(kind: &str, amount: &Field<'_>, name: &str) {
    let fits = resource_name(amount, name);
    let of_containers = CONTAINER.contains(&name) || name.starts_with("hugepages-");
    if matches!(kind, "Pod" | "Container") && !name.contains('/') && !of_containers {
        amount.report(FieldError::invalid(amount.path(), name, "must be a standard resource for containers"));
    } else if fits && matches!(kind, "Pod" | "Container") && name.starts_with("requests.") {
        amount.report(FieldError::invalid(amount.path(), name, "doesn't follow extended resource name standard"));
    }
}

/// The amounts of one resource fit each other.
fn limits_fit(item: &Field<'_>, resource: &str, of_pod: bool) {
    let field = |map: &str| item.get(map).get(resource).told_at(format!("{}[{resource}]", item.get(map).path()));
    let amount = |map: &str| if of_pod && map.starts_with("default") { None } else { field(map).quantity() };
    let (min, max, default, request) = (amount("min"), amount("max"), amount("default"), amount("defaultRequest"));
    // Which field is refused, whose value is shown, what must not be above what, and their names.
    let order = [
        ("min", "min", &min, &max, "min value", "max value"),
        ("defaultRequest", "defaultRequest", &min, &request, "min value", "default request value"),
        ("defaultRequest", "defaultRequest", &request, &max, "default request value", "max value"),
        ("defaultRequest", "defaultRequest", &request, &default, "default request value", "default limit value"),
        ("default", "min", &min, &default, "min value", "default value"),
        ("default", "max", &default, &max, "default value", "max value"),
    ];
    for (refused, shown, low, high, low_name, high_name) in order {
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            let path = field(refused).path().to_owned();
            field(shown).told_at(path).invalid(format!("{low_name} {low} is greater than {high_name} {high}"));
        }
    }
    if let Some(ratio) = amount("maxLimitRequestRatio") {
        let refused = field("maxLimitRequestRatio");
        if ratio.milli_value() < 1000 {
            refused.invalid(format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let limit = max.milli_value() as f64 / min.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > limit {
                refused.invalid(format!("ratio {ratio} is greater than max/min = {limit:.6}"));
            }
        }
    }
    let may_overcommit =
        (!resource.contains('/') || resource.contains("kubernetes.io/")) && !resource.starts_with("hugepages-");
    if let (Some(default), Some(request)) = (default, request)
        && !may_overcommit
        && default != request
    {
        field("defaultRequest")
            .invalid(format!("default value {default} must equal to defaultRequest value {request} in {resource}"));
    }
}
