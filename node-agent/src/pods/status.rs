//! Computes a pod's status. Pure: in go the pod with the status it had, what the runtime has, the worker's memory and the
//! time; out comes the status as the kubelet would report it.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::ledger::Short;
use super::memory::{Memory, Waiting};
use super::plan::{Observed, has_started, latest, live_sandbox, restarts, unequal};
use super::spec::{self, ContainerRef, Role};
use super::volumes::read_only;
use super::{resize, resources};
use crate::runtime::{ContainerRecord, ContainerState, PodRecord};

/// Conditions that the agent computes; all others belong to others.
pub const OWN_CONDITIONS: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// What the status is made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The status it last had, from here if it was already computed here, else from the API.
    pub old: &'a PodStatus,
    /// What the runtime has.
    pub record: &'a PodRecord,
    /// The worker's memory.
    pub memory: &'a Memory,
    /// Containers in restart back-off.
    pub back_off: &'a HashMap<String, Waiting>,
    /// Whether the pod has come to its end and nothing of it runs.
    pub ended: bool,
    /// The node's addresses, primary first.
    pub host_ips: &'a [IpAddr],
    /// The runtime's name in container ids.
    pub scheme: &'a str,
    /// The agent's clock.
    pub now: Timestamp,
}

/// Computes the status.
pub fn compute(from: &Sources<'_>) -> PodStatus {
    let old_phase = from.old.phase.as_deref();
    if matches!(old_phase, Some("Succeeded" | "Failed")) && from.record.containers.is_empty() {
        // It has ended, and nothing is left that could say more than was said.
        return from.old.clone();
    }
    let mut status = PodStatus {
        observed_generation: from.pod.metadata.generation,
        start_time: Some(Time(from.memory.start_time.unwrap_or(from.now))),
        qos_class: Some(resources::qos(from.pod).as_str().into()),
        host_ip: from.host_ips.first().map(ToString::to_string),
        host_ips: Some(from.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        ..PodStatus::default()
    };
    if let Some(rejected) = &from.memory.rejected {
        status.phase = Some("Failed".into());
        status.reason = Some(rejected.reason.clone());
        status.message = Some(rejected.message.clone());
        status.conditions = Some(conditions(from, &status, &[], &[]));
        return status;
    }
    let inits: Vec<_> = spec::init_containers(from.pod).map(|c| (c, container_status(from, c))).collect();
    let apps: Vec<_> = spec::app_containers(from.pod).map(|c| (c, container_status(from, c))).collect();
    let ephemeral = spec::ephemeral_containers(from.pod);
    let ephemeral: Vec<_> = ephemeral.iter().map(|container| container_status(from, container.as_ref())).collect();
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    let mut phase = phase(from.pod, &inits, &apps);
    if from.ended && !matches!(phase, "Succeeded" | "Failed") {
        // Deleted while it ran: the end is Succeeded only if every container says so.
        let clean = |status: &ContainerStatus| terminated(status.state.as_ref()).is_some_and(|t| t.exit_code == 0);
        phase = if apps.iter().all(|(_, status)| clean(status)) { "Succeeded" } else { "Failed" };
    }
    if let Some(old @ ("Succeeded" | "Failed")) = old_phase {
        phase = if old == "Succeeded" { "Succeeded" } else { "Failed" };
        status.reason.clone_from(&from.old.reason);
        status.message.clone_from(&from.old.message);
    } else if let Some(order) = &from.memory.order {
        phase = "Failed";
        status.reason = Some(order.reason.clone());
        status.message = Some(order.message.clone());
    } else if from.memory.deadline_exceeded {
        phase = "Failed";
        status.reason = Some("DeadlineExceeded".into());
        status.message = Some("Pod was active on the node longer than the specified deadline".into());
    }
    status.phase = Some(phase.into());
    set_ips(from, &mut status);
    status.conditions = Some(conditions(from, &status, &inits, &apps));
    let values = |list: Vec<(ContainerRef<'_>, ContainerStatus)>| list.into_iter().map(|(_, status)| status).collect();
    status.init_container_statuses = (!inits.is_empty()).then(|| values(inits));
    status.container_statuses = Some(values(apps));
    status
}

fn set_ips(from: &Sources<'_>, status: &mut PodStatus) {
    let sandbox = from.record.sandboxes.iter().max_by_key(|sandbox| (sandbox.attempt, sandbox.created_at));
    let ips: Vec<String> = if spec::host_network(from.pod) {
        sandbox.map(|_| from.host_ips.iter().map(ToString::to_string).collect()).unwrap_or_default()
    } else {
        sandbox.map(|sandbox| sandbox.ips.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    if ips.is_empty() {
        // A pod that has ended keeps the address it had, as its last words.
        status.pod_ip.clone_from(&from.old.pod_ip);
        status.pod_ips.clone_from(&from.old.pod_ips);
        return;
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
}

fn old_status<'a>(from: &Sources<'a>, name: &str) -> Option<&'a ContainerStatus> {
    let old = from.old;
    let lists = [&old.init_container_statuses, &old.container_statuses, &old.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|status| status.name == name)
}

fn container_status(from: &Sources<'_>, container: ContainerRef<'_>) -> ContainerStatus {
    let name = &container.spec.name;
    let old = old_status(from, name);
    let mut status = ContainerStatus {
        name: name.clone(),
        image: container.spec.image.clone().unwrap_or_default(),
        started: Some(false),
        restart_count: old.map_or(0, |old| old.restart_count),
        last_state: Some(old.and_then(|old| old.last_state.clone()).unwrap_or_default()),
        allocated_resources: container.spec.resources.as_ref().and_then(|r| r.requests.clone()),
        resources: container.spec.resources.clone(),
        volume_mounts: read_only::statuses(container.spec),
        ..ContainerStatus::default()
    };
    let Some(latest) = latest(from.record, name) else {
        set_absent(from, container, old, &mut status);
        return status;
    };
    if latest.state == ContainerState::Running && container.role != Role::Ephemeral {
        status.resources = Some(resize::given(from.pod, container.spec, latest, from.memory));
    }
    status.restart_count = i32::try_from(restarts(latest)).unwrap_or(i32::MAX);
    status.container_id = Some(format!("{}://{}", from.scheme, latest.id));
    status.image.clone_from(&latest.image);
    status.image_id.clone_from(&latest.image_id);
    if let Some(before) = instance_before(from.record, latest) {
        status.last_state = Some(ApiState { terminated: Some(end_of(from, before)), ..ApiState::default() });
    }
    match latest.state {
        ContainerState::Running => {
            let started_at = latest.started_at.unwrap_or(latest.created_at);
            let running = ContainerStateRunning { started_at: Some(Time(started_at)) };
            status.state = Some(ApiState { running: Some(running), ..ApiState::default() });
            let started = has_started(from.memory, container, latest);
            status.started = Some(started);
            status.ready = started && is_ready(from.memory, container, latest);
        }
        ContainerState::Created => {
            status.state = Some(waiting(from.memory.waiting.get(name).cloned().unwrap_or(default_waiting(from.pod))));
        }
        ContainerState::Exited | ContainerState::Unknown => set_ended(from, container, latest, &mut status),
    }
    status
}

fn instance_before<'a>(record: &'a PodRecord, latest: &ContainerRecord) -> Option<&'a ContainerRecord> {
    let older = record.containers.iter().filter(|c| c.name == latest.name && c.id != latest.id);
    let ended = older.filter(|c| c.state == ContainerState::Exited);
    ended.max_by_key(|container| (container.attempt, container.created_at))
}

/// Without any readiness probe a started container is ready; an init container is ready when it is done.
fn is_ready(memory: &Memory, container: ContainerRef<'_>, record: &ContainerRecord) -> bool {
    match container.role {
        Role::Init | Role::Ephemeral => false,
        _ if container.spec.readiness_probe.is_none() => true,
        _ => memory.ready.get(&record.id).copied().unwrap_or(false),
    }
}

fn set_ended(from: &Sources<'_>, container: ContainerRef<'_>, latest: &ContainerRecord, status: &mut ContainerStatus) {
    let end = end_of(from, latest);
    status.ready = container.role == Role::Init && end.exit_code == 0;
    let name = &container.spec.name;
    let wait = from.back_off.get(name).or_else(|| from.memory.waiting.get(name));
    match wait {
        Some(wait) if !from.ended => {
            status.state = Some(waiting(wait.clone()));
            status.last_state = Some(ApiState { terminated: Some(end), ..ApiState::default() });
        }
        _ => status.state = Some(ApiState { terminated: Some(end), ..ApiState::default() }),
    }
}

/// A container of which the runtime has nothing.
fn set_absent(
    from: &Sources<'_>,
    container: ContainerRef<'_>,
    old: Option<&ContainerStatus>,
    status: &mut ContainerStatus,
) {
    let name = &container.spec.name;
    if let Some(old) = old {
        let old_state = old.state.as_ref();
        if let Some(done) = terminated(old_state) {
            // It ended, was reported, and has since been removed.
            status.state = Some(ApiState { terminated: Some(done.clone()), ..ApiState::default() });
            status.container_id.clone_from(&old.container_id);
            status.image_id.clone_from(&old.image_id);
            status.ready = old.ready && container.role == Role::Init;
            return;
        }
        if old_state.is_some_and(|state| state.running.is_some()) {
            let lost = ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some(if from.ended {
                    "The container could not be located when the pod was terminated".into()
                } else {
                    "The container could not be located when the pod was deleted.  The container used to be Running"
                        .into()
                }),
                container_id: old.container_id.clone(),
                ..ContainerStateTerminated::default()
            };
            let lost = ApiState { terminated: Some(lost), ..ApiState::default() };
            if from.ended {
                status.state = Some(lost);
                return;
            }
            status.last_state = Some(lost);
            // The next one takes the place of this: that is a restart, counted here for there is nothing else to count by.
            status.restart_count = old.restart_count.saturating_add(1);
        }
    }
    status.state = Some(waiting(from.memory.waiting.get(name).cloned().unwrap_or(default_waiting(from.pod))));
}

