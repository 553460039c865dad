//! Strategic merge patch: a merge patch that knows, from the schema, which lists merge and by which key.
//!
//! A patch may carry directives:
//!
//! | directive | means |
//! |---|---|
//! | `$patch: replace` | this struct, or this list, is replaced by the rest of the patch |
//! | `$patch: delete` | this struct, or the list's item with this key, goes |
//! | `$retainKeys: […]` | all other keys of the struct go |
//! | `$setElementOrder/LIST: […]` | the order the list's items end up in |
//! | `$deleteFromPrimitiveList/LIST: […]` | these scalars go from the list |

use std::collections::{HashMap, HashSet};
use std::mem;

use serde_json::{Map, Value};

use super::inapplicable;
use crate::error::ApiError;
use crate::schema::SchemaRef;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder";
const DELETE_SCALARS: &str = "$deleteFromPrimitiveList";

type Object = Map<String, Value>;

/// Applies a strategic merge patch.
pub fn strategic(schema: SchemaRef<'_>, current: &Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::bad_request("error decoding patch: a strategic merge patch must be a JSON object"));
    };
    let original = current.as_object().cloned().unwrap_or_default();
    merge_maps(Some(schema), original, patch.clone()).map(Value::Object)
}

/// How the schema says to merge one list.
struct ListMerge<'a> {
    merges: bool,
    key: Option<&'a str>,
    items: Option<SchemaRef<'a>>,
    name: String,
}

impl<'a> ListMerge<'a> {
    fn of(owner: Option<SchemaRef<'a>>, field: &str) -> Self {
        let schema = sub_schema(owner, field);
        ListMerge {
            merges: schema.is_some_and(|s| s.patch_strategy().merge),
            key: schema.and_then(|s| s.patch_merge_key()),
            items: schema.and_then(|s| s.items()),
            name: field.to_owned(),
        }
    }
}

fn sub_schema<'a>(owner: Option<SchemaRef<'a>>, field: &str) -> Option<SchemaRef<'a>> {
    owner.and_then(|owner| owner.field(field).or_else(|| owner.values()))
}

fn merge_maps(schema: Option<SchemaRef<'_>>, mut original: Object, mut patch: Object) -> Result<Object, ApiError> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(bad_patch_type(&directive, patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_lists(schema, &mut original, &mut patch)?;
    for (key, value) in patch {
        if key.starts_with(DELETE_SCALARS) {
            let field = directive_field(&key, DELETE_SCALARS)?;
            delete_scalars(&mut original, field, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let schema = sub_schema(schema, &key);
                if schema.is_some_and(|s| s.patch_strategy().replace) {
                    Some(Value::Object(new))
                } else {
                    Some(Value::Object(merge_maps(schema, old, new)?))
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let list = ListMerge::of(schema, &key);
                Some(Value::Array(if list.merges { merge_lists(&list, old, new)? } else { new }))
            }
            (_, value) => taken(value),
        };
        original.extend(merged.map(|value| (key, value)));
    }
    Ok(original)
}

/// A patch value where there is nothing to merge with: without its nulls and directives. `None` if it is itself one.
fn taken(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(key, value)| !value.is_null() && !is_directive(key));
            Some(Value::Object(kept.filter_map(|(key, value)| taken(value).map(|value| (key, value))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(taken).collect())),
        scalar => Some(scalar),
    }
}

fn is_directive(key: &str) -> bool {
    key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_SCALARS)
}

fn directive_field<'k>(key: &'k str, directive: &str) -> Result<&'k str, ApiError> {
    key.strip_prefix(directive).and_then(|rest| rest.strip_prefix('/')).ok_or_else(|| match directive {
        SET_ORDER => bad_set_order(),
        _ => ApiError::bad_request("invalid patch format of primitive list"),
    })
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), ApiError> {
    let bad = || ApiError::bad_request("invalid patch format of retainKeys");
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad()) };
    let retained = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let named = patch.iter().filter(|(key, value)| !value.is_null() && !is_directive(key));
    if named.into_iter().any(|(key, _)| !retained(key)) {
        return Err(bad());
    }
    original.retain(|key, _| retained(key));
    Ok(())
}

/// Merges each list whose order the patch sets, and puts its items in that order.
fn order_lists(schema: Option<SchemaRef<'_>>, original: &mut Object, patch: &mut Object) -> Result<(), ApiError> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = list_of(patch.remove(&directive))?.unwrap_or_default();
        let field = directive_field(&directive, SET_ORDER)?;
        let list = ListMerge::of(schema, field);
        let old = match original.get(field) {
            Some(old) => list_of(Some(old.clone()))?,
            None => None,
        };
        let new = list_of(patch.remove(field))?;
        check_order(new.as_deref().unwrap_or_default(), &order, list.key)?;
        let live = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(taken).collect(),
            (Some(old), Some(new)) if list.merges => merge_lists(&list, old, new)?,
            (Some(_), Some(new)) => new,
        };
        let ordered = in_order(merged, &order, &live, list.key)?;
        original.insert(field.to_owned(), Value::Array(ordered));
    }
    Ok(())
}

fn list_of(value: Option<Value>) -> Result<Option<Vec<Value>>, ApiError> {
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(other) => {
            Err(ApiError::bad_request(format!("expected a []interface {{}}, but received a {}", go_type(&other))))
        }
    }
}

