//! Service and Endpoints.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::field::{at, child, deep, int, list, list_mut, one_of, set, set_default, text, unset};
use super::pod::ip_warning;
use super::{NameRule, Strategy, names};
use crate::error::FieldError;
use crate::selector::label_value_errors;

/// The protocols of ports.
pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// What Kubernetes says of a text that is no address.
pub(super) const IP_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// How long a client stays with its pod, at most: a day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;
const AFFINITY_SECONDS: i64 = 10_800;

/// Service.
pub struct ServiceStrategy;

impl Strategy for ServiceStrategy {
    fn warnings(&self, object: &Value) -> Vec<String> {
        service_warnings(object)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label1035
    }

    fn default(&self, object: &mut Value) {
        if at(object, "spec").is_none() {
            return;
        }
        let spec = child(object, "spec");
        let kind = text(spec, "type").to_owned();
        for port in list_mut(spec, "ports") {
            let target = at(port, "targetPort");
            if target.is_none_or(|t| *t == json!(0) || *t == json!(""))
                && let Some(number) = int(port, "port")
            {
                set(port, "targetPort", number);
            }
        }
        match text(spec, "sessionAffinity") {
            "ClientIP" => {
                let client = child(child(spec, "sessionAffinityConfig"), "clientIP");
                set_default(client, "timeoutSeconds", AFFINITY_SECONDS);
            }
            "None" => unset(spec, "sessionAffinityConfig"),
            _ => {}
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            set_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        set(object, "status", json!({ "loadBalancer": {} }));
    }

    fn prepare_update(&self, subresource: Option<&str>, old: &Value, new: &mut Value) {
        if subresource.is_none() {
            keep_allocated(old, new);
        }
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let none = json!({});
        validate_spec(at(object, "spec").unwrap_or(&none), errors);
    }

    fn validate_update(&self, subresource: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        if subresource.is_none() {
            validate_addresses_kept(old, new, errors);
        }
    }
}

/// What was allocated stays where the update leaves it out.
fn keep_allocated(old: &Value, new: &mut Value) {
    let none = Value::Null;
    let was = at(old, "spec").unwrap_or(&none);
    if at(new, "spec").is_none() {
        return;
    }
    let spec = child(new, "spec");
    align_addresses(was, spec);
    let needs_address = |spec: &Value| text(spec, "type") != "ExternalName";
    if needs_address(was) && needs_address(spec) {
        if text(spec, "clusterIP").is_empty() && list(spec, "clusterIPs").is_empty() {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = at(was, field) {
                    set(spec, field, value.clone());
                }
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if let (None, Some(value)) = (at(spec, field), at(was, field)) {
                let value = value.clone();
                set(spec, field, value);
            }
        }
    }
    let has_node_ports = |spec: &Value| matches!(text(spec, "type"), "NodePort" | "LoadBalancer");
    if has_node_ports(was) && has_node_ports(spec) {
        let before: Vec<Value> = list(was, "ports").to_vec();
        for port in list_mut(spec, "ports") {
            if int(port, "nodePort").unwrap_or(0) != 0 {
                continue;
            }
            let same =
                |p: &&Value| text(p, "protocol") == text(port, "protocol") && int(p, "port") == int(port, "port");
            if let Some(number) = before.iter().find(same).and_then(|p| int(p, "nodePort")).filter(|n| *n != 0) {
                set(port, "nodePort", number);
            }
        }
    }
    let checks_health =
        |spec: &Value| text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
    if checks_health(was)
        && checks_health(spec)
        && int(spec, "healthCheckNodePort").unwrap_or(0) == 0
        && let Some(number) = int(was, "healthCheckNodePort")
    {
        set(spec, "healthCheckNodePort", number);
    }
}

/// A client that changes the one address and leaves the list as it was means the list's first, too.
fn align_addresses(was: &Value, spec: &mut Value) {
    let wanted = text(spec, "clusterIP").to_owned();
    let before = list(was, "clusterIPs");
    if wanted == text(was, "clusterIP") || before.is_empty() || list(spec, "clusterIPs") != before {
        return;
    }
    if wanted.is_empty() {
        unset(spec, "clusterIPs");
        return;
    }
    let mut addresses = before.to_vec();
    addresses[0] = Value::from(wanted);
    set(spec, "clusterIPs", addresses);
}

fn validate_addresses_kept(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let kind = |object: &Value| deep(object, &["spec", "type"]).and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind(old) == "ExternalName" || kind(new) == "ExternalName" {
        return;
    }
    let first =
        |object: &Value| deep(object, &["spec", "clusterIP"]).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !first(old).is_empty() && first(old) != first(new) {
        // The first of the list is the one that counts.
        let shown = deep(new, &["spec", "clusterIPs"]).cloned().unwrap_or_else(|| json!([first(new)]));
        errors.push(FieldError::invalid("spec.clusterIPs[0]", shown, "may not change once set"));
    }
}

fn validate_spec(spec: &Value, errors: &mut Vec<FieldError>) {
    let kind = text(spec, "type");
    one_of(spec, "type", "spec", &TYPES, errors);
    let ports = list(spec, "ports");
    let headless = text(spec, "clusterIP") == "None";
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", detail));
        }
        "ExternalName" => validate_external_name(spec, errors),
        _ => {}
    }
    validate_ports(spec, kind, errors);
    names::validate_labels(spec.get("selector"), "spec.selector", errors);
    validate_affinity(spec, errors);
    validate_addresses(spec, errors);
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        let value = address.as_str().unwrap_or_default();
        if value.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(format!("spec.externalIPs[{index}]"), value, IP_RULE));
        }
    }
    validate_policies(spec, kind, errors);
}

