//! How the kinds about access, certificates and extensions of the API are printed.

use serde_json::{Value, json};

use super::{Column, Doc, Printer, Show, cluster, duration, items};
use crate::meta;
use crate::selector::format_label_selector;

const REQUEST_SPEC: &str = "io.k8s.api.certificates.v1.CertificateSigningRequestSpec";
const FLOW_SPEC: &str = "io.k8s.api.flowcontrol.v1.FlowSchemaSpec";
const QUEUING: &str = "io.k8s.api.flowcontrol.v1.QueuingConfiguration";

pub(super) static ROLE_BINDING: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Role", Doc::Field("io.k8s.api.rbac.v1.RoleBinding", "roleRef")),
        Show::With(|binding, _| {
            let text = |key: &str| meta::str_at(binding, &["roleRef", key]);
            json!(format!("{}/{}", text("kind"), text("name")))
        }),
    ),
    (Column::AGE, Show::Age),
    (Column::wide("Users", Doc::Text("Users in the roleBinding")), Show::With(|b, _| subjects(b, "User"))),
    (Column::wide("Groups", Doc::Text("Groups in the roleBinding")), Show::With(|b, _| subjects(b, "Group"))),
    (
        Column::wide("ServiceAccounts", Doc::Text("ServiceAccounts in the roleBinding")),
        Show::With(|b, _| subjects(b, "ServiceAccount")),
    ),
]);

fn subjects(binding: &Value, kind: &str) -> Value {
    let fitting = items(binding, &["subjects"]).iter().filter(|subject| meta::str_at(subject, &["kind"]) == kind);
    let named: Vec<String> = fitting
        .map(|subject| {
            let name = meta::str_at(subject, &["name"]);
            match (kind, meta::str_at(subject, &["namespace"])) {
                ("ServiceAccount", namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
                _ => name.to_owned(),
            }
        })
        .collect();
    json!(named.join(", "))
}

pub(super) static CERTIFICATE_SIGNING_REQUEST: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (Column::AGE, Show::Age),
    (Column::text("SignerName", Doc::Field(REQUEST_SPEC, "signerName")), Show::Text(&["spec", "signerName"], "<none>")),
    (Column::text("Requestor", Doc::Field(REQUEST_SPEC, "request")), Show::Text(&["spec", "username"], "")),
    (
        Column::text("RequestedDuration", Doc::Field(REQUEST_SPEC, "expirationSeconds")),
        Show::With(|request, _| match meta::get(request, &["spec", "expirationSeconds"]).and_then(Value::as_i64) {
            Some(seconds) => json!(duration::human(seconds)),
            None => json!("<none>"),
        }),
    ),
    (
        Column::text(
            "Condition",
            Doc::Field("io.k8s.api.certificates.v1.CertificateSigningRequestStatus", "conditions"),
        ),
        Show::With(|request, _| {
            let has = |kind: &str| {
                items(request, &["status", "conditions"]).iter().any(|c| meta::str_at(c, &["type"]) == kind)
            };
            let mut text = match (has("Denied"), has("Approved")) {
                (true, _) => "Denied",
                (_, true) => "Approved",
                _ => "Pending",
            }
            .to_owned();
            if has("Failed") {
                text.push_str(",Failed");
            }
            if !meta::str_at(request, &["status", "certificate"]).is_empty() {
                text.push_str(",Issued");
            }
            json!(text)
        }),
    ),
]);

pub(super) static API_SERVICE: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Service", Doc::Text("The reference to the service that hosts this API endpoint.")),
        Show::With(|service, _| {
            let text = |key: &str| meta::str_at(service, &["spec", "service", key]);
            json!(match text("name") {
                "" => "Local".to_owned(),
                name => format!("{}/{name}", text("namespace")),
            })
        }),
    ),
    (
        Column::text("Available", Doc::Text("Whether this service is available.")),
        Show::With(|service, _| {
            let mut conditions = items(service, &["status", "conditions"]).iter();
            let available = conditions.find(|c| meta::str_at(c, &["type"]) == "Available");
            json!(available.map_or_else(
                || "Unknown".to_owned(),
                |condition| match (meta::str_at(condition, &["status"]), meta::str_at(condition, &["reason"])) {
                    ("True", _) => "True".to_owned(),
                    (status, reason) => format!("{status} ({reason})"),
                }
            ))
        }),
    ),
    (Column::AGE, Show::Age),
]);

/// The printer of a kind of admissionregistration.k8s.io.
pub(super) fn admission(kind: &str) -> &'static Printer {
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => &WEBHOOKS,
        "ValidatingAdmissionPolicy" => &POLICY,
        "MutatingAdmissionPolicy" => &MUTATING_POLICY,
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => &POLICY_BINDING,
        _ => &cluster::OTHER,
    }
}

