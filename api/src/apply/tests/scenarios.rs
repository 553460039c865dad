//! What Kubernetes' documentation promises of server-side apply.

use super::*;

fn nginx(image: &str, replicas: Option<i64>) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "nginx", "image": image}]}},
    });
    if let Some(replicas) = replicas {
        spec["replicas"] = json!(replicas);
    }
    web(spec)
}

#[test]
fn applying_to_nothing_creates_the_object_and_owns_what_was_said() {
    let object = apply_as("kubectl", None, &nginx("nginx:1", Some(3))).unwrap();
    assert_eq!(object["spec"]["replicas"], 3);
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["manager"], "kubectl");
    assert_eq!(entry["operation"], "Apply");
    assert_eq!(entry["apiVersion"], "apps/v1");
    assert_eq!(entry["fieldsType"], "FieldsV1");
    assert_eq!(entry["time"], "2024-05-01T10:00:00Z");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"nginx\"}": {".": {}, "f:image": {}, "f:name": {}}}},
            },
        }})
    );
}

#[test]
fn changing_what_another_owns_is_a_conflict_and_force_takes_it() {
    let live = apply_as("kubectl", None, &nginx("nginx:1", Some(3))).unwrap();
    let error = apply_as("other", Some(&live), &nginx("nginx:2", Some(3))).unwrap_err();
    assert_eq!(error.reason, Reason::Conflict);
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.template.spec.containers[name=\"nginx\"].image"
    );
    let cause = &error.details.unwrap().causes[0];
    assert_eq!(cause.reason, "FieldManagerConflict");
    assert_eq!(cause.message, "conflict with \"kubectl\"");
    assert_eq!(cause.field, ".spec.template.spec.containers[name=\"nginx\"].image");

    let forced = force_as("other", &live, &nginx("nginx:2", Some(3)));
    assert_eq!(containers(&forced)[0]["image"], "nginx:2");
    assert!(!owned(&forced, "kubectl").contains("image"));
    // What both say alike is shared.
    assert!(owned(&forced, "kubectl").contains(".spec.replicas"));
    assert!(owned(&forced, "other").contains(".spec.replicas"));
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let live = update_as("kubectl-client-side-apply", None, nginx("nginx:1", Some(3)));
    let live = force_as("scaler", &live, &web(json!({"replicas": 5})));
    let error = apply_as("me", Some(&live), &nginx("nginx:2", Some(4))).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.template.spec.containers[name=\"nginx\"].image\n\
         conflicts with \"scaler\":\n\
         - .spec.replicas"
    );
}

#[test]
fn a_field_no_longer_applied_goes_unless_someone_else_owns_it() {
    let mut first = nginx("nginx:1", Some(3));
    first["metadata"]["labels"] = json!({"team": "a", "tier": "front"});
    let live = apply_as("kubectl", None, &first).unwrap();
    let live = apply_as("labeller", Some(&live), &{
        let mut object = web(Value::Null);
        object["metadata"]["labels"] = json!({"tier": "front"});
        object
    })
    .unwrap();
    let object = apply_as("kubectl", Some(&live), &nginx("nginx:1", None)).unwrap();
    assert_eq!(object["metadata"]["labels"], json!({"tier": "front"}));
    assert_eq!(object["spec"].get("replicas"), None);
    assert_eq!(containers(&object)[0]["image"], "nginx:1");
    assert_eq!(owned(&object, "labeller"), ".metadata.labels.tier");
    assert!(!owned(&object, "kubectl").contains("tier"));
}

#[test]
fn handing_replicas_to_an_autoscaler_keeps_them() {
    // The documented hand-over: the autoscaler updates, the user then drops the field from the configuration.
    let live = apply_as("kubectl", None, &nginx("nginx:1", Some(3))).unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(10);
    let live = update_as("hpa", Some(&live), scaled);
    assert!(!owned(&live, "kubectl").contains("replicas"));
    let object = apply_as("kubectl", Some(&live), &nginx("nginx:1", None)).unwrap();
    assert_eq!(object["spec"]["replicas"], 10);
}

