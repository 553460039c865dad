//! The one registry of all kinds: create, get, list, watch, update, patch, delete and the stored subresources.
//!
//! ```text
//! bytes ─▶ engine (decode, prepare) ─▶ admission ─▶ engine (validate) ─▶ store transaction ─▶ bytes
//!                                                                   reads ◀─ cacher ◀─ store's watch
//! ```
//!
//! In: a resource, a name, a body and a [`Caller`]. Out: encoded objects or an [`ApiError`]. Nothing here knows HTTP, and
//! nothing here is written per kind except what Kubernetes itself treats apart: graceful deletion of pods, finalizers
//! of namespaces, addresses of Services, and the action subresources.

mod catalog;
mod conversion;
mod create;
mod delete;
pub mod errors;
mod eviction;
mod expiry;
mod known;
mod list;
mod pods;
mod prepared;
mod room;
mod service_address;
mod update;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::engine::{Context, FieldValidation};
use gantry_api::kinds::{Catalog, Resource};
use gantry_api::{ApiError, codec};
use gantry_store::{KeyValue, Store};
use jiff::Timestamp;
use rand::Rng;
use serde_json::Value;

use crate::admission::{Attributes, Chain, Notes};
use crate::auth::{Authorizer, Identity};
use crate::cacher::{Cacher, Entry};
use crate::webhook::Client;

pub use catalog::LiveCatalog;
pub use delete::{DeleteOptions, Propagation};
pub use expiry::expire_events;
pub use known::Known;
pub use list::{ListRequest, ListResult, Match, Position, WatchRequest, WatchSession, parse_resource_version};
pub use service_address::ServiceAddresses;
pub use update::{PatchRequest, Target};

/// Letters and digits that cannot be mistaken for another nor spell words; generated names end in five of them.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// How long a read waits for the cache to hear of the newest writes before it asks the store.
const CATCH_UP_WAIT: Duration = Duration::from_millis(20);

/// Who writes, and how it wants the write treated.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user.
    pub identity: Arc<Identity>,
    /// The field manager.
    pub manager: String,
    /// What to do about unknown fields.
    pub field_validation: FieldValidation,
    /// Do everything but store it.
    pub dry_run: bool,
    /// What is told about the request besides its answer.
    pub notes: Arc<Notes>,
}

impl Caller {
    /// A caller with default options.
    pub fn new(identity: impl Into<Arc<Identity>>, manager: &str) -> Self {
        Self {
            identity: identity.into(),
            manager: manager.to_owned(),
            field_validation: FieldValidation::Ignore,
            dry_run: false,
            notes: Arc::default(),
        }
    }
}

/// What a write answers.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as it is now (or as it was when it went away).
    pub object: Bytes,
    /// Whether it was created.
    pub created: bool,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// What a deletion answers.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// The object still exists (finalizers, grace), or its kind answers with the object it was.
    Object(Bytes),
    /// It is gone; its UID.
    Gone(String),
}

/// A moment at which, or after which, something is read: the first read decides it by asking the store for its revision, and
/// the others of the same request go by what it was told.
#[derive(Debug, Default)]
pub struct AsOf(tokio::sync::OnceCell<u64>);

impl AsOf {
    /// Now, whenever it is first asked for.
    pub fn now() -> Self {
        Self::default()
    }

    async fn revision<F>(&self, ask: impl FnOnce() -> F) -> Result<u64, gantry_store::Error>
    where
        F: Future<Output = Result<u64, gantry_store::Error>>,
    {
        self.0.get_or_try_init(ask).await.copied()
    }
}

/// An object read to be changed.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    /// The key.
    pub key: String,
    /// The revision it was read at.
    pub revision: u64,
    /// With its resourceVersion, in the stored version.
    pub bytes: Bytes,
}

/// The registry.
pub struct Registry {
    builtin: Arc<Catalog>,
    catalog: Arc<LiveCatalog>,
    webhooks: Arc<Client>,
    store: Arc<dyn Store>,
    cacher: Arc<Cacher>,
    admission: Chain,
    addresses: ServiceAddresses,
    authorizer: Arc<dyn Authorizer>,
    known: known::KnownCaches,
    bodies: prepared::Bodies,
    turns: room::Turns,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

/// Values a [`Context`] borrows.
struct Fresh {
    uid: String,
    suffix: String,
}

impl Fresh {
    fn new() -> Self {
        let mut random = rand::rng();
        let suffix = (0..SUFFIX_LENGTH)
            .map(|_| char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())]))
            .collect();
        Self { uid: uuid::Uuid::new_v4().to_string(), suffix }
    }

    fn context<'a>(&'a self, caller: &'a Caller) -> Context<'a> {
        Context {
            now: Timestamp::now(),
            new_uid: &self.uid,
            random_suffix: &self.suffix,
            manager: &caller.manager,
            field_validation: caller.field_validation,
            dry_run: caller.dry_run,
            warnings: Vec::new(),
            applied: false,
        }
    }
}

