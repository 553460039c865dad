//! What a job's status may say, and how it may change.
//!
//! A rule about a field holds when the field changes, so that a status that was wrong before can still be completed.

use super::INDEXED;
use super::policy::{intervals, overlap};
use crate::strategy::rules::{Field, Rule};

/// A job's status with the questions that the rules ask.
struct Status<'a> {
    job: &'a Field<'a>,
    status: Field<'a>,
}

impl<'a> Status<'a> {
    fn new(job: &'a Field<'a>) -> Self {
        Status { job, status: job.get("status") }
    }

    fn is(&self, condition: &str) -> bool {
        self.has(condition, "True")
    }

    fn has(&self, condition: &str, value: &str) -> bool {
        let conditions = self.status.get("conditions");
        conditions.items().any(|c| c.text_of("type") == condition && c.text_of("status") == value)
    }

    fn finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn get(&self, key: &str) -> Field<'a> {
        self.status.get(key)
    }

    fn spec(&self, key: &str) -> Field<'a> {
        self.job.get("spec").get(key)
    }
}

/// Validates a status in the light of the one before.
pub(super) fn validate_update(old: &Field<'_>, new: &Field<'_>) {
    let (old, new) = (Status::new(old), Status::new(new));
    counts(&new);
    uncounted(&new);
    conditions(&old, &new);
    times(&old, &new);
    finished(&old, &new);
    indexes(&old, &new);
    for terminal in ["Failed", "Complete", "FailureTarget"] {
        if old.is(terminal) && !new.is(terminal) {
            new.get("conditions").refuse(format!("cannot disable the terminal {terminal}=True condition"));
        }
    }
    if new.get("failed").count() < old.get("failed").count() {
        new.get("failed").invalid("cannot decrease the failed counter");
    }
    let scalable = new.spec("completionMode").text() == INDEXED
        && new.spec("completions").value() == new.spec("parallelism").value();
    if !scalable && new.get("succeeded").count() < old.get("succeeded").count() {
        new.get("succeeded").invalid("cannot decrease the succeeded counter");
    }
}

fn changed(old: &Status<'_>, new: &Status<'_>, key: &str) -> bool {
    old.get(key).value() != new.get(key).value()
}

fn counts(new: &Status<'_>) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        new.get(field).must(&Rule::NonNegative);
    }
}

fn uncounted(new: &Status<'_>) {
    let mut seen = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in new.get("uncountedTerminatedPods").get(list).items() {
            if uid.is_empty() {
                uid.invalid("must not be empty");
            } else if seen.contains(&uid.text()) {
                uid.duplicate();
            } else {
                seen.push(uid.text());
            }
        }
    }
}

