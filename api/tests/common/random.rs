//! Random objects of any kind, made from its schema.
//!
//! Objects are as Go would write them: a scalar that Go leaves out when it is zero is absent or is not zero, and no list or
//! map that is there is empty.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_api::kinds::Resource;
use gantry_api::schema::{SchemaRef, TypeKind};
use serde_json::{Map, Value, json};

/// A small generator of numbers (xorshift), so that a seed is all there is to repeat.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn text(&mut self) -> String {
        const TEXTS: [&str; 8] = ["a", "web", "x-1", "ünï", "\"quoted\\\"", "line\nbreak", "🦀", "metadata\":{"];
        let mut text = TEXTS[self.below(8) as usize].to_owned();
        // Long enough for a length of two bytes, now and then.
        if self.one_in(8) {
            text = text.repeat(80);
        }
        text
    }
}

/// An object of a resource with its apiVersion, kind and a name.
pub fn object(resource: &Resource, random: &mut Random) -> Value {
    let mut object = value(resource.schema(), random, 9, false);
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.clone().into();
    let mut metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    metadata["name"] = "name".into();
    object["metadata"] = metadata;
    object
}

/// A value of a schema; `zero` allows it to be zero.
pub fn value(schema: SchemaRef<'_>, random: &mut Random, depth: usize, zero: bool) -> Value {
    let zero = zero && random.one_in(3);
    match schema.kind() {
        TypeKind::Object => {
            let mut map = Map::new();
            for field in schema.proto_fields() {
                if field.number != 0 && depth > 0 && random.one_in(3) {
                    let kept = field.schema.zero_is_kept();
                    map.insert(field.name.to_owned(), value(field.schema, random, depth - 1, kept));
                }
            }
            Value::Object(map)
        }
        TypeKind::Map => {
            let Some(values) = schema.values() else { return json!({"a": "b"}) };
            let entries = (0..=random.below(2)).map(|at| {
                let value = value(values, random, depth.saturating_sub(1), true);
                (format!("{}{at}", random.text()), value)
            });
            Value::Object(entries.collect())
        }
        TypeKind::Array => {
            let Some(items) = schema.items() else { return json!([1]) };
            (0..=random.below(2)).map(|_| value(items, random, depth.saturating_sub(1), true)).collect()
        }
        TypeKind::String if zero && schema.format().is_none() => "".into(),
        TypeKind::String => match schema.format() {
            Some("byte") => STANDARD.encode(random.text()).into(),
            Some("quantity") => ["1", "50m", "1Gi", "0", "1500"][random.below(5) as usize].into(),
            Some("date-time") => ["2024-02-29T23:59:59Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z"]
                [random.below(3) as usize]
                .into(),
            Some("micro-time") => {
                ["2024-02-29T23:59:59.000001Z", "1969-12-31T23:59:59.999999Z"][random.below(2) as usize].into()
            }
            _ => random.text().into(),
        },
        TypeKind::Integer if zero => 0.into(),
        TypeKind::Integer => {
            let bits = if schema.format() == Some("int32") { 32 } else { 64 };
            match random.below(4) {
                0 => (-1 - random.below(100) as i64).into(),
                1 if bits == 64 => i64::MIN.into(),
                1 => i64::from(i32::MAX).into(),
                _ => (1 + random.below(300) as i64).into(),
            }
        }
        TypeKind::Number if zero => 0.into(),
        TypeKind::Number => [json!(1), json!(-2), json!(0.5), json!(1e30)][random.below(4) as usize].clone(),
        TypeKind::Boolean => (!zero).into(),
        TypeKind::IntOrString if random.one_in(2) => random.below(70_000).into(),
        TypeKind::IntOrString => random.text().into(),
        TypeKind::Any => any(schema, random, depth),
    }
}

fn any(schema: SchemaRef<'_>, random: &mut Random, depth: usize) -> Value {
    const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let mut props = || schema.set().get(PROPS).map_or(json!({}), |props| value(props, random, depth / 2, false));
    match schema.format() {
        Some("schema-or-array") => [props(), json!([props(), props()])][random.below(2) as usize].clone(),
        Some("schema-or-bool") => [props(), json!(true), json!(false)][random.below(3) as usize].clone(),
        Some("schema-or-names") => [props(), json!(["a", ""])][random.below(2) as usize].clone(),
        _ => json!({"f:a": {}, "list": [1, 2.5, "x", null, true], "n": {"deep": [[]]}}),
    }
}
