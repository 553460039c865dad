//! Gantry's controllers: independent loops that make the cluster agree with what its users asked for.
//!
//! They are clients of the Kubernetes API like any other. One watch a resource type feeds all of them; each puts
//! keys on its own queue, plans purely (`plan.rs`) and acts through the API.
//!
//! ```text
//! API ─watch─▶ shared caches ─▶ queues ─▶ observe → plan → act ─▶ API
//! ```

mod attachments;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod ephemeral_volumes;
mod garbage_collector;
mod machinery;
mod metrics;
mod namespace;
mod namespace_defaults;
mod node_ipam;
mod node_lifecycle;
mod persistent_volumes;
mod pod_gc;
mod pod_groups;
mod policy_status;
mod replicas;
mod resource_quota;
mod service_account_tokens;
mod taint_eviction;
mod volume_protection;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::machinery::context::{Caches, Context};
use crate::machinery::{client, events, runner};

pub use crate::metrics::Metrics;

/// The controllers' settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// The range that nodes get their pod ranges from, e.g. `10.244.0.0/16`.
    pub cluster_cidr: String,
    /// The length of the prefix of each node's pod range.
    pub node_cidr_mask: u8,
    /// The cluster's CA certificate, published to every namespace; none publishes nothing.
    pub ca_pem: Option<String>,
    /// A node that has not been heard of for this long is no longer known to be ready.
    pub node_monitor_grace: Duration,
    /// The same for a node that has never posted a status.
    pub node_startup_grace: Duration,
    /// How often nodes are looked at.
    pub node_monitor_period: Duration,
    /// How many nodes a second may have their pods evicted in a healthy zone.
    pub node_eviction_rate: f64,
    /// The same in a zone where many nodes are unhealthy.
    pub secondary_node_eviction_rate: f64,
    /// The share of unhealthy nodes from which a zone counts as unhealthy.
    pub unhealthy_zone_threshold: f64,
    /// Zones up to this size stop evictions when unhealthy; larger ones slow them down.
    pub large_zone_threshold: usize,
    /// Ended pods beyond this number are removed, the oldest first.
    pub terminated_pod_threshold: usize,
    /// How long a node must be missing before its pods are removed.
    pub missing_node_quarantine: Duration,
    /// Keys that each controller works on at a time.
    pub workers: usize,
    /// Requests of all controllers together that may be under way.
    pub requests_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            cluster_cidr: "10.244.0.0/16".into(),
            node_cidr_mask: 24,
            ca_pem: None,
            node_monitor_grace: Duration::from_secs(40),
            node_startup_grace: Duration::from_secs(60),
            node_monitor_period: Duration::from_secs(5),
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_zone_threshold: 50,
            terminated_pod_threshold: 12_500,
            missing_node_quarantine: Duration::from_secs(40),
            workers: 8,
            requests_max: 64,
        }
    }
}

/// Why the controllers could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting makes no sense.
    #[error("the setting {setting} is invalid: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// Why.
        reason: String,
    },
}

