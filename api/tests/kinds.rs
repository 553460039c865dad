//! Every kind: a small object of it can be made, its defaults are final, it is printed, and the catalog is that of
//! Kubernetes' stable groups.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;

use common::{create, resource_of};
use gantry_api::engine::{self, BodyFormat};
use gantry_api::kinds::{Catalog, Verb};
use gantry_api::table::{self, IncludeObject};
use serde_json::Value;

const MINIMAL: &str = include_str!("minimal.yaml");

fn manifests() -> impl Iterator<Item = &'static str> {
    MINIMAL.split("\n---\n")
}

#[test]
fn a_small_object_of_every_stored_kind_is_valid() {
    let catalog = Catalog::builtin();
    let mut told = BTreeSet::new();
    for manifest in manifests() {
        told.insert(resource_of(&catalog, manifest).gvk());
        create(manifest).unwrap_or_else(|error| panic!("{error}\n{manifest}"));
    }
    for resource in catalog.iter().filter(|resource| resource.allows(Verb::Create) && resource.stored()) {
        assert!(
            told.contains(&resource.gvk()) || resource.group == "apiextensions.k8s.io",
            "{resource:?} has no object"
        );
    }
}

#[test]
fn what_was_made_changes_no_more_when_it_is_read_again() {
    for manifest in manifests() {
        let object = create(manifest).unwrap();
        let resource = resource_of(&Catalog::builtin(), manifest);
        let again =
            engine::decode(&resource, object.to_string().as_bytes(), BodyFormat::Json, &mut common::context()).unwrap();
        assert_eq!(again, object, "{manifest}");
    }
}

#[test]
fn every_kind_is_printed_in_as_many_cells_as_it_has_columns() {
    let now = "2026-01-02T04:04:05Z".parse().unwrap();
    for manifest in manifests() {
        let resource = resource_of(&Catalog::builtin(), manifest);
        let object = create(manifest).unwrap().to_string();
        let table = table::single(&resource, object.as_bytes(), IncludeObject::None, true, now).unwrap();
        let table: Value = serde_json::from_slice(&table).unwrap();
        let (columns, cells) = (&table["columnDefinitions"], &table["rows"][0]["cells"]);
        let count = |list: &Value| list.as_array().unwrap().len();
        assert_eq!(count(columns), count(cells), "{table}");
        for (column, cell) in columns.as_array().unwrap().iter().zip(cells.as_array().unwrap()) {
            let fits = match column["type"].as_str().unwrap() {
                "integer" => cell.is_i64() || cell.is_null(),
                // A CronJob's is a text there, too.
                "boolean" => cell.is_boolean() || cell == "False",
                // Kubernetes sends some numbers and truths in columns of text.
                _ => !cell.is_object() && !cell.is_array(),
            };
            assert!(fits, "{column}: {cell}\n{manifest}");
            assert_ne!(column["description"], "", "{resource:?} {column}");
        }
    }
}
