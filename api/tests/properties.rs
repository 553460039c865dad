//! Properties of every kind: decoding is stable, and no object makes the engine panic.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::context;
use gantry_api::engine::{self, BodyFormat};
use gantry_api::kinds::{Catalog, Resource};
use gantry_api::schema::walk::{clean, default};
use gantry_api::schema::{SchemaRef, TypeKind};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Choices from a list of bytes; zeros once it ends, so that every object is finite.
struct Choices<'b>(std::slice::Iter<'b, u8>);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn one_in(&mut self, n: u8) -> bool {
        self.next() % n == 1
    }
}

/// A value of the schema in the form in which the server keeps it. `wild` puts odd values in.
fn value(schema: SchemaRef<'_>, choices: &mut Choices<'_>, depth: usize, wild: bool) -> Value {
    match schema.kind() {
        TypeKind::Object => {
            let mut map = Map::new();
            for (name, field) in schema.fields() {
                let wanted = schema.required().iter().any(|r| r == name) || choices.one_in(8);
                if wanted && depth > 0 && !matches!(name, "apiVersion" | "kind") {
                    map.insert(name.to_owned(), value(field, choices, depth - 1, wild));
                }
            }
            Value::Object(map)
        }
        TypeKind::Map => {
            let element = schema.values().unwrap();
            let mut map = Map::new();
            for at in 0..=choices.next() % 2 {
                let key = if wild && choices.one_in(4) { format!("a/b/ {at}") } else { format!("key{at}") };
                map.insert(key, value(element, choices, depth.saturating_sub(1), wild));
            }
            Value::Object(map)
        }
        TypeKind::Array => {
            let element = schema.items().unwrap();
            let length = 1 + choices.next() % 2;
            (0..length).map(|_| value(element, choices, depth.saturating_sub(1), wild)).collect()
        }
        TypeKind::String => text(schema, choices, wild),
        TypeKind::Integer => {
            let odd = [0, -1, i64::from(i32::MAX), 65536, 1];
            json!(if wild { odd[usize::from(choices.next()) % odd.len()] } else { i64::from(choices.next()) })
        }
        TypeKind::Number => json!(0.5),
        TypeKind::Boolean => json!(choices.one_in(2)),
        TypeKind::IntOrString => {
            if choices.one_in(2) {
                json!("25%")
            } else {
                json!(choices.next())
            }
        }
        TypeKind::Any => json!({"any": [1, "x"]}),
    }
}

fn text(schema: SchemaRef<'_>, choices: &mut Choices<'_>, wild: bool) -> Value {
    match schema.format() {
        Some("quantity") => json!(format!("{}m", 1 + u32::from(choices.next() % 9))),
        Some("date-time") => json!("2026-01-02T03:04:05Z"),
        Some("micro-time") => json!("2026-01-02T03:04:05.000006Z"),
        Some("byte") => json!("YWJj"),
        _ if wild => {
            let odd = [
                "",
                "a",
                "ä b",
                "..",
                "/",
                "a=b",
                "None",
                "Exists",
                "Always",
                "metadata.labels['",
                "']",
                "25%",
                "1:2:3@",
            ];
            json!(odd[usize::from(choices.next()) % odd.len()])
        }
        _ => json!(format!("text{}", choices.next() % 4)),
    }
}

fn kinds() -> Vec<std::sync::Arc<Resource>> {
    Catalog::builtin().iter().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_object_of_the_schema_decodes_to_itself(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for resource in kinds() {
            let schema = resource.schema();
            let made = value(schema, &mut Choices(bytes.iter()), 9, false);
            let mut cleaned = made.clone();
            let mut unknown = Vec::new();
            clean(schema, &mut cleaned, &mut unknown).unwrap();
            prop_assert!(unknown.is_empty(), "{unknown:?}");
            // Only an object cut off at the depth limit can have an empty optional list, so nothing is dropped.
            prop_assert_eq!(&cleaned, &made);
        }
    }

    #[test]
    fn defaults_and_pruning_are_idempotent(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for resource in kinds() {
            let schema = resource.schema();
            let mut once = value(schema, &mut Choices(bytes.iter()), 9, true);
            clean(schema, &mut once, &mut Vec::new()).unwrap();
            default(schema, &mut once);
            resource.strategy.default(&mut once);
            let mut twice = once.clone();
            clean(schema, &mut twice, &mut Vec::new()).unwrap();
            default(schema, &mut twice);
            resource.strategy.default(&mut twice);
            prop_assert_eq!(once, twice);
        }
    }

    #[test]
    fn no_object_makes_the_engine_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for resource in kinds() {
            let mut made = value(resource.schema(), &mut Choices(bytes.iter()), 9, true);
            made["metadata"]["name"] = json!("some-name");
            let body = made.to_string();
            let mut ctx = context();
            let Ok(mut object) = engine::decode(&resource, body.as_bytes(), BodyFormat::Json, &mut ctx) else { continue };
            if engine::prepare_create(&resource, &mut object, Some("default"), &mut ctx).is_err() {
                continue;
            }
            let _ = engine::finish_create(&resource, &mut object.clone(), &mut ctx);
            for subresource in [None, Some("status"), Some("scale"), Some("resize"), Some("ephemeralcontainers"), Some("finalize")] {
                let mut new = object.clone();
                new["spec"] = json!({});
                if engine::prepare_update(&resource, subresource, &object, &mut new, &mut ctx).is_ok() {
                    let _ = engine::finish_update(&resource, subresource, &object, &mut new, &mut ctx);
                }
            }
        }
    }

    #[test]
    fn no_body_makes_decoding_panic(body in proptest::collection::vec(any::<u8>(), 0..200), yaml: bool) {
        let format = if yaml { BodyFormat::Yaml } else { BodyFormat::Json };
        for resource in kinds() {
            let _ = engine::decode(&resource, &body, format, &mut context());
        }
    }
}
