//! The patch that leads from one object to another, computed as kubectl does it.

use serde_json::{Map, Value, json};

use crate::schema::SchemaRef;

/// The strategic merge patch from `old` to `new`, both structs.
pub fn patch(schema: Option<SchemaRef<'_>>, old: &Value, new: &Value) -> Value {
    let (old, new) = (old.as_object().unwrap(), new.as_object().unwrap());
    let mut out = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        let field = schema.and_then(|s| s.field(key).or_else(|| s.values()));
        let merges = field.is_some_and(|f| f.patch_strategy().merge);
        match (old.get(key), value) {
            (Some(before), after) if before == after => {}
            (Some(Value::Object(_)), Value::Object(_)) => {
                out.insert(key.clone(), patch(field, &old[key], value));
            }
            (Some(Value::Array(before)), Value::Array(after)) if merges => {
                list(field.unwrap(), key, before, after, &mut out);
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(out)
}

fn list(schema: SchemaRef<'_>, name: &str, old: &[Value], new: &[Value], out: &mut Map<String, Value>) {
    let Some(key) = schema.patch_merge_key() else {
        let gone: Vec<&Value> = old.iter().filter(|item| !new.contains(item)).collect();
        let added: Vec<&Value> = new.iter().filter(|item| !old.contains(item)).collect();
        if !gone.is_empty() {
            out.insert(format!("$deleteFromPrimitiveList/{name}"), json!(gone));
        }
        if !added.is_empty() {
            out.insert(name.to_owned(), json!(added));
        }
        out.insert(format!("$setElementOrder/{name}"), json!(new));
        return;
    };
    let mut items = Vec::new();
    for item in new {
        match old.iter().find(|before| before[key] == item[key]) {
            Some(before) if before == item => {}
            Some(before) => {
                let mut change = patch(schema.items(), before, item);
                change[key] = item[key].clone();
                items.push(change);
            }
            None => items.push(item.clone()),
        }
    }
    for before in old.iter().filter(|before| new.iter().all(|item| item[key] != before[key])) {
        items.push(json!({"$patch": "delete", key: before[key]}));
    }
    if !items.is_empty() {
        out.insert(name.to_owned(), Value::from(items));
    }
    let order: Vec<Value> = new.iter().map(|item| json!({key: item[key]})).collect();
    out.insert(format!("$setElementOrder/{name}"), Value::from(order));
}
