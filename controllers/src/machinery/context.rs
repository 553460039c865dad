//! What every controller is given: clients, the shared caches, the events recorder and the options.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment, VolumeAttributesClass};
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::events::Recorder;
use super::{owners, pods};
use crate::pod_groups::kind::PodGroup;
use crate::{Options, persistent_volumes, pod_groups, service_account_tokens, volume_protection};

/// See the module's description.
pub struct Context {
    /// For everything but watches; its requests in flight are bounded.
    pub client: Client,
    /// For watches.
    pub watch_client: Client,
    /// The shared caches.
    pub caches: Caches,
    /// Tells users what happened.
    pub events: Recorder,
    /// The settings.
    pub options: Options,
    /// Ends everything.
    pub shutdown: CancellationToken,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caches").finish_non_exhaustive()
    }
}

/// One cache a resource type for the whole process.
#[derive(Clone)]
pub struct Caches {
    /// Pods, stripped; indexed by controller, node, claim, group, and being orphans.
    pub pods: Arc<Cache<Pod>>,
    /// ReplicaSets, indexed by controller and being orphans.
    pub replica_sets: Arc<Cache<ReplicaSet>>,
    /// ReplicationControllers, indexed by controller and being orphans.
    pub replication_controllers: Arc<Cache<ReplicationController>>,
    /// ResourceQuotas.
    pub resource_quotas: Arc<Cache<ResourceQuota>>,
    /// PersistentVolumeClaims; those without a volume are indexed by their class.
    pub claims: Arc<Cache<PersistentVolumeClaim>>,
    /// PersistentVolumes, indexed by class and by the claim they name.
    pub volumes: Arc<Cache<PersistentVolume>>,
    /// StorageClasses.
    pub storage_classes: Arc<Cache<StorageClass>>,
    /// CSIDrivers.
    pub csi_drivers: Arc<Cache<CSIDriver>>,
    /// VolumeAttachments, indexed by volume and node.
    pub attachments: Arc<Cache<VolumeAttachment>>,
    /// VolumeAttributesClasses.
    pub attributes_classes: Arc<Cache<VolumeAttributesClass>>,
    /// PodDisruptionBudgets.
    pub disruption_budgets: Arc<Cache<PodDisruptionBudget>>,
    /// Deployments.
    pub deployments: Arc<Cache<Deployment>>,
    /// Nodes.
    pub nodes: Arc<Cache<Node>>,
    /// Leases.
    pub leases: Arc<Cache<Lease>>,
    /// Namespaces.
    pub namespaces: Arc<Cache<Namespace>>,
    /// Service accounts.
    pub service_accounts: Arc<Cache<ServiceAccount>>,
    /// Only the Secrets that hold a service account's token, indexed by the account.
    pub token_secrets: Arc<Cache<Secret>>,
    /// Only the ConfigMaps called `kube-root-ca.crt`.
    pub root_cas: Arc<Cache<ConfigMap>>,
    /// ValidatingAdmissionPolicies.
    pub validating_policies: Arc<Cache<ValidatingAdmissionPolicy>>,
    /// Services.
    pub services: Arc<Cache<Service>>,
    /// Endpoint slices, indexed by their service.
    pub endpoint_slices: Arc<Cache<EndpointSlice>>,
    /// Endpoints objects.
    pub endpoints: Arc<Cache<Endpoints>>,
    /// PodGroups.
    pub pod_groups: Arc<Cache<PodGroup>>,
}

/// The label that ties an endpoint slice to its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The index name of a service's endpoint slices.
pub fn of_service(namespace: &str, name: &str) -> String {
    format!("service/{namespace}/{name}")
}

/// The index name of a service account's token Secrets.
pub fn of_account(namespace: &str, name: &str) -> String {
    format!("account/{namespace}/{name}")
}

/// The index name of what names a claim: pods and volumes.
pub fn of_claim(namespace: &str, name: &str) -> String {
    format!("claim/{namespace}/{name}")
}

/// The index name of a volume's attachments.
pub fn of_volume(name: &str) -> String {
    format!("volume/{name}")
}

/// The index name of a node's pods and attachments.
pub fn on_node(name: &str) -> String {
    format!("node/{name}")
}

fn pod_index(pod: &Pod) -> Vec<String> {
    let mut names = owners::controller_index(&pod.metadata);
    names.push(on_node(pods::node_name(pod)));
    names.extend(pod_groups::pod_index(pod));
    let namespace = pod.namespace().unwrap_or_default();
    names.extend(volume_protection::plan::claims_of(pod).iter().map(|claim| of_claim(&namespace, claim)));
    names
}

fn attachment_index(attachment: &VolumeAttachment) -> Vec<String> {
    let volume = attachment.spec.source.persistent_volume_name.as_deref().map(of_volume);
    std::iter::once(on_node(&attachment.spec.node_name)).chain(volume).collect()
}

fn slice_index(slice: &EndpointSlice) -> Vec<String> {
    let namespace = slice.namespace().unwrap_or_default();
    let service = slice.labels().get(SERVICE_NAME_LABEL);
    service.map(|service| of_service(&namespace, service)).into_iter().collect()
}

