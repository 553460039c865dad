//! The events.k8s.io version of an event, stored as a core event.

use serde_json::{Map, Value};

use super::Conversion;
use crate::error::ApiError;

/// Field names: events.k8s.io, core.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Converts between `events.k8s.io/v1` and `v1`.
pub struct EventsGroup;

impl Conversion for EventsGroup {
    fn to_storage(&self, object: Value) -> Result<Value, ApiError> {
        Ok(rename(object, "v1", |from, to| (from, to)))
    }

    fn out_of_storage(&self, object: Value) -> Result<Value, ApiError> {
        Ok(rename(object, "events.k8s.io/v1", |from, to| (to, from)))
    }
}

fn rename(
    object: Value,
    api_version: &str,
    direction: fn(&'static str, &'static str) -> (&'static str, &'static str),
) -> Value {
    let Value::Object(map) = object else { return object };
    let mut out = Map::new();
    for (key, value) in map {
        let renamed = NAMES.iter().map(|(from, to)| direction(from, to)).find(|(from, _)| *from == key);
        out.insert(renamed.map_or(key, |(_, to)| to.to_owned()), value);
    }
    out.insert("apiVersion".to_owned(), Value::from(api_version));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_goes_to_the_core_form_and_back() {
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Pod"}, "note": "started", "reportingController": "agent",
            "reportingInstance": "n1", "eventTime": "2024-01-01T00:00:00.000000Z", "action": "Start",
            "deprecatedCount": 3, "type": "Normal", "reason": "Started", "series": {"count": 2},
        });
        let stored = EventsGroup.to_storage(new.clone()).unwrap();
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(stored["involvedObject"]["kind"], "Pod");
        assert_eq!((&stored["message"], &stored["count"]), (&json!("started"), &json!(3)));
        assert_eq!(EventsGroup.out_of_storage(stored).unwrap(), new);
    }
}
