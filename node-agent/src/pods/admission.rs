//! Whether this node takes a pod that is bound to it. Pure. The scheduler has asked the same; it may have known less.

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use super::app_armor;
use super::memory::Waiting;
use super::resources::{Amounts, pod_requests};
use super::spec;

/// Refuses a pod which does not fit into what is left of `allocatable` besides `used`, or which does not want this node.
pub fn refuse(
    pod: &Pod,
    node: Option<&Node>,
    allocatable: &Amounts,
    used: &Amounts,
    has_app_armor: bool,
) -> Option<Waiting> {
    let rejected =
        |reason: String, message: String| Waiting { reason, message: format!("Pod was rejected: {message}") };
    if let Some(why) = app_armor::refuse(pod, has_app_armor) {
        return Some(rejected("AppArmor".into(), why.into()));
    }
    if spec::wants_strict_groups(pod) && !node.is_some_and(has_strict_groups) {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node".to_owned();
        return Some(rejected("SupplementalGroupsPolicyNotSupported".into(), message));
    }
    if let Some(node) = node
        && !wants(pod, node)
    {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned();
        return Some(rejected("NodeAffinity".into(), message));
    }
    let mut requests = pod_requests(pod);
    requests.insert("pods".into(), 1);
    for (name, requested) in &requests {
        // What the node does not speak of, it does not count.
        let Some(capacity) = allocatable.get(name) else { continue };
        let used = used.get(name).copied().unwrap_or(0);
        if *requested > 0 && used.saturating_add(*requested) > *capacity {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            return Some(rejected(format!("OutOf{name}"), message));
        }
    }
    None
}

/// Whether a node says that its runtime keeps containers from their images' groups.
fn has_strict_groups(node: &Node) -> bool {
    let features = node.status.as_ref().and_then(|status| status.features.as_ref());
    features.and_then(|features| features.supplemental_groups_policy).unwrap_or(false)
}

fn wants(pod: &Pod, node: &Node) -> bool {
    let empty = std::collections::BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selector = spec::spec(pod).node_selector.iter().flatten();
    if !selector.into_iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = spec::spec(pod).affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref().unwrap_or_default();
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, labels, name)))
}

/// Whether a node with these labels and of this name is one that the term selects.
pub fn matches(term: &NodeSelectorTerm, labels: &std::collections::BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|requirement| holds(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|requirement| holds(requirement, (requirement.key == "metadata.name").then_some(name)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = value.is_some_and(|value| values.iter().any(|other| other == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |wanted: std::cmp::Ordering| {
        let sides = value.and_then(number).zip(values.first().and_then(|text| number(text)));
        sides.is_some_and(|(mine, theirs)| mine.cmp(&theirs) == wanted)
    };
    match requirement.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_wants_no_groups_of_its_image_needs_a_node_that_can() {
        let pod = |policy: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"containers": [], "securityContext": {
                "supplementalGroupsPolicy": policy}}}))
            .unwrap()
        };
        let node = |can: bool| -> Node {
            let features = serde_json::json!({"supplementalGroupsPolicy": can});
            serde_json::from_value(serde_json::json!({"status": {"features": features}})).unwrap()
        };
        let asked = |policy: &str, can| refuse(&pod(policy), Some(&node(can)), &Amounts::new(), &Amounts::new(), false);
        assert_eq!((asked("Merge", false), asked("Strict", true)), (None, None));
        let refused = asked("Strict", false).unwrap();
        assert_eq!(refused.reason, "SupplementalGroupsPolicyNotSupported");
        assert_eq!(refused.message, "Pod was rejected: SupplementalGroupsPolicy=Strict is not supported in this node");
    }

    #[test]
    fn a_pod_that_wants_to_be_confined_is_refused_where_nobody_can() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [], "securityContext": {
            "appArmorProfile": {"type": "RuntimeDefault"}}}}))
        .unwrap();
        let asked = |has| refuse(&pod, None, &Amounts::new(), &Amounts::new(), has);
        assert_eq!(asked(true), None);
        let refused = asked(false).unwrap();
        assert_eq!(refused.reason, "AppArmor");
        let why = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
        assert_eq!(refused.message, why);
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_as_kubernetes_says_it() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "2"}}}]}}))
        .unwrap();
        let allocatable = Amounts::from([("cpu".into(), 4000), ("pods".into(), 110)]);
        assert_eq!(refuse(&pod, None, &allocatable, &Amounts::from([("cpu".into(), 2000)]), false), None);
        let refused = refuse(&pod, None, &allocatable, &Amounts::from([("cpu".into(), 2500)]), false).unwrap();
        assert_eq!(refused.reason, "OutOfcpu");
        assert_eq!(
            refused.message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 2000, used: 2500, capacity: 4000"
        );
        let full = refuse(&pod, None, &allocatable, &Amounts::from([("pods".into(), 110)]), false).unwrap();
        assert_eq!(full.reason, "OutOfpods");
    }

    #[test]
    fn a_pod_for_another_kind_of_node_is_refused() {
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"spec": {"containers": [], "nodeSelector": {"disk": "ssd"}}}))
                .unwrap();
        let node: Node = serde_json::from_value(serde_json::json!({"metadata": {"name": "n"}})).unwrap();
        assert_eq!(refuse(&pod, Some(&node), &Amounts::new(), &Amounts::new(), false).unwrap().reason, "NodeAffinity");
    }
}
