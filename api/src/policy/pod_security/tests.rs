//! What the standards say about pods, in Kubernetes' words.

use serde_json::{Value, json};

use super::*;

fn standard(level: Level) -> Standard {
    Standard { level, version: Version::Latest }
}

fn told(level: Level, spec: Value) -> String {
    details(&evaluate(standard(level), &json!({}), &spec))
}

fn hardened() -> Value {
    json!({"containers": [{"name": "c", "securityContext": {
        "allowPrivilegeEscalation": false, "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]})
}

#[test]
fn a_plain_pod_is_fine_for_baseline_and_told_what_restricted_lacks() {
    let plain = json!({"containers": [{"name": "c"}]});
    assert_eq!(told(Level::Baseline, plain.clone()), "");
    assert_eq!(
        told(Level::Restricted, plain),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(told(Level::Restricted, hardened()), "");
}

#[test]
fn baseline_forbids_what_reaches_the_node() {
    let cases = [
        (json!({"hostNetwork": true, "hostPID": true}), "host namespaces (hostNetwork=true, hostPID=true)"),
        (
            json!({"containers": [{"name": "a", "securityContext": {"privileged": true}}]}),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["NET_RAW", "KILL"]}}}]}),
            "non-default capabilities (container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add)",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}, {"name": "b", "ports": [{"hostPort": 8080}]}]}),
            "hostPort (containers \"a\", \"b\" use hostPorts 80, 8080)",
        ),
        (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes (volume \"v\")"),
        (json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}), "forbidden sysctls (kernel.msgmax)"),
        (
            json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(told(Level::Baseline, spec), expected);
    }
}

#[test]
fn a_restricted_rule_stands_in_for_its_baseline_rule() {
    let mut pod = hardened();
    pod["volumes"] = json!([{"name": "v", "hostPath": {"path": "/"}}]);
    assert_eq!(
        told(Level::Restricted, pod),
        "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")"
    );
}

#[test]
fn older_versions_have_older_rules() {
    let mut pod = hardened();
    pod["containers"][0]["securityContext"]["capabilities"] = Value::Null;
    let old = Standard { level: Level::Restricted, version: Version::Minor(21) };
    assert!(evaluate(old, &json!({}), &pod).is_empty());
    assert_eq!(reasons(&evaluate(standard(Level::Restricted), &json!({}), &pod)), "unrestricted capabilities");
}

#[test]
fn labels_say_what_is_asked_and_wrong_ones_are_told() {
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30"});
    let (policy, errors) = Policy::of_labels(Some(&labels));
    assert!(errors.is_empty());
    assert_eq!(policy.enforce.to_string(), "baseline:v1.30");
    // Nobody said how to warn, so the enforced level is warned of.
    assert_eq!(policy.warn.to_string(), "baseline:v1.30");
    assert_eq!(policy.audit.to_string(), "privileged:latest");
    let wrong =
        json!({"pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn-version": "1.2"});
    let (policy, errors) = Policy::of_labels(Some(&wrong));
    assert_eq!(policy.enforce.level, Level::Restricted);
    assert_eq!(policy.warn.level, Level::Privileged);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\"",
        ]
    );
}
