//! Lets claims go that no pod uses any more, and volumes that no claim has: until then a finalizer, which admission
//! gives to each, holds them.

pub mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{ListParams, Patch};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use self::plan::{CLAIM_FINALIZER, VOLUME_FINALIZER, claims_of, is_bound, uses, without};
use crate::machinery::Error;
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, of_claim};
use crate::machinery::patch::patch_params;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};

/// See the module's description. A key without a namespace is a volume's.
#[derive(Debug)]
pub struct VolumeProtectionController {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

impl VolumeProtectionController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<Key>> = Arc::default();
        let keys = queue.clone();
        context.caches.claims.on_change(move |change| {
            if let Some(claim) = change.new.filter(|claim| claim.metadata.deletion_timestamp.is_some()) {
                keys.add(Key::of(claim.as_ref()));
            }
        });
        let keys = queue.clone();
        context.caches.volumes.on_change(move |change| {
            if let Some(volume) = change.new.filter(|volume| volume.metadata.deletion_timestamp.is_some()) {
                keys.add(Key::of(volume.as_ref()));
            }
        });
        let keys = queue.clone();
        context.caches.pods.on_change(move |change| {
            let Some(pod) = change.sides().last() else { return };
            let namespace = pod.namespace().unwrap_or_default();
            claims_of(pod).into_iter().for_each(|claim| keys.add(Key::new(namespace.clone(), claim)));
        });
        Arc::new(VolumeProtectionController { context, queue })
    }

    /// Is the claim used, by what the cache knows or else by what the API does?
    async fn is_used(&self, claim: &PersistentVolumeClaim, key: &Key) -> Result<bool, Error> {
        let known = self.context.caches.pods.indexed(&of_claim(&key.namespace, &key.name));
        if known.iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        // A pod may have got its node a moment ago.
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        Ok(pods.list(&ListParams::default()).await?.items.iter().any(|pod| uses(pod, claim)))
    }

    async fn write<K>(&self, api: &Api<K>, object: &K, finalizers: Vec<String>) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let patch = json!({"metadata": {
            "uid": object.uid(), "resourceVersion": object.resource_version(), "finalizers": finalizers}});
        api.patch(&object.name_any(), &patch_params(), &Patch::Merge(&patch)).await?;
        Ok(())
    }
}

impl Controller for VolumeProtectionController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "volume-protection"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        if key.namespace.is_empty() {
            let Some(volume) = self.context.caches.volumes.get(key) else { return Ok(Outcome::Done) };
            if let Some(left) = without(&volume.metadata, VOLUME_FINALIZER, is_bound(&volume)) {
                let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
                self.write(&api, volume.as_ref(), left).await?;
            }
            return Ok(Outcome::Done);
        }
        let Some(claim) = self.context.caches.claims.get(key) else { return Ok(Outcome::Done) };
        if let Some(left) = without(&claim.metadata, CLAIM_FINALIZER, false)
            && !self.is_used(&claim, key).await?
        {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
            self.write(&api, claim.as_ref(), left).await?;
        }
        Ok(Outcome::Done)
    }
}
