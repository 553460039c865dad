//! Which pods of a node go when it is drained, which stay, and what stands against it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

const MIRROR: &str = "kubernetes.io/config.mirror";
const DAEMON_SET_FATAL: &str = "DaemonSet-managed Pods (use --ignore-daemonsets to ignore)";
const DAEMON_SET_WARNING: &str = "ignoring DaemonSet-managed Pods";
const LOCAL_FATAL: &str = "Pods with local storage (use --delete-emptydir-data to override)";
const UNMANAGED_FATAL: &str = "cannot delete Pods that declare no controller (use --force to override)";
const UNMANAGED_WARNING: &str = "deleting Pods that declare no controller";

/// What the user allows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Pods of DaemonSets may stay.
    pub ignore_daemon_sets: bool,
    /// What is in `emptyDir`s may be lost.
    pub delete_local: bool,
    /// Pods may go that nobody makes anew.
    pub force: bool,
    /// Pods that are on their way out for longer than so many seconds are not waited for, if it is not 0.
    pub skip_deleted_s: i64,
}

/// Whether the DaemonSet of a pod is there: an error is why it is not known.
pub type DaemonSets = BTreeMap<(String, String), Result<bool, String>>;

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Who goes, by namespace and name.
    pub go: Vec<(String, String)>,
    /// What is told.
    pub warnings: Vec<String>,
    /// Why nobody goes.
    pub errors: Vec<String>,
}

enum Verdict {
    Goes(Option<String>),
    Stays(Option<String>),
    Forbids(String),
}

/// The DaemonSet that makes a pod, if one does.
pub fn daemon_set(pod: &Pod) -> Option<&OwnerReference> {
    controller(pod).filter(|owner| owner.kind == "DaemonSet" && owner.api_version == "apps/v1")
}

