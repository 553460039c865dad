//! Small kinds about how pods run: PriorityClass, RuntimeClass, PodDisruptionBudget; and APIService.

use super::apps::int_or_percent_amount;
use super::field::{deep, entries};
use super::names::{self, NameRule};
use super::pod;
use super::rules::{Declared, Field, Rule};
use crate::error::{FieldError, quote};
use crate::meta;

/// The highest priority that is not the system's own.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// The classes of the system, by name and value.
pub const SYSTEM_PRIORITIES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// PriorityClass.
pub static PRIORITY_CLASS: Declared = Declared {
    generation: true,
    rules: &[("", &[Rule::Check(priority)]), ("preemptionPolicy", &[Rule::OneOf(&["PreemptLowerPriority", "Never"])])],
    immutable: &["preemptionPolicy"],
    update: |subresource, old, new| {
        if subresource.is_empty() && old.get("value").count() != new.get("value").count() {
            new.get("value").forbidden("may not be changed in an update.");
        }
    },
    ..Declared::PLAIN
};

/// RuntimeClass.
pub static RUNTIME_CLASS: Declared = Declared {
    unconditional_update: false,
    rules: &[
        ("handler", &[Rule::Always(|handler| handler.judge(names::dns1123_label))]),
        ("overhead.podFixed{}", &[Rule::Check(super::storage::not_negative)]),
        ("scheduling.nodeSelector", &[Rule::Labels]),
        (
            "scheduling.tolerations",
            &[Rule::Check(|tolerations| {
                let mut seen: Vec<[&str; 4]> = Vec::new();
                for toleration in tolerations.items() {
                    pod::toleration(toleration.value(), toleration.path(), &mut toleration.errors());
                    let key = ["key", "operator", "value", "effect"].map(|key| toleration.text_of(key));
                    if seen.contains(&key) {
                        toleration.duplicate();
                    }
                    seen.push(key);
                }
            })],
        ),
    ],
    immutable: &["handler"],
    warnings: |class| {
        let labels =
            deep(class, &["scheduling"]).into_iter().flat_map(|scheduling| entries(scheduling, "nodeSelector"));
        let old = labels.filter_map(|(label, _)| pod::old_node_label(label));
        old.map(|why| format!("scheduling.nodeSelector: {why}")).collect()
    },
    ..Declared::PLAIN
};

/// PodDisruptionBudget.
pub static POD_DISRUPTION_BUDGET: Declared = Declared {
    generation: true,
    unconditional_update: false,
    rules: &[
        (
            "spec",
            &[Rule::Check(|spec| {
                if spec.get("minAvailable").is_set() && spec.get("maxUnavailable").is_set() {
                    spec.invalid("minAvailable and maxUnavailable cannot be both set");
                }
            })],
        ),
        ("spec.minAvailable", &[Rule::IntOrPercent, Rule::Check(at_most_all)]),
        ("spec.maxUnavailable", &[Rule::IntOrPercent, Rule::Check(at_most_all)]),
        ("spec.selector", &[Rule::Selector]),
        ("spec.unhealthyPodEvictionPolicy", &[Rule::OneOf(&["AlwaysAllow", "IfHealthyBudget"])]),
    ],
    status: &[
        ("status.conditions[]", &[Rule::Check(condition)]),
        ("status.disruptionsAllowed", &[Rule::NonNegative]),
        ("status.currentHealthy", &[Rule::NonNegative]),
        ("status.desiredHealthy", &[Rule::NonNegative]),
        ("status.expectedPods", &[Rule::NonNegative]),
    ],
    ..Declared::PLAIN
};

/// PodGroup.
pub static POD_GROUP: Declared = Declared {
    generation: true,
    rules: &[("spec.minMember", &[Rule::Positive]), ("spec.scheduleTimeoutSeconds", &[Rule::NonNegative])],
    ..Declared::PLAIN
};

