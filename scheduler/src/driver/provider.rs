//! Writes which volumes are for which claims, and for which node volumes are to be made.
//!
//! The controllers do the rest: a volume that names its claim is bound to it, and a claim that names a node gets a
//! volume made there.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::volumes::Choice;
use crate::convert::volumes::SELECTED_NODE;

const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Writes all of it, only onto what was decided on; why not, if something changed meanwhile.
pub async fn provide(client: &Client, choice: &Choice, node: &str) -> Result<(), String> {
    let params = PatchParams::default();
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    for binding in &choice.bind {
        let (namespace, name) = &binding.claim.key;
        let mut patch = json!({
            "metadata": {"resourceVersion": binding.resource_version},
            "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace,
                "name": name, "uid": binding.claim.uid, "resourceVersion": binding.claim.resource_version}},
        });
        if !binding.reserved {
            patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        let written = volumes.patch(&binding.volume, &params, &Patch::Merge(&patch)).await;
        written.map_err(|error| format!("binding volumes: {}", words(&error)))?;
    }
    for claim in &choice.provision {
        let (namespace, name) = &claim.key;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let patch = json!({"metadata": {"uid": claim.uid, "resourceVersion": claim.resource_version,
            "annotations": {SELECTED_NODE: node}}});
        let written = claims.patch(name, &params, &Patch::Merge(&patch)).await;
        written.map_err(|error| format!("binding volumes: {}", words(&error)))?;
    }
    Ok(())
}

fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
