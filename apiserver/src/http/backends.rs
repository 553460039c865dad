//! Where a request below `…/proxy` goes: to a pod, to one of a service's endpoints, or to a node.
//!
//! In: the name in the path (`NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`) and the objects. Out: a [`Backend`], or Kubernetes'
//! refusal. No I/O.

use std::net::IpAddr;

use gantry_api::{ApiError, Reason, meta};
use serde_json::Value;

/// An address that a request goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Over TLS, whose certificate nobody could know.
    pub https: bool,
}

/// The name of what is proxied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id<'a> {
    scheme: &'a str,
    /// The object's name.
    pub name: &'a str,
    /// The port's name or number; empty for the usual one.
    pub port: &'a str,
}

impl<'a> Id<'a> {
    /// Reads `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let id = match parts.as_slice() {
            [name] => Id { scheme: "", name, port: "" },
            [name, port] => Id { scheme: "", name, port },
            [scheme @ ("" | "http" | "https"), name, port] => Id { scheme, name, port },
            _ => return None,
        };
        (!id.name.is_empty()).then_some(id)
    }

    /// Whether it asks for TLS.
    pub fn https(&self) -> bool {
        self.scheme == "https"
    }

    fn number(&self) -> Option<u16> {
        self.port.parse().ok()
    }
}

/// Addresses that lead back to this machine, or to no one in particular, are nobody's to ask for.
fn allowed(host: &str) -> Result<(), ApiError> {
    let refused = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified()
        }
        Err(_) => true,
    };
    if refused { Err(ApiError::bad_request("address not allowed")) } else { Ok(()) }
}

/// The address of a pod.
pub(super) fn of_pod(id: &Id<'_>, pod: &Value) -> Result<Backend, ApiError> {
    let host = meta::str_at(pod, &["status", "podIP"]);
    allowed(host)?;
    let containers = meta::get(pod, &["spec", "containers"]).and_then(Value::as_array).into_iter().flatten();
    let first = || {
        let mut ports =
            containers.into_iter().flat_map(|container| container["ports"].as_array().into_iter().flatten());
        ports.find_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
    };
    let usual = if id.https() { 443 } else { 80 };
    let port = match id.port {
        "" => first().unwrap_or(usual),
        _ => id.number().ok_or_else(|| ApiError::bad_request(format!("invalid pod port \"{}\"", id.port)))?,
    };
    Ok(Backend { host: host.to_owned(), port, https: id.https() })
}