fn default_waiting(pod: &Pod) -> Waiting {
    let initializing = spec::init_containers(pod).next().is_some();
    let reason = if initializing { "PodInitializing" } else { "ContainerCreating" };
    Waiting { reason: reason.into(), message: String::new() }
}

fn waiting(wait: Waiting) -> ApiState {
    let message = (!wait.message.is_empty()).then_some(wait.message);
    let waiting = ContainerStateWaiting { reason: Some(wait.reason), message };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

fn terminated(state: Option<&ApiState>) -> Option<&ContainerStateTerminated> {
    state.and_then(|state| state.terminated.as_ref())
}

fn end_of(from: &Sources<'_>, record: &ContainerRecord) -> ContainerStateTerminated {
    let left = from.memory.termination_messages.get(&record.id).filter(|text| !text.is_empty());
    let message = left.unwrap_or(&record.message);
    let reason = match record.reason.as_str() {
        "" if record.exit_code == 0 => "Completed",
        "" => "Error",
        reason => reason,
    };
    ContainerStateTerminated {
        container_id: Some(format!("{}://{}", from.scheme, record.id)),
        exit_code: record.exit_code,
        reason: Some(reason.into()),
        message: (!message.is_empty()).then(|| message.clone()),
        started_at: Some(Time(record.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(record.finished_at.unwrap_or(record.created_at))),
        signal: None,
    }
}

type Statuses<'a> = [(ContainerRef<'a>, ContainerStatus)];

