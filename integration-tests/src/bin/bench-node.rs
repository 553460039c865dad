//! `cargo xtask bench node`: what the agent of a node adds to the bare runtime. Pods and bare containers take turns on the same
//! containerd in the same run, one after the other for the latency and many at once for the throughput; then what the agent's
//! own process occupies and uses while 0, 50 and 110 pods run and nothing happens.
//!
//! The API server, controllers and scheduler are in another process, as on a node that is not the only machine.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use gantry_integration_tests::bench::{
    Result, Server, URL, bare_remove, bare_run, bare_start, containerd_socket, is_ready, median, node_ready, pod,
    pod_to_ready,
};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use tonic::transport::Channel;

/// How many the bare runtime is asked for at a time; more make each of them slower.
const AT_ONCE: usize = 8;
/// How many are started in one go.
const BATCH: usize = 24;
/// Until what starting left behind is done with.
const SETTLE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

async fn run() -> Result<()> {
    let gantry = PathBuf::from(std::env::var("GANTRY_BINARY")?);
    let data_dir = PathBuf::from(std::env::var("GANTRY_DATA_DIR")?);
    if let Some(nodes) = std::env::var("GANTRY_BENCH_SIMULATED").ok().and_then(|text| text.parse().ok()) {
        return simulated(&gantry, &data_dir, nodes).await;
    }
    let (rounds, idle_s) = (number("GANTRY_BENCH_ROUNDS", 20), number("GANTRY_BENCH_IDLE", 60));
    let mut server = Server::start(&gantry, &data_dir, &["--no-agent"])?;
    let client = server.client().await?;
    let agent = agent(&gantry, &data_dir)?;
    node_ready(&client).await?;
    let mut cri = RuntimeServiceClient::new(containerd_client::connect(containerd_socket(&data_dir)?).await?);
    idle(&agent, 0, idle_s).await?;
    latency(&client, &mut cri, rounds).await?;
    throughput(&client, &cri, rounds.div_ceil(5)).await?;
    for count in [50, 110] {
        fill(&client, count).await?;
        idle(&agent, count, idle_s).await?;
    }
    let pods: Api<Pod> = Api::namespaced(client, "default");
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await?;
    while !pods.list(&ListParams::default()).await?.items.is_empty() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    agent.stop()?;
    server.stop()
}

/// The agent in a process of its own, on the server's data directory.
fn agent(gantry: &Path, data_dir: &Path) -> Result<Server> {
    let mut kubeconfig = Command::new(gantry);
    kubeconfig.arg("kubeconfig").arg("--data-dir").arg(data_dir).args([
        "--url",
        URL,
        "node",
        "bench",
        "--ip",
        "127.0.0.1",
    ]);
    let text = kubeconfig.output()?;
    if !text.status.success() {
        return Err(String::from_utf8_lossy(&text.stderr).into_owned().into());
    }
    let file = data_dir.join("agent.kubeconfig");
    std::fs::write(&file, text.stdout)?;
    let file = file.display().to_string();
    let flags =
        ["agent", "--kubeconfig", &file, "--node-name", "bench", "--cgroup-root", "/gantry-bench", "--agent-listen"];
    Server::run(gantry, data_dir, &[&flags[..], &["127.0.0.1:0"]].concat())
}

/// What the agent occupies, and what it uses while nothing happens.
async fn idle(agent: &Server, pods: usize, seconds: usize) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let (before, start) = (agent.cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let share = (agent.cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    println!(
        "the agent with {pods} pods at rest: {:.1} MiB of its own, {:.1} MiB resident, {:.2} % of a core over {seconds} s",
        agent.own_mib()?,
        agent.resident_mib()?,
        share * 100.0
    );
    Ok(())
}

async fn latency(client: &Client, cri: &mut RuntimeServiceClient<Channel>, rounds: usize) -> Result<()> {
    let (mut pods, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let ready = pod_to_ready(client, &format!("one-{round}")).await?;
        let started = bare_start(cri, &format!("bare-{round}")).await?;
        if round > 0 {
            // The first round warms both.
            pods.push(ready);
            bare.push(started);
        }
    }
    let (pod, bare) = (median(&mut pods), median(&mut bare));
    println!("one pod from create to Ready, median of {rounds}: {pod:.0} ms");
    println!("sandbox + create + start by the same containerd: {bare:.0} ms; the pod takes {:+.0} ms", pod - bare);
    Ok(())
}

async fn throughput(client: &Client, cri: &RuntimeServiceClient<Channel>, rounds: usize) -> Result<()> {
    let (mut pods, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let many = pods_a_second(client, round).await?;
        let started = bare_a_second(cri, round).await?;
        if round > 0 {
            pods.push(many);
            bare.push(started);
        }
    }
    let (pods, bare) = (median(&mut pods), median(&mut bare));
    println!("{BATCH} pods created at once, until all are Ready, median of {rounds}: {pods:.1} a second");
    println!("{BATCH} by the same containerd, {AT_ONCE} at a time: {bare:.1} a second");
    println!("ratio: {:.2}", pods / bare);
    Ok(())
}

async fn pods_a_second(client: &Client, round: usize) -> Result<f64> {
    let start = Instant::now();
    create(client, &format!("many-{round}"), BATCH).await?;
    let rate = BATCH as f64 / start.elapsed().as_secs_f64();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let many = ListParams::default();
    pods.delete_collection(&DeleteParams::default().grace_period(0), &many).await?;
    while !pods.list(&many).await?.items.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(rate)
}

async fn bare_a_second(cri: &RuntimeServiceClient<Channel>, round: usize) -> Result<f64> {
    let start = Instant::now();
    let runs = (0..BATCH).map(|number| {
        let (mut cri, name) = (cri.clone(), format!("bare-many-{round}-{number}"));
        async move { bare_run(&mut cri, &name).await.map(|id| (name, id)) }
    });
    let started: Vec<_> = stream::iter(runs).buffer_unordered(AT_ONCE).try_collect().await?;
    let rate = BATCH as f64 / start.elapsed().as_secs_f64();
    let removals = started.into_iter().map(|(name, id)| {
        let mut cri = cri.clone();
        async move { bare_remove(&mut cri, &name, id).await }
    });
    stream::iter(removals).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(rate)
}

/// Creates pods at once and waits until all are Ready.
async fn create(client: &Client, name: &str, count: usize) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let version = pods.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut events = pods.watch(&WatchParams::default(), &version).await?.boxed();
    let parameters = PostParams::default();
    let creations = (0..count).map(|number| {
        let (pods, parameters) = (pods.clone(), &parameters);
        async move {
            Ok::<_, Box<dyn std::error::Error>>(pods.create(parameters, &pod(&format!("{name}-{number}"))?).await?)
        }
    });
    try_join_all(creations).await?;
    let mut ready = std::collections::BTreeSet::new();
    while ready.len() < count {
        let event = events.try_next().await?.ok_or("the watch ended before the pods were ready")?;
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
            && is_ready(&pod)
        {
            ready.extend(pod.metadata.name.filter(|found| found.starts_with(name)));
        }
    }
    Ok(())
}

