//! What the API server counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::request_info::RequestInfo;

/// What a request is counted under.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    resource: String,
    subresource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

/// The metric families.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    long_running: Family<DurationLabels, Gauge>,
    objects: Family<ResourceLabels, Gauge>,
    object_bytes: Family<ResourceLabels, Gauge>,
    watchers: Family<ResourceLabels, Gauge>,
    lagged: Counter<u64, AtomicU64>,
    store_bytes: Gauge,
    revision: Gauge,
}

fn duration_histogram() -> Histogram {
    // From half a millisecond to sixteen seconds.
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Metrics {
    /// Registers the families.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(duration_histogram),
            in_flight: Gauge::default(),
            long_running: Family::default(),
            objects: Family::default(),
            object_bytes: Family::default(),
            watchers: Family::default(),
            lagged: Counter::default(),
            store_bytes: Gauge::default(),
            revision: Gauge::default(),
        };
        registry.register("apiserver_request", "Requests by verb, resource and code", metrics.requests.clone());
        registry.register_with_unit(
            "apiserver_request_duration",
            "Time to answer, by verb and resource, long-running requests excepted",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests being answered", metrics.in_flight.clone());
        registry.register(
            "apiserver_longrunning_requests",
            "Open watches, logs and sessions",
            metrics.long_running.clone(),
        );
        registry.register("apiserver_storage_objects", "Stored objects by resource", metrics.objects.clone());
        registry.register(
            "apiserver_cache_object_bytes",
            "Bytes of cached objects by resource",
            metrics.object_bytes.clone(),
        );
        registry.register("apiserver_registered_watchers", "Open watches by resource", metrics.watchers.clone());
        registry.register(
            "apiserver_terminated_watchers",
            "Watches ended because the client did not keep up",
            metrics.lagged.clone(),
        );
        registry.register_with_unit(
            "apiserver_storage_size",
            "The store's size on disk",
            Unit::Bytes,
            metrics.store_bytes.clone(),
        );
        registry.register(
            "apiserver_storage_revision",
            "The revision the watch cache has reached",
            metrics.revision.clone(),
        );
        metrics
    }

    /// Counts an answered request.
    pub fn answered(&self, info: &RequestInfo, known: bool, code: u16, took: Duration) {
        // Unknown resources are counted together: what a client makes up must not make up metrics.
        let of = |text: &str| if known { text.to_owned() } else { String::new() };
        self.requests
            .get_or_create(&RequestLabels {
                verb: info.verb,
                group: of(&info.group),
                version: of(&info.version),
                resource: of(&info.resource),
                subresource: of(&info.subresource),
                code,
            })
            .inc();
        if !info.is_long_running() {
            self.durations.get_or_create(&Self::duration_labels(info, known)).observe(took.as_secs_f64());
        }
    }

    fn duration_labels(info: &RequestInfo, known: bool) -> DurationLabels {
        let of = |text: &str| if known { text.to_owned() } else { String::new() };
        DurationLabels { verb: info.verb, resource: of(&info.resource), subresource: of(&info.subresource) }
    }

    /// Counts a request as being answered until the guard is dropped.
    pub fn in_flight(&self) -> OpenRequest {
        OpenRequest::new(self.in_flight.clone())
    }

    /// Counts a long-running request as open until the guard is dropped.
    pub fn open(&self, info: &RequestInfo) -> OpenRequest {
        OpenRequest::new(self.long_running.get_or_create(&Self::duration_labels(info, true)).clone())
    }

    /// Takes over what the cache and the store say of themselves.
    pub fn observe(&self, cacher: &crate::cacher::Cacher, store: Option<&gantry_store::Status>) {
        for (resource, stats) in cacher.stats() {
            let labels = ResourceLabels { resource: resource.qualified() };
            self.objects.get_or_create(&labels).set(to_gauge(stats.objects));
            self.object_bytes.get_or_create(&labels).set(to_gauge(stats.bytes));
            self.watchers.get_or_create(&labels).set(to_gauge(stats.watchers));
        }
        self.lagged.inner().store(cacher.lagged_watchers(), std::sync::atomic::Ordering::Relaxed);
        self.revision.set(i64::try_from(cacher.revision()).unwrap_or(i64::MAX));
        if let Some(status) = store {
            self.store_bytes.set(i64::try_from(status.size_bytes).unwrap_or(i64::MAX));
        }
    }
}

fn to_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Counts one request while it exists.
#[derive(Debug)]
pub struct OpenRequest(Gauge);

impl OpenRequest {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}
