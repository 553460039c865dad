//! Requests about resources: from verb and path to the registry, and from its answer to a response.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use gantry_api::engine::{self, BodyFormat, PatchType};
use gantry_api::kinds::{Resource, Verb};
use gantry_api::{ApiError, FieldError, Reason, codec};
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::negotiate::{self, BodyKind, Format, Offer};
use super::params::Params;
use super::request_info::RequestInfo;
use super::respond::{self, Representation};
use super::watch::{WatchBody, WatchOptions};
use super::{App, components, proxy, read_body, reviews, status};
use crate::admission::{Attributes, Notes, Operation};
use crate::auth::Identity;
use crate::registry::{
    Caller, DeleteOptions, Deleted, ListResult, PatchRequest, Target, Written, parse_resource_version,
};

/// Everything about a request except its body.
pub struct Call<'a> {
    /// The server.
    pub app: &'a Arc<App>,
    /// What is asked.
    pub info: &'a RequestInfo,
    /// Its parameters.
    pub params: &'a Params,
    /// By whom.
    pub identity: &'a Arc<Identity>,
    /// What is told besides the answer.
    pub notes: &'a Arc<Notes>,
}

type Answer = Result<Response<Body>, ApiError>;

/// Answers a request about a resource.
pub async fn handle(call: Call<'_>, request: http::Request<Body>) -> Answer {
    let info = call.info;
    let registry = &call.app.registry;
    let Some(resource) = registry.resolve(&info.group, &info.version, &info.resource).await else {
        return Err(status::no_such_path());
    };
    if let Some(deprecation) = &resource.deprecation {
        call.notes.warn(deprecation.as_str());
    }
    check_scope(&resource, info)?;
    if !info.subresource.is_empty() {
        return Box::pin(subresource(&call, &resource, request)).await;
    }
    let verb = verb_of(info.verb).filter(|verb| resource.allows(*verb)).ok_or_else(not_allowed)?;
    let accept = accept_header(&request);
    let offer = Offer { yaml: verb != Verb::Watch, ..offer(&resource) };
    let view = Representation::new(negotiate::accept(accept.as_deref(), offer)?, call.params, request.headers())?;
    match verb {
        Verb::Get | Verb::List if !resource.stored() => computed(&call, &resource, view).await,
        Verb::Get => get(&call, &resource, &view).await,
        Verb::List => {
            let list =
                call.app.registry.list(&resource, &call.params.list(&resource, namespace_of(&resource, info))?).await?;
            view.list(&resource, list).await
        }
        Verb::Watch => watch(&call, &resource, &view).await,
        Verb::Create if resource.custom.as_ref().is_some_and(|custom| custom.terminating) => Err(ApiError::new(
            Reason::MethodNotAllowed,
            "create not allowed while custom resource definition is terminating",
        )),
        Verb::Create if !resource.stored() => review(&call, &resource, &view, request).await,
        Verb::Create => {
            let caller = call.caller("CreateOptions", &request)?;
            let (format, body) = object_body(request).await?;
            let written =
                call.app.registry.create(&resource, namespace_of(&resource, info), &body, format, &caller).await?;
            written_response(&view, &resource, written)
        }
        Verb::Update => {
            let caller = call.caller("UpdateOptions", &request)?;
            let (format, body) = object_body(request).await?;
            let written = call.app.registry.update(call.target(&resource), &body, format, &caller).await?;
            written_response(&view, &resource, written)
        }
        Verb::Patch => {
            let written = patch(&call, &resource, request).await?;
            written_response(&view, &resource, written)
        }
        Verb::Delete => delete(&call, &resource, &view, request).await,
        Verb::DeleteCollection => {
            let caller = call.caller("DeleteOptions", &request)?;
            let options = delete_options(call.params, request).await?;
            let list = call.params.list(&resource, namespace_of(&resource, info))?;
            let deleted = call.app.registry.delete_collection(&resource, &list, &options, &caller).await?;
            view.list(&resource, deleted).await
        }
    }
}

impl Call<'_> {
    fn target<'a>(&'a self, resource: &'a Resource) -> Target<'a> {
        Target {
            resource,
            subresource: &self.info.subresource,
            namespace: namespace_of(resource, self.info),
            name: &self.info.name,
        }
    }

    fn caller(&self, kind: &str, request: &http::Request<Body>) -> Result<Caller, ApiError> {
        let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let caller = self.params.caller(kind, self.identity, agent)?;
        Ok(Caller { notes: Arc::clone(self.notes), ..caller })
    }
}