static WEBHOOKS: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::integer(
            "Webhooks",
            Doc::Text("Webhooks indicates the number of webhooks registered in this configuration"),
        ),
        Show::Count(&["webhooks"]),
    ),
    (Column::AGE, Show::Age),
]);

const PARAM_KIND: (Column, Show) = (
    Column::text("ParamKind", Doc::Text("ParamKind specifies the kind of resources used to parameterize this policy")),
    Show::With(|policy, _| {
        let text = |key: &str| meta::str_at(policy, &["spec", "paramKind", key]);
        json!(match text("kind") {
            "" => "<unset>".to_owned(),
            kind => format!("{}/{kind}", text("apiVersion")),
        })
    }),
);

static POLICY: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::integer(
            "Validations",
            Doc::Text("Validations indicates the number of validation rules defined in this configuration"),
        ),
        Show::Count(&["spec", "validations"]),
    ),
    PARAM_KIND,
    (Column::AGE, Show::Age),
]);

static MUTATING_POLICY: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::integer(
            "Mutations",
            Doc::Text("Mutation indicates the number of mutations rules defined in this configuration"),
        ),
        Show::Count(&["spec", "mutations"]),
    ),
    PARAM_KIND,
    (Column::AGE, Show::Age),
]);

static POLICY_BINDING: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text(
            "PolicyName",
            Doc::Text("PolicyName indicates the policy definition which the policy binding binded to"),
        ),
        Show::Text(&["spec", "policyName"], ""),
    ),
    (
        Column::text("ParamRef", Doc::Text("ParamRef indicates the param resource which sets the configuration param")),
        Show::With(|binding, _| {
            let text = |key: &str| meta::str_at(binding, &["spec", "paramRef", key]);
            json!(match (text("name"), text("namespace")) {
                ("", _) => match meta::get(binding, &["spec", "paramRef", "selector"]) {
                    Some(selector) => format_label_selector(Some(selector)),
                    None => "<unset>".to_owned(),
                },
                (name, "") => format!("*/{name}"),
                (name, namespace) => format!("{namespace}/{name}"),
            })
        }),
    ),
    (Column::AGE, Show::Age),
]);

pub(super) static FLOW_SCHEMA: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text(
            "PriorityLevel",
            Doc::Field("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationReference", "name"),
        ),
        Show::Text(&["spec", "priorityLevelConfiguration", "name"], ""),
    ),
    (
        Column::text("MatchingPrecedence", Doc::Field(FLOW_SPEC, "matchingPrecedence")),
        Show::Number(&["spec", "matchingPrecedence"]),
    ),
    (
        Column::text("DistinguisherMethod", Doc::Field(FLOW_SPEC, "distinguisherMethod")),
        Show::Text(&["spec", "distinguisherMethod", "type"], "<none>"),
    ),
    (Column::AGE, Show::Age),
    (
        Column::text("MissingPL", Doc::Text("references a broken or non-existent PriorityLevelConfiguration")),
        Show::With(|schema, _| {
            let mut conditions = items(schema, &["status", "conditions"]).iter();
            let dangling = conditions.find(|c| meta::str_at(c, &["type"]) == "Dangling");
            json!(dangling.map_or("?", |condition| meta::str_at(condition, &["status"])))
        }),
    ),
]);

pub(super) static PRIORITY_LEVEL: Printer = Printer::each(&[
    (Column::NAME, Show::Name),
    (
        Column::text("Type", Doc::Field("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type")),
        Show::Text(&["spec", "type"], ""),
    ),
    (
        Column::text(
            "NominalConcurrencyShares",
            Doc::Field("io.k8s.api.flowcontrol.v1.LimitedPriorityLevelConfiguration", "nominalConcurrencyShares"),
        ),
        Show::NumberOr(&["spec", "limited", "nominalConcurrencyShares"], "<none>"),
    ),
    (
        Column::text("Queues", Doc::Field(QUEUING, "queues")),
        Show::NumberOr(&["spec", "limited", "limitResponse", "queuing", "queues"], "<none>"),
    ),
    (
        Column::text("HandSize", Doc::Field(QUEUING, "handSize")),
        Show::NumberOr(&["spec", "limited", "limitResponse", "queuing", "handSize"], "<none>"),
    ),
    (
        Column::text("QueueLengthLimit", Doc::Field(QUEUING, "queueLengthLimit")),
        Show::NumberOr(&["spec", "limited", "limitResponse", "queuing", "queueLengthLimit"], "<none>"),
    ),
    (Column::AGE, Show::Age),
]);
