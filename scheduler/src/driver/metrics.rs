//! The scheduler's metrics, under Kubernetes' names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::queue::Counts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
    profile: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MoveLabel {
    result: &'static str,
}

/// Counters and histograms of one scheduler.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<ResultLabel, Counter>,
    pending: Family<QueueLabel, Gauge>,
    cache: Family<TypeLabel, Gauge>,
    attempt_seconds: Family<ResultLabel, Histogram>,
    algorithm_seconds: Histogram,
    pod_attempts: Histogram,
    pod_seconds: Histogram,
    dropped_events: Counter,
    preemptions: Counter,
    victims: Histogram,
    moves: Family<MoveLabel, Counter>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// The pod is bound.
    Scheduled,
    /// No node takes it.
    Unschedulable,
    /// Something else went wrong.
    Error,
}

impl AttemptResult {
    fn label(self) -> &'static str {
        match self {
            AttemptResult::Scheduled => "scheduled",
            AttemptResult::Unschedulable => "unschedulable",
            AttemptResult::Error => "error",
        }
    }
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let attempt_buckets = || Histogram::new(exponential_buckets(0.000_01, 2.0, 21));
        let metrics = Metrics {
            attempts: Family::default(),
            pending: Family::default(),
            cache: Family::default(),
            attempt_seconds: Family::new_with_constructor(attempt_buckets),
            algorithm_seconds: Histogram::new(exponential_buckets(0.000_000_1, 4.0, 12)),
            pod_attempts: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            pod_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
            dropped_events: Counter::default(),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            moves: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("scheduler");
        registry.register(
            "schedule_attempts",
            "Number of attempts to schedule pods, by the result",
            metrics.attempts.clone(),
        );
        registry.register("pending_pods", "Number of pending pods, by the queue they are in", metrics.pending.clone());
        registry.register(
            "cache_size",
            "Number of nodes, pods and assumed pods in the scheduler's cache",
            metrics.cache.clone(),
        );
        registry.register(
            "scheduling_attempt_duration_seconds",
            "Scheduling attempt latency (algorithm and binding), by the result",
            metrics.attempt_seconds.clone(),
        );
        registry.register(
            "scheduling_algorithm_duration_seconds",
            "Time of one decision",
            metrics.algorithm_seconds.clone(),
        );
        registry.register(
            "pod_scheduling_attempts",
            "Number of attempts to successfully schedule a pod",
            metrics.pod_attempts.clone(),
        );
        registry.register(
            "pod_scheduling_sli_duration_seconds",
            "Time from a pod's being first seen to its binding",
            metrics.pod_seconds.clone(),
        );
        registry.register(
            "dropped_events",
            "Events and conditions not written because too many were waiting",
            metrics.dropped_events.clone(),
        );
        registry.register(
            "preemption_attempts",
            "Number of times that pods were made to go for another",
            metrics.preemptions.clone(),
        );
        registry.register("preemption_victims", "Number of pods made to go at once", metrics.victims.clone());
        registry.register(
            "defragmentation_moves",
            "Number of pods that were to move so that others have room, by what came of it",
            metrics.moves.clone(),
        );
        metrics
    }

    pub(super) fn preempts(&self, victims: usize) {
        self.preemptions.inc();
        self.victims.observe(victims as f64);
    }

    pub(super) fn moves(&self, result: &'static str, count: usize) {
        self.moves.get_or_create(&MoveLabel { result }).inc_by(count as u64);
    }

    pub(super) fn decided(&self, took: Duration) {
        self.algorithm_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn attempted(&self, result: AttemptResult, profile: &str, took: Duration) {
        let label = ResultLabel { result: result.label(), profile: profile.to_owned() };
        self.attempts.get_or_create(&label).inc();
        self.attempt_seconds.get_or_create(&label).observe(took.as_secs_f64());
    }

    pub(super) fn pod_scheduled(&self, attempts: u32, since_first_seen: Duration) {
        self.pod_attempts.observe(f64::from(attempts));
        self.pod_seconds.observe(since_first_seen.as_secs_f64());
    }

    pub(super) fn dropped(&self) {
        self.dropped_events.inc();
    }

    pub(super) fn sizes(&self, queue: Counts, cache: (usize, usize, usize)) {
        for (name, count) in [
            ("active", queue.active),
            ("backoff", queue.backoff),
            ("unschedulable", queue.unschedulable),
            ("gated", queue.gated),
        ] {
            self.pending.get_or_create(&QueueLabel { queue: name }).set(count as i64);
        }
        for (name, count) in [("nodes", cache.0), ("pods", cache.1), ("assumed_pods", cache.2)] {
            self.cache.get_or_create(&TypeLabel { r#type: name }).set(count as i64);
        }
    }
}
