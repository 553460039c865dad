//! Pruning and defaulting of custom objects, for any structural schema and any object: they do what Kubernetes' algorithm does,
//! which stands here once more in its plainest form, and doing it again changes nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common {
    #[allow(dead_code, reason = "this file makes its own values")]
    pub mod random;
}

use std::collections::BTreeSet;

use common::random::Random;
use gantry_api::schema::{Structural, walk};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const META: [&str; 3] = ["apiVersion", "kind", "metadata"];
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A structural schema; its defaults fit it.
fn schema(random: &mut Random, depth: usize) -> Value {
    let mut made = match random.below(if depth == 0 { 5 } else { 11 }) {
        0 => json!({"type": "string"}),
        1 => json!({"type": "integer"}),
        2 => json!({"type": "boolean"}),
        3 => json!({"x-kubernetes-int-or-string": true}),
        4 => json!({"x-kubernetes-preserve-unknown-fields": true}),
        5 => json!({"type": "array", "items": schema(random, depth - 1)}),
        6 => json!({"type": "array", "items": schema(random, depth - 1), "x-kubernetes-preserve-unknown-fields": true}),
        7 => json!({"type": "object", "additionalProperties": schema(random, depth - 1)}),
        8 => {
            let mut embedded = object(random, depth);
            embedded["x-kubernetes-embedded-resource"] = json!(true);
            embedded
        }
        9 => {
            let mut open = object(random, depth);
            open["x-kubernetes-preserve-unknown-fields"] = json!(true);
            open
        }
        _ => object(random, depth),
    };
    if random.one_in(5) {
        made["nullable"] = json!(true);
    }
    if random.one_in(3) {
        let wanted = value(&made, random, false);
        if !wanted.is_null() {
            made["default"] = wanted;
        }
    }
    made
}

fn object(random: &mut Random, depth: usize) -> Value {
    let mut properties = Map::new();
    for name in NAMES {
        if random.one_in(3) {
            properties.insert(name.to_owned(), schema(random, depth.saturating_sub(1)));
        }
    }
    json!({"type": "object", "properties": properties})
}

/// A value of the schema; if `wild`, with fields it does not know, nulls and values of other types.
fn value(schema: &Value, random: &mut Random, wild: bool) -> Value {
    if wild && random.one_in(12) {
        return Value::Null;
    }
    if wild && random.one_in(20) {
        return [json!("text"), json!(7), json!({"a": {"b": 1}}), json!([{"a": 1}, [2]])][random.below(4) as usize]
            .clone();
    }
    let mut made = match (schema["type"].as_str(), schema.get("properties"), schema.get("additionalProperties")) {
        (Some("string"), ..) => json!("text"),
        (Some("integer"), ..) => json!(random.below(100)),
        (Some("boolean"), ..) => json!(random.one_in(2)),
        (Some("array"), ..) => (0..random.below(3)).map(|_| value(&schema["items"], random, wild)).collect(),
        (_, _, Some(values)) => {
            let entries = (0..random.below(3)).map(|at| (format!("key{at}"), value(values, random, wild)));
            Value::Object(entries.collect())
        }
        (_, Some(Value::Object(properties)), _) => {
            let mut map = Map::new();
            for (name, property) in properties {
                if random.one_in(2) {
                    map.insert(name.clone(), value(property, random, wild));
                }
            }
            Value::Object(map)
        }
        _ if schema["x-kubernetes-int-or-string"] == true => [json!("10%"), json!(5)][random.below(2) as usize].clone(),
        _ => json!({"any": [{"thing": null}]}),
    };
    if schema["x-kubernetes-embedded-resource"] == true {
        made["apiVersion"] = json!("v1");
        made["kind"] = json!("Thing");
        made["metadata"] = json!({"name": "inner", "labels": {"a": "b"}});
    }
    if let Value::Object(map) = &mut made {
        for name in NAMES {
            if wild && random.one_in(8) && !map.contains_key(name) {
                map.insert(
                    name.to_owned(),
                    [json!(1), json!(null), json!({"x": [1]})][random.below(3) as usize].clone(),
                );
            }
        }
    }
    made
}

fn flag(schema: Option<&Value>, key: &str) -> bool {
    schema.is_some_and(|schema| schema[key] == true)
}

/// What the schema says of a field, by name or as a value of a map.
fn field<'s>(schema: Option<&'s Value>, name: &str) -> Option<&'s Value> {
    let schema = schema?;
    schema["properties"].get(name).or_else(|| schema.get("additionalProperties"))
}

