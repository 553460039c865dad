//! Strategic merge patches: what Kubernetes' documentation shows, and what kubectl sends.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::diff;
use crate::patch::strategic;
use crate::schema::{SchemaRef, SchemaSet};

fn schema(name: &str) -> SchemaRef<'static> {
    SchemaSet::builtin().get(name).unwrap()
}

fn deployment() -> SchemaRef<'static> {
    schema("io.k8s.api.apps.v1.Deployment")
}

fn pod(spec: Value) -> Value {
    json!({"spec": spec})
}

fn patch_pod(current: Value, patch: Value) -> Result<Value, String> {
    strategic(schema("io.k8s.api.core.v1.Pod"), &pod(current), &pod(patch))
        .map(|mut o| o["spec"].take())
        .map_err(|e| e.message)
}

#[test]
fn lists_merge_by_key_and_others_are_replaced() {
    // The documentation's example: a container is added, tolerations are replaced.
    let current = json!({"containers": [{"name": "nginx", "image": "nginx"}], "tolerations": [{"key": "dedicated"}]});
    let patch = json!({"containers": [{"name": "redis", "image": "redis"}], "tolerations": [{"key": "disktype"}]});
    assert_eq!(
        patch_pod(current, patch).unwrap(),
        json!({
            "containers": [{"name": "redis", "image": "redis"}, {"name": "nginx", "image": "nginx"}],
            "tolerations": [{"key": "disktype"}],
        })
    );
}

#[test]
fn an_item_is_merged_with_its_namesake() {
    let current = json!({"containers": [
        {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "b", "image": "b:1"},
    ]});
    let patch = json!({"containers": [{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "3"}, {"name": "X", "$patch": "delete"}]}]});
    assert_eq!(
        patch_pod(current, patch).unwrap(),
        json!({"containers": [
            {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "3"}]},
            {"name": "b", "image": "b:1"},
        ]})
    );
}

#[test]
fn ports_merge_by_their_number() {
    let current = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]});
    let patch =
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]}]});
    assert_eq!(
        patch_pod(current, patch).unwrap()["containers"][0]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP", "name": "http"}, {"containerPort": 81}])
    );
    let service = json!({"spec": {"ports": [{"port": 80, "nodePort": 30000}]}});
    let patch = json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 443}]}});
    assert_eq!(
        strategic(schema("io.k8s.api.core.v1.Service"), &service, &patch).unwrap()["spec"]["ports"],
        json!([{"port": 80, "nodePort": 30000, "name": "http"}, {"port": 443}])
    );
}

#[test]
fn directives_replace_and_delete() {
    let current = json!({"containers": [{"name": "a"}, {"name": "b"}], "securityContext": {"runAsUser": 1, "fsGroup": 2}, "nodeName": "n"});
    let patched = patch_pod(
        current.clone(),
        json!({
            "containers": [{"$patch": "replace"}, {"name": "c", "image": "i"}],
            "securityContext": {"$patch": "replace", "runAsUser": 5},
            "nodeName": null,
        }),
    );
    assert_eq!(
        patched.unwrap(),
        json!({"containers": [{"name": "c", "image": "i"}], "securityContext": {"runAsUser": 5}})
    );
    let patched = patch_pod(current.clone(), json!({"securityContext": {"$patch": "delete"}})).unwrap();
    assert_eq!(patched["securityContext"], json!({}));
    for (patch, message) in [
        (json!({"securityContext": {"$patch": "explode"}}), "unknown patch type: explode in map: map[$patch:explode]"),
        (
            json!({"containers": [{"$patch": "delete"}]}),
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (json!({"containers": [{"image": "x"}]}), "map: map[image:x] does not contain declared merge key: name"),
        (json!({"containers": ["x"]}), "list element types are not identical: [[map[name:a] map[name:b]] [x]]"),
        (
            json!({"containers": [{"$patch": "merge", "name": "a"}]}),
            "merging lists cannot yet be specified in the patch",
        ),
    ] {
        assert_eq!(patch_pod(current.clone(), patch).unwrap_err(), message);
    }
}

#[test]
fn retain_keys_drops_the_others() {
    let current = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(strategic(deployment(), &current, &patch).unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    let bad = json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}});
    assert_eq!(strategic(deployment(), &current, &bad).unwrap_err().message, "invalid patch format of retainKeys");
    let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let patch = json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]});
    assert_eq!(patch_pod(volumes, patch).unwrap(), json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}));
}

