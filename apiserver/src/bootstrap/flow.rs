//! The priority levels and flow schemas that every cluster has, and the priority classes of the system.

use gantry_api::strategy::cluster::SYSTEM_PRIORITIES;
use gantry_api::strategy::flowcontrol::{fixed_level, fixed_schema};
use serde_json::{Value, json};

use super::Wanted;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares, percentage that may be lent, queues, queues a flow is dealt, length of a queue.
const LEVELS: [(&str, i64, i64, i64, i64, i64); 6] = [
    ("system", 30, 33, 64, 6, 50),
    ("node-high", 40, 25, 64, 6, 50),
    ("leader-election", 10, 0, 16, 4, 50),
    ("workload-high", 40, 50, 128, 6, 50),
    ("workload-low", 100, 90, 128, 6, 50),
    ("global-default", 20, 50, 128, 6, 50),
];

/// All objects.
pub(super) fn objects() -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = SYSTEM_PRIORITIES
        .into_iter()
        .map(|(name, value, description)| Wanted {
            resource: ("scheduling.k8s.io", "v1", "priorityclasses"),
            namespace: "",
            name,
            object: json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "description": description,
            }),
        })
        .collect();
    for name in ["exempt", "catch-all"] {
        wanted.extend(fixed_level(name).map(|spec| level(name, spec)));
        wanted.extend(fixed_schema(name).map(|spec| schema(name, spec)));
    }
    for (name, shares, lendable, queues, hand, length) in LEVELS {
        let spec = json!({
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": shares, "lendablePercent": lendable,
                "limitResponse": {
                    "type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length},
                },
            },
        });
        wanted.push(level(name, spec));
    }
    wanted.extend(schemas());
    wanted
}

fn level(name: &'static str, spec: Value) -> Wanted {
    named("PriorityLevelConfiguration", "prioritylevelconfigurations", name, spec)
}

fn schema(name: &'static str, spec: Value) -> Wanted {
    named("FlowSchema", "flowschemas", name, spec)
}

fn named(kind: &str, plural: &'static str, name: &'static str, spec: Value) -> Wanted {
    let object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": spec,
    });
    Wanted { resource: (GROUP, "v1", plural), namespace: "", name, object }
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn system_accounts() -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}})
}

fn on(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}

fn schemas() -> Vec<Wanted> {
    let everyone = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let everything = |subjects: Vec<Value>| {
        json!({
            "subjects": subjects,
            "resourceRules": [on(&["*"], "*", &["*"], true)],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        })
    };
    let probes = json!({
        "subjects": everyone(),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
    });
    let leaders = json!({
        "subjects": [user("system:kube-controller-manager"), user("system:kube-scheduler"), system_accounts()],
        "resourceRules": [on(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false)],
    });
    let nodes = json!({
        "subjects": [group("system:nodes")],
        "resourceRules": [
            on(&["*"], "", &["nodes", "nodes/status"], true),
            on(&["*"], "coordination.k8s.io", &["leases"], false),
        ],
    });
    let (by_user, by_namespace) = (Some("ByUser"), Some("ByNamespace"));
    let table = [
        ("probes", "exempt", 2, None, probes),
        ("system-leader-election", "leader-election", 100, by_user, leaders),
        ("system-node-high", "node-high", 400, by_user, nodes),
        ("system-nodes", "system", 500, by_user, everything(vec![group("system:nodes")])),
        (
            "kube-controller-manager",
            "workload-high",
            800,
            by_namespace,
            everything(vec![user("system:kube-controller-manager")]),
        ),
        ("kube-scheduler", "workload-high", 800, by_namespace, everything(vec![user("system:kube-scheduler")])),
        ("kube-system-service-accounts", "workload-high", 900, by_namespace, everything(vec![system_accounts()])),
        ("service-accounts", "workload-low", 9000, by_user, everything(vec![group("system:serviceaccounts")])),
        ("global-default", "global-default", 9900, by_user, everything(everyone())),
    ];
    let of = |(name, level, precedence, method, rules): (&'static str, &str, i64, Option<&str>, Value)| {
        let mut spec = json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rules],
        });
        if let Some(method) = method {
            spec["distinguisherMethod"] = json!({"type": method});
        }
        schema(name, spec)
    };
    table.into_iter().map(of).collect()
}
