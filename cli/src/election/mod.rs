//! Leader election: of several processes that run the same loops on one cluster, one runs them and the others stand by.
//!
//! ```text
//!                 ┌──────────── lost, or the loops ended ────────────┐
//!                 ▼                                                  │
//!  stand by ─try every 2 s─▶ Lease kube-system/NAME ─got it─▶ lead: run the loops, renew ─shutdown─▶ stop, release
//! ```
//!
//! [`plan`] decides, purely; [`fence`] keeps loops from acting after their term; here is the actor that reads and writes the
//! Lease. It lives beside the components' entry points because neither component may depend on the other.

pub mod fence;
pub mod identity;
mod lease;
pub mod plan;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use kube::Client;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use fence::Term;
use lease::{Failure, Lock};
use plan::{Elector, JITTER_MAX, Move, Timing};

/// The leases' names are those of Kubernetes' components, so that one of each, whoever made it, works at a time.
pub const CONTROLLERS_LEASE: &str = "kube-controller-manager";
/// See [`CONTROLLERS_LEASE`].
pub const SCHEDULER_LEASE: &str = "kube-scheduler";

/// Who stands for what.
#[derive(Clone)]
pub struct Candidate {
    /// The Lease's name.
    pub lease: &'static str,
    /// What tells this process from all others.
    pub identity: String,
    /// The times.
    pub timing: Timing,
    /// Reaches the API as the component.
    pub client: Client,
    /// Counts.
    pub metrics: Metrics,
    /// Called when another is first seen to lead.
    pub standing_by: Arc<dyn Fn(&str) + Send + Sync>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

/// Which leases this process holds.
#[derive(Clone, Debug)]
pub struct Metrics {
    master: Family<Name, Gauge>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self { master: Family::default() };
        let help = "Whether this process holds the lease: 1 when it leads, 0 when it stands by";
        registry.register("leader_election_master_status", help, metrics.master.clone());
        metrics
    }

    fn set(&self, name: &'static str, leads: bool) {
        self.master.get_or_create(&Name { name }).set(i64::from(leads));
    }
}

/// Runs `work` whenever this candidate leads, until `shutdown` or until the work ends by itself. The work gets a client that
/// fails once its term is over, and a token that is cancelled when it is to end.
pub async fn run<F, W>(candidate: Candidate, shutdown: CancellationToken, mut work: F) -> Result<()>
where
    F: FnMut(Client, CancellationToken) -> W,
    W: Future<Output = Result<()>> + Send,
{
    let mut actor = Actor::new(candidate);
    loop {
        if shutdown.run_until_cancelled(actor.acquire()).await.is_none() {
            // The lease may just have been got.
            actor.release().await;
            return Ok(());
        }
        actor.lock.event("became leader").await;
        tracing::info!(lease = actor.lock.name(), identity = actor.candidate.identity, "became the leader");
        let stop = CancellationToken::new();
        let client = actor.term.fence(actor.candidate.client.clone());
        let ended = actor.lead(work(client, stop.clone()), stop, &shutdown).await;
        actor.stepped_down();
        match ended {
            Ended::Lost => {
                tracing::warn!(lease = actor.lock.name(), "leads no longer: the lease could not be renewed in time")
            }
            Ended::Work(result) => {
                actor.release().await;
                return result;
            }
        }
    }
}

/// How a term ended.
enum Ended {
    /// The lease is not held any more; the work was stopped.
    Lost,
    /// The work ended, asked to or not.
    Work(Result<()>),
}

struct Actor {
    candidate: Candidate,
    lock: Lock,
    elector: Elector,
    start: Instant,
    term: Term,
    told: bool,
}

