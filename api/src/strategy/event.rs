//! Event, in both of its versions.

use serde_json::Value;

use super::Strategy;
use super::field::{at, int, text};
use crate::error::FieldError;
use crate::{meta, selector};

const SHORT_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

/// Event.
pub struct EventStrategy;

impl Strategy for EventStrategy {
    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let grouped = text(object, "apiVersion") != "v1";
        let (about, controller, note) = if grouped {
            ("regarding", "reportingController", "note")
        } else {
            ("involvedObject", "reportingComponent", "message")
        };
        validate_namespace(object, about, errors);
        let timed = at(object, "eventTime").is_some();
        if timed {
            for (field, max) in [
                (controller, usize::MAX),
                ("reportingInstance", SHORT_MAX),
                ("action", SHORT_MAX),
                ("reason", SHORT_MAX),
            ] {
                let value = text(object, field);
                if value.is_empty() {
                    errors.push(FieldError::required(field, ""));
                } else if value.len() > max {
                    errors.push(FieldError::invalid(field, "", format!("can have at most {max} characters")));
                }
            }
            let name = text(object, controller);
            for detail in selector::label_key_errors(name).into_iter().filter(|_| !name.is_empty()) {
                errors.push(FieldError::invalid(controller, name, detail));
            }
            if text(object, note).len() > NOTE_MAX {
                errors.push(FieldError::invalid(note, "", format!("can have at most {NOTE_MAX} characters")));
            }
        }
        if grouped {
            validate_grouped(object, timed, errors);
        }
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        let _ = subresource;
        if text(new, "apiVersion") == "v1" {
            return;
        }
        // In the newer version only the series and the metadata change.
        for field in [
            "regarding",
            "reason",
            "action",
            "type",
            "note",
            "reportingController",
            "reportingInstance",
            "eventTime",
            "related",
        ] {
            super::field::immutable(old, new, &[field], errors);
        }
    }
}

/// An event stands in the namespace of what it is about; about a cluster-wide object it stands in `default`.
fn validate_namespace(object: &Value, about: &str, errors: &mut Vec<FieldError>) {
    let namespace = meta::namespace(object);
    let of_object = at(object, about).map(|o| text(o, "namespace")).unwrap_or_default();
    let fits = if of_object.is_empty() { matches!(namespace, "" | "default") } else { namespace == of_object };
    if !fits {
        errors.push(FieldError::invalid(format!("{about}.namespace"), of_object, "does not match event.namespace"));
    }
}

fn validate_grouped(object: &Value, timed: bool, errors: &mut Vec<FieldError>) {
    if !timed {
        errors.push(FieldError::required("eventTime", ""));
    }
    let kind = text(object, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    if let Some(series) = at(object, "series") {
        if int(series, "count").unwrap_or(0) < 2 {
            errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
        }
        if at(series, "lastObservedTime").is_none() {
            errors.push(FieldError::required("series.lastObservedTime", ""));
        }
    }
}
