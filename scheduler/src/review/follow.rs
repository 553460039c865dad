//! Keeps a state up to date for as long as someone asks about it.
//!
//! The state is fed from the same watches, by the same code, as that of the scheduler that binds. It begins with the
//! first question; from then on what it costs follows what changes. After a while without questions it is dropped, so
//! that nobody pays for what nobody uses.

use std::time::Duration;

use futures::StreamExt;
use kube::Client;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Configuration;
use crate::driver::intake::{INPUT_CAPACITY, watches};
use crate::driver::state::{State, Trial};

/// How long the state is kept after the last question.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// Events applied before anything else gets its turn.
const BATCH: usize = 512;

/// Who wants a copy.
pub(super) type Wanted = oneshot::Sender<Trial>;

/// Follows the cluster and gives copies to those who want one, until nobody has for a while, or until shutdown.
pub(super) async fn follow(
    client: Client,
    configuration: Configuration,
    mut wanted: mpsc::Receiver<Wanted>,
    shutdown: CancellationToken,
) {
    let (inputs, mut receiver) = mpsc::channel(INPUT_CAPACITY);
    let (mut watching, mut awaited) = watches(&client, &inputs, &shutdown);
    drop(inputs);
    let mut state = State::new(&configuration);
    let start = Instant::now();
    let mut last = start;
    // As many as the channel holds, at most: reviews are answered one after the other.
    let mut waiting: Vec<Wanted> = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(name) = watching.next() => {
                tracing::warn!(watch = name, "placement reviews follow the cluster no longer");
                return;
            }
            input = receiver.recv() => {
                let Some(input) = input else { return };
                let now = start.elapsed();
                // What is to be done about it is for the scheduler that binds.
                let _ = awaited.apply(&mut state, input, now);
                for _ in 1..BATCH {
                    let Ok(input) = receiver.try_recv() else { break };
                    let _ = awaited.apply(&mut state, input, now);
                }
                state.wake(now);
            }
            one = wanted.recv() => {
                let Some(one) = one else { return };
                waiting.push(one);
                last = Instant::now();
            }
            () = tokio::time::sleep_until(last + IDLE_MAX), if waiting.is_empty() => return,
        }
        if awaited.is_over() && receiver.is_empty() {
            for one in waiting.drain(..).filter(|one| !one.is_closed()) {
                // Who does not want it any more has gone.
                let _ = one.send(state.trial(start.elapsed()));
            }
        }
    }
}