impl Default for Caches {
    fn default() -> Self {
        Caches {
            pods: Arc::new(Cache::new(pod_index)),
            replica_sets: Arc::new(Cache::new(|set: &ReplicaSet| owners::controller_index(&set.metadata))),
            replication_controllers: Arc::new(Cache::new(|set: &ReplicationController| {
                owners::controller_index(&set.metadata)
            })),
            resource_quotas: Arc::new(Cache::new(|_| Vec::new())),
            claims: Arc::new(Cache::new(persistent_volumes::claim_index)),
            volumes: Arc::new(Cache::new(persistent_volumes::volume_index)),
            storage_classes: Arc::new(Cache::new(|_| Vec::new())),
            csi_drivers: Arc::new(Cache::new(|_| Vec::new())),
            attachments: Arc::new(Cache::new(attachment_index)),
            attributes_classes: Arc::new(Cache::new(|_| Vec::new())),
            disruption_budgets: Arc::new(Cache::new(|_| Vec::new())),
            deployments: Arc::new(Cache::new(|_| Vec::new())),
            nodes: Arc::new(Cache::new(|_| Vec::new())),
            leases: Arc::new(Cache::new(|_| Vec::new())),
            namespaces: Arc::new(Cache::new(|_| Vec::new())),
            service_accounts: Arc::new(Cache::new(|_| Vec::new())),
            token_secrets: Arc::new(Cache::new(service_account_tokens::index)),
            root_cas: Arc::new(Cache::new(|_| Vec::new())),
            validating_policies: Arc::new(Cache::new(|_| Vec::new())),
            services: Arc::new(Cache::new(|_| Vec::new())),
            endpoint_slices: Arc::new(Cache::new(slice_index)),
            endpoints: Arc::new(Cache::new(|_| Vec::new())),
            pod_groups: Arc::new(Cache::new(|_| Vec::new())),
        }
    }
}

/// The name of the ConfigMap with the cluster's CA in each namespace.
pub const ROOT_CA: &str = "kube-root-ca.crt";

fn strip_node(node: &mut Node) {
    if let Some(status) = &mut node.status {
        status.images = None;
    }
}

impl Caches {
    /// Starts every watch on `tasks`.
    pub fn start(&self, client: &Client, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        macro_rules! start {
            ($cache:ident, $config:expr, $strip:expr) => {
                let (cache, api) = (self.$cache.clone(), Api::all(client.clone()));
                let shutdown = shutdown.clone();
                tasks.spawn(async move { cache.run(api, $config, $strip, shutdown).await });
            };
        }
        start!(pods, Config::default(), pods::strip);
        start!(replica_sets, Config::default(), |_| ());
        start!(replication_controllers, Config::default(), |_| ());
        start!(resource_quotas, Config::default(), |_| ());
        start!(claims, Config::default(), |_| ());
        start!(volumes, Config::default(), |_| ());
        start!(storage_classes, Config::default(), |_| ());
        start!(csi_drivers, Config::default(), |_| ());
        start!(attachments, Config::default(), |_| ());
        start!(attributes_classes, Config::default(), |_| ());
        start!(disruption_budgets, Config::default(), |_| ());
        start!(deployments, Config::default(), |_| ());
        start!(nodes, Config::default(), strip_node);
        start!(leases, Config::default(), |_| ());
        start!(namespaces, Config::default(), |_| ());
        start!(service_accounts, Config::default(), |_| ());
        let tokens = Config::default().fields(&format!("type={}", service_account_tokens::TYPE));
        start!(token_secrets, tokens, |_| ());
        let root_ca = Config::default().fields(&format!("metadata.name={ROOT_CA}"));
        start!(root_cas, root_ca, |_| ());
        start!(validating_policies, Config::default(), |_| ());
        start!(services, Config::default(), |_| ());
        start!(endpoint_slices, Config::default(), |_| ());
        start!(endpoints, Config::default(), |_| ());
        start!(pod_groups, Config::default(), |_| ());
    }

    /// Waits until every cache has its first list.
    pub async fn synced(&self) {
        self.pods.synced().await;
        self.replica_sets.synced().await;
        self.replication_controllers.synced().await;
        self.resource_quotas.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.storage_classes.synced().await;
        self.csi_drivers.synced().await;
        self.attachments.synced().await;
        self.attributes_classes.synced().await;
        self.disruption_budgets.synced().await;
        self.deployments.synced().await;
        self.nodes.synced().await;
        self.leases.synced().await;
        self.namespaces.synced().await;
        self.service_accounts.synced().await;
        self.token_secrets.synced().await;
        self.root_cas.synced().await;
        self.validating_policies.synced().await;
        self.services.synced().await;
        self.endpoint_slices.synced().await;
        self.endpoints.synced().await;
        self.pod_groups.synced().await;
    }
}

/// How long a key waits that can't be planned for before the cache has caught up with our own writes. Events
/// wake it earlier in all but rare cases.
pub const STALE_RETRY: Duration = Duration::from_secs(1);
