//! What an object of some kind costs.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::scopes;
use crate::meta;
use crate::quantity::{Format, Quantity};
use crate::resources::{self, PodOptions, ResourceList, Which};

const POD_RESOURCES: &[&str] = &[
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// A quota on one of these obliges every container to say how much it wants.
const OBLIGING: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const SERVICE_RESOURCES: &[&str] = &["count/services", "services", "services.nodeports", "services.loadbalancers"];
const CLAIM_RESOURCES: &[&str] = &["persistentvolumeclaims", "requests.storage"];
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// The names under which some kinds were counted before `count/…`.
const ALIASES: &[&str] = &["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// Knows what objects of one kind cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evaluator {
    /// Pods: compute resources while they run, and their number.
    Pods,
    /// Services: their number, node ports and load balancers.
    Services,
    /// PersistentVolumeClaims: their number and storage, also by class.
    Claims,
    /// Anything else: only the number, under these names.
    Count(Vec<String>),
}

/// `count/deployments.apps`.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSi)
}

impl Evaluator {
    /// The evaluator of a resource.
    pub fn of(group: &str, plural: &str) -> Self {
        match (group, plural) {
            ("", "pods") => Evaluator::Pods,
            ("", "services") => Evaluator::Services,
            ("", "persistentvolumeclaims") => Evaluator::Claims,
            _ => {
                let mut names = vec![count_name(group, plural)];
                if group.is_empty() && ALIASES.contains(&plural) {
                    names.push(plural.to_owned());
                }
                Evaluator::Count(names)
            }
        }
    }

    /// Those of `names` that this kind's objects use up.
    pub fn matching(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        names.iter().filter(|name| self.concerns(name)).cloned().collect()
    }

    /// Whether this kind's objects use `name` up.
    pub fn concerns(&self, name: &str) -> bool {
        match self {
            Evaluator::Pods => {
                POD_RESOURCES.contains(&name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || is_extended_request(name)
            }
            Evaluator::Services => SERVICE_RESOURCES.contains(&name),
            Evaluator::Claims => {
                name == "count/persistentvolumeclaims"
                    || CLAIM_RESOURCES.contains(&name)
                    || name.split_once(STORAGE_CLASS).is_some_and(|(_, rest)| CLAIM_RESOURCES.contains(&rest))
            }
            Evaluator::Count(names) => names.iter().any(|known| known == name),
        }
    }

    /// Whether the object is of a scope.
    pub fn in_scope(&self, selector: &scopes::Selector, object: &Value) -> bool {
        match self {
            Evaluator::Pods => scopes::pod_is_in(selector, object),
            Evaluator::Claims => scopes::claim_is_in(selector, object),
            Evaluator::Services | Evaluator::Count(_) => false,
        }
    }

    /// Whether an object counts against a quota with these limits and selectors.
    pub fn counts(&self, hard: &BTreeSet<String>, selectors: &[scopes::Selector], object: &Value) -> bool {
        hard.iter().any(|name| self.concerns(name)) && selectors.iter().all(|s| self.in_scope(s, object))
    }

    /// What the object uses up at `now`.
    pub fn usage(&self, object: &Value, now: Timestamp) -> ResourceList {
        match self {
            Evaluator::Pods => pod_usage(object, now),
            Evaluator::Services => service_usage(object),
            Evaluator::Claims => claim_usage(object),
            Evaluator::Count(names) => names.iter().map(|name| (name.clone(), one())).collect(),
        }
    }

    /// Why an object cannot be counted against a quota on `required`: a pod whose containers do not say what they want.
    pub fn unmet(&self, required: &BTreeSet<String>, object: &Value) -> Option<String> {
        if *self != Evaluator::Pods || resources::has_pod_level(object) {
            return None;
        }
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in ["containers", "initContainers"].iter().flat_map(|list| resources::containers(object, list)) {
            let requests = resources::of_container(container, Which::Requests);
            let limits = resources::of_container(container, Which::Limits);
            let named = compute_usage(&requests, &limits);
            for name in OBLIGING.iter().filter(|name| required.contains(**name) && !named.contains_key(**name)) {
                missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default());
            }
        }
        if missing.is_empty() {
            return None;
        }
        let parts: Vec<String> = missing
            .into_iter()
            .map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")))
            .collect();
        Some(format!("must specify {}", parts.join("; ")))
    }

