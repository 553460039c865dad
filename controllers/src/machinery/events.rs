//! Writes Events as Kubernetes' controllers do: core `v1` Events with a source component; repeats of an event
//! raise its count; many similar events are combined; an object that causes too many is cut short.
//!
//! In: [`Recorder::event`] from any controller, which never waits. Out: creates and patches of Events by one task.
//! Events are told on a best-effort basis: when the queue is full they are dropped.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::patch::FIELD_MANAGER;

/// A burst of a roll-out of a few hundred pods fits; beyond that events are dropped rather than memory used.
const QUEUE_LENGTH: usize = 1024;
/// How many distinct events are remembered for counting; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 4096;
/// More distinct messages than this within [`SIMILAR_WINDOW_SECONDS`] are combined into one event.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW_SECONDS: i64 = 600;
/// An object may cause this many events at once, and one more each [`REFILL_SECONDS`].
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Something went as it should.
    Normal,
    /// Somebody should have a look.
    Warning,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Normal => "Normal",
            Kind::Warning => "Warning",
        }
    }
}

/// One thing that happened, as a controller tells it.
#[derive(Clone, Debug)]
pub struct Occurrence {
    component: &'static str,
    involved: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// The end of the recorder that controllers hold.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
    component: &'static str,
}

impl Recorder {
    /// The same recorder, speaking for another component.
    pub fn for_component(&self, component: &'static str) -> Self {
        Recorder { queue: self.queue.clone(), component }
    }

    /// Tells of something that happened to `object`.
    pub fn event<K>(&self, object: &K, kind: Kind, reason: &'static str, message: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.event_on(reference(object), kind, reason, message);
    }

    /// Tells of something that happened to the object behind a reference.
    pub fn event_on(&self, involved: ObjectReference, kind: Kind, reason: &'static str, message: String) {
        let occurrence =
            Occurrence { component: self.component, involved, kind, reason, message, at: Timestamp::now() };
        if let Err(error) = self.queue.try_send(occurrence) {
            tracing::debug!(%error, "event dropped");
        }
    }
}

/// A reference to `object` for an Event.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: Some(object.name_any()),
        namespace: object.namespace(),
        resource_version: object.resource_version(),
        uid: object.uid(),
        field_path: None,
    }
}

/// Makes a recorder and the task that writes what it is told; the task ends on shutdown.
pub fn start(client: Client, shutdown: CancellationToken) -> (Recorder, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    let recorder = Recorder { queue: sender, component: "controllers" };
    (recorder, write_all(client, receiver, shutdown))
}

async fn write_all(client: Client, mut queue: mpsc::Receiver<Occurrence>, shutdown: CancellationToken) {
    let mut correlator = Correlator::default();
    loop {
        let occurrence = tokio::select! {
            () = shutdown.cancelled() => return,
            occurrence = queue.recv() => occurrence,
        };
        let Some(occurrence) = occurrence else { return };
        let Some(write) = correlator.plan(occurrence) else {
            continue;
        };
        let done = tokio::select! {
            () = shutdown.cancelled() => return,
            done = act(&client, &write) => done,
        };
        if let Err(error) = done {
            tracing::debug!(error = &error as &dyn std::error::Error, "event not written");
        }
    }
}

async fn act(client: &Client, write: &Write) -> Result<(), kube::Error> {
    let event = &write.event;
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    if write.repeated {
        let patch = json!({
            "count": event.count,
            "message": event.message,
            "lastTimestamp": event.last_timestamp,
        });
        let name = event.name_any();
        match events.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(error) if super::is_not_found(&error) => {}
            other => return other.map(|_| ()),
        }
    }
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    events.create(&params, event).await.map(|_| ())
}

/// What is to be written for an occurrence.
#[derive(Debug, PartialEq)]
struct Write {
    event: Event,
    /// The event was written before; its count goes up.
    repeated: bool,
}

/// Decides, purely, whether an occurrence is a new event, a repeat, part of a crowd, or too much.
#[derive(Debug, Default)]
struct Correlator {
    seen: HashMap<String, Remembered>,
    similar: HashMap<String, Similar>,
    allowance: HashMap<String, (f64, Timestamp)>,
}

#[derive(Debug)]
struct Remembered {
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Debug)]
struct Similar {
    messages: BTreeSet<Arc<str>>,
    last: Timestamp,
}

