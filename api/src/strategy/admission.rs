//! The kinds of admissionregistration.k8s.io: webhooks, and policies with their bindings. Of expressions, only match
//! conditions are compiled here.

use std::sync::LazyLock;

use super::cluster::condition;
use super::names;
use super::rules::{Declared, Field, Rule};
use crate::cel::{self, Environment, Type};
use crate::error::FieldError;
use crate::meta;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MATCH_CONDITIONS_MAX: usize = 64;
const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_BYTES_MAX: usize = 5 * 1024;

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

/// ValidatingAdmissionPolicy.
pub static VALIDATING_POLICY: Declared = Declared {
    generation: true,
    unconditional_update: false,
    rules: &[("", &[Rule::Check(policy)])],
    status: &[
        ("status.conditions[]", &[Rule::Check(condition)]),
        ("status.typeChecking.expressionWarnings[].warning", &[Rule::Required("")]),
        ("status.typeChecking.expressionWarnings[].fieldRef", &[Rule::Required("")]),
    ],
    ..Declared::PLAIN
};

/// ValidatingAdmissionPolicyBinding.
pub static VALIDATING_BINDING: Declared = Declared {
    generation: true,
    unconditional_update: false,
    rules: &[
        ("spec.policyName", &[Rule::Required(""), Rule::Text(names::dns1123_subdomain)]),
        ("spec.paramRef", &[Rule::Check(param_ref)]),
        ("spec.matchResources", &[Rule::Check(match_resources)]),
        ("spec.validationActions", &[Rule::Always(actions)]),
    ],
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
    match_conditions(&hook.get("matchConditions"));
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

/// What an expression about a request may name. The types of objects are known at run time only, as in Kubernetes.
static REQUEST: LazyLock<Environment> = LazyLock::new(|| {
    ["object", "oldObject", "request", "authorizer", "params", "namespaceObject", "variables"]
        .iter()
        .fold(Environment::new(), |environment, name| environment.with(name, Type::Dyn))
});

fn match_conditions(conditions: &Field<'_>) {
    conditions.must(&Rule::Max(MATCH_CONDITIONS_MAX));
    for condition in conditions.items() {
        let expression = condition.get("expression");
        if expression.text().trim().is_empty() {
            expression.required("");
        } else if let Err(error) = cel::compile(expression.text(), &REQUEST) {
            expression.invalid(format!("compilation failed: {error}"));
        }
        let name = condition.get("name");
        name.must(&Rule::Required(""));
        name.must(&Rule::Text(names::qualified));
    }
    conditions.must(&Rule::Distinct("name"));
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

fn policy(policy: &Field<'_>) {
    let spec = policy.get("spec");
    spec.get("failurePolicy").required_one_of(&["Fail", "Ignore"], "");
    let kind = spec.get("paramKind");
    if kind.is_set() {
        param_kind(&kind);
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        match_resources(&constraints);
        constraints.get("resourceRules").must(&Rule::Required(""));
    } else {
        constraints.required("");
    }
    match_conditions(&spec.get("matchConditions"));
    for variable in spec.get("variables").items() {
        let name = variable.get("name");
        if name.text().trim().is_empty() {
            name.required("name is not specified");
        } else if !is_identifier(name.text()) {
            name.invalid("must be a valid CEL identifier");
        }
        if variable.text_of("expression").trim().is_empty() {
            variable.get("expression").required("expression is not specified");
        }
    }
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        validations.required(detail);
        annotations.required(detail);
        return;
    }
    validations.items().for_each(|one| validation(&one));
    audit_annotations(meta::name(policy.value()), &annotations);
}

fn param_kind(kind: &Field<'_>) {
    let version = kind.get("apiVersion");
    let parts: Vec<&str> = version.text().split('/').collect();
    let refuse = |shown: &str, detail: String| version.report(FieldError::invalid(version.path(), shown, detail));
    match parts.as_slice() {
        [""] => version.required(""),
        [number] => {
            let wrong = names::dns1035_label(number);
            if !wrong.is_empty() {
                refuse(number, wrong.join(","));
            }
        }
        [group, number] => {
            let wrong = names::dns1123_subdomain(group);
            if !group.is_empty() && !wrong.is_empty() {
                refuse(group, wrong.join(","));
            }
            let wrong = names::dns1035_label(number);
            if number.is_empty() {
                refuse(version.text(), "version must be specified".to_owned());
            } else if !wrong.is_empty() {
                refuse(number, wrong.join(","));
            }
        }
        _ => refuse(version.text(), format!("unexpected GroupVersion string: {}", version.text())),
    }
    let name = kind.get("kind");
    let wrong = names::dns1035_label(&name.text().to_lowercase());
    if name.is_empty() {
        name.required("");
    } else if !wrong.is_empty() {
        name.invalid(format!("may have mixed case, but should otherwise match: {}", wrong.join(",")));
    }
}

/// Words that CEL keeps for itself.
const CEL_RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !CEL_RESERVED.contains(&text)
}

fn validation(validation: &Field<'_>) {
    let get = |key: &str| validation.get(key);
    if get("expression").text().trim().is_empty() {
        get("expression").required("expression is not specified");
    }
    for key in ["messageExpression", "message"] {
        if !get(key).is_empty() && get(key).text().trim().is_empty() {
            get(key).invalid("must be non-empty if specified");
        }
    }
    if get("message").text().trim().contains(['\n', '\r']) {
        get("message").invalid("must not contain line breaks");
    }
    get("reason").must(&Rule::OneOf(&["Forbidden", "Invalid", "RequestEntityTooLarge"]));
}

fn audit_annotations(policy: &str, annotations: &Field<'_>) {
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        annotations.invalid(format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations"));
    }
    for annotation in annotations.items() {
        let key = annotation.get("key");
        let whole = format!("{policy}/{}", key.text());
        for detail in names::qualified(&whole) {
            key.report(FieldError::invalid(key.path(), whole.as_str(), detail));
        }
        let expression = annotation.get("valueExpression");
        if expression.text().trim().is_empty() {
            expression.required("valueExpression is not specified");
        } else if expression.text().trim().len() > AUDIT_EXPRESSION_BYTES_MAX {
            expression.required(format!("must not exceed {AUDIT_EXPRESSION_BYTES_MAX} bytes in length"));
        }
    }
    annotations.must(&Rule::Distinct("key"));
}

fn param_ref(reference: &Field<'_>) {
    let (name, selector) = (reference.get("name"), reference.get("selector"));
    let exclusive = "name and selector are mutually exclusive";
    name.must(&Rule::Text(names::segment));
    selector.must(&Rule::Selector);
    match (!name.is_empty(), selector.is_set()) {
        (true, true) => {
            name.forbidden(exclusive);
            selector.forbidden(exclusive);
        }
        (false, false) => reference.required("one of name or selector must be specified"),
        _ => {}
    }
    reference.get("parameterNotFoundAction").required_one_of(&["Deny", "Allow"], "");
}

fn actions(actions: &Field<'_>) {
    actions.items().for_each(|action| action.one_of(&["Audit", "Deny", "Warn"]));
    actions.must(&Rule::Distinct(""));
    let has = |wanted: &str| actions.items().any(|action| action.text() == wanted);
    if has("Deny") && has("Warn") {
        actions.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response \
             and headers serves no purpose)",
        );
    }
    actions.must(&Rule::Required("at least one validation action is required"));
}
