//! From one version of a custom kind to another.
//!
//! Without a webhook only the apiVersion changes, and what the other version's schema knows and defaults. A webhook is asked
//! by the server, which alone does I/O; here stands what it is asked and what its answer may be.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::error::{ApiError, Reason};
use crate::kinds::Conversion;
use crate::meta;

use super::CustomKind;

/// How objects of a kind go from version to version.
#[derive(Debug, Clone, PartialEq)]
pub enum Converter {
    /// The apiVersion changes, nothing else.
    None,
    /// A webhook is asked.
    Webhook(Arc<WebhookConversion>),
}

/// The webhook of a kind.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookConversion {
    /// `spec.conversion.webhook.clientConfig`.
    pub client_config: Value,
    /// The versions of ConversionReview it understands, preferred first.
    pub review_versions: Vec<String>,
    /// The group and kind, for messages.
    pub kind: String,
}

/// Converts by changing the apiVersion.
pub(super) struct Relabel {
    pub kind: Arc<CustomKind>,
    pub api_version: String,
    pub storage: String,
    /// The stored version, by whose schema a new object is settled before it is stored.
    pub stored: Option<Arc<CustomKind>>,
}

impl Conversion for Relabel {
    fn to_storage(&self, mut object: Value) -> Result<Value, ApiError> {
        if self.api_version != self.storage {
            label(&mut object, &self.storage);
            if let Some(stored) = &self.stored {
                stored.settle(&mut object);
            }
        }
        Ok(object)
    }

    fn out_of_storage(&self, mut object: Value) -> Result<Value, ApiError> {
        if meta::str_at(&object, &["apiVersion"]) != self.api_version {
            label(&mut object, &self.api_version);
            self.kind.settle(&mut object);
        }
        Ok(object)
    }
}

pub(super) fn label(object: &mut Value, api_version: &str) {
    if let Value::Object(map) = object {
        map.insert("apiVersion".to_owned(), Value::from(api_version));
    }
}

impl WebhookConversion {
    /// The ConversionReview that asks for these objects in `desired`.
    pub fn request(&self, uid: &str, desired: &str, objects: Vec<Value>) -> Value {
        let version = self.review_versions.iter().map(String::as_str).find(|v| matches!(*v, "v1" | "v1beta1"));
        json!({
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{}", version.unwrap_or("v1")),
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
        })
    }

    /// Reads the answer: as many objects as were sent, in the version asked for, the same ones.
    pub fn response(&self, uid: &str, desired: &str, asked: &[Value], review: &Value) -> Result<Vec<Value>, ApiError> {
        let api_version = asked.first().map(|o| meta::str_at(o, &["apiVersion"])).unwrap_or_default();
        let failed = |why: String| {
            ApiError::new(
                Reason::InternalError,
                format!("conversion webhook for {api_version}, Kind={} failed: {why}", self.kind),
            )
        };
        let invalid = |why: String| {
            ApiError::new(
                Reason::InternalError,
                format!("conversion webhook for {api_version}, Kind={} returned invalid {why}", self.kind),
            )
        };
        let response = review.get("response").filter(|r| r.is_object());
        let Some(response) = response else { return Err(failed("webhook response contains no response".to_owned())) };
        if meta::str_at(review, &["kind"]) != "ConversionReview" {
            return Err(failed(format!(
                "expected webhook response of kind ConversionReview, got {}",
                meta::str_at(review, &["kind"])
            )));
        }
        if meta::str_at(response, &["uid"]) != uid {
            return Err(failed(format!("expected response.uid={uid:?}, got {:?}", meta::str_at(response, &["uid"]))));
        }
        match meta::str_at(response, &["result", "status"]) {
            "Success" => {}
            "Failure" => {
                let message = meta::str_at(response, &["result", "message"]);
                let message = if message.is_empty() { "Conversion request failed without a message" } else { message };
                return Err(failed(message.to_owned()));
            }
            other => return Err(failed(format!("webhook response contains invalid result.status: {other:?}"))),
        }
        let converted = response.get("convertedObjects").and_then(Value::as_array).cloned().unwrap_or_default();
        if converted.len() != asked.len() {
            return Err(invalid(format!(
                "response: expected {} converted objects, got {}",
                asked.len(),
                converted.len()
            )));
        }
        let mut out = Vec::with_capacity(converted.len());
        for (at, (mut new, old)) in converted.into_iter().zip(asked).enumerate() {
            let given = meta::str_at(&new, &["apiVersion"]);
            if given != desired {
                return Err(invalid(format!(
                    "converted object at index {at}: invalid groupVersion (expected {desired}, received {given})"
                )));
            }
            let (kind, had) = (meta::str_at(&new, &["kind"]), meta::str_at(old, &["kind"]));
            if kind != had {
                return Err(invalid(format!(
                    "converted object at index {at}: invalid kind (expected {had}, received {kind})"
                )));
            }
            same_metadata(old, &mut new).map_err(|why| invalid(format!("metadata in object at index {at}: {why}")))?;
            out.push(new);
        }
        Ok(out)
    }
}