/// Kubernetes' pruning. `skip` keeps what is unknown.
fn prune(value: &mut Value, schema: Option<&Value>, skip: bool, path: &str, unknown: &mut BTreeSet<String>) {
    let skip = skip || flag(schema, "x-kubernetes-preserve-unknown-fields");
    match value {
        Value::Object(map) => {
            let embedded = flag(schema, "x-kubernetes-embedded-resource");
            for name in map.keys().cloned().collect::<Vec<_>>() {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if embedded && META.contains(&name.as_str()) {
                    continue;
                }
                match field(schema, &name) {
                    Some(known) => prune(map.get_mut(&name).unwrap(), Some(known), false, &below, unknown),
                    None if skip => {}
                    None => {
                        map.remove(&name);
                        unknown.insert(below);
                    }
                }
            }
        }
        Value::Array(items) => {
            let element = schema.and_then(|schema| schema.get("items"));
            // A list that keeps what is unknown and says nothing of its items keeps them whole.
            if element.is_none() && skip {
                return;
            }
            for (at, item) in items.iter_mut().enumerate() {
                prune(item, element, skip, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_no_value(value: &Value, schema: Option<&Value>) -> bool {
    value.is_null() && schema.is_some() && !flag(schema, "nullable")
}

/// Kubernetes' removal of nulls that are no values and have no default.
fn prune_nulls(value: &mut Value, schema: Option<&Value>) {
    match value {
        Value::Object(map) => map.retain(|name, entry| {
            let known = field(schema, name);
            if is_no_value(entry, known) && known.and_then(|known| known.get("default")).is_none() {
                return false;
            }
            prune_nulls(entry, known);
            true
        }),
        Value::Array(items) => {
            let element = schema.and_then(|schema| schema.get("items"));
            items.iter_mut().for_each(|item| prune_nulls(item, element));
        }
        _ => {}
    }
}

/// Kubernetes' defaulting.
fn default(value: &mut Value, schema: Option<&Value>) {
    match value {
        Value::Object(map) => {
            for (name, property) in schema.and_then(|schema| schema["properties"].as_object()).into_iter().flatten() {
                let Some(wanted) = property.get("default") else { continue };
                if map.get(name).is_none_or(|present| is_no_value(present, Some(property))) {
                    map.insert(name.clone(), wanted.clone());
                }
            }
            for (name, entry) in map.iter_mut() {
                let known = field(schema, name);
                fill(entry, known);
                default(entry, known);
            }
        }
        Value::Array(items) => {
            let element = schema.and_then(|schema| schema.get("items"));
            for item in items {
                fill(item, element);
                default(item, element);
            }
        }
        _ => {}
    }
}

fn fill(value: &mut Value, schema: Option<&Value>) {
    if is_no_value(value, schema)
        && let Some(wanted) = schema.and_then(|schema| schema.get("default"))
    {
        *value = wanted.clone();
    }
}

/// A schema of a kind and an object of it that a client may have sent.
fn sent(seed: u64) -> (Value, Value) {
    let mut random = Random::new(seed);
    let schema = object(&mut random, 4);
    let mut sent = value(&schema, &mut random, true);
    if !sent.is_object() {
        sent = json!({});
    }
    sent["apiVersion"] = json!("example.com/v1");
    sent["kind"] = json!("Thing");
    sent["metadata"] = json!({"name": "thing", "annotations": {"note": "x"}});
    (schema, sent)
}

fn settle(structural: &Structural, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    walk::clean(structural.schema(), value, &mut unknown).unwrap();
    walk::default(structural.schema(), value);
    unknown
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_object_is_pruned_and_defaulted_as_kubernetes_does_it(seed in any::<u64>()) {
        let (schema, sent) = sent(seed);
        let mut root = schema.clone();
        root["x-kubernetes-embedded-resource"] = json!(true);
        let mut wanted = sent.clone();
        let mut wanted_unknown = BTreeSet::new();
        prune(&mut wanted, Some(&root), false, "", &mut wanted_unknown);
        prune_nulls(&mut wanted, Some(&root));
        default(&mut wanted, Some(&root));

        let mut settled = sent.clone();
        let unknown = settle(&Structural::new(&schema, false), &mut settled);
        prop_assert_eq!(&settled, &wanted, "schema {} sent {}", schema, sent);
        prop_assert_eq!(unknown.iter().cloned().collect::<BTreeSet<_>>(), wanted_unknown, "schema {} sent {}", schema, sent);
    }

    #[test]
    fn pruning_and_defaulting_again_change_nothing(seed in any::<u64>()) {
        let (schema, sent) = sent(seed);
        let structural = Structural::new(&schema, false);
        let mut pruned = sent.clone();
        walk::clean(structural.schema(), &mut pruned, &mut Vec::new()).unwrap();
        let mut again = pruned.clone();
        let mut unknown = Vec::new();
        walk::clean(structural.schema(), &mut again, &mut unknown).unwrap();
        prop_assert_eq!(&again, &pruned);
        prop_assert!(unknown.is_empty(), "{:?}", unknown);

        let mut settled = pruned;
        walk::default(structural.schema(), &mut settled);
        let mut again = settled.clone();
        walk::default(structural.schema(), &mut again);
        prop_assert_eq!(&again, &settled);
        let unknown = settle(&structural, &mut again);
        prop_assert_eq!(&again, &settled, "what was defaulted is not pruned");
        prop_assert!(unknown.is_empty(), "{:?}", unknown);
    }
}
