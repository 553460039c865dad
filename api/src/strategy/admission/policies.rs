//! Admission policies: what they may say, and that all of it compiles.

use super::super::cluster::condition;
use super::{expression_of, match_conditions, match_resources};
use crate::cel::{self, Request, Type};
use crate::error::FieldError;
use crate::meta;
use crate::strategy::names;
use crate::strategy::rules::{Declared, Field, Rule};

const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_BYTES_MAX: usize = 5 * 1024;

/// ValidatingAdmissionPolicy.
pub static VALIDATING_POLICY: Declared = Declared {
    generation: true,
    unconditional_update: false,
    rules: &[("", &[Rule::Check(validating)])],
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

/// MutatingAdmissionPolicy.
pub static MUTATING_POLICY: Declared = Declared {
    generation: true,
    unconditional_update: false,
    rules: &[("", &[Rule::Check(mutating)])],
    ..Declared::PLAIN
};

/// MutatingAdmissionPolicyBinding.
pub static MUTATING_BINDING: Declared = Declared {
    generation: true,
    unconditional_update: false,
    rules: &[
        ("spec.policyName", &[Rule::Required(""), Rule::Text(names::dns1123_subdomain)]),
        ("spec.paramRef", &[Rule::Check(param_ref)]),
        ("spec.matchResources", &[Rule::Check(mutating_resources)]),
    ],
    ..Declared::PLAIN
};

/// What all policies have. Out comes what their expressions may name.
fn common(spec: &Field<'_>) -> Request {
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
    let mut request = Request::new(kind.is_set());
    match_conditions(&spec.get("matchConditions"), &request);
    for variable in spec.get("variables").items() {
        let (name, expression) = (variable.get("name"), variable.get("expression"));
        if name.text().trim().is_empty() {
            name.required("name is not specified");
        } else if !cel::is_identifier(name.text()) {
            name.invalid("must be a valid CEL identifier");
        }
        if expression.text().trim().is_empty() {
            expression.required("expression is not specified");
        } else if let Err(error) = request.variable(name.text(), expression.text()) {
            expression.invalid(error.to_string());
        }
    }
    request
}

fn validating(policy: &Field<'_>) {
    let spec = policy.get("spec");
    let request = common(&spec);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        validations.required(detail);
        annotations.required(detail);
        return;
    }
    validations.items().for_each(|one| validation(&one, &request));
    audit_annotations(meta::name(policy.value()), &annotations, &request);
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

fn mutating(policy: &Field<'_>) {
    let spec = policy.get("spec");
    let request = common(&spec).with_structs().with_variables();
    operations(&spec.get("matchConstraints"));
    let mutations = spec.get("mutations");
    mutations.must(&Rule::Always(|mutations| {
        if mutations.is_empty() {
            mutations.required("mutations must contain at least one item");
        }
    }));
    mutations.items().for_each(|one| mutation(&one, &request));
    spec.get("reinvocationPolicy").required_one_of(&["IfNeeded", "Never"], "");
}

/// Only what is created or updated can be changed.
fn operations(resources: &Field<'_>) {
    let told = format!("{}.resourceRules.operations", resources.path());
    for operation in resources.get("resourceRules").items().flat_map(|rule| rule.get("operations").items()) {
        operation.told_at(told.as_str()).one_of(&["CREATE", "UPDATE"]);
    }
}

fn mutation(mutation: &Field<'_>, request: &Request) {
    let (kind, apply, patch) =
        (mutation.get("patchType"), mutation.get("applyConfiguration"), mutation.get("jsonPatch"));
    let (wanted, other, ty) = match kind.text() {
        "" => return kind.required(""),
        "ApplyConfiguration" => (apply, (patch, "{jsonPatch}"), Type::Made("Object".into())),
        "JSONPatch" => (patch, (apply, "{applyConfiguration}"), Type::list(Type::Made("JSONPatch".into()))),
        _ => return kind.unsupported(&["ApplyConfiguration", "JSONPatch"]),
    };
    if wanted.is_set() {
        expression_of(&wanted.get("expression"), request, &[ty], "");
    } else {
        wanted.required(format!("must be specified when patchType is {}", kind.text()));
    }
    if other.0.is_set() {
        let detail = format!("must not be specified when patchType is {}", kind.text());
        other.0.report(FieldError::invalid(other.0.path(), other.1, detail));
    }
}

fn mutating_resources(resources: &Field<'_>) {
    match_resources(resources);
    operations(resources);
}

fn validation(validation: &Field<'_>, request: &Request) {
    let get = |key: &str| validation.get(key);
    expression_of(&get("expression"), request, &[Type::Bool], "expression is not specified");
    let message = get("messageExpression");
    if !message.text().trim().is_empty() {
        // What is said about a refusal is for everyone, whatever the requester may do.
        expression_of(&message, &request.clone().without_authorizer(), &[Type::String], "");
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

fn audit_annotations(policy: &str, annotations: &Field<'_>, request: &Request) {
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
        if expression.text().trim().len() > AUDIT_EXPRESSION_BYTES_MAX {
            expression.required(format!("must not exceed {AUDIT_EXPRESSION_BYTES_MAX} bytes in length"));
        } else {
            expression_of(&expression, request, &[Type::String, Type::Null], "valueExpression is not specified");
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
