//! Lets claims go that no pod uses any more, volumes that no claim has, and classes of attributes that neither has: until
//! then a finalizer, which admission gives to each, holds them.

pub mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{ListParams, Patch};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use self::plan::{
    ATTRIBUTES_CLASS_FINALIZER, CLAIM_FINALIZER, VOLUME_FINALIZER, claims_of, class_of_volume, classes_of_claim,
    is_bound, uses, without,
};
use crate::machinery::Error;
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, of_claim};
use crate::machinery::patch::patch_params;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};

/// What is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// A claim.
    Claim(Key),
    /// A volume.
    Volume(Key),
    /// A class of attributes.
    AttributesClass(Key),
}

/// See the module's description.
#[derive(Debug)]
pub struct VolumeProtectionController {
    context: Arc<Context>,
    queue: Arc<Queue<Held>>,
}

fn leaves<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

impl VolumeProtectionController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<Held>> = Arc::default();
        let keys = queue.clone();
        context.caches.claims.on_change(move |change| {
            if let Some(claim) = change.new.filter(|claim| leaves(claim.as_ref())) {
                keys.add(Held::Claim(Key::of(claim.as_ref())));
            }
            // A class may be free of the claim as it was.
            let classes = change.old.iter().flat_map(|claim| classes_of_claim(claim));
            classes.for_each(|class| keys.add(Held::AttributesClass(Key::new(String::new(), class.to_owned()))));
        });
        let keys = queue.clone();
        context.caches.volumes.on_change(move |change| {
            if let Some(volume) = change.new.filter(|volume| leaves(volume.as_ref())) {
                keys.add(Held::Volume(Key::of(volume.as_ref())));
            }
            let class = change.old.and_then(|volume| class_of_volume(volume).map(str::to_owned));
            class.into_iter().for_each(|class| keys.add(Held::AttributesClass(Key::new(String::new(), class))));
        });
        let keys = queue.clone();
        context.caches.attributes_classes.on_change(move |change| {
            if let Some(class) = change.new.filter(|class| leaves(class.as_ref())) {
                keys.add(Held::AttributesClass(Key::of(class.as_ref())));
            }
        });
        let keys = queue.clone();
        context.caches.pods.on_change(move |change| {
            let Some(pod) = change.sides().last() else { return };
            let namespace = pod.namespace().unwrap_or_default();
            claims_of(pod).into_iter().for_each(|claim| keys.add(Held::Claim(Key::new(namespace.clone(), claim))));
        });
        Arc::new(VolumeProtectionController { context, queue })
    }

    /// Does any claim or volume have the class? Asked only of one that is to go.
    async fn has_users(&self, class: &str) -> Result<bool, Error> {
        let client = &self.context.client;
        let claims = Api::<PersistentVolumeClaim>::all(client.clone()).list(&ListParams::default()).await?;
        if claims.items.iter().any(|claim| classes_of_claim(claim).any(|name| name == class)) {
            return Ok(true);
        }
        let volumes = Api::<PersistentVolume>::all(client.clone()).list(&ListParams::default()).await?;
        Ok(volumes.items.iter().any(|volume| class_of_volume(volume) == Some(class)))
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
    type Key = Held;

    fn name(&self) -> &'static str {
        "volume-protection"
    }

    fn queue(&self) -> &Queue<Held> {
        &self.queue
    }

    async fn reconcile(&self, held: &Held) -> Result<Outcome, Error> {
        let (caches, client) = (&self.context.caches, self.context.client.clone());
        match held {
            Held::Volume(key) => {
                let Some(volume) = caches.volumes.get(key) else { return Ok(Outcome::Done) };
                if let Some(left) = without(&volume.metadata, VOLUME_FINALIZER, is_bound(&volume)) {
                    self.write(&Api::all(client), volume.as_ref(), left).await?;
                }
            }
            Held::Claim(key) => {
                let Some(claim) = caches.claims.get(key) else { return Ok(Outcome::Done) };
                if let Some(left) = without(&claim.metadata, CLAIM_FINALIZER, false)
                    && !self.is_used(&claim, key).await?
                {
                    self.write(&Api::namespaced(client, &key.namespace), claim.as_ref(), left).await?;
                }
            }
            Held::AttributesClass(key) => {
                let Some(class) = caches.attributes_classes.get(key) else { return Ok(Outcome::Done) };
                if let Some(left) = without(&class.metadata, ATTRIBUTES_CLASS_FINALIZER, false)
                    && !self.has_users(&key.name).await?
                {
                    self.write(&Api::<VolumeAttributesClass>::all(client), class.as_ref(), left).await?;
                }
            }
        }
        Ok(Outcome::Done)
    }
}
