//! What the agent counts.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A runtime operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: String,
}

/// The agent's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    operations: Family<Operation, Histogram>,
    failures: Family<Operation, Counter>,
    pod_start: Histogram,
    pods: Gauge<i64, AtomicI64>,
    image_bytes_from_peers: Counter,
}

fn histogram() -> Histogram {
    // From 2 ms to about 2 minutes.
    Histogram::new(exponential_buckets(0.002, 2.0, 16))
}

impl Metrics {
    /// Registers the families.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            operations: Family::new_with_constructor(histogram),
            failures: Family::default(),
            pod_start: histogram(),
            pods: Gauge::default(),
            image_bytes_from_peers: Counter::default(),
        };
        metrics.register(registry);
        metrics
    }

    /// Registers the families in one more registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "kubelet_runtime_operations_duration_seconds",
            "Duration of calls to the container runtime",
            self.operations.clone(),
        );
        registry.register(
            "kubelet_runtime_operations_errors",
            "Failed calls to the container runtime",
            self.failures.clone(),
        );
        registry.register(
            "kubelet_pod_start_duration_seconds",
            "Time from first seeing a pod to seeing all its containers started",
            self.pod_start.clone(),
        );
        registry.register("kubelet_desired_pods", "Pods this node has a worker for", self.pods.clone());
        registry.register(
            "gantry_image_from_peers_bytes",
            "Bytes of images that came from other nodes instead of a registry",
            self.image_bytes_from_peers.clone(),
        );
    }

    pub(crate) fn image_bytes_from_peer(&self, count: usize) {
        self.image_bytes_from_peers.inc_by(count as u64);
    }

    pub(crate) fn observe(&self, operation: &str, took: Duration, ok: bool) {
        let label = Operation { operation: operation.to_owned() };
        self.operations.get_or_create(&label).observe(took.as_secs_f64());
        if !ok {
            self.failures.get_or_create(&label).inc();
        }
    }

    pub(crate) fn pod_running(&self, after: Duration) {
        self.pod_start.observe(after.as_secs_f64());
    }

    pub(crate) fn set_pods(&self, count: usize) {
        self.pods.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