/// The items of the patch must stand in the order the patch sets, and all be in it; deletions aside.
fn check_order(items: &[Value], order: &[Value], key: Option<&str>) -> Result<(), ApiError> {
    if order.is_empty() || items.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in items {
        if key.is_some() && item.get(PATCH).is_some() {
            continue;
        }
        let wanted = identity(item, key)?;
        let mut found = false;
        for candidate in rest.by_ref() {
            if identity(candidate, key)? == wanted {
                found = true;
                break;
            }
        }
        if !found {
            let (items, order) = (Value::from(items.to_vec()), Value::from(order.to_vec()));
            return Err(ApiError::bad_request(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                go_format(&items),
                go_format(&order)
            )));
        }
    }
    Ok(())
}

/// What identifies an item: its merge key, or the item itself.
fn identity<'v>(item: &'v Value, key: Option<&str>) -> Result<&'v Value, ApiError> {
    let Some(key) = key else { return Ok(item) };
    match item {
        Value::Object(map) => map.get(key).ok_or_else(|| no_merge_key(item, key)),
        other => Err(ApiError::bad_request(format!(
            "expected a map[string]interface {{}}, but received a {}",
            go_type(other)
        ))),
    }
}

/// Where each identity first stands in a list.
fn places(list: &[Value], key: Option<&str>) -> HashMap<String, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (at, item) in list.iter().enumerate() {
        if let Some(identity) = key.map_or(Some(item), |key| item.get(key)) {
            places.entry(identity.to_string()).or_insert(at);
        }
    }
    places
}

fn merge_lists(list: &ListMerge<'_>, original: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let Some(first) = original.iter().chain(&patch).next() else { return Ok(original) };
    let is_map = first.is_object();
    if first.is_array() {
        return Err(inapplicable());
    }
    if original.iter().chain(&patch).any(|item| mem::discriminant(item) != mem::discriminant(first)) {
        let all = Value::from(vec![Value::from(original), Value::from(patch)]);
        return Err(ApiError::bad_request(format!("list element types are not identical: {}", go_format(&all))));
    }
    if !is_map {
        let mut seen = HashSet::new();
        let all = original.iter().chain(&patch);
        let merged = all.filter(|item| seen.insert(item.to_string())).cloned().collect();
        return in_order(merged, &patch, &original, None);
    }
    let Some(key) = list.key else {
        return Err(ApiError::bad_request(format!("cannot merge lists without merge key for {}", list.name)));
    };
    let (original, patch) = apply_item_directives(original, patch, key)?;
    let mut merged = original.clone();
    let mut places = places(&original, Some(key));
    for item in &patch {
        let wanted = identity(item, Some(key))?.to_string();
        let Value::Object(item) = item else { continue };
        match places.get(&wanted).copied() {
            Some(at) => {
                let old = merged[at].as_object_mut().map(mem::take).unwrap_or_default();
                merged[at] = Value::Object(merge_maps(list.items, old, item.clone())?);
            }
            None => {
                places.insert(wanted, merged.len());
                merged.extend(taken(Value::Object(item.clone())));
            }
        }
    }
    in_order(merged, &patch, &original, Some(key))
}

/// Carries out the directives among the items: what is left of the list, and of the patch.
fn apply_item_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), ApiError> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut gone = HashSet::new();
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(PATCH) else {
            rest.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                gone.insert(identity(&item, Some(key))?.to_string());
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(ApiError::bad_request("merging lists cannot yet be specified in the patch"));
            }
            _ => return Err(bad_patch_type(directive, item.as_object().cloned().unwrap_or_default())),
        }
    }
    if replace {
        return Ok((rest, Vec::new()));
    }
    if !gone.is_empty() {
        original.retain(|old| old.get(key).is_none_or(|value| !gone.contains(&value.to_string())));
    }
    Ok((original, rest))
}

fn delete_scalars(original: &mut Object, field: &str, gone: &Value) -> Result<(), ApiError> {
    if gone.is_null() {
        original.remove(field);
        return Ok(());
    }
    let Some(Value::Array(items)) = original.get_mut(field) else { return Ok(()) };
    let Value::Array(gone) = gone else { return Ok(()) };
    if items.iter().chain(gone).any(Value::is_array) {
        return Err(inapplicable());
    }
    let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
    items.retain(|item| !gone.contains(&item.to_string()));
    Ok(())
}

/// Puts the items in `order` first, in that order, and the others among them as they stood in the live list.
fn in_order(items: Vec<Value>, order: &[Value], live: &[Value], key: Option<&str>) -> Result<Vec<Value>, ApiError> {
    let (order, live) = (places(order, key), places(live, key));
    let mut ordered = Vec::new();
    let mut others = Vec::new();
    for item in items {
        let wanted = identity(&item, key)?.to_string();
        let lived = live.get(&wanted).copied();
        match order.get(&wanted).copied() {
            Some(at) => ordered.push((at, lived, item)),
            None => others.push((lived, item)),
        }
    }
    ordered.sort_by_key(|(at, ..)| *at);
    others.sort_by_key(|(lived, _)| lived.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ordered.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, lived, item) in ordered {
        // An item that only the server has goes before the first ordered one that it preceded in the live list.
        while let Some((_, other)) = others.next_if(|(other, _)| matches!((*other, lived), (Some(o), Some(l)) if o < l))
        {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others.map(|(_, other)| other));
    Ok(out)
}

fn bad_set_order() -> ApiError {
    ApiError::bad_request("invalid patch format of setElementOrder list")
}

fn bad_patch_type(directive: &Value, mut patch: Object) -> ApiError {
    let shown = go_format(directive);
    patch.insert(PATCH.to_owned(), directive.clone());
    ApiError::bad_request(format!("unknown patch type: {shown} in map: {}", go_format(&Value::Object(patch))))
}

fn no_merge_key(item: &Value, key: &str) -> ApiError {
    ApiError::bad_request(format!("map: {} does not contain declared merge key: {key}", go_format(item)))
}

/// A value as Kubernetes' error texts show it.
fn go_format(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_format).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_format(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
