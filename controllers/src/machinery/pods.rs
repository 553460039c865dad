//! What controllers ask of a Pod.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, EphemeralVolumeSource, Pod, PodCondition, Volume};

/// The phase, "" if there is none yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// All containers have ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither ended nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Being deleted, with containers that may still run.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// The condition of this type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// The condition Ready is True.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// When the pod became ready, if it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .filter(|ready| ready.status == "True")
        .and_then(|ready| ready.last_transition_time.as_ref())
        .map(|time| time.0)
}

/// Ready, and that for at least `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod)
        && (min_ready_seconds <= 0
            || ready_since(pod)
                .is_some_and(|since| now.duration_since(since) >= SignedDuration::from_secs(min_ready_seconds.into())))
}

/// The node that the pod is bound to, "" if none.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// The pod's addresses, the primary one first.
pub fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).filter(|ip| !ip.is_empty()).collect();
    if all.is_empty() { status.pod_ip.iter().map(String::as_str).filter(|ip| !ip.is_empty()).collect() } else { all }
}

/// The highest restart count among the pod's containers.
pub fn restarts_max(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

/// Takes away what no controller reads, so that the cache of many pods stays small.
pub fn strip(pod: &mut Pod) {
    let deletion_cost =
        pod.metadata.annotations.take().and_then(|mut annotations| annotations.remove_entry(DELETION_COST));
    pod.metadata.annotations = deletion_cost.map(|entry| [entry].into());
    if let Some(spec) = &mut pod.spec {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            *container = Container {
                name: std::mem::take(&mut container.name),
                ports: container.ports.take(),
                restart_policy: container.restart_policy.take(),
                // Quotas count them.
                resources: container.resources.take(),
                ..Container::default()
            };
        }
        // Of volumes, only which claims they are.
        let claims = spec
            .volumes
            .take()
            .into_iter()
            .flatten()
            .filter(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        let claims: Vec<Volume> = claims.map(only_claim).collect();
        spec.volumes = (!claims.is_empty()).then_some(claims);
        // Quotas ask whether it reaches across namespaces; few pods have one.
        spec.topology_spread_constraints = None;
        spec.image_pull_secrets = None;
        spec.security_context = None;
        spec.dns_config = None;
        spec.ephemeral_containers = None;
    }
    if let Some(status) = &mut pod.status {
        status.ephemeral_container_statuses = None;
        let statuses = status.container_statuses.iter_mut().chain(status.init_container_statuses.iter_mut());
        for container in statuses.flatten() {
            container.state = None;
            container.last_state = None;
            container.volume_mounts = None;
            container.image.clear();
            container.image_id.clear();
            container.container_id = None;
        }
    }
}

/// The annotation by which users say which pods of a set may go first.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A volume with no more than the claim that it is.
fn only_claim(volume: Volume) -> Volume {
    Volume {
        name: volume.name,
        persistent_volume_claim: volume.persistent_volume_claim,
        ephemeral: volume.ephemeral.map(|_| EphemeralVolumeSource::default()),
        ..Volume::default()
    }
}
