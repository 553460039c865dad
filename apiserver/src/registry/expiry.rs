//! Events are forgotten after an hour, as in Kubernetes.
//!
//! In: the Events in the cache and the time. Out: deletions of those that nobody has written to for so long. [`stale`] decides,
//! purely.

use std::time::Duration;

use gantry_api::kinds::Resource;
use gantry_api::{codec, meta};
use gantry_store::{Op, Precondition};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Registry;

/// How long an Event is kept after it last happened.
const LIFETIME: SignedDuration = SignedDuration::from_hours(1);
/// How often old ones are looked for.
const EVERY: Duration = Duration::from_secs(300);
/// How many are deleted in one transaction.
const BATCH: usize = 100;

/// Whether an Event last happened longer ago than it is kept.
fn stale(event: &Value, now: Timestamp) -> bool {
    let times = [
        meta::str_at(event, &["metadata", "creationTimestamp"]),
        meta::str_at(event, &["lastTimestamp"]),
        meta::str_at(event, &["eventTime"]),
        meta::str_at(event, &["series", "lastObservedTime"]),
    ];
    let last = times.iter().filter_map(|time| time.parse::<Timestamp>().ok()).max();
    last.is_some_and(|last| now.duration_since(last) > LIFETIME)
}

/// Deletes old Events until shutdown.
pub async fn expire_events(registry: &Registry, shutdown: CancellationToken) {
    let Some(events) = registry.catalog().resource("", "v1", "events").cloned() else {
        return;
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let expired = sweep(registry, &events, Timestamp::now()).await;
        if expired > 0 {
            tracing::debug!(expired, "old events are gone");
        }
    }
}

/// Deletes the Events that are old at `now` and returns how many there were.
async fn sweep(registry: &Registry, events: &Resource, now: Timestamp) -> usize {
    let Some(cache) = registry.cacher().resource(events) else {
        return 0;
    };
    let mut ops = Vec::new();
    cache.for_each(|entry| {
        if codec::decode(&entry.object).is_ok_and(|event| stale(&event, now)) {
            let precondition = Some(Precondition::ModRevision(entry.revision));
            ops.push(Op::Delete { key: entry.key.to_string(), precondition });
        }
    });
    let expired = ops.len();
    for batch in ops.chunks(BATCH) {
        // One that changed meanwhile fails its batch; the next round finds the others again.
        if let Err(error) = registry.store().txn(batch.to_vec()).await {
            tracing::debug!(%error, "old events could not be deleted");
        }
    }
    expired
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_kept_for_an_hour_after_it_last_happened() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let event =
            |created: &str, last: &str| json!({"metadata": {"creationTimestamp": created}, "lastTimestamp": last});
        assert!(stale(&event("2026-01-01T10:00:00Z", "2026-01-01T10:59:59Z"), now));
        assert!(!stale(&event("2026-01-01T10:00:00Z", "2026-01-01T11:30:00Z"), now));
        let series = json!({"metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"}, "series": {"lastObservedTime": "2026-01-01T11:59:00.000000Z"}});
        assert!(!stale(&series, now));
        assert!(!stale(&json!({}), now), "what cannot be dated is kept");
    }
}
