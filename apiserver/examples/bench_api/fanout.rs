//! What a change costs that concerns one of many watchers: each selects the pods of one node, as node agents do.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::h2load::IN_FLIGHT;
use crate::server::{NAMESPACE, Server};
use crate::{Result, percentile, requests};

const WATCHERS: [usize; 4] = [100, 1_000, 5_000, 10_000];
/// So many watches share a connection.
const PER_CONNECTION: usize = 1_000;
/// Pods are created so many times a second…
const RATE: usize = 1_000;
/// …for so long.
const TIME: Duration = Duration::from_secs(8);
/// How long the last deliveries are waited for.
const DELIVERY_WAIT: Duration = Duration::from_secs(30);
const NAME: &str = "\"name\":\"watched-";

/// When each pod was sent and when a watcher saw it, in nanoseconds since the start; zero for not yet.
struct Log {
    start: Instant,
    sent: Vec<AtomicUsize>,
    seen: Vec<AtomicUsize>,
}

impl Log {
    fn now(&self) -> usize {
        usize::try_from(self.start.elapsed().as_nanos()).unwrap_or(usize::MAX).max(1)
    }
}

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
    let empty = || (0..total).map(|_| AtomicUsize::new(0)).collect();
    let log = Arc::new(Log { start: Instant::now(), sent: empty(), seen: empty() });
    let mut watches = open(server, watchers, &log).await?;
    // What opening them costs is another matter.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let cpu = server.cpu()?;
    let started = Instant::now();
    create(server, watchers, &log).await?;
    let rate = total as f64 / started.elapsed().as_secs_f64();
    let deadline = Instant::now() + DELIVERY_WAIT;
    let missing = || log.seen.iter().filter(|at| at.load(Ordering::Relaxed) == 0).count();
    while missing() > 0 {
        if Instant::now() > deadline {
            return Err(format!("{} changes were not delivered", missing()).into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cpu = (server.cpu()? - cpu).as_micros() as f64 / total as f64;
    watches.abort_all();
    while watches.join_next().await.is_some() {}

    let times = log.sent.iter().zip(&log.seen);
    let millis = |(sent, seen): (&AtomicUsize, &AtomicUsize)| {
        seen.load(Ordering::Relaxed).saturating_sub(sent.load(Ordering::Relaxed)) as f64 / 1e6
    };
    let mut latencies: Vec<f64> = times.map(millis).collect();
    clear(server).await?;
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
            follow(body, &log).await;
            // The connection lives as long as its watches.
            drop(client);
        });
    }
    Ok(watches)
}

async fn follow(mut body: Incoming, log: &Log) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        let now = log.now();
        for at in memchr::memmem::find_iter(data, NAME) {
            let digits = data[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            let number = digits.fold(0, |number: usize, digit| number * 10 + usize::from(digit - b'0'));
            if let Some(seen) = log.seen.get(number) {
                let _ = seen.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

/// Creates the pods at the rate, as far as the server takes them.
async fn create(server: &Server, watchers: usize, log: &Arc<Log>) -> Result<()> {
    let client = server.client().await?;
    let turns = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut creates: JoinSet<Result<()>> = JoinSet::new();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let started = Instant::now();
    for number in 0..log.sent.len() {
        let due = started + Duration::from_secs_f64(number as f64 / RATE as f64);
        tokio::time::sleep_until(due.into()).await;
        let turn = Arc::clone(&turns).acquire_owned().await?;
        let mut pod = requests::pod();
        pod["metadata"] = serde_json::json!({"name": format!("watched-{number}")});
        // Spread over all watchers, in no order of theirs.
        pod["spec"]["nodeName"] = format!("node-{}", number * 7919 % watchers).into();
        let (client, path, log) = (client.clone(), path.clone(), Arc::clone(log));
        creates.spawn(async move {
            log.sent[number].store(log.now(), Ordering::Relaxed);
            client.create(&path, &pod).await?;
            drop(turn);
            Ok(())
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

/// Deletes the pods at once: nobody runs them.
async fn clear(server: &Server) -> Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?gracePeriodSeconds=0");
    server.client().await?.call(Method::DELETE, &path, Bytes::new()).await?;
    Ok(())
}
