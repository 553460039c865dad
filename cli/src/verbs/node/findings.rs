//! What is wrong with a node, as the API has it, and what to do about it. Pure.

use gantry_node_agent::diagnose::Finding;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};

/// Seconds by which clocks may differ before certificates, leases and tokens suffer.
const SKEW_MAX_S: i64 = 5;
/// Seconds after which a pod that is not ready, or does not go, is told of.
const PATIENCE_S: i64 = 120;
/// Pods that are told of one by one.
const PODS_MAX: usize = 20;

/// What is known of a node.
pub struct Known<'a> {
    /// It.
    pub node: &'a Node,
    /// Its lease.
    pub lease: Option<&'a Lease>,
    /// Its pods.
    pub pods: &'a [Pod],
    /// The API server's time.
    pub now: Timestamp,
}

/// Everything that is to be said of it.
pub fn find(known: &Known<'_>) -> Vec<Finding> {
    let mut findings = vec![heartbeat(known)];
    findings.extend(conditions(known));
    findings.extend(marks(known));
    findings.extend(pods(known));
    findings
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// What the clock of another says of this one: `theirs` and `ours` at the same moment.
pub fn clock(theirs: Timestamp, ours: Timestamp) -> Finding {
    let skew = ours.duration_since(theirs).as_secs();
    if skew.abs() <= SKEW_MAX_S {
        return Finding::good("the clocks of this machine and of the API server agree");
    }
    let how = if skew > 0 { "ahead of" } else { "behind" };
    Finding::bad(
        format!("this machine's clock is {} s {how} the API server's", skew.abs()),
        "let a time service such as chrony or systemd-timesyncd set both clocks",
    )
}

fn heartbeat(known: &Known<'_>) -> Finding {
    let node = name(known.node);
    let spec = known.lease.and_then(|lease| lease.spec.as_ref());
    let Some(renewed) = spec.and_then(|spec| spec.renew_time.as_ref()) else {
        return Finding::bad(
            "the node has no lease: its agent has never been heard of",
            format!("start the agent of {node}, and see what its log says"),
        );
    };
    let valid = spec.and_then(|spec| spec.lease_duration_seconds).map_or(40, i64::from);
    let age = known.now.duration_since(renewed.0).as_secs();
    if age > valid {
        return Finding::bad(
            format!("the node's agent was last heard of {age} s ago"),
            format!("see whether {node} is up and reaches the API server, and run `gantry node diagnose` on it"),
        );
    }
    if age < -SKEW_MAX_S {
        return Finding::bad(
            format!("the node's clock is {} s ahead of the API server's", -age),
            "let a time service such as chrony or systemd-timesyncd set both clocks",
        );
    }
    Finding::good(format!("the agent was heard of {} s ago", age.max(0)))
}

fn conditions(known: &Known<'_>) -> Vec<Finding> {
    let all = known.node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut findings = Vec::new();
    for condition in all {
        let (kind, status) = (condition.type_.as_str(), condition.status.as_str());
        let good = if kind == "Ready" { "True" } else { "False" };
        let message = condition.message.as_deref().unwrap_or_default();
        if status == good {
            findings.push(Finding::good(format!("{kind} is {status}")));
            continue;
        }
        let what = format!("{kind} is {status}: {message}");
        findings.push(Finding::bad(what, advice_of_condition(kind, status, message)));
    }
    if findings.is_empty() {
        findings.push(Finding::bad("the node has said nothing of itself yet", "see what its agent's log says"));
    }
    findings
}

fn advice_of_condition(kind: &str, status: &str, message: &str) -> &'static str {
    match kind {
        "Ready" if status == "Unknown" => "its agent is not heard: see the machine, its network and its agent",
        "Ready" if message.contains("shutting down") => {
            "the machine is going down; if it is not after all, run `gantry node shutdown --cancel` on it"
        }
        "Ready" if message.contains("network not ready") => {
            "the node waits for its pods' addresses or for CNI plug-ins; run `gantry node diagnose` on it"
        }
        "Ready" if message.contains("runtime") => {
            "run `gantry node diagnose` on it: the container runtime does not answer"
        }
        "Ready" => "run `gantry node diagnose` on it",
        "MemoryPressure" => "move pods elsewhere, give them limits, or add memory; the pods that use most are evicted",
        "DiskPressure" => "make room on the disk: unused images are removed and pods evicted until there is some",
        "PIDPressure" => "look for the pod that makes so many processes; pods are evicted until there are fewer",
        "NetworkUnavailable" => "see what sets up the network between nodes",
        _ => "see who sets this condition",
    }
}

