//! Job, and the job template of a CronJob.

pub mod cron;
mod policy;
mod status;

use serde_json::{Map, Value};

use super::field::{at, child, deep, set, set_default};
use super::rules::{Declared, Field, Rule};
use super::workloads::{fits, pod_template, template_warnings};
use super::{names, pod};
use crate::meta;

const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const INDEXED: &str = "Indexed";
const INDEXED_MAX: i64 = 100_000;
/// Above so many completions, an indexed job with a limit for each index has lower limits.
const MANY_COMPLETIONS: i64 = 100_000;
const MANY_COMPLETIONS_MAX: i64 = 10_000;
const MANAGED_BY_MAX: usize = 63;

/// Job.
pub static JOB: Declared = Declared {
    generation: true,
    default: default_job,
    prepare_create: |job| {
        if at(job, "spec").is_some() && deep(job, &["spec", "manualSelector"]) != Some(&Value::Bool(true)) {
            generate_selector(job);
        }
    },
    rules: &[("", &[Rule::Check(validate_job)])],
    create: &[("", &[Rule::Check(generated_labels)])],
    update: |subresource, old, new| match subresource {
        "" => validate_update(&old.get("spec"), &new.get("spec"), old.at("status.startTime").is_set()),
        "status" => status::validate_update(old, new),
        _ => {}
    },
    immutable: &[
        "spec.selector",
        "spec.completionMode",
        "spec.podFailurePolicy",
        "spec.backoffLimitPerIndex",
        "spec.managedBy",
        "spec.successPolicy",
    ],
    warnings: |job| {
        let mut warnings = name_warnings(job);
        warnings.extend(spec_warnings(deep(job, &["spec"]).unwrap_or(&Value::Null), "spec"));
        warnings
    },
    ..Declared::PLAIN
};

fn default_job(job: &mut Value) {
    if at(job, "spec").is_none() {
        return;
    }
    pod::default_spec_of(job, &["spec", "template", "spec"]);
    let labels = deep(job, &["spec", "template", "metadata", "labels"]).cloned();
    let spec = child(job, "spec");
    if at(spec, "completions").is_none() && at(spec, "parallelism").is_none() {
        set(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let limit = if at(spec, "backoffLimitPerIndex").is_some() { i32::MAX } else { 6 };
    set_default(spec, "backoffLimit", limit);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    let replacement = if at(spec, "podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    set_default(spec, "podReplacementPolicy", replacement);
    set_default(spec, "manualSelector", false);
    if let Some(labels) = labels
        && deep(job, &["metadata", "labels"]).and_then(Value::as_object).is_none_or(Map::is_empty)
    {
        set(child(job, "metadata"), "labels", labels);
    }
}

/// Labels that no other job's pods have, and a selector of one of them. What the client has set stays, for the validation
/// to refuse.
fn generate_selector(job: &mut Value) {
    let (name, uid) = (meta::name(job).to_owned(), meta::uid(job).to_owned());
    let spec = child(job, "spec");
    let labels = child(child(child(spec, "template"), "metadata"), "labels");
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            if at(labels, key).is_none() {
                set(labels, key, value.as_str());
            }
        }
    }
    let selected = child(child(spec, "selector"), "matchLabels");
    if at(selected, UID_LABELS[1]).is_none() {
        set(selected, UID_LABELS[1], uid);
    }
}

/// The labels that were generated are those that were meant.
fn generated_labels(job: &Field<'_>) {
    let spec = job.get("spec");
    if spec.get("manualSelector").is_true() || !spec.get("selector").is_set() {
        return;
    }
    let metadata = spec.at("template.metadata");
    let (name, uid) = (meta::name(job.value()), meta::uid(job.value()));
    let mut expected = Map::new();
    for (keys, wanted) in [(UID_LABELS, uid), (NAME_LABELS, name)] {
        for key in keys {
            expected.insert(key.to_owned(), Value::from(wanted));
            let labels = metadata.get("labels");
            match labels.get(key).value().as_str() {
                None => labels.told_at(format!("{}[{key}]", labels.path())).required(format!("must be '{wanted}'")),
                Some(found) if found != wanted => {
                    labels.invalid(format!("must be '{wanted}'"));
                }
                Some(_) => {}
            }
        }
    }
    let selector = spec.get("selector");
    if let Ok(parsed) = crate::selector::LabelSelector::from_object(selector.value())
        && !parsed.matches(&Value::Object(expected))
    {
        selector.invalid("`selector` not auto-generated");
    }
}

fn validate_job(job: &Field<'_>) {
    let spec = job.get("spec");
    validate_spec(&spec);
    let selector = spec.get("selector");
    if selector.is_set() {
        selector.must(&Rule::Selector);
        fits(&selector, &spec.get("template"));
    } else {
        selector.required("");
    }
    let completions = spec.get("completions").count();
    if spec.text_of("completionMode") == INDEXED && completions > 0 {
        let host = format!("{}-{}", meta::name(job.value()), completions - 1);
        if !names::dns1123_label(&host).is_empty() {
            job.at("metadata.name").invalid(format!("will not able to create pod with invalid DNS label: {host}"));
        }
    }
}

/// Validates the spec of a job or of a job template.
fn validate_spec(spec: &Field<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.get(field).must(&Rule::NonNegative);
    }
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        spec.get("backoffLimitPerIndex").required("when maxFailedIndexes is specified");
    }
    let manager = spec.get("managedBy");
    if manager.is_set() {
        names::domain_prefixed_path(&manager);
        manager.must(&Rule::Max(MANAGED_BY_MAX));
    }
    completion_mode(spec);
    if spec.get("podFailurePolicy").is_set() {
        policy::failure(spec);
    }
    let success = spec.get("successPolicy");
    if success.is_set() {
        if spec.text_of("completionMode") == INDEXED {
            policy::success(spec, &success);
        } else {
            success.invalid("requires indexed completion mode");
        }
    }
    let replacement = spec.get("podReplacementPolicy");
    let known: &[&str] =
        if spec.get("podFailurePolicy").is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    replacement.must(&Rule::OneOf(known));
    pod_template(&spec.get("template"));
    restart_policy(spec);
}

