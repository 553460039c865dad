//! Writes what users read: events and the `PodScheduled` condition.
//!
//! Both are best effort and must not hold up placing: they pass through a bounded channel to a few
//! workers. What does not fit is counted and left out; the next attempt reports again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
// The API server stores events in this form: one in the form of `events.k8s.io` would be converted twice.
use k8s_openapi::api::core::v1::{Event, EventSeries, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::{Mutex, mpsc};

use super::facts::WatchedPod;
use super::state::{PodRef, Victim};

/// Enough for a burst of some seconds at the rate at which pods are bound; about 10 MB when full.
const CHANNEL_CAPACITY: usize = 16_384;
/// Requests in flight. Binding has its own; these must not crowd it out.
const CONCURRENCY: usize = 16;
/// Events remembered to count repetitions instead of repeating them.
const SERIES_MAX: usize = 4_096;
const RETRIES: u32 = 4;
/// A pod that changes each time its condition is to be written gets it with a later attempt.
const CONDITION_ATTEMPTS: u32 = 5;

/// Something to write.
#[derive(Debug)]
pub enum Record {
    /// A pod was bound.
    Scheduled(PodRef, String),
    /// An attempt failed.
    Failed(PodRef, String),
    /// A pod was made to go for another.
    Preempted {
        /// Who had to go.
        victim: Victim,
        /// The pod that it made room for.
        preemptor: PodRef,
        /// What is said about it.
        note: String,
    },
    /// A pod was moved so that another has room.
    Moved {
        /// Who was moved.
        pod: Victim,
        /// For whom.
        for_pod: PodRef,
        /// What is said about it.
        note: String,
    },
    /// Others were moved so that the pod has room.
    RoomMade(PodRef, String),
    /// Others could be moved so that the pod has room.
    MovesProposed(PodRef, String),
    /// The `PodScheduled` condition is `False`, with this reason and message, and the pod waits for this node or
    /// none. Either may be left as it is.
    Status(PodRef, Option<(&'static str, String)>, Option<Option<Arc<str>>>),
}

/// The sending end.
#[derive(Clone, Debug)]
pub struct Recorder(mpsc::Sender<Record>);

impl Recorder {
    /// Hands a record over. Returns false when too many wait.
    pub fn send(&self, record: Record) -> bool {
        self.0.try_send(record).is_ok()
    }
}

type SeriesKey = (u128, &'static str, String);

struct Writer {
    client: Client,
    instance: String,
    series: Mutex<HashMap<SeriesKey, (String, i32)>>,
}

/// Makes a recorder and the future that writes for it; it ends when all recorders are dropped and
/// everything is written.
pub fn recorder(client: Client, instance: String) -> (Recorder, impl Future<Output = ()>) {
    let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    let writer = Writer { client, instance, series: Mutex::default() };
    let work = async move {
        let records = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|record| (record, receiver))
        });
        records.for_each_concurrent(CONCURRENCY, |record| writer.write(record)).await;
    };
    (Recorder(sender), work)
}

impl Writer {
    async fn write(&self, record: Record) {
        match record {
            Record::Scheduled(pod, node) => {
                let note = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
                self.event(&pod, None, "Normal", "Scheduled", "Binding", note).await;
            }
            Record::Failed(pod, note) => {
                self.event(&pod, None, "Warning", "FailedScheduling", "Scheduling", note).await;
            }
            Record::Preempted { victim, preemptor, note } => {
                let Victim { key, uid, namespace, name } = victim;
                let pod = PodRef { key, uid, namespace, name, generation: None, ..preemptor.clone() };
                self.event(&pod, Some(&preemptor), "Normal", "Preempted", "Preempting", note).await;
            }
            Record::Moved { pod: Victim { key, uid, namespace, name }, for_pod, note } => {
                let pod = PodRef { key, uid, namespace, name, generation: None, ..for_pod.clone() };
                self.event(&pod, Some(&for_pod), "Normal", "Moved", "Moving", note).await;
            }
            Record::RoomMade(pod, note) => {
                self.event(&pod, None, "Normal", "RoomMade", "Moving", note).await;
            }
            Record::MovesProposed(pod, note) => {
                self.event(&pod, None, "Normal", "MovesProposed", "Moving", note).await;
            }
            Record::Status(pod, condition, nominated) => self.status(&pod, condition, nominated).await,
        }
    }

    async fn event(
        &self,
        pod: &PodRef,
        related: Option<&PodRef>,
        type_: &str,
        reason: &'static str,
        action: &str,
        mut note: String,
    ) {
        // The API's limit for a note; a longer one would be refused as a whole.
        const NOTE_MAX: usize = 1_024;
        if note.len() > NOTE_MAX {
            let end = (0..=NOTE_MAX - 3).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
            note.truncate(end);
            note.push_str("...");
        }
        let now = Timestamp::now();
        let key = (pod.key.0, reason, note);
        if reason != "Scheduled" && self.repeat(pod, &key, now).await {
            return;
        }
        let name = format!("{}.{:x}", pod.name, now.as_nanosecond());
        let event =
            Event { related: related.map(reference), ..self.new_event(pod, type_, reason, action, &key.2, &name, now) };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        let created = retry(|| async { api.create(&PostParams::default(), &event).await.map(drop) }).await;
        match created {
            Ok(()) if reason != "Scheduled" => {
                let mut series = self.series.lock().await;
                if series.len() >= SERIES_MAX {
                    series.clear();
                }
                series.insert(key, (name, 1));
            }
            Ok(()) => {}
            Err(error) => log_lost("event", pod, &error),
        }
    }

    /// Counts one more of an event that was written before. False: there is none to count.
    async fn repeat(&self, pod: &PodRef, key: &SeriesKey, now: Timestamp) -> bool {
        let (name, count) = {
            let mut series = self.series.lock().await;
            let Some((name, count)) = series.get_mut(key) else { return false };
            *count += 1;
            (name.clone(), *count)
        };
        let series = EventSeries { count: Some(count), last_observed_time: Some(MicroTime(now)) };
        let patch = Patch::Merge(json!({ "series": series }));
        let api: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        let patched = api.patch(&name, &PatchParams::default(), &patch).await;
        if let Err(error) = &patched {
            // Most likely it has expired: write a new one.
            tracing::debug!(event = name, %error, "an event can't be counted up");
            self.series.lock().await.remove(key);
        }
        patched.is_ok()
    }

    #[allow(clippy::too_many_arguments)]
    fn new_event(
        &self,
        pod: &PodRef,
        type_: &str,
        reason: &str,
        action: &str,
        note: &str,
        name: &str,
        now: Timestamp,
    ) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_component: Some(pod.scheduler_name.clone()),
            reporting_instance: Some(format!("{}-{}", pod.scheduler_name, self.instance)),
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(note.to_owned()),
            type_: Some(type_.to_owned()),
            involved_object: reference(pod),
            ..Event::default()
        }
    }

    async fn status(
        &self,
        pod: &PodRef,
        condition: Option<(&'static str, String)>,
        nominated: Option<Option<Arc<str>>>,
    ) {
        let mut status = serde_json::Map::new();
        if let Some((reason, message)) = condition {
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now());
            let mut condition = json!({
                "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
                "lastProbeTime": null, "lastTransitionTime": now,
            });
            if let (Some(generation), Some(fields)) = (pod.generation, condition.as_object_mut()) {
                fields.insert("observedGeneration".into(), generation.into());
            }
            status.insert("conditions".into(), json!([condition]));
        }
        if let Some(node) = nominated {
            status.insert("nominatedNodeName".into(), json!(node));
        }
        let api: Api<WatchedPod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let params = PatchParams::default();
        // By the time this is written the pod may have been bound, or another may have its name: the UID and the
        // version that the decision was made for keep the condition from going where it is no longer true.
        let mut version = pod.resource_version.clone();
        for _ in 0..CONDITION_ATTEMPTS {
            let patch = Patch::Strategic(json!({
                "metadata": {"uid": pod.uid, "resourceVersion": version}, "status": status,
            }));
            match retry(|| async { api.patch_status(&pod.name, &params, &patch).await.map(drop) }).await {
                Ok(()) => return,
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return log_lost("status", pod, &error),
            }
            match api.get_opt(&pod.name).await {
                Ok(Some(now)) if now.facts.uid == pod.uid && now.facts.node_name.is_none() && !now.facts.finished => {
                    version = now.facts.resource_version;
                }
                Ok(_) => return,
                Err(error) => return log_lost("status", pod, &error),
            }
        }
        tracing::debug!(namespace = pod.namespace, pod = pod.name, "status not written, the pod keeps changing");
    }
}

fn reference(pod: &PodRef) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

/// Tries again what may pass later; a clear refusal is final.
async fn retry<F: Future<Output = kube::Result<()>>>(attempt: impl Fn() -> F) -> kube::Result<()> {
    let mut delay = Duration::from_millis(100);
    for _ in 0..RETRIES {
        match attempt().await {
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                return Err(kube::Error::Api(status));
            }
            Err(_) => tokio::time::sleep(delay).await,
            Ok(()) => return Ok(()),
        }
        delay *= 3;
    }
    attempt().await
}

fn log_lost(what: &str, pod: &PodRef, error: &kube::Error) {
    let gone = matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409));
    if gone {
        tracing::debug!(namespace = pod.namespace, pod = pod.name, %error, "{what} not written, the pod is gone");
    } else {
        tracing::warn!(namespace = pod.namespace, pod = pod.name, %error, "{what} not written");
    }
}
