//! As much of an API as a review needs, in memory: lists, watches in which nothing happens, and pods that are only tried.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Cluster, complete, uid};

type Params = std::collections::BTreeMap<String, String>;

const KINDS: [(&str, &str); 16] = [
    ("pods", "Pod"),
    ("nodes", "Node"),
    ("namespaces", "Namespace"),
    ("poddisruptionbudgets", "PodDisruptionBudget"),
    ("persistentvolumeclaims", "PersistentVolumeClaim"),
    ("persistentvolumes", "PersistentVolume"),
    ("storageclasses", "StorageClass"),
    ("csinodes", "CSINode"),
    ("csidrivers", "CSIDriver"),
    ("csistoragecapacities", "CSIStorageCapacity"),
    ("services", "Service"),
    ("replicationcontrollers", "ReplicationController"),
    ("replicasets", "ReplicaSet"),
    ("statefulsets", "StatefulSet"),
    ("podgroups", "PodGroup"),
    ("queues", "Queue"),
];

pub struct Api;

impl Api {
    pub fn router(cluster: &Cluster) -> Router {
        Router::new().fallback(answer).with_state(Arc::new(cluster.clone()))
    }
}

async fn answer(State(cluster): State<Arc<Cluster>>, Query(params): Query<Params>, request: Request) -> Response {
    if request.method() == "POST" {
        assert_eq!(params.get("dryRun").map(String::as_str), Some("All"), "nothing is made");
        let body: Bytes = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
        let sent: Value = serde_json::from_slice(&body).unwrap();
        let mut pod = complete(&sent);
        let name = format!("{}x", sent["metadata"]["generateName"].as_str().unwrap());
        (pod["metadata"]["name"], pod["metadata"]["uid"]) = (json!(name), json!(uid(&name)));
        return Json(pod).into_response();
    }
    if params.contains_key("watch") {
        return Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()).into_response();
    }
    let plural = request.uri().path().rsplit('/').next().unwrap();
    let (_, kind) = KINDS.iter().find(|(one, _)| *one == plural).unwrap_or_else(|| panic!("{}", request.uri()));
    let node = params.get("fieldSelector").and_then(|selector| selector.strip_prefix("spec.nodeName="));
    let is_there = |object: &&Value| node.is_none_or(|node| object["spec"]["nodeName"] == *node);
    let items: Vec<&Value> = cluster.of_kind(kind).filter(is_there).collect();
    Json(json!({"apiVersion": "v1", "kind": format!("{kind}List"), "metadata": {"resourceVersion": "1"}, "items": items}))
        .into_response()
}
