//! Scenarios and properties of server-side apply.

use serde_json::{Value, json};

use super::*;
use crate::schema::SchemaSet;

mod properties;
mod scenarios;
mod updates;

fn now() -> Timestamp {
    "2024-05-01T10:00:00Z".parse().unwrap()
}

fn later() -> Timestamp {
    "2024-05-01T10:05:00Z".parse().unwrap()
}

fn deployment_schema() -> SchemaRef<'static> {
    SchemaSet::builtin().get("io.k8s.api.apps.v1.Deployment").unwrap()
}

/// An object as the server would have it: with a UID.
fn stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = json!("1");
    object
}

/// A Deployment; without a spec if that is null.
fn web(spec: Value) -> Value {
    let metadata = json!({"name": "web", "namespace": "default"});
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata});
    if !spec.is_null() {
        object["spec"] = spec;
    }
    object
}

/// Applies to a Deployment.
fn apply_as(manager: &str, live: Option<&Value>, applied: &Value) -> Result<Value, ApiError> {
    apply(deployment_schema(), "apps/v1", live, applied, manager, false, None, now()).map(stored)
}

fn force_as(manager: &str, live: &Value, applied: &Value) -> Value {
    stored(apply(deployment_schema(), "apps/v1", Some(live), applied, manager, true, None, now()).unwrap())
}

/// Updates a Deployment.
fn update_as(manager: &str, old: Option<&Value>, mut new: Value) -> Value {
    track_update(deployment_schema(), "apps/v1", old, &mut new, manager, None, now());
    stored(new)
}

/// The fields a manager owns, one a line.
fn owned(object: &Value, manager: &str) -> String {
    let managed = Managed::decode(object).unwrap();
    let of: Vec<String> =
        managed.entries.iter().filter(|(id, _)| id.manager == manager).map(|(_, o)| o.fields.to_string()).collect();
    of.join("\n--\n")
}

fn containers(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"]
}
