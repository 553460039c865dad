//! Many nodes in one process: each is a whole agent with the same pod workers, on a runtime that only keeps records.
//!
//! In: how many, and a client for each. Out: Nodes that are ready and whose pods do what their annotations say
//! ([`crate::runtime::script`]). Their pods have addresses and nobody at them; nothing is pulled, logged or served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::runtime::simulated::Simulated;
use crate::start::{run_node, watch_services};
use crate::{Error, Metrics, Options, RuntimeChoice};

/// How many nodes register at once; more would only wait for each other at the API server.
const STARTING_MAX: usize = 64;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Simulation {
    /// How many nodes.
    pub nodes: usize,
    /// How long a container takes to start unless its pod says otherwise.
    pub start_delay: Duration,
}

impl Simulation {
    /// The names of the nodes: `NAME-0`, `NAME-1`, …
    pub fn node_names(&self, name: &str) -> impl Iterator<Item = String> + use<> {
        let name = name.to_owned();
        (0..self.nodes).map(move |number| format!("{name}-{number}"))
    }
}

/// Runs nodes of these names, each with a client of its own, until `shutdown`. `ready` is called once all are registered.
/// `start_delay` is that of a [`Simulation`]; the options are each node's, where they say something about a simulated one.
pub async fn simulate(
    nodes: Vec<(String, Client)>,
    options: Options,
    start_delay: Duration,
    metrics: Metrics,
    ready: impl FnOnce() + Send,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let stop = shutdown.child_token();
    let _guard = stop.clone().drop_guard();
    let mut parts: JoinSet<Result<(), Error>> = JoinSet::new();
    let Some((_, first)) = nodes.first() else { return Ok(()) };
    let (services, keep_services) = watch_services(first.clone());
    let cancelled = stop.clone();
    parts.spawn(async move {
        let kept = cancelled.run_until_cancelled(keep_services).await;
        kept.map_or(Ok(()), |()| Err(Error::Ended("the service watch")))
    });
    let starting = Arc::new(Semaphore::new(STARTING_MAX));
    let (started, all_started) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let count = nodes.len();
    for (name, client) in nodes {
        let mut options = options.clone();
        options.data_dir = options.data_dir.join("simulated").join(&name);
        options.node_name = name;
        options.runtime = RuntimeChoice::Given(Simulated::of_node(start_delay));
        options.serving = None;
        options.service_proxy = false;
        let (metrics, services, stop) = (metrics.clone(), services.clone(), stop.clone());
        let (starting, started, all_started) = (starting.clone(), started.clone(), all_started.clone());
        parts.spawn(async move {
            let Some(Ok(turn)) = stop.run_until_cancelled(starting.acquire_owned()).await else { return Ok(()) };
            let registered = move || {
                drop(turn);
                if started.fetch_add(1, Ordering::Relaxed) + 1 == count {
                    all_started.notify_one();
                }
            };
            run_node(client, options, metrics, services, registered, stop).await
        });
    }
    let mut ready = Some(ready);
    let result = loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break Ok(()),
            () = all_started.notified() => {
                info!(nodes = count, "all simulated nodes are registered");
                if let Some(ready) = ready.take() {
                    ready();
                }
            }
            Some(ended) = parts.join_next() => match ended {
                Ok(Err(error)) => break Err(error),
                Ok(Ok(())) | Err(_) => break Err(Error::Ended("a simulated node")),
            },
        }
    };
    stop.cancel();
    while parts.join_next().await.is_some() {}
    result
}
