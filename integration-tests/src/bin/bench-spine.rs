//! `cargo xtask bench spine`: what a pod costs from its creation to Ready beside what the bare runtime takes for the same
//! sandbox, container and start, on the same containerd in the same run; how long the server takes to be ready; and what
//! it occupies when idle.
//!
//! Pods and bare containers take turns, so that a machine whose speed drifts slows both. The figures are medians.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_integration_tests::bench::{
    Result, Server, bare_start, containerd_socket, median, node_ready, pod_to_ready,
};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;

fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let gantry = PathBuf::from(std::env::var("GANTRY_BINARY")?);
    let data_dir = PathBuf::from(std::env::var("GANTRY_DATA_DIR")?);
    let rounds: usize = std::env::var("GANTRY_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);

    let mut first = Vec::new();
    let mut again = Vec::new();
    for round in 0..5 {
        let fresh = data_dir.join(format!("start-{round}"));
        first.push(time_to_ready(&gantry, &fresh).await?);
        again.push(time_to_ready(&gantry, &fresh).await?);
    }
    println!(
        "start to /readyz, median of 5: {:.0} ms on a fresh data directory, {:.0} ms on one in use",
        median(&mut first),
        median(&mut again)
    );

    let mut server = Server::start(&gantry, &data_dir, &["--cgroup-root", "/gantry-bench"])?;
    let client = server.client().await?;
    node_ready(&client).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    println!("idle memory of `gantry up`, all parts, no pods: {:.1} MiB resident", server.resident_mib()?);

    let mut cri = RuntimeServiceClient::new(containerd_client::connect(containerd_socket(&data_dir)?).await?);
    let (mut pods, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let pod = pod_to_ready(&client, &format!("bench-{round}")).await?;
        let container = bare_start(&mut cri, &format!("bare-{round}")).await?;
        if round > 0 {
            // The first round warms both.
            pods.push(pod);
            bare.push(container);
        }
    }
    let (pod, bare) = (median(&mut pods), median(&mut bare));
    println!("one pod from create to Ready, median of {rounds}: {pod:.0} ms");
    println!("sandbox + create + start by the same containerd: {bare:.0} ms");
    println!("ratio: {:.2}", pod / bare);
    println!("memory after {} pods came and went: {:.1} MiB resident", rounds + 1, server.resident_mib()?);
    server.stop()?;
    Ok(())
}

async fn time_to_ready(gantry: &Path, data_dir: &Path) -> Result<f64> {
    let start = Instant::now();
    let mut server = Server::start(gantry, data_dir, &["--no-agent"])?;
    server.client().await?;
    let elapsed = start.elapsed();
    server.stop()?;
    Ok(elapsed.as_secs_f64() * 1e3)
}
