//! containerd's own event stream as the agent's events.
//!
//! CRI's GetContainerEvents does not exist in containerd 1.6, so this follows the stream
//! that every containerd has. In: `/tasks/exit` and `/tasks/oom` of the CRI namespace. Out:
//! [`RuntimeEvent::PodChanged`] with the UID of the pod, once CRI itself has noticed the
//! exit (it reacts to the same events, a moment later). Whenever the stream had a gap:
//! [`RuntimeEvent::Relist`].

use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::to_any;
use containerd_client::types::Envelope;
use prost::{Message, Name};
use tokio_util::sync::CancellationToken;

use super::errors::is_unavailable;
use super::{CriRuntime, NAMESPACE, namespaced};
use crate::runtime::RuntimeEvent;

/// Waits between attempts to subscribe while containerd is away.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// The topic of an event that is only there to be received back.
const HELLO_TOPIC: &str = "/gantry/hello";
/// First wait before such an event; doubles each time.
const HELLO_DELAY_MIN: Duration = Duration::from_millis(1);
/// First wait for CRI to notice an exit; doubles each time.
const SETTLE_DELAY_MIN: Duration = Duration::from_millis(2);
/// How long CRI is given to notice an exit, before the pod is reported as it is.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(2);

/// Follows the stream until `shutdown`, across restarts of containerd.
pub(super) async fn follow(runtime: CriRuntime, shutdown: CancellationToken) {
    loop {
        let followed = shutdown.run_until_cancelled(subscription(&runtime)).await;
        match followed {
            None => return,
            Some(Ok(())) => tracing::info!("containerd closed its event stream"),
            Some(Err(status)) if is_unavailable(&status) => {
                tracing::debug!(error = %status, "no event stream from containerd");
            }
            Some(Err(status)) => tracing::warn!(error = %status, "no event stream from containerd"),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await.is_none() {
            return;
        }
    }
}

async fn subscription(runtime: &CriRuntime) -> Result<(), tonic::Status> {
    let filters = ["/tasks/exit", "/tasks/oom", HELLO_TOPIC]
        .map(|topic| format!("namespace=={NAMESPACE},topic==\"{topic}\""))
        .to_vec();
    let mut client = EventsClient::new(runtime.channel.clone());
    // The answer's head comes with its first event only, so one is made: it also proves that
    // from here on nothing is missed.
    let subscribed = tokio::select! {
        subscribed = client.subscribe(SubscribeRequest { filters }) => subscribed,
        Err(status) = say_hello(runtime) => Err(status),
    };
    let mut stream = subscribed?.into_inner();
    runtime.publish(RuntimeEvent::Relist);
    while let Some(envelope) = stream.message().await? {
        match subject(&envelope) {
            Some(id) => {
                // Not awaited here: one slow answer must not hold up the other pods. There
                // are at most as many of these as containers that end within two seconds.
                let runtime = runtime.clone();
                tokio::spawn(async move { settle(&runtime, &id).await });
            }
            None => tracing::trace!(topic = envelope.topic, "an event that says nothing"),
        }
    }
    Ok(())
}

/// Publishes an event to ourselves, again and again; ends with an error only.
async fn say_hello(runtime: &CriRuntime) -> Result<(), tonic::Status> {
    let mut client = EventsClient::new(runtime.channel.clone());
    let mut delay = HELLO_DELAY_MIN;
    loop {
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_DELAY);
        let hello = TaskOom { container_id: String::new() };
        let request = PublishRequest { topic: HELLO_TOPIC.to_owned(), event: Some(to_any(&hello)) };
        client.publish(namespaced(request)).await?;
    }
}

/// The id of the sandbox or container that an event is about. The end of an additional
/// process (exec) is not.
fn subject(envelope: &Envelope) -> Option<String> {
    let event = envelope.event.as_ref()?;
    let is = |name: &str| event.type_url.trim_start_matches('/').ends_with(name);
    if is(&TaskExit::full_name()) {
        let exit = TaskExit::decode(event.value.as_slice()).ok()?;
        (exit.id == exit.container_id || exit.id.is_empty()).then_some(exit.container_id)
    } else if is(&TaskOom::full_name()) {
        Some(TaskOom::decode(event.value.as_slice()).ok()?.container_id).filter(|id| !id.is_empty())
    } else {
        None
    }
}

/// Waits until CRI reports the end of the container or sandbox, then tells of its pod.
async fn settle(runtime: &CriRuntime, id: &str) {
    let Some(owner) = runtime.owner_of(id).await else {
        tracing::trace!(id, "an event about something that is no pod's");
        return;
    };
    let mut delay = SETTLE_DELAY_MIN;
    let deadline = tokio::time::Instant::now() + SETTLE_TIME_MAX;
    while runtime.is_running(owner.kind, id).await && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
    runtime.publish(RuntimeEvent::PodChanged(owner.uid));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(name: &str, event: &impl Message) -> Envelope {
        Envelope {
            event: Some(prost_types::Any { type_url: name.to_owned(), value: event.encode_to_vec() }),
            ..Default::default()
        }
    }

    #[test]
    fn the_end_of_a_container_is_told_from_that_of_an_exec() {
        let exit = |id: &str| TaskExit { container_id: "c".to_owned(), id: id.to_owned(), ..Default::default() };
        let url = "containerd.events.TaskExit";
        assert_eq!(subject(&envelope(url, &exit("c"))), Some("c".to_owned()));
        assert_eq!(subject(&envelope(url, &exit("exec-1"))), None);
        assert_eq!(subject(&envelope("something.Else", &exit("c"))), None);
        let garbage = Envelope {
            event: Some(prost_types::Any { type_url: url.to_owned(), value: vec![0xff; 9] }),
            ..Default::default()
        };
        assert_eq!(subject(&garbage), None);
    }
}