fn conditions(old: &Status<'_>, new: &Status<'_>) {
    let at = new.get("conditions");
    let flipped = |condition: &str| old.is(condition) != new.is(condition);
    let (complete, failed) = (flipped("Complete"), flipped("Failed"));
    if (complete || failed) && new.is("Complete") && new.is("Failed") {
        at.refuse("cannot set Complete=True and Failed=true conditions");
    }
    if (complete || flipped("FailureTarget")) && new.is("Complete") && new.is("FailureTarget") {
        at.refuse("cannot set Complete=True and FailureTarget=true conditions");
    }
    if (failed || changed(old, new, "failedIndexes")) && new.is("Failed") && !new.is("FailureTarget") {
        at.refuse("cannot set Failed=True condition without the FailureTarget=true condition");
    }
    let met = "SuccessCriteriaMet";
    if (complete || flipped(met)) && new.is("Complete") && !new.is(met) {
        at.refuse("cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
    if new.is(met) && new.is("Failed") {
        at.refuse("cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if new.is(met) && new.is("FailureTarget") {
        at.refuse("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if new.spec("successPolicy").is_set() && !new.is(met) && new.is("Complete") {
        at.refuse("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
    if old.is(met) && !new.is(met) {
        at.refuse("cannot disable the SuccessCriteriaMet=True condition");
    }
    if old.is("Complete") && !old.is(met) && new.is(met) {
        at.refuse("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}

fn times(old: &Status<'_>, new: &Status<'_>) {
    let (start, completion) = (new.get("startTime"), new.get("completionTime"));
    let (started, completed) = (changed(old, new, "startTime"), changed(old, new, "completionTime"));
    let became_complete = old.is("Complete") != new.is("Complete");
    if (became_complete || completed) && completion.is_set() && !new.is("Complete") {
        completion.invalid("cannot set completionTime when there is no Complete=True condition");
    }
    if (became_complete || completed) && !completion.is_set() && new.is("Complete") {
        completion.required("completionTime is required for Complete jobs");
    }
    // Times are in one form, whose order as texts is that of time.
    if (started || completed) && start.is_set() && completion.is_set() && completion.text() < start.text() {
        completion.invalid("must be equal to or after `startTime`");
    }
    if completion.is_set() && old.get("completionTime").is_set() && completed {
        completion.invalid("field is immutable");
    }
    let resuming = old.has("Suspended", "True") && new.has("Suspended", "False");
    if started && old.get("startTime").is_set() && !new.spec("suspend").is_true() && !resuming {
        start.required("startTime cannot be removed for unsuspended job");
    }
}

fn finished(old: &Status<'_>, new: &Status<'_>) {
    let flipped = old.finished() != new.finished();
    let ready = new.get("ready");
    if (changed(old, new, "ready") || changed(old, new, "active")) && ready.count() > new.get("active").count() {
        ready.invalid("cannot set more ready pods than active");
    }
    if !new.finished() {
        return;
    }
    if (flipped || changed(old, new, "active")) && new.get("active").count() > 0 {
        new.get("active").invalid("active>0 is invalid for finished job");
    }
    let nothing_to_do = new.spec("suspend").is_true() && new.spec("completions").int() == Some(0);
    if (flipped || changed(old, new, "startTime")) && !nothing_to_do && !new.get("startTime").is_set() {
        new.get("startTime").required("startTime is required for finished job");
    }
    let uncounted = new.get("uncountedTerminatedPods");
    if (flipped || changed(old, new, "uncountedTerminatedPods"))
        && !(uncounted.get("succeeded").is_empty() && uncounted.get("failed").is_empty())
    {
        uncounted.invalid("must be empty for finished job");
    }
    if (flipped || changed(old, new, "terminating")) && new.get("terminating").count() > 0 {
        new.get("terminating").invalid("terminating>0 is invalid for finished job");
    }
}

fn indexes(old: &Status<'_>, new: &Status<'_>) {
    let (completed, failed) = (new.get("completedIndexes"), new.get("failedIndexes"));
    let (completed_changed, failed_changed) =
        (changed(old, new, "completedIndexes"), changed(old, new, "failedIndexes"));
    let completions = new.spec("completions");
    let per_index = new.spec("backoffLimitPerIndex").is_set();
    if completed_changed
        && completions.is_set()
        && let Err(why) = intervals(completed.text(), completions.count())
    {
        completed.invalid(format!("error parsing completedIndexes: {why}"));
    }
    if failed_changed
        && completions.is_set()
        && per_index
        && let Err(why) = intervals(failed.text(), completions.count())
    {
        failed.invalid(format!("error parsing failedIndexes: {why}"));
    }
    if completed_changed && !completed.is_empty() && new.spec("completionMode").text() != INDEXED {
        completed.invalid("cannot set non-empty completedIndexes when non-indexed completion mode");
    }
    if failed_changed && failed.is_set() && !per_index {
        failed.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null");
    }
    if (completed_changed || failed_changed)
        && completions.is_set()
        && let Some(index) = overlap(completed.text(), failed.text(), completions.count())
    {
        failed.invalid(format!("failedIndexes and completedIndexes overlap at index: {index}"));
    }
}