#[test]
fn set_element_order_orders_the_merged_list() {
    let current = json!({"containers": [{"name": "server", "image": "s"}, {"name": "a"}, {"name": "b"}]});
    let patch = json!({
        "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
        "containers": [{"name": "new", "image": "n"}],
    });
    assert_eq!(
        patch_pod(current.clone(), patch).unwrap(),
        json!({"containers": [{"name": "server", "image": "s"}, {"name": "b"}, {"name": "new", "image": "n"}, {"name": "a"}]})
    );
    let mismatch = json!({
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}],
    });
    let message = patch_pod(current, mismatch).unwrap_err();
    assert!(message.starts_with("The order in patch list:\n[map[image:1 name:a] map[image:2 name:b]]\n doesn't match $setElementOrder list:\n[map[name:b] map[name:a]]\n"), "{message}");
}

#[test]
fn primitive_lists_merge_as_sets_and_lose_named_items() {
    let current = json!({"metadata": {"finalizers": ["a/1", "b/2", "c/3"]}});
    let patch = json!({"metadata": {
        "$deleteFromPrimitiveList/finalizers": ["b/2"],
        "$setElementOrder/finalizers": ["d/4", "a/1"],
        "finalizers": ["d/4"],
    }});
    assert_eq!(
        strategic(deployment(), &current, &patch).unwrap(),
        json!({"metadata": {"finalizers": ["d/4", "a/1", "c/3"]}})
    );
}

#[test]
fn nulls_and_directives_do_not_end_up_in_new_parts() {
    let patch = json!({"containers": [{"name": "a", "image": null, "env": [{"name": "X", "$patch": "delete"}, {"name": "Y"}]}], "securityContext": {"runAsUser": null}});
    assert_eq!(
        patch_pod(json!({}), patch).unwrap(),
        json!({"containers": [{"name": "a", "env": [{"name": "Y"}]}], "securityContext": {}})
    );
}

#[test]
fn what_kubectl_rollout_restart_and_set_image_send() {
    let current = json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "web", "image": "i:1"}, {"name": "side", "image": "s"}]}}}});
    let restart =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "t"}}}}});
    let patched = strategic(deployment(), &current, &restart).unwrap();
    assert_eq!(
        patched["spec"]["template"]["metadata"],
        json!({"labels": {"a": "b"}, "annotations": {"kubectl.kubernetes.io/restartedAt": "t"}})
    );
    let set_image = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "web"}, {"name": "side"}],
        "containers": [{"name": "web", "image": "i:2"}],
    }}}});
    let patched = strategic(deployment(), &current, &set_image).unwrap();
    assert_eq!(
        patched["spec"]["template"]["spec"]["containers"],
        json!([{"name": "web", "image": "i:2"}, {"name": "side", "image": "s"}])
    );
}

