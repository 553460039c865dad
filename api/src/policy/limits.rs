//! LimitRange: the defaults it gives to containers, and the bounds it holds containers, pods and claims to.
//!
//! In: a limit range and an object as JSON. Out: the object completed ([`default_pod`]), or every bound that it breaks.

use serde_json::{Map, Value, json};

use crate::meta;
use crate::quantity::Quantity;
use crate::resources::{self, PodOptions, ResourceList, Which};

/// Says on a pod what was set.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Amounts up to this are compared in thousandths.
const MILLI_MAX: i64 = i64::MAX / 1000;

fn limits<'a>(range: &'a Value, kind: &str) -> impl Iterator<Item = &'a Value> {
    let all = meta::get(range, &["spec", "limits"]).and_then(Value::as_array).into_iter().flatten();
    all.filter(move |limit| limit["type"] == kind)
}

/// Gives the containers of a new pod the requests and limits that they do not set.
pub fn default_pod(range: &Value, pod: &mut Value) {
    let (mut requests, mut maxima) = (Map::new(), Map::new());
    for limit in limits(range, "Container") {
        for (field, all) in [("defaultRequest", &mut requests), ("default", &mut maxima)] {
            all.extend(limit[field].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    let mut set = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let spec = meta::object_mut(pod, "spec");
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            // Limits first, as a request that is not set would else be taken from them.
            let limited = fill(container, "limits", &maxima);
            let requested = fill(container, "requests", &requests);
            for (names, what) in [(requested, "request"), (limited, "limit")] {
                if !names.is_empty() {
                    set.push(format!("{} {what} for {word} {name}", names.join(", ")));
                }
            }
        }
    }
    if !set.is_empty() {
        let annotations = meta::metadata_mut(pod).entry("annotations").or_insert_with(|| json!({}));
        if annotations.is_null() {
            *annotations = json!({});
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(ANNOTATION.to_owned(), json!(format!("LimitRanger plugin set: {}", set.join("; "))));
        }
    }
}

/// Sets those of `defaults` that are not set, and returns their names.
fn fill(container: &mut Value, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    if defaults.is_empty() {
        return Vec::new();
    }
    let resources = meta::object_mut(container, "resources");
    let present = resources.entry(field).or_insert_with(|| json!({}));
    if !present.is_object() {
        *present = json!({});
    }
    let Some(present) = present.as_object_mut() else { return Vec::new() };
    let mut set = Vec::new();
    for (name, amount) in defaults {
        if !present.contains_key(name) {
            present.insert(name.clone(), amount.clone());
            set.push(name.clone());
        }
    }
    set.sort_unstable();
    set
}

/// What of a pod breaks the limit range; in Kubernetes' words.
pub fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for limit in limits(range, "Container") {
        for container in ["containers", "initContainers"].iter().flat_map(|list| resources::containers(pod, list)) {
            let of = |which| resources::of_container(container, which);
            check(limit, "Container", &of(Which::Requests), &of(Which::Limits), &mut broken);
        }
    }
    for limit in limits(range, "Pod") {
        let of = |which| resources::of_pod(pod, which, PodOptions::default());
        check(limit, "Pod", &of(Which::Requests), &of(Which::Limits), &mut broken);
    }
    broken
}

