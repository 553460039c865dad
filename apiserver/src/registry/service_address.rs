//! Cluster addresses and node ports of Services.
//!
//! In: a Service before and after a write. Out: the addresses it still needs, filled in, and store operations that
//! claim or release them in the very transaction that writes the Service. A claim is a key of its own that must be
//! absent, so two API servers cannot hand out the same address and a crash cannot leak one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bytes::Bytes;
use gantry_api::error::FieldError;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, meta};
use gantry_store::{Op, Precondition};
use rand::Rng;
use serde_json::{Value, json};

use crate::cidr::Cidr;

const IP_KEYS: &str = "/registry/ranges/serviceips/";
const PORT_KEYS: &str = "/registry/ranges/servicenodeports/";
/// How often a random choice is repeated before the request fails. At a range nine tenths full, one request in ten
/// million fails.
pub const ATTEMPTS_MAX: usize = 160;

/// The ranges that addresses come from.
#[derive(Debug, Clone)]
pub struct ServiceAddresses {
    cidr: Cidr,
    ports: std::ops::RangeInclusive<u16>,
}

/// What one write claims and releases.
#[derive(Debug, Default)]
pub struct Claims {
    /// Operations for the write's transaction.
    pub ops: Vec<Op>,
    /// Keys that were chosen here and may be chosen again if they are taken.
    chosen: BTreeSet<String>,
}

impl Claims {
    /// Whether the key was a random choice, so that another one may do.
    pub fn may_retry(&self, key: &str) -> bool {
        self.chosen.contains(key)
    }
}

/// Whether objects of this resource have addresses to be claimed.
pub fn concerns(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}

impl ServiceAddresses {
    /// Addresses of `cidr` and node ports of `ports`.
    pub fn new(cidr: Cidr, ports: std::ops::RangeInclusive<u16>) -> Self {
        Self { cidr, ports }
    }

    /// The first address: that of the Service `default/kubernetes`.
    pub fn first(&self) -> Option<IpAddr> {
        self.cidr.nth(1)
    }

    /// Fills in what `new` lacks and works out claims and releases. `new` is none for a deletion.
    pub fn plan(
        &self,
        resource: &Resource,
        old: Option<&Value>,
        mut new: Option<&mut Value>,
    ) -> Result<Claims, ApiError> {
        let mut claims = Claims::default();
        if !concerns(resource) {
            return Ok(claims);
        }
        let held = old.map(keys_of).unwrap_or_default();
        let mut owner = String::new();
        if let Some(new) = new.as_deref_mut() {
            owner = format!("{}/{}", meta::namespace(new), meta::name(new));
            let mut errors = Vec::new();
            self.fill_ip(new, &mut claims.chosen, &mut errors);
            self.fill_ports(new, &held, &mut claims.chosen, &mut errors);
            if !errors.is_empty() {
                return Err(ApiError::invalid("", &resource.kind, meta::name(new), errors));
            }
        }
        let wanted = new.as_deref().map(keys_of).unwrap_or_default();
        for key in wanted.difference(&held) {
            claims.ops.push(Op::Put {
                key: key.clone(),
                value: Bytes::copy_from_slice(owner.as_bytes()),
                precondition: Some(Precondition::Absent),
            });
        }
        for key in held.difference(&wanted) {
            claims.ops.push(Op::Delete { key: key.clone(), precondition: None });
        }
        Ok(claims)
    }

    /// The answer when a claimed key belongs to another Service.
    pub fn taken(&self, resource: &Resource, name: &str, key: &str) -> ApiError {
        let error = if let Some(ip) = key.strip_prefix(IP_KEYS) {
            FieldError::invalid(
                "spec.clusterIPs",
                json!([ip]),
                format!("failed to allocate IP {ip}: provided IP is already allocated"),
            )
        } else {
            let port: u16 = key.strip_prefix(PORT_KEYS).and_then(|port| port.parse().ok()).unwrap_or_default();
            FieldError::invalid("spec.ports[0].nodePort", port, "provided port is already allocated")
        };
        ApiError::invalid("", &resource.kind, name, vec![error])
    }

    fn fill_ip(&self, service: &mut Value, chosen: &mut BTreeSet<String>, errors: &mut Vec<FieldError>) {
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
        let text = |spec: &serde_json::Map<String, Value>, key: &str| {
            spec.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        if text(spec, "type") == "ExternalName" {
            return;
        }
        let requested = text(spec, "clusterIP");
        let family = if self.cidr.is_ipv6() { "IPv6" } else { "IPv4" };
        if requested.is_empty() {
            let Some(ip) = self.choose_ip() else { return };
            chosen.insert(format!("{IP_KEYS}{ip}"));
            spec.insert("clusterIP".to_owned(), json!(ip.to_string()));
            spec.insert("clusterIPs".to_owned(), json!([ip.to_string()]));
        } else {
            if requested != "None" {
                match requested.parse::<IpAddr>() {
                    Ok(ip) if self.cidr.contains(ip) => {}
                    _ => errors.push(FieldError::invalid(
                        "spec.clusterIPs",
                        json!([requested]),
                        format!(
                            "failed to allocate IP {requested}: the provided IP ({requested}) is not in the valid range. The range of valid IPs is {}",
                            self.cidr
                        ),
                    )),
                }
            }
            if spec.get("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty) {
                spec.insert("clusterIPs".to_owned(), json!([requested]));
            }
        }
        if spec.get("ipFamilies").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("ipFamilies".to_owned(), json!([family]));
        }
        if text(spec, "ipFamilyPolicy").is_empty() {
            spec.insert("ipFamilyPolicy".to_owned(), json!("SingleStack"));
        }
    }