/// The phase, by the kubelet's rules.
fn phase(pod: &Pod, inits: &Statuses<'_>, apps: &Statuses<'_>) -> &'static str {
    let policy = spec::restart_policy(pod);
    let (mut init_pending, mut init_failed) = (false, false);
    for (container, status) in inits {
        if container.role == Role::Sidecar {
            let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
            let up = running && status.started == Some(true);
            init_pending |= !(up || any_app_started(apps));
            continue;
        }
        match terminated(status.state.as_ref()) {
            Some(end) if end.exit_code == 0 => {}
            Some(end) => {
                init_pending = true;
                init_failed |= !spec::restarts(pod, *container, end.exit_code);
            }
            None => init_pending |= !any_app_started(apps),
        }
    }
    if init_failed {
        return "Failed";
    }
    let (mut running, mut waiting, mut stopped, mut succeeded, mut restarting) = (0, 0, 0, 0, 0);
    for (container, status) in apps {
        let state = status.state.as_ref();
        if state.is_some_and(|state| state.running.is_some()) {
            running += 1;
        } else if let Some(end) = terminated(state) {
            stopped += 1;
            succeeded += i32::from(end.exit_code == 0);
            restarting += i32::from(spec::restarts(pod, *container, end.exit_code));
        } else if terminated(status.last_state.as_ref()).is_some() {
            stopped += 1;
            restarting += 1;
        } else {
            waiting += 1;
        }
    }
    if init_pending || waiting > 0 {
        return "Pending";
    }
    match (running, stopped) {
        (0, 0) => "Pending",
        (0, _) if policy == "Always" || restarting > 0 => "Running",
        (0, _) if stopped == succeeded => "Succeeded",
        (0, _) => "Failed",
        _ => "Running",
    }
}

fn any_app_started(apps: &Statuses<'_>) -> bool {
    apps.iter().any(|(_, status)| status.container_id.is_some())
}

struct Verdict {
    kind: &'static str,
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes(kind: &'static str) -> Self {
        Self { kind, ok: true, reason: None, message: None }
    }
    fn no(kind: &'static str, reason: &'static str, message: String) -> Self {
        Self { kind, ok: false, reason: Some(reason), message: (!message.is_empty()).then_some(message) }
    }
}

