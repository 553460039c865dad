//! Cases of what is refused: each changes a small valid object in one place.

use gantry_api::Reason;
use gantry_api::engine::{self, BodyFormat};
use gantry_api::kinds::Catalog;
use serde_json::{Value, json};

use super::{context, create};

const MINIMAL: &str = include_str!("../minimal.yaml");

/// The small object of a kind, as it is after it was made.
pub fn minimal(group_version: &str, kind: &str) -> Value {
    let head = format!("apiVersion: {group_version}\nkind: {kind}\n");
    let manifest = MINIMAL.split("\n---\n").find(|m| m.contains(&head)).unwrap_or_else(|| panic!("no {kind}"));
    create(manifest).unwrap()
}

/// `object` with the value at a JSON pointer replaced; null removes it.
pub fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut at = &mut object;
    for segment in parent.split('/').skip(1) {
        let segment = segment.replace("~1", "/");
        at = match segment.parse::<usize>() {
            Ok(index) if at.is_array() => &mut at[index],
            _ => {
                if at[segment.as_str()].is_null() {
                    at[segment.as_str()] = json!({});
                }
                &mut at[segment.as_str()]
            }
        };
    }
    let key = key.replace("~1", "/");
    match (key.parse::<usize>(), value) {
        (Ok(index), value) if at.is_array() => at[index] = value,
        (_, Value::Null) => drop(at.as_object_mut().unwrap().remove(&key)),
        (_, value) => at[key.as_str()] = value,
    }
    object
}

/// The field errors of a refusal.
pub fn causes(error: gantry_api::ApiError) -> Vec<String> {
    assert_eq!(error.reason, Reason::Invalid, "{error}");
    let causes = error.details.unwrap().causes;
    causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

/// A new object that differs from the small one.
pub fn refused(object: &Value) -> Vec<String> {
    let mut object = object.clone();
    for key in ["creationTimestamp", "uid", "resourceVersion", "managedFields", "generation", "namespace"] {
        object["metadata"].as_object_mut().unwrap().remove(key);
    }
    let catalog = Catalog::builtin();
    let text = object.to_string();
    let api_version = object["apiVersion"].as_str().unwrap();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = catalog.by_gvk(group, version, object["kind"].as_str().unwrap()).unwrap().clone();
    let mut ctx = context();
    let mut made = engine::decode(&resource, text.as_bytes(), BodyFormat::Json, &mut ctx).unwrap();
    let namespace = resource.namespaced.then_some("default");
    engine::prepare_create(&resource, &mut made, namespace, &mut ctx).unwrap();
    match engine::finish_create(&resource, &mut made, &mut ctx) {
        Ok(()) => Vec::new(),
        Err(error) => causes(error),
    }
}

/// Kind, what is changed, and one of the errors.
pub type Case = (&'static str, &'static str, &'static str, Value, &'static str);

pub fn check(cases: &[Case]) {
    for (group_version, kind, pointer, value, wanted) in cases {
        let object = with(minimal(group_version, kind), pointer, value.clone());
        let found = refused(&object);
        assert!(
            found.iter().any(|error| error == wanted),
            "{kind} {pointer} = {value}\nwanted {wanted}\nfound {found:#?}"
        );
    }
}
