//! Reads what the worker needs out of a Pod, with Kubernetes' defaults where a field is absent.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use sha2::{Digest, Sha256};

use super::files::{ANNOTATION_SOURCE, SOURCE_FILE};
use crate::runtime::PodIdentity;

/// Grace given to a pod that names none.
pub const DEFAULT_GRACE_S: i64 = 30;

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in its turn and runs beside the app containers.
    Sidecar,
    /// An app container.
    App,
    /// Added to a running pod, to look into it: started once, and no matter for the pod's fate.
    Ephemeral,
}

/// A container of a pod's spec and its role.
#[derive(Clone, Copy, Debug)]
pub struct ContainerRef<'a> {
    /// Its role.
    pub role: Role,
    /// The spec.
    pub spec: &'a Container,
}

/// Identity of a pod; empty strings where the object lacks them.
pub fn identity(pod: &Pod) -> PodIdentity {
    PodIdentity {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
    }
}

/// `name_namespace(uid)`, as the kubelet writes a pod into messages.
pub fn full_name(pod: &PodIdentity) -> String {
    format!("{}_{}({})", pod.name, pod.namespace, pod.uid)
}

/// Init containers and sidecars, in order.
pub fn init_containers(pod: &Pod) -> impl Iterator<Item = ContainerRef<'_>> {
    let list = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref());
    list.unwrap_or_default().iter().map(|spec| ContainerRef {
        role: if spec.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init },
        spec,
    })
}

/// App containers, in order.
pub fn app_containers(pod: &Pod) -> impl Iterator<Item = ContainerRef<'_>> {
    let list = pod.spec.as_ref().map(|spec| spec.containers.as_slice());
    list.unwrap_or_default().iter().map(|spec| ContainerRef { role: Role::App, spec })
}

/// An ephemeral container.
#[derive(Clone, Debug, PartialEq)]
pub struct Ephemeral {
    /// It as the container that it is.
    pub container: Container,
    /// The container whose processes it sees.
    pub target: Option<String>,
}

impl Ephemeral {
    /// It among the other containers.
    pub fn as_ref(&self) -> ContainerRef<'_> {
        ContainerRef { role: Role::Ephemeral, spec: &self.container }
    }
}

/// Ephemeral containers, in order. Their fields are those of other containers, and the target.
pub fn ephemeral_containers(pod: &Pod) -> Vec<Ephemeral> {
    let list = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    let as_container = |container| serde_json::to_value(container).and_then(serde_json::from_value);
    list.iter()
        .filter_map(|ephemeral| {
            let target = ephemeral.target_container_name.clone().filter(|name| !name.is_empty());
            Some(Ephemeral { container: as_container(ephemeral).ok()?, target })
        })
        .collect()
}

/// Whether the pod has an ephemeral container of that name.
pub fn is_ephemeral(pod: &Pod, name: &str) -> bool {
    let list = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref());
    list.unwrap_or_default().iter().any(|container| container.name == name)
}

/// All containers: init containers and sidecars first.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = ContainerRef<'_>> {
    init_containers(pod).chain(app_containers(pod))
}

/// The container of that name.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<ContainerRef<'a>> {
    all_containers(pod).find(|container| container.spec.name == name)
}

/// Whether a pod's containers are to have no groups but those that it names.
pub fn wants_strict_groups(pod: &Pod) -> bool {
    let security = spec(pod).security_context.as_ref();
    security.and_then(|security| security.supplemental_groups_policy.as_deref()) == Some("Strict")
}

/// `spec.restartPolicy`.
pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with `exit_code` is to be started again.
pub fn restarts(pod: &Pod, container: ContainerRef<'_>, exit_code: i32) -> bool {
    match container.role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::App => {}
    }
    for rule in container.spec.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    match container.spec.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // An init container that did its work is done, whatever the policy.
        _ => container.role == Role::App || exit_code != 0,
    }
}

/// Seconds the pod's containers get to end.
pub fn grace_s(pod: &Pod) -> i64 {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(own).unwrap_or(DEFAULT_GRACE_S).max(1)
}

/// Whether a pod comes from a file of the node. Of pods of the API the manager sees to it that they do not claim to.
pub fn is_from_file(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(ANNOTATION_SOURCE)).is_some_and(|source| source == SOURCE_FILE)
}

/// `spec.hostNetwork`.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network.unwrap_or(false))
}

/// `spec.runtimeClassName`, if the pod has one.
pub fn runtime_class(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).filter(|name| !name.is_empty())
}

/// Hash over what may change in a container's spec and must then make a new instance: its image.
pub fn container_hash(container: &Container) -> String {
    let mut hash = Sha256::new();
    hash.update(container.name.as_bytes());
    hash.update([0]);
    hash.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The host name a pod's containers see. Over-long names are cut as the kubelet cuts them.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let name = spec.and_then(|spec| spec.hostname_override.as_deref().or(spec.hostname.as_deref()));
    let name = name.filter(|name| !name.is_empty()).or(pod.metadata.name.as_deref()).unwrap_or_default();
    truncate_hostname(name)
}

/// The pod's domain, if it has a subdomain: `<subdomain>.<namespace>.svc.<cluster domain>`.
pub fn domain(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref().and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{subdomain}.{namespace}.svc.{cluster_domain}"))
}

fn truncate_hostname(name: &str) -> String {
    // Linux takes 64 bytes, DNS labels 63.
    let mut end = name.len().min(63);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

/// Whether any container is privileged.
pub fn any_privileged(pod: &Pod) -> bool {
    all_containers(pod).any(|container| {
        container.spec.security_context.as_ref().is_some_and(|context| context.privileged.unwrap_or(false))
    })
}

/// The part of a pod that a worker acts on; a change of anything else (its own status, above all) need not wake it.
pub fn acts_differ(old: &Pod, new: &Pod) -> bool {
    old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        || old.metadata.deletion_grace_period_seconds != new.metadata.deletion_grace_period_seconds
        || old.metadata.generation != new.metadata.generation
        || old.metadata.labels != new.metadata.labels
        || old.metadata.annotations != new.metadata.annotations
        || old.spec != new.spec
        || foreign_conditions(old) != foreign_conditions(new)
}

fn foreign_conditions(pod: &Pod) -> Vec<(&str, &str)> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let foreign =
        conditions.iter().filter(|condition| !super::status::OWN_CONDITIONS.contains(&condition.type_.as_str()));
    foreign.map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect()
}

/// The spec, or an empty one.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}
