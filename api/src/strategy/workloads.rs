//! The kinds that hold a pod template: StatefulSet, DaemonSet, ReplicationController, PodTemplate, and
//! ControllerRevision, which keeps old ones.

use serde_json::{Map, Value, json};

use super::apps::int_or_percent_amount as amount;
use super::field::{at, child, deep, list_mut, set, set_default, text, unset};
use super::rules::{Declared, Field, Rule};
use super::{NameRule, names, pod};
use crate::selector::LabelSelector;

/// The annotation in which a DaemonSet's template counts its changes.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// StatefulSet.
pub static STATEFUL_SET: Declared = Declared {
    names: NameRule::Label,
    generation: true,
    default: default_stateful_set,
    prepare_create: |object| {
        // Kubernetes offers this field only behind a switch.
        if let Some(update) = object.pointer_mut("/spec/updateStrategy/rollingUpdate") {
            unset(update, "maxUnavailable");
        }
    },
    rules: &[
        ("spec.podManagementPolicy", &[Rule::Required(""), Rule::Check(pod_management_policy)]),
        ("spec.updateStrategy", &[Rule::Always(stateful_set_update_strategy)]),
        ("spec.persistentVolumeClaimRetentionPolicy.whenDeleted", &[Rule::OneOf(&["Retain", "Delete"])]),
        ("spec.persistentVolumeClaimRetentionPolicy.whenScaled", &[Rule::OneOf(&["Retain", "Delete"])]),
        ("spec.replicas", &[Rule::NonNegative]),
        ("spec.minReadySeconds", &[Rule::NonNegative]),
        ("spec.ordinals.start", &[Rule::NonNegative]),
        ("", &[Rule::Check(|set| selector_and_template(&set.get("spec"), "statefulset", "StatefulSet"))]),
    ],
    create: &[
        ("spec.serviceName", &[Rule::Text(names::dns1123_label)]),
        ("spec.volumeClaimTemplates[]", &[Rule::Check(|claim| super::volumes::claim_spec(&claim.get("spec")))]),
    ],
    status: &[("status", &[Rule::Check(|status| counts(status, STATEFUL_SET_COUNTS, STATEFUL_SET_PARTS))])],
    update: |subresource, old, new| match subresource {
        "" => {
            let (mut was, mut is) = (spec_of(old), spec_of(new));
            for spec in [&mut was, &mut is] {
                STATEFUL_SET_CHANGEABLE.iter().for_each(|field| drop(spec.remove(*field)));
            }
            if was != is {
                new.get("spec").forbidden(
                    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                     'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                     'minReadySeconds' are forbidden",
                );
            }
        }
        "status" => not_decremented(old, new),
        _ => {}
    },
    warnings: |object| {
        let mut warnings = template_warnings(object, &["spec", "template"], "spec.template");
        if deep(object, &["spec", "revisionHistoryLimit"]).and_then(Value::as_i64).is_some_and(|limit| limit < 0) {
            warnings.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is \
                 recommended"
                    .to_owned(),
            );
        }
        warnings
    },
    ..Declared::PLAIN
};

const STATEFUL_SET_CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const STATEFUL_SET_COUNTS: &[&str] = &[
    "replicas",
    "readyReplicas",
    "currentReplicas",
    "updatedReplicas",
    "availableReplicas",
    "observedGeneration",
    "collisionCount",
];
const STATEFUL_SET_PARTS: &[Part] = &[
    ("readyReplicas", "replicas", "status.replicas"),
    ("currentReplicas", "replicas", "status.replicas"),
    ("updatedReplicas", "replicas", "status.replicas"),
    ("availableReplicas", "replicas", "status.replicas"),
    ("availableReplicas", "readyReplicas", "status.readyReplicas"),
];

/// DaemonSet.
pub static DAEMON_SET: Declared = Declared {
    generation: true,
    default: default_daemon_set,
    prepare_create: |object| set(child(child(object, "metadata"), "annotations"), TEMPLATE_GENERATION, "1"),
    prepare_update: |subresource, old, new| {
        let annotation = ["metadata", "annotations", TEMPLATE_GENERATION];
        let before: i64 = deep(old, &annotation).and_then(Value::as_str).and_then(|n| n.parse().ok()).unwrap_or(1);
        let template = |object| deep(object, &["spec", "template"]);
        let changed = subresource.is_none() && template(old) != template(new);
        let after = if changed { before + 1 } else { before };
        set(child(child(new, "metadata"), "annotations"), TEMPLATE_GENERATION, after.to_string());
    },
    rules: &[
        ("spec.minReadySeconds", &[Rule::NonNegative]),
        ("spec.revisionHistoryLimit", &[Rule::NonNegative]),
        ("spec.updateStrategy", &[Rule::Always(daemon_set_update_strategy)]),
        ("", &[Rule::Check(|set| selector_and_template(&set.get("spec"), "daemonset", "DaemonSet"))]),
    ],
    status: &[("status", &[Rule::Check(|status| counts(status, DAEMON_SET_COUNTS, &[]))])],
    immutable: &["spec.selector"],
    update: |subresource, old, new| {
        if subresource == "status" {
            not_decremented(old, new);
        }
    },
    warnings: |object| template_warnings(object, &["spec", "template"], "spec.template"),
    ..Declared::PLAIN
};

