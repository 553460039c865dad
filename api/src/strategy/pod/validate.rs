//! What a pod must be.

use std::collections::HashSet;

use serde_json::Value;

use super::{app_armor, containers, os, scheduling, security, volumes};
use crate::engine::validate_annotations;
use crate::error::FieldError;
use crate::strategy::field::{at, int, is_true, list, one_of, text};
use crate::strategy::names;

/// When containers are started again.
pub(in crate::strategy) const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// Validates a new pod, or the pod an update makes.
pub(super) fn validate_pod(object: &Value, errors: &mut Vec<FieldError>) {
    match at(object, "spec") {
        Some(spec) => {
            validate_spec(spec, "spec", errors);
            if !list(spec, "schedulingGates").is_empty() && !text(spec, "nodeName").is_empty() {
                let detail = "cannot be set until all schedulingGates have been cleared";
                errors.push(FieldError::forbidden("spec.nodeName", detail));
            }
        }
        None => errors.push(FieldError::required("spec.containers", "")),
    }
}

/// Validates a pod template: its labels, annotations and spec.
pub(in crate::strategy) fn validate_template(template: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let none = Value::Null;
    let metadata = at(template, "metadata").unwrap_or(&none);
    names::validate_labels(metadata.get("labels"), &format!("{path}.labels"), errors);
    validate_annotations(metadata.get("annotations"), &format!("{path}.annotations"), errors);
    let spec_path = format!("{path}.spec");
    let spec = at(template, "spec").unwrap_or(&none);
    app_armor::validate_annotations(metadata, spec, &format!("{path}.annotations"), errors);
    validate_spec(spec, &spec_path, errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(format!("{spec_path}.ephemeralContainers"), detail));
    }
}

/// Validates a pod spec.
fn validate_spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    volumes::validate(spec, path, errors);
    containers::validate(spec, path, errors);
    os::validate(spec, path, errors);
    host_users(spec, path, errors);
    restart_and_dns(spec, path, errors);
    names::validate_labels(spec.get("nodeSelector"), &format!("{path}.nodeSelector"), errors);
    security::validate_pod(spec, path, errors);
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            errors.push(FieldError::required(format!("{path}.imagePullSecrets[{index}].name"), ""));
        }
    }
    scheduling::validate(spec, path, errors);
    names_in_spec(spec, path, errors);
    if let Some(seconds) = int(spec, "activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s)) {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(format!("{path}.activeDeadlineSeconds"), seconds, detail));
    }
    host_aliases(spec, path, errors);
    host_ports(spec, path, errors);
    if let Some(os) = at(spec, "os") {
        match text(os, "name") {
            "" => errors.push(FieldError::required(format!("{path}.os.name"), "cannot be empty")),
            _ => one_of(os, "name", &format!("{path}.os"), &["linux", "windows"], errors),
        }
    }
}

fn restart_and_dns(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match text(spec, "restartPolicy") {
        "" => errors.push(FieldError::required(format!("{path}.restartPolicy"), "")),
        _ => one_of(spec, "restartPolicy", path, &RESTART_POLICIES, errors),
    }
    match text(spec, "dnsPolicy") {
        "" => errors.push(FieldError::required(format!("{path}.dnsPolicy"), "")),
        _ => one_of(spec, "dnsPolicy", path, &DNS_POLICIES, errors),
    }
    let servers = at(spec, "dnsConfig").map(|c| list(c, "nameservers")).unwrap_or_default();
    let server_path = format!("{path}.dnsConfig.nameservers");
    if servers.len() > 3 {
        errors.push(FieldError::invalid(
            server_path.clone(),
            Value::from(servers),
            "must not have more than 3 nameservers",
        ));
    }
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(server_path.clone(), detail));
    }
    dns_config(spec, path, errors);
    for (index, server) in servers.iter().enumerate() {
        let address = server.as_str().unwrap_or_default();
        if address.parse::<std::net::IpAddr>().is_err() {
            let detail = super::super::service::IP_RULE;
            errors.push(FieldError::invalid(format!("{server_path}[{index}]"), address, detail));
        }
    }
}