impl Registry {
    /// A registry over a store whose content `cacher` follows. `catalog` has the built-in kinds only, yet.
    pub fn new(
        catalog: Arc<LiveCatalog>,
        store: Arc<dyn Store>,
        cacher: Arc<Cacher>,
        admission: Chain,
        addresses: ServiceAddresses,
        webhooks: Arc<Client>,
        authorizer: Arc<dyn Authorizer>,
    ) -> Self {
        let builtin = catalog.now();
        let known = known::KnownCaches::new(&builtin, &cacher);
        let (bodies, turns) = (prepared::Bodies::default(), room::Turns::default());
        Self { builtin, catalog, webhooks, store, cacher, admission, addresses, authorizer, known, bodies, turns }
    }

    /// Who decides what somebody may do.
    pub fn authorizer(&self) -> &Arc<dyn Authorizer> {
        &self.authorizer
    }

    /// The built-in kinds.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.builtin
    }

    /// All kinds, as custom ones come and go.
    pub fn live_catalog(&self) -> &Arc<LiveCatalog> {
        &self.catalog
    }

    /// The watch cache.
    pub fn cacher(&self) -> &Arc<Cacher> {
        &self.cacher
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Runs all of admission for a request that stores nothing by itself: what is posted to an action, a connection.
    pub async fn admit(&self, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), ApiError> {
        self.admission.admit(attributes, Some(&mut *object), self).await?;
        self.admission.validate(attributes, Some(object), self).await
    }

    /// The object's bytes, as recent as any write acknowledged before the call.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Bytes, ApiError> {
        let current = self.current(resource, namespace, name).await?;
        self.present(resource, current.bytes).await
    }

    /// The object's bytes as the cache has them, at least at `not_older_than`.
    pub async fn get_cached(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        not_older_than: u64,
    ) -> Result<Bytes, ApiError> {
        if !self.cacher.wait_for(not_older_than, crate::cacher::FRESH_WAIT).await {
            return Err(errors::too_large_resource_version(not_older_than, self.cacher.revision()));
        }
        match self.cached(resource, namespace, name) {
            Some(entry) => self.present(resource, entry.object.clone()).await,
            // Not found, or not readable: the store knows.
            None => self.get(resource, namespace, name).await,
        }
    }

    /// The cache's view of an object, which may lag.
    pub fn cached(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.cacher.resource(resource)?.get(&resource.key(namespace, name))
    }

    /// Whether the cache has any object of a namespace, or an unreadable one.
    pub(crate) fn any_cached(&self, resource: &Resource, namespace: &str) -> bool {
        let prefix = resource.prefix(Some(namespace));
        let Some(cache) = self.cacher.resource(resource) else { return true };
        cache.unreadable(&prefix).is_some() || !cache.list(&prefix, None, 1, &Default::default()).entries.is_empty()
    }

    /// An object as it is now.
    pub(crate) async fn current(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Current, ApiError> {
        self.find(resource, namespace, name).await?.ok_or_else(|| ApiError::not_found(&resource.qualified(), name))
    }

    /// An object as it is now, or none.
    pub(crate) async fn find(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Current>, ApiError> {
        self.find_as_of(resource, namespace, name, &AsOf::now()).await
    }

    /// An object as recent as `as_of`, or none.
    pub(crate) async fn find_as_of(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        as_of: &AsOf,
    ) -> Result<Option<Current>, ApiError> {
        let key = resource.key(namespace, name);
        if self.is_cached(as_of).await?
            && let Some(cache) = self.cacher.resource(resource)
            && cache.unreadable(&key).is_none()
        {
            return Ok(cache.get(&key).map(|entry| Current::of(&entry)));
        }
        let (found, _) = self.store.get(&key).await.map_err(errors::from_store)?;
        Ok(found.map(|kv| Current::from_store(resource, kv)))
    }

    /// Whether the cache is as recent as `as_of`. It is waited for, though not long: it hears of a write a moment after the
    /// store has it, and a look into the store costs more than that moment.
    async fn is_cached(&self, as_of: &AsOf) -> Result<bool, ApiError> {
        let revision = as_of.revision(|| self.store.current_revision()).await.map_err(errors::from_store)?;
        if !self.cacher.is_following() {
            return Ok(false);
        }
        Ok(self.cacher.revision() >= revision || self.cacher.wait_for(revision, CATCH_UP_WAIT).await)
    }

    /// All objects of a namespace, as recent as `as_of`.
    pub(crate) async fn find_all(
        &self,
        resource: &Resource,
        namespace: &str,
        as_of: &AsOf,
    ) -> Result<Vec<Current>, ApiError> {
        let prefix = resource.prefix(Some(namespace));
        if self.is_cached(as_of).await?
            && let Some(cache) = self.cacher.resource(resource)
            && cache.unreadable(&prefix).is_none()
        {
            let page = cache.list(&prefix, None, 0, &Default::default());
            return Ok(page.entries.iter().map(|entry| Current::of(entry)).collect());
        }
        let page = self.store.list(&prefix, None, 0, None).await.map_err(errors::from_store)?;
        Ok(page.items.into_iter().map(|kv| Current::from_store(resource, kv)).collect())
    }

    /// An object that admission goes by: as the cache has it, which may lag, or as it is if the cache does not know it.
    pub(crate) async fn look_up(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        let bytes = match self.cached(resource, namespace, name) {
            Some(entry) => Some(entry.object.clone()),
            None => self.find(resource, namespace, name).await?.map(|current| current.bytes),
        };
        bytes.map(|bytes| codec::decode(&bytes)).transpose()
    }

    /// Stored bytes in the version of `resource`.
    pub(crate) async fn present(&self, resource: &Resource, object: Bytes) -> Result<Bytes, ApiError> {
        let mut objects = self.out_of_storage(resource, vec![present(resource, object)?]).await?;
        objects.pop().ok_or_else(|| ApiError::internal("an object was lost in conversion"))
    }

    /// The current object as the engine works on it.
    async fn value(&self, resource: &Resource, current: &Current) -> Result<Value, ApiError> {
        codec::decode(&self.present(resource, current.bytes.clone()).await?)
    }

    /// The bytes to store.
    async fn encode(&self, resource: &Resource, object: &Value) -> Result<Bytes, ApiError> {
        match self.for_storage(resource, object).await? {
            Some(stored) => Ok(codec::encode(&stored)),
            None => codec::to_storage(resource, object),
        }
    }
}

/// Stored bytes in the version of `resource`.
pub fn present(resource: &Resource, object: Bytes) -> Result<Bytes, ApiError> {
    codec::in_version(resource, &object)
}

impl Current {
    fn of(entry: &Entry) -> Self {
        Self { key: entry.key.to_string(), revision: entry.revision, bytes: entry.object.clone() }
    }

    fn from_store(resource: &Resource, kv: KeyValue) -> Self {
        let value = codec::settled(resource, &kv.value);
        Self { bytes: codec::with_resource_version(&value, kv.mod_revision), revision: kv.mod_revision, key: kv.key }
    }
}

/// The context of bodies that are read and answered, not stored.
pub fn read_context() -> Context<'static> {
    Context {
        now: Timestamp::now(),
        new_uid: "",
        random_suffix: "",
        manager: "",
        field_validation: FieldValidation::Ignore,
        dry_run: true,
        warnings: Vec::new(),
        applied: false,
    }
}

#[cfg(test)]
mod tests {
    use super::AsOf;

    #[tokio::test]
    async fn the_store_is_asked_for_its_revision_once_a_request() {
        let (as_of, asked) = (AsOf::now(), std::cell::Cell::new(0));
        let ask = |answer: Result<u64, gantry_store::Error>| {
            asked.set(asked.get() + 1);
            async { answer }
        };
        let unavailable = gantry_store::Error::Unavailable("gone".into());
        assert!(as_of.revision(|| ask(Err(unavailable))).await.is_err());
        for later in [7, 8, 9] {
            assert_eq!(as_of.revision(|| ask(Ok(later))).await.unwrap(), 7);
        }
        assert_eq!(asked.get(), 2);
    }
}
