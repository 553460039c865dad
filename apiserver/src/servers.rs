//! Which API servers there are, for the Endpoints and the EndpointSlice of the Service `kubernetes`.
//!
//! ```text
//!  this server ──▶ its Lease, renewed          everybody's Leases ──▶ live() ──▶ endpoints, endpointslice
//! ```
//!
//! Each server that others can reach renews a Lease in `kube-system`, whose holder is its address. A server whose Lease
//! did not change for [`LIFETIME`], by the clock of the one who looks, is gone and leaves the lists; a server that
//! stops in order takes itself out. All servers come to the same lists, and conflicts between them settle by themselves.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use gantry_api::kinds::Resource;
use gantry_api::{ApiError, Reason, codec, meta};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::auth::{Identity, MASTERS};
use crate::registry::{Caller, DeleteOptions, Registry, Target};

const NAMESPACE: &str = "kube-system";
const LABEL: &str = "apiserver.kubernetes.io/identity";
const LABEL_VALUE: &str = "kube-apiserver";
/// What the names of the Leases start with.
const PREFIX: &str = "apiserver-";
const SERVICE: &str = "kubernetes";
/// How long a server may be silent.
const LIFETIME: Duration = Duration::from_secs(15);
/// How often a server says that it is there and looks after the others: three times in a lifetime.
const EVERY: Duration = Duration::from_secs(5);
/// After so long the Lease of a server that is gone is deleted.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// How long a server that stops tries to take itself out.
const LEAVING: Duration = Duration::from_secs(2);

/// A Lease as far as it matters here.
#[derive(Clone, Debug, PartialEq)]
struct Presence {
    name: String,
    revision: u64,
    address: SocketAddr,
}

/// When each Lease was last seen to change.
#[derive(Default)]
pub struct Servers {
    seen: HashMap<String, (u64, Instant)>,
}

impl Servers {
    /// The servers that are there, and the names of the Leases that nobody needs any more.
    fn live(&mut self, present: &[Presence], now: Instant) -> (BTreeSet<SocketAddr>, Vec<String>) {
        self.seen.retain(|name, _| present.iter().any(|one| one.name == *name));
        let (mut live, mut forgotten) = (BTreeSet::new(), Vec::new());
        for one in present {
            let seen = self.seen.entry(one.name.clone()).or_insert((one.revision, now));
            if seen.0 != one.revision {
                *seen = (one.revision, now);
            }
            let silent = now.duration_since(seen.1);
            if silent < LIFETIME {
                live.insert(one.address);
            } else if silent >= FORGOTTEN {
                forgotten.push(one.name.clone());
            }
        }
        (live, forgotten)
    }

    /// The first step of a server that starts.
    pub async fn join(registry: &Registry, own: SocketAddr) -> Result<Self, ApiError> {
        let mut servers = Self::default();
        match servers.step(registry, own).await {
            // Another server writes the same at the same moment; the next step settles it.
            Err(error) if error.reason != Reason::Conflict => Err(error),
            _ => Ok(servers),
        }
    }

    /// Says that this server is there and brings the lists up to date.
    pub async fn step(&mut self, registry: &Registry, own: SocketAddr) -> Result<(), ApiError> {
        // A loopback address means nothing to anyone else, and Endpoints may not hold one.
        let Some(leases) = leases(registry).filter(|_| !own.ip().is_loopback()) else { return Ok(()) };
        renew(registry, &leases, own).await?;
        let (mut live, forgotten) = self.live(&present(registry, &leases), Instant::now());
        // The cache may not have seen the first renewal yet.
        live.insert(own);
        for name in forgotten {
            delete_lease(registry, &leases, &name).await?;
        }
        publish(registry, &live).await
    }
}

/// Looks after the lists until shutdown.
pub async fn keep(mut servers: Servers, registry: &Registry, own: SocketAddr, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = servers.step(registry, own).await {
            // Two servers at once: the next round settles it.
            if error.reason != Reason::Conflict {
                tracing::warn!(%error, "the addresses of the API servers could not be written");
            }
        }
    }
}

/// Takes this server out, before it stops. If that fails, silence does it.
pub async fn leave(registry: &Registry, own: SocketAddr) {
    let Some(leases) = leases(registry).filter(|_| !own.ip().is_loopback()) else { return };
    let leaving = async {
        delete_lease(registry, &leases, &lease_name(own)).await?;
        let mut rest: BTreeSet<SocketAddr> = listed(registry);
        rest.remove(&own);
        // The last one leaves its address: an empty list would cut off what a restart of a second does not.
        if rest.is_empty() { Ok(()) } else { publish(registry, &rest).await }
    };
    match tokio::time::timeout(LEAVING, leaving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "this server's address stays until it is missed"),
        Err(_) => tracing::debug!("this server's address stays until it is missed"),
    }
}