/// How names are looked up.
fn dns_config(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    const SEARCHES_MAX: usize = 32;
    const SEARCHES_CHARS_MAX: usize = 2048;
    let Some(config) = at(spec, "dnsConfig") else { return };
    let path = format!("{path}.dnsConfig");
    let searches = list(config, "searches");
    let mut refuse = |detail: &str| {
        errors.push(FieldError::invalid(format!("{path}.searches"), Value::from(searches), detail));
    };
    if searches.len() > SEARCHES_MAX {
        refuse("must not have more than 32 search paths");
    }
    let chars: usize = searches.iter().filter_map(Value::as_str).map(|search| search.len() + 1).sum();
    if chars > SEARCHES_CHARS_MAX + 1 {
        refuse("must not have more than 2048 characters (including spaces) in the search list");
    }
    for (index, search) in searches.iter().filter_map(Value::as_str).enumerate() {
        // All of the world, or a name that is whole already.
        let name = search.strip_suffix('.').unwrap_or(search);
        if search == "." {
            continue;
        }
        for detail in names::dns1123_subdomain(name) {
            errors.push(FieldError::invalid(format!("{path}.searches[{index}]"), name, detail));
        }
    }
    for (index, _) in list(config, "options").iter().enumerate().filter(|(_, option)| text(option, "name").is_empty()) {
        errors.push(FieldError::required(format!("{path}.options[{index}]"), "must not be empty"));
    }
}

fn names_in_spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    type Rule = fn(&str) -> Vec<String>;
    let rules: [(&str, Rule); 6] = [
        ("serviceAccountName", names::dns1123_subdomain),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ];
    for (field, rule) in rules {
        let value = text(spec, field);
        if !value.is_empty() {
            for detail in rule(value) {
                errors.push(FieldError::invalid(format!("{path}.{field}"), value, detail));
            }
        }
    }
}

fn host_aliases(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = format!("{path}.hostAliases[{index}]");
        let address = text(alias, "ip");
        if address.parse::<std::net::IpAddr>().is_err() {
            errors.push(FieldError::invalid(format!("{path}.ip"), address, super::super::service::IP_RULE));
        }
        for name in list(alias, "hostnames").iter().filter_map(Value::as_str) {
            for detail in names::dns1123_subdomain(name) {
                errors.push(FieldError::invalid(format!("{path}.hostnames"), name, detail));
            }
        }
    }
}

/// A pod with users of its own shares no namespace of the host's.
fn host_users(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if spec.get("hostUsers") != Some(&Value::Bool(false)) {
        return;
    }
    for (field, name) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if is_true(spec, field) {
            errors.push(FieldError::forbidden(format!("{path}.{name}"), "when `pod.Spec.HostUsers` is false"));
        }
    }
}

/// A host's port can be taken once.
fn host_ports(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let on_host = is_true(spec, "hostNetwork");
    // Ports of init containers are free again when the others start.
    for field in ["containers", "initContainers"] {
        let mut taken = HashSet::new();
        for (index, container) in list(spec, field).iter().enumerate() {
            for (at, port) in list(container, "ports").iter().enumerate() {
                let path = format!("{path}.{field}[{index}].ports[{at}]");
                let host = int(port, "hostPort").unwrap_or(0);
                let inside = int(port, "containerPort").unwrap_or(0);
                if on_host && host != 0 && host != inside {
                    let detail = "must match `containerPort` when `hostNetwork` is true";
                    errors.push(FieldError::invalid(format!("{path}.hostPort"), host, detail));
                }
                let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
                if host != 0 && !taken.insert(key.clone()) && field == "containers" {
                    errors.push(FieldError::duplicate(format!("{path}.hostPort"), key));
                }
            }
        }
    }
}