fn verb_of(verb: &str) -> Option<Verb> {
    Some(match verb {
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        _ => return None,
    })
}

fn not_allowed() -> ApiError {
    ApiError::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
        .with_details(gantry_api::error::Details::default())
}

/// The namespace of a request, which for namespaces themselves is none.
fn namespace_of<'a>(resource: &Resource, info: &'a RequestInfo) -> &'a str {
    if resource.namespaced { &info.namespace } else { "" }
}

/// A namespaced object lives in a namespace, a cluster-wide one in none.
fn check_scope(resource: &Resource, info: &RequestInfo) -> Result<(), ApiError> {
    for segment in [&info.namespace, &info.name] {
        if matches!(segment.as_str(), "." | "..") || segment.contains(['/', '%']) {
            let quoted = gantry_api::error::quote(segment);
            return Err(ApiError::bad_request(format!(
                "{quoted} cannot be a name: it may not be '.' or '..' nor contain '/' or '%'"
            )));
        }
    }
    let about_namespaces = resource.group.is_empty() && resource.plural == "namespaces";
    if !resource.namespaced && !info.namespace.is_empty() && !about_namespaces {
        return Err(status::no_such_path());
    }
    if resource.namespaced && info.namespace.is_empty() {
        let over_all = matches!(info.verb, "list" | "watch" | "deletecollection") && info.subresource.is_empty();
        if info.verb == "create" || info.verb == "deletecollection" {
            return Err(not_allowed());
        }
        if !over_all {
            return Err(status::no_such_path());
        }
    }
    // POST to an object, PUT to a collection and the like have no route.
    let wants_name = match info.verb {
        "get" | "update" | "patch" | "delete" => true,
        "create" => !info.subresource.is_empty(),
        _ => !info.name.is_empty(),
    };
    if wants_name == info.name.is_empty() { Err(not_allowed()) } else { Ok(()) }
}

/// In which forms a resource is shown. What is only answered and never kept (the reviews) has no table and no metadata.
fn offer(resource: &Resource) -> Offer {
    let protobuf = gantry_api::protobuf::schema_of(resource).is_some();
    Offer { protobuf, yaml: true, transforms: resource.allows(Verb::Get) }
}