const DAEMON_SET_COUNTS: &[&str] = &[
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

/// ReplicationController.
pub static REPLICATION_CONTROLLER: Declared = Declared {
    generation: true,
    default: |object| {
        let Some(template) = deep(object, &["spec", "template"]) else { return };
        let labels = deep(template, &["metadata", "labels"]).cloned();
        pod::default_spec_of(object, &["spec", "template", "spec"]);
        let Some(labels) = labels else { return };
        let empty = |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(Map::is_empty);
        if empty(deep(object, &["spec", "selector"])) {
            set(child(object, "spec"), "selector", labels.clone());
        }
        if empty(deep(object, &["metadata", "labels"])) {
            set(child(object, "metadata"), "labels", labels);
        }
    },
    rules: &[
        ("spec.minReadySeconds", &[Rule::NonNegative]),
        ("spec.replicas", &[Rule::NonNegative]),
        ("", &[Rule::Check(replication_controller)]),
    ],
    status: &[(
        "status",
        &[Rule::Check(|status| counts(status, REPLICATION_CONTROLLER_COUNTS, REPLICATION_CONTROLLER_PARTS))],
    )],
    warnings: |object| {
        let wrong = names::dns1123_label(crate::meta::name(object));
        let mut warnings = Vec::new();
        if !wrong.is_empty() {
            warnings.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS \
                 label is recommended: [{}]",
                wrong.join(" ")
            ));
        }
        warnings.extend(template_warnings(object, &["spec", "template"], "spec.template"));
        warnings
    },
    ..Declared::PLAIN
};

const REPLICATION_CONTROLLER_COUNTS: &[&str] =
    &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
const REPLICATION_CONTROLLER_PARTS: &[Part] = &[
    ("fullyLabeledReplicas", "replicas", "status.replicas"),
    ("readyReplicas", "replicas", "status.replicas"),
    ("availableReplicas", "replicas", "status.replicas"),
    ("availableReplicas", "readyReplicas", "readyReplicas"),
];

/// PodTemplate.
pub static POD_TEMPLATE: Declared = Declared {
    generation: true,
    default: |object| pod::default_spec_of(object, &["template", "spec"]),
    rules: &[("template", &[Rule::Always(pod_template)])],
    warnings: |object| template_warnings(object, &["template"], "template"),
    ..Declared::PLAIN
};

/// ControllerRevision.
pub static CONTROLLER_REVISION: Declared = Declared {
    rules: &[("revision", &[Rule::NonNegative])],
    create: &[(
        "data",
        &[Rule::Always(|data| match data.value() {
            Value::Null => data.required("data is mandatory"),
            Value::Object(_) => {}
            _ => data.required("data must be a valid JSON object"),
        })],
    )],
    immutable: &["data"],
    ..Declared::PLAIN
};

fn default_stateful_set(object: &mut Value) {
    if at(object, "spec").is_none() {
        return;
    }
    pod::default_spec_of(object, &["spec", "template", "spec"]);
    let spec = child(object, "spec");
    let strategy = child(spec, "updateStrategy");
    if text(strategy, "type").is_empty() {
        set(strategy, "type", "RollingUpdate");
        child(strategy, "rollingUpdate");
    }
    if text(strategy, "type") == "RollingUpdate" && at(strategy, "rollingUpdate").is_some() {
        set_default(child(strategy, "rollingUpdate"), "partition", 0);
    }
    for claim in list_mut(spec, "volumeClaimTemplates") {
        set_default(claim, "apiVersion", "v1");
        set_default(claim, "kind", "PersistentVolumeClaim");
    }
}

fn default_daemon_set(object: &mut Value) {
    if at(object, "spec").is_none() {
        return;
    }
    pod::default_spec_of(object, &["spec", "template", "spec"]);
    let strategy = child(child(object, "spec"), "updateStrategy");
    if text(strategy, "type") == "RollingUpdate" {
        let update = child(strategy, "rollingUpdate");
        set_default(update, "maxUnavailable", 1);
        set_default(update, "maxSurge", 0);
    }
}

fn pod_management_policy(policy: &Field<'_>) {
    if !policy.is_empty() && !matches!(policy.text(), "OrderedReady" | "Parallel") {
        policy.invalid("must be 'OrderedReady' or 'Parallel'");
    }
}

