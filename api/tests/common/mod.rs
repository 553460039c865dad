//! A tiny API server without storage: what a request's body becomes.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod cases;

use gantry_api::engine::{self, BodyFormat, Changed, Context, FieldValidation, PatchType};
use gantry_api::kinds::{Catalog, Resource};
use gantry_api::{ApiError, Reason};
use serde_json::Value;

pub fn context() -> Context<'static> {
    Context {
        now: "2026-01-02T03:04:05Z".parse().unwrap(),
        new_uid: "5f0c8a2e-0000-4000-8000-000000000001",
        random_suffix: "x7k2p",
        manager: "tester",
        field_validation: FieldValidation::Strict,
        dry_run: false,
        warnings: Vec::new(),
        applied: false,
    }
}

/// The resource of a manifest, by its apiVersion and kind.
pub fn resource_of(catalog: &Catalog, manifest: &str) -> std::sync::Arc<Resource> {
    let read = |key: &str| {
        let line = manifest.lines().find(|l| l.trim_start().starts_with(&format!("{key}:"))).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    let api_version = read("apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    catalog.by_gvk(group, version, &read("kind")).unwrap().clone()
}

pub fn create(manifest: &str) -> Result<Value, ApiError> {
    create_in(manifest, &mut context())
}

pub fn create_in(manifest: &str, ctx: &mut Context<'_>) -> Result<Value, ApiError> {
    let catalog = Catalog::builtin();
    let resource = resource_of(&catalog, manifest);
    let mut object = engine::decode(&resource, manifest.as_bytes(), BodyFormat::Yaml, ctx)?;
    let namespace = resource.namespaced.then_some("default");
    engine::prepare_create(&resource, &mut object, namespace, ctx)?;
    engine::finish_create(&resource, &mut object, ctx)?;
    object["metadata"]["resourceVersion"] = Value::from("1");
    Ok(object)
}

/// A resource of the built-in catalog.
pub fn resource(group: &str, plural: &str) -> std::sync::Arc<Resource> {
    Catalog::builtin().resource(group, "v1", plural).unwrap().clone()
}

pub fn update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    mut new: Value,
) -> Result<(Value, Changed), ApiError> {
    let mut ctx = context();
    engine::prepare_update(resource, subresource, old, &mut new, &mut ctx)?;
    let changed = engine::finish_update(resource, subresource, old, &mut new, &mut ctx)?;
    Ok((new, changed))
}

pub fn patch(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    kind: PatchType,
    body: &str,
) -> Result<(Value, Changed), ApiError> {
    let mut ctx = context();
    let mut new = engine::patch(resource, subresource, Some(old), kind, body.as_bytes(), &mut ctx)?;
    engine::prepare_update(resource, subresource, old, &mut new, &mut ctx)?;
    let changed = engine::finish_update(resource, subresource, old, &mut new, &mut ctx)?;
    Ok((new, changed))
}

/// Asserts that a manifest is refused as invalid with exactly these field errors, in any order.
pub fn assert_invalid(manifest: &str, wanted: &[&str]) {
    let error = create(manifest).expect_err(manifest);
    assert_eq!(error.reason, Reason::Invalid, "{error}\n{manifest}");
    let mut found: Vec<String> =
        error.details.unwrap().causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    found.sort();
    let mut wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
    wanted.sort();
    assert_eq!(found, wanted, "{manifest}");
}
