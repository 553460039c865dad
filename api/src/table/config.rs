//! How configuration is printed: by the number of its entries.

use serde_json::{Map, Value, json};

use super::{Column, Doc, Printer, age_of, name_of};
use crate::meta;

pub(super) static CONFIG_MAP: Printer = Printer::new(
    &[Column::NAME, Column::text("Data", Doc::Field("io.k8s.api.core.v1.ConfigMap", "data")), Column::AGE],
    |map, now| {
        let count = entries(map, "data") + entries(map, "binaryData");
        vec![name_of(map), json!(count), age_of(map, now)].into()
    },
);

pub(super) static SECRET: Printer = Printer::new(
    &[
        Column::NAME,
        Column::text("Type", Doc::Field("io.k8s.api.core.v1.Secret", "type")),
        Column::text("Data", Doc::Field("io.k8s.api.core.v1.Secret", "data")),
        Column::AGE,
    ],
    |secret, now| {
        let kind = meta::str_at(secret, &["type"]);
        vec![name_of(secret), json!(kind), json!(entries(secret, "data")), age_of(secret, now)].into()
    },
);

fn entries(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, Map::len)
}
