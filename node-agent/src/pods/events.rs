//! Writes events about pods and the node, as the kubelet words them. In: what happened, through a bounded queue that never
//! makes a worker wait. Out: Event objects; the same thing happening again raises the count of the one that is there.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How many events may wait to be written: about eight a pod for the pods that one machine can start at once. What comes
/// on top is dropped; events are a courtesy.
const QUEUE_LEN: usize = 1024;
/// How many written events are remembered for counting.
const REMEMBERED: usize = 512;

/// Whether something is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It is.
    Normal,
    /// It is not.
    Warning,
}

struct Happened {
    object: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// A handle for telling what happened.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Happened>,
}

impl Recorder {
    /// A recorder, and the task's future that writes what it is told until shutdown.
    pub fn new(
        client: Client,
        node_name: String,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, receiver) = mpsc::channel(QUEUE_LEN);
        let writer = Writer { client, node_name, written: HashMap::new(), order: VecDeque::new() };
        (Self { queue }, writer.run(receiver, shutdown))
    }

    /// Tells of a pod.
    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &'static str, message: impl Into<String>) {
        self.tell(pod_reference(pod, None), kind, reason, message.into());
    }

    /// Tells of one container of a pod.
    pub fn container(&self, pod: &Pod, name: &str, kind: Kind, reason: &'static str, message: impl Into<String>) {
        self.tell(pod_reference(pod, Some(name)), kind, reason, message.into());
    }

    /// Tells of the node.
    pub fn node(&self, name: &str, kind: Kind, reason: &'static str, message: impl Into<String>) {
        let object = ObjectReference {
            kind: Some("Node".into()),
            api_version: Some("v1".into()),
            name: Some(name.into()),
            uid: Some(name.into()),
            ..ObjectReference::default()
        };
        self.tell(object, kind, reason, message.into());
    }

    fn tell(&self, object: ObjectReference, kind: Kind, reason: &'static str, message: String) {
        let happened = Happened { object, kind, reason, message, at: crate::clock::now() };
        if self.queue.try_send(happened).is_err() {
            debug!(reason, "dropped an event: too many wait to be written");
        }
    }
}

fn pod_reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let field_path = container.map(|name| {
        let init = super::spec::init_containers(pod).any(|container| container.spec.name == name);
        let list = match init {
            true => "initContainers",
            false if super::spec::is_ephemeral(pod, name) => "ephemeralContainers",
            false => "containers",
        };
        format!("spec.{list}{{{name}}}")
    });
    ObjectReference {
        kind: Some("Pod".into()),
        api_version: Some("v1".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

type Key = (Option<String>, Option<String>, Kind, &'static str, String);

struct Writer {
    client: Client,
    node_name: String,
    written: HashMap<Key, (String, i32)>,
    order: VecDeque<Key>,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Happened>, shutdown: CancellationToken) {
        loop {
            let happened = tokio::select! {
                () = shutdown.cancelled() => return,
                happened = receiver.recv() => match happened {
                    Some(happened) => happened,
                    None => return,
                },
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.write(happened) => if let Err(error) = result {
                    debug!(%error, "could not write an event");
                },
            }
        }
    }

    async fn write(&mut self, happened: Happened) -> Result<(), kube::Error> {
        let namespace = happened.object.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let object = &happened.object;
        let key: Key =
            (object.uid.clone(), object.field_path.clone(), happened.kind, happened.reason, happened.message.clone());
        if let Some((name, count)) = self.written.get_mut(&key) {
            *count += 1;
            let patch = serde_json::json!({ "count": *count, "lastTimestamp": Time(happened.at) });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let name = event_name(object, happened.at);
        let event = self.event(&name, &namespace, happened);
        api.create(&PostParams::default(), &event).await?;
        if self.written.insert(key.clone(), (name, 1)).is_none() {
            self.order.push_back(key);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.written.remove(&oldest);
            }
        }
        Ok(())
    }

    fn event(&self, name: &str, namespace: &str, happened: Happened) -> Event {
        let kind = match happened.kind {
            Kind::Normal => "Normal",
            Kind::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            involved_object: happened.object,
            type_: Some(kind.into()),
            reason: Some(happened.reason.into()),
            message: Some(truncate(happened.message)),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.node_name.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node_name.clone()),
            first_timestamp: Some(Time(happened.at)),
            last_timestamp: Some(Time(happened.at)),
            count: Some(1),
            ..Event::default()
        }
    }
}

/// Unique by the nanosecond, as client-go names its events.
fn event_name(object: &ObjectReference, at: Timestamp) -> String {
    static LAST: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);
    let now = i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX);
    let unique = LAST
        .fetch_update(std::sync::atomic::Ordering::Relaxed, std::sync::atomic::Ordering::Relaxed, |last| {
            Some(now.max(last.saturating_add(1)))
        })
        .map_or(now, |last| now.max(last.saturating_add(1)));
    format!("{}.{unique:x}", object.name.as_deref().unwrap_or("unknown"))
}

/// The API server takes at most 1024 bytes.
fn truncate(mut message: String) -> String {
    const MAX: usize = 1024;
    if message.len() > MAX {
        let mut end = MAX - 3;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    message
}
