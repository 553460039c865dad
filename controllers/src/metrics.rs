//! What the controllers tell about themselves to Prometheus.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Round {
    controller: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    controller: &'static str,
}

/// The metrics of all controllers.
#[derive(Clone, Debug)]
pub struct Metrics {
    rounds: Family<Round, Counter>,
    durations: Family<Name, Histogram>,
    depth: Family<Name, Gauge>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Metrics {
            rounds: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 8))),
            depth: Family::default(),
        };
        registry.register("controller_reconciliations", "Rounds by controller and outcome", metrics.rounds.clone());
        registry.register("controller_reconciliation_seconds", "How long rounds take", metrics.durations.clone());
        registry.register("controller_queue_depth", "Keys that wait", metrics.depth.clone());
        metrics
    }

    pub(crate) fn reconciled(&self, controller: &'static str, outcome: &'static str, took: Duration, waiting: usize) {
        let round = Round { controller, outcome };
        let name = Name { controller };
        self.rounds.get_or_create(&round).inc();
        self.durations.get_or_create(&name).observe(took.as_secs_f64());
        self.depth.get_or_create(&name).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}
