//! Drives a controller: takes keys from its queue, reconciles a bounded number of them at a time, and puts them
//! back as the outcome asks.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::queue::Queue;
use crate::metrics::Metrics;

/// What is to happen with a key after it was reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until something changes.
    Done,
    /// Look again after this time.
    After(Duration),
}

/// One controller: makes the world agree with the object behind a key. Only the key is given, so it may run at
/// any time and any number of times.
pub trait Controller: Send + Sync + 'static {
    /// What the queue holds.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;

    /// The controller's name in logs and metrics.
    fn name(&self) -> &'static str;

    /// Where its keys wait.
    fn queue(&self) -> &Queue<Self::Key>;

    /// Does one round for a key.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Outcome, Error>> + Send;
}

/// How long work under way may take to finish on shutdown. An API that does not answer must not hold it up.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs `controller` until shutdown, with at most `workers` keys under way; those may finish before this returns.
pub async fn run<C: Controller>(controller: Arc<C>, workers: usize, metrics: Metrics, shutdown: CancellationToken) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(finished) = under_way.join_next() => {
                if let Err(error) = finished {
                    // Only a bug gets here. The key stays locked, and the others go on.
                    tracing::error!(controller = controller.name(), %error, "a reconciliation crashed");
                }
            }
            key = controller.queue().next(), if under_way.len() < workers.max(1) => {
                under_way.spawn(one_round(controller.clone(), key, metrics.clone()));
            }
        }
    }
    let drained = tokio::time::timeout(DRAIN_MAX, async { while under_way.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(controller = controller.name(), "ended in the middle of work; the next start goes on with it");
    }
}

async fn one_round<C: Controller>(controller: Arc<C>, key: C::Key, metrics: Metrics) {
    let name = controller.name();
    let started = std::time::Instant::now();
    let result = controller.reconcile(&key).await;
    let queue = controller.queue();
    let outcome = match result {
        Ok(Outcome::Done) => {
            queue.forget(&key);
            "ok"
        }
        Ok(Outcome::After(delay)) => {
            queue.forget(&key);
            queue.add_after(key.clone(), delay);
            "ok"
        }
        Err(error) if error.is_race() => {
            tracing::debug!(controller = name, ?key, error = error.words(), "lost a race, again");
            queue.retry(key.clone());
            "race"
        }
        Err(error) => {
            tracing::warn!(controller = name, ?key, error = error.words(), "failed, will retry");
            queue.retry(key.clone());
            "error"
        }
    };
    queue.done(&key);
    metrics.reconciled(name, outcome, started.elapsed(), queue.len());
}
