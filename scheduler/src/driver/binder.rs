//! Binds one pod, and does not return before it is known how that went.
//!
//! A lost answer leaves open whether the binding was made. Asking for the same binding again is
//! safe: the API server binds a pod once, and the second request's refusal tells that there was a
//! first. So the doubtful request is repeated until there is a clear answer, while the pod keeps
//! its room on the node.

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_api::policy::room::IF_FITS_ANNOTATION;
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::facts::WatchedPod;
use super::state::{BindOutcome, PodRef};
use crate::convert;

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

enum Answer {
    Clear(BindOutcome),
    Doubtful(kube::Error),
    /// The server says no, but perhaps because an earlier request of ours said yes.
    Conflict(String),
}

/// What is asked of a binding besides the node.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The devices that the pod is to have there.
    pub devices: Vec<u16>,
    /// To be refused if the pod does not fit.
    pub if_fits: bool,
}

/// Binds `pod` to `node`. `None`: shut down before an answer came.
pub async fn bind(
    client: &Client,
    pod: &PodRef,
    node: &str,
    wishes: &Wishes,
    shutdown: &CancellationToken,
) -> Option<BindOutcome> {
    let mut delay = RETRY_FIRST;
    loop {
        let answer = match post(client, pod, node, wishes).await {
            Answer::Conflict(message) => look(client, pod, node, message).await,
            answer => answer,
        };
        let error = match answer {
            Answer::Clear(outcome) => return Some(outcome),
            Answer::Conflict(message) => return Some(BindOutcome::Refused(message)),
            Answer::Doubtful(error) => error,
        };
        tracing::warn!(namespace = pod.namespace, pod = pod.name, node, %error, "no clear answer to a binding, asking again");
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY_MAX),
        }
    }
}

async fn post(client: &Client, pod: &PodRef, node: &str, wishes: &Wishes) -> Answer {
    // The server puts a binding's annotations onto the pod with the same write.
    let mut annotations = BTreeMap::new();
    if !wishes.devices.is_empty() {
        annotations.insert(convert::DEVICES_ANNOTATION.to_owned(), convert::devices_annotation(&wishes.devices));
    }
    if wishes.if_fits {
        annotations.insert(IF_FITS_ANNOTATION.to_owned(), "true".to_owned());
    }
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            // With the UID, a pod that took the place of ours under the same name is not bound.
            uid: Some(pod.uid.clone()),
            annotations: (!annotations.is_empty()).then_some(annotations),
            ..ObjectMeta::default()
        },
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.into()), ..ObjectReference::default() },
    };
    let api: Api<WatchedPod> = Api::namespaced(client.clone(), &pod.namespace);
    let created =
        api.create_subresource::<_, serde_json::Value>("binding", &pod.name, &PostParams::default(), &binding).await;
    match created {
        Ok(_) => Answer::Clear(BindOutcome::Bound),
        Err(kube::Error::Api(status)) => match status.code {
            404 => Answer::Clear(BindOutcome::Gone),
            409 => Answer::Conflict(status.message.clone()),
            429 | 500..=599 => Answer::Doubtful(kube::Error::Api(status)),
            _ => Answer::Clear(BindOutcome::Refused(status.message.clone())),
        },
        // The answer was a success that could not be read: that it succeeded is what matters.
        Err(kube::Error::SerdeError(_)) => Answer::Clear(BindOutcome::Bound),
        Err(error) => Answer::Doubtful(error),
    }
}

/// Looks at the pod to learn why its binding was refused.
async fn look(client: &Client, pod: &PodRef, node: &str, message: String) -> Answer {
    let api: Api<WatchedPod> = Api::namespaced(client.clone(), &pod.namespace);
    match api.get_opt(&pod.name).await {
        Ok(None) => Answer::Clear(BindOutcome::Gone),
        Ok(Some(found)) if found.facts.uid != pod.uid => Answer::Clear(BindOutcome::Gone),
        Ok(Some(found)) => match found.facts.node_name {
            Some(name) if name == node => Answer::Clear(BindOutcome::Bound),
            Some(name) => Answer::Clear(BindOutcome::Elsewhere(name)),
            None if found.facts.terminating || found.facts.finished => Answer::Clear(BindOutcome::Gone),
            None => Answer::Conflict(message),
        },
        Err(error) => Answer::Doubtful(error),
    }
}
