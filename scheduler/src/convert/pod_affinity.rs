//! What a pod asks of other pods: affinity, anti-affinity, topology spread.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::core::spec::Operator;
use crate::core::{AffinityTerm, PodAffinity, PodSelector, Requirement, Spread, SpreadMode, WeightedAffinityTerm};

type Labels = BTreeMap<String, String>;

/// The pod's affinity and anti-affinity.
pub fn pod_affinity(pod: &k8s::Pod) -> PodAffinity {
    let Some(affinity) = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()) else {
        return PodAffinity::default();
    };
    let required =
        |terms: Option<&Vec<k8s::PodAffinityTerm>>| terms.into_iter().flatten().map(|one| term(pod, one)).collect();
    let preferred = |terms: Option<&Vec<k8s::WeightedPodAffinityTerm>>| {
        let terms = terms.into_iter().flatten();
        terms.map(|one| WeightedAffinityTerm { weight: one.weight, term: term(pod, &one.pod_affinity_term) }).collect()
    };
    let (near, away) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    PodAffinity {
        required: required(near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref())),
        preferred: preferred(near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref())),
        anti_required: required(
            away.and_then(|away| away.required_during_scheduling_ignored_during_execution.as_ref()),
        ),
        anti_preferred: preferred(
            away.and_then(|away| away.preferred_during_scheduling_ignored_during_execution.as_ref()),
        ),
    }
}

/// The pod's topology spread constraints.
pub fn spread(pod: &k8s::Pod) -> Vec<Spread> {
    let constraints = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_ref());
    let constraints = constraints.into_iter().flatten();
    constraints
        .map(|one| {
            let mut labels = requirements(one.label_selector.as_ref());
            add_keys(&mut labels, one.match_label_keys.as_ref(), Operator::In, pod);
            Spread {
                selector: PodSelector {
                    namespaces: pod.metadata.namespace.iter().cloned().collect(),
                    namespace_selector: None,
                    labels,
                },
                topology_key: one.topology_key.clone(),
                max_skew: one.max_skew,
                min_domains: one.min_domains.unwrap_or(1),
                honors_affinity: one.node_affinity_policy.as_deref() != Some("Ignore"),
                honors_taints: one.node_taints_policy.as_deref() == Some("Honor"),
                mode: match one.when_unsatisfiable.as_str() {
                    "ScheduleAnyway" => SpreadMode::ScheduleAnyway,
                    _ => SpreadMode::DoNotSchedule,
                },
            }
        })
        .collect()
}

fn term(pod: &k8s::Pod, term: &k8s::PodAffinityTerm) -> AffinityTerm {
    let mut labels = requirements(term.label_selector.as_ref());
    add_keys(&mut labels, term.match_label_keys.as_ref(), Operator::In, pod);
    add_keys(&mut labels, term.mismatch_label_keys.as_ref(), Operator::NotIn, pod);
    let named = term.namespaces.iter().flatten().cloned();
    let own = pod.metadata.namespace.iter().cloned();
    let says_nothing = term.namespace_selector.is_none() && term.namespaces.as_ref().is_none_or(Vec::is_empty);
    AffinityTerm {
        selector: PodSelector {
            namespaces: if says_nothing { own.collect() } else { named.collect() },
            namespace_selector: requirements(term.namespace_selector.as_ref()),
            labels,
        },
        topology_key: term.topology_key.clone(),
    }
}

/// Adds what the pod's own labels say about `keys`. The API server may have done so before.
fn add_keys(labels: &mut Option<Vec<Requirement>>, keys: Option<&Vec<String>>, operator: Operator, pod: &k8s::Pod) {
    let Some(labels) = labels else { return };
    let own = pod.metadata.labels.as_ref();
    for key in keys.into_iter().flatten() {
        let Some(value) = own.and_then(|own| own.get(key)) else { continue };
        let wanted = Requirement { key: key.clone(), operator, values: vec![value.clone()] };
        if !labels.contains(&wanted) {
            labels.push(wanted);
        }
    }
}

/// A label selector as requirements; `None` selects nothing.
pub fn requirements(selector: Option<&LabelSelector>) -> Option<Vec<Requirement>> {
    let selector = selector?;
    let empty = Labels::new();
    let equal = selector.match_labels.as_ref().unwrap_or(&empty).iter().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In,
        values: vec![value.clone()],
    });
    let expressions = selector.match_expressions.iter().flatten().map(|one| Requirement {
        key: one.key.clone(),
        operator: match one.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => Operator::Unknown,
        },
        values: one.values.clone().unwrap_or_default(),
    });
    Some(equal.chain(expressions).collect())
}
