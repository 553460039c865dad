//! Probes and lifecycle handlers of a container.

use serde_json::Value;

use crate::error::FieldError;
use crate::strategy::field::{at, int, list, non_negative, one_of, text};
use crate::strategy::names;

pub(super) fn validate(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = at(container, field) {
            validate_probe(probe, field, &format!("{path}.{field}"), errors);
        }
    }
    if let Some(lifecycle) = at(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(handler) = at(lifecycle, field) {
                let handlers = ["exec", "httpGet", "tcpSocket", "sleep"];
                validate_handler(handler, &handlers, &format!("{path}.lifecycle.{field}"), errors);
            }
        }
    }
}

fn validate_probe(probe: &Value, field: &str, path: &str, errors: &mut Vec<FieldError>) {
    validate_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
    for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(probe, number, path, errors);
    }
    let grace = int(probe, "terminationGracePeriodSeconds");
    let grace_path = format!("{path}.terminationGracePeriodSeconds");
    if field == "readinessProbe" {
        if let Some(seconds) = grace {
            errors.push(FieldError::invalid(grace_path, seconds, "must not be set for readinessProbes"));
        }
        return;
    }
    if let Some(seconds) = grace.filter(|s| *s <= 0) {
        errors.push(FieldError::invalid(grace_path, seconds, "must be greater than 0"));
    }
    if let Some(threshold) = int(probe, "successThreshold").filter(|t| *t != 1) {
        errors.push(FieldError::invalid(format!("{path}.successThreshold"), threshold, "must be 1"));
    }
}

fn validate_handler(handler: &Value, kinds: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let set: Vec<&str> = kinds.iter().copied().filter(|kind| at(handler, kind).is_some()).collect();
    if set.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for extra in set.iter().skip(1) {
        let detail = "may not specify more than 1 handler type";
        errors.push(FieldError::forbidden(format!("{path}.{extra}"), detail));
    }
    let Some(kind) = set.first() else { return };
    let Some(action) = at(handler, kind) else { return };
    let path = format!("{path}.{kind}");
    match *kind {
        "exec" => {
            if list(action, "command").is_empty() {
                errors.push(FieldError::required(format!("{path}.command"), ""));
            }
        }
        "httpGet" => {
            if text(action, "path").is_empty() {
                errors.push(FieldError::required(format!("{path}.path"), ""));
            }
            validate_port(action, &path, errors);
            one_of(action, "scheme", &path, &["HTTP", "HTTPS"], errors);
            for (index, header) in list(action, "httpHeaders").iter().enumerate() {
                let name = text(header, "name");
                if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                    let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                                  regex used for validation is '[-A-Za-z0-9]+')";
                    errors.push(FieldError::invalid(format!("{path}.httpHeaders[{index}].name"), name, detail));
                }
            }
        }
        "tcpSocket" => validate_port(action, &path, errors),
        "grpc" => {
            let port = int(action, "port").unwrap_or(0);
            for detail in names::port_number(port) {
                errors.push(FieldError::invalid(format!("{path}.port"), port, detail));
            }
        }
        _ => {
            if let Some(seconds) = int(action, "seconds").filter(|s| *s < 0) {
                let detail = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(format!("{path}.seconds"), seconds, detail));
            }
        }
    }
}

fn validate_port(action: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let port = at(action, "port").cloned().unwrap_or(Value::from(0));
    let problems = match &port {
        Value::String(name) => names::port_name(name),
        other => names::port_number(other.as_i64().unwrap_or(0)),
    };
    for detail in problems {
        errors.push(FieldError::invalid(format!("{path}.port"), port.clone(), detail));
    }
}
