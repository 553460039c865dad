//! `AdmissionReview`: the question a webhook is asked and the reading of its answer.
//!
//! In: a write; bytes. Out: the review to send; what the webhook decided, or what is wrong with its answer. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_api::kinds::{Gvk, Resource};
use gantry_api::{ApiError, Reason, engine};
use serde_json::{Map, Value, json};

use super::hook::ReviewVersion;
use crate::admission::attributes::Attributes;
use crate::auth::Identity;

/// The lowest code that is a refusal; a webhook that refuses with less gets this one.
const BAD_REQUEST: u64 = 400;

/// What a webhook decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Verdict {
    /// Whether the write may go on.
    pub allowed: bool,
    /// A JSON patch of the object; empty for none.
    pub patch: Vec<u8>,
    /// Why not, as a Status.
    pub result: Option<Value>,
    /// For the client.
    pub warnings: Vec<String>,
    /// For the record.
    pub annotations: Vec<(String, String)>,
}

impl ReviewVersion {
    fn api_version(self) -> &'static str {
        match self {
            ReviewVersion::V1 => "admission.k8s.io/v1",
            ReviewVersion::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// The request of a review without the objects, which CEL expressions see as well. `resource` is the version of the
/// resource that it is asked in.
pub fn request(attributes: &Attributes<'_>, resource: &Resource) -> Map<String, Value> {
    let mut request = Map::new();
    let kind = |resource: &Resource| {
        let Gvk { group, version, kind } = engine::subresource_kind(resource, attributes.subresource);
        json!({"group": group, "version": version, "kind": kind})
    };
    let plural = |resource: &Resource| json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let mut add = |key: &str, value: Value| request.insert(key.to_owned(), value);
    add("kind", kind(resource));
    add("resource", plural(resource));
    add("requestKind", kind(attributes.resource));
    add("requestResource", plural(attributes.resource));
    for (key, text) in [
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
        ("name", attributes.name),
        ("namespace", attributes.namespace_name()),
    ] {
        if !text.is_empty() {
            add(key, json!(text));
        }
    }
    add("operation", json!(attributes.operation.as_str()));
    add("userInfo", user_info(attributes.identity));
    add("dryRun", json!(attributes.dry_run));
    add("options", attributes.options());
    request
}

fn user_info(identity: &Identity) -> Value {
    let mut info = Map::new();
    info.insert("username".to_owned(), json!(identity.user));
    if !identity.uid.is_empty() {
        info.insert("uid".to_owned(), json!(identity.uid));
    }
    info.insert("groups".to_owned(), json!(identity.groups));
    if !identity.extra.is_empty() {
        info.insert("extra".to_owned(), json!(identity.extra));
    }
    Value::Object(info)
}

/// The whole review, encoded.
pub fn encode(
    version: ReviewVersion,
    uid: &str,
    mut request: Map<String, Value>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Vec<u8> {
    request.insert("uid".to_owned(), json!(uid));
    for (key, value) in [("object", object), ("oldObject", old)] {
        request.insert(key.to_owned(), value.cloned().unwrap_or_default());
    }
    json!({"kind": "AdmissionReview", "apiVersion": version.api_version(), "request": request}).to_string().into_bytes()
}

/// Reads a webhook's answer. The error is what Kubernetes says is wrong with it.
pub fn read(body: &[u8], version: ReviewVersion, uid: &str, mutating: bool) -> Result<Verdict, String> {
    let review: Value = serde_json::from_slice(body)
        .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
    let response = review.get("response").filter(|response| response.is_object());
    let Some(response) = response else {
        return Err("webhook response was absent".to_owned());
    };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let patch = text(response, "patch");
    let patch = STANDARD.decode(patch).map_err(|error| format!("illegal base64 data in response.patch: {error}"))?;
    let patch_type = response.get("patchType").and_then(Value::as_str);
    if version == ReviewVersion::V1 {
        check_v1(&review, response, uid, mutating, !patch.is_empty(), patch_type)?;
    }
    if mutating && !patch.is_empty() && version == ReviewVersion::V1 && patch_type != Some("JSONPatch") {
        return Err(format!("unsupported patch type {:?}", patch_type.unwrap_or_default()));
    }
    let annotations = response.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
    let warnings = response.get("warnings").and_then(Value::as_array).into_iter().flatten();
    Ok(Verdict {
        allowed: response.get("allowed").and_then(Value::as_bool).unwrap_or(false),
        patch: if mutating { patch } else { Vec::new() },
        result: response.get("status").filter(|status| status.is_object()).cloned(),
        warnings: warnings.filter_map(|warning| warning.as_str().map(str::to_owned)).collect(),
        annotations: annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
    })
}

fn check_v1(
    review: &Value,
    response: &Value,
    uid: &str,
    mutating: bool,
    has_patch: bool,
    patch_type: Option<&str>,
) -> Result<(), String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let given = text(response, "uid");
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let (api_version, kind) = (text(review, "apiVersion"), text(review, "kind"));
    if api_version != ReviewVersion::V1.api_version() || kind != "AdmissionReview" {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {api_version}, Kind={kind}"
        ));
    }
    match (mutating, has_patch, patch_type) {
        (true, true, None) => Err("webhook returned response.patch but not response.patchType".to_owned()),
        (true, false, Some("")) | (true, true, Some("")) => {
            Err("webhook returned invalid response.patchType of \"\"".to_owned())
        }
        (true, false, Some(_)) => Err("webhook returned response.patchType but not response.patch".to_owned()),
        (false, true, _) => Err("validating webhook may not return response.patch".to_owned()),
        (false, false, Some(_)) => Err("validating webhook may not return response.patchType".to_owned()),
        _ => Ok(()),
    }
}