fn completion_mode(spec: &Field<'_>) {
    let mode = spec.get("completionMode");
    mode.must(&Rule::OneOf(&["NonIndexed", INDEXED]));
    let get = |key: &str| spec.get(key);
    let (per_index, failed, parallelism) = (get("backoffLimitPerIndex"), get("maxFailedIndexes"), get("parallelism"));
    if mode.text() != INDEXED {
        if mode.is_empty() || mode.text() == "NonIndexed" {
            for field in [per_index, failed].iter().filter(|field| field.is_set()) {
                field.invalid("requires indexed completion mode");
            }
        }
        return;
    }
    let completions = get("completions");
    if !completions.is_set() {
        completions.required("when completion mode is Indexed");
    }
    if parallelism.count() > INDEXED_MAX {
        parallelism.invalid(format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed"));
    }
    if completions.is_set() && failed.count() > completions.count() {
        failed.invalid("must be less than or equal to completions");
    }
    if failed.count() > INDEXED_MAX {
        failed.invalid(format!("must be less than or equal to {INDEXED_MAX}"));
    }
    if completions.count() > MANY_COMPLETIONS && per_index.is_set() {
        if !failed.is_set() {
            failed.required(format!("must be specified when completions is above {MANY_COMPLETIONS}"));
        }
        for field in [parallelism, failed].iter().filter(|field| field.count() > MANY_COMPLETIONS_MAX) {
            field.invalid(format!(
                "must be less than or equal to {MANY_COMPLETIONS_MAX} when completions are above {MANY_COMPLETIONS} and \
                 used with backoff limit per index"
            ));
        }
    }
}

fn restart_policy(spec: &Field<'_>) {
    let policy = spec.at("template.spec.restartPolicy");
    match policy.text() {
        "Always" | "" => policy.required("valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.get("podFailurePolicy").is_set() => {
            policy.invalid("only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        _ => policy.unsupported(&["OnFailure", "Never"]),
    }
}

fn validate_update(old: &Field<'_>, new: &Field<'_>, started: bool) {
    let (was, is) = (old.get("completions"), new.get("completions"));
    if new.text_of("completionMode") != INDEXED {
        is.unchanged(&was);
    } else if is.value() != was.value() && is.is_set() && is.value() != new.get("parallelism").value() {
        is.invalid("can only be modified in tandem with spec.parallelism");
    }
    let mut before = old.get("template").value().clone();
    if old.get("suspend").is_true() && !started {
        allow_scheduling_directives(&mut before, new.get("template").value());
    }
    new.get("template").unchanged(&old.get("template").with(&before));
}

/// A job that has not started may still change where its pods go.
fn allow_scheduling_directives(before: &mut Value, after: &Value) {
    for key in ["labels", "annotations"] {
        take(child(before, "metadata"), deep(after, &["metadata", key]), key);
    }
    for key in ["nodeSelector", "tolerations", "schedulingGates"] {
        take(child(before, "spec"), deep(after, &["spec", key]), key);
    }
    let node_affinity = deep(after, &["spec", "affinity", "nodeAffinity"]).cloned();
    let spec = child(before, "spec");
    if at(spec, "affinity").is_some() || deep(after, &["spec", "affinity"]).is_some() {
        take(child(spec, "affinity"), node_affinity.as_ref(), "nodeAffinity");
        if deep(after, &["spec", "affinity"]).is_none()
            && at(spec, "affinity").is_some_and(|a| *a == Value::Object(Map::new()))
        {
            super::field::unset(spec, "affinity");
        }
    }
    if at(after, "metadata").is_none() && at(before, "metadata").is_some_and(|m| *m == Value::Object(Map::new())) {
        super::field::unset(before, "metadata");
    }
}

fn take(into: &mut Value, from: Option<&Value>, key: &str) {
    match from {
        Some(value) => set(into, key, value.clone()),
        None => super::field::unset(into, key),
    }
}

fn name_warnings(job: &Value) -> Vec<String> {
    let wrong = names::dns1123_label(meta::name(job));
    if wrong.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is \
         recommended: [{}]",
        wrong.join(" ")
    )]
}

fn spec_warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let number = |key: &str| at(spec, key).and_then(Value::as_i64).unwrap_or(0);
    if super::field::text(spec, "completionMode") == INDEXED
        && number("completions") > MANY_COMPLETIONS
        && number("parallelism") > MANY_COMPLETIONS_MAX
    {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    warnings.extend(template_warnings(spec, &["template"], &format!("{path}.template")));
    warnings
}