/// A webhook may change labels and annotations, nothing else of the metadata.
fn same_metadata(old: &Value, new: &mut Value) -> Result<(), String> {
    let empty = Map::new();
    let was = old.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let Some(given) = new.get("metadata").and_then(Value::as_object) else {
        return Err("missing metadata in converted object".to_owned());
    };
    for key in ["name", "namespace", "uid"] {
        let text = |map: &Map<String, Value>| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text(was) != text(given) {
            return Err(format!("metadata.{key}: Invalid value: {:?}: field is immutable", text(given)));
        }
    }
    let mut kept = was.clone();
    for key in ["labels", "annotations"] {
        match given.get(key).filter(|value| value.is_object()) {
            Some(value) => drop(kept.insert(key.to_owned(), value.clone())),
            None => drop(kept.remove(key)),
        }
    }
    if let Value::Object(map) = new {
        map.insert("metadata".to_owned(), Value::Object(kept));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook() -> WebhookConversion {
        WebhookConversion {
            client_config: json!({}),
            review_versions: vec!["v2".into(), "v1".into()],
            kind: "T".into(),
        }
    }

    #[test]
    fn an_answer_is_taken_only_if_it_is_about_what_was_asked() {
        let old =
            json!({"apiVersion": "g/v1", "kind": "T", "metadata": {"name": "a", "uid": "u", "finalizers": ["x/y"]}});
        let request = webhook().request("1", "g/v2", vec![old.clone()]);
        assert_eq!(request["apiVersion"], "apiextensions.k8s.io/v1");
        let answer = |object: Value| json!({"kind": "ConversionReview", "response": {"uid": "1", "result": {"status": "Success"}, "convertedObjects": [object]}});
        let asked = [old];
        let read = |review: &Value| webhook().response("1", "g/v2", &asked, review).map_err(|e| e.message);
        let good = answer(
            json!({"apiVersion": "g/v2", "kind": "T", "metadata": {"name": "a", "uid": "u", "labels": {"l": "1"}}, "spec": 1}),
        );
        let converted = read(&good).unwrap();
        assert_eq!(
            converted[0]["metadata"],
            json!({"name": "a", "uid": "u", "labels": {"l": "1"}, "finalizers": ["x/y"]})
        );
        let other = answer(json!({"apiVersion": "g/v2", "kind": "T", "metadata": {"name": "b", "uid": "u"}}));
        assert!(read(&other).unwrap_err().contains("field is immutable"));
        let stale = answer(json!({"apiVersion": "g/v1", "kind": "T", "metadata": {"name": "a", "uid": "u"}}));
        assert!(read(&stale).unwrap_err().contains("invalid groupVersion (expected g/v2, received g/v1)"));
        let failed = json!({"kind": "ConversionReview", "response": {"uid": "1", "result": {"status": "Failure", "message": "no"}}});
        assert!(read(&failed).unwrap_err().ends_with("conversion webhook for g/v1, Kind=T failed: no"));
    }
}
