//! Makes pods go so that one that matters more has room: marks them, deletes them, and says so.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::facts::{PREEMPTED_REASON, WatchedPod};
use super::state::{PodRef, Victim};
use crate::core::PodKey;

/// Requests in flight for one pod's victims.
const CONCURRENCY: usize = 16;
const RETRIES: u32 = 4;
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Makes the victims go; returns those that are told now, and those that could not be.
pub async fn evict(
    client: &Client,
    preemptor: &PodRef,
    victims: Vec<Victim>,
    shutdown: &CancellationToken,
) -> (Vec<Victim>, Vec<PodKey>) {
    let told = futures::stream::iter(victims)
        .map(|victim| async move {
            let told = evict_one(client, preemptor, &victim, shutdown).await;
            if let Err(error) = &told {
                let (namespace, pod) = (&victim.namespace, &victim.name);
                tracing::warn!(namespace, pod, %error, "a pod of lower priority could not be made to go");
            }
            (victim, told.is_ok())
        })
        .buffer_unordered(CONCURRENCY)
        .collect::<Vec<_>>()
        .await;
    let (told, failed): (Vec<_>, Vec<_>) = told.into_iter().partition(|(_, told)| *told);
    let victims = told.into_iter().map(|(victim, _)| victim).collect();
    (victims, failed.into_iter().map(|(victim, _)| victim.key).collect())
}

async fn evict_one(
    client: &Client,
    preemptor: &PodRef,
    victim: &Victim,
    shutdown: &CancellationToken,
) -> kube::Result<()> {
    let api: Api<WatchedPod> = Api::namespaced(client.clone(), &victim.namespace);
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED_REASON,
        "message": format!("{}: preempting to accommodate a higher priority pod", preemptor.scheduler_name),
        "lastProbeTime": null, "lastTransitionTime": Time(Timestamp::now()),
    });
    // The UID keeps both from meeting another pod that took the name.
    let patch = Patch::Strategic(json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}));
    let marked =
        retry(shutdown, || async { api.patch_status(&victim.name, &PatchParams::default(), &patch).await.map(drop) });
    if !marked.await? {
        return Ok(());
    }
    let preconditions = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
    let params = DeleteParams::default().preconditions(preconditions);
    retry(shutdown, || async { api.delete(&victim.name, &params).await.map(drop) }).await.map(drop)
}

/// Tries again what may pass later. False: the pod is gone.
async fn retry<F: Future<Output = kube::Result<()>>>(
    shutdown: &CancellationToken,
    attempt: impl Fn() -> F,
) -> kube::Result<bool> {
    let mut delay = RETRY_FIRST;
    let mut left = RETRIES;
    loop {
        let error = match attempt().await {
            Ok(()) | Err(kube::Error::SerdeError(_)) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return Ok(false),
            Err(error) => error,
        };
        let is_final = matches!(&error, kube::Error::Api(status) if status.code < 500 && status.code != 429);
        if is_final || left == 0 {
            return Err(error);
        }
        left -= 1;
        tokio::select! {
            () = shutdown.cancelled() => return Err(error),
            () = tokio::time::sleep(delay) => delay *= 3,
        }
    }
}
