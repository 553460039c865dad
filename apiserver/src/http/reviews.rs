//! Questions about identities and permissions, and about where pods would go: answered, never stored.
//!
//! In: a review object. Out: the same object with its status. Every answer comes from the one authenticator and the one
//! authorizer that requests go through, or from whoever was given to this server as a [`crate::placement::Reviewer`].

use std::sync::Arc;

use gantry_api::{ApiError, Reason, meta};
use serde_json::{Map, Value, json};

use super::{App, InProcess};
use crate::auth::{Decision, Identity, MASTERS, Request, rules_of};

/// Answers a review; none if the kind is no review.
///
/// # Errors
/// When a part of the question is refused, or nobody is there to answer it.
pub async fn answer(
    app: &Arc<App>,
    kind: &str,
    identity: &Arc<Identity>,
    namespace: &str,
    mut review: Value,
) -> Result<Option<Value>, ApiError> {
    let status = match kind {
        "PlacementReview" => placements(app, identity, &review).await?,
        "TokenReview" => token_review(app, &review),
        "SelfSubjectReview" => json!({"userInfo": user_info(identity)}),
        "SelfSubjectAccessReview" => access(app, identity, &review["spec"], None),
        "LocalSubjectAccessReview" => access(app, &subject(&review["spec"]), &review["spec"], Some(namespace)),
        "SubjectAccessReview" => access(app, &subject(&review["spec"]), &review["spec"], None),
        "SelfSubjectRulesReview" => rules(identity, meta::str_at(&review, &["spec", "namespace"])),
        _ => return Ok(None),
    };
    let metadata = review.get("metadata").filter(|metadata| metadata.is_object()).cloned().unwrap_or_else(|| json!({}));
    if let Some(review) = review.as_object_mut() {
        review.insert("metadata".to_owned(), metadata);
        review.insert("status".to_owned(), status);
    }
    Ok(Some(review))
}

/// Where pods would go. Who answers asks this server back as the one who asks.
async fn placements(app: &Arc<App>, identity: &Arc<Identity>, review: &Value) -> Result<Value, ApiError> {
    let Some(reviewer) = app.placements.get() else {
        let text = "this API server was given no scheduler to answer placement reviews";
        return Err(ApiError::new(Reason::ServiceUnavailable, text));
    };
    let asker = crate::router(Arc::clone(app)).layer(axum::Extension(InProcess(Arc::clone(identity))));
    reviewer.review(meta::name(review), &review["spec"], asker).await
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

fn token_review(app: &App, review: &Value) -> Value {
    let token = meta::str_at(review, &["spec", "token"]);
    let asked: Vec<String> = review
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    match app.authenticator.authenticate_token(token, &asked) {
        Ok(identity) => {
            let mut status = json!({"authenticated": true, "user": user_info(&identity)});
            if !asked.is_empty() {
                status["audiences"] = json!(asked);
            }
            status
        }
        Err(error) => json!({"user": {}, "error": error.to_string()}),
    }
}

/// The user that an access review is about.
fn subject(spec: &Value) -> Identity {
    let groups: Vec<&str> = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    Identity {
        user: spec["user"].as_str().unwrap_or_default().to_owned(),
        groups: groups.into_iter().map(str::to_owned).collect(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        ..Identity::default()
    }
}

fn access(app: &App, identity: &Identity, spec: &Value, namespace: Option<&str>) -> Value {
    let request = request_of(spec, namespace);
    match app.authorizer.authorize(identity, &request) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
        Decision::NoOpinion(reason) if reason.is_empty() => json!({"allowed": false}),
        Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
    }
}

fn request_of(spec: &Value, namespace: Option<&str>) -> Request {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let resource = &spec["resourceAttributes"];
    if resource.is_object() {
        let star = |value: String| if value == "*" { String::new() } else { value };
        return Request {
            is_resource: true,
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: namespace.map_or_else(|| text(resource, "namespace"), str::to_owned),
            name: star(text(resource, "name")),
            ..Request::default()
        };
    }
    let path = &spec["nonResourceAttributes"];
    Request { verb: text(path, "verb"), path: text(path, "path"), ..Request::default() }
}

/// The rules that `kubectl auth can-i --list` shows.
fn rules(identity: &Identity, namespace: &str) -> Value {
    let mut resources = Vec::new();
    let mut paths = vec![
        json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"]}),
        json!({"verbs": ["get"], "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]}),
    ];
    if identity.is_in(MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    resources.push(json!({
        "verbs": ["create"],
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    }));
    resources.push(
        json!({"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]}),
    );
    for rule in rules_of(identity).filter(|rule| rule.namespace.is_empty() || rule.namespace == namespace) {
        resources.push(json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources}));
    }
    // What a node may do depends on its pods and cannot be listed.
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": identity.node_name().is_some()})
}