impl Correlator {
    fn plan(&mut self, occurrence: Occurrence) -> Option<Write> {
        self.forget_old();
        let involved = format!(
            "{}|{:?}|{:?}|{:?}|{:?}",
            occurrence.component,
            occurrence.involved.kind,
            occurrence.involved.namespace,
            occurrence.involved.name,
            occurrence.involved.uid
        );
        let now = occurrence.at;
        if !self.allow(&involved, now) {
            return None;
        }
        let group = format!("{involved}|{:?}|{}", occurrence.kind, occurrence.reason);
        let (key, message) = self.combine(group, &occurrence.message, now);
        let nanos = now.as_nanosecond();
        let name = occurrence.involved.name.as_deref().unwrap_or_default();
        let fresh = Remembered { name: format!("{name}.{nanos:x}"), count: 0, first: now, last: now };
        let remembered = self.seen.entry(key).or_insert(fresh);
        remembered.count = remembered.count.saturating_add(1);
        remembered.last = now;
        let event = event_of(occurrence, remembered, message);
        Some(Write { repeated: remembered.count > 1, event })
    }

    fn allow(&mut self, involved: &str, now: Timestamp) -> bool {
        let (tokens, last) = self.allowance.entry(involved.to_owned()).or_insert((BURST, now));
        let passed = now.duration_since(*last).as_secs_f64().max(0.0);
        *tokens = (*tokens + passed / REFILL_SECONDS).min(BURST);
        *last = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    fn combine(&mut self, group: String, message: &str, now: Timestamp) -> (String, String) {
        let similar = self.similar.entry(group.clone()).or_insert(Similar { messages: BTreeSet::new(), last: now });
        if now.duration_since(similar.last).as_secs() > SIMILAR_WINDOW_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.len() < SIMILAR_MAX {
            similar.messages.insert(message.into());
        } else if !similar.messages.contains(message) {
            return (group, format!("(combined from similar events): {message}"));
        }
        (format!("{group}|{message}"), message.to_owned())
    }

    /// Halves what is remembered when it has grown too large, the longest unused first.
    fn forget_old(&mut self) {
        if self.seen.len() >= REMEMBERED_MAX {
            let mut times: Vec<Timestamp> = self.seen.values().map(|item| item.last).collect();
            times.sort_unstable();
            let limit = times[times.len() / 2];
            self.seen.retain(|_, item| item.last > limit);
        }
        if self.similar.len() >= REMEMBERED_MAX {
            self.similar.clear();
        }
        if self.allowance.len() >= REMEMBERED_MAX {
            self.allowance.clear();
        }
    }
}

fn event_of(occurrence: Occurrence, remembered: &Remembered, message: String) -> Event {
    let namespace = occurrence.involved.namespace.clone().unwrap_or_else(|| "default".into());
    Event {
        metadata: ObjectMeta {
            name: Some(remembered.name.clone()),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: occurrence.involved,
        reason: Some(occurrence.reason.into()),
        message: Some(message),
        source: Some(EventSource { component: Some(occurrence.component.into()), host: None }),
        reporting_component: Some(occurrence.component.into()),
        reporting_instance: Some(String::new()),
        first_timestamp: Some(Time(remembered.first)),
        last_timestamp: Some(Time(remembered.last)),
        count: Some(remembered.count),
        type_: Some(occurrence.kind.as_str().into()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occurrence(message: &str, second: i64) -> Occurrence {
        Occurrence {
            component: "deployment-controller",
            involved: ObjectReference {
                kind: Some("Deployment".into()),
                namespace: Some("shop".into()),
                name: Some("web".into()),
                ..ObjectReference::default()
            },
            kind: Kind::Normal,
            reason: "ScalingReplicaSet",
            message: message.into(),
            at: Timestamp::from_second(1_700_000_000 + second).unwrap(),
        }
    }

    #[test]
    fn a_repeat_raises_the_count_of_the_same_event() {
        let mut correlator = Correlator::default();
        let first = correlator.plan(occurrence("one", 0)).unwrap();
        let second = correlator.plan(occurrence("one", 5)).unwrap();
        assert!(!first.repeated && second.repeated);
        assert_eq!(first.event.metadata.name, second.event.metadata.name);
        assert_eq!(second.event.count, Some(2));
        assert!(second.event.last_timestamp > second.event.first_timestamp);
        assert_eq!(first.event.metadata.namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn many_similar_events_become_one() {
        let mut correlator = Correlator::default();
        for n in 0..10 {
            let write = correlator.plan(occurrence(&format!("pod {n}"), n)).unwrap();
            assert!(!write.repeated);
        }
        let combined = correlator.plan(occurrence("pod 10", 10)).unwrap();
        assert_eq!(combined.event.message.as_deref(), Some("(combined from similar events): pod 10"));
        assert!(correlator.plan(occurrence("pod 11", 11)).unwrap().repeated);
    }

    #[test]
    fn an_object_that_shouts_is_cut_short_and_heard_again_later() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|_| correlator.plan(occurrence("same", 0)).is_some()).count();
        assert_eq!(written, 25);
        assert!(correlator.plan(occurrence("same", 301)).is_some());
        assert!(correlator.plan(occurrence("same", 302)).is_none());
    }
}
