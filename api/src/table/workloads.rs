//! How the other workloads are printed, and what protects them from disruptions.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Doc, Printer, Show, duration, items, number, time};
use crate::meta;

const TEMPLATE: &[&str] = &["spec", "template", "spec", "containers"];
const DAEMON_SET_STATUS: &str = "io.k8s.api.apps.v1.DaemonSetStatus";
const CONTROLLER_SPEC: &str = "io.k8s.api.core.v1.ReplicationControllerSpec";
const CONTROLLER_STATUS: &str = "io.k8s.api.core.v1.ReplicationControllerStatus";
const CRON_JOB_SPEC: &str = "io.k8s.api.batch.v1.CronJobSpec";
const CRON_JOB_STATUS: &str = "io.k8s.api.batch.v1.CronJobStatus";
const JOB_TEMPLATE: &[&str] = &["spec", "jobTemplate", "spec", "template", "spec", "containers"];

pub(super) static STATEFUL_SET: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Ready", Doc::Text("Number of the pod with ready state")),
        Show::With(|set, _| {
            let ready = number(set, &["status", "readyReplicas"]);
            json!(format!("{ready}/{}", number(set, &["spec", "replicas"])))
        }),
    ),
    (Column::AGE, Show::Age),
    (Column::CONTAINERS, Show::Each(TEMPLATE, "name")),
    (Column::IMAGES, Show::Each(TEMPLATE, "image")),
]);

pub(super) static DAEMON_SET: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::integer("Desired", Doc::Field(DAEMON_SET_STATUS, "desiredNumberScheduled")),
        Show::Number(&["status", "desiredNumberScheduled"]),
    ),
    (
        Column::integer("Current", Doc::Field(DAEMON_SET_STATUS, "currentNumberScheduled")),
        Show::Number(&["status", "currentNumberScheduled"]),
    ),
    (Column::integer("Ready", Doc::Field(DAEMON_SET_STATUS, "numberReady")), Show::Number(&["status", "numberReady"])),
    (
        Column::integer("Up-to-date", Doc::Field(DAEMON_SET_STATUS, "updatedNumberScheduled")),
        Show::Number(&["status", "updatedNumberScheduled"]),
    ),
    (
        Column::integer("Available", Doc::Field(DAEMON_SET_STATUS, "numberAvailable")),
        Show::Number(&["status", "numberAvailable"]),
    ),
    (
        Column::text("Node Selector", Doc::Field("io.k8s.api.core.v1.PodSpec", "nodeSelector")),
        Show::Labels(&["spec", "template", "spec", "nodeSelector"]),
    ),
    (Column::AGE, Show::Age),
    (Column::CONTAINERS, Show::Each(TEMPLATE, "name")),
    (Column::IMAGES, Show::Each(TEMPLATE, "image")),
    (
        Column::wide("Selector", Doc::Field("io.k8s.api.apps.v1.DaemonSetSpec", "selector")),
        Show::Selector(&["spec", "selector"]),
    ),
]);

pub(super) static CONTROLLER_REVISION: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Controller", Doc::Text("Controller of the object")),
        Show::With(|revision, _| {
            let owners = items(revision, &["metadata", "ownerReferences"]);
            let controller = owners.iter().find(|owner| owner["controller"] == Value::Bool(true));
            json!(controller.map_or_else(
                || "<none>".to_owned(),
                |owner| {
                    let group = meta::str_at(owner, &["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
                    let dot = if group.is_empty() { "" } else { "." };
                    let kind = meta::str_at(owner, &["kind"]).to_lowercase();
                    format!("{kind}{dot}{group}/{}", meta::str_at(owner, &["name"]))
                }
            ))
        }),
    ),
    (
        Column::text("Revision", Doc::Field("io.k8s.api.apps.v1.ControllerRevision", "revision")),
        Show::Number(&["revision"]),
    ),
    (Column::AGE, Show::Age),
])
.of_all();

pub(super) static REPLICATION_CONTROLLER: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::integer("Desired", Doc::Field(CONTROLLER_SPEC, "replicas")), Show::Number(&["spec", "replicas"])),
    (Column::integer("Current", Doc::Field(CONTROLLER_STATUS, "replicas")), Show::Number(&["status", "replicas"])),
    (
        Column::integer("Ready", Doc::Field(CONTROLLER_STATUS, "readyReplicas")),
        Show::Number(&["status", "readyReplicas"]),
    ),
    (Column::AGE, Show::Age),
    (Column::CONTAINERS, Show::Each(TEMPLATE, "name")),
    (Column::IMAGES, Show::Each(TEMPLATE, "image")),
    (Column::wide("Selector", Doc::Field(CONTROLLER_SPEC, "selector")), Show::Labels(&["spec", "selector"])),
]);