/// APIService.
pub static API_SERVICE: Declared = Declared {
    names: NameRule::PathSegment,
    rules: &[("", &[Rule::Check(api_service)])],
    status: &[("status.conditions[].status", &[Rule::OneOf(&["True", "False", "Unknown"])])],
    ..Declared::PLAIN
};

fn priority(class: &Field<'_>) {
    let (name, value) = (meta::name(class.value()), class.get("value"));
    if name.starts_with("system-") {
        let reserved = "priority class names with 'system-' prefix are reserved for system use only. error: ";
        let at = class.at("metadata.name");
        match SYSTEM_PRIORITIES.iter().find(|(known, ..)| *known == name) {
            None => at.forbidden(format!("{reserved}{name} is not a known system priority class")),
            Some((_, known, _)) if *known != value.count() => {
                at.forbidden(format!("{reserved}value of {name} PriorityClass must be {known}"));
            }
            Some(_) if class.get("globalDefault").is_true() => {
                at.forbidden(format!("{reserved}globalDefault of {name} PriorityClass must be false"));
            }
            Some(_) => {}
        }
    } else if value.count() > USER_PRIORITY_MAX {
        value.forbidden(format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"));
    }
}

fn at_most_all(part: &Field<'_>) {
    if part.value().is_string() && int_or_percent_amount(part.value()).is_some_and(|percent| percent > 100) {
        part.invalid("must not be greater than 100%");
    }
}

/// A condition in the form that most kinds share.
pub(super) fn condition(condition: &Field<'_>) {
    let kind = condition.get("type");
    kind.must(&Rule::Required("must be set"));
    kind.must(&Rule::Text(names::qualified));
    condition.get("status").one_of(&["False", "True", "Unknown"]);
    condition.get("observedGeneration").must(&Rule::NonNegative);
    condition.get("lastTransitionTime").must(&Rule::Required("must be set"));
    let reason = condition.get("reason");
    reason.must(&Rule::Required("must be set"));
    let fits = |text: &str| {
        let bytes = text.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphabetic)
            && bytes.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':'))
    };
    if !reason.is_empty() && !fits(reason.text()) {
        reason.invalid(
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
             characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
             'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
             '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
        );
    }
    reason.must(&Rule::Max(1024));
    condition.get("message").must(&Rule::Max(32 * 1024));
}

fn api_service(service: &Field<'_>) {
    let spec = service.get("spec");
    let (group, version) = (spec.get("group"), spec.get("version"));
    let wanted = format!("{}.{}", version.text(), group.text());
    if meta::name(service.value()) != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {}", quote(&wanted));
        service.at("metadata.name").invalid(detail);
    }
    if group.is_empty() && version.text() != "v1" {
        group.required("only v1 may have an empty group and it better be legacy kube");
    }
    group.must(&Rule::Text(names::dns1123_subdomain));
    names::dns1035_label(version.text()).into_iter().for_each(|detail| version.invalid(detail));
    for (key, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        if !(1..=max).contains(&spec.get(key).count()) {
            let value = spec.get(key).count();
            let detail = format!("must be positive and less than {max}");
            spec.report(FieldError::invalid(spec.get(key).path(), value, detail));
        }
    }
    let (backend, bundle, skip) = (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !backend.is_set() {
        if !bundle.is_empty() {
            let size = bundle.len() / 4 * 3 - bundle.text().bytes().rev().take_while(|b| *b == b'=').count();
            let detail = "local APIServices may not have a caBundle";
            spec.report(FieldError::invalid(bundle.path(), format!("{size} bytes"), detail));
        }
        if skip.is_true() {
            skip.invalid("local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    backend.get("namespace").must(&Rule::Required(""));
    backend.get("name").must(&Rule::Required(""));
    let port = backend.get("port");
    for detail in names::port_number(port.count()) {
        port.invalid(format!("port is not valid: {detail}"));
    }
    if skip.is_true() && !bundle.is_empty() {
        skip.invalid("may not be true if caBundle is present");
    }
}
