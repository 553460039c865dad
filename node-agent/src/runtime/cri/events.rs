//! containerd's own event stream as the agent's events.
//!
//! CRI's GetContainerEvents does not exist in containerd 1.6, so this follows the stream
//! that every containerd has. In: `/tasks/exit` and `/tasks/oom` of the CRI namespace. Out:
//! [`RuntimeEvent::PodChanged`] with the UID of the pod, once CRI itself has noticed the
//! exit (it reacts to the same events, a moment later). Whenever the stream had a gap:
//! [`RuntimeEvent::Relist`].

use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom};
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::types::Envelope;
use prost::{Message, Name};
use tokio_util::sync::CancellationToken;

use super::{CriRuntime, NAMESPACE};
use crate::runtime::RuntimeEvent;

/// Waits between attempts to subscribe while containerd is away.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// First wait for CRI to notice an exit; doubles each time.
const SETTLE_DELAY_MIN: Duration = Duration::from_millis(2);
/// How long CRI is given to notice an exit, before the pod is reported as it is.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(2);

/// Follows the stream until `shutdown`, across restarts of containerd.
pub(super) async fn follow(runtime: CriRuntime, shutdown: CancellationToken) {
    let mut first = true;
    loop {
        let followed = shutdown.run_until_cancelled(subscription(&runtime, std::mem::take(&mut first))).await;
        match followed {
            None => return,
            Some(Ok(())) => tracing::info!("containerd closed its event stream"),
            Some(Err(status)) => {
                tracing::debug!(error = %status, "no event stream from containerd");
            }
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await.is_none() {
            return;
        }
    }
}

async fn subscription(runtime: &CriRuntime, first: bool) -> Result<(), tonic::Status> {
    let filters = ["/tasks/exit", "/tasks/oom"].map(|topic| format!("namespace=={NAMESPACE},topic=={topic}")).to_vec();
    let mut stream =
        EventsClient::new(runtime.channel.clone()).subscribe(SubscribeRequest { filters }).await?.into_inner();
    if !first {
        runtime.publish(RuntimeEvent::Relist);
    }
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

/// The id of the sandbox or container that an event is about. The end of an additional
/// process (exec) is not.
fn subject(envelope: &Envelope) -> Option<String> {
    let event = envelope.event.as_ref()?;
    let is = |name: &str| event.type_url.trim_start_matches('/').ends_with(name);
    if is(&TaskExit::full_name()) {
        let exit = TaskExit::decode(event.value.as_slice()).ok()?;
        (exit.id == exit.container_id || exit.id.is_empty()).then_some(exit.container_id)
    } else if is(&TaskOom::full_name()) {
        Some(TaskOom::decode(event.value.as_slice()).ok()?.container_id)
    } else {
        None
    }
}

/// Waits until CRI reports the end of the container or sandbox, then tells of its pod.
async fn settle(runtime: &CriRuntime, id: &str) {
    let mut delay = SETTLE_DELAY_MIN;
    let deadline = tokio::time::Instant::now() + SETTLE_TIME_MAX;
    while runtime.is_running(id).await && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
    match runtime.pod_uid_of(id).await {
        Some(uid) => runtime.publish(RuntimeEvent::PodChanged(uid)),
        None => tracing::trace!(id, "an event about something that is no pod's"),
    }
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
