//! EndpointSlice.

use std::net::IpAddr;

use serde_json::Value;

use super::field::{at, immutable, int, list, text};
use super::service::PROTOCOLS;
use super::{Strategy, names};
use crate::error::FieldError;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];

/// EndpointSlice.
pub struct EndpointSliceStrategy;

impl Strategy for EndpointSliceStrategy {
    fn tracks_generation(&self) -> bool {
        true
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let kind = text(object, "addressType");
        if kind.is_empty() {
            errors.push(FieldError::required("addressType", ""));
        } else if !ADDRESS_TYPES.contains(&kind) {
            errors.push(FieldError::not_supported("addressType", kind, &ADDRESS_TYPES));
        }
        let endpoints = list(object, "endpoints");
        if endpoints.len() > ENDPOINTS_MAX {
            errors.push(FieldError::too_many("endpoints", endpoints.len(), ENDPOINTS_MAX));
            return;
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            validate_addresses(endpoint, &format!("endpoints[{index}]"), kind, errors);
        }
        validate_ports(list(object, "ports"), errors);
    }

    fn validate_update(&self, _: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        immutable(old, new, &["addressType"], errors);
    }
}

fn validate_addresses(endpoint: &Value, path: &str, kind: &str, errors: &mut Vec<FieldError>) {
    let addresses = list(endpoint, "addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(format!("{path}.addresses"), "must contain at least 1 address"));
    }
    if addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(format!("{path}.addresses"), addresses.len(), ADDRESSES_MAX));
    }
    for (index, address) in addresses.iter().enumerate() {
        let value = address.as_str().unwrap_or_default();
        let path = format!("{path}.addresses[{index}]");
        match (kind, value.parse::<IpAddr>()) {
            ("FQDN", _) => {
                for detail in names::dns1123_subdomain(value.trim_end_matches('.')) {
                    errors.push(FieldError::invalid(path.clone(), value, detail));
                }
            }
            (_, Err(_)) => errors.push(FieldError::invalid(path, value, super::service::IP_RULE)),
            ("IPv4", Ok(IpAddr::V6(_))) => errors.push(FieldError::invalid(path, value, "must be an IPv4 address")),
            ("IPv6", Ok(IpAddr::V4(_))) => errors.push(FieldError::invalid(path, value, "must be an IPv6 address")),
            _ => {}
        }
    }
    if let Some(name) = at(endpoint, "nodeName").and_then(Value::as_str) {
        for detail in names::dns1123_subdomain(name) {
            errors.push(FieldError::invalid(format!("{path}.nodeName"), name, detail));
        }
    }
    if let Some(name) = at(endpoint, "hostname").and_then(Value::as_str) {
        for detail in names::dns1123_label(name) {
            errors.push(FieldError::invalid(format!("{path}.hostname"), name, detail));
        }
    }
}

fn validate_ports(ports: &[Value], errors: &mut Vec<FieldError>) {
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many("ports", ports.len(), PORTS_MAX));
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let name = text(port, "name");
        if !name.is_empty() {
            for detail in names::dns1123_label(name) {
                errors.push(FieldError::invalid(format!("ports[{index}].name"), name, detail));
            }
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("ports[{index}].name"), name));
        }
        let protocol = text(port, "protocol");
        if !PROTOCOLS.contains(&protocol) {
            errors.push(FieldError::not_supported(format!("ports[{index}].protocol"), protocol, &PROTOCOLS));
        }
        if let Some(number) = int(port, "port") {
            for detail in names::port_number(number) {
                errors.push(FieldError::invalid(format!("ports[{index}].port"), number, detail));
            }
        }
    }
}
