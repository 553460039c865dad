//! Versions of custom kinds that a webhook converts.
//!
//! In: stored objects and the version that is asked for, or an object of a version that is to be stored. Out: the objects in that
//! version, those of one answer asked for together. A watch is converted by a task of its own, change by change, so that
//! a slow webhook holds up its watchers only.
//!
//! Fields are selected by what they are in the version that is asked for. The cache knows those of the stored version, so
//! what selects by fields of another one is looked at once it is converted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::custom::{Converter, CustomKind, WebhookConversion};
use gantry_api::kinds::Resource;
use gantry_api::selector::{FieldRequirement, FieldSelector};
use gantry_api::{ApiError, Reason, codec, meta};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Registry, WatchSession, present};
use crate::cacher::{Change, Delivery, Entry, Filter, Kind, WATCHER_QUEUE_MAX};
use crate::webhook::ClientConfig;

/// How long a conversion may take, as in Kubernetes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The webhook of a kind, if it has one.
fn webhook(resource: &Resource) -> Option<(&Arc<CustomKind>, &Arc<WebhookConversion>)> {
    let custom = resource.custom.as_ref()?;
    match &custom.converter {
        Converter::Webhook(webhook) => Some((custom, webhook)),
        Converter::None => None,
    }
}

fn failed(webhook: &WebhookConversion, from: &str, why: impl std::fmt::Display) -> ApiError {
    let message = format!("conversion webhook for {from}, Kind={} failed: {why}", webhook.kind);
    ApiError::new(Reason::InternalError, message)
}

impl Registry {
    /// Asks the webhook for these objects, which are of one version, in another one.
    async fn ask(
        &self,
        webhook: &WebhookConversion,
        desired: &str,
        objects: Vec<Value>,
    ) -> Result<Vec<Value>, ApiError> {
        let from = objects.first().map(|object| meta::str_at(object, &["apiVersion"]).to_owned()).unwrap_or_default();
        let config = ClientConfig::from_value(&webhook.client_config)
            .ok_or_else(|| failed(webhook, &from, "it has neither a URL nor a service"))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = webhook.request(&uid, desired, objects.clone());
        let answer = self
            .webhooks
            .post(&config, Bytes::from(request.to_string()), TIMEOUT)
            .await
            .map_err(|error| failed(webhook, &from, error))?;
        let review: Value = serde_json::from_slice(&answer).map_err(|error| failed(webhook, &from, error))?;
        webhook.response(&uid, desired, &objects, &review)
    }

    /// Objects as they are stored in the version of `resource`.
    pub(crate) async fn out_of_storage(
        &self,
        resource: &Resource,
        mut objects: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, ApiError> {
        let Some((custom, webhook)) = webhook(resource) else { return Ok(objects) };
        let desired = resource.api_version();
        let mut waiting: Vec<(usize, Value)> = Vec::new();
        for (at, object) in objects.iter().enumerate() {
            let value = codec::decode(object)?;
            if meta::str_at(&value, &["apiVersion"]) != desired {
                waiting.push((at, value));
            }
        }
        // One request a version that objects are stored in; there are as many as there were stored versions.
        while let Some(from) = waiting.first().map(|(_, value)| meta::str_at(value, &["apiVersion"]).to_owned()) {
            let (now, later): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(_, value)| meta::str_at(value, &["apiVersion"]) == from);
            waiting = later;
            let (places, values): (Vec<usize>, Vec<Value>) = now.into_iter().unzip();
            for (at, mut value) in places.into_iter().zip(self.ask(webhook, &desired, values).await?) {
                custom.settle(&mut value);
                objects[at] = codec::encode_whole(&value);
            }
        }
        Ok(objects)
    }

    /// An object of the version of `resource` in the one that is stored.
    pub(crate) async fn for_storage(&self, resource: &Resource, object: &Value) -> Result<Option<Value>, ApiError> {
        let Some((_, webhook)) = webhook(resource) else { return Ok(None) };
        let Some(stored) = self.live_catalog().stored(resource) else { return Ok(None) };
        if stored.version == resource.version {
            return Ok(None);
        }
        let converted = self.ask(webhook, &stored.api_version(), vec![object.clone()]).await?;
        let mut converted = converted.into_iter().next();
        if let (Some(object), Some(custom)) = (&mut converted, &stored.custom) {
            custom.settle(object);
        }
        Ok(converted)
    }

