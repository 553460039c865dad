//! What a namespace lacks of what every namespace has. Pure.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use crate::machinery::context::ROOT_CA;

/// The service account that pods run as when they name none.
pub const DEFAULT_ACCOUNT: &str = "default";
/// Where the certificate is in the ConfigMap.
pub const CA_KEY: &str = "ca.crt";

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make the service account.
    CreateAccount(Box<ServiceAccount>),
    /// Make the ConfigMap with the CA.
    CreateCa(Box<ConfigMap>),
    /// Mend the ConfigMap with this merge patch.
    MendCa(Value),
}

/// Tells what to write.
pub fn plan(namespace: &Namespace, has_account: bool, root_ca: Option<&ConfigMap>, ca_pem: Option<&str>) -> Vec<Step> {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    if namespace.metadata.deletion_timestamp.is_some() || phase == Some("Terminating") {
        return Vec::new();
    }
    let name = namespace.name_any();
    let mut steps = Vec::new();
    if !has_account {
        steps.push(Step::CreateAccount(Box::new(ServiceAccount {
            metadata: meta(DEFAULT_ACCOUNT, &name),
            ..ServiceAccount::default()
        })));
    }
    let Some(pem) = ca_pem else { return steps };
    match root_ca {
        None => steps.push(Step::CreateCa(Box::new(ConfigMap {
            metadata: ObjectMeta {
                annotations: Some(
                    [(
                        "kubernetes.io/description".to_owned(),
                        "Holds the CA bundle that verifies the API server. It is good for nothing else.".to_owned(),
                    )]
                    .into(),
                ),
                ..meta(ROOT_CA, &name)
            },
            data: Some([(CA_KEY.to_owned(), pem.to_owned())].into()),
            ..ConfigMap::default()
        }))),
        Some(present) => steps.extend(mend(present, pem).map(Step::MendCa)),
    }
    steps
}

fn meta(name: &str, namespace: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() }
}

fn mend(present: &ConfigMap, pem: &str) -> Option<Value> {
    let data = present.data.clone().unwrap_or_default();
    let right = data.len() == 1 && data.get(CA_KEY).is_some_and(|value| value == pem);
    if right {
        return None;
    }
    let mut patch: Map<String, Value> = data.into_keys().map(|key| (key, Value::Null)).collect();
    patch.insert(CA_KEY.into(), pem.into());
    Some(json!({"data": patch}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(phase: &str) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": "shop"}, "status": {"phase": phase}})).unwrap()
    }

    fn ca(data: Value) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": ROOT_CA}, "data": data})).unwrap()
    }

    #[test]
    fn a_new_namespace_gets_both() {
        let steps = plan(&namespace("Active"), false, None, Some("PEM"));
        let [Step::CreateAccount(account), Step::CreateCa(ca)] = &steps[..] else {
            panic!("{steps:?}");
        };
        assert_eq!(account.name_any(), "default");
        assert_eq!(ca.namespace().as_deref(), Some("shop"));
        assert_eq!(ca.data.as_ref().unwrap()["ca.crt"], "PEM");
    }

    #[test]
    fn what_was_changed_is_mended_and_what_is_right_is_left_alone() {
        let active = namespace("Active");
        let right = ca(json!({"ca.crt": "PEM"}));
        assert_eq!(plan(&active, true, Some(&right), Some("PEM")), []);
        let wrong = ca(json!({"ca.crt": "OLD", "more": "x"}));
        assert_eq!(
            plan(&active, true, Some(&wrong), Some("PEM")),
            [Step::MendCa(json!({"data": {"ca.crt": "PEM", "more": null}}))]
        );
    }

    #[test]
    fn a_leaving_namespace_gets_nothing() {
        assert_eq!(plan(&namespace("Terminating"), false, None, Some("PEM")), []);
    }
}