/// Runs all controllers until `shutdown`. `ready` is called when every cache has its first list.
pub async fn run(
    api_client: Client,
    options: Options,
    metrics: Metrics,
    ready: impl FnOnce() + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let limited = client::limited(api_client.clone(), options.requests_max);
    let (recorder, event_writer) = events::start(limited.clone(), shutdown.clone());
    let context = Arc::new(Context {
        client: limited,
        watch_client: api_client,
        caches: Caches::default(),
        events: recorder,
        options,
        shutdown: shutdown.clone(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(event_writer);
    // Every controller is made, and so listens, before the first watch starts.
    let controllers = Controllers::new(&context, &mut tasks)?;
    context.caches.start(&context.watch_client, &mut tasks, &shutdown);
    let synced = tokio::select! {
        () = context.caches.synced() => true,
        () = shutdown.cancelled() => false,
    };
    let mut loops: JoinSet<()> = JoinSet::new();
    if synced {
        controllers.start(&context, &metrics, &mut loops);
        ready();
    }
    while loops.join_next().await.is_some() {}
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// All controllers.
struct Controllers {
    attachments: Arc<attachments::AttachmentsController>,
    deployment: Arc<deployment::DeploymentController>,
    replicaset: Arc<replicas::ReplicasController<ReplicaSet>>,
    replicationcontroller: Arc<replicas::ReplicasController<ReplicationController>>,
    resource_quota: Arc<resource_quota::QuotaController>,
    disruption: Arc<disruption::DisruptionController>,
    garbage_collector: Arc<garbage_collector::GarbageCollector>,
    namespace: Arc<namespace::NamespaceController>,
    namespace_defaults: Arc<namespace_defaults::NamespaceDefaultsController>,
    service_account_tokens: Arc<service_account_tokens::ServiceAccountTokensController>,
    node_lifecycle: Arc<node_lifecycle::NodeLifecycleController>,
    taint_eviction: Arc<taint_eviction::TaintEvictionController>,
    node_ipam: Arc<node_ipam::NodeIpamController>,
    endpointslice: Arc<endpointslice::EndpointSliceController>,
    endpoints: Arc<endpoints::EndpointsController>,
    pod_gc: Arc<pod_gc::PodGc>,
    pod_groups: Arc<pod_groups::PodGroupsController>,
    policy_status: Arc<policy_status::PolicyStatusController>,
    persistent_volumes: Arc<persistent_volumes::PersistentVolumesController>,
    volume_protection: Arc<volume_protection::VolumeProtectionController>,
    ephemeral_volumes: Arc<ephemeral_volumes::EphemeralVolumesController>,
}

impl Controllers {
    fn new(context: &Arc<Context>, tasks: &mut JoinSet<()>) -> Result<Self, Error> {
        let setting = |reason| Error::Setting { setting: "cluster_cidr", reason };
        let (garbage_collector, monitors) = garbage_collector::GarbageCollector::new(context.clone());
        tasks.spawn(monitors);
        let graph = garbage_collector.shared().clone();
        Ok(Controllers {
            attachments: attachments::AttachmentsController::new(context.clone()),
            deployment: deployment::DeploymentController::new(context.clone()),
            replicaset: replicas::ReplicasController::new(context.clone()),
            replicationcontroller: replicas::ReplicasController::new(context.clone()),
            resource_quota: resource_quota::QuotaController::new(context.clone(), graph.clone()),
            disruption: disruption::DisruptionController::new(context.clone(), graph),
            garbage_collector,
            namespace: namespace::NamespaceController::new(context.clone()),
            namespace_defaults: namespace_defaults::NamespaceDefaultsController::new(context.clone()),
            service_account_tokens: service_account_tokens::ServiceAccountTokensController::new(context.clone()),
            node_lifecycle: node_lifecycle::NodeLifecycleController::new(context.clone()),
            taint_eviction: taint_eviction::TaintEvictionController::new(context.clone()),
            node_ipam: node_ipam::NodeIpamController::new(context.clone()).map_err(setting)?,
            endpointslice: endpointslice::EndpointSliceController::new(context.clone()),
            endpoints: endpoints::EndpointsController::new(context.clone()),
            pod_gc: pod_gc::PodGc::new(context.clone()),
            pod_groups: pod_groups::PodGroupsController::new(context.clone()),
            policy_status: policy_status::PolicyStatusController::new(context.clone()),
            persistent_volumes: persistent_volumes::PersistentVolumesController::new(context.clone()),
            volume_protection: volume_protection::VolumeProtectionController::new(context.clone()),
            ephemeral_volumes: ephemeral_volumes::EphemeralVolumesController::new(context.clone()),
        })
    }

    fn start(self, context: &Context, metrics: &Metrics, loops: &mut JoinSet<()>) {
        let workers = context.options.workers;
        macro_rules! start {
            ($controller:ident, $workers:expr) => {
                loops.spawn(runner::run(self.$controller, $workers, metrics.clone(), context.shutdown.clone()));
            };
        }
        start!(attachments, workers);
        start!(deployment, workers);
        start!(replicaset, workers);
        start!(replicationcontroller, workers);
        start!(resource_quota, workers);
        start!(disruption, workers);
        start!(garbage_collector, workers);
        start!(namespace, workers);
        start!(namespace_defaults, workers);
        start!(service_account_tokens, workers);
        start!(node_lifecycle, workers);
        start!(taint_eviction, workers);
        start!(node_ipam, workers);
        start!(endpointslice, workers);
        start!(endpoints, workers);
        start!(persistent_volumes, workers);
        start!(volume_protection, workers);
        start!(ephemeral_volumes, workers);
        start!(pod_groups, workers);
        start!(pod_gc, 1);
        // Compiling the types of large kinds takes time; nobody waits for it.
        start!(policy_status, 1);
    }
}
