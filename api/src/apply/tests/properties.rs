//! Laws that hold for any input.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn element() -> impl Strategy<Value = PathElement> {
    prop_oneof![
        "[a-c]".prop_map(|n| PathElement::Field(n.into())),
        "[a-c]".prop_map(|n| PathElement::Key(vec![("name".into(), json!(n))])),
        (0i64..3, prop::bool::ANY).prop_map(|(p, tcp)| PathElement::Key(vec![
            ("containerPort".into(), json!(p)),
            ("protocol".into(), json!(if tcp { "TCP" } else { "UDP" })),
        ])),
        "[a-b\"{}]".prop_map(|v| PathElement::Value(json!(v))),
        (0i64..3).prop_map(PathElement::Index),
    ]
}

type Paths = BTreeSet<Vec<PathElement>>;

fn paths() -> impl Strategy<Value = Paths> {
    prop::collection::btree_set(prop::collection::vec(element(), 1..4), 0..8)
}

fn set(paths: &Paths) -> FieldSet {
    paths.iter().cloned().collect()
}

fn of(set: &FieldSet) -> Paths {
    set.paths().into_iter().collect()
}

/// A Deployment of which any part may be missing.
fn configuration() -> impl Strategy<Value = Value> {
    let image = prop::sample::select(vec!["i:1", "i:2"]);
    let ports = prop::collection::btree_map(80i64..83, prop::option::of("[pq]"), 0..3);
    let env = prop::collection::btree_map("[A-C]", "[01]", 0..3);
    let container = (prop::option::of(image), ports, env).prop_map(|(image, ports, env)| {
        let mut container = json!({});
        if let Some(image) = image {
            container["image"] = json!(image);
        }
        if !ports.is_empty() {
            let ports = ports.into_iter().map(|(port, name)| match name {
                Some(name) => json!({"containerPort": port, "protocol": "TCP", "name": name}),
                None => json!({"containerPort": port, "protocol": "TCP"}),
            });
            container["ports"] = ports.collect();
        }
        if !env.is_empty() {
            container["env"] = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        }
        container
    });
    let containers = prop::collection::btree_map("[ab]", container, 0..3);
    let labels = prop::collection::btree_map("[xyz]", "[01]", 0..3);
    let finalizers = prop::collection::btree_set("[fg]/h", 0..3);
    let tolerations = prop::collection::vec("[tu]", 0..2);
    (prop::option::of(0i64..3), containers, labels, finalizers, tolerations, prop::option::of(any::<bool>())).prop_map(
        |(replicas, containers, labels, finalizers, tolerations, paused)| {
            let mut spec = json!({"template": {"spec": {}}});
            if let Some(replicas) = replicas {
                spec["replicas"] = json!(replicas);
            }
            if let Some(paused) = paused {
                spec["paused"] = json!(paused);
            }
            let pod = &mut spec["template"]["spec"];
            if !containers.is_empty() {
                let list = containers.into_iter().map(|(name, mut container)| {
                    container["name"] = json!(name);
                    container
                });
                pod["containers"] = list.collect();
            }
            if !tolerations.is_empty() {
                pod["tolerations"] = tolerations.into_iter().map(|key| json!({"key": key})).collect();
            }
            let mut object = web(spec);
            if !labels.is_empty() {
                object["metadata"]["labels"] = json!(labels);
            }
            if !finalizers.is_empty() {
                object["metadata"]["finalizers"] = json!(finalizers);
            }
            object
        },
    )
}

