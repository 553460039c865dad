//! `componentstatuses`: whether the store, the scheduler and the controllers work. Computed for each request, never stored.
//!
//! The scheduler and the controllers work while somebody holds their Lease: they may run anywhere, and nothing else is known of
//! where.

use std::time::Duration;

use gantry_api::kinds::Resource;
use gantry_api::{ApiError, codec};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::App;
use crate::cacher::Filter;

/// How long the store may take to answer.
const STORE_WAIT: Duration = Duration::from_secs(5);
/// What Kubernetes warns of whoever reads these.
pub const DEPRECATED: &str = "v1 ComponentStatus is deprecated in v1.19+";

/// One component, and what is wrong with it.
type Health = (&'static str, Result<(), String>);

/// All components.
async fn health(app: &App) -> [Health; 3] {
    let revision = tokio::time::timeout(STORE_WAIT, app.registry.store().current_revision()).await;
    let store = match revision {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the store does not answer".to_owned()),
    };
    let of_lease = |name: &str| {
        let leases = app.registry.catalog().resource("coordination.k8s.io", "v1", "leases");
        let lease = leases.and_then(|leases| app.registry.cached(leases, "kube-system", name));
        let lease = lease.and_then(|lease| codec::decode(&lease.object).ok());
        held(name, lease.as_ref(), Timestamp::now())
    };
    [
        ("scheduler", of_lease("kube-scheduler")),
        ("controller-manager", of_lease("kube-controller-manager")),
        ("etcd-0", store),
    ]
}

/// Whether somebody holds a lease.
fn held(name: &str, lease: Option<&Value>, now: Timestamp) -> Result<(), String> {
    let nobody = || format!("nobody holds the lease kube-system/{name}");
    let spec = &lease.ok_or_else(nobody)?["spec"];
    if spec["holderIdentity"].as_str().unwrap_or_default().is_empty() {
        return Err(nobody());
    }
    let renewed: Timestamp = spec["renewTime"].as_str().and_then(|time| time.parse().ok()).ok_or_else(nobody)?;
    let seconds = spec["leaseDurationSeconds"].as_i64().unwrap_or_default();
    let age = now.as_second().saturating_sub(renewed.as_second());
    if age > seconds {
        return Err(format!("the lease kube-system/{name} has not been renewed for {age}s"));
    }
    Ok(())
}

fn object((name, health): Health) -> Value {
    let condition = match health {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "error": why}),
    };
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition],
    })
}

/// The status of one component.
pub async fn get(app: &App, resource: &Resource, name: &str) -> Result<Value, ApiError> {
    let found = health(app).await.into_iter().find(|(known, _)| *known == name);
    found.map(object).ok_or_else(|| ApiError::not_found(&resource.plural, name))
}

/// The statuses of those that are selected.
pub async fn list(app: &App, filter: &Filter) -> Vec<Value> {
    let all = health(app).await.into_iter();
    // They have no labels.
    let labelled = filter.labels.as_ref().is_none_or(|labels| labels.matches(&serde_json::Map::new()));
    let named = |name: &str| filter.name.as_deref().is_none_or(|wanted| wanted == name);
    all.filter(|(name, _)| labelled && named(name)).map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_works_while_its_lease_is_held() {
        let now: Timestamp = "2024-01-01T00:01:00Z".parse().unwrap();
        let lease = |holder: &str, time: &str| json!({"spec": {"holderIdentity": holder, "renewTime": time, "leaseDurationSeconds": 15}});
        let told = |lease: Option<Value>| held("x", lease.as_ref(), now).err().unwrap_or_default();
        assert_eq!(told(Some(lease("a", "2024-01-01T00:00:50.000000Z"))), "");
        assert_eq!(told(None), "nobody holds the lease kube-system/x");
        assert_eq!(told(Some(lease("", "2024-01-01T00:00:59Z"))), "nobody holds the lease kube-system/x");
        let stale = told(Some(lease("a", "2024-01-01T00:00:00Z")));
        assert_eq!(stale, "the lease kube-system/x has not been renewed for 60s");
    }
}
