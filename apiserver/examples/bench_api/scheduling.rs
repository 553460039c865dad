//! Pods from create to bound: the API server with its durable store, the scheduler, and nodes that are objects only.
//!
//! For each size of cluster, and for a scheduler in the API server's process (`gantry up`, with all controllers) and in one
//! of its own, two figures. How many pods a second get bound when 64 creates are under way all the time; the limit is what
//! the API server takes in the same run when nobody binds them. And how long a pod waits at half that rate.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::h2load::{self, Connections, Load};
use crate::paced::{self, Log};
use crate::server::{NAMESPACE, Server};
use crate::{Result, percentile, requests};

/// Nodes and pods, as Kubernetes was measured with.
const SIZES: [(usize, usize); 2] = [(1_000, 5_000), (5_000, 10_000)];
/// What Kubernetes 1.35 bound a second in these sizes on a machine of two cores, in another run.
const KUBERNETES: [f64; 2] = [182.0, 144.0];
/// How long pods are created at half the rate.
const PACED_SECONDS: usize = 8;
/// How long the last pods may take to be bound.
const BOUND_WAIT: Duration = Duration::from_secs(120);
const ADDED: &[u8] = b"{\"type\":\"ADDED\"";

/// Where the scheduler runs.
#[derive(Clone, Copy)]
enum Scheduler {
    Within,
    Beside,
}

/// Prints two lines for each size.
pub async fn run(dir: &Path) -> Result<()> {
    println!("pods created by 64 at once and bound:");
    println!(
        "{:>7} {:>7} {:>20} {:>9} {:>14} {:>18} {:>24} {:>11}",
        "nodes",
        "pods",
        "scheduler",
        "bound/s",
        "of creates/s",
        "x Kubernetes' own",
        "at half the rate: p99",
        "slowest"
    );
    for ((nodes, pods), kubernetes) in SIZES.into_iter().zip(KUBERNETES) {
        let dir = dir.join(nodes.to_string());
        let creates = prepare(&dir, nodes, pods).await?;
        for scheduler in [Scheduler::Within, Scheduler::Beside] {
            let figures = measure(&dir, scheduler, pods).await?;
            let place = match scheduler {
                Scheduler::Within => "in gantry up",
                Scheduler::Beside => "in its own process",
            };
            println!(
                "{nodes:>7} {pods:>7} {place:>20} {:>9.0} {:>12.0} % {:>18.1} {:>21.1} ms {:>8.1} ms",
                figures.rate,
                100.0 * figures.rate / creates,
                figures.rate / kubernetes,
                figures.p99,
                figures.slowest
            );
        }
    }
    Ok(())
}

struct Figures {
    rate: f64,
    p99: f64,
    slowest: f64,
}

/// Makes the nodes, and tells how many creates a second the API server takes without a scheduler.
async fn prepare(dir: &Path, nodes: usize, pods: usize) -> Result<f64> {
    let server = Server::gantry(dir).await?;
    requests::set_scene(&server).await?;
    let client = server.client().await?;
    for number in 0..nodes {
        let mut node: Value = serde_json::from_slice(&client.create("/api/v1/nodes", &node(number)).await?)?;
        // A new node is held to be not ready until a controller has looked at it.
        node["spec"]["taints"] = json!([]);
        let path = format!("/api/v1/nodes/node-{number}");
        client.call(Method::PUT, &path, Bytes::from(node.to_string())).await?;
    }
    let creates = create(&server, dir, pods, Connections::default()).await?;
    paced::clear(&server).await?;
    server.stop().await?;
    Ok(creates)
}

/// Creates pods, and returns how many a second.
async fn create(server: &Server, dir: &Path, pods: usize, connections: Connections) -> Result<f64> {
    let collection = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let manifest = requests::pod().to_string();
    let body = Some((manifest.as_bytes(), "application/json"));
    let load = Load { paths: &[collection], requests: pods, body, connections, ..Load::default() };
    Ok(h2load::run(server, dir, &load).await?.rate)
}

async fn measure(dir: &Path, scheduler: Scheduler, pods: usize) -> Result<Figures> {
    let (server, scheduler) = match scheduler {
        Scheduler::Within => (Server::up(dir).await?, None),
        Scheduler::Beside => {
            let server = Server::gantry(dir).await?;
            (server, Some(Server::scheduler(dir)?))
        }
    };
    let bound = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&bound);
    let watch = tokio::spawn(count(watch_bound(&server).await?, counted));
    // One pod tells that the scheduler has come up.
    create(&server, dir, 1, Connections::One).await?;
    wait_for(&bound, 1).await?;

    let started = Instant::now();
    create(&server, dir, pods, Connections::default()).await?;
    wait_for(&bound, 1 + pods).await?;
    let rate = pods as f64 / started.elapsed().as_secs_f64();
    watch.abort();
    paced::clear(&server).await?;

    let half = (rate / 2.0) as usize;
    let log = Log::new(half * PACED_SECONDS);
    let watch = watch_bound(&server).await?;
    let followed = Arc::clone(&log);
    let watch = tokio::spawn(async move { paced::follow(watch, &followed).await });
    paced::create(&server, &log, half, |_| requests::pod()).await?;
    log.wait().await?;
    watch.abort();
    paced::clear(&server).await?;
    drop(scheduler);
    server.stop().await?;
    let mut latencies = log.latencies();
    let slowest = latencies.iter().copied().fold(0.0, f64::max);
    Ok(Figures { rate, p99: percentile(&mut latencies, 99), slowest })
}

/// A watch that shows each pod once it is bound.
async fn watch_bound(server: &Server) -> Result<Incoming> {
    let path = "/api/v1/pods?watch=true&fieldSelector=spec.nodeName!%3D";
    let (status, body) = server.client().await?.send(Method::GET, path, Bytes::new()).await?;
    if !status.is_success() {
        return Err(format!("a watch was answered with {status}").into());
    }
    Ok(body)
}

/// Counts the pods that come into view.
async fn count(mut body: Incoming, bound: Arc<AtomicUsize>) {
    // The start of a frame may be cut in two.
    let mut rest = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        rest.extend_from_slice(data);
        let whole = memchr::memrchr(b'\n', &rest).map_or(0, |at| at + 1);
        bound.fetch_add(memchr::memmem::find_iter(&rest[..whole], ADDED).count(), Ordering::Relaxed);
        rest.drain(..whole);
    }
}

async fn wait_for(bound: &AtomicUsize, pods: usize) -> Result<()> {
    let deadline = Instant::now() + BOUND_WAIT;
    while bound.load(Ordering::Relaxed) < pods {
        if Instant::now() > deadline {
            return Err(format!("{} of {pods} pods were bound", bound.load(Ordering::Relaxed)).into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// A node as in Kubernetes' scheduling benches.
fn node(number: usize) -> Value {
    let size = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    json!({
        "metadata": {"name": format!("node-{number}"), "labels": {"kubernetes.io/hostname": format!("node-{number}")}},
        "status": {
            "capacity": size, "allocatable": size,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    })
}
