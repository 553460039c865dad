//! The agent's clock. Tests run on tokio's, which they can stop and turn on.

use jiff::Timestamp;

/// Now.
#[cfg(not(test))]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A day in the past, and what has since passed on tokio's clock.
#[cfg(test)]
pub fn now() -> Timestamp {
    use std::cell::OnceCell;
    thread_local! {
        static START: OnceCell<tokio::time::Instant> = const { OnceCell::new() };
    }
    let start = START.with(|start| *start.get_or_init(tokio::time::Instant::now));
    let passed = tokio::time::Instant::now().duration_since(start);
    let day = Timestamp::from_second(1_700_000_000).unwrap_or_default();
    day.checked_add(passed).unwrap_or(day)
}
