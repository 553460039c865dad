//! How events are printed, whichever of their two versions they come in.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Doc, Printer, Row, age, name_of, number, text_or, time};
use crate::meta;

const EVENT_TYPE: &str = "io.k8s.api.core.v1.Event";

pub(super) static EVENT: Printer = Printer::new(
    &[
        Column::text("Last Seen", Doc::Field(EVENT_TYPE, "lastTimestamp")),
        Column::text("Type", Doc::Field(EVENT_TYPE, "type")),
        Column::text("Reason", Doc::Field(EVENT_TYPE, "reason")),
        Column::text("Object", Doc::Field(EVENT_TYPE, "involvedObject")),
        Column::wide("Subobject", Doc::Field("io.k8s.api.core.v1.ObjectReference", "fieldPath")),
        Column::wide("Source", Doc::Field(EVENT_TYPE, "source")),
        Column::text("Message", Doc::Field(EVENT_TYPE, "message")),
        Column::wide("First Seen", Doc::Field(EVENT_TYPE, "firstTimestamp")),
        Column::wide("Count", Doc::Field(EVENT_TYPE, "count")),
        Column { priority: 1, ..Column::NAME },
    ],
    row,
);

fn row(event: &Value, now: Timestamp) -> Row {
    // core/v1 first, events.k8s.io/v1 second.
    let either = |a: &'static str, b: &'static str| event.get(a).or_else(|| event.get(b)).unwrap_or(&Value::Null);
    let either_time = |a: &str, b: &str| time(event, &[a]).or_else(|| time(event, &[b]));
    let first = either_time("firstTimestamp", "deprecatedFirstTimestamp").or_else(|| time(event, &["eventTime"]));
    let mut last = either_time("lastTimestamp", "deprecatedLastTimestamp").or(first);
    let mut count = either("count", "deprecatedCount").as_i64().unwrap_or_default().max(1);
    if meta::get(event, &["series"]).is_some() {
        last = time(event, &["series", "lastObservedTime"]);
        count = number(event, &["series", "count"]);
    }
    let object = either("involvedObject", "regarding");
    let kind = meta::str_at(object, &["kind"]).to_lowercase();
    let target = match meta::str_at(object, &["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = either("source", "deprecatedSource");
    let controller = text_or(event, &["reportingComponent"], meta::str_at(event, &["reportingController"]));
    let component = text_or(source, &["component"], controller);
    let instance = text_or(source, &["host"], meta::str_at(event, &["reportingInstance"]));
    let source = if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") };
    vec![
        json!(age(last, now)),
        json!(meta::str_at(event, &["type"])),
        json!(meta::str_at(event, &["reason"])),
        json!(target),
        json!(meta::str_at(object, &["fieldPath"])),
        json!(source),
        json!(either("message", "note").as_str().unwrap_or_default().trim()),
        json!(age(first, now)),
        json!(count),
        name_of(event),
    ]
    .into()
}
