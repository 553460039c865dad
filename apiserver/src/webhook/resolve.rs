//! From a Service to an address that can be connected to.
//!
//! In: the Services and EndpointSlices in the watch cache. Out: a ready endpoint, picked at random; a Service without endpoint
//! slices is asked at its cluster address, an `ExternalName` at that name.

use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::kinds::Resource;
use gantry_api::{codec, meta};
use rand::Rng;
use serde_json::Value;

use crate::cacher::Cacher;

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// An address or name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a Service leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such Service.
    #[error("service {0:?} not found")]
    NotFound(String),
    /// It has no such port.
    #[error("service {name:?} has no port {port}")]
    NoPort {
        /// The Service.
        name: String,
        /// The port asked for.
        port: u16,
    },
    /// Nothing is ready behind it.
    #[error("no endpoints available for service {0:?}")]
    NoEndpoints(String),
}

/// Finds the address of a Service.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// An address for this port of a Service.
    async fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<Address, ResolveError>;
}

/// Resolves by what the watch cache holds.
pub struct RegistryResolver {
    cacher: Arc<Cacher>,
    services: Arc<Resource>,
    slices: Arc<Resource>,
}

impl RegistryResolver {
    /// A resolver over the cached Services and EndpointSlices; none if the catalog lacks these kinds.
    pub fn new(cacher: Arc<Cacher>, catalog: &gantry_api::kinds::Catalog) -> Option<Self> {
        let services = Arc::clone(catalog.resource("", "v1", "services")?);
        let slices = Arc::clone(catalog.resource("discovery.k8s.io", "v1", "endpointslices")?);
        Some(Self { cacher, services, slices })
    }

    fn slices_of(&self, namespace: &str, name: &str) -> Vec<Value> {
        let Some(cache) = self.cacher.resource(&self.slices) else { return Vec::new() };
        let prefix = self.slices.prefix(Some(namespace));
        let mut found = Vec::new();
        cache.for_each_below(&prefix, |entry| {
            if entry.facts.labels.get("kubernetes.io/service-name").is_some_and(|service| service == name)
                && let Ok(slice) = codec::decode(&entry.object)
            {
                found.push(slice);
            }
        });
        found
    }
}

#[async_trait]
impl Resolve for RegistryResolver {
    async fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<Address, ResolveError> {
        let cache = self.cacher.resource(&self.services);
        let service = cache
            .and_then(|cache| cache.get(&self.services.key(namespace, name)))
            .and_then(|entry| codec::decode(&entry.object).ok())
            .ok_or_else(|| ResolveError::NotFound(name.to_owned()))?;
        let pick = rand::rng().random_range(0..usize::MAX);
        plan(&service, &self.slices_of(namespace, name), port, pick)
    }
}

/// Finds nothing: for a catalog without Services.
pub struct NoServices;

#[async_trait]
impl Resolve for NoServices {
    async fn resolve(&self, _: &str, name: &str, _: u16) -> Result<Address, ResolveError> {
        Err(ResolveError::NotFound(name.to_owned()))
    }
}

/// Decides where to connect; `pick` chooses among the ready endpoints.
fn plan(service: &Value, slices: &[Value], port: u16, pick: usize) -> Result<Address, ResolveError> {
    let name = meta::name(service).to_owned();
    if meta::str_at(service, &["spec", "type"]) == "ExternalName" {
        return Ok(Address { host: meta::str_at(service, &["spec", "externalName"]).to_owned(), port });
    }
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let wanted = ports.into_iter().flatten().find(|p| p.get("port").and_then(Value::as_u64) == Some(u64::from(port)));
    let port_name = match wanted {
        Some(found) => found.get("name").and_then(Value::as_str).unwrap_or_default(),
        None => return Err(ResolveError::NoPort { name, port }),
    };
    let mut ready = Vec::new();
    for slice in slices {
        let ports = slice.get("ports").and_then(Value::as_array).into_iter().flatten();
        let named = |p: &&Value| p.get("name").and_then(Value::as_str).unwrap_or_default() == port_name;
        let Some(target) = ports.into_iter().find(named).and_then(|p| p.get("port")).and_then(Value::as_u64) else {
            continue;
        };
        for endpoint in slice.get("endpoints").and_then(Value::as_array).into_iter().flatten() {
            let is_ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
            let address = endpoint.pointer("/addresses/0").and_then(Value::as_str);
            if let (true, Some(host), Ok(port)) = (is_ready, address, u16::try_from(target)) {
                ready.push(Address { host: host.to_owned(), port });
            }
        }
    }
    if !ready.is_empty() {
        let at = pick % ready.len();
        return Ok(ready.swap_remove(at));
    }
    let cluster_ip = meta::str_at(service, &["spec", "clusterIP"]);
    if slices.is_empty() && !matches!(cluster_ip, "" | "None") {
        return Ok(Address { host: cluster_ip.to_owned(), port });
    }
    Err(ResolveError::NoEndpoints(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_leads_to_a_ready_endpoint_by_the_name_of_its_port() {
        let service = json!({"metadata": {"name": "hook"}, "spec": {"clusterIP": "10.0.0.9", "ports": [
            {"name": "metrics", "port": 80}, {"name": "https", "port": 443}]}});
        let slice = json!({"ports": [{"name": "https", "port": 8443}, {"name": "metrics", "port": 9090}], "endpoints": [
            {"addresses": ["10.1.0.1"], "conditions": {"ready": false}},
            {"addresses": ["10.1.0.2"], "conditions": {"ready": true}},
            {"addresses": ["10.1.0.3"]},
        ]});
        let at = |pick| plan(&service, std::slice::from_ref(&slice), 443, pick).unwrap();
        assert_eq!(at(0), Address { host: "10.1.0.2".into(), port: 8443 });
        assert_eq!(at(1), Address { host: "10.1.0.3".into(), port: 8443 });
        assert!(matches!(plan(&service, &[slice], 8080, 0), Err(ResolveError::NoPort { .. })));
        assert_eq!(plan(&service, &[], 443, 0).unwrap(), Address { host: "10.0.0.9".into(), port: 443 });
        let empty = json!({"ports": [{"name": "https", "port": 8443}], "endpoints": []});
        let error = plan(&service, &[empty], 443, 0).unwrap_err();
        assert_eq!(error.to_string(), "no endpoints available for service \"hook\"");
    }
}
