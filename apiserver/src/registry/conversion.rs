//! Versions of custom kinds that a webhook converts.
//!
//! In: stored objects and the version that is asked for, or an object of a version that is to be stored. Out: the objects in that
//! version, those of one answer asked for together. A watch is converted by a task of its own, change by change, so that
//! a slow webhook holds up its watchers only.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::custom::{Converter, CustomKind, WebhookConversion};
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, Reason, codec, meta};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Registry, WatchSession};
use crate::cacher::{Change, Delivery, Entry, WATCHER_QUEUE_MAX};
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

    /// The same watch with objects in the version that was asked for.
    pub(super) async fn converted(self: &Arc<Self>, mut session: WatchSession) -> Result<WatchSession, ApiError> {
        let resource = Arc::clone(&session.resource);
        if webhook(&resource).is_none() {
            return Ok(session);
        }
        let initial = std::mem::take(&mut session.subscription.initial);
        let objects = initial.iter().map(|entry| entry.object.clone()).collect();
        let objects = self.out_of_storage(&resource, objects).await?;
        session.subscription.initial = initial
            .into_iter()
            .zip(objects)
            .map(|(entry, object)| {
                let (key, facts) = (Arc::clone(&entry.key), entry.facts.clone());
                Arc::new(Entry { key, revision: entry.revision, object, facts })
            })
            .collect();
        let backlog = std::mem::take(&mut session.subscription.backlog);
        for delivery in backlog {
            session.subscription.backlog.push(self.convert_delivery(&resource, delivery).await?);
        }
        // As many as a watcher's own queue holds: this one stands in its place.
        let (send, receive) = mpsc::channel(WATCHER_QUEUE_MAX);
        let mut changes = std::mem::replace(&mut session.subscription.queue, receive);
        let registry = Arc::clone(self);
        // Ends when the watch ends, which closes both queues.
        tokio::spawn(async move {
            while let Some(delivery) = changes.recv().await {
                match registry.convert_delivery(&resource, delivery).await {
                    Ok(delivery) => {
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

    async fn convert_delivery(&self, resource: &Resource, delivery: Delivery) -> Result<Delivery, ApiError> {
        let change = &delivery.change;
        let object = self.out_of_storage(resource, vec![change.object(delivery.kind)]).await?;
        let mut value = codec::decode(object.first().map(|object| object.as_ref()).unwrap_or_default())?;
        meta::metadata_mut(&mut value).remove("resourceVersion");
        let bytes = codec::encode(&value);
        let converted =
            Change::new(resource, &change.entry.key, delivery.kind, change.revision, &bytes, None, change.seen)?;
        Ok(Delivery { kind: delivery.kind, change: Arc::new(converted) })
    }
}
