//! Which secrets a pod may name: those of its service account, if that account says so.
//!
//! In: a service account and a pod. Out: the first secret that the pod must not name, as Kubernetes words it.

use serde_json::Value;

use crate::meta;

/// The annotation of an account that limits its pods to its own secrets.
pub const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    meta::str_at(value, path)
}

fn list<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> {
    meta::get(value, path).and_then(Value::as_array).into_iter().flatten()
}

/// Whether the account limits its pods to its own secrets.
pub fn is_enforced(account: &Value) -> bool {
    meta::annotation(account, ENFORCED).is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// The first secret that a pod names and its account does not.
pub fn foreign(account: &Value, pod: &Value) -> Option<String> {
    let name = meta::name(account);
    let known = |secret: &str| list(account, &["secrets"]).any(|known| text(known, &["name"]) == secret);
    let not_known = format!("is not allowed because service account {name} does not reference that secret");
    let volumes = list(pod, &["spec", "volumes"]).filter(|volume| volume["secret"].is_object());
    let volume = volumes.map(|volume| text(volume, &["secret", "secretName"])).find(|secret| !known(secret));
    if let Some(secret) = volume {
        return Some(format!("volume with secret.secretName=\"{secret}\" {not_known}"));
    }
    for (field, what) in [("initContainers", "init container"), ("containers", "container")] {
        for container in list(pod, &["spec", field]) {
            if let Some(found) = foreign_in(container, &known) {
                return Some(format!("{what} {found} {not_known}"));
            }
        }
    }
    let pulled = |secret: &str| list(account, &["imagePullSecrets"]).any(|known| text(known, &["name"]) == secret);
    let mut references = list(pod, &["spec", "imagePullSecrets"]).map(|one| text(one, &["name"])).enumerate();
    let (at, secret) = references.find(|(_, secret)| !pulled(secret))?;
    Some(format!(
        "imagePullSecrets[{at}].name=\"{secret}\" is not allowed because service account {name} does not reference that \
         imagePullSecret"
    ))
}

/// The same of the containers that are added to a running pod.
pub fn foreign_to_ephemeral(account: &Value, pod: &Value) -> Option<String> {
    let known = |secret: &str| list(account, &["secrets"]).any(|known| text(known, &["name"]) == secret);
    let found = list(pod, &["spec", "ephemeralContainers"]).find_map(|container| foreign_in(container, &known))?;
    let name = meta::name(account);
    Some(format!(
        "ephemeral container {found} is not allowed because service account {name} does not reference that secret"
    ))
}

fn foreign_in(container: &Value, known: &dyn Fn(&str) -> bool) -> Option<String> {
    let name = text(container, &["name"]);
    let named = |source: &'_ Value, path: &[&str]| {
        let secret = meta::get(source, path).filter(|secret| secret.is_object())?;
        Some(text(secret, &["name"]).to_owned()).filter(|secret| !known(secret))
    };
    let variable = list(container, &["env"]).find_map(|variable| {
        let secret = named(variable, &["valueFrom", "secretKeyRef"])?;
        let variable = text(variable, &["name"]);
        Some(format!("{name} with envVar {variable} referencing secret.secretName=\"{secret}\""))
    });
    variable.or_else(|| {
        let secret = list(container, &["envFrom"]).find_map(|source| named(source, &["secretRef"]))?;
        Some(format!("{name} with envFrom referencing secret.secretName=\"{secret}\""))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limited_account_lets_its_pods_name_its_own_secrets_only() {
        let account = json!({
            "metadata": {"name": "a", "annotations": {ENFORCED: "true"}},
            "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}],
        });
        assert!(is_enforced(&account) && !is_enforced(&json!({"metadata": {"annotations": {ENFORCED: "no"}}})));
        let table = [
            (json!({"volumes": [{"secret": {"secretName": "own"}}], "imagePullSecrets": [{"name": "pull"}]}), None),
            (json!({"volumes": [{"secret": {"secretName": "x"}}]}), Some("volume with secret.secretName=\"x\" is not")),
            (
                json!({"initContainers": [{"name": "i", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}]}),
                Some("init container i with envVar E referencing secret.secretName=\"x\" is not allowed"),
            ),
            (
                json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "own"}}, {"secretRef": {"name": "x"}}]}]}),
                Some(
                    "container c with envFrom referencing secret.secretName=\"x\" is not allowed because service account a does not",
                ),
            ),
            (
                json!({"imagePullSecrets": [{"name": "pull"}, {"name": "x"}]}),
                Some(
                    "imagePullSecrets[1].name=\"x\" is not allowed because service account a does not reference that imagePullSecret",
                ),
            ),
        ];
        for (spec, told) in table {
            let found = foreign(&account, &json!({"spec": spec}));
            assert_eq!(found.is_some(), told.is_some(), "{spec}: {found:?}");
            assert!(found.unwrap_or_default().starts_with(told.unwrap_or_default()), "{spec}");
        }
        let added =
            json!({"spec": {"ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "x"}}]}]}});
        assert!(foreign_to_ephemeral(&account, &added).unwrap().starts_with("ephemeral container e with envFrom"));
        assert!(foreign(&account, &added).is_none());
    }
}