fn conditions(from: &Sources<'_>, status: &PodStatus, inits: &Statuses<'_>, apps: &Statuses<'_>) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let sandbox = live_sandbox(from.pod, from.record).is_some();
    let to_start = if sandbox {
        Verdict::yes("PodReadyToStartContainers")
    } else {
        Verdict { kind: "PodReadyToStartContainers", ok: false, reason: None, message: None }
    };
    let initialized = initialized(phase, inits, apps);
    let containers_ready = containers_ready("ContainersReady", phase, inits, apps);
    let ready = match containers_ready.ok {
        true => gates(from),
        false => Verdict { kind: "Ready", ..self::containers_ready("Ready", phase, inits, apps) },
    };
    let all = [to_start, initialized, ready, containers_ready, Verdict::yes("PodScheduled")];
    let ordered = from.memory.order.as_ref().filter(|order| order.disrupts).map(|order| Verdict {
        reason: Some("TerminationByKubelet"),
        message: Some(order.message.clone()),
        ..Verdict::yes("DisruptionTarget")
    });
    all.into_iter().chain(resizing(from)).chain(ordered).map(|verdict| condition(from, verdict)).collect()
}

/// What is told of resources that the pod is to get and does not have yet.
fn resizing(from: &Sources<'_>) -> Vec<Verdict> {
    let mut told = Vec::new();
    if let Some(short) = &from.memory.short {
        let (reason, message) = match short {
            Short::Deferred(message) => ("Deferred", message),
            Short::Infeasible(message) => ("Infeasible", message),
        };
        told.push(Verdict { reason: Some(reason), message: Some(message.clone()), ..Verdict::yes("PodResizePending") });
    }
    let seen = Observed { pod: from.pod, gone: false, record: from.record, memory: from.memory };
    let unequal = live_sandbox(from.pod, from.record).is_some_and(|sandbox| !unequal(&seen, sandbox).is_empty());
    if unequal && !from.ended {
        let failed = from.memory.resize_failed.as_ref().map(|(_, message)| message.clone());
        let reason = failed.as_ref().map(|_| "Error");
        told.push(Verdict { reason, message: failed, ..Verdict::yes("PodResizeInProgress") });
    }
    told
}

fn condition(from: &Sources<'_>, verdict: Verdict) -> PodCondition {
    let status = if verdict.ok { "True" } else { "False" };
    let old = from.old.conditions.iter().flatten().find(|old| old.type_ == verdict.kind);
    let unchanged = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    PodCondition {
        type_: verdict.kind.into(),
        status: status.into(),
        reason: verdict.reason.map(Into::into),
        message: verdict.message,
        last_transition_time: Some(unchanged.unwrap_or(Time(from.now))),
        last_probe_time: None,
        observed_generation: from.pod.metadata.generation,
    }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn initialized(phase: &str, inits: &Statuses<'_>, apps: &Statuses<'_>) -> Verdict {
    const KIND: &str = "Initialized";
    if phase == "Succeeded" {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::yes(KIND) };
    }
    if phase == "Failed" && apps.is_empty() {
        return Verdict::no(KIND, "PodFailed", String::new());
    }
    if any_app_started(apps) {
        return Verdict::yes(KIND);
    }
    let incomplete = |(container, status): &&(ContainerRef<'_>, ContainerStatus)| match container.role {
        Role::Sidecar => status.started != Some(true),
        _ => !status.ready,
    };
    let names: Vec<&str> = inits.iter().filter(incomplete).map(|(container, _)| container.spec.name.as_str()).collect();
    if names.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ContainersNotInitialized", format!("containers with incomplete status: {}", list(&names)))
}

fn containers_ready(kind: &'static str, phase: &str, inits: &Statuses<'_>, apps: &Statuses<'_>) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no(kind, "PodCompleted", String::new()),
        "Failed" => return Verdict::no(kind, "PodFailed", String::new()),
        _ => {}
    }
    let sidecars = inits.iter().filter(|(container, _)| container.role == Role::Sidecar);
    let all = sidecars.chain(apps.iter());
    let unready: Vec<&str> = all.filter(|(_, s)| !s.ready).map(|(c, _)| c.spec.name.as_str()).collect();
    if unready.is_empty() {
        return Verdict::yes(kind);
    }
    Verdict::no(kind, "ContainersNotReady", format!("containers with unready status: {}", list(&unready)))
}

/// Readiness gates: conditions that others set and that must be true too.
fn gates(from: &Sources<'_>) -> Verdict {
    const KIND: &str = "Ready";
    let conditions = from.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut unmet = Vec::new();
    for gate in spec::spec(from.pod).readiness_gates.iter().flatten() {
        let found = conditions.iter().find(|condition| condition.type_ == gate.condition_type);
        match found {
            None => unmet.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(condition) if condition.status != "True" => unmet.push(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, condition.status
            )),
            Some(_) => {}
        }
    }
    if unmet.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ReadinessGatesNotReady", unmet.join(", "))
}
