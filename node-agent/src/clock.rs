//! The agent's clocks. One tells others what time it is, and somebody may set it; the other measures how long something takes,
//! and nobody can. Tests run on tokio's, which they can stop and turn on.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A point in time of the clock that nobody sets: since when, or until when. It means nothing outside of this process, and the time
/// that a machine sleeps does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(SignedDuration);

impl Moment {
    /// So many seconds after the process began; before it, if they are below zero.
    #[cfg(test)]
    pub const fn from_second(second: i64) -> Self {
        Self(SignedDuration::from_secs(second))
    }

    /// How much later than `earlier` it is; nothing, if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default()
    }

    /// So much later.
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX)))
    }

    fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)))
    }
}

/// Now, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// What others are told.
    pub wall: Timestamp,
    /// What durations are measured by.
    pub steady: Moment,
}

impl Now {
    /// Now.
    pub fn read() -> Self {
        Self { wall: now(), steady: steady() }
    }

    /// When it was what another's clock showed as `stamp`: not in the future, and, if that is known, not before `earliest`. So a
    /// clock that is set between the two makes something as young or as old as it can be, and no more.
    pub fn when(&self, stamp: Timestamp, earliest: Option<Moment>) -> Moment {
        let ago = Duration::try_from(self.wall.duration_since(stamp)).unwrap_or_default();
        let then = self.steady.before(ago);
        earliest.map_or(then, |earliest| then.max(earliest)).min(self.steady)
    }
}

/// What time it is.
#[cfg(not(test))]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Now, by the clock that nobody sets.
pub fn steady() -> Moment {
    Moment(SignedDuration::try_from(passed()).unwrap_or(SignedDuration::MAX))
}

/// Since the agent's clock was first looked at.
#[cfg(not(test))]
fn passed() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

#[cfg(test)]
use simulated::passed;
#[cfg(test)]
pub use simulated::{now, set_by};

#[cfg(test)]
mod simulated {
    use std::cell::{Cell, OnceCell};
    use std::time::Duration;

    use jiff::{SignedDuration, Timestamp};
    use tokio::time::Instant;

    thread_local! {
        static START: OnceCell<Instant> = const { OnceCell::new() };
        static SET_BY: Cell<SignedDuration> = const { Cell::new(SignedDuration::ZERO) };
    }

    /// What has passed on tokio's clock.
    pub fn passed() -> Duration {
        let start = START.with(|start| *start.get_or_init(Instant::now));
        Instant::now().duration_since(start)
    }

    /// A day in the past, and what has since passed and by how much the clock was set.
    pub fn now() -> Timestamp {
        let day = Timestamp::from_second(1_700_000_000).unwrap_or_default();
        let set_by = SET_BY.with(Cell::get);
        day.checked_add(passed()).and_then(|time| time.checked_add(set_by)).unwrap_or(day)
    }

    /// Somebody sets the clock: it shows so much more than has passed.
    pub fn set_by(by: SignedDuration) {
        SET_BY.with(|set_by| set_by.set(by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_taken_for_no_older_and_no_younger_than_it_can_be() {
        let wall = |second| Timestamp::from_second(second).unwrap();
        let now = Now { wall: wall(100_000), steady: Moment::from_second(50) };
        let at = Moment::from_second;
        for (stamp, earliest, expected) in [
            (99_990, Some(at(30)), at(40)),
            // The clock was set forward since, and backward.
            (10, Some(at(30)), at(30)),
            (200_000, Some(at(30)), at(50)),
            // Before the process began, and nothing is known of then.
            (99_000, None, at(-950)),
            (200_000, None, at(50)),
            (100_000, Some(at(60)), at(50)),
        ] {
            assert_eq!(now.when(wall(stamp), earliest), expected, "{stamp} {earliest:?}");
        }
        assert_eq!(at(50).since(at(20)), Duration::from_secs(30));
        assert_eq!(at(20).since(at(50)), Duration::ZERO);
        assert_eq!(at(20).after(Duration::MAX), Moment(SignedDuration::MAX));
    }
}
