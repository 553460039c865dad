//! What a change costs that concerns one of many watchers: each selects the pods of one node, as node agents do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokio::task::JoinSet;

use crate::paced::Log;
use crate::server::Server;
use crate::{Result, paced, percentile, requests};

const WATCHERS: [usize; 4] = [100, 1_000, 5_000, 10_000];
/// So many watches share a connection.
const PER_CONNECTION: usize = 1_000;
/// Pods are created so many times a second…
const RATE: usize = 1_000;
/// …for so long.
const TIME: Duration = Duration::from_secs(8);
/// Prints a line for each number of watchers.
pub async fn run(dir: &Path) -> Result<()> {
    let server = Server::gantry(dir).await?;
    requests::set_scene(&server).await?;
    println!("watches by spec.nodeName, {RATE} pods created a second, each for one of the watchers:");
    println!("{:>10} {:>11} {:>10} {:>10} {:>20}", "watchers", "creates/s", "p50", "p99", "server CPU a create");
    let mut costs = Vec::new();
    for watchers in WATCHERS {
        let figures = measure(&server, watchers).await?;
        println!(
            "{watchers:>10} {:>11.0} {:>7.1} ms {:>7.1} ms {:>17.0} us",
            figures.rate, figures.p50, figures.p99, figures.cpu
        );
        costs.push(figures.cpu);
    }
    let [few, .., many] = costs.as_slice() else { return Err("no figures".into()) };
    println!("cost of a change with {} watchers to one with {}: {:.2}", WATCHERS[3], WATCHERS[0], many / few);
    server.stop().await
}

struct Figures {
    rate: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
}

async fn measure(server: &Server, watchers: usize) -> Result<Figures> {
    let total = RATE * usize::try_from(TIME.as_secs())?;
    let log = Log::new(total);
    let mut watches = open(server, watchers, &log).await?;
    // What opening them costs is another matter.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let cpu = server.cpu()?;
    let started = Instant::now();
    // Spread over all watchers, in no order of theirs.
    let pod = |number: usize| {
        let mut pod = requests::pod();
        pod["spec"]["nodeName"] = format!("node-{}", number * 7919 % watchers).into();
        pod
    };
    paced::create(server, &log, RATE, pod).await?;
    let rate = total as f64 / started.elapsed().as_secs_f64();
    log.wait().await?;
    let cpu = (server.cpu()? - cpu).as_micros() as f64 / total as f64;
    watches.abort_all();
    while watches.join_next().await.is_some() {}

    let mut latencies = log.latencies();
    paced::clear(server).await?;
    Ok(Figures { rate, p50: percentile(&mut latencies, 50), p99: percentile(&mut latencies, 99), cpu })
}

/// Opens the watches; their tasks note what they see.
async fn open(server: &Server, watchers: usize, log: &Arc<Log>) -> Result<JoinSet<()>> {
    let mut watches = JoinSet::new();
    let mut client = server.client().await?;
    for node in 0..watchers {
        if node > 0 && node % PER_CONNECTION == 0 {
            client = server.client().await?;
        }
        let path = format!("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dnode-{node}");
        let (status, body) = client.send(Method::GET, &path, Bytes::new()).await?;
        if !status.is_success() {
            return Err(format!("a watch was answered with {status}").into());
        }
        let (log, client) = (Arc::clone(log), client.clone());
        watches.spawn(async move {
            paced::follow(body, &log).await;
            // The connection lives as long as its watches.
            drop(client);
        });
    }
    Ok(watches)
}
