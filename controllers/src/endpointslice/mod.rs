//! The EndpointSlice controller: lists the pods behind each service that has a selector.
//!
//! Watches Services, Pods, Nodes (for zones) and its own slices. Slices of services without a selector, and slices
//! that somebody else manages, are left alone. What it decides is in [`plan`].

mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, ResourceExt};

use self::plan::{MANAGED_BY, MANAGER, Observed, Plan, plan};
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, SERVICE_NAME_LABEL, STALE_RETRY, of_service};
use crate::machinery::events::{Kind, Recorder};
use crate::machinery::freshness::Freshness;
use crate::machinery::patch::{delete_params, post_params};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::services::{listen, listen_to_zones, pods_of, selector, zone_of_node};
use crate::machinery::{Error, is_conflict, is_namespace_terminating, is_not_found, message_of};

/// See the module's description.
#[derive(Debug)]
pub struct EndpointSliceController {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
    events: Recorder,
    fresh: Freshness,
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER)
}

impl EndpointSliceController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue = Arc::new(Queue::default());
        listen(&context.caches, &queue);
        listen_to_zones(&context.caches, &queue);
        let keys = queue.clone();
        context.caches.endpoint_slices.on_change(move |change| {
            for slice in change.sides().filter(|slice| is_ours(slice)) {
                if let Some(service) = slice.labels().get(SERVICE_NAME_LABEL) {
                    keys.add(Key::new(slice.namespace().unwrap_or_default(), service));
                }
            }
        });
        Arc::new(EndpointSliceController {
            events: context.events.for_component("endpoint-slice-controller"),
            fresh: Freshness::default(),
            queue,
            context,
        })
    }
}

impl Controller for EndpointSliceController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        let Some(service) = caches.services.get(key) else {
            // The slices follow by their owner reference.
            self.fresh.forget(key);
            return Ok(Outcome::Done);
        };
        if selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        if !self.fresh.caught_up(key, &caches.endpoint_slices) {
            return Ok(Outcome::After(STALE_RETRY));
        }
        let mut slices = caches.endpoint_slices.indexed(&of_service(&key.namespace, &key.name));
        slices.retain(|slice| is_ours(slice) && slice.metadata.deletion_timestamp.is_none());
        let plan = plan(&Observed {
            service: &service,
            pods: &pods_of(caches, &service),
            slices: &slices,
            zone_of: &|node| zone_of_node(caches, node),
        });
        match self.act(key, plan).await {
            Ok(()) => Ok(Outcome::Done),
            Err(error) if is_namespace_terminating(&error) => Ok(Outcome::Done),
            Err(error) => {
                if !is_conflict(&error) && !is_not_found(&error) {
                    self.tell_failure(&service, &error);
                }
                Err(error.into())
            }
        }
    }
}

impl EndpointSliceController {
    async fn act(&self, key: &Key, plan: Plan) -> Result<(), kube::Error> {
        let cache = &self.context.caches.endpoint_slices;
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client.clone(), &key.namespace);
        for slice in plan.create {
            let created = api.create(&post_params(), &slice).await?;
            self.fresh.wrote(key, cache, &created);
        }
        for slice in plan.update {
            let written = api.replace(&slice.name_any(), &post_params(), &slice).await?;
            self.fresh.wrote(key, cache, &written);
        }
        for slice in plan.delete {
            let uid = slice.uid().unwrap_or_default();
            match api.delete(&slice.name_any(), &delete_params(&uid)).await {
                Ok(_) => self.fresh.deleted(key, cache, Key::of(&*slice), uid),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn tell_failure(&self, service: &Service, error: &kube::Error) {
        let message = format!("Error updating Endpoint Slices for Service {}: {}", Key::of(service), message_of(error));
        self.events.event(service, Kind::Warning, "FailedToUpdateEndpointSlices", message);
    }
}