fn marks(known: &Known<'_>) -> Vec<Finding> {
    let spec = known.node.spec.clone().unwrap_or_default();
    let mut findings = Vec::new();
    let node = name(known.node);
    if spec.unschedulable == Some(true) {
        let what = "it is cordoned: no more pods come to it";
        findings.push(Finding::odd(what, format!("when it is to have pods again: `gantry node uncordon {node}`")));
    }
    if spec.pod_cidr.is_none() && spec.pod_cidrs.is_none_or(|cidrs| cidrs.is_empty()) {
        let remedy = "see whether the controllers run, and whether their range (--pod-cidr) has addresses left";
        findings.push(Finding::bad("it has no addresses for pods", remedy));
    }
    let own = ["node.kubernetes.io/"];
    for taint in spec.taints.iter().flatten().filter(|taint| !own.iter().any(|own| taint.key.starts_with(own))) {
        let value = taint.value.as_deref().map(|value| format!("={value}")).unwrap_or_default();
        let what = format!("it is tainted {}{value}:{}", taint.key, taint.effect);
        findings.push(Finding::odd(what, "only pods that tolerate it come"));
    }
    findings
}

fn pods(known: &Known<'_>) -> Vec<Finding> {
    let troubled: Vec<Finding> = known.pods.iter().filter_map(|pod| trouble(pod, known.now)).collect();
    let count = troubled.len();
    if count == 0 {
        return vec![Finding::good(format!("none of its {} pods is in trouble", known.pods.len()))];
    }
    let mut findings: Vec<Finding> = troubled.into_iter().take(PODS_MAX).collect();
    if count > PODS_MAX {
        findings.push(Finding::bad(format!("{} more pods are in trouble", count - PODS_MAX), "begin with those above"));
    }
    findings
}

/// What is wrong with a pod.
fn trouble(pod: &Pod, now: Timestamp) -> Option<Finding> {
    let (namespace, name) = super::plan::name(pod);
    let shown = format!("pod {namespace}/{name}");
    let status = pod.status.clone().unwrap_or_default();
    if let Some(deleted) = &pod.metadata.deletion_timestamp {
        let late = now.duration_since(deleted.0).as_secs();
        return (late > PATIENCE_S).then(|| {
            let what = format!("{shown} should have gone {late} s ago");
            Finding::bad(what, "see its events; a volume that cannot be given back is the usual cause")
        });
    }
    let phase = status.phase.as_deref().unwrap_or_default();
    if phase == "Failed" {
        let why = [status.reason, status.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let why = if why.is_empty() { last_words(&status.container_statuses) } else { why };
        return Some(Finding::odd(
            format!("{shown} has failed: {why}"),
            format!("`gantry logs -n {namespace} {name}` says more"),
        ));
    }
    let lists = [status.init_container_statuses, status.container_statuses];
    let containers: Vec<ContainerStatus> = lists.into_iter().flatten().flatten().collect();
    for container in &containers {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else { continue };
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if matches!(reason, "" | "ContainerCreating" | "PodInitializing") {
            continue;
        }
        let message = waiting.message.as_deref().unwrap_or_default();
        let what = format!("{shown}, container {}: {reason}: {message}", container.name);
        return Some(Finding::bad(what, advice_of_container(reason, &namespace, &name, &container.name)));
    }
    let started = status.start_time.as_ref().map_or(now, |time| time.0);
    let age = now.duration_since(started).as_secs();
    let conditions = status.conditions.unwrap_or_default();
    let unready = phase != "Succeeded" && conditions.iter().any(|is| is.type_ == "Ready" && is.status != "True");
    (unready && age > PATIENCE_S).then(|| {
        let what = format!("{shown} is {phase} and not ready, {age} s after its start");
        Finding::odd(what, format!("`gantry describe pod -n {namespace} {name}` shows its events"))
    })
}

fn last_words(containers: &Option<Vec<ContainerStatus>>) -> String {
    let ended = |container: &ContainerStatus| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        let reason = ended.reason.as_deref().unwrap_or("Error");
        (ended.exit_code != 0)
            .then(|| format!("container {} ended with {} ({reason})", container.name, ended.exit_code))
    };
    containers.iter().flatten().filter_map(ended).collect::<Vec<_>>().join(", ")
}

fn advice_of_container(reason: &str, namespace: &str, pod: &str, container: &str) -> String {
    match reason {
        "CrashLoopBackOff" => format!("`gantry logs -n {namespace} {pod} -c {container} -p` shows why it ended"),
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => {
            "see that the image is named right, its registry is reached, and the pull secret fits".to_owned()
        }
        "InvalidImageName" => "the image's name is not one: change the pod".to_owned(),
        "CreateContainerConfigError" => "make the ConfigMap, Secret or key that it names, or change the pod".to_owned(),
        "CreateContainerError" | "RunContainerError" => {
            "the runtime refuses it: see that the command is in the image, and its mounts and rights".to_owned()
        }
        _ => format!("`gantry describe pod -n {namespace} {pod}` shows its events"),
    }
}

