//! The Endpoints controller: keeps the older Endpoints object of each service that has a selector, for clients
//! that don't know endpoint slices, and removes it with its service.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use kube::{Api, ResourceExt};

use self::plan::{is_ours, plan, same};
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, STALE_RETRY};
use crate::machinery::freshness::Freshness;
use crate::machinery::patch::{delete_params, post_params};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::services::{listen, pods_of, selector};
use crate::machinery::{Error, is_namespace_terminating, is_not_found};

/// Endpoints that serve as a lock for leader election belong to no service.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// See the module's description.
#[derive(Debug)]
pub struct EndpointsController {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
    fresh: Freshness,
}

/// The API server looks after its own endpoints.
fn is_api_server(key: &Key) -> bool {
    key.namespace == "default" && key.name == "kubernetes"
}

impl EndpointsController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue = Arc::new(Queue::default());
        listen(&context.caches, &queue);
        let (keys, services) = (queue.clone(), context.caches.services.clone());
        context.caches.endpoints.on_change(move |change| {
            // Endpoints without a service are looked at only if they are ours: others may be made before theirs.
            let Some(endpoints) = change.sides().next() else {
                return;
            };
            let key = Key::of(&**endpoints);
            if is_ours(endpoints) || services.get(&key).is_some() {
                keys.add(key);
            }
        });
        Arc::new(EndpointsController { fresh: Freshness::default(), queue, context })
    }

    fn api(&self, key: &Key) -> Api<Endpoints> {
        Api::namespaced(self.context.client.clone(), &key.namespace)
    }

    /// Removes what a service left behind that no longer exists.
    async fn remove_leftover(&self, key: &Key) -> Result<(), Error> {
        let Some(endpoints) = self.context.caches.endpoints.get(key) else {
            return Ok(());
        };
        if endpoints.annotations().contains_key(LEADER) || endpoints.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let uid = endpoints.uid().unwrap_or_default();
        match self.api(key).delete(&key.name, &delete_params(&uid)).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Controller for EndpointsController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        if is_api_server(key) {
            return Ok(Outcome::Done);
        }
        let Some(service) = caches.services.get(key) else {
            self.fresh.forget(key);
            self.remove_leftover(key).await?;
            return Ok(Outcome::Done);
        };
        if selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        if !self.fresh.caught_up(key, &caches.endpoints) {
            return Ok(Outcome::After(STALE_RETRY));
        }
        let present = caches.endpoints.get(key);
        let wanted = plan(&service, &pods_of(caches, &service), present.as_deref());
        let written = match &present {
            Some(present) if same(present, &wanted) => return Ok(Outcome::Done),
            Some(_) => {
                let api = self.api(key);
                api.replace(&key.name, &post_params(), &wanted).await
            }
            None => self.api(key).create(&post_params(), &wanted).await,
        };
        match written {
            Ok(written) => self.fresh.wrote(key, &caches.endpoints, &written),
            Err(error) if is_namespace_terminating(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Outcome::Done)
    }
}
