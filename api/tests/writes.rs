//! What becomes of objects on their way through create, update and patch.

mod common;

use common::{context, create, create_in, patch, resource, update};
use gantry_api::Reason;
use gantry_api::codec;
use gantry_api::engine::{self, BodyFormat, Changed, FieldValidation, PatchType};
use gantry_api::kinds::Catalog;
use serde_json::{Value, json};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: nginx:1.25
        ports: [{containerPort: 80}]
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {generateName: web-}
spec:
  containers:
  - name: nginx
    image: nginx
    resources: {limits: {cpu: 1, memory: 64Mi}}
  volumes: [{name: scratch}]
";

#[test]
fn a_new_deployment_has_its_identity_and_all_defaults() {
    let object = create(DEPLOYMENT).unwrap();
    let metadata = &object["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["generation"], 1);
    assert_eq!(metadata["creationTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(metadata["managedFields"][0]["manager"], "tester");
    let spec = &object["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(pod["containers"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(pod["restartPolicy"], "Always");
    // A template gets none of what is a pod's own.
    assert!(pod.get("enableServiceLinks").is_none());
    assert_eq!(object["status"], json!({}));
}

#[test]
fn a_new_pod_is_pending_and_has_its_class() {
    let pod = create(POD).unwrap();
    assert_eq!(pod["metadata"]["name"], "web-x7k2p");
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"], json!({"cpu": "1", "memory": "64Mi"}));
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(pod["spec"]["volumes"][0], json!({"name": "scratch", "emptyDir": {}}));
    assert_eq!(pod["spec"]["enableServiceLinks"], true);
}

#[test]
fn a_client_cannot_bring_a_status_or_a_generation() {
    let manifest = format!("{DEPLOYMENT}status: {{replicas: 7}}\n").replace(
        "metadata: {name: web,",
        "metadata: {name: web, generation: 9, uid: mine, creationTimestamp: 2001-01-01T00:00:00Z,",
    );
    let object = create(&manifest).unwrap();
    assert_eq!(object["status"], json!({}));
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(object["metadata"]["uid"], context().new_uid);
}

/// What Kubernetes' field validation tests ask for.
#[test]
fn keys_that_stand_twice_in_yaml_are_told_by_their_line() {
    let manifest =
        DEPLOYMENT.replace("spec:\n  selector", "spec:\n  replica: 3\n  paused: true\n  paused: false\n  selector");
    let line = manifest.lines().position(|line| line == "  paused: false").unwrap() + 1;
    let told = format!("line {line}: key \"paused\" already set in map");
    let strict = create(&manifest).unwrap_err();
    assert_eq!(
        strict.message,
        format!(
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: yaml: unmarshal \
             errors:\n  {told}, unknown field \"spec.replica\""
        )
    );
    let mut ctx = context();
    ctx.field_validation = FieldValidation::Warn;
    create_in(&manifest, &mut ctx).unwrap();
    assert_eq!(ctx.warnings, [told.as_str(), "unknown field \"spec.replica\""]);

    let deployments = resource("apps", "deployments");
    let apply = |ctx: &mut engine::Context<'_>| {
        engine::patch(&deployments, None, None, PatchType::Apply { force: false }, manifest.as_bytes(), ctx)
    };
    let strict = apply(&mut context()).unwrap_err();
    assert_eq!(
        strict.message,
        format!("error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {told}")
    );
    assert_eq!(strict.reason, Reason::BadRequest);
}

#[test]
fn unknown_fields_are_refused_warned_of_or_dropped() {
    let manifest = DEPLOYMENT.replace("spec:\n  selector", "spec:\n  replica: 3\n  selector");
    let strict = create(&manifest).unwrap_err();
    assert_eq!(strict.reason, Reason::BadRequest);
    assert_eq!(
        strict.message,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \
         \"spec.replica\""
    );
    let mut ctx = context();
    ctx.field_validation = FieldValidation::Warn;
    let object = create_in(&manifest, &mut ctx).unwrap();
    assert_eq!(ctx.warnings, ["unknown field \"spec.replica\""]);
    assert!(object["spec"].get("replica").is_none());
    let mut ctx = context();
    ctx.field_validation = FieldValidation::Ignore;
    create_in(&manifest, &mut ctx).unwrap();
    assert!(ctx.warnings.is_empty());
}

#[test]
fn bodies_that_are_no_such_object_are_bad_requests() {
    let deployments = resource("apps", "deployments");
    let cases = [
        ("[1]", "the object provided is unrecognized (must be of type Deployment): "),
        (
            "{",
            "the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse error: unexpected end of JSON input ({)",
        ),
        (r#"{"kind":"Pod","apiVersion":"v1"}"#, "Pod in version \"v1\" cannot be handled as a Deployment: "),
        (
            r#"{"kind":"Deployment","apiVersion":"apps/v1beta1"}"#,
            "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)",
        ),
        (
            r#"{"spec":{"replicas":"3"}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1,"replicas":2}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: duplicate field \"spec.replicas\"",
        ),
        (
            r#"{"spec":{"twice":1,"replicas":1,"twice":2,"replicas":2,"late":3}}"#,
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.twice\", duplicate field \"spec.twice\", duplicate field \"spec.replicas\", unknown field \"spec.late\"",
        ),
    ];
    for (body, message) in cases {
        let error = engine::decode(&deployments, body.as_bytes(), BodyFormat::Json, &mut context()).unwrap_err();
        assert_eq!(error.reason, Reason::BadRequest);
        assert!(error.message.starts_with(message), "{}", error.message);
    }
}

#[test]
fn the_generation_counts_changes_of_the_spec_only() {
    let deployments = resource("apps", "deployments");
    let old = create(DEPLOYMENT).unwrap();
    let (same, changed) = update(&deployments, None, &old, old.clone()).unwrap();
    assert_eq!(changed, Changed::No);
    assert_eq!(same["metadata"]["generation"], 1);

    let body = r#"{"spec":{"replicas":3}}"#;
    let (scaled, changed) = patch(&deployments, None, &old, PatchType::Merge, body).unwrap();
    assert_eq!((changed, &scaled["metadata"]["generation"]), (Changed::Yes, &json!(2)));

    let (labelled, _) =
        patch(&deployments, None, &old, PatchType::Merge, r#"{"metadata":{"labels":{"a":"b"}}}"#).unwrap();
    assert_eq!(labelled["metadata"]["generation"], 1);

    let body = r#"{"status":{"replicas":1,"observedGeneration":1},"spec":{"replicas":9}}"#;
    let (reported, changed) = patch(&deployments, Some("status"), &old, PatchType::Merge, body).unwrap();
    assert_eq!(changed, Changed::Yes);
    assert_eq!(reported["spec"]["replicas"], 1, "a status update leaves the spec alone");
    assert_eq!(reported["metadata"]["generation"], 1);
    let (kept, _) = patch(&deployments, None, &reported, PatchType::Merge, r#"{"status":null}"#).unwrap();
    assert_eq!(kept["status"]["replicas"], 1, "an update leaves the status alone");
}

#[test]
fn an_update_of_another_or_an_older_object_is_refused() {
    let deployments = resource("apps", "deployments");
    let old = create(DEPLOYMENT).unwrap();
    let with = |path: &str, value: &str| {
        let mut new = old.clone();
        new["metadata"][path] = json!(value);
        update(&deployments, None, &old, new).unwrap_err()
    };
    assert_eq!(
        with("name", "other").message,
        "the name of the object (other) does not match the name on the URL (web)"
    );
    let stale = with("resourceVersion", "0815");
    assert_eq!(stale.reason, Reason::Conflict);
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    assert_eq!(with("uid", "other").reason, Reason::Conflict);
    assert_eq!(with("namespace", "elsewhere").reason, Reason::BadRequest);
    assert_eq!(with("creationTimestamp", "2001-01-01T00:00:00Z").reason, Reason::Invalid);
}

#[test]
fn what_must_not_change_does_not() {
    let old = create(DEPLOYMENT).unwrap();
    let body = r#"{"spec":{"selector":{"matchLabels":{"app":"x"}},"template":{"metadata":{"labels":{"app":"x"}}}}}"#;
    let error = patch(&resource("apps", "deployments"), None, &old, PatchType::Merge, body).unwrap_err();
    assert!(error.message.contains("spec.selector: Invalid value:"), "{error}");
    assert!(error.message.ends_with("field is immutable"), "{error}");

    let pods = resource("", "pods");
    let pod = create(POD).unwrap();
    let image = r#"{"spec":{"containers":[{"name":"nginx","image":"nginx:2"}]}}"#;
    let (updated, _) = patch(&pods, None, &pod, PatchType::Strategic, image).unwrap();
    assert_eq!(updated["spec"]["containers"][0]["image"], "nginx:2");
    for (body, path) in [
        (r#"{"spec":{"hostNetwork":true}}"#, "spec"),
        (r#"{"spec":{"nodeName":"n1"}}"#, "spec"),
        (r#"{"spec":{"containers":[{"name":"more","image":"a"}]}}"#, "spec.containers"),
    ] {
        let error = patch(&pods, None, &pod, PatchType::Strategic, body).unwrap_err();
        let causes = error.details.unwrap().causes;
        assert_eq!((causes[0].field.as_str(), causes[0].reason.as_str()), (path, "FieldValueForbidden"), "{body}");
    }
    let (tolerant, _) =
        patch(&pods, None, &pod, PatchType::Merge, r#"{"spec":{"tolerations":[{"operator":"Exists"}]}}"#).unwrap();
    let error = patch(&pods, None, &tolerant, PatchType::Merge, r#"{"spec":{"tolerations":null}}"#).unwrap_err();
    assert!(error.message.contains("existing toleration can not be modified"), "{error}");

    let secret =
        create("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nimmutable: true\nstringData: {a: b}\n").unwrap();
    assert_eq!(secret["data"], json!({"a": "Yg=="}));
    assert_eq!(secret["type"], "Opaque");
    let error =
        patch(&resource("", "secrets"), None, &secret, PatchType::Merge, r#"{"data":{"a":"Yw=="}}"#).unwrap_err();
    assert_eq!(error.message, "Secret \"s\" is invalid: data: Forbidden: field is immutable when `immutable` is set");
}

#[test]
fn finalizers_cannot_be_added_to_what_is_being_deleted() {
    let maps = resource("", "configmaps");
    let mut old = create("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, finalizers: [a/b]}\n").unwrap();
    old["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
    let body = r#"{"metadata":{"finalizers":["a/b","c/d"]}}"#;
    let error = patch(&maps, None, &old, PatchType::Merge, body).unwrap_err();
    assert!(error.message.contains("no new finalizers can be added if the object is being deleted"), "{error}");
    let (freed, changed) = patch(&maps, None, &old, PatchType::Merge, r#"{"metadata":{"finalizers":null}}"#).unwrap();
    assert_eq!(changed, Changed::Yes);
    assert!(freed["metadata"].get("finalizers").is_none());
}

#[test]
fn a_scale_shows_a_plain_map_of_labels_as_a_selector_and_none_as_nothing() {
    let controllers = resource("", "replicationcontrollers");
    let selector = |selector: Value| {
        let view = engine::scale_view(&controllers, &json!({"spec": {"selector": selector}})).unwrap();
        view["status"].get("selector").cloned()
    };
    assert_eq!(selector(json!({"app": "web", "tier": "front"})), Some(json!("app=web,tier=front")));
    assert_eq!(selector(json!({})), None);
}

#[test]
fn a_scale_is_a_view_that_can_be_written() {
    let deployments = resource("apps", "deployments");
    let mut object = create(DEPLOYMENT).unwrap();
    let view = engine::scale_view(&deployments, &object).unwrap();
    assert_eq!(view["kind"], "Scale");
    assert_eq!(view["spec"]["replicas"], 1);
    assert_eq!(view["status"], json!({"replicas": 0, "selector": "app=web"}));
    let body = br#"{"spec":{"replicas":5}}"#;
    let scale =
        engine::patch(&deployments, Some("scale"), Some(&view), PatchType::Merge, body, &mut context()).unwrap();
    let old = object.clone();
    engine::apply_scale(&deployments, &mut object, &scale).unwrap();
    let (scaled, changed) = update(&deployments, Some("scale"), &old, object.clone()).unwrap();
    assert_eq!(
        (changed, &scaled["spec"]["replicas"], &scaled["metadata"]["generation"]),
        (Changed::Yes, &json!(5), &json!(2))
    );
    let negative = json!({"spec": {"replicas": -1}});
    let error = engine::apply_scale(&deployments, &mut object, &negative).unwrap_err();
    assert_eq!(
        error.message,
        "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    );
}

#[test]
fn applying_makes_an_object_and_applying_again_changes_nothing() {
    let deployments = resource("apps", "deployments");
    let apply = PatchType::Apply { force: false };
    let mut ctx = context();
    let mut object = engine::patch(&deployments, None, None, apply, DEPLOYMENT.as_bytes(), &mut ctx).unwrap();
    engine::prepare_create(&deployments, &mut object, Some("default"), &mut ctx).unwrap();
    engine::finish_create(&deployments, &mut object, &mut ctx).unwrap();
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0]["operation"], "Apply");
    object["metadata"]["resourceVersion"] = json!("1");

    let (_, changed) = patch(&deployments, None, &object, apply, DEPLOYMENT).unwrap();
    assert_eq!(changed, Changed::No);
    let more = DEPLOYMENT.replace("spec:\n  selector", "spec:\n  replicas: 4\n  selector");
    let (scaled, changed) = patch(&deployments, None, &object, apply, &more).unwrap();
    assert_eq!((changed, &scaled["spec"]["replicas"]), (Changed::Yes, &json!(4)));
    let unknown = DEPLOYMENT.replace("spec:\n  selector", "spec:\n  replica: 4\n  selector");
    let error = patch(&deployments, None, &object, apply, &unknown).unwrap_err();
    assert!(error.message.contains(".spec.replica: field not declared in schema"), "{error}");
}

#[test]
fn patches_that_make_no_sense_are_refused() {
    let deployments = resource("apps", "deployments");
    let old = create(DEPLOYMENT).unwrap();
    for (kind, body) in [
        (PatchType::Merge, "x"),
        (PatchType::Merge, "[]"),
        (PatchType::Strategic, "x"),
        (PatchType::Strategic, "[]"),
        (PatchType::Json, "{}"),
        (PatchType::Json, r#"[{"op":"remove","path":"/spec/nothing"}]"#),
        (PatchType::Merge, r#"{"kind":"Pod"}"#),
        (PatchType::Merge, r#"{"spec":{"foo":1}}"#),
        (PatchType::Merge, r#"{"spec":{"replicas":"x"}}"#),
        (PatchType::Apply { force: false }, "a: b: c"),
        (PatchType::Apply { force: false }, "kind: Pod"),
    ] {
        let error = patch(&deployments, None, &old, kind, body).expect_err(body);
        assert!(matches!(error.reason, Reason::BadRequest | Reason::Invalid), "{body}: {error:?}");
    }
}

#[test]
fn a_namespace_holds_its_finalizer_until_finalize_lets_it_go() {
    let namespaces = resource("", "namespaces");
    let object = create("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n").unwrap();
    assert_eq!(object["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(object["status"], json!({"phase": "Active"}));
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
    let mut emptied = object.clone();
    emptied["spec"]["finalizers"] = json!([]);
    let (kept, changed) = update(&namespaces, None, &object, emptied.clone()).unwrap();
    assert_eq!((changed, &kept["spec"]["finalizers"]), (Changed::No, &json!(["kubernetes"])));
    let (freed, changed) = update(&namespaces, Some("finalize"), &object, emptied).unwrap();
    assert_eq!(changed, Changed::Yes);
    assert_eq!(freed["spec"]["finalizers"], json!([]));
}

#[test]
fn a_service_keeps_what_was_allocated() {
    let services = resource("", "services");
    let manifest =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, ports: [{port: 80}]}\n";
    let mut object = create(manifest).unwrap();
    assert_eq!(object["spec"]["ports"][0]["targetPort"], 80);
    assert_eq!(object["spec"]["internalTrafficPolicy"], "Cluster");
    assert_eq!(object["spec"]["externalTrafficPolicy"], "Cluster");
    object["spec"]["clusterIP"] = json!("10.96.0.9");
    object["spec"]["clusterIPs"] = json!(["10.96.0.9"]);
    object["spec"]["ports"][0]["nodePort"] = json!(30080);
    let mut again = object.clone();
    for field in ["clusterIP", "clusterIPs"] {
        again["spec"].as_object_mut().unwrap().remove(field);
    }
    again["spec"]["ports"][0].as_object_mut().unwrap().remove("nodePort");
    let (kept, changed) = update(&services, None, &object, again).unwrap();
    assert_eq!(changed, Changed::No, "{kept}");
    let error =
        patch(&services, None, &object, PatchType::Merge, r#"{"spec":{"clusterIP":"10.96.0.10"}}"#).unwrap_err();
    assert_eq!(
        error.message,
        "Service \"web\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.96.0.10\"]: may not change once set"
    );
    let (kept, changed) = patch(&services, None, &object, PatchType::Merge, r#"{"spec":{"clusterIP":null}}"#).unwrap();
    assert_eq!((changed, &kept["spec"]["clusterIP"]), (Changed::No, &json!("10.96.0.9")));
}

#[test]
fn subresource_bodies_are_read_as_their_kinds() {
    let pods = resource("", "pods");
    let body = br#"{"metadata":{"name":"web"},"target":{"kind":"Node","name":"n1"}}"#;
    let binding = engine::decode_subresource(&pods, "binding", body, BodyFormat::Json, &mut context()).unwrap();
    assert_eq!((&binding["apiVersion"], &binding["kind"]), (&json!("v1"), &json!("Binding")));
    let eviction = br#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"web"}}"#;
    engine::decode_subresource(&pods, "eviction", eviction, BodyFormat::Json, &mut context()).unwrap();
    let accounts = resource("", "serviceaccounts");
    let token = br#"{"spec":{"audiences":[],"expirationSeconds":600}}"#;
    let request = engine::decode_subresource(&accounts, "token", token, BodyFormat::Json, &mut context()).unwrap();
    assert_eq!(request["kind"], "TokenRequest");
    let options =
        br#"{"apiVersion":"apps/v1","kind":"DeleteOptions","gracePeriodSeconds":0,"propagationPolicy":"Orphan"}"#;
    let options = engine::decode_delete_options(options, BodyFormat::Json).unwrap();
    assert_eq!(options["gracePeriodSeconds"], 0);
    assert_eq!(engine::decode_delete_options(b" ", BodyFormat::Json).unwrap(), json!({}));
    assert!(engine::decode_delete_options(br#"{"kind":"Pod"}"#, BodyFormat::Json).is_err());
}

#[test]
fn every_review_kind_decodes() {
    for resource in Catalog::builtin().iter().filter(|r| !r.stored()) {
        let object = engine::decode(resource, b"{}", BodyFormat::Json, &mut context()).unwrap();
        assert_eq!(object["kind"], Value::from(resource.kind.as_str()));
    }
}

#[test]
fn a_binding_sets_the_node_and_its_condition_and_nothing_else() {
    let mut expected = create(POD).unwrap();
    let binding = json!({"metadata": {"name": "web"}, "target": {"kind": "Node", "name": "n1"}});
    let binding = engine::Binding::of(&binding, "web").unwrap();
    let bound = codec::decode(&binding.apply(&codec::encode_whole(&expected), context().now).unwrap()).unwrap();
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    expected["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    expected["spec"]["nodeName"] = json!("n1");
    expected["status"]["conditions"] = bound["status"]["conditions"].clone();
    assert_eq!(bound, expected);
}

#[test]
fn nesting_is_bounded_by_patches_too() {
    let maps = resource("", "configmaps");
    let old = create("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n").unwrap();
    let nested = format!("{}1{}", "{\"f:a\":".repeat(110), "}".repeat(110));
    let body = format!(
        r#"[{{"op":"add","path":"/metadata/managedFields","value":[{{"manager":"m","operation":"Update","fieldsV1":{nested}}}]}}]"#
    );
    let error = patch(&maps, None, &old, PatchType::Json, &body).unwrap_err();
    assert!(error.message.contains("exceeded max depth"), "{error}");
}
