//! What the API server keeps in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::h2load::IN_FLIGHT;
use crate::server::{NAMESPACE, Server};
use crate::{Result, requests};

const NODES: usize = 5_000;
const MIB: f64 = 1024.0 * 1024.0;
/// After so long nothing is left of what a burst needed for a moment.
const SETTLE: Duration = Duration::from_secs(5);

/// Prints the memory of the API server with nodes and pods, as they came and after a restart.
pub async fn run(dir: &Path, pods: usize) -> Result<()> {
    let server = Server::gantry(dir).await?;
    requests::set_scene(&server).await?;
    let empty = settled(&server).await?;
    fill(&server, "/api/v1/nodes", (0..NODES).map(node).collect()).await?;
    let with_nodes = settled(&server).await?;
    let collection = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    fill(&server, &collection, (0..pods).map(pod).collect()).await?;
    let with_pods = settled(&server).await?;
    let encoded = server.client().await?.get(&collection).await?.len() as f64 / pods as f64;
    server.stop().await?;
    let server = Server::gantry(dir).await?;
    let restarted = settled(&server).await?;
    println!(
        "memory of the API server, resident: {:.0} MiB empty, {:.0} with {NODES} nodes,",
        empty / MIB,
        with_nodes / MIB
    );
    println!("{:.0} with {pods} pods as well, {:.0} after a restart", with_pods / MIB, restarted / MIB);
    let each = (with_pods - with_nodes) / pods as f64;
    println!("a pod: {encoded:.0} bytes encoded, {each:.0} in memory, ratio {:.2}", each / encoded);
    server.stop().await
}

async fn settled(server: &Server) -> Result<f64> {
    tokio::time::sleep(SETTLE).await;
    server.resident()
}

async fn fill(server: &Server, path: &str, objects: Vec<Value>) -> Result<()> {
    let client = server.client().await?;
    let turns = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut creates: JoinSet<Result<Bytes>> = JoinSet::new();
    for object in objects {
        let turn = Arc::clone(&turns).acquire_owned().await?;
        let (client, path) = (client.clone(), path.to_owned());
        creates.spawn(async move {
            let created = client.create(&path, &object).await;
            drop(turn);
            created
        });
        while let Some(created) = creates.try_join_next() {
            created??;
        }
    }
    while let Some(created) = creates.join_next().await {
        created??;
    }
    Ok(())
}

fn node(number: usize) -> Value {
    json!({
        "metadata": {
            "name": format!("node-{number}"),
            "labels": {"kubernetes.io/hostname": format!("node-{number}"), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        },
        "status": {
            "capacity": {"cpu": "4", "memory": "32Gi", "pods": "110"},
            "allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        }
    })
}

fn pod(number: usize) -> Value {
    let mut pod = requests::pod();
    pod["metadata"] = json!({"name": format!("pod-{number}")});
    pod["spec"]["nodeName"] = format!("node-{}", number % NODES).into();
    pod
}
