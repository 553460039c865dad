//! Delays that double with each failure and are forgotten after long enough without one. Pure.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Moment;

/// First delay before a failed container or image pull is tried again.
pub const RESTART_BASE: Duration = Duration::from_secs(10);
/// Longest such delay.
pub const RESTART_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated_at: Moment,
}

/// Back-off by key.
#[derive(Clone, Debug)]
pub struct BackOff {
    base: Duration,
    max: Duration,
    entries: HashMap<String, Entry>,
}

impl BackOff {
    /// Delays from `base` to `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, entries: HashMap::new() }
    }

    /// The delay now in force for `key`.
    pub fn delay(&self, key: &str) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// When `key`, which failed at `since`, may be tried again; `None` is at once.
    pub fn until(&self, key: &str, since: Moment, now: Moment) -> Option<Moment> {
        let entry = self.entries.get(key)?;
        if self.expired(since, entry) {
            return None;
        }
        let until = since.after(entry.delay);
        (until > now).then_some(until)
    }

    /// Notes that `key`, which failed at `since`, is tried again at `now`: the next delay is longer.
    pub fn bump(&mut self, key: &str, since: Moment, now: Moment) {
        let delay = match self.entries.get(key) {
            Some(entry) if !self.expired(since, entry) => (entry.delay * 2).min(self.max),
            _ => self.base,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated_at: now });
    }

    /// Forgets a key.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }

    fn expired(&self, event_at: Moment, entry: &Entry) -> bool {
        event_at.since(entry.updated_at) > self.max * 2
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`, `1.5s`, `250ms`.
pub fn go_duration(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".into();
    }
    if duration < Duration::from_secs(1) {
        let (value, unit) = match duration.as_nanos() {
            n if n < 1_000 => (n as f64, "ns"),
            n if n < 1_000_000 => (n as f64 / 1e3, "µs"),
            n => (n as f64 / 1e6, "ms"),
        };
        return format!("{value}{unit}");
    }
    let total = duration.as_secs();
    let (hours, minutes) = (total / 3600, total / 60 % 60);
    let seconds = (total % 60) as f64 + f64::from(duration.subsec_nanos()) / 1e9;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Moment {
        Moment::from_second(second)
    }

    #[test]
    fn doubles_to_the_maximum_and_resets_after_twice_the_maximum() {
        let mut back_off = BackOff::new(RESTART_BASE, RESTART_MAX);
        assert_eq!(back_off.until("c", at(0), at(0)), None);
        let mut now = 0;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            back_off.bump("c", at(now), at(now));
            assert_eq!(back_off.until("c", at(now), at(now)), Some(at(now + expected)));
            now += expected;
            assert_eq!(back_off.until("c", at(now - expected), at(now)), None);
        }
        // It then ran for more than ten minutes.
        let failed_at = now + 700;
        assert_eq!(back_off.until("c", at(failed_at), at(failed_at)), None);
        back_off.bump("c", at(failed_at), at(failed_at));
        assert_eq!(back_off.delay("c"), RESTART_BASE);
    }

    #[test]
    fn durations_read_as_in_go() {
        for (ms, text) in [(10_000, "10s"), (80_000, "1m20s"), (300_000, "5m0s"), (1_500, "1.5s"), (250, "250ms")] {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
    }
}
