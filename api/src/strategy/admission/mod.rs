//! The kinds of admissionregistration.k8s.io: webhooks here, policies with their bindings in [`policies`].

mod policies;

use std::sync::LazyLock;

pub use self::policies::{MUTATING_BINDING, MUTATING_POLICY, VALIDATING_BINDING, VALIDATING_POLICY};
use super::names;
use super::rules::{Declared, Field, Rule};
use crate::cel::{Request, Type};
use crate::error::FieldError;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MATCH_CONDITIONS_MAX: usize = 64;

/// MutatingWebhookConfiguration.
pub static MUTATING_WEBHOOKS: Declared = Declared {
    generation: true,
    unconditional_update: false,
    rules: &[
        ("webhooks", &[Rule::Distinct("name")]),
        ("webhooks[]", &[Rule::Check(webhook)]),
        ("webhooks[].reinvocationPolicy", &[Rule::OneOf(&["IfNeeded", "Never"])]),
    ],
    ..Declared::PLAIN
};

/// ValidatingWebhookConfiguration.
pub static VALIDATING_WEBHOOKS: Declared = Declared {
    generation: true,
    unconditional_update: false,
    rules: &[("webhooks", &[Rule::Distinct("name")]), ("webhooks[]", &[Rule::Check(webhook)])],
    ..Declared::PLAIN
};

fn webhook(hook: &Field<'_>) {
    let name = hook.get("name");
    name.must(&Rule::Required(""));
    name.must(&Rule::Text(names::fully_qualified));
    hook.get("rules").items().for_each(|rule| rule_with_operations(&rule));
    hook.get("failurePolicy").must(&Rule::OneOf(&["Fail", "Ignore"]));
    hook.get("matchPolicy").must(&Rule::OneOf(&["Equivalent", "Exact"]));
    hook.get("sideEffects").required_one_of(&["None", "NoneOnDryRun"], "must specify one of None, NoneOnDryRun");
    let timeout = hook.get("timeoutSeconds");
    if timeout.is_set() && !(1..=30).contains(&timeout.count()) {
        timeout.invalid("the timeout value must be between 1 and 30 seconds");
    }
    hook.get("namespaceSelector").must(&Rule::Selector);
    hook.get("objectSelector").must(&Rule::Selector);
    let client = hook.get("clientConfig");
    let (url, service) = (client.get("url"), client.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => self::url(&url),
        (false, true) => self::service(&service),
        _ => client.required("exactly one of url or service is required"),
    }
    match_conditions(&hook.get("matchConditions"), &WEBHOOK);
    review_versions(&hook.get("admissionReviewVersions"));
}