fn caller() -> Caller {
    Caller::new(Identity::new("system:apiserver", [MASTERS]), "gantry-apiserver")
}

fn leases(registry: &Registry) -> Option<Resource> {
    registry.catalog().resource("coordination.k8s.io", "v1", "leases").map(|resource| (**resource).clone())
}

fn lease_name(own: SocketAddr) -> String {
    let ip = own.ip().to_string().replace(':', "-");
    format!("{PREFIX}{}-{}", ip.trim_matches('-'), own.port())
}

async fn renew(registry: &Registry, leases: &Resource, own: SocketAddr) -> Result<(), ApiError> {
    let name = lease_name(own);
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {LABEL: LABEL_VALUE}},
        "spec": {
            "holderIdentity": own.to_string(),
            "leaseDurationSeconds": LIFETIME.as_secs(),
            "renewTime": meta::micro_time(Timestamp::now()),
        },
    });
    // A Lease is only updated by who knows what it replaces.
    if let Some(entry) = registry.cached(leases, NAMESPACE, &name) {
        lease["metadata"]["resourceVersion"] = json!(entry.revision.to_string());
    }
    put(registry, leases, NAMESPACE, &name, lease).await
}

/// Updates an object that is known, or makes it.
async fn put(registry: &Registry, of: &Resource, namespace: &str, name: &str, object: Value) -> Result<(), ApiError> {
    if meta::resource_version(&object).is_empty() {
        return match registry.create_value(of, namespace, object, &caller()).await {
            Err(error) if error.reason != Reason::AlreadyExists => Err(error),
            _ => Ok(()),
        };
    }
    let target = Target { resource: of, subresource: "", namespace, name };
    let body = object.to_string();
    match registry.update(target, body.as_bytes(), gantry_api::engine::BodyFormat::Json, &caller()).await {
        // Somebody deleted it; the next round makes it again.
        Err(error) if error.reason != Reason::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn delete_lease(registry: &Registry, leases: &Resource, name: &str) -> Result<(), ApiError> {
    match registry.delete(leases, NAMESPACE, name, &DeleteOptions::default(), &caller()).await {
        Err(error) if error.reason != Reason::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The Leases of all servers.
fn present(registry: &Registry, leases: &Resource) -> Vec<Presence> {
    let mut found = Vec::new();
    if let Some(cache) = registry.cacher().resource(leases) {
        cache.for_each_below(&leases.key(NAMESPACE, PREFIX), |entry| {
            if let Ok(lease) = codec::decode(&entry.object)
                && meta::str_at(&lease, &["metadata", "labels", LABEL]) == LABEL_VALUE
                && let Ok(address) = meta::str_at(&lease, &["spec", "holderIdentity"]).parse()
            {
                found.push(Presence { name: meta::name(&lease).to_owned(), revision: entry.revision, address });
            }
        });
    }
    found
}

/// Writes the addresses where clients look for them.
async fn publish(registry: &Registry, live: &BTreeSet<SocketAddr>) -> Result<(), ApiError> {
    publish_in(registry, ("", "v1", "endpoints"), endpoints(live), "subsets").await?;
    publish_in(registry, ("discovery.k8s.io", "v1", "endpointslices"), slice(live), "endpoints").await
}

async fn publish_in(
    registry: &Registry,
    (group, version, plural): (&str, &str, &str),
    wanted: Value,
    list: &str,
) -> Result<(), ApiError> {
    let Some(resource) = registry.catalog().resource(group, version, plural).cloned() else { return Ok(()) };
    let Some(entry) = registry.cached(&resource, "default", SERVICE) else {
        return put(registry, &resource, "default", SERVICE, wanted).await;
    };
    let mut changed = codec::decode(&entry.object)?;
    if addresses_in(&changed) == addresses_in(&wanted) {
        return Ok(());
    }
    if let Some(changed) = changed.as_object_mut() {
        for field in [list, "ports"] {
            match wanted.get(field) {
                Some(value) => changed.insert(field.to_owned(), value.clone()),
                None => changed.remove(field),
            };
        }
    }
    // With the version that was looked at: of two servers one is refused, and looks again.
    meta::metadata_mut(&mut changed).remove("managedFields");
    put(registry, &resource, "default", SERVICE, changed).await
}

/// What is listed now.
fn listed(registry: &Registry) -> BTreeSet<SocketAddr> {
    let entry = registry.catalog().resource("", "v1", "endpoints").and_then(|r| registry.cached(r, "default", SERVICE));
    entry.and_then(|entry| codec::decode(&entry.object).ok()).map(|object| addresses_in(&object)).unwrap_or_default()
}

/// The addresses in Endpoints or in an EndpointSlice.
fn addresses_in(object: &Value) -> BTreeSet<SocketAddr> {
    let array = |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let ports = |of: &Value| -> Vec<u16> {
        array(of, "ports").iter().filter_map(|port| u16::try_from(port["port"].as_u64()?).ok()).collect()
    };
    let mut found = BTreeSet::new();
    let mut add = |ip: &Value, ports: &[u16]| {
        if let Some(ip) = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) {
            found.extend(ports.iter().map(|port| SocketAddr::new(ip, *port)));
        }
    };
    for subset in array(object, "subsets") {
        for address in array(&subset, "addresses") {
            add(&address["ip"], &ports(&subset));
        }
    }
    for endpoint in array(object, "endpoints") {
        for address in array(&endpoint, "addresses") {
            add(&address, &ports(object));
        }
    }
    found
}

/// The Endpoints: a subset for each port.
fn endpoints(live: &BTreeSet<SocketAddr>) -> Value {
    let ports: BTreeSet<u16> = live.iter().map(SocketAddr::port).collect();
    let subset = |port: &u16| {
        let addresses: Vec<Value> =
            live.iter().filter(|one| one.port() == *port).map(|one| json!({"ip": one.ip().to_string()})).collect();
        json!({"addresses": addresses, "ports": [{"name": "https", "protocol": "TCP", "port": port}]})
    };
    let mut object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": SERVICE, "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
    });
    if !ports.is_empty() {
        object["subsets"] = ports.iter().map(subset).collect();
    }
    object
}

/// The EndpointSlice, which has one port and one family of addresses: those of the first server. Servers of one cluster
/// are reached at the same port, as in Kubernetes.
fn slice(live: &BTreeSet<SocketAddr>) -> Value {
    let first = live.first().copied();
    let alike = |one: &&SocketAddr| first.is_some_and(|f| f.port() == one.port() && f.is_ipv6() == one.is_ipv6());
    let endpoints: Vec<Value> = live
        .iter()
        .filter(alike)
        .map(|one| json!({"addresses": [one.ip().to_string()], "conditions": {"ready": true}}))
        .collect();
    let ports: Vec<Value> =
        first.iter().map(|one| json!({"name": "https", "protocol": "TCP", "port": one.port()})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": SERVICE, "namespace": "default", "labels": {"kubernetes.io/service-name": SERVICE}},
        "addressType": if first.is_some_and(|one| one.is_ipv6()) { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, revision: u64, address: &str) -> Presence {
        Presence { name: name.to_owned(), revision, address: address.parse().unwrap() }
    }

    fn set(of: &[&str]) -> BTreeSet<SocketAddr> {
        of.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn who_is_silent_for_a_lifetime_is_gone_and_later_forgotten() {
        let start = Instant::now();
        let mut servers = Servers::default();
        let mut live = |seconds, present: &[Presence]| servers.live(present, start + Duration::from_secs(seconds));
        let (a, b) = ("10.0.0.1:6443", "10.0.0.2:6443");
        // However old a Lease is when it is first looked at, its server gets a lifetime.
        assert_eq!(live(0, &[lease("a", 1, a), lease("b", 2, b)]), (set(&[a, b]), vec![]));
        assert_eq!(live(14, &[lease("a", 5, a), lease("b", 2, b)]), (set(&[a, b]), vec![]));
        assert_eq!(live(15, &[lease("a", 5, a), lease("b", 2, b)]), (set(&[a]), vec![]));
        assert_eq!(live(20, &[lease("a", 6, a), lease("b", 9, b)]), (set(&[a, b]), vec![]), "and back");
        assert_eq!(live(36, &[lease("a", 7, a), lease("b", 9, b)]), (set(&[a]), vec![]));
        assert_eq!(live(140, &[lease("a", 8, a), lease("b", 9, b)]), (set(&[a]), vec!["b".to_owned()]));
        assert_eq!(live(141, &[lease("a", 8, a)]), (set(&[a]), vec![]));
    }

    #[test]
    fn lists_say_what_they_were_made_of() {
        let live = set(&["10.0.0.1:6443", "10.0.0.2:6443"]);
        assert_eq!(addresses_in(&endpoints(&live)), live);
        assert_eq!(addresses_in(&slice(&live)), live);
        assert_eq!(addresses_in(&endpoints(&set(&[]))), set(&[]));
        let mixed = set(&["10.0.0.1:6443", "10.0.0.2:7443"]);
        assert_eq!(addresses_in(&endpoints(&mixed)), mixed);
        assert_eq!(addresses_in(&slice(&mixed)), set(&["10.0.0.1:6443"]));
        assert_eq!(slice(&set(&["[fd00::1]:6443"]))["addressType"], "IPv6");
        assert_eq!(lease_name("[fd00::1]:6443".parse().unwrap()), "apiserver-fd00--1-6443");
    }
}