fn validate_external_name(spec: &Value, errors: &mut Vec<FieldError>) {
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if at(spec, field).is_some_and(|v| *v != json!("")) {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden(format!("spec.{field}"), detail));
        }
    }
    let name = text(spec, "externalName").trim_end_matches('.');
    if name.is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    } else {
        for detail in names::dns1123_subdomain(name) {
            errors.push(FieldError::invalid("spec.externalName", name, detail));
        }
    }
}

fn validate_ports(spec: &Value, kind: &str, errors: &mut Vec<FieldError>) {
    let ports = list(spec, "ports");
    let mut seen_names = HashSet::new();
    let mut seen_ports = HashSet::new();
    let mut seen_node_ports = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, "name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !name.is_empty() {
            for detail in names::dns1123_label(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
            }
            if !seen_names.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        let number = int(port, "port").unwrap_or(0);
        for detail in names::port_number(number) {
            errors.push(FieldError::invalid(format!("{path}.port"), number, detail));
        }
        let protocol = text(port, "protocol");
        if protocol.is_empty() {
            errors.push(FieldError::required(format!("{path}.protocol"), ""));
        } else {
            one_of(port, "protocol", &path, &PROTOCOLS, errors);
        }
        validate_target(port, &path, errors);
        if let Some(app) = at(port, "appProtocol").and_then(Value::as_str) {
            for detail in crate::selector::label_key_errors(app) {
                errors.push(FieldError::invalid(format!("{path}.appProtocol"), app, detail));
            }
        }
        if !seen_ports.insert((protocol, number)) {
            errors.push(FieldError::duplicate(path.clone(), json!({ "protocol": protocol, "port": number })));
        }
        let node_port = int(port, "nodePort").unwrap_or(0);
        if node_port != 0 {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(format!("{path}.nodePort"), detail));
            } else if !seen_node_ports.insert((protocol, node_port)) {
                errors.push(FieldError::duplicate(format!("{path}.nodePort"), node_port));
            }
        }
    }
}

fn validate_target(port: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(target) = at(port, "targetPort") else { return };
    let problems = match target {
        Value::String(name) => names::port_name(name),
        other => names::port_number(other.as_i64().unwrap_or(0)),
    };
    for detail in problems {
        errors.push(FieldError::invalid(format!("{path}.targetPort"), target.clone(), detail));
    }
}

fn validate_affinity(spec: &Value, errors: &mut Vec<FieldError>) {
    one_of(spec, "sessionAffinity", "spec", &["ClientIP", "None"], errors);
    if text(spec, "sessionAffinity") == "ClientIP" {
        let seconds = deep(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).and_then(Value::as_i64);
        let seconds = seconds.unwrap_or(0);
        if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) {
            let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
            errors.push(FieldError::invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, detail));
        }
    }
}

fn validate_addresses(spec: &Value, errors: &mut Vec<FieldError>) {
    let first = text(spec, "clusterIP");
    let all = list(spec, "clusterIPs");
    if let Some(head) = all.first().and_then(Value::as_str) {
        if first.is_empty() {
            errors.push(FieldError::forbidden("spec.clusterIPs", "must be empty when `clusterIP` is not specified"));
        } else if head != first {
            let detail = "first value must match `clusterIP`";
            errors.push(FieldError::invalid("spec.clusterIPs", Value::from(all), detail));
        }
    }
    let listed: Vec<&str> = if all.is_empty() { vec![first] } else { all.iter().filter_map(Value::as_str).collect() };
    for (index, address) in listed.into_iter().enumerate().filter(|(_, a)| !a.is_empty() && *a != "None") {
        if address.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{index}]"), address, IP_RULE));
        }
    }
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        if !matches!(family.as_str(), Some("IPv4" | "IPv6")) {
            let path = format!("spec.ipFamilies[{index}]");
            errors.push(FieldError::not_supported(path, family.clone(), &["IPv4", "IPv6"]));
        }
    }
    if at(spec, "ipFamilyPolicy").is_some() {
        let allowed = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(spec, "ipFamilyPolicy", "spec", &allowed, errors);
    }
}

