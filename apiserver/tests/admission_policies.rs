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

const BETA: &str = "/apis/admissionregistration.k8s.io/v1beta1";

/// A mutating policy about deployments with a binding of its name.
async fn mutating(admin: &Client, name: &str, spec: Value) {
    let mut spec = spec;
    spec["matchConstraints"] = json!({"resourceRules": [{
        "operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
    }]});
    if spec.get("reinvocationPolicy").is_none() {
        spec["reinvocationPolicy"] = json!("Never");
    }
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec,
        })
    };
    let mut binding = json!({"policyName": name});
    if spec.get("paramKind").is_some() {
        binding["paramRef"] = json!({"name": name, "namespace": "t", "parameterNotFoundAction": "Deny"});
    }
    admin
        .post(&format!("{BETA}/mutatingadmissionpolicies"), &object("MutatingAdmissionPolicy", spec))
        .await
        .expect(201);
    let binding = object("MutatingAdmissionPolicyBinding", binding);
    admin.post(&format!("{BETA}/mutatingadmissionpolicybindings"), &binding).await.expect(201);
}

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn json_patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

#[tokio::test]
async fn mutating_policies_lay_fields_over_the_object_and_patch_it() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "image", "expression": "params.data.image"}],
        "matchConditions": [{"name": "not-exempt", "expression": "!object.metadata.name.startsWith('exempt')"}],
        "mutations": [
            apply("Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
                containers: [Object.spec.template.spec.containers{name: 'sidecar', image: variables.image}]}}}}"),
            json_patch("[JSONPatch{op: 'add', path: '/metadata/annotations', value: {}},
                JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('example.com/containers'),
                    value: string(object.spec.template.spec.containers.size())}]"),
            // Of operations whose test fails none counts.
            json_patch("[JSONPatch{op: 'test', path: '/spec/replicas', value: 77},
                JSONPatch{op: 'remove', path: '/spec/template'}]"),
            json_patch("object.spec.replicas > 3 ? [JSONPatch{op: 'replace', path: '/spec/replicas', value: 3}] : []"),
        ],
    });
    mutating(&admin, "sidecars", spec).await;
    admin.post(DEPLOYMENTS, &scaled("early", 1)).await.refused(
        403,
        "Forbidden",
        "policy 'sidecars' with binding 'sidecars' denied request: failed to configure binding: no params found",
    );
    let mut params = config_map("sidecars");
    params["data"] = json!({"image": "sidecar:1"});
    admin.post("/api/v1/namespaces/t/configmaps", &params).await.expect(201);
    let web = admin.post(DEPLOYMENTS, &scaled("web", 9)).await.expect(201);
    let containers = web["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
    let names: Vec<&str> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert!(names.len() == 2 && names.contains(&"sidecar"), "{containers:?}");
    let sidecar = containers.iter().find(|c| c["name"] == "sidecar").unwrap();
    // What is added gets the defaults of the API.
    assert_eq!((&sidecar["image"], &sidecar["imagePullPolicy"]), (&json!("sidecar:1"), &json!("IfNotPresent")));
    assert_eq!(web["metadata"]["annotations"]["example.com/containers"], "2");
    assert_eq!(web["spec"]["replicas"], 3);
    let exempt = admin.post(DEPLOYMENTS, &scaled("exempt", 9)).await.expect(201);
    assert_eq!(exempt["spec"]["replicas"], 9);
    // An update is completed as well, and what is there already stays once.
    let patched = admin.patch(&format!("{DEPLOYMENTS}/web"), "merge-patch", &json!({"spec": {"replicas": 8}})).await;
    let patched = patched.expect(200);
    assert_eq!(patched["spec"]["replicas"], 3);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn mutations_that_cannot_be_made_refuse_unless_failures_are_ignored() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let table = [
        ("missing", json_patch("[JSONPatch{op: 'remove', path: '/spec/nothing'}]"), "denied request: JSON Patch: "),
        ("fails", apply("Object{spec: Object.spec{replicas: object.spec.nothing}}"), "no such key: nothing"),
        (
            "atomic",
            apply(
                "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
                containers: [Object.spec.template.spec.containers{name: 'c', args: ['a']}]}}}}",
            ),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args",
        ),
        (
            "misnamed",
            apply("Object{spec: Object.wrong{replicas: 1}}"),
            "type mismatch: unexpected type name \"Object.wrong\", expected \"Object.spec\", which matches field name path from root Object type",
        ),
        ("unknown", apply("Object{spec: Object.spec{nothing: 1}}"), ".spec.nothing: field not declared in schema"),
    ];
    for (name, mutation, why) in table {
        mutating(&admin, name, json!({"mutations": [mutation]})).await;
        let refused = format!("policy '{name}' with binding '{name}' denied request: ");
        let status = admin.post(DEPLOYMENTS, &scaled("web", 1)).await.refused(422, "Invalid", why);
        assert!(status["message"].as_str().unwrap().starts_with(&refused), "{status}");
        let path = format!("{BETA}/mutatingadmissionpolicies/{name}");
        let ignored = json!({"spec": {"failurePolicy": "Ignore"}});
        admin.patch(&path, "merge-patch", &ignored).await.expect(200);
        admin.post(&format!("{DEPLOYMENTS}?dryRun=All"), &scaled("web", 1)).await.expect(201);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_mutating_policy_runs_again_when_a_later_one_changed_the_object() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let count = "string(object.metadata.?labels[?'n'].orValue('')) + 'x'";
    let counting =
        |label: &str| apply(&format!("Object{{metadata: Object.metadata{{labels: {{'{label}': {count}}}}}}}"));
    mutating(&admin, "a-again", json!({"reinvocationPolicy": "IfNeeded", "mutations": [counting("n")]})).await;
    mutating(&admin, "b-once", json!({"mutations": [counting("m")]})).await;
    let made = admin.post(DEPLOYMENTS, &scaled("web", 1)).await.expect(201);
    assert_eq!(made["metadata"]["labels"]["n"], "xx", "{made}");
    assert_eq!(made["metadata"]["labels"]["m"], "xx", "{made}");
    server.stop().await;
}