/// A Deployment's content of which any part may be missing.
fn configuration() -> impl Strategy<Value = Value> {
    let ports = prop::collection::btree_map(80i64..84, prop::option::of("[pq]"), 0..3);
    let env = prop::collection::btree_map("[A-D]", "[01]", 0..4);
    let image = prop::option::of("[ij]");
    let container = (image, ports, env).prop_map(|(image, ports, env)| {
        let mut container = json!({});
        if let Some(image) = image {
            container["image"] = json!(image);
        }
        if !ports.is_empty() {
            container["ports"] = ports
                .iter()
                .map(|(port, name)| match name {
                    Some(name) => json!({"containerPort": port, "name": name}),
                    None => json!({"containerPort": port}),
                })
                .collect();
        }
        if !env.is_empty() {
            container["env"] = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        }
        container
    });
    let containers = prop::collection::btree_map("[a-d]", container, 1..4)
        .prop_map(|map| map.into_iter().collect::<Vec<_>>())
        .prop_shuffle();
    let finalizers =
        prop::collection::btree_set("[f-i]", 0..4).prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle();
    let labels = prop::collection::btree_map("[xyz]", "[01]", 0..3);
    let strategy = prop::option::of(prop::sample::select(vec![
        json!({"type": "Recreate"}),
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}),
    ]));
    (containers, finalizers, labels, strategy, prop::collection::vec("[tu]", 0..3)).prop_map(
        |(containers, finalizers, labels, strategy, tolerations)| {
            let containers: Value = containers
                .into_iter()
                .map(|(name, mut container)| {
                    container["name"] = json!(name);
                    container
                })
                .collect();
            let mut object =
                json!({"metadata": {"labels": labels}, "spec": {"template": {"spec": {"containers": containers}}}});
            if !finalizers.is_empty() {
                object["metadata"]["finalizers"] = json!(finalizers);
            }
            if let Some(strategy) = strategy {
                object["spec"]["strategy"] = strategy;
            }
            if !tolerations.is_empty() {
                object["spec"]["template"]["spec"]["tolerations"] =
                    tolerations.iter().map(|key| json!({"key": key})).collect();
            }
            object
        },
    )
}

fn any_patch() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0i64..3).prop_map(Value::from),
        Just(json!("replace")),
        Just(json!("delete")),
        "[a-c]".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 4, |inner| {
        let key = prop::sample::select(vec![
            "metadata",
            "spec",
            "template",
            "containers",
            "name",
            "ports",
            "containerPort",
            "finalizers",
            "env",
            "strategy",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$setElementOrder",
            "$deleteFromPrimitiveList/finalizers",
            "$setElementOrder/finalizers",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_computed_patch_yields_the_target(current in configuration(), target in configuration()) {
        let patch = diff::patch(Some(deployment()), &current, &target);
        prop_assert_eq!(strategic(deployment(), &current, &patch).unwrap(), target);
    }

    #[test]
    fn an_apply_brings_ones_own_and_leaves_what_others_made(
        original in configuration(), modified in configuration(), others in configuration()
    ) {
        // What is there: what was applied, with what others have added to it or changed.
        let current = strategic(deployment(), &original, &others).unwrap();
        let patch = diff::three_way(Some(deployment()), &original, &modified, &current);
        let applied = strategic(deployment(), &current, &patch).unwrap();
        let schema = Some(deployment());
        let wanted = diff::outcome(schema, &original, &modified, &current);
        prop_assert_eq!(diff::sorted(schema, &applied), wanted, "{}", patch);
        // One's own containers stand in the order that was asked for.
        let names = |object: &Value| -> Vec<Value> {
            let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
            list.into_iter().map(|container| container["name"].clone()).collect()
        };
        let (asked, got) = (names(&modified), names(&applied));
        prop_assert_eq!(got.into_iter().filter(|name| asked.contains(name)).collect::<Vec<_>>(), asked);
        // Applied once more, there is nothing left to do.
        let again = diff::three_way(Some(deployment()), &modified, &modified, &applied);
        prop_assert_eq!(strategic(deployment(), &applied, &again).unwrap(), applied);
    }

    #[test]
    fn an_empty_patch_changes_nothing(current in configuration()) {
        prop_assert_eq!(strategic(deployment(), &current, &json!({})).unwrap(), current);
    }

    #[test]
    fn nothing_panics(current in any_patch(), valid in configuration(), patch in any_patch()) {
        let _ = strategic(deployment(), &current, &patch);
        let _ = strategic(deployment(), &valid, &patch);
    }
}
