//! Node.

use serde_json::Value;

use super::Strategy;
use super::field::{at, child, deep, entries, list, set, text};
use crate::error::FieldError;
use crate::quantity::Quantity;
use crate::selector::{label_key_errors, label_value_errors};

/// What a taint can do.
pub(super) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Node.
pub struct NodeStrategy;

impl Strategy for NodeStrategy {
    /// A node registers with its status.
    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        let capacity = deep(object, &["status", "capacity"]).cloned();
        if let Some(capacity) = capacity.filter(|_| deep(object, &["status", "allocatable"]).is_none()) {
            set(child(object, "status"), "allocatable", capacity);
        }
        // The one CIDR and the list of them say the same.
        let one = deep(object, &["spec", "podCIDR"]).cloned();
        let many = deep(object, &["spec", "podCIDRs"]).cloned();
        match (one, many) {
            (Some(one), None) => set(child(object, "spec"), "podCIDRs", vec![one]),
            (None, Some(Value::Array(many))) if !many.is_empty() => {
                set(child(object, "spec"), "podCIDR", many[0].clone());
            }
            _ => {}
        }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let spec = at(object, "spec").unwrap_or(&Value::Null);
        let mut warnings = Vec::new();
        if at(spec, "configSource").is_some() {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(spec, "externalID").is_empty() {
            warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        warnings
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        if let Some(spec) = at(object, "spec") {
            validate_taints(spec, errors);
            let cidrs = list(spec, "podCIDRs");
            for (index, cidr) in cidrs.iter().enumerate() {
                let text = cidr.as_str().unwrap_or_default();
                if !is_cidr(text) {
                    errors.push(FieldError::invalid(
                        format!("spec.podCIDRs[{index}]"),
                        text,
                        "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                    ));
                }
            }
        }
        let Some(status) = at(object, "status") else { return };
        for field in ["capacity", "allocatable"] {
            for (name, amount) in entries(status, field) {
                if Quantity::from_value(amount).is_ok_and(|q| q.signum() < 0) {
                    errors.push(FieldError::invalid(
                        format!("status.{field}[{name}]"),
                        amount.clone(),
                        "must be greater than or equal to 0",
                    ));
                }
            }
        }
        let addresses = list(status, "addresses");
        for (index, address) in addresses.iter().enumerate() {
            if addresses[..index].contains(address) {
                errors.push(FieldError::duplicate(format!("status.addresses[{index}]"), address.clone()));
            }
        }
    }

    fn validate_update(&self, _: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        for (field, path, what) in
            [("podCIDRs", "spec.podCIDRs", "podCIDR"), ("providerID", "spec.providerID", "providerID")]
        {
            let was = deep(old, &["spec", field]);
            let is = deep(new, &["spec", field]);
            if was.is_some_and(|w| w.as_str() != Some("")) && was != is {
                let detail = format!("node updates may not change {what} except from \"\" to valid");
                errors.push(FieldError::forbidden(path, detail));
            }
        }
    }
}

fn validate_taints(spec: &Value, errors: &mut Vec<FieldError>) {
    let taints = list(spec, "taints");
    for (index, taint) in taints.iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        for detail in label_key_errors(text(taint, "key")) {
            errors.push(FieldError::invalid(format!("{path}.key"), text(taint, "key"), detail));
        }
        for detail in label_value_errors(text(taint, "value")) {
            errors.push(FieldError::invalid(format!("{path}.value"), text(taint, "value"), detail));
        }
        match text(taint, "effect") {
            "" => errors.push(FieldError::required(format!("{path}.effect"), "")),
            effect if !TAINT_EFFECTS.contains(&effect) => {
                errors.push(FieldError::not_supported(format!("{path}.effect"), effect, &TAINT_EFFECTS));
            }
            _ => {}
        }
        let same =
            |other: &Value| text(other, "key") == text(taint, "key") && text(other, "effect") == text(taint, "effect");
        if taints[..index].iter().any(same) {
            errors.push(FieldError::duplicate(path, taint.clone()));
        }
    }
}

/// Whether a text is an address and a prefix length.
pub(super) fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Ok(length) = length.parse::<u8>() else { return false };
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => length <= 32,
        Ok(std::net::IpAddr::V6(_)) => length <= 128,
        Err(_) => false,
    }
}
