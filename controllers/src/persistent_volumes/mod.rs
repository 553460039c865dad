//! Brings PersistentVolumeClaims and PersistentVolumes together, and says what becomes of a volume after its claim.
//!
//! Volumes are made by people or by the provisioner that a StorageClass names; which node a volume that waits for its
//! pod is to serve, the scheduler says.

pub mod matching;
mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::Patch;
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use self::matching::{claim_class, volume_class};
use self::plan::{Notice, Step, World, plan_claim, plan_volume};
use crate::machinery::Error;
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, of_claim};
use crate::machinery::events::Kind;
use crate::machinery::patch::{patch_params, write_status};
use crate::machinery::pods;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};

/// Marks the class of claims that name none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A claim.
    Claim(Key),
    /// A volume, by name.
    Volume(String),
}

/// See the module's description.
#[derive(Debug)]
pub struct PersistentVolumesController {
    context: Arc<Context>,
    queue: Arc<Queue<Item>>,
}

/// The index names of a volume: its class and its claim.
pub fn volume_index(volume: &PersistentVolume) -> Vec<String> {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let claim = reference.and_then(|claim| Some(of_claim(claim.namespace.as_deref()?, claim.name.as_deref()?)));
    std::iter::once(of_class(volume_class(volume))).chain(claim).collect()
}

/// The index names of a claim: that of its class while it has no volume.
pub fn claim_index(claim: &PersistentVolumeClaim) -> Vec<String> {
    let has_volume =
        claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_ref().is_some_and(|name| !name.is_empty()));
    if has_volume { Vec::new() } else { vec![of_class(claim_class(claim))] }
}

fn of_class(class: &str) -> String {
    format!("class/{class}")
}

fn bound_claim(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(reference.namespace.clone()?, reference.name.clone()?))
}

