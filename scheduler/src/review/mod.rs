//! Placement reviews: where pods would go, answered by the code that places them, on a copy of what it knows.
//!
//! ```text
//! watches ─▶ follow: a state ─▶ copy ─▶ what happens first ─▶ pods ─▶ decisions, as always ─▶ answer
//!                                            API: what a pod would be after admission, who is on a node
//! ```
//!
//! A [`Reviewer`] answers; [`api`] is what questions and answers look like.

pub mod api;
mod follow;
mod question;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::Configuration;
use crate::defrag::{self, Wanted};
use crate::driver::state::{Effort, Trial};

/// Reviews worked on at once: each has a copy of all that is known of the cluster.
const AT_ONCE: usize = 2;
/// Those who wait for a copy; with [`AT_ONCE`] there are never more.
const WANTED_CAPACITY: usize = AT_ONCE;
/// How long the lists may take that the first question waits for.
const LISTS_MAX: Duration = Duration::from_secs(45);

/// Why a review is not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it takes to answer was refused by the API: the pod is not valid, or the asker may not do this.
    #[error("the API refused a part of the question")]
    Api(#[source] kube::Error),
    /// The question makes no sense.
    #[error("{0}")]
    Invalid(Problem),
    /// The cluster is not known yet, or no longer.
    #[error("what the cluster is like is not known yet")]
    NotKnown,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {wrong}")]
pub struct Problem {
    /// The field's path.
    pub field: String,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What can be wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is missing.
    #[error("Required value")]
    Missing,
    /// It names what is not there.
    #[error("Not found: {0:?}")]
    NotFound(String),
    /// It has none of the values that there are: the value, and those.
    #[error("Unsupported value: {0:?}: supported values: {1:?}")]
    NotSupported(String, &'static [&'static str]),
    /// It has a value that it cannot have: the value, and why not.
    #[error("Invalid value: {0}: {1}")]
    Invalid(i64, String),
}

/// Answers reviews.
pub struct Reviewer {
    client: Client,
    configuration: Configuration,
    following: Mutex<Option<mpsc::Sender<follow::Wanted>>>,
    turns: Semaphore,
    shutdown: CancellationToken,
}

impl Reviewer {
    /// One that follows the cluster with `client` once it is asked, and decides as `configuration` says.
    pub fn new(client: Client, configuration: Configuration, shutdown: CancellationToken) -> Self {
        Reviewer { client, configuration, following: Mutex::default(), turns: Semaphore::new(AT_ONCE), shutdown }
    }

    /// Answers a review for someone: `asker` makes requests with their rights.
    pub async fn answer(&self, spec: api::Spec, asker: &Client) -> Result<api::Status, Error> {
        let Ok(_turn) = self.turns.acquire().await else { return Err(Error::NotKnown) };
        let moves = question::moves(&spec, &self.configuration.defragmentation)?;
        let asked = question::look_up(&spec, asker).await?;
        let trial = self.trial().await?;
        let cluster = question::changes(&spec, &trial, &self.client).await?;
        let asks_for_pods = !spec.pods.is_empty() || !spec.workloads.is_empty();
        let answered = tokio::task::spawn_blocking(move || question::answer(trial, &spec, asked, cluster));
        let mut answered = answered.await.map_err(|_| Error::NotKnown)?;
        if let Some(most) = moves {
            if !asks_for_pods {
                answered.tell_of_stranded();
            }
            let (settings, now) = (&self.configuration.defragmentation, jiff::Timestamp::now().as_second());
            let wanted = Wanted::Pods(answered.unplaced());
            let effort = Effort::new(self.shutdown.clone());
            let found = defrag::search(answered.trial, wanted, most, settings, &self.client, now, effort).await;
            let found = found.map_err(|error| match error {
                defrag::Error::Pods(error) => Error::Api(error),
                defrag::Error::Broken(_) => Error::NotKnown,
            })?;
            answered.trial = found.trial;
            answered.make_room(found.clearings);
        }
        Ok(answered.status())
    }

    /// A copy of what is known now.
    async fn trial(&self) -> Result<Trial, Error> {
        // One that has just ended for lack of questions is begun anew.
        for _ in 0..2 {
            let following = self.following();
            let (sender, receiver) = oneshot::channel();
            if following.send(sender).await.is_err() {
                continue;
            }
            match tokio::time::timeout(LISTS_MAX, receiver).await {
                Ok(Ok(trial)) => return Ok(trial),
                Ok(Err(_)) => {}
                Err(_) => break,
            }
        }
        Err(Error::NotKnown)
    }

    fn following(&self) -> mpsc::Sender<follow::Wanted> {
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = following.as_ref().filter(|sender| !sender.is_closed()) {
            return open.clone();
        }
        let (sender, receiver) = mpsc::channel(WANTED_CAPACITY);
        let (client, configuration, shutdown) =
            (self.client.clone(), self.configuration.clone(), self.shutdown.clone());
        tokio::spawn(follow::follow(client, configuration, receiver, shutdown));
        *following = Some(sender.clone());
        sender
    }
}
