//! CronJob, and the schedules it may have.

use serde_json::Value;

use super::super::field::{at, deep};
use super::super::pod;
use super::super::rules::{Declared, Field, Rule};
use super::{name_warnings, spec_warnings, validate_spec};

/// The controller appends eleven characters to name a job, whose name may have 63.
const NAME_MAX: usize = 52;

/// CronJob.
pub static CRON_JOB: Declared = Declared {
    generation: true,
    default: |object| pod::default_spec_of(object, &["spec", "jobTemplate", "spec", "template", "spec"]),
    rules: &[
        ("spec.schedule", &[Rule::Required(""), Rule::Check(well_formed)]),
        ("spec.startingDeadlineSeconds", &[Rule::NonNegative]),
        ("spec.concurrencyPolicy", &[Rule::OneOf(&["Allow", "Forbid", "Replace"])]),
        ("spec.successfulJobsHistoryLimit", &[Rule::NonNegative]),
        ("spec.failedJobsHistoryLimit", &[Rule::NonNegative]),
        ("spec", &[Rule::Check(|spec| job_template(&spec.at("jobTemplate.spec")))]),
    ],
    create: &[
        ("spec.schedule", &[Rule::Check(without_zone)]),
        ("spec.timeZone", &[Rule::Check(time_zone)]),
        (
            "metadata.name",
            &[Rule::Check(|name| {
                if name.len() > NAME_MAX {
                    name.invalid(format!("must be no more than {NAME_MAX} characters"));
                }
            })],
        ),
    ],
    update: |subresource, old, new| {
        if !subresource.is_empty() {
            return;
        }
        let (schedule, zone) = (new.at("spec.schedule"), new.at("spec.timeZone"));
        if !old.at("spec.schedule").text().contains("TZ") {
            without_zone(&schedule);
        } else if schedule.text().contains("TZ") && zone.is_set() {
            schedule.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
        if old.at("spec.timeZone").value() != zone.value() && zone.is_set() {
            time_zone(&zone);
        }
    },
    warnings: |object| {
        let mut warnings = name_warnings(object);
        let spec = deep(object, &["spec", "jobTemplate", "spec"]).unwrap_or(&Value::Null);
        warnings.extend(spec_warnings(spec, "spec.jobTemplate.spec"));
        if at(object, "spec").and_then(|spec| spec.get("schedule")?.as_str()).is_some_and(|s| s.contains("TZ")) {
            warnings.push(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
        warnings
    },
    ..Declared::PLAIN
};

fn job_template(spec: &Field<'_>) {
    validate_spec(spec);
    if spec.get("selector").is_set() {
        spec.get("selector").invalid("`selector` will be auto-generated");
    }
    if spec.get("manualSelector").is_true() {
        spec.get("manualSelector").unsupported(&["nil", "false"]);
    }
}

fn well_formed(schedule: &Field<'_>) {
    if !schedule.is_empty()
        && let Err(why) = check(schedule.text())
    {
        schedule.invalid(why);
    }
}

fn without_zone(schedule: &Field<'_>) {
    if schedule.text().contains("TZ") {
        schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

fn time_zone(zone: &Field<'_>) {
    let name = zone.text();
    if name.is_empty() {
        zone.invalid("timeZone must be nil or non-empty string");
        return;
    }
    let part_fits = |part: &str| {
        (1..=14).contains(&part.len())
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
    };
    if !name.split('/').all(part_fits) {
        zone.invalid(format!("unknown time zone {name}"));
        return;
    }
    if name.eq_ignore_ascii_case("local") {
        zone.invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if jiff::tz::TimeZone::get(name).is_err() {
        zone.invalid(format!("unknown time zone {name}"));
    }
}

/// A field of a schedule: its limits and the names of its values.
struct Unit {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const UNITS: [Unit; 5] = [
    Unit { low: 0, high: 59, names: &[] },
    Unit { low: 0, high: 23, names: &[] },
    Unit { low: 1, high: 31, names: &[] },
    Unit { low: 1, high: 12, names: MONTHS },
    Unit { low: 0, high: 6, names: DAYS },
];
const DESCRIPTORS: &[&str] = &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// What is wrong with a schedule, in the words of the library that Kubernetes reads schedules with.
pub fn check(schedule: &str) -> Result<(), String> {
    if schedule.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let mut schedule = schedule;
    if let Some(zoned) = schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        let Some((zone, rest)) = zoned.split_once(' ') else {
            return Err(format!("invalid cron schedule: {schedule}"));
        };
        if jiff::tz::TimeZone::get(zone).is_err() {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        schedule = rest.trim();
    }
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != UNITS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, unit) in fields.iter().zip(&UNITS) {
        field.split(',').filter(|range| !range.is_empty()).try_for_each(|range| check_range(range, unit))?;
    }
    Ok(())
}

fn descriptor(text: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&text) {
        return Ok(());
    }
    match text.strip_prefix("@every ") {
        Some(duration) if super::super::names::go_duration(duration).is_some() => Ok(()),
        Some(duration) => {
            Err(format!("failed to parse duration {text}: time: invalid duration {}", crate::error::quote(duration)))
        }
        None => Err(format!("unrecognized descriptor: {text}")),
    }
}

fn check_range(text: &str, unit: &Unit) -> Result<(), String> {
    let steps: Vec<&str> = text.split('/').collect();
    let limits: Vec<&str> = steps[0].split('-').collect();
    let (from, mut to) = match limits.as_slice() {
        ["*" | "?", ..] => (unit.low, unit.high),
        [one] => {
            let value = number(one, unit)?;
            (value, value)
        }
        [from, to] => (number(from, unit)?, number(to, unit)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match steps.as_slice() {
        [_] => 1,
        [_, step] => {
            if limits.len() == 1 {
                to = unit.high;
            }
            integer(step)?
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if from < unit.low {
        return Err(format!("beginning of range ({from}) below minimum ({}): {text}", unit.low));
    }
    if to > unit.high {
        return Err(format!("end of range ({to}) above maximum ({}): {text}", unit.high));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn number(text: &str, unit: &Unit) -> Result<u32, String> {
    match unit.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        Some(at) => Ok(unit.low + at as u32),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(negative) if negative < 0 => Err(format!("negative number ({negative}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => Err(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {}: invalid syntax",
            crate::error::quote(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules_are_judged_in_the_words_of_kubernetes() {
        for good in ["* * * * *", "*/5 0-12 1,15 JAN-mar sun", "@hourly", "@every 1h30m", "0 0 ? * 1/2"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let cases = [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every soon", "failed to parse duration @every soon: time: invalid duration \"soon\""),
        ];
        for (schedule, wanted) in cases {
            assert_eq!(check(schedule), Err(wanted.to_owned()), "{schedule}");
        }
    }
}
