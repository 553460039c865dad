//! Background compaction of the embedded engine. In: the revision as time goes by. Out: compactions that keep to the
//! retention setting. The file has no clock in it: after a restart the history is kept for the full age again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::intake::Command;
use super::writer::describe;
use crate::{Retention, Revision};

/// How many times the revision is noted per retention age: history is kept at most a tenth longer than asked.
const SAMPLES: u32 = 10;
/// How often to look at least, so that a limit on revisions is not overrun by much.
const PERIOD_MAX: Duration = Duration::from_secs(5);
/// How often to look at most.
const PERIOD_MIN: Duration = Duration::from_millis(20);

/// The revisions noted, oldest first, [`SAMPLES`] an age: so at most two more than that.
#[derive(Default)]
struct Samples(VecDeque<(Instant, Revision)>);

impl Samples {
    /// Notes that the store is at `revision` now, and returns up to where it should be compacted.
    fn note(&mut self, now: Instant, revision: Revision, retention: Retention) -> Revision {
        if self.0.back().is_none_or(|(last, _)| now.duration_since(*last) >= retention.age / SAMPLES) {
            self.0.push_back((now, revision));
        }
        let mut by_age = 0;
        while let Some((at, revision)) = self.0.front().copied() {
            if now.duration_since(at) < retention.age {
                break;
            }
            by_age = revision;
            self.0.pop_front();
        }
        by_age.max(revision.saturating_sub(retention.revisions))
    }
}

/// Compacts until the store ends.
pub(super) async fn run(
    retention: Retention,
    hub: Arc<Hub>,
    commands: mpsc::WeakSender<Command>,
    ended: CancellationToken,
) {
    let period = (retention.age / SAMPLES).clamp(PERIOD_MIN, PERIOD_MAX);
    let mut samples = Samples::default();
    let mut compacted = 0;
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        let target = samples.note(Instant::now(), hub.published(), retention);
        if target <= compacted {
            continue;
        }
        let Some(commands) = commands.upgrade() else { return };
        let (reply, answer) = oneshot::channel();
        if commands.send(Command::Compact { before: target, reply }).await.is_err() {
            return;
        }
        drop(commands);
        match answer.await {
            Ok(Ok(())) => compacted = target,
            Ok(Err(error)) => tracing::warn!(reason = describe(&error), "compaction failed"),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_dropped_by_age_and_by_number() {
        let retention = Retention { age: Duration::from_secs(100), revisions: 1_000 };
        let start = Instant::now();
        let mut samples = Samples::default();
        let mut note = |seconds, revision| samples.note(start + Duration::from_secs(seconds), revision, retention);
        assert_eq!(note(0, 10), 0);
        assert_eq!(note(50, 20), 0);
        assert_eq!(note(99, 30), 0);
        assert_eq!(note(100, 40), 10);
        assert_eq!(note(149, 50), 0, "nothing newly old");
        assert_eq!(note(199, 60), 30, "all that is old enough at once");
        assert_eq!(note(200, 5_000), 4_000, "too many revisions");
        assert_eq!(note(210, 5_000), 4_000);
        assert_eq!(note(310, 5_000), 5_000);
    }
}
