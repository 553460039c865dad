//! ConfigMap and Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::field::{child, entries, is_true, set, text, unset};
use super::{Strategy, names};
use crate::error::FieldError;
use crate::meta;

/// All data of a ConfigMap or Secret together.
const SIZE_MAX: usize = 1024 * 1024;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// ConfigMap.
pub struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let mut size = 0;
        for (key, value) in entries(object, "data") {
            check_key("data", key, errors);
            if entries(object, "binaryData").any(|(other, _)| other == key) {
                errors.push(FieldError::invalid(
                    format!("data[{key}]"),
                    key.as_str(),
                    "duplicate of key present in binaryData",
                ));
            }
            size += value.as_str().map_or(0, str::len);
        }
        for (key, value) in entries(object, "binaryData") {
            check_key("binaryData", key, errors);
            size += decoded_length(value);
        }
        if size > SIZE_MAX {
            errors.push(FieldError::too_long("", SIZE_MAX));
        }
    }

    fn validate_update(&self, _: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        keep_immutable(old, new, &["data", "binaryData"], errors);
    }
}

/// Secret.
pub struct SecretStrategy;

impl Strategy for SecretStrategy {
    /// `stringData` is write-only: it goes into `data`.
    fn default(&self, object: &mut Value) {
        let texts: Vec<(String, String)> = entries(object, "stringData")
            .map(|(key, value)| (key.clone(), STANDARD.encode(value.as_str().unwrap_or_default())))
            .collect();
        unset(object, "stringData");
        if texts.is_empty() {
            return;
        }
        let data = child(object, "data");
        for (key, encoded) in texts {
            set(data, &key, encoded);
        }
    }

    fn validate_create(&self, object: &Value, errors: &mut Vec<FieldError>) {
        let mut size = 0;
        for (key, value) in entries(object, "data") {
            check_key("data", key, errors);
            size += decoded_length(value);
        }
        if size > SIZE_MAX {
            errors.push(FieldError::too_long("data", SIZE_MAX));
        }
        validate_secret_type(object, errors);
    }

    fn validate_update(&self, _: Option<&str>, old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
        super::field::immutable(old, new, &["type"], errors);
        keep_immutable(old, new, &["data"], errors);
    }
}

fn check_key(field: &str, key: &str, errors: &mut Vec<FieldError>) {
    for detail in names::config_key(key) {
        errors.push(FieldError::invalid(format!("{field}[{key}]"), key, detail));
    }
}

fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn keep_immutable(old: &Value, new: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if !is_true(old, "immutable") {
        return;
    }
    if !is_true(new, "immutable") {
        errors.push(FieldError::forbidden("immutable", IMMUTABLE));
    }
    for field in fields {
        if old.get(field) != new.get(field) {
            errors.push(FieldError::forbidden(*field, IMMUTABLE));
        }
    }
}

fn validate_secret_type(object: &Value, errors: &mut Vec<FieldError>) {
    let has = |key: &str| entries(object, "data").any(|(k, _)| k == key);
    let mut need = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !has(key)) {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if meta::annotation(object, NAME).unwrap_or_default().is_empty() {
                errors.push(FieldError::required(format!("metadata.annotations[{NAME}]"), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker_config(object, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => docker_config(object, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => need(&["username", "password"]),
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"]),
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn docker_config(object: &Value, key: &str, errors: &mut Vec<FieldError>) {
    let path = format!("data[{key}]");
    let Some((_, value)) = entries(object, "data").find(|(k, _)| *k == key) else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    let decoded = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&decoded) {
        errors.push(FieldError::invalid(path, "<secret contents redacted>", error.to_string()));
    }
}