    /// A random address above the part of the range that Kubernetes leaves to addresses chosen by people.
    fn choose_ip(&self) -> Option<IpAddr> {
        let len = self.cidr.size();
        let reserved = (len / 16).clamp(16, 256);
        // Neither the network's own address nor the broadcast address.
        let (low, high) = if len > reserved * 2 { (reserved, len - 1) } else { (1, len.saturating_sub(1)) };
        if low >= high {
            return None;
        }
        self.cidr.nth(rand::rng().random_range(low..high))
    }

    fn fill_ports(
        &self,
        service: &mut Value,
        held: &BTreeSet<String>,
        chosen: &mut BTreeSet<String>,
        errors: &mut Vec<FieldError>,
    ) {
        let kind = meta::str_at(service, &["spec", "type"]).to_owned();
        let opted_out = service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
        if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "LoadBalancer" && opted_out) {
            return;
        }
        let Some(ports) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return };
        let mut used: BTreeSet<u16> = ports.iter().filter_map(node_port).collect();
        for (index, port) in ports.iter_mut().enumerate() {
            match node_port(port) {
                Some(number) if !self.ports.contains(&number) && !held.contains(&format!("{PORT_KEYS}{number}")) => {
                    errors.push(FieldError::invalid(
                        format!("spec.ports[{index}].nodePort"),
                        number,
                        format!(
                            "provided port is not in the valid range. The range of valid ports is {}-{}",
                            self.ports.start(),
                            self.ports.end()
                        ),
                    ));
                }
                Some(_) => {}
                None => {
                    let Some(number) = self.choose_port(&used) else { continue };
                    used.insert(number);
                    chosen.insert(format!("{PORT_KEYS}{number}"));
                    if let Some(port) = port.as_object_mut() {
                        port.insert("nodePort".to_owned(), json!(number));
                    }
                }
            }
        }
    }

    fn choose_port(&self, used: &BTreeSet<u16>) -> Option<u16> {
        let mut random = rand::rng();
        (0..ATTEMPTS_MAX).map(|_| random.random_range(self.ports.clone())).find(|port| !used.contains(port))
    }
}

fn node_port(port: &Value) -> Option<u16> {
    port.get("nodePort")
        .and_then(Value::as_u64)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

/// The keys that a Service as it stands must hold.
fn keys_of(service: &Value) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    if meta::str_at(service, &["spec", "type"]) == "ExternalName" {
        return keys;
    }
    let ips = service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
    for ip in ips.filter_map(Value::as_str).filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        keys.insert(format!("{IP_KEYS}{ip}"));
    }
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    keys.extend(ports.filter_map(node_port).map(|port| format!("{PORT_KEYS}{port}")));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_api::kinds::Catalog;

    fn addresses() -> ServiceAddresses {
        ServiceAddresses::new("10.96.0.0/24".parse().unwrap(), 30000..=32767)
    }

    #[test]
    fn a_service_claims_on_create_and_releases_on_delete() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("", "v1", "services").unwrap();
        let mut service = json!({"metadata": {"namespace": "a", "name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "nodePort": 30001}]}});
        let claims = addresses().plan(resource, None, Some(&mut service)).unwrap();
        assert_eq!(claims.ops.len(), 3, "an address and two ports");
        assert!(claims.may_retry(&format!("{IP_KEYS}{}", service["spec"]["clusterIP"].as_str().unwrap())));
        assert!(!claims.may_retry(&format!("{PORT_KEYS}30001")));
        let mut same = service.clone();
        assert!(addresses().plan(resource, Some(&service), Some(&mut same)).unwrap().ops.is_empty());
        let released = addresses().plan(resource, Some(&service), None).unwrap();
        assert_eq!(released.ops.len(), 3);
        assert!(released.ops.iter().all(|op| matches!(op, Op::Delete { .. })));
    }

    #[test]
    fn headless_and_external_services_claim_nothing_and_foreign_addresses_are_refused() {
        let catalog = Catalog::builtin();
        let resource = catalog.resource("", "v1", "services").unwrap();
        for spec in
            [json!({"type": "ClusterIP", "clusterIP": "None"}), json!({"type": "ExternalName", "externalName": "x"})]
        {
            let mut service = json!({"metadata": {"namespace": "a", "name": "s"}, "spec": spec});
            assert!(addresses().plan(resource, None, Some(&mut service)).unwrap().ops.is_empty());
        }
        let mut service =
            json!({"metadata": {"namespace": "a", "name": "s"}, "spec": {"type": "ClusterIP", "clusterIP": "1.2.3.4"}});
        let error = addresses().plan(resource, None, Some(&mut service)).unwrap_err();
        assert!(error.message.contains("is not in the valid range"), "{}", error.message);
    }
}
