//! Merging what someone applies into the live object, and taking fields out of an object.
//!
//! Neither fails: a value whose shape does not fit is treated as a whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fieldset::FieldSet;
use super::path::PathElement;
use super::typed::{ListOf, Shape, Type};

/// The live value with the applied one laid over it. `None` if nothing is left.
pub(super) fn merge(ty: Type<'_>, live: Option<&Value>, applied: Option<&Value>) -> Option<Value> {
    let Some(applied) = applied else { return live.cloned() };
    let Some(live) = live else { return overlay(ty, applied) };
    match (ty.shape(live), ty.shape(applied)) {
        (Shape::Map(live_map), Shape::Map(applied_map)) => {
            let (live_map, applied_map) = (filled(live_map, Map::is_empty), filled(applied_map, Map::is_empty));
            match (live_map, applied_map) {
                (None, None) => overlay(ty, applied),
                (Some(_), None) => Some(live.clone()),
                (live_map, Some(applied_map)) => merge_maps(ty, live_map, applied_map),
            }
        }
        (Shape::List(live_items, _), Shape::List(applied_items, list)) => {
            let (live_items, applied_items) = (filled(live_items, Vec::is_empty), filled(applied_items, Vec::is_empty));
            match (live_items, applied_items) {
                (None, None) => overlay(ty, applied),
                (Some(_), None) => Some(live.clone()),
                (live_items, Some(applied_items)) => {
                    let live_items = live_items.map(Vec::as_slice).unwrap_or_default();
                    Some(merge_lists(list, live_items, applied_items).unwrap_or_else(|| applied.clone()))
                }
            }
        }
        _ => overlay(ty, applied),
    }
}

/// An applied value where there is none to merge with. A null that is no value of its own is absence.
fn overlay(ty: Type<'_>, applied: &Value) -> Option<Value> {
    match ty.shape(applied) {
        _ if applied.is_null() => (!ty.drops_null()).then_some(Value::Null),
        Shape::Map(Some(map)) if !map.is_empty() => merge_maps(ty, None, map),
        Shape::List(Some(items), list) if !items.is_empty() => {
            Some(merge_lists(list, &[], items).unwrap_or_else(|| applied.clone()))
        }
        _ => Some(applied.clone()),
    }
}

fn filled<T>(container: Option<&T>, is_empty: impl Fn(&T) -> bool) -> Option<&T> {
    container.filter(|c| !is_empty(c))
}

fn merge_maps(ty: Type<'_>, live: Option<&Map<String, Value>>, applied: &Map<String, Value>) -> Option<Value> {
    let mut out = Map::new();
    for (key, value) in live.into_iter().flatten() {
        let merged = match applied.get(key) {
            None => Some(value.clone()),
            over => merge(ty.field(key), Some(value), over),
        };
        out.extend(merged.map(|value| (key.clone(), value)));
    }
    for (key, value) in applied {
        if live.is_none_or(|live| !live.contains_key(key)) {
            out.extend(overlay(ty.field(key), value).map(|value| (key.clone(), value)));
        }
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// The items of both, in the applied order, with items that only the live list has kept near their neighbours. `None`
/// if an item has no identity.
fn merge_lists(list: ListOf<'_>, live: &[Value], applied: &[Value]) -> Option<Value> {
    let live_elements = list.elements(live)?;
    let applied_elements = list.elements(applied)?;
    let applied_at: BTreeMap<&PathElement, usize> = applied_elements.iter().zip(0..).collect();
    // Of a repeated live item no single one can be merged with; the applied item replaces them.
    let mut live_at: BTreeMap<&PathElement, Option<usize>> = BTreeMap::new();
    for (at, element) in live_elements.iter().enumerate() {
        live_at.entry(element).and_modify(|at| *at = None).or_insert(Some(at));
    }
    let ty = list.item();
    let merged = |element: &PathElement| {
        let under = live_at.get(element).copied().flatten().map(|at| &live[at]);
        merge(ty, under, applied_at.get(element).map(|at| &applied[*at]))
    };
    // The items both have, in the applied order: the next of them is the place both lists meet again.
    let mut shared = applied_elements.iter().filter(|e| live_at.contains_key(e)).peekable();
    let mut done = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut a) = (0, 0);
    while l < live.len() || a < applied.len() {
        if let Some(element) = live_elements.get(l) {
            if !applied_at.contains_key(element) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            let same_place = applied_elements.get(a) == Some(element);
            let meets_later = a < applied.len() && shared.peek().is_some_and(|next| *next != element);
            if meets_later && !same_place {
                l += 1;
                continue;
            }
            if done.contains(element) {
                l += 1;
            }
        }
        let Some(element) = applied_elements.get(a) else { continue };
        out.extend(merged(element));
        done.insert(element);
        if live_elements.get(l) == Some(element) {
            l += 1;
        }
        shared.next_if(|next| *next == element);
        a += 1;
    }
    Some(Value::Array(out))
}

/// The value without the fields of the set. `None` if nothing is left.
pub(super) fn remove(ty: Type<'_>, value: &Value, fields: &FieldSet) -> Option<Value> {
    match ty.shape(value) {
        // Something below a leaf is to go: the leaf cannot lose a part of itself.
        Shape::Leaf => match value {
            Value::Object(_) | Value::Array(_) => None,
            scalar => Some(scalar.clone()),
        },
        Shape::Map(map) => {
            let mut out = Map::new();
            for (key, value) in map.into_iter().flatten() {
                let (element, field) = ty.step(key);
                if fields.has(&element) {
                    continue;
                }
                let kept = match fields.child(&element) {
                    Some(below) => remove(field, value, below),
                    None => Some(value.clone()),
                };
                out.extend(kept.map(|value| (key.clone(), value)));
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        Shape::List(items, list) => {
            let mut out = Vec::new();
            for item in items.into_iter().flatten() {
                let Ok(element) = list.element(item) else {
                    out.push(item.clone());
                    continue;
                };
                if fields.has(&element) {
                    continue;
                }
                out.extend(match fields.child(&element) {
                    Some(below) => remove(list.item(), item, below),
                    None => Some(item.clone()),
                });
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
    }
}
