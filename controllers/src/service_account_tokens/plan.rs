//! What a Secret for a service account's token lacks. Pure.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::ResourceExt;

/// The type of these Secrets.
pub const TYPE: &str = "kubernetes.io/service-account-token";
/// Whose token it is.
pub const ANNOTATION_NAME: &str = "kubernetes.io/service-account.name";
/// Of which account of that name.
pub const ANNOTATION_UID: &str = "kubernetes.io/service-account.uid";

/// The one thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The account is gone, or another one has its name.
    Delete,
    /// Write these, and a token if there is none.
    Fill {
        /// The account's UID.
        account_uid: String,
        /// Data by key.
        data: Vec<(&'static str, String)>,
        /// Whether a token is to be made.
        token: bool,
    },
}

/// Tells what to do with a Secret; `account` is the one that it names. Without a CA none is written.
pub fn plan(secret: &Secret, account: Option<&ServiceAccount>, ca_pem: Option<&str>) -> Option<Step> {
    if secret.type_.as_deref() != Some(TYPE) || secret.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let noted = secret.annotations().get(ANNOTATION_UID).filter(|uid| !uid.is_empty());
    let account_uid = match account.and_then(|account| account.uid()) {
        Some(uid) if noted.is_none_or(|noted| *noted == uid) => uid,
        _ => return Some(Step::Delete),
    };
    let held =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|ByteString(bytes)| bytes.as_slice());
    let namespace = secret.namespace().unwrap_or_default();
    let wanted = [("ca.crt", ca_pem), ("namespace", Some(namespace.as_str()))];
    let lacks = |(key, value): &(&'static str, Option<&str>)| value.is_some_and(|v| held(key) != Some(v.as_bytes()));
    let data: Vec<(&'static str, String)> =
        wanted.into_iter().filter(lacks).map(|(key, value)| (key, value.unwrap_or_default().to_owned())).collect();
    let token = held("token").is_none_or(<[u8]>::is_empty);
    (noted.is_none() || token || !data.is_empty()).then_some(Step::Fill { account_uid, data, token })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(annotations: Value, data: Value) -> Secret {
        let secret = json!({"metadata": {"name": "s", "namespace": "n", "annotations": annotations}, "type": TYPE, "data": data});
        serde_json::from_value(secret).unwrap()
    }

    fn account(uid: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": uid}})).unwrap()
    }

    #[test]
    fn an_empty_secret_is_filled_and_a_full_one_left_alone() {
        let fill = |data, token| Some(Step::Fill { account_uid: "u".to_owned(), data, token });
        let both = vec![("ca.crt", "PEM".to_owned()), ("namespace", "n".to_owned())];
        let empty = secret(json!({ANNOTATION_NAME: "a"}), Value::Null);
        assert_eq!(plan(&empty, Some(&account("u")), Some("PEM")), fill(both, true));
        let noted = json!({ANNOTATION_NAME: "a", ANNOTATION_UID: "u"});
        let full = json!({"token": "dA==", "ca.crt": "UEVN", "namespace": "bg=="});
        assert_eq!(plan(&secret(noted.clone(), full.clone()), Some(&account("u")), Some("PEM")), None);
        let mut stale = full;
        stale["ca.crt"] = json!("T0xE");
        let ca = vec![("ca.crt", "PEM".to_owned())];
        assert_eq!(plan(&secret(noted, stale), Some(&account("u")), Some("PEM")), fill(ca, false));
    }

    #[test]
    fn a_secret_ends_with_its_account() {
        let noted = secret(json!({ANNOTATION_NAME: "a", ANNOTATION_UID: "u"}), Value::Null);
        assert_eq!(plan(&noted, None, None), Some(Step::Delete));
        assert_eq!(plan(&noted, Some(&account("other")), None), Some(Step::Delete));
        let mut leaving = noted;
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2024-01-01T00:00:00Z")).unwrap();
        assert_eq!(plan(&leaving, None, None), None);
    }
}
