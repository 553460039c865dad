//! CertificateSigningRequest: what is asked is final, what becomes of it is written by signers and approvers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::field::{at, child, list, set, text, unset};
use super::names::{self, NameRule};
use super::rules::{Declared, Field, Rule};
use crate::error::FieldError;

const EXPIRATION_SECONDS_MIN: i64 = 600;
const SIGNER_BYTES_MAX: usize = 571;
const APPROVALS: [&str; 2] = ["Approved", "Denied"];
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// CertificateSigningRequest.
pub static CERTIFICATE_SIGNING_REQUEST: Declared = Declared {
    names: NameRule::Any,
    prepare_update,
    rules: &[
        ("spec.request", &[Rule::Always(request)]),
        ("spec.usages", &[Rule::Required(""), Rule::Distinct("")]),
        ("spec.usages[]", &[Rule::Check(|usage| usage.one_of(&USAGES))]),
        ("", &[Rule::Check(|request| signer_name(&request.at("spec.signerName")))]),
        (
            "spec.expirationSeconds",
            &[Rule::Check(|seconds| {
                if seconds.count() < EXPIRATION_SECONDS_MIN {
                    seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)");
                }
            })],
        ),
    ],
    update: validate_update,
    ..Declared::PLAIN
};

/// Only the status can change: its conditions of approval through `approval`, the rest through `status`.
fn prepare_update(subresource: Option<&str>, old: &Value, new: &mut Value) {
    if let Some(spec) = at(old, "spec") {
        set(new, "spec", spec.clone());
    }
    match subresource {
        None => return,
        Some("approval") => {
            let conditions = at(new, "status").and_then(|status| at(status, "conditions")).cloned();
            match at(old, "status") {
                Some(status) => set(new, "status", status.clone()),
                None => unset(new, "status"),
            }
            match conditions {
                Some(conditions) => set(child(new, "status"), "conditions", conditions),
                None => unset(child(new, "status"), "conditions"),
            }
        }
        Some(_) => {
            // A signer that leaves the approvals out has not taken them back.
            let kept: Vec<Value> = conditions_of(old)
                .iter()
                .filter(|c| APPROVALS.contains(&text(c, "type")))
                .filter(|c| !conditions_of(new).iter().any(|n| text(n, "type") == text(c, "type")))
                .cloned()
                .collect();
            if !kept.is_empty() {
                let mut all = kept;
                all.extend(conditions_of(new).iter().cloned());
                set(child(new, "status"), "conditions", Value::Array(all));
            }
        }
    }
    if at(new, "status").is_some_and(|status| *status == json!({})) && at(old, "status").is_none() {
        unset(new, "status");
    }
}

fn conditions_of(object: &Value) -> &[Value] {
    at(object, "status").map(|status| list(status, "conditions")).unwrap_or_default()
}

fn request(request: &Field<'_>) {
    let bytes = STANDARD.decode(request.text()).unwrap_or_default();
    if pem_body(&bytes, &["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"]).is_none() {
        request.invalid("PEM block type must be CERTIFICATE REQUEST");
    }
}

/// The content of the first PEM block, if it is of one of these types.
fn pem_body(bytes: &[u8], kinds: &[&str]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let start = text.find("-----BEGIN ")?;
    let (kind, rest) = text[start + 11..].split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {kind}-----"))?;
    if !kinds.contains(&kind) {
        return None;
    }
    let packed: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(packed).ok().filter(|der| der.first() == Some(&0x30))
}

fn certificate(certificate: &Field<'_>) {
    let bytes = STANDARD.decode(certificate.text()).unwrap_or_default();
    let refuse = |why: String| certificate.report(FieldError::invalid(certificate.path(), "<certificate data>", why));
    if bytes.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(&bytes);
    let kinds: Vec<&str> = text
        .match_indices("-----BEGIN ")
        .filter_map(|(at, begin)| text[at + begin.len()..].split("-----").next())
        .collect();
    if kinds.is_empty() {
        refuse("must contain at least one CERTIFICATE PEM block".to_owned());
    } else if let Some(kind) = kinds.iter().find(|kind| **kind != "CERTIFICATE") {
        refuse(format!("only CERTIFICATE PEM blocks are allowed, found {}", crate::error::quote(kind)));
    } else if pem_body(&bytes, &["CERTIFICATE"]).is_none() {
        refuse("x509: malformed certificate".to_owned());
    }
}

/// A signer's name: a domain and a path.
fn signer_name(signer: &Field<'_>) {
    if signer.is_empty() {
        signer.required("");
        return;
    }
    if signer.text() == "kubernetes.io/legacy-unknown" {
        signer.invalid("the legacy signerName is not allowed via this API version");
        return;
    }
    let segments: Vec<&str> = signer.text().split('/').collect();
    if segments.len() != 2 {
        signer.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    }
    let refuse = |value: &str, detail: String| signer.report(FieldError::invalid(signer.path(), value, detail));
    names::dns1123_subdomain(segments[0]).into_iter().for_each(|detail| refuse(segments[0], detail));
    if segments[0].split('.').count() < 2 {
        refuse(segments[0], "should be a domain with at least two segments separated by dots".to_owned());
    }
    for label in segments[1].split('.') {
        names::dns1123_label(label).into_iter().for_each(|detail| refuse(label, detail));
    }
    if signer.len() > SIGNER_BYTES_MAX {
        signer.must(&Rule::Max(SIGNER_BYTES_MAX));
    }
}

fn validate_update(subresource: &str, old: &Field<'_>, new: &Field<'_>) {
    conditions(&new.at("status.conditions"));
    certificate(&new.at("status.certificate"));
    let at = new.at("status.conditions");
    let of = |object: &Field<'_>, kind: &str| -> Vec<Value> {
        conditions_of(object.value()).iter().filter(|c| text(c, "type") == kind).cloned().collect()
    };
    for kind in LASTING {
        let (was, is) = (of(old, kind), of(new, kind));
        if is.len() < was.len() {
            at.forbidden(format!("updates may not remove a condition of type \"{kind}\""));
        } else if subresource != "approval" && APPROVALS.contains(&kind) {
            if is.len() > was.len() {
                at.forbidden(format!("updates may not add a condition of type \"{kind}\""));
            } else if was != is {
                at.forbidden(format!("updates may not modify a condition of type \"{kind}\""));
            }
        }
    }
    let (was, is) = (old.at("status.certificate"), new.at("status.certificate"));
    if was.value() != is.value() {
        if subresource != "status" {
            is.forbidden("updates may not set certificate content");
        } else if !was.is_empty() {
            is.forbidden("updates may not modify existing certificate content");
        }
    }
}

fn conditions(conditions: &Field<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in conditions.items() {
        let kind = condition.get("type");
        kind.must(&Rule::Required(""));
        let known: &[&str] = if LASTING.contains(&kind.text()) { &["True"] } else { &["False", "True", "Unknown"] };
        condition.get("status").required_one_of(known, "");
        let other = APPROVALS.iter().find(|approval| **approval != kind.text());
        if APPROVALS.contains(&kind.text()) && other.is_some_and(|other| seen.contains(other)) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            conditions.report(FieldError::invalid(conditions.path(), kind.text(), detail));
        }
        if seen.contains(&kind.text()) {
            kind.duplicate();
        }
        seen.push(kind.text());
    }
}
