//! ConfigMaps, Secrets and service account tokens that pods refer to, read by name when they are needed.
//!
//! A short-lived cache with one request in flight an object: a hundred pods that start at once and mount the same ConfigMap
//! cost one read. The caller says how old an answer may be, so a pod never starts with what was there before it; while the
//! API server is away the answer is what the node has kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::checkpoint::{Checkpoint, Key, Kind};
use crate::runtime::PodIdentity;

/// Entries not asked for within this time are dropped.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// Why an object could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It is not there.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The API server did not give it.
    #[error("failed to fetch {kind} \"{name}\": {source}")]
    Api {
        /// `configmap`, `secret` or `token`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: kube::Error,
    },
}

struct Entry<K> {
    read_at: Option<Instant>,
    value: Option<Arc<K>>,
}

type Slot<K> = Arc<Mutex<Entry<K>>>;

/// By namespace and name: when it was last asked for, and what is known.
type Slots<K> = HashMap<(String, String), (Instant, Slot<K>)>;

struct Cache<K> {
    kind: &'static str,
    kept_as: Kind,
    slots: Mutex<Slots<K>>,
}

impl<K> Cache<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    fn new(kind: &'static str, kept_as: Kind) -> Self {
        Self { kind, kept_as, slots: Mutex::new(HashMap::new()) }
    }

    async fn get(
        &self,
        (client, checkpoint): (&Client, &Checkpoint),
        namespace: &str,
        name: &str,
        not_before: Instant,
    ) -> Result<Option<Arc<K>>, ObjectError> {
        let now = Instant::now();
        let slot = {
            let mut slots = self.slots.lock().await;
            slots.retain(|_, (used_at, _)| now.duration_since(*used_at) < FORGET_AFTER);
            let key = (namespace.to_owned(), name.to_owned());
            let entry =
                slots.entry(key).or_insert_with(|| (now, Arc::new(Mutex::new(Entry { read_at: None, value: None }))));
            entry.0 = now;
            entry.1.clone()
        };
        let mut entry = slot.lock().await;
        if entry.read_at.is_some_and(|read_at| read_at >= not_before) {
            return Ok(entry.value.clone());
        }
        // The time of the question, not of the answer: what changes meanwhile counts as not seen.
        let asked_at = Instant::now();
        let api: Api<K> = Api::namespaced(client.clone(), namespace);
        let read = checkpoint.read(Key::of(self.kept_as, namespace, name), api.get_opt(name)).await;
        let value = read.map_err(|source| ObjectError::Api { kind: self.kind, name: name.to_owned(), source })?;
        entry.value = value.map(Arc::new);
        entry.read_at = Some(asked_at);
        Ok(entry.value.clone())
    }
}

/// The objects pods refer to.
pub struct Objects {
    client: Client,
    checkpoint: Checkpoint,
    config_maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
}

impl Objects {
    /// With empty caches.
    pub fn new(client: Client, checkpoint: Checkpoint) -> Self {
        let config_maps = Cache::new("configmap", Kind::ConfigMap);
        Self { client, checkpoint, config_maps, secrets: Cache::new("secret", Kind::Secret) }
    }

    /// A ConfigMap, as read at or after `not_before`; `None` if there is none.
    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        not_before: Instant,
    ) -> Result<Option<Arc<ConfigMap>>, ObjectError> {
        self.config_maps.get((&self.client, &self.checkpoint), namespace, name, not_before).await
    }

    /// A Secret likewise.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
        not_before: Instant,
    ) -> Result<Option<Arc<Secret>>, ObjectError> {
        self.secrets.get((&self.client, &self.checkpoint), namespace, name, not_before).await
    }

    /// A claim, as it is now: whether it is bound is what is waited for.
    pub async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ObjectError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let failed = |source| ObjectError::Api { kind: "persistentvolumeclaim", name: name.to_owned(), source };
        let key = Key::of(Kind::Claim, namespace, name);
        self.checkpoint.read(key, api.get_opt(name)).await.map_err(failed)
    }

    /// A volume of the cluster, as it is now.
    pub async fn persistent_volume(&self, name: &str) -> Result<Option<PersistentVolume>, ObjectError> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let failed = |source| ObjectError::Api { kind: "persistentvolume", name: name.to_owned(), source };
        let key = Key::cluster(Kind::Volume, name);
        self.checkpoint.read(key, api.get_opt(name)).await.map_err(failed)
    }

    /// A RuntimeClass.
    pub async fn runtime_class(&self, name: &str) -> Result<Option<RuntimeClass>, ObjectError> {
        let api: Api<RuntimeClass> = Api::all(self.client.clone());
        let failed = |source| ObjectError::Api { kind: "runtimeclass", name: name.to_owned(), source };
        let key = Key::cluster(Kind::RuntimeClass, name);
        self.checkpoint.read(key, api.get_opt(name)).await.map_err(failed)
    }

    /// A fresh token of a service account, bound to a pod.
    pub async fn token(
        &self,
        pod: &PodIdentity,
        account: &str,
        audience: Option<&str>,
        expiration_s: i64,
    ) -> Result<TokenRequest, ObjectError> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &pod.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: audience.map(str::to_owned).into_iter().collect(),
                expiration_seconds: Some(expiration_s),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.name.clone()),
                    uid: Some(pod.uid.clone()),
                }),
            },
            ..TokenRequest::default()
        };
        let created = api.create_token_request(account, &PostParams::default(), &request).await;
        created.map_err(|source| ObjectError::Api { kind: "token", name: account.to_owned(), source })
    }
}