/// The name of the service's port that is asked for.
pub(super) fn port_of_service<'a>(id: &Id<'a>, service: &'a Value) -> Result<&'a str, ApiError> {
    let Some(number) = id.number() else { return Ok(id.port) };
    let mut ports = meta::get(service, &["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
    let port = ports.find(|port| port["port"].as_u64() == Some(u64::from(number)));
    port.map(|port| port["name"].as_str().unwrap_or_default())
        .ok_or_else(|| unavailable(format!("no service port {number} found for service \"{}\"", id.name)))
}

/// One of a service's endpoints; `choice` picks among them.
pub(super) fn of_endpoints(id: &Id<'_>, port: &str, endpoints: &Value, choice: usize) -> Result<Backend, ApiError> {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for subset in list(endpoints, "subsets") {
        for offered in list(&subset, "ports") {
            if offered["name"].as_str().unwrap_or_default() != port {
                continue;
            }
            let Some(number) = offered["port"].as_u64().and_then(|port| u16::try_from(port).ok()) else { continue };
            for address in list(&subset, "addresses") {
                if let Some(host) = address["ip"].as_str() {
                    found.push(Backend { host: host.to_owned(), port: number, https: id.https() });
                }
            }
        }
    }
    if found.is_empty() {
        return Err(unavailable(format!("no endpoints available for service \"{}\"", id.name)));
    }
    let backend = found.swap_remove(choice % found.len());
    allowed(&backend.host)?;
    Ok(backend)
}

fn unavailable(message: String) -> ApiError {
    ApiError::new(Reason::ServiceUnavailable, message)
}

/// What follows `…/proxy` in a path as the client wrote it, escapes and trailing slash included; empty if nothing does.
pub(super) fn rest_of(path: &str, namespaced: bool) -> &str {
    // `/api/v1/namespaces/NS/pods/NAME/proxy` or `/api/v1/nodes/NAME/proxy`.
    let segments = if namespaced { 7 } else { 5 };
    let mut rest = path;
    for _ in 0..segments {
        rest = rest.trim_start_matches('/');
        rest = rest.find('/').map_or("", |end| &rest[end..]);
    }
    rest
}

/// Where a redirect of the backend leads for the client: what the backend calls its own lies below `prefix`.
pub(super) fn relocated(location: &str, backend: &str, prefix: &str) -> String {
    let path = match location.split_once("://") {
        Some((_, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            if host != backend {
                return location.to_owned();
            }
            path
        }
        None if location.starts_with("//") => return location.to_owned(),
        None => location,
    };
    if path.starts_with(prefix) || !path.starts_with('/') {
        return path.to_owned();
    }
    format!("{prefix}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn backend(host: &str, port: u16, https: bool) -> Backend {
        Backend { host: host.to_owned(), port, https }
    }

    #[test]
    fn names_carry_schemes_and_ports() {
        let id = |scheme, name, port| Some(Id { scheme, name, port });
        for (text, expected) in [
            ("a", id("", "a", "")),
            ("a:80", id("", "a", "80")),
            ("https:a:web", id("https", "a", "web")),
            ("https:a:", id("https", "a", "")),
            (":a:80", id("", "a", "80")),
            ("ftp:a:80", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Id::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_pod_is_reached_at_its_first_port_or_the_one_asked_for() {
        let pod = json!({"status": {"podIP": "10.0.0.5"}, "spec": {"containers": [{}, {"ports": [{"containerPort": 8080}]}]}});
        let reach = |text| of_pod(&Id::parse(text).unwrap(), &pod);
        assert_eq!(reach("p").unwrap(), backend("10.0.0.5", 8080, false));
        assert_eq!(reach("https:p:8443").unwrap(), backend("10.0.0.5", 8443, true));
        assert!(reach("p:web").is_err());
        for ip in ["", "127.0.0.1", "169.254.169.254", "::1"] {
            let own = json!({"status": {"podIP": ip}});
            assert_eq!(of_pod(&Id::parse("p").unwrap(), &own).unwrap_err().message, "address not allowed");
        }
    }

    #[test]
    fn a_service_is_reached_at_any_endpoint_of_the_port() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "tls", "port": 443}]}});
        let endpoints = json!({"subsets": [{
            "addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
            "ports": [{"name": "web", "port": 8080}, {"name": "tls", "port": 8443}]}]});
        let id = Id::parse("https:s:443").unwrap();
        let port = port_of_service(&id, &service).unwrap();
        assert_eq!(port, "tls");
        let reached: Vec<Backend> = (0..3).map(|n| of_endpoints(&id, port, &endpoints, n).unwrap()).collect();
        assert_eq!(reached[0], backend("10.0.0.1", 8443, true));
        assert_eq!(reached[1], backend("10.0.0.2", 8443, true));
        let other = Id::parse("s:81").unwrap();
        let refused = port_of_service(&other, &service).unwrap_err();
        assert_eq!(refused.message, "no service port 81 found for service \"s\"");
        let refused = of_endpoints(&Id::parse("s").unwrap(), "", &endpoints, 0).unwrap_err();
        assert_eq!(
            (refused.reason, refused.message.as_str()),
            (Reason::ServiceUnavailable, "no endpoints available for service \"s\"")
        );
    }

    #[test]
    fn the_rest_of_the_path_stays_as_it_was_written() {
        for (path, namespaced, rest) in [
            ("/api/v1/namespaces/a/pods/p/proxy", true, ""),
            ("/api/v1/namespaces/a/pods/p/proxy/", true, "/"),
            ("/api/v1/namespaces/a/pods/p/proxy/x%2Fy//z/", true, "/x%2Fy//z/"),
            ("/api/v1/nodes/n/proxy/healthz", false, "/healthz"),
        ] {
            assert_eq!(rest_of(path, namespaced), rest, "{path}");
        }
    }

    #[test]
    fn redirects_of_a_backend_stay_below_the_proxy() {
        let moved = |location| relocated(location, "10.0.0.1:80", "/api/v1/namespaces/a/pods/p/proxy");
        assert_eq!(moved("/login"), "/api/v1/namespaces/a/pods/p/proxy/login");
        assert_eq!(moved("http://10.0.0.1:80/login?x=1"), "/api/v1/namespaces/a/pods/p/proxy/login?x=1");
        assert_eq!(moved("http://elsewhere/x"), "http://elsewhere/x");
        assert_eq!(moved("next"), "next");
        assert_eq!(moved("/api/v1/namespaces/a/pods/p/proxy/x"), "/api/v1/namespaces/a/pods/p/proxy/x");
    }
}
