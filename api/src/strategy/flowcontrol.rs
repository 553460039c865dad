//! FlowSchema and PriorityLevelConfiguration.

use serde_json::{Value, json};

use super::names;
use super::rules::{Declared, Field, Rule};
use crate::error::FieldError;
use crate::meta;

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
const ENTROPY_BITS_MAX: u32 = 60;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// FlowSchema.
pub static FLOW_SCHEMA: Declared = Declared {
    generation: true,
    rules: &[("", &[Rule::Check(flow_schema)]), ("spec.rules[]", &[Rule::Check(flow_rule)])],
    status: CONDITIONS,
    ..Declared::PLAIN
};

/// PriorityLevelConfiguration.
pub static PRIORITY_LEVEL: Declared = Declared {
    generation: true,
    rules: &[("", &[Rule::Check(priority_level)])],
    status: CONDITIONS,
    ..Declared::PLAIN
};

const CONDITIONS: super::rules::Rules =
    &[("status.conditions", &[Rule::Distinct("type")]), ("status.conditions[].type", &[Rule::Required("")])];

/// The spec that a FlowSchema of this name has in every cluster.
pub fn fixed_schema(name: &str) -> Option<Value> {
    let everything = |subjects: Value| {
        json!([{
            "nonResourceRules": [{"nonResourceURLs": ["*"], "verbs": ["*"]}],
            "resourceRules": [{
                "apiGroups": ["*"], "clusterScope": true, "namespaces": ["*"], "resources": ["*"], "verbs": ["*"],
            }],
            "subjects": subjects,
        }])
    };
    let group = |name: &str| json!({"group": {"name": name}, "kind": "Group"});
    match name {
        "exempt" => Some(json!({
            "matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "exempt"},
            "rules": everything(json!([group("system:masters")])),
        })),
        "catch-all" => Some(json!({
            "distinguisherMethod": {"type": "ByUser"}, "matchingPrecedence": 10000,
            "priorityLevelConfiguration": {"name": "catch-all"},
            "rules": everything(json!([group("system:unauthenticated"), group("system:authenticated")])),
        })),
        _ => None,
    }
}

/// The spec that a PriorityLevelConfiguration of this name has in every cluster.
pub fn fixed_level(name: &str) -> Option<Value> {
    match name {
        "exempt" => Some(json!({"exempt": {"lendablePercent": 0, "nominalConcurrencyShares": 0}, "type": "Exempt"})),
        "catch-all" => Some(json!({
            "limited": {"lendablePercent": 0, "limitResponse": {"type": "Reject"}, "nominalConcurrencyShares": 5},
            "type": "Limited",
        })),
        _ => None,
    }
}