impl Actor {
    fn new(candidate: Candidate) -> Self {
        let start = Instant::now();
        candidate.metrics.set(candidate.lease, false);
        Self {
            lock: Lock::new(candidate.client.clone(), candidate.lease, candidate.identity.clone()),
            elector: Elector::new(candidate.identity.clone(), candidate.timing),
            term: Term::new(start),
            candidate,
            start,
            told: false,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Tries until it leads.
    async fn acquire(&mut self) {
        loop {
            self.attempt().await;
            if self.elector.leads(self.now()) {
                self.candidate.metrics.set(self.candidate.lease, true);
                return;
            }
            if let Some(holder) = self.elector.holder().filter(|holder| *holder != self.candidate.identity)
                && !std::mem::replace(&mut self.told, true)
            {
                tracing::info!(lease = self.candidate.lease, leader = holder, "standing by");
                (self.candidate.standing_by)(holder);
            }
            let stretch = rand::rng().random_range(1.0..JITTER_MAX);
            tokio::time::sleep(self.candidate.timing.retry_period.mul_f64(stretch)).await;
        }
    }

    /// Runs the work and renews the lease until the work ends or the lease is lost.
    async fn lead(
        &mut self,
        work: impl Future<Output = Result<()>> + Send,
        stop: CancellationToken,
        shutdown: &CancellationToken,
    ) -> Ended {
        let mut work = std::pin::pin!(work);
        let mut lost = false;
        while !lost {
            tokio::select! {
                biased;
                ended = &mut work => return Ended::Work(ended),
                // The work may take its time to end; the lease is renewed meanwhile.
                () = shutdown.cancelled(), if !stop.is_cancelled() => stop.cancel(),
                held = self.renew_once() => lost = !held,
            }
        }
        stop.cancel();
        // The fence lets nothing through any more, so this is only to end in order. What has not ended before others may
        // begin is dropped.
        let Timing { lease_duration, renew_deadline, .. } = self.candidate.timing;
        let _ = tokio::time::timeout((lease_duration - renew_deadline) / 2, work).await;
        Ended::Lost
    }

    /// Waits, renews, and returns whether the lease is held. When this is dropped half way nothing is lost: the next call
    /// begins afresh, and reads if it must.
    async fn renew_once(&mut self) -> bool {
        let until = self.elector.leads_until().unwrap_or_default();
        let deadline = self.start + until;
        let pause = tokio::time::sleep(self.candidate.timing.retry_period);
        if tokio::time::timeout_at(deadline, pause).await.is_err() {
            return false;
        }
        // An answer that comes after the term's end is of no use.
        let _ = tokio::time::timeout_at(deadline, self.attempt()).await;
        self.elector.leads(self.now())
    }

    /// One try to get or renew the lease.
    async fn attempt(&mut self) {
        if let Err(error) = self.try_once().await {
            let lease = self.candidate.lease;
            match error {
                Failure::Raced => tracing::debug!(lease, "another was faster"),
                Failure::Api(error) => tracing::warn!(lease, %error, "the lease cannot be read or written"),
                Failure::NoAnswer => tracing::warn!(lease, "no answer about the lease"),
            }
        }
        self.term.set(self.elector.leads_until());
    }

    async fn try_once(&mut self) -> Result<(), Failure> {
        // Half the deadline, so that a request that hangs leaves time for another.
        let patience = self.candidate.timing.renew_deadline / 2;
        let mut step = self.elector.begin(self.now(), Timestamp::now());
        if let Move::Replace(wanted) = &step {
            let began = self.now();
            match lease::within(patience, self.lock.replace(wanted)).await {
                Ok(written) => {
                    self.elector.written(written, began);
                    return Ok(());
                }
                // Somebody changed it: look at it.
                Err(Failure::Raced) => step = Move::Read,
                Err(error) => return Err(error),
            }
        }
        if step == Move::Read {
            let found = lease::within(patience, self.lock.read()).await?;
            step = self.elector.seen(found, self.now(), Timestamp::now());
        }
        let began = self.now();
        let written = match &step {
            Move::Create(record) => lease::within(patience, self.lock.create(record)).await?,
            Move::Replace(wanted) => lease::within(patience, self.lock.replace(wanted)).await?,
            Move::Wait | Move::Read => return Ok(()),
        };
        self.elector.written(written, began);
        Ok(())
    }

    fn stepped_down(&mut self) {
        self.elector.step_down();
        self.term.set(None);
        self.candidate.metrics.set(self.candidate.lease, false);
        self.told = false;
    }

    /// Lets another take over at once, if this candidate holds the lease. The work has ended by now.
    async fn release(&mut self) {
        self.stepped_down();
        let released = lease::within(self.candidate.timing.renew_deadline, async {
            let Some(found) = self.lock.read().await? else { return Ok(false) };
            let Some(release) = self.elector.release(&found, Timestamp::now()) else { return Ok(false) };
            self.lock.replace(&release).await.map(|_| true)
        });
        match released.await {
            Ok(true) => {
                self.lock.event("stopped leading").await;
                tracing::info!(lease = self.candidate.lease, "gave the lease up");
            }
            Ok(false) | Err(Failure::Raced) => {}
            Err(Failure::Api(error)) => {
                tracing::warn!(lease = self.candidate.lease, %error, "could not give the lease up; others wait for it to run out");
            }
            Err(Failure::NoAnswer) => {
                tracing::warn!(
                    lease = self.candidate.lease,
                    "could not give the lease up; others wait for it to run out"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