    /// Whether a change of this object can change what is used.
    pub fn may_matter(&self, old: &Value, new: &Value, now: Timestamp) -> bool {
        self.usage(old, now) != self.usage(new, now)
            || (*self == Evaluator::Pods && scopes::facts(old) != scopes::facts(new))
    }
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended_request(name: &str) -> bool {
    name.starts_with("requests.")
        && (!is_native(name) || name.starts_with("requests.deviceclass.resource.kubernetes.io/"))
}

fn pod_usage(pod: &Value, now: Timestamp) -> ResourceList {
    // `count/pods` is what is stored; `pods` is what still runs.
    let mut usage = ResourceList::from([("count/pods".to_owned(), one())]);
    if !is_charged(pod, now) {
        return usage;
    }
    let options = PodOptions { status: true, overhead: true };
    let requests = resources::of_pod(pod, Which::Requests, options);
    let limits = resources::of_pod(pod, Which::Limits, options);
    usage.extend(compute_usage(&requests, &limits));
    usage
}

/// A pod that has ended costs nothing more, nor one that should be gone and whose node does not say so.
fn is_charged(pod: &Value, now: Timestamp) -> bool {
    if matches!(meta::str_at(pod, &["status", "phase"]), "Failed" | "Succeeded") {
        return false;
    }
    let deletion = meta::str_at(pod, &["metadata", "deletionTimestamp"]).parse::<Timestamp>();
    let grace = meta::get(pod, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    match (deletion, grace) {
        (Ok(deletion), Some(grace)) => now.duration_since(deletion) <= SignedDuration::from_secs(grace),
        _ => true,
    }
}

fn compute_usage(requests: &ResourceList, limits: &ResourceList) -> ResourceList {
    let mut usage = ResourceList::from([("pods".to_owned(), one())]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            usage.insert(name.to_owned(), *request);
            usage.insert(format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            usage.insert(format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        if name.starts_with("hugepages-") {
            usage.insert(name.clone(), *request);
            usage.insert(format!("requests.{name}"), *request);
        } else if !is_native(name) || name.starts_with("deviceclass.resource.kubernetes.io/") {
            usage.insert(format!("requests.{name}"), *request);
        }
    }
    usage
}

fn service_usage(service: &Value) -> ResourceList {
    let ports = || meta::get(service, &["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
    let all = ports().count();
    let explicit = ports().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let suppressed = service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    let (node_ports, balancers) = match meta::str_at(service, &["spec", "type"]) {
        "NodePort" => (all, 0),
        "LoadBalancer" if suppressed => (explicit, 1),
        // They are not chosen yet, but each port will get one.
        "LoadBalancer" => (all, 1),
        _ => (0, 0),
    };
    let count = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi);
    ResourceList::from([
        ("count/services".to_owned(), one()),
        ("services".to_owned(), one()),
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(balancers)),
    ])
}

fn claim_usage(claim: &Value) -> ResourceList {
    let mut usage = ResourceList::from([
        ("persistentvolumeclaims".to_owned(), one()),
        ("count/persistentvolumeclaims".to_owned(), one()),
    ]);
    let class = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| meta::str_at(claim, &["spec", "storageClassName"]));
    if !class.is_empty() {
        usage.insert(format!("{class}{STORAGE_CLASS}persistentvolumeclaims"), one());
    }
    let whole = |amount: Quantity| match amount.milli_value() % 1000 {
        0 => amount,
        _ => Quantity::new(amount.value(), amount.format()),
    };
    let asked = resources::parse(meta::get(claim, &["spec", "resources", "requests"])).remove("storage");
    let given = resources::parse(meta::get(claim, &["status", "allocatedResources"])).remove("storage");
    if let Some(asked) = asked.map(whole) {
        let amount = given.map(whole).filter(|given| *given > asked).unwrap_or(asked);
        usage.insert("requests.storage".to_owned(), amount);
        if !class.is_empty() {
            usage.insert(format!("{class}{STORAGE_CLASS}requests.storage"), amount);
        }
    }
    usage
}
