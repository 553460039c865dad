//! How pods are printed. Their status column sums up phase, conditions and every container's state.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Doc, Printer, Row, age, age_of, items, name_of, number, text_or, time};
use crate::meta;

const SPEC: &str = "io.k8s.api.core.v1.PodSpec";
const STATUS: &str = "io.k8s.api.core.v1.PodStatus";

pub(super) static POD: Printer = Printer::new(
    &[
        Column::NAME,
        Column::text("Ready", Doc::Text("The aggregate readiness state of this pod for accepting traffic.")),
        Column::text("Status", Doc::Text("The aggregate status of the containers in this pod.")),
        Column::text(
            "Restarts",
            Doc::Text(
                "The number of times the containers in this pod have been restarted and when the last container in this pod \
                 has restarted.",
            ),
        ),
        Column::AGE,
        Column::wide("IP", Doc::Field(STATUS, "podIP")),
        Column::wide("Node", Doc::Field(SPEC, "nodeName")),
        Column::wide("Nominated Node", Doc::Field(STATUS, "nominatedNodeName")),
        Column::wide("Readiness Gates", Doc::Field(SPEC, "readinessGates")),
    ],
    row,
);

fn row(pod: &Value, now: Timestamp) -> Row {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, age(Some(at), now)),
        _ => summary.restarts.to_string(),
    };
    let ip = items(pod, &["status", "podIPs"]).first().map_or("<none>", |first| text_or(first, &["ip"], "<none>"));
    let conditions = match meta::str_at(pod, &["status", "phase"]) {
        "Succeeded" => Some(completed("Succeeded", "The pod has completed successfully.")),
        "Failed" => Some(completed("Failed", "The pod failed.")),
        _ => None,
    };
    let cells = vec![
        name_of(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        age_of(pod, now),
        json!(ip),
        json!(text_or(pod, &["spec", "nodeName"], "<none>")),
        json!(text_or(pod, &["status", "nominatedNodeName"], "<none>")),
        json!(readiness_gates(pod)),
    ];
    Row { cells, conditions }
}

fn completed(reason: &str, message: &str) -> Value {
    json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}])
}

/// What all containers of a pod come to.
#[derive(Default)]
struct Summary {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    reason: String,
}

impl Summary {
    fn count(&mut self, status: &Value) {
        self.restarts += number(status, &["restartCount"]);
        self.last_restart = self.last_restart.max(finished_before(status));
    }
}

fn finished_before(status: &Value) -> Option<Timestamp> {
    time(status, &["lastState", "terminated", "finishedAt"])
}

fn summarise(pod: &Value) -> Summary {
    let phase = meta::str_at(pod, &["status", "phase"]);
    let mut reason = text_or(pod, &["status", "reason"], phase).to_owned();
    let gated = |c: &Value| meta::str_at(c, &["reason"]) == "SchedulingGated";
    if condition(pod, "PodScheduled").is_some_and(gated) {
        reason = "SchedulingGated".to_owned();
    }
    let sidecars = items(pod, &["spec", "initContainers"]).iter().filter(|c| is_sidecar(c)).count();
    let mut summary =
        Summary { total: items(pod, &["spec", "containers"]).len() + sidecars, reason, ..Summary::default() };
    let mut of_sidecars = Summary::default();
    let initialising = init_containers(pod, &mut summary, &mut of_sidecars);
    if !initialising || condition(pod, "Initialized").is_some_and(is_true) {
        summary.restarts = of_sidecars.restarts;
        summary.last_restart = of_sidecars.last_restart;
        containers(pod, &mut summary);
    }
    if meta::is_deleting(pod) {
        if meta::str_at(pod, &["status", "reason"]) == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// Goes through the init containers up to the first that is not done; true if there is such a one.
fn init_containers(pod: &Value, summary: &mut Summary, of_sidecars: &mut Summary) -> bool {
    let specs = items(pod, &["spec", "initContainers"]);
    for (i, status) in items(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        let name = meta::str_at(status, &["name"]);
        let sidecar = specs.iter().any(|spec| meta::str_at(spec, &["name"]) == name && is_sidecar(spec));
        summary.count(status);
        if sidecar {
            of_sidecars.count(status);
        }
        let terminated = meta::get(status, &["state", "terminated"]);
        let waiting = meta::str_at(status, &["state", "waiting", "reason"]);
        match terminated {
            Some(state) if number(state, &["exitCode"]) == 0 => continue,
            _ if sidecar && flag(status, "started") => {
                summary.ready += usize::from(flag(status, "ready"));
                continue;
            }
            Some(state) => summary.reason = format!("Init:{}", why_terminated(state)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => summary.reason = format!("Init:{waiting}"),
            None => summary.reason = format!("Init:{i}/{}", specs.len()),
        }
        return true;
    }
    false
}

fn containers(pod: &Value, summary: &mut Summary) {
    let mut running = false;
    let mut failed = None;
    for status in items(pod, &["status", "containerStatuses"]).iter().rev() {
        summary.count(status);
        let waiting = meta::str_at(status, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if let Some(state) = meta::get(status, &["state", "terminated"]) {
            summary.reason = why_terminated(state);
            if number(state, &["exitCode"]) != 0 {
                failed = Some(summary.reason.clone());
            }
        } else if flag(status, "ready") && meta::get(status, &["state", "running"]).is_some() {
            running = true;
            summary.ready += 1;
        }
    }
    // One container is done, but others still count.
    if summary.reason == "Completed" {
        if running && condition(pod, "Ready").is_some_and(is_true) {
            summary.reason = "Running".to_owned();
        } else if let Some(failed) = failed {
            summary.reason = failed;
        } else if running {
            summary.reason = "NotReady".to_owned();
        }
    }
}

fn why_terminated(state: &Value) -> String {
    match (meta::str_at(state, &["reason"]), number(state, &["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(state, &["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = items(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = |gate: &&Value| condition(pod, meta::str_at(gate, &["conditionType"])).is_some_and(is_true);
    format!("{}/{}", gates.iter().filter(met).count(), gates.len())
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    items(pod, &["status", "conditions"]).iter().find(|c| meta::str_at(c, &["type"]) == kind)
}

fn is_true(condition: &Value) -> bool {
    meta::str_at(condition, &["status"]) == "True"
}

fn is_sidecar(container: &Value) -> bool {
    meta::str_at(container, &["restartPolicy"]) == "Always"
}

fn flag(object: &Value, field: &str) -> bool {
    object.get(field).and_then(Value::as_bool).unwrap_or_default()
}