/// Makes so many pods run in all.
async fn fill(client: &Client, count: usize) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let there = pods.list(&ListParams::default()).await?.items.len();
    create(client, &format!("stays-{count}"), count.saturating_sub(there)).await
}

/// Many simulated nodes and ten pods on each, by one control plane.
async fn simulated(gantry: &Path, data_dir: &Path, nodes: usize) -> Result<()> {
    let count = number("GANTRY_BENCH_PODS", nodes * 10);
    let mut server = Server::start(gantry, data_dir, &["--no-agent", "--pod-cidr", "10.0.0.0/8"])?;
    let client = server.client().await?;
    let file = data_dir.join("admin.kubeconfig").display().to_string();
    let start = Instant::now();
    let many = nodes.to_string();
    let flags = ["agent", "--simulate", &many, "--kubeconfig", &file, "--node-name", "sim"];
    let agents = Server::run(gantry, &data_dir.join("agents"), &flags)?;
    let all: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    wait_for(nodes, || async {
        let found = all.list(&ListParams::default()).await?;
        let ready = found.items.iter().filter(|node| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
            conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        });
        Ok(ready.count())
    })
    .await?;
    println!("{nodes} simulated nodes Ready after {:.0} s", start.elapsed().as_secs_f64());
    at_rest(&server, &agents).await?;
    let start = Instant::now();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let parameters = PostParams::default();
    let creations = (0..count).map(|number| {
        let (pods, parameters) = (pods.clone(), &parameters);
        async move {
            pods.create(parameters, &pod(&format!("p-{number}"))?).await?;
            Ok::<_, Box<dyn std::error::Error>>(())
        }
    });
    stream::iter(creations).buffer_unordered(64).try_collect::<Vec<()>>().await?;
    println!("{count} pods created after {:.0} s", start.elapsed().as_secs_f64());
    let running = ListParams::default().fields("status.phase!=Running").limit(1);
    wait_for(0, || async {
        let page = pods.list_metadata(&running).await?;
        Ok(page.items.len())
    })
    .await?;
    println!("{count} pods Running after {:.0} s", start.elapsed().as_secs_f64());
    at_rest(&server, &agents).await?;
    agents.stop()?;
    server.stop()
}

async fn wait_for<F: Future<Output = Result<usize>>>(wanted: usize, mut count: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(3600);
    loop {
        let asked_at = Instant::now();
        let found = count().await?;
        if found == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{found} instead of {wanted} after an hour").into());
        }
        // Lists of everything are work for the server, too: a tenth of its time at most.
        tokio::time::sleep(Duration::from_secs(1).max(asked_at.elapsed() * 9)).await;
    }
}

/// What both processes occupy and use while only leases and statuses are renewed.
async fn at_rest(server: &Server, agents: &Server) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let (before, start) = ((server.cpu()?, agents.cpu()?), Instant::now());
    tokio::time::sleep(Duration::from_secs(number("GANTRY_BENCH_IDLE", 60) as u64)).await;
    let elapsed = start.elapsed().as_secs_f64();
    for (name, process, before) in [("control plane", server, before.0), ("agents", agents, before.1)] {
        let share = (process.cpu()? - before).as_secs_f64() / elapsed;
        let (own, resident) = (process.own_mib()?, process.resident_mib()?);
        println!(
            "at rest, {name}: {own:.0} MiB of its own, {resident:.0} MiB resident, {:.1} % of a core",
            share * 100.0
        );
    }
    Ok(())
}
