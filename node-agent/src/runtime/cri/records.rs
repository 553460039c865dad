//! CRI's answers as the agent's records.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use jiff::Timestamp;
use k8s_cri::v1;

use super::config::ANNOTATION_IMAGE;
use crate::runtime::{
    ContainerRecord, ContainerState, ImageRecord, ImageUser, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID,
    PodIdentity, PodRecord, SandboxRecord,
};

type Strings = HashMap<String, String>;

/// Groups what is labelled with a pod's UID by pod, newest first.
pub(super) fn group(sandboxes: Vec<SandboxRecord>, containers: Vec<ContainerRecord>) -> Vec<PodRecord> {
    let mut pods: BTreeMap<String, PodRecord> = BTreeMap::new();
    let mut record = |labels: &BTreeMap<String, String>| -> Option<String> {
        let uid = labels.get(LABEL_POD_UID).filter(|uid| !uid.is_empty())?.clone();
        pods.entry(uid.clone()).or_insert_with(|| PodRecord { pod: identity(&uid, labels), ..Default::default() });
        Some(uid)
    };
    let sandboxes: Vec<_> =
        sandboxes.into_iter().filter_map(|sandbox| Some((record(&sandbox.labels)?, sandbox))).collect();
    let containers: Vec<_> =
        containers.into_iter().filter_map(|container| Some((record(&container.labels)?, container))).collect();
    for (uid, sandbox) in sandboxes {
        if let Some(pod) = pods.get_mut(&uid) {
            pod.sandboxes.push(sandbox);
        }
    }
    for (uid, container) in containers {
        if let Some(pod) = pods.get_mut(&uid) {
            pod.containers.push(container);
        }
    }
    let mut pods: Vec<_> = pods.into_values().collect();
    for pod in &mut pods {
        sort(pod);
    }
    pods
}

/// Puts the newest first.
pub(super) fn sort(pod: &mut PodRecord) {
    pod.sandboxes.sort_by_key(|each| std::cmp::Reverse((each.attempt, each.created_at)));
    pod.containers.sort_by(|a, b| (b.created_at, b.attempt, &b.id).cmp(&(a.created_at, a.attempt, &a.id)));
}

fn identity(uid: &str, labels: &BTreeMap<String, String>) -> PodIdentity {
    let text = |label| labels.get(label).cloned().unwrap_or_default();
    PodIdentity { uid: uid.to_owned(), name: text(LABEL_POD_NAME), namespace: text(LABEL_POD_NAMESPACE) }
}

/// A line of ListPodSandbox. It has no addresses.
pub(super) fn listed_sandbox(sandbox: v1::PodSandbox) -> SandboxRecord {
    SandboxRecord {
        id: sandbox.id,
        attempt: sandbox.metadata.map_or(0, |metadata| metadata.attempt),
        ready: sandbox.state == v1::PodSandboxState::SandboxReady as i32,
        created_at: time(sandbox.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        ips: Vec::new(),
        labels: sorted(sandbox.labels),
        annotations: sorted(sandbox.annotations),
    }
}

/// The answer of PodSandboxStatus.
pub(super) fn sandbox(status: v1::PodSandboxStatus) -> SandboxRecord {
    let network = status.network.unwrap_or_default();
    let ips = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|more| more.ip))
        .filter_map(|ip| ip.parse().ok())
        .collect();
    SandboxRecord {
        id: status.id,
        attempt: status.metadata.map_or(0, |metadata| metadata.attempt),
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        ips,
        labels: sorted(status.labels),
        annotations: sorted(status.annotations),
    }
}