/// Demands an `https` URL without user, query or fragment.
pub(super) fn url(url: &Field<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let refuse = |shown: &str, detail: String| url.report(FieldError::invalid(url.path(), shown, detail));
    let text = url.text();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if scheme != "https" {
        refuse(scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        refuse(host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        refuse(user, "user information is not permitted in the URL".to_owned());
    }
    if !fragment.is_empty() {
        refuse(fragment, "fragments are not permitted in the URL".to_owned());
    }
    if !query.is_empty() {
        refuse(query, "query parameters are not permitted in the URL".to_owned());
    }
}

/// Validates a reference to the Service behind which a webhook is.
pub(super) fn service(service: &Field<'_>) {
    service.get("name").must(&Rule::Required(""));
    service.get("namespace").must(&Rule::Required(""));
    let (port, path) = (service.get("port"), service.get("path"));
    for detail in names::port_number(port.count()) {
        port.invalid(format!("port is not valid: {detail}"));
    }
    match path.text() {
        "" | "/" => {}
        "//" => path.invalid("segment[0] may not be empty"),
        text => {
            if !text.starts_with('/') {
                path.invalid("must start with a '/'");
            }
            let rest = text.get(1..).unwrap_or_default();
            for (at, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
                if step.is_empty() {
                    path.invalid(format!("segment[{at}] may not be empty"));
                    continue;
                }
                for detail in names::dns1123_subdomain(step) {
                    path.invalid(format!("segment[{at}]: {detail}"));
                }
            }
        }
    }
}

/// What the expressions of webhooks may name.
static WEBHOOK: LazyLock<Request> = LazyLock::new(|| Request::new(false));

fn match_conditions(conditions: &Field<'_>, request: &Request) {
    conditions.must(&Rule::Max(MATCH_CONDITIONS_MAX));
    for condition in conditions.items() {
        let expression = condition.get("expression");
        expression_of(&expression, request, &[Type::Bool], "");
        let name = condition.get("name");
        name.must(&Rule::Required(""));
        name.must(&Rule::Text(names::qualified));
    }
    conditions.must(&Rule::Distinct("name"));
}

/// Demands an expression that compiles to one of these types.
fn expression_of(expression: &Field<'_>, request: &Request, wanted: &[Type], missing: &str) {
    let text = expression.text().trim();
    if text.is_empty() {
        expression.required(missing);
    } else if let Err(error) = request.compile(text, wanted) {
        expression.invalid(error.to_string());
    }
}

fn review_versions(versions: &Field<'_>) {
    if versions.is_empty() {
        versions.required("must specify one of v1, v1beta1");
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in versions.items() {
        if seen.contains(&version.text()) {
            version.invalid("duplicate version");
            continue;
        }
        seen.push(version.text());
        names::dns1035_label(version.text()).into_iter().for_each(|detail| version.invalid(detail));
    }
    if !seen.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        versions.invalid("must include at least one of v1, v1beta1");
    }
}

fn has_wildcard(list: &Field<'_>) -> bool {
    list.items().any(|item| item.text() == "*")
}

fn rule_with_operations(rule: &Field<'_>) {
    let lists = [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")];
    for (field, others) in lists {
        let list = rule.get(field);
        list.must(&Rule::Required(""));
        if list.len() > 1 && has_wildcard(&list) {
            list.invalid(format!("if '*' is present, must not specify other {others}"));
        }
    }
    rule.get("operations").items().for_each(|operation| operation.one_of(&OPERATIONS));
    rule.get("apiVersions").items().for_each(|version| version.must(&Rule::Required("")));
    resources(&rule.get("resources"));
    rule.get("scope").must(&Rule::OneOf(&["*", "Cluster", "Namespaced"]));
}

/// Resources with their subresources, of which none may be covered by another.
fn resources(resources: &Field<'_>) {
    resources.must(&Rule::Required(""));
    let (mut everything, mut all, mut plain) = (false, false, false);
    let (mut wild_subs, mut wild_resources): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for one in resources.items() {
        let text = one.text();
        one.must(&Rule::Required(""));
        everything |= text == "*/*";
        all |= text == "*";
        let Some((resource, sub)) = text.split_once('/') else {
            plain |= text != "*";
            continue;
        };
        if wild_subs.contains(&resource) {
            one.invalid(format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if wild_resources.contains(&sub) {
            one.invalid(format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            wild_subs.push(resource);
        }
        if resource == "*" {
            wild_resources.push(sub);
        }
    }
    if resources.len() > 1 && everything {
        resources.invalid("if '*/*' is present, must not specify other resources");
    }
    if all && plain {
        resources.invalid("if '*' is present, must not specify other resources without subresources");
    }
}

fn match_resources(resources: &Field<'_>) {
    resources.get("matchPolicy").must(&Rule::OneOf(&["Equivalent", "Exact"]));
    resources.get("namespaceSelector").must(&Rule::Selector);
    resources.get("objectSelector").must(&Rule::Selector);
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.get(list).items() {
            let named = rule.get("resourceNames");
            for name in named.items() {
                names::segment(name.text()).into_iter().for_each(|detail| name.invalid(detail));
            }
            named.must(&Rule::Distinct(""));
            rule_with_operations(&rule);
        }
    }
}
