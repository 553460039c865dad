//! Requests and limits of a container.

use std::collections::HashSet;

use serde_json::Value;

use crate::error::FieldError;
use crate::quantity::Quantity;
use crate::selector::label_key_errors;
use crate::strategy::field::{at, entries, list, text};
use crate::strategy::names;

const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

pub(super) fn validate(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(resources) = at(container, "resources") else { return };
    let path = format!("{path}.resources");
    for field in ["limits", "requests"] {
        for (name, amount) in entries(resources, field) {
            let path = format!("{path}.{field}[{name}]");
            validate_name(name, &path, errors);
            validate_amount(name, amount, &path, errors);
        }
    }
    let named = |wanted: fn(&str) -> bool| {
        let mut names = ["limits", "requests"].into_iter().flat_map(|field| entries(resources, field));
        names.any(|(name, _)| wanted(name))
    };
    if named(|name| name.starts_with("hugepages-")) && !named(|name| matches!(name, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(path.clone(), "HugePages require cpu or memory"));
    }
    for (name, amount) in entries(resources, "requests") {
        let Ok(request) = Quantity::from_value(amount) else { continue };
        let limit = resources.get("limits").and_then(|limits| limits.get(name.as_str()));
        let path = format!("{path}.requests");
        match limit.and_then(|l| Quantity::from_value(l).ok()) {
            Some(limit) if !may_overcommit(name) && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(path, amount.clone(), detail));
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(FieldError::invalid(path, amount.clone(), detail));
            }
            None if !may_overcommit(name) => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(format!("{path}[{name}]").replace("requests[", "limits["), detail));
            }
            _ => {}
        }
    }
}

/// Validates which of the pod's claims of devices a container has.
pub(super) fn validate_claims(container: &Value, spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let claims = at(container, "resources").map(|resources| list(resources, "claims")).unwrap_or_default();
    let mut known: Vec<&str> = list(spec, "resourceClaims").iter().map(|claim| text(claim, "name")).collect();
    known.sort_unstable();
    let mut seen = HashSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let path = format!("{path}.resources.claims[{index}]");
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        for detail in names::dns1123_label(request).into_iter().filter(|_| !request.is_empty()) {
            errors.push(FieldError::invalid(format!("{path}.request"), request, detail));
        }
        if !seen.insert(key.clone()) {
            errors.push(FieldError::duplicate(path.clone(), key));
        }
        if !known.contains(&name) {
            errors.push(FieldError::not_found(path, name));
        }
    }
}

/// Kubernetes' own resources may be requested below their limit; huge pages and others' may not.
fn may_overcommit(name: &str) -> bool {
    (!name.contains('/') || name.contains("kubernetes.io/")) && !name.starts_with("hugepages-")
}

fn validate_name(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    for detail in label_key_errors(name) {
        errors.push(FieldError::invalid(path, name, detail));
    }
    if !name.contains('/') && !STANDARD.contains(&name) && !name.starts_with("hugepages-") {
        errors.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
        errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
    }
}

fn validate_amount(name: &str, amount: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Ok(quantity) = Quantity::from_value(amount) else { return };
    if quantity.signum() < 0 {
        errors.push(FieldError::invalid(path, amount.clone(), "must be greater than or equal to 0"));
    }
    if name.contains('/') && quantity.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(path, amount.clone(), "must be an integer"));
    }
}
