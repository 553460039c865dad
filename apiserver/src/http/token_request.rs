//! `serviceaccounts/token`: a token for a service account, bound to it and, if asked, to a pod.

use std::sync::Arc;

use gantry_api::kinds::Resource;
use gantry_api::{ApiError, FieldError, codec, meta};
use serde_json::{Value, json};

use super::App;
use crate::admission::{Attributes, Operation};
use crate::auth::SERVICE_ACCOUNT_TOKEN;
use crate::auth::tokens::TokenClaims;
use crate::registry::{Caller, Target};

/// Tokens live at least ten minutes, at most a day, an hour unless asked otherwise.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 86_400;
const SECONDS_DEFAULT: i64 = 3_600;
/// Whose token a Secret holds.
const ANNOTATION_ACCOUNT: &str = "kubernetes.io/service-account.name";
/// Nobody may ask for more.
const SECONDS_LIMIT: i64 = 1 << 32;

/// Issues a token and answers with the request and its status.
pub async fn answer(
    app: &Arc<App>,
    accounts: &Resource,
    target: &Target<'_>,
    mut asked: Value,
    caller: &Caller,
) -> Result<Value, ApiError> {
    let admitted = Target { resource: accounts, subresource: "token", ..*target };
    app.registry.admit(&Attributes::new(Operation::Create, admitted, caller), &mut asked).await?;
    let account = codec::decode(&app.registry.get(accounts, target.namespace, target.name).await?)?;
    let bound = bound(app, target, &asked).await?;
    let seconds = lifetime(target.name, &asked, bound.is_for_good)?;
    let audiences: Vec<String> = asked
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    let audiences = if audiences.is_empty() { app.tokens.default_audiences() } else { audiences };
    let claims = TokenClaims {
        namespace: target.namespace.to_owned(),
        service_account: target.name.to_owned(),
        service_account_uid: meta::uid(&account).to_owned(),
        pod: bound.pod,
        node: bound.node,
        secret: bound.secret,
        ..TokenClaims::default()
    };
    let issued = app
        .tokens
        .issue(&claims, &audiences, std::time::Duration::from_secs(seconds.unsigned_abs()))
        .map_err(ApiError::internal)?;
    let spec = meta::object_mut(&mut asked, "spec");
    spec.insert("audiences".to_owned(), json!(audiences));
    spec.insert("expirationSeconds".to_owned(), json!(seconds));
    if let Some(object) = asked.as_object_mut() {
        object.insert("metadata".to_owned(), json!({"name": target.name, "namespace": target.namespace}));
        object.insert(
            "status".to_owned(),
            json!({"token": issued.token, "expirationTimestamp": meta::time(issued.expires)}),
        );
    }
    Ok(asked)
}

fn lifetime(account: &str, asked: &Value, is_for_good: bool) -> Result<i64, ApiError> {
    let seconds = asked.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(SECONDS_DEFAULT);
    if seconds < SECONDS_MIN {
        let error =
            FieldError::invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes");
        return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", account, vec![error]));
    }
    if seconds > SECONDS_LIMIT {
        let why = "may not specify a duration larger than 2^32 seconds";
        let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
        return Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", account, vec![error]));
    }
    Ok(if is_for_good { seconds } else { seconds.min(SECONDS_MAX) })
}

/// A name and a UID.
type Reference = Option<(String, String)>;

/// What the token is to be bound to.
#[derive(Default)]
struct Bound {
    pod: Reference,
    node: Reference,
    secret: Reference,
    /// It is kept in a Secret made for that, and ends with it, not with time.
    is_for_good: bool,
}

async fn bound(app: &App, target: &Target<'_>, asked: &Value) -> Result<Bound, ApiError> {
    let Some(reference) = asked.pointer("/spec/boundObjectRef").filter(|reference| reference.is_object()) else {
        return Ok(Bound::default());
    };
    let core = matches!(reference["apiVersion"].as_str(), None | Some("" | "v1"));
    match reference["kind"].as_str() {
        Some("Pod") if core => bound_pod(app, target, reference).await,
        Some("Secret") if core => bound_secret(app, target, reference).await,
        _ => {
            let error = FieldError::invalid(
                "spec.boundObjectRef",
                reference["kind"].clone(),
                "cannot bind token to this kind of object",
            );
            Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", target.name, vec![error]))
        }
    }
}

/// The object that is referred to.
async fn find(app: &App, target: &Target<'_>, plural: &str, reference: &Value) -> Result<Value, ApiError> {
    let resource = app.registry.catalog().resource("", "v1", plural).ok_or_else(super::status::no_such_path)?;
    let name = reference["name"].as_str().unwrap_or_default();
    let found = codec::decode(&app.registry.get(resource, target.namespace, name).await?)?;
    let uid = meta::uid(&found);
    if let Some(wanted) = reference["uid"].as_str().filter(|wanted| !wanted.is_empty())
        && wanted != uid
    {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(plural, name, why));
    }
    Ok(found)
}

fn reference_to(object: &Value) -> Reference {
    Some((meta::name(object).to_owned(), meta::uid(object).to_owned()))
}

/// The pod, and the node it runs on.
async fn bound_pod(app: &App, target: &Target<'_>, reference: &Value) -> Result<Bound, ApiError> {
    let pod = find(app, target, "pods", reference).await?;
    if meta::str_at(&pod, &["spec", "serviceAccountName"]) != target.name {
        let why = format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
            target.name
        );
        return Err(ApiError::bad_request(why));
    }
    let node_name = meta::str_at(&pod, &["spec", "nodeName"]);
    let nodes = app.registry.catalog().resource("", "v1", "nodes");
    let node = nodes.and_then(|nodes| app.registry.cached(nodes, "", node_name));
    let node = node.map(|node| (node_name.to_owned(), node.facts.uid.clone()));
    Ok(Bound { pod: reference_to(&pod), node, ..Bound::default() })
}

/// The Secret. One that is made to hold a token of this account holds it for good.
async fn bound_secret(app: &App, target: &Target<'_>, reference: &Value) -> Result<Bound, ApiError> {
    let secret = find(app, target, "secrets", reference).await?;
    let is_for_good =
        secret["type"] == SERVICE_ACCOUNT_TOKEN && meta::annotation(&secret, ANNOTATION_ACCOUNT) == Some(target.name);
    Ok(Bound { secret: reference_to(&secret), is_for_good, ..Bound::default() })
}