#[test]
fn list_items_are_matched_by_their_keys_with_defaults() {
    let ports = |ports: Value| {
        web(json!({"template": {"spec": {"containers": [{"name": "a", "image": "i", "ports": ports}]}}}))
    };
    let mut live = apply_as("one", None, &ports(json!([{"containerPort": 80}]))).unwrap();
    containers_mut(&mut live)[0]["ports"][0]["protocol"] = json!("TCP");
    let object = apply_as(
        "two",
        Some(&live),
        &ports(json!([{"containerPort": 80, "name": "http"}, {"containerPort": 80, "protocol": "UDP"}])),
    );
    let object = object.unwrap();
    assert_eq!(
        containers(&object)[0]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP", "name": "http"}, {"containerPort": 80, "protocol": "UDP"}])
    );
    let two = owned(&object, "two");
    assert!(two.contains(".ports[containerPort=80,protocol=\"TCP\"].name"), "{two}");
    assert!(two.contains(".ports[containerPort=80,protocol=\"UDP\"]"), "{two}");
}

fn containers_mut(object: &mut Value) -> &mut Value {
    &mut object["spec"]["template"]["spec"]["containers"]
}

#[test]
fn items_of_others_keep_their_place() {
    let with = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
        web(json!({"template": {"spec": {"containers": containers}}}))
    };
    let names = |object: &Value| -> Vec<String> {
        containers(object).as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let live = apply_as("one", None, &with(&["a", "b", "c"])).unwrap();
    let object = apply_as("two", Some(&live), &with(&["c", "a"])).unwrap();
    assert_eq!(names(&object), ["b", "c", "a"]);
    let object = apply_as("two", Some(&live), &with(&["d", "b"])).unwrap();
    assert_eq!(names(&object), ["a", "d", "b", "c"]);
    // One drops b, which two holds.
    let object = apply_as("one", Some(&object), &with(&["a", "c"])).unwrap();
    assert_eq!(names(&object), ["a", "d", "b", "c"]);
    let object = apply_as("two", Some(&object), &with(&["d"])).unwrap();
    assert_eq!(names(&object), ["a", "d", "c"]);
}

#[test]
fn atomic_lists_and_maps_are_one_field() {
    let tolerant = |keys: &[&str]| {
        let tolerations: Vec<Value> = keys.iter().map(|k| json!({"key": k})).collect();
        web(json!({"template": {"spec": {"tolerations": tolerations, "nodeSelector": {"a": "1"}}}}))
    };
    let live = apply_as("one", None, &tolerant(&["x"])).unwrap();
    assert_eq!(owned(&live, "one"), ".spec.template.spec.nodeSelector\n.spec.template.spec.tolerations");
    let error = apply_as("two", Some(&live), &tolerant(&["y"])).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.tolerations");
    let object = apply_as("one", Some(&live), &tolerant(&["y", "z"])).unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["tolerations"], json!([{"key": "y"}, {"key": "z"}]));
}

#[test]
fn finalizers_are_a_set() {
    let with = |finalizers: &[&str]| {
        let mut object = web(Value::Null);
        object["metadata"]["finalizers"] = json!(finalizers);
        object
    };
    let live = apply_as("one", None, &with(&["a/x", "b/y"])).unwrap();
    let object = apply_as("two", Some(&live), &with(&["c/z"])).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["a/x", "b/y", "c/z"]));
    assert_eq!(owned(&object, "two"), ".metadata.finalizers[=\"c/z\"]");
    let object = apply_as("one", Some(&object), &with(&["b/y"])).unwrap();
    assert_eq!(object["metadata"]["finalizers"], json!(["b/y", "c/z"]));
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let live = apply_as("kubectl", None, &nginx("nginx:1", Some(3))).unwrap();
    let again =
        apply(deployment_schema(), "apps/v1", Some(&live), &nginx("nginx:1", Some(3)), "kubectl", false, None, later());
    assert_eq!(again.unwrap(), live);
}