    /// What a request selects in the stored version, and the fields that are to be looked at after conversion; none if the version is
    /// the stored one, whose fields the cache knows.
    pub(super) fn selected_after_conversion(
        &self,
        resource: &Resource,
        filter: &Filter,
    ) -> Option<(Arc<Filter>, FieldSelector)> {
        let fields = filter.fields.clone()?;
        let stored = self.live_catalog().stored(resource)?;
        let own = |field: &FieldRequirement| !matches!(&*field.field, "metadata.name" | "metadata.namespace");
        if stored.version == resource.version || !fields.requirements().iter().any(own) {
            return None;
        }
        Some((Arc::new(Filter { fields: None, ..filter.clone() }), fields))
    }

    /// The same watch with objects in the version that was asked for, those of them that have the fields.
    pub(super) async fn converted(
        self: &Arc<Self>,
        mut session: WatchSession,
        fields: Option<FieldSelector>,
    ) -> Result<WatchSession, ApiError> {
        let resource = Arc::clone(&session.resource);
        if webhook(&resource).is_none() && fields.is_none() {
            return Ok(session);
        }
        let initial = std::mem::take(&mut session.subscription.initial);
        let objects = initial.iter().map(|entry| entry.object.clone()).collect();
        let objects = self.all_in_version(&resource, objects).await?;
        for (entry, object) in initial.into_iter().zip(objects) {
            if !selected(fields.as_ref(), &resource, &object)? {
                continue;
            }
            let (key, facts) = (Arc::clone(&entry.key), entry.facts.clone());
            session.subscription.initial.push(Arc::new(Entry::with_facts(key, entry.revision, object, facts)));
        }
        for delivery in std::mem::take(&mut session.subscription.backlog) {
            let converted = self.convert_delivery(&resource, fields.as_ref(), delivery).await?;
            session.subscription.backlog.extend(converted);
        }
        // As many as a watcher's own queue holds: this one stands in its place.
        let (send, receive) = mpsc::channel(WATCHER_QUEUE_MAX);
        let mut changes = std::mem::replace(&mut session.subscription.queue, receive);
        let registry = Arc::clone(self);
        // Ends when the watch ends, which closes both queues.
        tokio::spawn(async move {
            while let Some(delivery) = changes.recv().await {
                match registry.convert_delivery(&resource, fields.as_ref(), delivery).await {
                    Ok(None) => {}
                    Ok(Some(delivery)) => {
                        if send.send(delivery).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, resource = resource.plural, "a watch ends: its objects cannot be converted");
                        return;
                    }
                }
            }
        });
        Ok(session)
    }

    /// Objects as they are stored in the version of `resource`, however they get there.
    async fn all_in_version(&self, resource: &Resource, objects: Vec<Bytes>) -> Result<Vec<Bytes>, ApiError> {
        let objects = objects.into_iter().map(|object| present(resource, object)).collect::<Result<_, _>>()?;
        self.out_of_storage(resource, objects).await
    }

    /// A change in the version of `resource`, as someone sees it who sees only objects with these fields; none if it is none to
    /// them.
    async fn convert_delivery(
        &self,
        resource: &Resource,
        fields: Option<&FieldSelector>,
        delivery: Delivery,
    ) -> Result<Option<Delivery>, ApiError> {
        let Delivery { kind, change } = delivery;
        // An object that stays in view in the stored version may come into view or leave it by its fields.
        let before = match (fields, kind) {
            (Some(_), Kind::Modified) => Some(change.object(Kind::Deleted)),
            _ => None,
        };
        let objects = [Some(change.object(kind)), before].into_iter().flatten().collect();
        let mut objects = self.all_in_version(resource, objects).await?.into_iter();
        let now = objects.next().ok_or_else(|| ApiError::internal("an object was lost in conversion"))?;
        let is = selected(fields, resource, &now)?;
        let (kind, object) = match objects.next() {
            None if is => (kind, now),
            None => return Ok(None),
            Some(before) => match (selected(fields, resource, &before)?, is) {
                (false, false) => return Ok(None),
                (false, true) => (Kind::Added, now),
                (true, true) => (Kind::Modified, now),
                (true, false) => (Kind::Deleted, before),
            },
        };
        let mut value = codec::decode(&object)?;
        meta::metadata_mut(&mut value).remove("resourceVersion");
        let bytes = codec::encode(&value);
        let converted = Change::new(resource, &change.entry.key, kind, change.revision, &bytes, None, change.seen)?;
        Ok(Some(Delivery { kind, change: Arc::new(converted) }))
    }
}

fn selected(fields: Option<&FieldSelector>, resource: &Resource, object: &[u8]) -> Result<bool, ApiError> {
    fields.map_or(Ok(true), |fields| selects(fields, resource, object))
}

/// Whether an object of the version of `resource` has the fields.
pub(super) fn selects(fields: &FieldSelector, resource: &Resource, object: &[u8]) -> Result<bool, ApiError> {
    let facts = codec::facts(resource, object)?;
    Ok(fields.matches(|field| facts.fields.get(field)))
}
