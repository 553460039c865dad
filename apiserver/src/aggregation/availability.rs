//! Whether the server behind an APIService can be used: the `Available` condition.
//!
//! In: the Service and its EndpointSlices. Out: what is wrong with them, or that the server is to be asked. Pure.

use gantry_api::meta;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::webhook::ServiceReference;

/// The `Available` condition without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Available {
    /// `True` or `False`.
    pub yes: bool,
    /// Why, for programs.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Available {
    fn no(reason: &'static str, message: String) -> Self {
        Self { yes: false, reason, message }
    }

    /// Everything is well.
    pub fn passed() -> Self {
        Self { yes: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// This server answers itself.
    pub fn local() -> Self {
        Self { yes: true, reason: "Local", message: "Local APIServices are always available".to_owned() }
    }

    /// The server did not answer as it must.
    pub fn failed_discovery(message: String) -> Self {
        Self::no("FailedDiscoveryCheck", message)
    }
}

/// What is wrong with a Service and its endpoints; none if the server behind them is to be asked.
pub fn fault(reference: &ServiceReference, service: Option<&Value>, slices: &[Value]) -> Option<Available> {
    let ServiceReference { namespace, name, port, .. } = reference;
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Available::no("ServiceNotFound", message));
    };
    if !matches!(meta::str_at(service, &["spec", "type"]), "" | "ClusterIP") {
        return None;
    }
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let listening = ports.into_iter().flatten().find(|candidate| candidate["port"] == *port);
    let Some(listening) = listening else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Available::no("ServicePortError", message));
    };
    let port_name = listening["name"].as_str().unwrap_or_default();
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Available::no("EndpointsNotFound", message));
    }
    let is_active = |slice: &Value| {
        let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        endpoints.any(|endpoint| endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true))
            && ports.any(|port| port["name"].as_str().unwrap_or_default() == port_name && port["port"].is_number())
    };
    if !slices.iter().any(is_active) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Some(Available::no("MissingEndpoints", message));
    }
    None
}

/// The object with this condition; none if it says so already.
pub fn with_condition(object: &Value, available: &Available, now: Timestamp) -> Option<Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let status = if available.yes { "True" } else { "False" };
    let known = conditions.iter().find(|condition| condition["type"] == "Available");
    let says = |key: &str, value: &str| known.is_some_and(|known| known[key] == value);
    if says("status", status) && says("reason", available.reason) && says("message", &available.message) {
        return None;
    }
    let since = match known {
        Some(known) if known["status"] == status => known["lastTransitionTime"].clone(),
        _ => json!(meta::time(now)),
    };
    let mut conditions: Vec<Value> =
        conditions.into_iter().filter(|condition| condition["type"] != "Available").collect();
    conditions.push(json!({
        "type": "Available", "status": status, "lastTransitionTime": since,
        "reason": available.reason, "message": available.message,
    }));
    let mut changed = object.clone();
    meta::object_mut(&mut changed, "status").insert("conditions".to_owned(), json!(conditions));
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_that_is_missing_is_told() {
        let reference =
            ServiceReference { namespace: "n".to_owned(), name: "s".to_owned(), path: String::new(), port: 443 };
        let service = |port: u16| json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": port}]}});
        let slice = |ready: bool, port: &str| {
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
                   "ports": [{"name": port, "port": 8443}]})
        };
        let reason = |service: Option<&Value>, slices: &[Value]| {
            fault(&reference, service, slices).map(|fault| (fault.reason, fault.message))
        };
        let (reason_none, message) = reason(None, &[]).unwrap();
        assert_eq!((reason_none, message.as_str()), ("ServiceNotFound", "service/s in \"n\" is not present"));
        assert_eq!(reason(Some(&service(80)), &[]).unwrap().0, "ServicePortError");
        assert_eq!(reason(Some(&service(443)), &[]).unwrap().0, "EndpointsNotFound");
        assert_eq!(reason(Some(&service(443)), &[slice(false, "https")]).unwrap().0, "MissingEndpoints");
        assert_eq!(reason(Some(&service(443)), &[slice(true, "other")]).unwrap().0, "MissingEndpoints");
        assert_eq!(reason(Some(&service(443)), &[slice(true, "https")]), None);
        let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
        assert_eq!(reason(Some(&external), &[]), None);
    }

    #[test]
    fn a_condition_is_written_once_and_keeps_its_time() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let first = with_condition(&json!({}), &Available::passed(), at("2026-01-01T00:00:00Z")).unwrap();
        assert!(with_condition(&first, &Available::passed(), at("2026-01-02T00:00:00Z")).is_none());
        let other = Available { message: "still".to_owned(), ..Available::passed() };
        let second = with_condition(&first, &other, at("2026-01-02T00:00:00Z")).unwrap();
        assert_eq!(second["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        let down = Available::failed_discovery("no".to_owned());
        let third = with_condition(&second, &down, at("2026-01-03T00:00:00Z")).unwrap();
        assert_eq!(third["status"]["conditions"][0]["lastTransitionTime"], "2026-01-03T00:00:00Z");
    }
}
