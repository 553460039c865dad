//! Renews the node's lease: the sign of life which the node lifecycle controller waits for.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::SharedNode;

const NAMESPACE: &str = "kube-node-lease";
/// How long a lease counts.
const DURATION_S: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// After a failure; soon enough for several tries before the lease runs out.
const RETRY: Duration = Duration::from_secs(1);

/// Renews until shutdown.
pub async fn run(client: Client, name: String, node: watch::Receiver<SharedNode>, shutdown: CancellationToken) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut failing = false;
    loop {
        let wait = match renew(&api, &name, &node).await {
            Ok(()) => {
                failing = false;
                RENEW_EVERY
            }
            Err(error) => {
                if !failing {
                    warn!(%error, "cannot renew the node's lease");
                }
                debug!(%error, "cannot renew the node's lease");
                failing = true;
                RETRY
            }
        };
        if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

async fn renew(api: &Api<Lease>, name: &str, node: &watch::Receiver<SharedNode>) -> Result<(), kube::Error> {
    let now = MicroTime(crate::clock::now());
    let spec = LeaseSpec {
        holder_identity: Some(name.into()),
        lease_duration_seconds: Some(DURATION_S),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    let patch = serde_json::json!({ "spec": spec });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    // The node's UID ties the lease to it: it goes when the node goes.
    let uid = node.borrow().as_ref().and_then(|node| node.metadata.uid.clone());
    let owner = uid.map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.into(),
        uid,
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(NAMESPACE.into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}
