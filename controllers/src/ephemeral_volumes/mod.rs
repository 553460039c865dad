//! Makes the claims that pods bring along (`volumes[].ephemeral`): each is named after its pod and volume, is the pod's, and
//! goes with it.

pub mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, Resource, ResourceExt};

use self::plan::{brings_claims, claims_to_make};
use crate::machinery::Error;
use crate::machinery::cache::Key;
use crate::machinery::context::Context;
use crate::machinery::patch::post_params;
use crate::machinery::pods;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};

/// See the module's description. A key is a pod's.
#[derive(Debug)]
pub struct EphemeralVolumesController {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

impl EphemeralVolumesController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<Key>> = Arc::default();
        let keys = queue.clone();
        context.caches.pods.on_change(move |change| {
            let is_new = change.old.is_none();
            if let Some(pod) = change.new.filter(|pod| is_new && brings_claims(pod)) {
                keys.add(Key::of(pod.as_ref()));
            }
        });
        let keys = queue.clone();
        // One that was deleted while its pod is there is made again.
        context.caches.claims.on_change(move |change| {
            let (Some(old), None) = (change.old, change.new) else { return };
            let owner = old
                .owner_references()
                .iter()
                .find(|owner| owner.kind == Pod::kind(&()) && owner.controller == Some(true));
            if let Some(pod) = owner {
                keys.add(Key::new(old.namespace().unwrap_or_default(), pod.name.clone()));
            }
        });
        Arc::new(EphemeralVolumesController { context, queue })
    }
}

impl Controller for EphemeralVolumesController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "ephemeral-volume"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let known = self.context.caches.pods.get(key);
        if known.is_none_or(|pod| !brings_claims(&pod) || pods::is_terminal(&pod)) {
            return Ok(Outcome::Done);
        }
        // The cache has no templates.
        let all: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let Some(pod) = all.get_opt(&key.name).await? else { return Ok(Outcome::Done) };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        for claim in claims_to_make(&pod) {
            match claims.create(&post_params(), &claim).await {
                // It is there; whether it is the pod's, those ask who use it.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other?),
            }
        }
        Ok(Outcome::Done)
    }
}