impl PersistentVolumesController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<Item>> = Arc::default();
        let (keys, volumes) = (queue.clone(), context.caches.volumes.clone());
        context.caches.claims.on_change(move |change| {
            for claim in change.sides() {
                let key = Key::of(claim.as_ref());
                // Volumes that name it may have to be released, or to say that they are bound.
                for volume in volumes.indexed(&of_claim(&key.namespace, &key.name)) {
                    keys.add(Item::Volume(volume.name_any()));
                }
                keys.add(Item::Claim(key));
            }
        });
        let (keys, claims) = (queue.clone(), context.caches.claims.clone());
        context.caches.volumes.on_change(move |change| {
            for volume in change.sides() {
                keys.add(Item::Volume(volume.name_any()));
                match bound_claim(volume) {
                    Some(claim) => keys.add(Item::Claim(claim)),
                    // Whoever waits for one like it.
                    None => claims
                        .indexed(&of_class(volume_class(volume)))
                        .iter()
                        .for_each(|claim| keys.add(Item::Claim(Key::of(claim.as_ref())))),
                }
            }
            // Claims may ask for it by name, or have it.
            let ((None, Some(volume)) | (Some(volume), None)) = (change.old, change.new) else { return };
            let name = volume.name_any();
            let all = claims.all();
            let naming = all.iter().filter(|claim| {
                claim.spec.as_ref().is_some_and(|spec| spec.volume_name.as_deref() == Some(name.as_str()))
            });
            naming.for_each(|claim| keys.add(Item::Claim(Key::of(claim.as_ref()))));
        });
        let (keys, claims) = (queue.clone(), context.caches.claims.clone());
        context.caches.storage_classes.on_change(move |change| {
            for class in change.sides() {
                for class in [class.name_any().as_str(), ""] {
                    claims
                        .indexed(&of_class(class))
                        .iter()
                        .for_each(|claim| keys.add(Item::Claim(Key::of(claim.as_ref()))));
                }
            }
        });
        Arc::new(PersistentVolumesController { context, queue })
    }

    async fn look_at_claim(&self, key: &Key) -> Result<(), Error> {
        let Some(claim) = self.context.caches.claims.get(key) else { return Ok(()) };
        let (step, notice) = plan_claim(&claim, &Seen::of(&self.context, &claim));
        self.tell(claim.as_ref(), notice);
        match step {
            Step::Nothing | Step::LookAtClaim => Ok(()),
            Step::PatchClaim(patch) => {
                let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
                self.patch(&api, claim.as_ref(), patch).await
            }
            Step::ClaimStatus(status) => {
                let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
                let old: PersistentVolumeClaimStatus = claim.status.clone().unwrap_or_default();
                write_status(&api, claim.as_ref(), &old, &status).await.map(drop)
            }
            Step::PatchVolume(..) | Step::VolumePhase(..) => self.act_on_volume(step).await,
        }
    }

    async fn look_at_volume(&self, name: &str) -> Result<(), Error> {
        let Some(volume) = self.context.caches.volumes.get(&Key::cluster(name)) else { return Ok(()) };
        let reference = bound_claim(&volume);
        let mut claim = reference.as_ref().and_then(|key| self.context.caches.claims.get(key));
        let uid = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
        if let Some(key) = &reference
            && claim.as_ref().is_none_or(|claim| claim.metadata.uid != uid)
        {
            // A volume must not be given up because its claim is not known here yet.
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
            claim = api.get_opt(&key.name).await?.map(Arc::new);
        }
        let (step, notice) = plan_volume(&volume, claim.as_deref());
        self.tell(volume.as_ref(), notice);
        match (step, reference) {
            (Step::LookAtClaim, Some(key)) => {
                self.queue.add(Item::Claim(key));
                Ok(())
            }
            (step, _) => self.act_on_volume(step).await,
        }
    }

    async fn act_on_volume(&self, step: Step) -> Result<(), Error> {
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let find = |name: &str| self.context.caches.volumes.get(&Key::cluster(name));
        match step {
            Step::PatchVolume(name, patch) => match find(&name) {
                Some(volume) => self.patch(&api, volume.as_ref(), patch).await,
                None => Ok(()),
            },
            Step::VolumePhase(name, phase, message) => {
                let Some(volume) = find(&name) else { return Ok(()) };
                let old: PersistentVolumeStatus = volume.status.clone().unwrap_or_default();
                let message = Some(message).filter(|message| !message.is_empty());
                let new = PersistentVolumeStatus { phase: Some(phase.into()), message, ..old.clone() };
                write_status(&api, volume.as_ref(), &old, &new).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Writes only onto what was looked at: two claims must not get one volume.
    async fn patch<K>(&self, api: &Api<K>, object: &K, mut patch: Value) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        patch["metadata"]["uid"] = json!(object.uid());
        patch["metadata"]["resourceVersion"] = json!(object.resource_version());
        api.patch(&object.name_any(), &patch_params(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, notice: Option<Notice>) {
        if let Some(Notice { warning, reason, message }) = notice {
            let kind = if warning { Kind::Warning } else { Kind::Normal };
            self.context.events.for_component("persistentvolume-controller").event(object, kind, reason, message);
        }
    }
}

/// What the caches hold that matters to a claim.
struct Seen<'a> {
    context: &'a Context,
    claim: &'a PersistentVolumeClaim,
    volumes: Vec<Arc<PersistentVolume>>,
    class: Option<Arc<StorageClass>>,
}

impl<'a> Seen<'a> {
    fn of(context: &'a Context, claim: &'a PersistentVolumeClaim) -> Self {
        let caches = &context.caches;
        let class = claim_class(claim);
        let mut volumes = caches.volumes.indexed(&of_class(class));
        let reserved = caches.volumes.indexed(&of_claim(&claim.namespace().unwrap_or_default(), &claim.name_any()));
        volumes.extend(reserved);
        let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
        volumes.extend(named.and_then(|name| caches.volumes.get(&Key::cluster(name.as_str()))));
        let class = if class.is_empty() { None } else { caches.storage_classes.get(&Key::cluster(class)) };
        Seen { context, claim, volumes, class }
    }
}

impl World for Seen<'_> {
    fn volume(&self, name: &str) -> Option<&PersistentVolume> {
        self.volumes().find(|volume| volume.metadata.name.as_deref() == Some(name))
    }

    fn volumes(&self) -> impl Iterator<Item = &PersistentVolume> {
        self.volumes.iter().map(AsRef::as_ref)
    }

    fn class(&self) -> Option<&StorageClass> {
        self.class.as_deref()
    }

    fn default_class(&self) -> Option<String> {
        let classes = self.context.caches.storage_classes.all();
        let marked =
            classes.iter().filter(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|yes| yes == "true"));
        // Of several the youngest, and of these the first by name.
        let age = |class: &&Arc<StorageClass>| {
            let made = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (std::cmp::Reverse(made), class.name_any())
        };
        marked.min_by_key(age).map(|class| class.name_any())
    }

    fn waiting_pods(&self) -> Vec<String> {
        let claim = of_claim(&self.claim.namespace().unwrap_or_default(), &self.claim.name_any());
        let pods = self.context.caches.pods.indexed(&claim);
        pods.iter().filter(|pod| pods::node_name(pod).is_empty()).map(|pod| pod.name_any()).collect()
    }
}

impl Controller for PersistentVolumesController {
    type Key = Item;

    fn name(&self) -> &'static str {
        "persistent-volumes"
    }

    fn queue(&self) -> &Queue<Item> {
        &self.queue
    }

    async fn reconcile(&self, item: &Item) -> Result<Outcome, Error> {
        match item {
            Item::Claim(key) => self.look_at_claim(key).await?,
            Item::Volume(name) => self.look_at_volume(name).await?,
        }
        Ok(Outcome::Done)
    }
}
