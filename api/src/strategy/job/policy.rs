//! When a job fails and when it has succeeded, beyond counting.

use crate::strategy::rules::{Field, Rule};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const INDEXES_BYTES_MAX: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

/// Validates a pod failure policy.
pub(super) fn failure(spec: &Field<'_>) {
    let rules = spec.at("podFailurePolicy.rules");
    rules.must(&Rule::Max(RULES_MAX));
    let template = spec.at("template.spec");
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| template.get(list).items())
        .map(|container| container.text_of("name"))
        .collect();
    for rule in rules.items() {
        let action = rule.get("action");
        match action.text() {
            "" => action.required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
            "FailIndex" if !spec.get("backoffLimitPerIndex").is_set() => {
                action.invalid("requires the backoffLimitPerIndex to be set");
            }
            _ => action.one_of(&ACTIONS),
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.is_set() {
            exit_codes(&codes, &containers);
        }
        pod_conditions(&conditions);
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => rule.refuse("specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => rule.refuse("specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

fn pod_conditions(conditions: &Field<'_>) {
    conditions.must(&Rule::Max(RULES_MAX));
    for pattern in conditions.items() {
        let kind = pattern.get("type");
        crate::selector::label_key_errors(kind.text()).into_iter().for_each(|detail| kind.invalid(detail));
        pattern
            .get("status")
            .required_one_of(&["False", "True", "Unknown"], "valid values: [\"False\" \"True\" \"Unknown\"]");
    }
}

fn exit_codes(codes: &Field<'_>, containers: &[&str]) {
    let operator = codes.get("operator");
    operator.required_one_of(&["In", "NotIn"], "valid values: [\"In\" \"NotIn\"]");
    let container = codes.get("containerName");
    if container.is_set() && !containers.contains(&container.text()) {
        container.invalid("must be one of the container or initContainer names in the pod template");
    }
    let values = codes.get("values");
    if values.is_empty() {
        values.invalid("at least one value is required");
    }
    values.must(&Rule::Max(EXIT_CODES_MAX));
    let mut seen = Vec::new();
    let mut ordered = true;
    for value in values.items() {
        let code = value.count();
        if code == 0 && operator.text() == "In" {
            value.invalid("must not be 0 for the In operator");
        }
        if seen.contains(&code) {
            value.duplicate();
        }
        ordered &= seen.last().is_none_or(|last| *last <= code);
        seen.push(code);
    }
    if !ordered {
        values.invalid("must be ordered");
    }
}

/// Validates a success policy of an indexed job.
pub(super) fn success(spec: &Field<'_>, policy: &Field<'_>) {
    let rules = policy.get("rules");
    rules.must(&Rule::Required("at least one rules must be specified when the successPolicy is specified"));
    rules.must(&Rule::Max(RULES_MAX));
    let completions = spec.get("completions").count();
    for rule in rules.items() {
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            rule.required("at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = 0;
        if indexes.is_set() {
            indexes.must(&Rule::Max(INDEXES_BYTES_MAX));
            match intervals(indexes.text(), completions) {
                Ok(intervals) => total = intervals.iter().map(|(from, to)| to - from + 1).sum(),
                Err(why) => indexes.invalid(format!("error parsing succeededIndexes: {why}")),
            }
        }
        count.must(&Rule::NonNegative);
        if count.count() > completions {
            let limit = format!("must be less than or equal to {completions} (the number of specified completions)");
            count.invalid(limit);
        }
        if count.is_set() && indexes.is_set() && count.count() > total {
            count.invalid(format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            ));
        }
    }
}

/// Reads `1,3-5`, whose numbers must grow and stay below `completions`.
pub(super) fn intervals(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut all: Vec<(i64, i64)> = Vec::new();
    if text.is_empty() {
        return Ok(all);
    }
    for part in text.split(',') {
        let (from, to) = interval(part, completions)?;
        if let Some((_, last)) = all.last().filter(|(_, last)| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        all.push((from, to));
    }
    Ok(all)
}

/// Reads `1` or `3-5`.
pub(super) fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    let quote = crate::error::quote;
    let read = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {}", quote(text))),
        Ok(index) if index >= completions => Err(format!("too large index: {}", quote(text))),
        Ok(index) => Ok(index),
    };
    match limits.as_slice() {
        [one] => read(one).map(|index| (index, index)),
        [from, to] => {
            let (from, to) = (read(from)?, read(to)?);
            if from >= to {
                return Err(format!("non-increasing order, previous: {from}, current: {to}"));
            }
            Ok((from, to))
        }
        _ => Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
            quote(part)
        )),
    }
}

/// Whether two texts of intervals have an index in common.
pub(super) fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let (completed, failed) = (read(completed), read(failed));
    let (mut c, mut f) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some((cx, cy)), Some((fx, fy))) = (c.peek(), f.peek()) {
        if cx <= fy && fx <= cy {
            return Some(*cx.max(fx));
        }
        if cx <= fx {
            c.next();
        } else {
            f.next();
        }
    }
    None
}