/// A line of ListContainers. It has no times, exit code or log path.
pub(super) fn listed_container(container: v1::Container) -> ContainerRecord {
    let (name, attempt) =
        container.metadata.map_or_else(Default::default, |metadata| (metadata.name, metadata.attempt));
    let mut annotations = sorted(container.annotations);
    ContainerRecord {
        id: container.id,
        sandbox_id: container.pod_sandbox_id,
        name,
        attempt,
        state: state(container.state),
        created_at: time(container.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: None,
        finished_at: None,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: image(&mut annotations, container.image),
        image_id: container.image_ref,
        labels: sorted(container.labels),
        annotations,
        log_path: None,
    }
}

/// The answer of ContainerStatus, which alone does not know its sandbox.
pub(super) fn container(status: v1::ContainerStatus, sandbox_id: String) -> ContainerRecord {
    let (name, attempt) = status.metadata.map_or_else(Default::default, |metadata| (metadata.name, metadata.attempt));
    let mut annotations = sorted(status.annotations);
    let finished_at = time(status.finished_at);
    // containerd notes the start when it hears of it, the end when it happens: what ends at
    // once would seem to have ended before it started.
    let started_at = time(status.started_at).map(|start| finished_at.map_or(start, |end| start.min(end)));
    ContainerRecord {
        id: status.id,
        sandbox_id,
        name,
        attempt,
        state: state(status.state),
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at,
        finished_at,
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: image(&mut annotations, status.image),
        image_id: status.image_ref,
        labels: sorted(status.labels),
        annotations,
        log_path: Some(PathBuf::from(status.log_path)).filter(|path| !path.as_os_str().is_empty()),
    }
}

/// An image of the image service.
pub(super) fn image_record(image: v1::Image) -> ImageRecord {
    let user = match (image.uid, image.username) {
        (Some(uid), _) => Some(ImageUser::Uid(uid.value)),
        (None, name) if name.is_empty() => None,
        (None, name) => Some(ImageUser::Name(name)),
    };
    ImageRecord {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size_bytes: image.size,
        user,
        pinned: image.pinned,
    }
}

fn image(annotations: &mut BTreeMap<String, String>, spec: Option<v1::ImageSpec>) -> String {
    annotations.remove(ANNOTATION_IMAGE).unwrap_or_else(|| spec.unwrap_or_default().image)
}

fn state(state: i32) -> ContainerState {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => ContainerState::Created,
        Ok(v1::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(v1::ContainerState::ContainerExited) => ContainerState::Exited,
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => ContainerState::Unknown,
    }
}

/// CRI counts nanoseconds since 1970 and writes 0 for "not yet".
fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(nanoseconds.into()).ok()
}

fn sorted(map: Strings) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(uid: &str) -> Strings {
        HashMap::from([(LABEL_POD_UID.to_owned(), uid.to_owned()), (LABEL_POD_NAME.to_owned(), "shop".to_owned())])
    }

    #[test]
    fn pods_are_grouped_by_uid_newest_first_and_strangers_are_left_out() {
        let container = |id: &str, created_at, labels| {
            listed_container(v1::Container { id: id.to_owned(), created_at, labels, ..Default::default() })
        };
        let sandbox = |id: &str, attempt, labels| {
            listed_sandbox(v1::PodSandbox {
                id: id.to_owned(),
                metadata: Some(v1::PodSandboxMetadata { attempt, ..Default::default() }),
                labels,
                ..Default::default()
            })
        };
        let pods = group(
            vec![sandbox("s0", 0, labels("u")), sandbox("s1", 1, labels("u")), sandbox("stranger", 0, Strings::new())],
            vec![
                container("old", 5, labels("u")),
                container("new", 9, labels("u")),
                container("orphan", 1, labels("v")),
            ],
        );
        assert_eq!(pods.len(), 2);
        assert_eq!(pods[0].pod.name, "shop");
        let ids: Vec<_> = pods[0].sandboxes.iter().map(|s| s.id.as_str()).collect();
        assert_eq!(ids, ["s1", "s0"]);
        let ids: Vec<_> = pods[0].containers.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["new", "old"]);
        assert_eq!(pods[1].containers[0].id, "orphan");
    }

    #[test]
    fn no_container_ends_before_it_starts() {
        let status = v1::ContainerStatus { started_at: 9, finished_at: 7, ..Default::default() };
        let record = container(status, "s".to_owned());
        assert_eq!(record.started_at, record.finished_at);
    }

    #[test]
    fn a_container_that_runs_has_no_end() {
        let record = container(
            v1::ContainerStatus { started_at: 7, log_path: String::new(), ..Default::default() },
            "s".to_owned(),
        );
        assert!(record.started_at.is_some());
        assert_eq!(record.finished_at, None);
        assert_eq!(record.log_path, None);
    }
}
