//! `ServiceAccount`: every pod runs as a service account that exists, and finds its token, the cluster's CA and its namespace
//! where clients look for them.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gantry_api::policy::secrets;
use gantry_api::{ApiError, codec, meta};
use rand::Rng;
use serde_json::{Value, json};

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::{Known, Registry};

const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// How long the projected token is valid: an hour and the time its renewal may take.
const TOKEN_SECONDS: i64 = 3607;
/// The default account of a namespace appears a moment after the namespace: how often and how long it is waited for.
const DEFAULT_ATTEMPTS: usize = 20;
const DEFAULT_WAIT: Duration = Duration::from_millis(100);

pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        Phases {
            admit: attributes.operation == Operation::Create && attributes.is("", "pods"),
            validate: attributes.is_any("", "pods"),
        }
    }

    fn depends_on(&self, _: &Attributes<'_>, _: &Registry) -> Dependence {
        Dependence::Kind(Known::ServiceAccounts)
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        if meta::annotation(pod, MIRROR).is_some() {
            return mirror(attributes, pod);
        }
        let name = match meta::str_at(pod, &["spec", "serviceAccountName"]) {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        let spec = meta::object_mut(pod, "spec");
        spec.insert("serviceAccountName".to_owned(), json!(name));
        spec.insert("serviceAccount".to_owned(), json!(name));
        let account = find(attributes, registry, &name).await?;
        let account = read_if_any(&account, &["automountServiceAccountToken", "imagePullSecrets"])?;
        if mounts_token(pod, &account) {
            mount_token(pod);
        }
        let spec = meta::object_mut(pod, "spec");
        let has_secrets =
            spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|secrets| !secrets.is_empty());
        if !has_secrets
            && let Some(secrets) = account.get("imagePullSecrets").and_then(Value::as_array)
            && !secrets.is_empty()
        {
            spec.insert("imagePullSecrets".to_owned(), json!(secrets));
        }
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let foreign = match (attributes.operation, attributes.subresource) {
            (Operation::Create, "") => secrets::foreign,
            (Operation::Update, "ephemeralcontainers") => secrets::foreign_to_ephemeral,
            _ => return Ok(()),
        };
        let Some(pod) = object.filter(|pod| meta::annotation(pod, MIRROR).is_none()) else {
            return Ok(());
        };
        let account = find(attributes, registry, meta::str_at(pod, &["spec", "serviceAccountName"])).await?;
        let account = read_if_any(&account, &[secrets::ENFORCED])?;
        if !secrets::is_enforced(&account) {
            return Ok(());
        }
        match foreign(&account, pod) {
            Some(why) => Err(attributes.forbidden(why)),
            None => Ok(()),
        }
    }
}

/// Mirror pods show what runs anyway; they get nothing.
fn mirror(attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
    if !meta::str_at(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    let volumes = meta::get(pod, &["spec", "volumes"]).and_then(Value::as_array).into_iter().flatten();
    let mut sources = volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    if sources.any(|source| source["serviceAccountToken"].is_object()) {
        return Err(attributes.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

async fn find(attributes: &Attributes<'_>, registry: &Registry, name: &str) -> Result<Bytes, ApiError> {
    let missing = || {
        let namespace = attributes.namespace;
        attributes.forbidden(format!(
            "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
        ))
    };
    let accounts = registry.catalog().resource("", "v1", "serviceaccounts").ok_or_else(missing)?;
    let attempts = if name == DEFAULT { DEFAULT_ATTEMPTS } else { 1 };
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(DEFAULT_WAIT).await;
        }
        if let Some(entry) = registry.cached(accounts, attributes.namespace, name) {
            return Ok(entry.object.clone());
        }
        if let Some(current) = registry.find(accounts, attributes.namespace, name).await? {
            return Ok(current.bytes);
        }
    }
    Err(missing())
}

/// An account, if one of these words occurs in it: most are not worth a parse.
fn read_if_any(account: &Bytes, words: &[&str]) -> Result<Value, ApiError> {
    match words.iter().any(|word| memchr::memmem::find(account, word.as_bytes()).is_some()) {
        true => codec::decode(account),
        false => Ok(Value::Null),
    }
}

fn mounts_token(pod: &Value, account: &Value) -> bool {
    let asked = |value: &Value| value.as_bool();
    asked(&pod["spec"]["automountServiceAccountToken"])
        .or_else(|| asked(&account["automountServiceAccountToken"]))
        .unwrap_or(true)
}

/// Adds the projected volume, and its mount to every container that has nothing there.
fn mount_token(pod: &mut Value) {
    let spec = meta::object_mut(pod, "spec");
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let existing = volumes
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            if let Some(mounts) = mounts.as_array_mut()
                && !mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH)
            {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
                used = true;
            }
        }
    }
    if used && existing.is_none() {
        let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
        if volumes.is_null() {
            *volumes = json!([]);
        }
        if let Some(volumes) = volumes.as_array_mut() {
            volumes.push(token_volume(&volume));
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_where_nothing_else_is() {
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
        }});
        mount_token(&mut pod);
        let volume = pod["spec"]["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], volume);
        assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"][0]["readOnly"], true);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn automount_is_the_pods_choice_first() {
        let pod = |value: Value| json!({"spec": {"automountServiceAccountToken": value}});
        assert!(mounts_token(&pod(Value::Null), &json!({})));
        assert!(!mounts_token(&pod(Value::Null), &json!({"automountServiceAccountToken": false})));
        assert!(mounts_token(&pod(json!(true)), &json!({"automountServiceAccountToken": false})));
        assert!(!mounts_token(&pod(json!(false)), &json!({})));
    }
}
