//! The patches that lead from one object to another, computed as kubectl does it.

use serde_json::{Map, Value, json};

use crate::schema::SchemaRef;

/// The strategic merge patch from `old` to `new`, both structs.
pub fn patch(schema: Option<SchemaRef<'_>>, old: &Value, new: &Value) -> Value {
    three_way(schema, old, new, old)
}

/// The patch that `kubectl apply` sends: what `original` said and `modified` does not goes, what `modified` says comes, and what
/// others have put into `current` stays.
pub fn three_way(schema: Option<SchemaRef<'_>>, original: &Value, modified: &Value, current: &Value) -> Value {
    let empty = Map::new();
    let map = |value: &'_ Value| value.as_object().cloned().unwrap_or_else(|| empty.clone());
    let (original, modified, current) = (map(original), map(modified), map(current));
    let mut out = Map::new();
    for key in original.keys().filter(|key| !modified.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    for (key, value) in &modified {
        let field = schema.and_then(|s| s.field(key).or_else(|| s.values()));
        let strategy = field.map(|field| field.patch_strategy());
        let merges = strategy.is_some_and(|strategy| strategy.merge);
        let before = original.get(key).unwrap_or(&Value::Null);
        match (current.get(key), value) {
            (Some(there @ Value::Object(_)), Value::Object(wanted)) => {
                let mut inner = three_way(field, before, value, there);
                if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
                    if strategy.is_some_and(|strategy| strategy.retain_keys) {
                        inner["$retainKeys"] = wanted.keys().cloned().collect();
                    }
                    out.insert(key.clone(), inner);
                }
            }
            (Some(Value::Array(there)), Value::Array(wanted)) if merges => {
                let before = before.as_array().map(Vec::as_slice).unwrap_or_default();
                list(field.unwrap(), key, [before, wanted, there], &mut out);
            }
            (Some(there), wanted) if there == wanted => {}
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}

fn list(schema: SchemaRef<'_>, name: &str, [original, modified, current]: [&[Value]; 3], out: &mut Map<String, Value>) {
    let order = format!("$setElementOrder/{name}");
    let Some(key) = schema.patch_merge_key() else {
        let gone: Vec<&Value> = original.iter().filter(|item| !modified.contains(item)).collect();
        let added: Vec<&Value> = modified.iter().filter(|item| !current.contains(item)).collect();
        let moved = modified != current;
        if !gone.is_empty() {
            out.insert(format!("$deleteFromPrimitiveList/{name}"), json!(gone));
        }
        if !added.is_empty() {
            out.insert(name.to_owned(), json!(added));
        }
        if moved {
            out.insert(order, json!(modified));
        }
        return;
    };
    let named = |items: &[Value], like: &Value| items.iter().find(|item| item[key] == like[key]).cloned();
    let mut items = Vec::new();
    for item in modified {
        match named(current, item) {
            None => items.push(item.clone()),
            Some(there) => {
                let before = named(original, item).unwrap_or(json!({}));
                let mut change = three_way(schema.items(), &before, item, &there);
                if change.as_object().is_some_and(|change| !change.is_empty()) {
                    change[key] = item[key].clone();
                    items.push(change);
                }
            }
        }
    }
    for before in original.iter().filter(|before| named(modified, before).is_none()) {
        items.push(json!({"$patch": "delete", key: before[key]}));
    }
    let keys = |items: &[Value]| items.iter().map(|item| item[key].clone()).collect::<Vec<_>>();
    if !items.is_empty() || keys(modified) != keys(current) {
        out.insert(order, modified.iter().map(|item| json!({key: item[key]})).collect());
    }
    if !items.is_empty() {
        out.insert(name.to_owned(), Value::from(items));
    }
}

/// What an apply leads to, said without a patch. Lists that merge are sorted, since where others' items stand among the own
/// ones is the server's business.
pub fn outcome(schema: Option<SchemaRef<'_>>, original: &Value, modified: &Value, current: &Value) -> Value {
    match (current, modified) {
        (Value::Object(current), Value::Object(modified)) => {
            let mut out = Map::new();
            for (key, there) in current.iter().filter(|(key, _)| !modified.contains_key(*key)) {
                if original.get(key).is_none() {
                    out.insert(key.clone(), sorted(part(schema, key), there));
                }
            }
            for (key, wanted) in modified {
                let (part, there) = (part(schema, key), current.get(key).unwrap_or(&Value::Null));
                let before = original.get(key).unwrap_or(&Value::Null);
                let mut result = outcome(part, before, wanted, there);
                let differs = result != sorted(part, there);
                if part.is_some_and(|part| part.patch_strategy().retain_keys)
                    && differs
                    && let (Value::Object(result), Value::Object(wanted)) = (&mut result, wanted)
                {
                    result.retain(|key, _| wanted.contains_key(key));
                }
                out.insert(key.clone(), result);
            }
            Value::Object(out)
        }
        (Value::Array(current), Value::Array(modified)) if merges(schema) => {
            let empty = Vec::new();
            let original = original.as_array().unwrap_or(&empty);
            let same = |a: &Value, b: &Value| match schema.and_then(|schema| schema.patch_merge_key()) {
                Some(key) => a[key] == b[key],
                None => a == b,
            };
            let find = |items: &[Value], like: &Value| items.iter().find(|item| same(item, like)).cloned();
            let others = current
                .iter()
                .filter(|item| find(modified, item).is_none() && find(original, item).is_none())
                .map(|item| sorted(schema.and_then(|schema| schema.items()), item));
            let own = modified.iter().map(|item| {
                let before = find(original, item).unwrap_or(Value::Null);
                let there = find(current, item).unwrap_or(Value::Null);
                outcome(schema.and_then(|schema| schema.items()), &before, item, &there)
            });
            in_order(others.chain(own).collect())
        }
        (_, modified) => sorted(schema, modified),
    }
}

fn part<'s>(schema: Option<SchemaRef<'s>>, key: &str) -> Option<SchemaRef<'s>> {
    schema.and_then(|schema| schema.field(key).or_else(|| schema.values()))
}

fn merges(schema: Option<SchemaRef<'_>>) -> bool {
    schema.is_some_and(|schema| schema.patch_strategy().merge)
}

/// The same value with its merging lists in one order.
pub fn sorted(schema: Option<SchemaRef<'_>>, value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, inner)| (key.clone(), sorted(part(schema, key), inner))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => {
            let items =
                items.iter().map(|item| sorted(schema.and_then(|schema| schema.items()), item)).collect::<Vec<_>>();
            if merges(schema) { in_order(items) } else { items.into() }
        }
        other => other.clone(),
    }
}

fn in_order(mut items: Vec<Value>) -> Value {
    items.sort_by_key(Value::to_string);
    items.into()
}