fn controller(pod: &Pod) -> Option<&OwnerReference> {
    pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A pod's namespace and name.
pub fn name(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

/// Decides.
pub fn plan(pods: &[Pod], daemon_sets: &DaemonSets, allowed: &Allowed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let (mut warnings, mut errors) = (BTreeMap::<String, Vec<String>>::new(), BTreeMap::<String, Vec<String>>::new());
    for pod in pods {
        let (namespace, name) = name(pod);
        let shown = format!("{namespace}/{name}");
        match judge(pod, daemon_sets, allowed, now) {
            Verdict::Goes(warning) => {
                plan.go.push((namespace, name));
                if let Some(warning) = warning {
                    warnings.entry(warning).or_default().push(shown);
                }
            }
            Verdict::Stays(Some(warning)) => warnings.entry(warning).or_default().push(shown),
            Verdict::Stays(None) => {}
            Verdict::Forbids(why) => errors.entry(why).or_default().push(shown),
        }
    }
    let lines =
        |of: BTreeMap<String, Vec<String>>| of.into_iter().map(|(why, pods)| format!("{why}: {}", pods.join(", ")));
    plan.warnings = lines(warnings).collect();
    plan.errors = lines(errors).map(|line| format!("cannot delete {line}")).collect();
    plan
}

fn judge(pod: &Pod, daemon_sets: &DaemonSets, allowed: &Allowed, now: Timestamp) -> Verdict {
    if let Some(since) = &pod.metadata.deletion_timestamp
        && allowed.skip_deleted_s > 0
        && now.duration_since(since.0).as_secs() > allowed.skip_deleted_s
    {
        return Verdict::Stays(None);
    }
    let over = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    if let Some(owner) = daemon_set(pod).filter(|_| !over) {
        let not_found = || format!("daemonsets.apps \"{}\" not found", owner.name);
        match daemon_sets.get(&(name(pod).0, owner.name.clone())) {
            Some(Ok(true)) if allowed.ignore_daemon_sets => return Verdict::Stays(Some(DAEMON_SET_WARNING.into())),
            Some(Ok(true)) => return Verdict::Forbids(DAEMON_SET_FATAL.into()),
            Some(Ok(false)) if allowed.force => {}
            Some(Ok(false)) | None => return Verdict::Forbids(not_found()),
            Some(Err(why)) => return Verdict::Forbids(why.clone()),
        }
    }
    if pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR)) {
        return Verdict::Stays(None);
    }
    if over {
        return Verdict::Goes(None);
    }
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    if !allowed.delete_local && volumes.any(|volume| volume.empty_dir.is_some()) {
        return Verdict::Forbids(LOCAL_FATAL.into());
    }
    if controller(pod).is_none() {
        return match allowed.force {
            true => Verdict::Goes(Some(UNMANAGED_WARNING.into())),
            false => Verdict::Forbids(UNMANAGED_FATAL.into()),
        };
    }
    Verdict::Goes(None)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, owner: Option<&str>, more: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"containers": []}, "status": {}});
        if let Some(kind) = owner {
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": kind, "name": "owner", "uid": "u", "controller": true}]);
        }
        for (part, fields) in more.as_object().into_iter().flatten() {
            for (key, value) in fields.as_object().into_iter().flatten() {
                pod[part][key] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn decide(pod: Pod, allowed: Allowed, daemon_set: Result<bool, String>) -> (usize, String, String) {
        let sets = DaemonSets::from([(("ns".to_owned(), "owner".to_owned()), daemon_set)]);
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let plan = plan(&[pod], &sets, &allowed, now);
        (plan.go.len(), plan.warnings.join("|"), plan.errors.join("|"))
    }

    /// A pod, what is allowed, whether its DaemonSet is there; whether it goes, the warning, the error.
    type Row = (Pod, Allowed, Result<bool, String>, usize, &'static str, &'static str);

    #[test]
    fn who_goes_and_who_stays_is_as_with_kubectl() {
        let none = Allowed::default();
        let force = Allowed { force: true, ..none };
        let local = Allowed { delete_local: true, ..none };
        let daemons = Allowed { ignore_daemon_sets: true, ..none };
        let empty_dir = || json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let table: [Row; 14] = [
            (pod("p", Some("ReplicaSet"), json!({})), none, Ok(true), 1, "", ""),
            (pod("p", None, json!({})), none, Ok(true), 0, "", UNMANAGED_FATAL),
            (pod("p", None, json!({})), force, Ok(true), 1, UNMANAGED_WARNING, ""),
            (pod("p", None, json!({"status": {"phase": "Failed"}})), none, Ok(true), 1, "", ""),
            (pod("p", Some("ReplicaSet"), empty_dir()), none, Ok(true), 0, "", LOCAL_FATAL),
            (pod("p", Some("ReplicaSet"), empty_dir()), local, Ok(true), 1, "", ""),
            (pod("p", None, empty_dir()), Allowed { force: true, ..local }, Ok(true), 1, UNMANAGED_WARNING, ""),
            (pod("p", Some("DaemonSet"), json!({})), none, Ok(true), 0, "", DAEMON_SET_FATAL),
            (pod("p", Some("DaemonSet"), json!({})), daemons, Ok(true), 0, DAEMON_SET_WARNING, ""),
            (pod("p", Some("DaemonSet"), json!({})), none, Ok(false), 0, "", "daemonsets.apps \"owner\" not found"),
            (pod("p", Some("DaemonSet"), json!({})), force, Ok(false), 1, "", ""),
            (pod("p", Some("DaemonSet"), json!({})), force, Err("forbidden".into()), 0, "", "forbidden"),
            (pod("p", None, json!({"metadata": {"annotations": {MIRROR: "x"}}})), none, Ok(true), 0, "", ""),
            (
                pod("p", None, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
                Allowed { skip_deleted_s: 60, ..none },
                Ok(true),
                0,
                "",
                "",
            ),
        ];
        for (index, (pod, allowed, set, go, warning, error)) in table.into_iter().enumerate() {
            let expected_warning = if warning.is_empty() { String::new() } else { format!("{warning}: ns/p") };
            let expected_error = if error.is_empty() { String::new() } else { format!("cannot delete {error}: ns/p") };
            assert_eq!(decide(pod, allowed, set), (go, expected_warning, expected_error), "{index}");
        }
    }
}