/// What of a claim breaks the limit range: only what it requests counts.
pub fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    const KIND: &str = "PersistentVolumeClaim";
    let requests = resources::parse(meta::get(claim, &["spec", "resources", "requests"]));
    let mut broken = Vec::new();
    for limit in limits(range, KIND) {
        for (name, bound) in resources::parse(limit.get("min")) {
            broken.extend(below(KIND, &name, bound, &requests, &ResourceList::new()));
        }
        for (name, bound) in resources::parse(limit.get("max")) {
            let text = format!("maximum {name} usage per {KIND} is {bound}");
            match requests.get(&name) {
                None => broken.push(format!("{text}.  No request is specified")),
                Some(request) if more(*request, bound) => broken.push(format!("{text}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    broken
}

/// Several complaints as one text.
pub fn joined(mut complaints: Vec<String>) -> Option<String> {
    let mut seen = Vec::new();
    complaints.retain(|text| {
        let new = !seen.contains(text);
        seen.push(text.clone());
        new
    });
    match complaints.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

fn check(limit: &Value, kind: &str, requests: &ResourceList, limits: &ResourceList, broken: &mut Vec<String>) {
    for (name, bound) in resources::parse(limit.get("min")) {
        broken.extend(below(kind, &name, bound, requests, limits));
    }
    for (name, bound) in resources::parse(limit.get("max")) {
        broken.extend(above(kind, &name, bound, requests, limits));
    }
    for (name, bound) in resources::parse(limit.get("maxLimitRequestRatio")) {
        broken.extend(stretched(kind, &name, bound, requests, limits));
    }
}

fn less(amount: Quantity, bound: Quantity) -> bool {
    compared(amount, bound).is_lt()
}

fn more(amount: Quantity, bound: Quantity) -> bool {
    compared(amount, bound).is_gt()
}

/// Compares in thousandths where both are small enough, else in whole units.
fn compared(amount: Quantity, bound: Quantity) -> std::cmp::Ordering {
    if amount.value() <= MILLI_MAX && bound.value() <= MILLI_MAX {
        amount.milli_value().cmp(&bound.milli_value())
    } else {
        amount.value().cmp(&bound.value())
    }
}

fn below(kind: &str, name: &str, bound: Quantity, requests: &ResourceList, limits: &ResourceList) -> Option<String> {
    let text = format!("minimum {name} usage per {kind} is {bound}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{text}.  No request is specified")),
        (Some(request), _) if less(*request, bound) => Some(format!("{text}, but request is {request}")),
        (_, Some(limit)) if less(*limit, bound) => Some(format!("{text}, but limit is {limit}")),
        _ => None,
    }
}

fn above(kind: &str, name: &str, bound: Quantity, requests: &ResourceList, limits: &ResourceList) -> Option<String> {
    let text = format!("maximum {name} usage per {kind} is {bound}");
    match (limits.get(name), requests.get(name)) {
        (None, _) => Some(format!("{text}.  No limit is specified")),
        (Some(limit), _) if more(*limit, bound) => Some(format!("{text}, but limit is {limit}")),
        (_, Some(request)) if more(*request, bound) => Some(format!("{text}, but request is {request}")),
        _ => None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "a ratio is compared and shown with six digits")]
fn stretched(
    kind: &str,
    name: &str,
    bound: Quantity,
    requests: &ResourceList,
    limits: &ResourceList,
) -> Option<String> {
    let text = format!("{name} max limit to request ratio per {kind} is {bound}");
    let Some(request) = requests.get(name).filter(|request| !request.is_zero()) else {
        return Some(format!("{text}, but no request is specified or request is 0"));
    };
    let Some(limit) = limits.get(name).filter(|limit| !limit.is_zero()) else {
        return Some(format!("{text}, but no limit is specified or limit is 0"));
    };
    let fine = request.value() <= MILLI_MAX && limit.value() <= MILLI_MAX;
    let number = |amount: &Quantity| if fine { amount.milli_value() } else { amount.value() } as f64;
    let ratio = number(limit) / number(request);
    (ratio * 1000.0 > bound.milli_value() as f64).then(|| format!("{text}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(requests: Value, limits: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}})
    }

    #[test]
    fn a_container_gets_what_it_does_not_set() {
        let range = range(
            json!({"type": "Container", "defaultRequest": {"cpu": "100m", "memory": "200Mi"}, "default": {"cpu": "500m"}}),
        );
        let mut pod = pod(json!({"cpu": "300m"}), json!({}));
        default_pod(&range, &mut pod);
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(resources["requests"], json!({"cpu": "300m", "memory": "200Mi"}));
        assert_eq!(resources["limits"], json!({"cpu": "500m"}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: memory request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn bounds_are_told_as_kubernetes_tells_them() {
        let bounds = range(
            json!({"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "500m"}, "maxLimitRequestRatio": {"cpu": "4"}}),
        );
        let cases = [
            (json!({"cpu": "100m"}), json!({"cpu": "200m"}), None),
            (
                json!({"cpu": "10m"}),
                json!({"cpu": "20m"}),
                Some("minimum cpu usage per Container is 50m, but request is 10m"),
            ),
            (
                json!({"cpu": "400m"}),
                json!({"cpu": "600m"}),
                Some("maximum cpu usage per Container is 500m, but limit is 600m"),
            ),
            (
                json!({"cpu": "50m"}),
                json!({"cpu": "500m"}),
                Some("cpu max limit to request ratio per Container is 4, but provided ratio is 10.000000"),
            ),
        ];
        for (requests, limits, expected) in cases {
            let told = joined(check_pod(&bounds, &pod(requests, limits)));
            assert_eq!(told.as_deref(), expected);
        }
        let silent = joined(check_pod(&bounds, &pod(json!({}), json!({})))).unwrap();
        assert_eq!(
            silent,
            "[minimum cpu usage per Container is 50m.  No request is specified, maximum cpu usage per Container is 500m.  No limit is specified, cpu max limit to request ratio per Container is 4, but no request is specified or request is 0]"
        );
    }

    #[test]
    fn a_pod_is_measured_as_a_whole_and_a_claim_by_what_it_requests() {
        let whole = range(json!({"type": "Pod", "max": {"memory": "1Gi"}}));
        let pod = json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"memory": "600Mi"}}},
            {"name": "b", "resources": {"limits": {"memory": "600Mi"}}}]}});
        assert_eq!(check_pod(&whole, &pod), vec!["maximum memory usage per Pod is 1Gi, but limit is 1200Mi"]);
        let storage =
            range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}));
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        assert!(check_claim(&storage, &claim("1Gi")).is_empty());
        assert_eq!(
            check_claim(&storage, &claim("3Gi")),
            vec!["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
    }
}
