//! Runs a component's loops while this process leads, or always if it was told not to elect a leader.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::health::Readiness;
use super::{host_name, up};
use crate::args::ElectionFlags;
use crate::election::identity::{self, Identity};
use crate::election::plan::Timing;
use crate::election::{self, Candidate, Metrics};

/// What all components of a process stand for election with; none if they run their loops without asking.
#[derive(Clone)]
pub struct Leading(Option<Arc<Election>>);

struct Election {
    identity: Identity,
    timing: Timing,
    metrics: Metrics,
}

/// How a process tells that it is ready.
#[derive(Clone)]
pub struct Health {
    /// What its health endpoint says.
    pub readiness: Readiness,
    /// What it says on standard error once it is.
    pub detail: Arc<dyn Fn() -> String + Send + Sync>,
}

impl Health {
    /// Says that `component` does its job.
    pub fn ready(&self, component: &str) {
        self.readiness.set();
        up::say_ready(component, &(self.detail)());
    }
}

/// A component that may run in several processes.
pub struct Component {
    /// What users call it.
    pub name: &'static str,
    /// Its lease.
    pub lease: &'static str,
    /// Where it tells that it is ready: once it leads and works, or stands by.
    pub health: Health,
}

impl Leading {
    /// What the flags ask for. A server with a data directory is the same candidate after a restart.
    ///
    /// # Errors
    /// When the times cannot work, or the data directory cannot be used.
    pub fn new(flags: &ElectionFlags, data_dir: Option<&Path>, registry: &mut Registry) -> Result<Self> {
        let ElectionFlags {
            leader_elect,
            leader_elect_lease_duration: lease_duration,
            leader_elect_renew_deadline: renew_deadline,
            leader_elect_retry_period: retry_period,
        } = *flags;
        if !leader_elect {
            return Ok(Self(None));
        }
        let timing = Timing { lease_duration, renew_deadline, retry_period };
        timing.check().map_err(|reason| anyhow!(reason))?;
        let host = host_name().unwrap_or_else(|| "localhost".to_owned());
        let identity = match data_dir {
            Some(dir) => identity::kept(&host, dir)?,
            None => identity::fresh(&host),
        };
        Ok(Self(Some(Arc::new(Election { identity, timing, metrics: Metrics::new(registry) }))))
    }

    /// Runs `work`, with a client, what it calls when it works, and what tells it to end, until `shutdown`.
    pub async fn run<F, W, E>(
        &self,
        component: Component,
        client: Client,
        shutdown: CancellationToken,
        work: F,
    ) -> Result<()>
    where
        F: Fn(Client, Box<dyn FnOnce() + Send>, CancellationToken) -> W,
        W: Future<Output = Result<(), E>> + Send,
        E: Into<anyhow::Error>,
    {
        let Component { name, lease, health } = component;
        // A process that leads, loses and leads again says so in its log, not here.
        let told = Arc::new(AtomicBool::new(false));
        let ready = {
            let (health, told) = (health.clone(), told.clone());
            move || -> Box<dyn FnOnce() + Send> {
                let (health, told) = (health.clone(), told.clone());
                Box::new(move || {
                    if !told.swap(true, Ordering::AcqRel) {
                        health.ready(name);
                    }
                })
            }
        };
        let Some(election) = &self.0 else {
            return work(client, ready(), shutdown).await.map_err(Into::into);
        };
        let candidate = Candidate {
            lease,
            identity: election.identity.name.clone(),
            timing: election.timing,
            client,
            metrics: election.metrics.clone(),
            standing_by: Arc::new(move |leader| {
                health.readiness.set();
                eprintln!("{name:<12} standing by while {leader} leads");
            }),
        };
        election::run(candidate, shutdown, |client, stop| {
            let running = work(client, ready(), stop);
            async move { running.await.map_err(Into::into) }
        })
        .await
    }
}