/// The error of a refused write: the webhook's Status, with its name.
pub fn refusal(webhook: &str, result: Option<Value>) -> ApiError {
    let denied = format!("admission webhook {webhook:?} denied the request");
    let mut status = result.unwrap_or_else(|| json!({}));
    let text = |status: &Value, key: &str| status.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let message = match (text(&status, "message"), text(&status, "reason")) {
        (message, _) if !message.is_empty() => format!("{denied}: {message}"),
        (_, reason) if !reason.is_empty() => format!("{denied}: {reason}"),
        _ => format!("{denied} without explanation"),
    };
    let code = status.get("code").and_then(Value::as_u64).filter(|code| (BAD_REQUEST..600).contains(code));
    status["kind"] = json!("Status");
    status["apiVersion"] = json!("v1");
    status["metadata"] = json!({});
    status["status"] = json!("Failure");
    status["code"] = json!(code.unwrap_or(BAD_REQUEST));
    status["message"] = json!(message);
    ApiError::new(Reason::Unknown, message).with_status(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Vec<u8> {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
            .to_string()
            .into_bytes()
    }

    fn read_v1(response: Value, mutating: bool) -> Result<Verdict, String> {
        read(&answer(response), ReviewVersion::V1, "u", mutating)
    }

    #[test]
    fn an_answer_is_read_whole() {
        let verdict = read_v1(
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode("[]"),
                   "warnings": ["careful"], "auditAnnotations": {"k": "v"}}),
            true,
        )
        .unwrap();
        assert!(verdict.allowed && verdict.patch == b"[]" && verdict.warnings == ["careful"]);
        assert_eq!(verdict.annotations, [("k".to_owned(), "v".to_owned())]);
    }

    #[test]
    fn a_wrong_answer_is_told_as_kubernetes_tells_it() {
        let patch = STANDARD.encode("[]");
        let table = [
            (json!(null), true, "webhook response was absent"),
            (json!({"uid": "x"}), true, "expected response.uid=\"u\", got \"x\""),
            (json!({"uid": "u", "patch": patch}), true, "webhook returned response.patch but not response.patchType"),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                true,
                "webhook returned response.patchType but not response.patch",
            ),
            (json!({"uid": "u", "patch": patch, "patchType": "Odd"}), true, "unsupported patch type \"Odd\""),
            (json!({"uid": "u", "patch": patch}), false, "validating webhook may not return response.patch"),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                false,
                "validating webhook may not return response.patchType",
            ),
        ];
        for (response, mutating, expected) in table {
            assert_eq!(read_v1(response.clone(), mutating).unwrap_err(), expected, "{response}");
        }
        let other = json!({"apiVersion": "v1", "kind": "Pod", "response": {"uid": "u"}}).to_string();
        let error = read(other.as_bytes(), ReviewVersion::V1, "u", false).unwrap_err();
        assert_eq!(error, "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Pod");
        assert!(read(b"<html>", ReviewVersion::V1, "u", false).unwrap_err().contains("json parse error"));
        // The older form says less and is checked less.
        let old = json!({"response": {"allowed": true}}).to_string();
        assert!(read(old.as_bytes(), ReviewVersion::V1Beta1, "u", true).unwrap().allowed);
    }

    #[test]
    fn a_refusal_carries_the_webhooks_status() {
        let error = refusal("w", Some(json!({"message": "no", "code": 418, "reason": "Teapot"})));
        let status = error.to_status(500);
        assert_eq!(status["message"], "admission webhook \"w\" denied the request: no");
        assert_eq!((&status["code"], &status["reason"]), (&json!(418), &json!("Teapot")));
        assert_eq!(refusal("w", None).message, "admission webhook \"w\" denied the request without explanation");
        let low = refusal("w", Some(json!({"code": 200, "reason": "Because"})));
        assert_eq!(low.message, "admission webhook \"w\" denied the request: Because");
        assert_eq!(low.to_status(500)["code"], 400);
    }
}