fn flow_schema(schema: &Field<'_>) {
    let spec = schema.get("spec");
    let name = meta::name(schema.value());
    let precedence = spec.get("matchingPrecedence");
    if precedence.count() <= 0 {
        precedence.invalid("must be a positive value");
    }
    if precedence.count() > PRECEDENCE_MAX {
        precedence.invalid(format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence.count() == 1 && name != "exempt" {
        precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !matches!(method.text_of("type"), "ByNamespace" | "ByUser") {
        let path = format!("{}.type", method.path());
        method.told_at(path).unsupported(&["ByNamespace", "ByUser"]);
    }
    let level = spec.at("priorityLevelConfiguration.name");
    level.must(&Rule::Required("must reference a priority level"));
    level.must(&Rule::Text(names::dns1123_subdomain));
    if fixed_schema(name).is_some_and(|fixed| fixed != *spec.value()) {
        spec.invalid(format!("spec of '{name}' must equal the fixed value"));
    }
}

fn flow_rule(rule: &Field<'_>) {
    let subjects = rule.get("subjects");
    subjects.must(&Rule::Required("subjects must contain at least one value"));
    subjects.items().for_each(|one| subject(&one));
    let (resources, paths) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        rule.required("at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    resources.items().for_each(|rule| resource_rule(&rule));
    for rule in paths.items() {
        verbs(&rule.get("verbs"));
        let urls = rule.get("nonResourceURLs");
        urls.must(&Rule::Required("nonResourceURLs must contain at least one value"));
        if !only_wildcard(&urls, "non-resource URLs") {
            urls.items().for_each(|url| path(&url));
        }
    }
}

fn subject(subject: &Field<'_>) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.text_of("kind");
    if !KINDS.iter().any(|(known, _)| *known == kind) {
        subject.get("kind").unsupported(&["Group", "ServiceAccount", "User"]);
        return;
    }
    for (known, field) in KINDS {
        let told = subject.get(field);
        match (known == kind, told.is_set()) {
            (true, false) => told.required(format!("{field} is required when subject kind is '{known}'")),
            (false, true) => told.forbidden(format!("{field} is forbidden when subject kind is not '{known}'")),
            (true, true) => told.get("name").must(&Rule::Required("")),
            (false, false) => {}
        }
    }
    let account = subject.get("serviceAccount");
    if kind == "ServiceAccount" && account.is_set() {
        if account.text_of("name") != "*" {
            account.get("name").must(&Rule::Text(names::dns1123_subdomain));
        }
        account.get("namespace").must(&Rule::Required("must specify namespace for service account"));
        account.get("namespace").must(&Rule::Text(names::dns1123_label));
    }
}

/// Whether a list has the wildcard, which then must be alone.
fn only_wildcard(list: &Field<'_>, others: &str) -> bool {
    let wild = list.items().any(|item| item.text() == "*");
    if wild && list.len() > 1 {
        list.invalid(format!("if '*' is present, must not specify other {others}"));
    }
    wild
}

fn verbs(verbs: &Field<'_>) {
    verbs.must(&Rule::Required("verbs must contain at least one value"));
    if !only_wildcard(verbs, "verbs") && verbs.items().any(|verb| !VERBS.contains(&verb.text())) {
        verbs.unsupported(&VERBS);
    }
}

fn resource_rule(rule: &Field<'_>) {
    verbs(&rule.get("verbs"));
    for (field, missing, others) in [
        ("apiGroups", "resource rules must supply at least one api group", "api groups"),
        ("resources", "resource rules must supply at least one resource", "resources"),
    ] {
        rule.get(field).must(&Rule::Required(missing));
        only_wildcard(&rule.get(field), others);
    }
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() && !rule.get("clusterScope").is_true() {
        namespaces.required("resource rules that are not cluster scoped must supply at least one namespace");
    } else if !only_wildcard(&namespaces, "namespaces") {
        for namespace in namespaces.items() {
            for detail in names::dns1123_label(namespace.text()) {
                namespace.invalid(format!("each member of this list must be '*' or a DNS-1123 label; {detail}"));
            }
        }
    }
}

fn path(url: &Field<'_>) {
    let text = url.text();
    let stars = text.matches('*').count();
    if text.is_empty() {
        url.invalid("must not be empty");
    } else if !text.starts_with('/') {
        url.invalid("must start with slash");
    } else if text.contains(' ') {
        url.invalid("must not contain white-space");
    } else if text.contains("//") {
        url.invalid("must not contain double slash");
    } else if stars > 1 || stars == 1 && !text.ends_with("/*") {
        url.invalid("wildcard can only do suffix matching");
    }
}

fn priority_level(level: &Field<'_>) {
    let spec = level.get("spec");
    let name = meta::name(level.value());
    let kind = spec.get("type");
    if (name == "exempt") != (kind.text() == "Exempt") {
        kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'");
    }
    let (limited, exempt) = (spec.get("limited"), spec.get("exempt"));
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden("must be nil if the type is not Limited");
            }
            shares(&exempt);
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden("must be nil if the type is Limited");
            }
            if limited.is_set() {
                limits(&limited);
            } else {
                limited.required("must not be empty when type is Limited");
            }
        }
        _ => kind.unsupported(&["Exempt", "Limited"]),
    }
    let Some(mut fixed) = fixed_level(name) else { return };
    if name == "exempt" {
        if exempt.is_set() {
            fixed["exempt"] = exempt.value().clone();
        } else if let Some(fixed) = fixed.as_object_mut() {
            fixed.remove("exempt");
        }
        if fixed != *spec.value() {
            spec.invalid("spec of 'exempt' except the 'spec.exempt' field must equal the fixed value");
        }
    } else if fixed != *spec.value() {
        spec.invalid(format!("spec of '{name}' must equal the fixed value"));
    }
}

fn shares(level: &Field<'_>) {
    let shares = level.get("nominalConcurrencyShares");
    if shares.count() < 0 {
        shares.invalid("must be a non-negative integer");
    }
    level.get("lendablePercent").must(&Rule::Range(0, 100));
}

fn limits(limited: &Field<'_>) {
    shares(limited);
    let borrowing = limited.get("borrowingLimitPercent");
    if borrowing.count() < 0 {
        borrowing.invalid("if specified, must be a non-negative integer");
    }
    let response = limited.get("limitResponse");
    let queuing = response.get("queuing");
    match response.text_of("type") {
        "Reject" if queuing.is_set() => {
            queuing.forbidden("must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if !queuing.is_set() => queuing.required("must not be empty if limited.limitResponse.type is Limited"),
        "Queue" => self::queuing(&queuing),
        _ => response.get("type").unsupported(&["Queue", "Reject"]),
    }
}

fn queuing(queuing: &Field<'_>) {
    let (length, queues, hand) = (queuing.get("queueLengthLimit"), queuing.get("queues"), queuing.get("handSize"));
    if length.count() <= 0 {
        length.invalid("must be positive");
    }
    if queues.count() <= 0 {
        queues.invalid("must be positive");
    } else if queues.count() > QUEUES_MAX {
        queues.invalid(format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand.count() <= 0 {
        hand.invalid("must be positive");
    } else if hand.count() > queues.count() {
        hand.invalid(format!("should not be greater than queues ({})", queues.count()));
    } else if entropy_bits(queues.count(), hand.count()) > ENTROPY_BITS_MAX {
        let detail = format!(
            "required entropy bits of deckSize {} and handSize {} should not be greater than {ENTROPY_BITS_MAX}",
            queues.count(),
            hand.count()
        );
        hand.report(FieldError::invalid(hand.path(), hand.count(), detail));
    }
}

/// How many bits it takes to deal a hand out of a deck.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    ((deck as f64).log2() * hand as f64).ceil() as u32
}
