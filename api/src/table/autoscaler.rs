//! How autoscalers are printed, in both versions.

use serde_json::{Value, json};

use super::{Column, Doc, Printer, Show, items};
use crate::kinds::autoscaling::to_v2;
use crate::meta;

const SPEC: &str = "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec";
/// More metrics than these are only counted.
const SHOWN_MAX: usize = 2;

pub(super) static AUTOSCALER: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Reference", Doc::Field(SPEC, "scaleTargetRef")),
        Show::With(|autoscaler, _| {
            let text = |key: &str| meta::str_at(autoscaler, &["spec", "scaleTargetRef", key]);
            json!(format!("{}/{}", text("kind"), text("name")))
        }),
    ),
    (
        Column::text("Targets", Doc::Field(SPEC, "metrics")),
        Show::With(|autoscaler, _| {
            if autoscaler["apiVersion"] == "autoscaling/v1" {
                return json!(targets(&to_v2(autoscaler.clone())));
            }
            json!(targets(autoscaler))
        }),
    ),
    (
        Column::text("MinPods", Doc::Field(SPEC, "minReplicas")),
        Show::With(|autoscaler, _| match meta::get(autoscaler, &["spec", "minReplicas"]) {
            Some(Value::Number(number)) => json!(number.to_string()),
            _ => json!("<unset>"),
        }),
    ),
    (Column::text("MaxPods", Doc::Field(SPEC, "maxReplicas")), Show::Number(&["spec", "maxReplicas"])),
    (
        Column::text(
            "Replicas",
            Doc::Field("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", "currentReplicas"),
        ),
        Show::Number(&["status", "currentReplicas"]),
    ),
    (Column::AGE, Show::Age),
])
.of_all();

/// `cpu: 41%/60%, 3/10 (avg) + 1 more...`
fn targets(autoscaler: &Value) -> String {
    let metrics = items(autoscaler, &["spec", "metrics"]);
    let current = items(autoscaler, &["status", "currentMetrics"]);
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let shown: Vec<String> = metrics
        .iter()
        .take(SHOWN_MAX)
        .enumerate()
        .map(|(at, metric)| target(metric, current.get(at).unwrap_or(&Value::Null)))
        .collect();
    let text = shown.join(", ");
    match metrics.len().checked_sub(SHOWN_MAX) {
        Some(more) if more > 0 => format!("{text} + {more} more..."),
        _ => text,
    }
}

fn target(metric: &Value, current: &Value) -> String {
    let (source, named) = match meta::str_at(metric, &["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "ContainerResource" => ("containerResource", true),
        _ => ("resource", true),
    };
    let wanted = |key: &str| meta::str_at(metric, &[source, "target", key]);
    let observed = |key: &str| match meta::str_at(current, &[source, "current", key]) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
    let average = wanted("averageValue");
    if !named {
        return match source {
            "pods" => format!("{}/{average}", observed("averageValue")),
            _ if !average.is_empty() => format!("{}/{average} (avg)", observed("averageValue")),
            _ => format!("{}/{}", observed("value"), wanted("value")),
        };
    }
    let name = meta::str_at(metric, &[source, "name"]);
    if !average.is_empty() {
        return format!("{name}: {}/{average}", observed("averageValue"));
    }
    let percent = |object: &Value, part: &str, otherwise: &str| {
        let found = meta::get(object, &[source, part, "averageUtilization"]).and_then(Value::as_i64);
        found.map_or_else(|| otherwise.to_owned(), |percent| format!("{percent}%"))
    };
    format!("{name}: {}/{}", percent(current, "current", "<unknown>"), percent(metric, "target", "<auto>"))
}
