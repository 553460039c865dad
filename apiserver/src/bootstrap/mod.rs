//! What every cluster has: the system namespaces, the priority classes of what keeps it alive, and the Service by which pods
//! find the API server.
//!
//! In: the registry and where this server is reached. Out: those objects, made if they are missing. Runs at start, and again
//! and again, since anyone may delete them.

mod flow;
mod roles;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use gantry_api::{ApiError, Reason, codec};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::auth::{Identity, MASTERS};
use crate::registry::{Caller, Registry, Target};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const SERVICE: &str = "kubernetes";
/// How often the objects are looked after.
const EVERY: Duration = Duration::from_secs(30);

/// How many objects are made at once: enough to share group commits.
const PARALLEL: usize = 32;

/// An object that is to be there.
struct Wanted {
    /// Group, version and plural.
    resource: (&'static str, &'static str, &'static str),
    namespace: &'static str,
    name: &'static str,
    object: Value,
}

/// What the objects say.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Where this server is reached.
    pub advertise: SocketAddr,
    /// The Service's address: the first of the range.
    pub service_ip: Option<IpAddr>,
    /// The CA of client certificates, PEM.
    pub client_ca: String,
    /// The CA of the front proxy's certificate, PEM.
    pub front_proxy_ca: String,
    /// The range that Services' addresses are from, as text.
    pub service_cidr: String,
}

fn caller() -> Caller {
    Caller::new(Identity::new("system:apiserver", [MASTERS]), "gantry-apiserver")
}

/// Makes what is missing.
pub async fn ensure(registry: &Registry, facts: &Facts) -> Result<(), ApiError> {
    for name in NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure_object(registry, ("", "v1", "namespaces"), "", name, object).await?;
    }
    ensure_authentication(registry, facts).await?;
    let wanted = roles::objects().into_iter().chain(flow::objects());
    let made = futures::stream::iter(wanted).map(|wanted| async move {
        ensure_object(registry, wanted.resource, wanted.namespace, wanted.name, wanted.object).await
    });
    let mut made = made.buffer_unordered(PARALLEL);
    while let Some(result) = made.next().await {
        result?;
    }
    let Some(service_ip) = facts.service_ip else {
        return Ok(());
    };
    let range = ("networking.k8s.io", "v1", "servicecidrs");
    ensure_object(registry, range, "", SERVICE, service_cidr(&facts.service_cidr)).await?;
    ensure_object(registry, ("", "v1", "services"), "default", SERVICE, service(service_ip, facts.advertise.port()))
        .await?;
    Ok(())
}

/// Looks after the objects until shutdown.
pub async fn keep(registry: &Registry, facts: &Facts, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        if let Err(error) = ensure(registry, facts).await {
            tracing::warn!(%error, "the objects that every cluster has could not be made");
        }
    }
}

async fn ensure_object(
    registry: &Registry,
    (group, version, plural): (&str, &str, &str),
    namespace: &str,
    name: &str,
    object: Value,
) -> Result<(), ApiError> {
    let Some(resource) = registry.catalog().resource(group, version, plural).cloned() else {
        return Ok(());
    };
    if registry.cached(&resource, namespace, name).is_some() {
        return Ok(());
    }
    match registry.create_value(&resource, namespace, object, &caller()).await {
        Err(error) if error.reason != Reason::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// What aggregated servers need to know to believe this one: whose certificates, and which headers.
async fn ensure_authentication(registry: &Registry, facts: &Facts) -> Result<(), ApiError> {
    const NAME: &str = "extension-apiserver-authentication";
    const NAMESPACE: &str = "kube-system";
    let data = json!({
        "client-ca-file": facts.client_ca,
        "requestheader-client-ca-file": facts.front_proxy_ca,
        "requestheader-allowed-names": json!([crate::pki::FRONT_PROXY_USER]).to_string(),
        "requestheader-username-headers": "[\"X-Remote-User\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
    });
    let Some(maps) = registry.catalog().resource("", "v1", "configmaps").cloned() else {
        return Ok(());
    };
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data,
    });
    let Some(entry) = registry.cached(&maps, NAMESPACE, NAME) else {
        return ensure_object(registry, ("", "v1", "configmaps"), NAMESPACE, NAME, object).await;
    };
    if codec::decode(&entry.object)?["data"] == data {
        return Ok(());
    }
    let target = Target { resource: &maps, subresource: "", namespace: NAMESPACE, name: NAME };
    let body = object.to_string();
    registry.update(target, body.as_bytes(), gantry_api::engine::BodyFormat::Json, &caller()).await.map(|_| ())
}

fn service_cidr(range: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": SERVICE},
        "spec": {"cidrs": [range]},
    })
}

fn service(ip: IpAddr, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": SERVICE, "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip.to_string(), "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    })
}