/// The object without managedFields and without structs in which nothing is left.
fn content(object: &Value) -> Value {
    fn tidy(value: &Value) -> Option<Value> {
        match value {
            Value::Object(map) => {
                let map: Map<String, Value> = map.iter().filter_map(|(k, v)| tidy(v).map(|v| (k.clone(), v))).collect();
                (!map.is_empty()).then_some(Value::Object(map))
            }
            Value::Null => None,
            other => Some(other.clone()),
        }
    }
    let mut object = object.clone();
    managed::strip(&mut object);
    object["metadata"].as_object_mut().unwrap().remove("uid");
    tidy(&object).unwrap()
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let key = prop::sample::select(vec![
            "metadata",
            "spec",
            "template",
            "containers",
            "name",
            "ports",
            "containerPort",
            "protocol",
            "labels",
            "replicas",
            "managedFields",
            "finalizers",
            "env",
            "fieldsV1",
            "manager",
            "operation",
            "status",
            "k:{",
            "f:x",
            ".",
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
    fn sets_print_and_parse(paths in paths()) {
        let set = set(&paths);
        prop_assert_eq!(of(&set), paths);
        let written = set.to_value();
        prop_assert_eq!(FieldSet::from_value(&written).unwrap(), set.clone());
        let text = written.to_string();
        prop_assert_eq!(FieldSet::from_value(&serde_json::from_str(&text).unwrap()).unwrap(), set);
    }

    #[test]
    fn set_operations_agree_with_plain_sets(a in paths(), b in paths()) {
        let (x, y) = (set(&a), set(&b));
        prop_assert_eq!(of(&x.clone().union(y.clone())), a.union(&b).cloned().collect::<Paths>());
        prop_assert_eq!(of(&x.intersection(&y)), a.intersection(&b).cloned().collect::<Paths>());
        prop_assert_eq!(of(&x.difference(&y)), a.difference(&b).cloned().collect::<Paths>());
        let outside: Paths = a.iter().filter(|p| !(1..=p.len()).any(|n| b.contains(&p[..n]))).cloned().collect();
        let mut rest = x.clone();
        rest.subtract_below(&y);
        prop_assert_eq!(of(&rest), outside);
        for path in &a {
            prop_assert!(x.contains(path));
            prop_assert_eq!(y.contains(path), b.contains(path));
        }
    }

    #[test]
    fn apply_is_idempotent(first in configuration(), second in configuration()) {
        let live = apply_as("one", None, &first).unwrap();
        prop_assert_eq!(content(&live), content(&first));
        let live = force_as("two", &live, &second);
        let again = apply(deployment_schema(), "apps/v1", Some(&live), &second, "two", false, None, later()).unwrap();
        prop_assert_eq!(&again, &live);
    }

    #[test]
    fn applying_replaces_ones_own_configuration(first in configuration(), second in configuration()) {
        let live = apply_as("one", None, &first).unwrap();
        let object = apply_as("one", Some(&live), &second).unwrap();
        prop_assert_eq!(content(&object), content(&second));
        prop_assert_eq!(&object["metadata"]["managedFields"], &apply_as("one", None, &second).unwrap()["metadata"]["managedFields"]);
    }

    #[test]
    fn what_is_applied_by_force_holds(first in configuration(), second in configuration()) {
        let live = apply_as("one", None, &first).unwrap();
        let object = force_as("two", &live, &second);
        let said = typed::fields_of(Type::Schema(deployment_schema()), &second);
        let changes = compare::compare(Type::Schema(deployment_schema()), &second, &object);
        prop_assert!(changes.removed.is_empty(), "{}", changes.removed);
        prop_assert!(changes.modified.intersection(&said).is_empty(), "{}", changes.modified);
        // Whatever the first said and the second did not is still there.
        let dropped = compare::compare(Type::Schema(deployment_schema()), &first, &object).removed;
        prop_assert!(dropped.is_empty(), "{}", dropped);
    }

    #[test]
    fn managers_of_different_fields_commute(labels in prop::collection::btree_map("[xyz]", "[01]", 1..3), config in configuration()) {
        let mut labelled = web(json!({}));
        labelled["metadata"]["labels"] = json!(labels);
        let mut config = config;
        config["metadata"].as_object_mut().unwrap().remove("labels");
        let base = apply_as("base", None, &web(json!({"minReadySeconds": 1}))).unwrap();
        let one_two = apply_as("two", Some(&apply_as("one", Some(&base), &labelled).unwrap()), &config).unwrap();
        let two_one = apply_as("one", Some(&apply_as("two", Some(&base), &config).unwrap()), &labelled).unwrap();
        prop_assert_eq!(content(&one_two), content(&two_one));
        prop_assert_eq!(one_two["metadata"]["managedFields"].clone(), two_one["metadata"]["managedFields"].clone());
    }

    #[test]
    fn a_comparison_explains_every_difference(a in configuration(), b in configuration()) {
        let ty = Type::Schema(deployment_schema());
        let changes = compare::compare(ty, &a, &b);
        prop_assert_eq!(a == b, changes == Comparison::default());
        let back = compare::compare(ty, &b, &a);
        prop_assert_eq!(&back.added, &changes.removed);
        prop_assert_eq!(&back.removed, &changes.added);
        prop_assert_eq!(&back.modified, &changes.modified);
    }

    #[test]
    fn nothing_panics(live in any_json(), applied in any_json(), written in any_json()) {
        let schema = deployment_schema();
        let mut applied = applied;
        if applied.is_object() {
            applied["apiVersion"] = json!("apps/v1");
        }
        let _ = apply(schema, "apps/v1", Some(&live), &applied, "m", false, None, now());
        let _ = apply(schema, "apps/v1", Some(&live), &applied, "kubectl", true, Some("status"), now());
        let mut new = applied.clone();
        track_update(schema, "apps/v1", Some(&live), &mut new, "m", None, now());
        track_update(schema, "apps/v1", None, &mut new, "m", None, now());
        if let Ok(set) = FieldSet::from_value(&written) {
            prop_assert_eq!(FieldSet::from_value(&set.to_value()).unwrap(), set);
        }
    }
}
