//! ValidatingAdmissionPolicies: rules about writes, as expressions.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{Client, Server, config_map, deployment};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

async fn policy(admin: &Client, name: &str, spec: Value) {
    let mut spec = spec;
    if spec.get("matchConstraints").is_none() {
        spec["matchConstraints"] = json!({"resourceRules": [{
            "operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
        }]});
    }
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": spec,
    });
    admin.post(&format!("{GROUP}/validatingadmissionpolicies"), &object).await.expect(201);
}

async fn bind(admin: &Client, policy: &str, spec: Value) {
    let mut spec = spec;
    spec["policyName"] = json!(policy);
    if spec.get("validationActions").is_none() {
        spec["validationActions"] = json!(["Deny"]);
    }
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": format!("{policy}-binding")}, "spec": spec,
    });
    admin.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &object).await.expect(201);
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/t/deployments";

fn scaled(name: &str, replicas: i64) -> Value {
    let mut object = deployment(name);
    object["spec"]["replicas"] = json!(replicas);
    object
}

#[tokio::test]
async fn a_policy_denies_only_where_it_is_bound() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    server.namespace("free").await;
    let validations = json!([{"expression": "object.spec.replicas <= 5"}]);
    policy(&admin, "few", json!({"validations": validations})).await;
    admin.post(DEPLOYMENTS, &scaled("unbound", 9)).await.expect(201);
    let here = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "t"}}});
    bind(&admin, "few", json!({"matchResources": here})).await;
    let status = admin.post(DEPLOYMENTS, &scaled("many", 9)).await.refused(
        422,
        "Invalid",
        "deployments.apps \"many\" is forbidden: ValidatingAdmissionPolicy 'few' with binding 'few-binding' denied request: failed expression: object.spec.replicas <= 5",
    );
    assert!(status["details"]["causes"][0]["message"].as_str().unwrap().starts_with("ValidatingAdmissionPolicy 'few'"));
    admin.post(DEPLOYMENTS, &scaled("few", 5)).await.expect(201);
    admin.post("/apis/apps/v1/namespaces/free/deployments", &scaled("many", 9)).await.expect(201);
    let patch = json!({"spec": {"replicas": 6}});
    admin.patch(&format!("{DEPLOYMENTS}/few"), "merge-patch", &patch).await.refused(422, "Invalid", "denied request");
    server.stop().await;
}

#[tokio::test]
async fn variables_messages_reasons_and_actions() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let spec = json!({
        "variables": [
            {"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "odd", "expression": "variables.replicas % 2 == 1"},
            {"name": "owner", "expression": "object.metadata.labels['owner']"},
        ],
        "matchConditions": [{"name": "not-exempt", "expression": "!object.metadata.name.startsWith('exempt')"}],
        "validations": [
            {"expression": "variables.odd", "reason": "Forbidden",
             "messageExpression": "'replicas must be odd, not ' + string(variables.replicas) + ' in ' + namespaceObject.metadata.name"},
            {"expression": "request.operation != 'CREATE' || variables.replicas < 100", "message": "too many to begin with"},
            {"expression": "variables.replicas < 50 || variables.owner == 'me'"},
        ],
    });
    policy(&admin, "odd", spec).await;
    bind(&admin, "odd", json!({"validationActions": ["Deny"]})).await;
    admin.post(DEPLOYMENTS, &scaled("even", 4)).await.refused(
        403,
        "Forbidden",
        "denied request: replicas must be odd, not 4 in t",
    );
    admin.post(DEPLOYMENTS, &scaled("crowd", 101)).await.refused(
        422,
        "Invalid",
        "denied request: too many to begin with",
    );
    // A variable without a value fails what uses it, and nothing else.
    admin.post(DEPLOYMENTS, &scaled("ownerless", 51)).await.refused(
        422,
        "Invalid",
        "composited variable \"owner\" fails to evaluate",
    );
    admin.post(DEPLOYMENTS, &scaled("odd", 5)).await.expect(201);
    admin.post(DEPLOYMENTS, &scaled("exempt", 4)).await.expect(201);

    policy(&admin, "soft", json!({"validations": [{"expression": "object.spec.replicas != 7", "message": "seven"}]}))
        .await;
    bind(&admin, "soft", json!({"validationActions": ["Warn", "Audit"]})).await;
    let answer = admin.post(DEPLOYMENTS, &scaled("seven", 7)).await;
    assert_eq!(
        answer.headers["warning"],
        "299 - \"Validation failed for ValidatingAdmissionPolicy 'soft' with binding 'soft-binding': seven\""
    );
    answer.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn parameters_come_from_objects() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)", "message": "more than the most"}],
    });
    policy(&admin, "limited", spec).await;
    let reference = json!({"name": "limits", "namespace": "t", "parameterNotFoundAction": "Deny"});
    bind(&admin, "limited", json!({"paramRef": reference})).await;
    admin.post(DEPLOYMENTS, &scaled("d", 3)).await.refused(
        422,
        "Invalid",
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
    );
    let mut limits = config_map("limits");
    limits["data"] = json!({"max": "3"});
    admin.post("/api/v1/namespaces/t/configmaps", &limits).await.expect(201);
    admin.post(DEPLOYMENTS, &scaled("d", 3)).await.expect(201);
    admin.post(DEPLOYMENTS, &scaled("e", 4)).await.refused(422, "Invalid", "denied request: more than the most");
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_evaluated_follows_the_failure_policy() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let validations = json!([{"expression": "object.spec.nothing == 1"}]);
    policy(&admin, "open", json!({"failurePolicy": "Ignore", "validations": validations})).await;
    bind(&admin, "open", json!({})).await;
    admin.post(DEPLOYMENTS, &scaled("d", 1)).await.expect(201);
    policy(&admin, "closed", json!({"failurePolicy": "Fail", "validations": validations})).await;
    bind(&admin, "closed", json!({})).await;
    admin.post(DEPLOYMENTS, &scaled("e", 1)).await.refused(
        422,
        "Invalid",
        "denied request: expression 'object.spec.nothing == 1' resulted in error: no such key: nothing",
    );
    // The objects that configure policies are nobody's to block.
    let path = format!("{GROUP}/validatingadmissionpolicies/closed");
    admin.delete(&path, &Value::Null).await.expect(200);
    admin.post(DEPLOYMENTS, &scaled("e", 1)).await.expect(201);
    server.stop().await;
}

#[tokio::test]
async fn the_documented_objects_are_accepted() {
    let server = Server::start().await;
    let admin = server.admin();
    let page = include_str!("../../docs/admission.md");
    let mut seen = 0;
    for block in page.split("```yaml\n").skip(1) {
        let yaml = block.split("```").next().unwrap().to_owned();
        let field = |name: &str| {
            let line = yaml.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or_else(|| panic!("no {name} in {yaml}")).to_owned()
        };
        let plural = match field("kind").as_str() {
            "ValidatingAdmissionPolicy" => "validatingadmissionpolicies".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let path = format!("/apis/{}/{plural}?fieldValidation=Strict", field("apiVersion"));
        admin.request("POST", &path, &[("content-type", "application/yaml")], yaml).await.expect(201);
        seen += 1;
    }
    assert_eq!(seen, 4);
    server.stop().await;
}