#[tokio::test]
async fn expressions_ask_what_the_requester_may_do() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let spec = json!({
        "validations": [
            {"expression": "object.spec.replicas < 5 || authorizer.group('').resource('nodes').name('n').check('delete').allowed()",
             "message": "only who may delete nodes may have so many"},
            {"expression": "object.spec.replicas < 7 || authorizer.serviceAccount('t', 'nobody').path('/metrics').check('get').allowed()",
             "message": "nobody may"},
            {"expression": "!authorizer.requestResource.check('create').errored()"},
        ],
    });
    policy(&admin, "many", spec).await;
    bind(&admin, "many", json!({})).await;
    let manager = server.user("system:kube-controller-manager", &[]);
    manager.post(DEPLOYMENTS, &scaled("a", 5)).await.expect(201);
    let denied = manager.post(DEPLOYMENTS, &scaled("b", 7)).await;
    denied.refused(422, "Invalid", "denied request: nobody may");
    admin.post(DEPLOYMENTS, &scaled("c", 6)).await.expect(201);
    let asks = "authorizer.group('apps').resource('deployments').namespace(request.namespace).check('deletecollection').allowed()";
    let validations = json!([{"expression": format!("!{asks}"), "message": "too powerful"}]);
    policy(&admin, "powerless", json!({"validations": validations})).await;
    bind(&admin, "powerless", json!({})).await;
    admin.post(DEPLOYMENTS, &scaled("d", 1)).await.refused(422, "Invalid", "too powerful");
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
            "MutatingAdmissionPolicy" => "mutatingadmissionpolicies".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let path = format!("/apis/{}/{plural}?fieldValidation=Strict", field("apiVersion"));
        admin.request("POST", &path, &[("content-type", "application/yaml")], yaml).await.expect(201);
        seen += 1;
    }
    assert_eq!(seen, 6);
    server.stop().await;
}