#[cfg(test)]
mod tests {
    use gantry_node_agent::diagnose::Level;
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn seen(node: Value, lease: Value, pods: Vec<Value>) -> Vec<(Level, String)> {
        let node: Node = serde_json::from_value(node).unwrap();
        let lease: Lease = serde_json::from_value(lease).unwrap();
        let pods: Vec<Pod> = pods.into_iter().map(|pod| serde_json::from_value(pod).unwrap()).collect();
        let found = find(&Known { node: &node, lease: Some(&lease), pods: &pods, now: now() });
        assert!(found.iter().all(|finding| (finding.level == Level::Good) == finding.remedy.is_empty()), "{found:?}");
        found.into_iter().filter(|finding| finding.level > Level::Good).map(|found| (found.level, found.what)).collect()
    }

    fn node() -> Value {
        json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.0.0.0/24"}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]}})
    }

    fn lease(at: &str) -> Value {
        json!({"spec": {"renewTime": at, "leaseDurationSeconds": 40}})
    }

    fn fresh() -> Value {
        lease("2026-01-01T00:59:55.000000Z")
    }

    fn pod(status: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "status": status})
    }

    #[test]
    fn nothing_is_said_of_a_node_that_is_well() {
        let well = pod(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(seen(node(), fresh(), vec![well]), []);
    }

    #[test]
    fn an_agent_that_is_silent_and_a_clock_that_is_wrong_are_told_apart() {
        let of = |at: &str| seen(node(), lease(at), Vec::new());
        assert_eq!(
            of("2026-01-01T00:50:00.000000Z"),
            [(Level::Bad, "the node's agent was last heard of 600 s ago".into())]
        );
        assert_eq!(
            of("2026-01-01T01:02:00.000000Z"),
            [(Level::Bad, "the node's clock is 120 s ahead of the API server's".into())]
        );
        let never = seen(node(), json!({}), Vec::new());
        assert_eq!(never, [(Level::Bad, "the node has no lease: its agent has never been heard of".into())]);
        let later: Timestamp = "2026-01-01T01:00:30Z".parse().unwrap();
        assert_eq!(clock(now(), now()).level, Level::Good);
        assert_eq!(clock(now(), later).what, "this machine's clock is 30 s ahead of the API server's");
        assert_eq!(clock(later, now()).what, "this machine's clock is 30 s behind the API server's");
    }

    #[test]
    fn conditions_and_marks_are_told() {
        let mut sick = node();
        sick["status"]["conditions"] = json!([
            {"type": "Ready", "status": "False", "message": "node is shutting down"},
            {"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"}]);
        sick["spec"] = json!({"unschedulable": true, "taints": [
            {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]});
        assert_eq!(
            seen(sick, fresh(), Vec::new()),
            [
                (Level::Bad, "Ready is False: node is shutting down".into()),
                (Level::Bad, "DiskPressure is True: kubelet has disk pressure".into()),
                (Level::Odd, "it is cordoned: no more pods come to it".into()),
                (Level::Bad, "it has no addresses for pods".into()),
                (Level::Odd, "it is tainted gpu=yes:NoSchedule".into()),
            ]
        );
    }

    #[test]
    fn pods_in_trouble_are_told_with_their_reason() {
        let waiting = |reason: &str| {
            let state = json!({"waiting": {"reason": reason, "message": "why"}});
            pod(json!({"phase": "Pending", "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}))
        };
        let one = |pod: Value| seen(node(), fresh(), vec![pod]);
        assert_eq!(
            one(waiting("ImagePullBackOff")),
            [(Level::Bad, "pod ns/p, container c: ImagePullBackOff: why".into())]
        );
        assert_eq!(one(waiting("ContainerCreating")), []);
        let evicted = pod(json!({"phase": "Failed", "reason": "Evicted", "message": "too much"}));
        assert_eq!(one(evicted), [(Level::Odd, "pod ns/p has failed: Evicted: too much".into())]);
        let unready = pod(json!({"phase": "Running", "startTime": "2026-01-01T00:50:00Z",
            "conditions": [{"type": "Ready", "status": "False"}]}));
        assert_eq!(one(unready), [(Level::Odd, "pod ns/p is Running and not ready, 600 s after its start".into())]);
        let mut stuck = pod(json!({"phase": "Running"}));
        stuck["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:50:00Z");
        assert_eq!(one(stuck), [(Level::Bad, "pod ns/p should have gone 600 s ago".into())]);
        let many = seen(node(), fresh(), vec![waiting("CrashLoopBackOff"); PODS_MAX + 3]);
        assert_eq!(many.len(), PODS_MAX + 1);
        assert_eq!(many[PODS_MAX].1, "3 more pods are in trouble");
    }
}