fn validate_policies(spec: &Value, kind: &str, errors: &mut Vec<FieldError>) {
    let policies = ["Cluster", "Local"];
    if at(spec, "internalTrafficPolicy").is_some() {
        one_of(spec, "internalTrafficPolicy", "spec", &policies, errors);
    }
    let reachable = matches!(kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    match at(spec, "externalTrafficPolicy") {
        Some(policy) if !reachable => {
            let detail = "may only be set for externally-accessible services";
            errors.push(FieldError::invalid("spec.externalTrafficPolicy", policy.clone(), detail));
        }
        Some(_) => one_of(spec, "externalTrafficPolicy", "spec", &policies, errors),
        None => {}
    }
    if kind != "LoadBalancer" {
        if at(spec, "allocateLoadBalancerNodePorts").is_some() {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden("spec.allocateLoadBalancerNodePorts", detail));
        }
        if !list(spec, "loadBalancerSourceRanges").is_empty() {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden("spec.LoadBalancerSourceRanges", detail));
        }
        if at(spec, "loadBalancerClass").is_some() {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden("spec.loadBalancerClass", detail));
        }
    }
    for (index, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let value = range.as_str().unwrap_or_default();
        if !super::node::is_cidr(value.trim()) {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(format!("spec.LoadBalancerSourceRanges[{index}]"), value, detail));
        }
    }
    if at(spec, "trafficDistribution").is_some() {
        let allowed = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        one_of(spec, "trafficDistribution", "spec", &allowed, errors);
    }
}

/// What a service says that has no effect, and addresses that are written in odd ways.
fn service_warnings(service: &Value) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let mut warnings = Vec::new();
    if deep(service, &["metadata", "annotations", HINTS]).is_some() {
        let instead = "service.kubernetes.io/topology-mode";
        warnings.push(format!("annotation {HINTS} is deprecated, please use {instead} instead"));
    }
    let spec = at(service, "spec").unwrap_or(&Value::Null);
    let outer = list(spec, "externalIPs");
    let balancer = text(spec, "loadBalancerIP");
    let headless = text(spec, "clusterIP") == "None";
    if !headless && text(spec, "type") != "ExternalName" {
        for (index, ip) in list(spec, "clusterIPs").iter().enumerate() {
            warnings.extend(ip_warning(&format!("spec.clusterIPs[{index}]"), ip.as_str().unwrap_or_default()));
        }
    }
    if headless {
        let ignored = [
            ("loadBalancerIP", !balancer.is_empty()),
            ("externalIPs", !outer.is_empty()),
            ("SessionAffinity", text(spec, "sessionAffinity") != "None"),
        ];
        let ignored = ignored.into_iter().filter(|(_, set)| *set);
        warnings.extend(ignored.map(|(field, _)| format!("spec.{field} is ignored for headless services")));
    }
    for (index, ip) in outer.iter().enumerate() {
        warnings.extend(ip_warning(&format!("spec.externalIPs[{index}]"), ip.as_str().unwrap_or_default()));
    }
    warnings.extend(ip_warning("spec.loadBalancerIP", balancer));
    let named = text(spec, "type") == "ExternalName";
    if named && !outer.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !named && !text(spec, "externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    warnings
}

/// Endpoints.
pub struct EndpointsStrategy;

impl Strategy for EndpointsStrategy {
    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        for (index, subset) in list(object, "subsets").iter().enumerate() {
            let path = format!("subsets[{index}]");
            if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
                errors.push(FieldError::required(path.clone(), "must specify `addresses` or `notReadyAddresses`"));
            }
            for field in ["addresses", "notReadyAddresses"] {
                for (at, address) in list(subset, field).iter().enumerate() {
                    let ip = text(address, "ip");
                    if ip.parse::<IpAddr>().is_err() {
                        errors.push(FieldError::invalid(format!("{path}.{field}[{at}].ip"), ip, IP_RULE));
                    }
                    let host = text(address, "hostname");
                    for detail in names::dns1123_label(host).into_iter().filter(|_| !host.is_empty()) {
                        errors.push(FieldError::invalid(format!("{path}.{field}[{at}].hostname"), host, detail));
                    }
                }
            }
            validate_endpoint_ports(subset, &path, errors);
        }
    }
}

fn validate_endpoint_ports(subset: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let ports = list(subset, "ports");
    for (index, port) in ports.iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, "name");
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !name.is_empty() {
            for detail in names::dns1123_label(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), name, detail));
            }
        }
        let number = int(port, "port").unwrap_or(0);
        for detail in names::port_number(number) {
            errors.push(FieldError::invalid(format!("{path}.port"), number, detail));
        }
        one_of(port, "protocol", &path, &PROTOCOLS, errors);
        if let Some(app) = at(port, "appProtocol").and_then(Value::as_str) {
            for detail in label_value_errors(app.rsplit('/').next().unwrap_or_default()) {
                errors.push(FieldError::invalid(format!("{path}.appProtocol"), app, detail));
            }
        }
    }
}
