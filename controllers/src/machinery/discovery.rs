//! Which resource types the API serves, in the little that the garbage collector and the namespace controller need.

use kube::Client;
use kube::core::discovery::verbs;
use kube::discovery::{ApiResource, Discovery, Scope};

/// One served resource type in its preferred version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Served {
    /// Group, version, kind and plural name.
    pub resource: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// It can be watched and listed.
    pub watchable: bool,
    /// Its objects can be deleted.
    pub deletable: bool,
    /// Its objects can be deleted many at a time.
    pub collection_deletable: bool,
}

/// Asks the API server what it serves, in two requests, or group by group if it can't answer so.
pub async fn discover(client: &Client) -> Result<Vec<Served>, kube::Error> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "no aggregated discovery");
            Discovery::new(client.clone()).run().await?
        }
    };
    let mut served = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let can = |verb| capabilities.supports_operation(verb);
            served.push(Served {
                namespaced: capabilities.scope == Scope::Namespaced,
                watchable: can(verbs::LIST) && can(verbs::WATCH),
                deletable: can(verbs::DELETE),
                collection_deletable: can(verbs::DELETE_COLLECTION),
                resource,
            });
        }
    }
    served.sort_by(|a, b| {
        let key = |item: &Served| (item.resource.group.clone(), item.resource.plural.clone());
        key(a).cmp(&key(b))
    });
    Ok(served)
}