fn accept_header(request: &http::Request<Body>) -> Option<String> {
    request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn content_type(request: &http::Request<Body>) -> Option<String> {
    request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

async fn object_body(request: http::Request<Body>) -> Result<(BodyFormat, Bytes), ApiError> {
    let format = match negotiate::object_body(content_type(&request).as_deref())? {
        BodyKind::Yaml => BodyFormat::Yaml,
        BodyKind::Protobuf => BodyFormat::Protobuf,
        _ => BodyFormat::Json,
    };
    Ok((format, read_body(request.into_body()).await?))
}

/// What is not stored but known: the health of components.
async fn computed(call: &Call<'_>, resource: &Arc<Resource>, view: Representation) -> Answer {
    call.notes.warn(components::DEPRECATED);
    let bytes = |object: Value| Bytes::from(object.to_string());
    if call.info.verb == "get" {
        let found = components::get(call.app, resource, &call.info.name).await?;
        return view.object(StatusCode::OK, resource, bytes(found));
    }
    let filter = call.params.list(resource, "")?.filter;
    let found = components::list(call.app, &filter).await;
    let objects = found.into_iter().map(bytes).collect();
    let list =
        ListResult { objects, revision: call.app.registry.cacher().revision(), continue_token: None, remaining: None };
    view.list(resource, list).await
}

async fn get(call: &Call<'_>, resource: &Resource, view: &Representation) -> Answer {
    let bytes = read(call, resource).await?;
    view.object(StatusCode::OK, resource, bytes)
}

async fn read(call: &Call<'_>, resource: &Resource) -> Result<Bytes, ApiError> {
    let namespace = namespace_of(resource, call.info);
    match parse_resource_version(call.params.get("resourceVersion"))? {
        None => call.app.registry.get(resource, namespace, &call.info.name).await,
        Some(revision) => call.app.registry.get_cached(resource, namespace, &call.info.name, revision).await,
    }
}

fn written_response(view: &Representation, resource: &Resource, written: Written) -> Answer {
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = view.object(code, resource, written.object)?;
    respond::warn(response.headers_mut(), &written.warnings);
    Ok(response)
}

async fn watch(call: &Call<'_>, resource: &Arc<Resource>, view: &Representation) -> Answer {
    let request = call.params.watch(resource, namespace_of(resource, call.info), &call.info.name)?;
    let timeout = call
        .params
        .number("timeoutSeconds")?
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0);
    let session = match call.app.registry.watch(resource, &request).await {
        Ok(session) => session,
        // Clients look for these inside the watch, where they may also come later.
        Err(error) if error.reason == Reason::Expired || error.reason == Reason::Timeout => {
            let status = error.to_status(status::code(&error).as_u16());
            let frame = match view.format {
                Format::Protobuf => {
                    let status = respond::in_format(Format::Protobuf, Bytes::from(status.to_string()))?;
                    gantry_api::protobuf::watch_frame("ERROR", &status)
                }
                _ => codec::error_frame(&status),
            };
            return Ok(respond::respond(StatusCode::OK, view.format.stream_type(), frame));
        }
        Err(error) => return Err(error),
    };
    let options = WatchOptions {
        shape: view.shape,
        format: view.format,
        bookmarks: call.params.flag("allowWatchBookmarks"),
        timeout: timeout.map(Duration::from_secs),
    };
    let body = WatchBody::new(session, options, &call.app.shutdown, call.app.metrics.open(call.info));
    let mut response = Response::new(Body::from_stream(body));
    let content_type = header::HeaderValue::from_static(view.format.stream_type());
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

async fn review(call: &Call<'_>, resource: &Resource, view: &Representation, request: http::Request<Body>) -> Answer {
    let (format, body) = object_body(request).await?;
    let mut context = crate::registry::read_context();
    let review = engine::decode(resource, &body, format, &mut context)?;
    if resource.group.is_empty() && resource.plural == "bindings" {
        return bind(call, view, &review).await;
    }
    let answered = reviews::answer(call.app, &resource.kind, call.identity, &call.info.namespace, review)
        .await?
        .ok_or_else(status::no_such_path)?;
    view.bytes(StatusCode::CREATED, codec::encode(&answered))
}

/// `POST …/bindings`, the older way to bind a pod.
async fn bind(call: &Call<'_>, view: &Representation, binding: &Value) -> Answer {
    let pods = call.app.registry.catalog().resource("", "v1", "pods").ok_or_else(status::no_such_path)?;
    let name = gantry_api::meta::name(binding);
    let caller = Caller { notes: Arc::clone(call.notes), ..call.params.caller("CreateOptions", call.identity, "")? };
    call.app.registry.bind(pods, &call.info.namespace, name, binding, &caller).await?;
    view.document(StatusCode::CREATED, &status::success(StatusCode::CREATED))
}

async fn patch(call: &Call<'_>, resource: &Resource, request: http::Request<Body>) -> Result<Written, ApiError> {
    let force = call.params.optional_flag("force");
    let kind = match negotiate::patch_body(content_type(&request).as_deref())? {
        BodyKind::JsonPatch => PatchType::Json,
        BodyKind::MergePatch => PatchType::Merge,
        BodyKind::StrategicMergePatch => PatchType::Strategic,
        _ => PatchType::Apply { force: force.unwrap_or(false) },
    };
    let refuse = |error: FieldError| Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", vec![error]));
    let applies = matches!(kind, PatchType::Apply { .. });
    if applies && call.params.text("fieldManager").is_none() {
        return refuse(FieldError::required("fieldManager", "is required for apply patch"));
    }
    if !applies && force.is_some() {
        return refuse(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    let caller = call.caller("PatchOptions", &request)?;
    let body = read_body(request.into_body()).await?;
    call.app.registry.patch(call.target(resource), PatchRequest { kind, body: &body }, &caller).await
}

async fn delete_options(params: &Params, request: http::Request<Body>) -> Result<DeleteOptions, ApiError> {
    let (format, body) = object_body(request).await?;
    let mut options = engine::decode_delete_options(&body, format)?;
    if let Some(options) = options.as_object_mut() {
        options.extend(params.delete_options()?);
    }
    DeleteOptions::from_value(&options)
}

async fn delete(call: &Call<'_>, resource: &Resource, view: &Representation, request: http::Request<Body>) -> Answer {
    let caller = call.caller("DeleteOptions", &request)?;
    let options = delete_options(call.params, request).await?;
    let namespace = namespace_of(resource, call.info);
    let deleted = call.app.registry.delete(resource, namespace, &call.info.name, &options, &caller).await?;
    match deleted {
        Deleted::Object(object) => view.object(StatusCode::OK, resource, object),
        Deleted::Gone(uid) => {
            let mut details = json!({"name": call.info.name, "kind": resource.plural, "uid": uid});
            if !resource.group.is_empty() {
                details["group"] = json!(resource.group);
            }
            let body = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            });
            view.document(StatusCode::OK, &body)
        }
    }
}

/// Requests below an object.
async fn subresource(call: &Call<'_>, resource: &Arc<Resource>, request: http::Request<Body>) -> Answer {
    let info = call.info;
    if !resource.subresources.has(&info.subresource) {
        return Err(status::no_such_path());
    }
    let accept = accept_header(&request);
    let target = call.target(resource);
    let registry = &call.app.registry;
    if proxy::serves(resource, &info.subresource) {
        let caller = call.caller("ConnectOptions", &request)?;
        admit_connection(call, resource, &caller).await?;
        return proxy::handle(call, resource, request).await;
    }
    let view =
        Representation::new(negotiate::accept(accept.as_deref(), offer(resource))?, call.params, request.headers())?;
    // A Scale and the like have no table of their own.
    let plain = info.subresource == "scale";
    let show = |written: Written| {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response =
            if plain { view.bytes(code, written.object)? } else { view.object(code, resource, written.object)? };
        respond::warn(response.headers_mut(), &written.warnings);
        Ok(response)
    };
    match (info.verb, info.subresource.as_str()) {
        ("get", "status" | "scale" | "approval" | "ephemeralcontainers" | "resize") => {
            let object = registry.present_through(&target, read(call, resource).await?).await?;
            show(Written { object, created: false, warnings: Vec::new() })
        }
        ("create", "binding") => {
            let caller = call.caller("CreateOptions", &request)?;
            let binding = action_body(resource, "binding", request).await?;
            registry.bind(resource, target.namespace, target.name, &binding, &caller).await?;
            view.document(StatusCode::CREATED, &status::success(StatusCode::CREATED))
        }
        ("create", "eviction") => {
            let caller = call.caller("CreateOptions", &request)?;
            let eviction = action_body(resource, "eviction", request).await?;
            registry.evict(resource, target.namespace, target.name, &eviction, &caller).await?;
            view.document(StatusCode::CREATED, &status::success(StatusCode::CREATED))
        }
        ("create", "token") => {
            let caller = call.caller("CreateOptions", &request)?;
            let asked = action_body(resource, "token", request).await?;
            let answer = super::token_request::answer(call.app, resource, &target, asked, &caller).await?;
            view.bytes(StatusCode::CREATED, codec::encode(&answer))
        }
        ("update", _) if !is_action(&info.subresource) => {
            let caller = call.caller("UpdateOptions", &request)?;
            let (format, body) = object_body(request).await?;
            let written = registry.update(target, &body, format, &caller).await?;
            show(written)
        }
        ("patch", _) if !is_action(&info.subresource) => show(patch(call, resource, request).await?),
        _ => Err(not_allowed()),
    }
}

/// Admission of a request that is passed on: what it asks for is its object. Reading logs is no connection.
async fn admit_connection(call: &Call<'_>, resource: &Resource, caller: &Caller) -> Result<(), ApiError> {
    if call.info.subresource == "log" {
        return Ok(());
    }
    let mut options = call.params.connect_options(resource, &call.info.subresource, &call.info.rest);
    let attributes = Attributes::new(Operation::Connect, call.target(resource), caller);
    call.app.registry.admit(&attributes, &mut options).await
}

fn is_action(subresource: &str) -> bool {
    matches!(subresource, "binding" | "eviction" | "token")
}

async fn action_body(resource: &Resource, subresource: &str, request: http::Request<Body>) -> Result<Value, ApiError> {
    let (format, body) = object_body(request).await?;
    let mut context = crate::registry::read_context();
    engine::decode_subresource(resource, subresource, &body, format, &mut context)
}