#[test]
fn the_time_of_an_entry_changes_with_its_fields() {
    let live = apply_as("kubectl", None, &nginx("nginx:1", Some(3))).unwrap();
    let fewer = nginx("nginx:1", None);
    let object = apply(deployment_schema(), "apps/v1", Some(&live), &fewer, "kubectl", false, None, later()).unwrap();
    assert_eq!(object["metadata"]["managedFields"][0]["time"], "2024-05-01T10:05:00Z");
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_set() {
    let mut last = nginx("nginx:1", Some(3));
    last["metadata"]["annotations"] = json!({});
    let mut object = last.clone();
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": format!("{last}\n")});
    let live = update_as("kubectl-client-side-apply", None, object);

    // Another manager conflicts, kubectl does not.
    assert!(apply_as("other", Some(&live), &nginx("nginx:2", Some(3))).is_err());
    let object = apply_as("kubectl", Some(&live), &nginx("nginx:2", Some(3))).unwrap();
    assert_eq!(containers(&object)[0]["image"], "nginx:2");
    let annotation = meta::annotation(&object, "kubectl.kubernetes.io/last-applied-configuration").unwrap();
    let annotation: Value = serde_json::from_str(annotation).unwrap();
    assert_eq!(annotation, nginx("nginx:2", Some(3)));

    // What changed since the client-side apply is not kubectl's.
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(7);
    let live = update_as("scaler", Some(&live), scaled);
    let error = apply_as("kubectl", Some(&live), &nginx("nginx:2", Some(4))).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas");
}

#[test]
fn fields_from_before_the_first_apply_have_a_manager() {
    let mut live = stored(nginx("nginx:1", Some(3)));
    live["metadata"].as_object_mut().unwrap().remove("managedFields");
    let error = apply_as("me", Some(&live), &nginx("nginx:2", Some(3))).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: \
         .spec.template.spec.containers[name=\"nginx\"].image"
    );
    let object = apply_as("me", Some(&live), &nginx("nginx:1", Some(3))).unwrap();
    assert!(owned(&object, "before-first-apply").contains(".spec.replicas"));
}

#[test]
fn what_is_no_configuration_is_refused() {
    for (applied, message) in [
        (
            web(json!({"replicaz": 1})),
            "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.replicaz: field not \
             declared in schema",
        ),
        (
            web(json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}})),
            "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): \
             .spec.template.spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            web(json!({"template": {"spec": {"containers": [{"image": "a"}]}}})),
            "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): \
             .spec.template.spec.containers: element 0: associative list with keys has an element that omits all key \
             fields [\"name\"] (and doesn't have default values for any key fields)",
        ),
        (
            json!({"apiVersion": "apps/v2", "kind": "Deployment"}),
            "Incorrect version specified in apply patch. Specified patch version: apps/v2, expected: apps/v1",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"managedFields": [{}]}}),
            "metadata.managedFields must be nil",
        ),
    ] {
        assert_eq!(apply_as("me", None, &applied).unwrap_err().message, message);
    }
}

#[test]
fn status_belongs_to_its_own_endpoint() {
    let live = apply_as("one", None, &nginx("nginx:1", Some(3))).unwrap();
    let mut applied = web(json!({"replicas": 9}));
    applied["status"] = json!({"readyReplicas": 1});
    let object =
        apply(deployment_schema(), "apps/v1", Some(&live), &applied, "controller", true, Some("status"), now())
            .unwrap();
    assert_eq!(owned(&object, "controller"), ".status.readyReplicas");
    let entry = object["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "controller");
    assert_eq!(entry.unwrap()["subresource"], "status");
    // The main endpoint owns no status.
    let object = apply_as("two", Some(&live), &applied_status()).unwrap();
    assert_eq!(owned(&object, "two"), "");
}

fn applied_status() -> Value {
    let mut applied = web(Value::Null);
    applied["status"] = json!({"readyReplicas": 1});
    applied
}

#[test]
fn an_empty_struct_is_a_field() {
    let with = |volumes: Value| web(json!({"template": {"spec": {"volumes": volumes}}}));
    let live = apply_as("one", None, &with(json!([{"name": "tmp", "emptyDir": {}}]))).unwrap();
    assert_eq!(live["spec"]["template"]["spec"]["volumes"], json!([{"name": "tmp", "emptyDir": {}}]));
    assert!(owned(&live, "one").contains(".spec.template.spec.volumes[name=\"tmp\"].emptyDir"));
    let object = apply_as("one", Some(&live), &with(json!([{"name": "tmp", "hostPath": {"path": "/tmp"}}]))).unwrap();
    assert_eq!(object["spec"]["template"]["spec"]["volumes"], json!([{"name": "tmp", "hostPath": {"path": "/tmp"}}]));
}

#[test]
fn an_applied_null_removes_the_value_but_keeps_the_say() {
    let live = apply_as("one", None, &nginx("nginx:1", Some(3))).unwrap();
    let mut applied = nginx("nginx:1", None);
    applied["spec"]["replicas"] = Value::Null;
    let object = apply_as("one", Some(&live), &applied).unwrap();
    assert_eq!(object["spec"].get("replicas"), None);
}