pub(super) static POD_TEMPLATE: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column { priority: 0, ..Column::CONTAINERS }, Show::Each(&["template", "spec", "containers"], "name")),
    (Column { priority: 0, ..Column::IMAGES }, Show::Each(&["template", "spec", "containers"], "image")),
    (
        Column::text("Pod Labels", Doc::Text("The labels for the pod template.")),
        Show::Labels(&["template", "metadata", "labels"]),
    ),
]);

pub(super) static JOB: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::text("Status", Doc::Text("Status of the job.")), Show::With(|job, _| json!(job_status(job)))),
    (
        Column::text("Completions", Doc::Field("io.k8s.api.batch.v1.JobStatus", "succeeded")),
        Show::With(|job, _| json!(completions(job))),
    ),
    (Column::text("Duration", Doc::Text("Time required to complete the job.")), Show::With(job_duration)),
    (Column::AGE, Show::Age),
    (Column::CONTAINERS, Show::Each(TEMPLATE, "name")),
    (Column::IMAGES, Show::Each(TEMPLATE, "image")),
    (
        Column::wide("Selector", Doc::Field("io.k8s.api.batch.v1.JobSpec", "selector")),
        Show::Selector(&["spec", "selector"]),
    ),
]);

fn job_status(job: &Value) -> &'static str {
    let is = |condition: &str| {
        let mut found =
            items(job, &["status", "conditions"]).iter().filter(|c| meta::str_at(c, &["type"]) == condition);
        found.next().is_some_and(|c| meta::str_at(c, &["status"]) == "True")
    };
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if meta::is_deleting(job) => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(job, &["status", "succeeded"]);
    match meta::get(job, &["spec", "completions"]).and_then(Value::as_i64) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None => match number(job, &["spec", "parallelism"]) {
            parallelism if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        },
    }
}

fn job_duration(job: &Value, now: Timestamp) -> Value {
    let Some(start) = time(job, &["status", "startTime"]) else { return json!("") };
    let end = time(job, &["status", "completionTime"]).unwrap_or(now);
    json!(duration::human(end.duration_since(start).as_secs()))
}

pub(super) static CRON_JOB: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::text("Schedule", Doc::Field(CRON_JOB_SPEC, "schedule")), Show::Text(&["spec", "schedule"], "")),
    (Column::text("Timezone", Doc::Field(CRON_JOB_SPEC, "timeZone")), Show::Text(&["spec", "timeZone"], "<none>")),
    (
        Column::flag("Suspend", Doc::Field(CRON_JOB_SPEC, "suspend")),
        // A text in a column of truths, as Kubernetes has it.
        Show::With(|job, _| match meta::get(job, &["spec", "suspend"]).and_then(Value::as_bool) {
            Some(true) => json!("True"),
            Some(false) => json!("False"),
            None => json!("<unset>"),
        }),
    ),
    (Column::integer("Active", Doc::Field(CRON_JOB_STATUS, "active")), Show::Count(&["status", "active"])),
    (
        Column::text("Last Schedule", Doc::Field(CRON_JOB_STATUS, "lastScheduleTime")),
        Show::Since(&["status", "lastScheduleTime"]),
    ),
    (Column::AGE, Show::Age),
    (Column::CONTAINERS, Show::Each(JOB_TEMPLATE, "name")),
    (Column::IMAGES, Show::Each(JOB_TEMPLATE, "image")),
    (
        Column::wide("Selector", Doc::Field("io.k8s.api.batch.v1.JobSpec", "selector")),
        Show::Selector(&["spec", "jobTemplate", "spec", "selector"]),
    ),
]);

pub(super) static POD_DISRUPTION_BUDGET: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Min Available", Doc::Text("The minimum number of pods that must be available.")),
        Show::With(|budget, _| int_or_text(budget, &["spec", "minAvailable"])),
    ),
    (
        Column::text("Max Unavailable", Doc::Text("The maximum number of pods that may be unavailable.")),
        Show::With(|budget, _| int_or_text(budget, &["spec", "maxUnavailable"])),
    ),
    (
        Column::integer(
            "Allowed Disruptions",
            Doc::Text("Calculated number of pods that may be disrupted at this time."),
        ),
        Show::Number(&["status", "disruptionsAllowed"]),
    ),
    (Column::AGE, Show::Age),
]);

fn int_or_text(object: &Value, path: &[&str]) -> Value {
    match meta::get(object, path) {
        Some(Value::Number(number)) => json!(number.to_string()),
        Some(Value::String(text)) => json!(text),
        _ => json!("N/A"),
    }
}