fn stateful_set_update_strategy(strategy: &Field<'_>) {
    let update = strategy.get("rollingUpdate");
    match strategy.text_of("type") {
        "" => strategy.required(""),
        "OnDelete" if update.is_set() => update.invalid("only allowed for updateStrategy 'RollingUpdate'"),
        "OnDelete" => {}
        "RollingUpdate" => {
            update.get("partition").must(&Rule::NonNegative);
            let unavailable = update.get("maxUnavailable");
            unavailable.must(&Rule::IntOrPercent);
            if unavailable.is_set() && amount(unavailable.value()) == Some(0) {
                unavailable.invalid("cannot be 0");
            }
            at_most_all(&unavailable);
        }
        _ => strategy.invalid("must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn daemon_set_update_strategy(strategy: &Field<'_>) {
    let update = strategy.get("rollingUpdate");
    match strategy.text_of("type") {
        "OnDelete" => {}
        "RollingUpdate" if !update.is_set() => update.required(""),
        "RollingUpdate" => {
            let (unavailable, surge) = (update.get("maxUnavailable"), update.get("maxSurge"));
            for part in [&unavailable, &surge] {
                part.must(&Rule::IntOrPercent);
                at_most_all(part);
            }
            let some = |part: &Field<'_>| amount(part.value()).unwrap_or(0) != 0;
            match (some(&unavailable), some(&surge)) {
                (true, true) => surge.invalid("may not be set when maxUnavailable is non-zero"),
                (false, false) => unavailable.required("cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => strategy.unsupported(&["RollingUpdate", "OnDelete"]),
    }
}

fn at_most_all(part: &Field<'_>) {
    if part.value().is_string() && amount(part.value()).is_some_and(|percent| percent > 100) {
        part.invalid("must not be greater than 100%");
    }
}

fn replication_controller(controller: &Field<'_>) {
    let spec = controller.get("spec");
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    selector.must(&Rule::Required(""));
    if !template.is_set() {
        template.required("");
        return;
    }
    let labels = template.at("metadata.labels");
    if !selector.is_empty() && !LabelSelector::from_map(selector.value()).matches(labels.value()) {
        labels.invalid("`selector` does not match template `labels`");
    }
    pod_template(&template);
    only_always(&template, "ReplicationController");
}

/// A selector by a set that is there, and a template that fits it.
fn selector_and_template(spec: &Field<'_>, kind: &str, shown: &str) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if !selector.is_set() {
        selector.required("");
    } else {
        selector.must(&Rule::Selector);
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            selector.invalid(format!("empty selector is invalid for {kind}"));
        }
    }
    fits(&selector, &template);
    pod_template(&template);
    only_always(&template, shown);
}

/// The template's labels are among those that the selector selects.
pub(super) fn fits(selector: &Field<'_>, template: &Field<'_>) {
    let labels = template.at("metadata.labels");
    match LabelSelector::from_object(selector.value()) {
        Ok(parsed) if !parsed.is_everything() => {
            let none = json!({});
            let shown = if labels.is_set() { labels.value() } else { &none };
            if !parsed.matches(shown) {
                labels.invalid("`selector` does not match template `labels`");
            }
        }
        Ok(_) => {}
        Err(_) => selector.invalid("invalid label selector"),
    }
}

/// A pod template that must be valid.
pub(super) fn pod_template(template: &Field<'_>) {
    if template.get("spec").is_set() {
        pod::validate_template(template.value(), template.path(), &mut template.errors());
    } else {
        template.at("spec.containers").required("");
    }
}

/// The pods of a set are started again whenever they end, and never given up.
fn only_always(template: &Field<'_>, kind: &str) {
    let policy = template.at("spec.restartPolicy");
    if policy.text() != "Always" && pod::RESTART_POLICIES.contains(&policy.text()) {
        policy.unsupported(&["Always"]);
    }
    let deadline = template.at("spec.activeDeadlineSeconds");
    if deadline.is_set() {
        deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// A part of a status, its whole, and the whole's name in the error.
type Part = (&'static str, &'static str, &'static str);

/// Counts are not negative, and no part is above its whole.
fn counts(status: &Field<'_>, counts: &[&str], parts: &[Part]) {
    counts.iter().for_each(|field| status.get(field).must(&Rule::NonNegative));
    for (part, whole, shown) in parts {
        let part = status.get(part);
        if part.count() > status.get(whole).count() {
            part.invalid(format!("cannot be greater than {shown}"));
        }
    }
}

fn not_decremented(old: &Field<'_>, new: &Field<'_>) {
    let (was, is) = (old.at("status.collisionCount"), new.at("status.collisionCount"));
    if was.is_set() && is.count() < was.count() {
        is.invalid("cannot be decremented");
    }
}

fn spec_of(object: &Field<'_>) -> Map<String, Value> {
    object.value().get("spec").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// What is to be said of a pod template.
pub(super) fn template_warnings(object: &Value, path: &[&str], shown: &str) -> Vec<String> {
    deep(object, path).map(|template| pod::template_warnings(template, shown)).unwrap_or_default()
}
