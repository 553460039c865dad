//! How configuration is printed: by the number of its entries.

use serde_json::{Map, Value, json};

use super::{Column, Doc, Printer, Show, age_of, name_of};
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

pub(super) static RESOURCE_QUOTA: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text(
            "Request",
            Doc::Text("Request represents a minimum amount of cpu/memory that a container may consume."),
        ),
        Show::With(|quota, _| used(quota, false)),
    ),
    (
        Column::text(
            "Limit",
            Doc::Text(
                "Limits control the maximum amount of cpu/memory that a container may use independent of contention on \
                 the node.",
            ),
        ),
        Show::With(|quota, _| used(quota, true)),
    ),
    (Column::AGE, Show::Age),
]);

/// `pods: 1/10, requests.cpu: 0/4`, of the limits or of the others.
fn used(quota: &Value, limits: bool) -> Value {
    let hard = meta::get(quota, &["status", "hard"]).and_then(Value::as_object);
    let fitting = hard.into_iter().flatten().filter(|(name, _)| name.starts_with("limits.") == limits);
    let shown: Vec<String> = fitting
        .map(|(name, hard)| {
            let used = match meta::str_at(quota, &["status", "used", name]) {
                "" => "0",
                used => used,
            };
            format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
        })
        .collect();
    json!(shown.join(", "))
}
