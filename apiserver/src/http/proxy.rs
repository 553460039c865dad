//! The way to nodes, and to what runs on them: logs, exec, attach and port-forward of pods, the node's own API, and plain
//! requests to pods and services.
//!
//! In: a request below a pod, service or node. Out: the other side's answer, streamed; where it switches protocols the bytes
//! pass through both ways untouched. Connections to an agent go to the node's address over TLS with the API server's client
//! certificate, and the node's certificate must carry the node's name. Where `…/proxy` leads is decided in
//! [`super::backends`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, FieldError, codec, meta};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::backends::{self, Id};
use super::params::Params;
use super::resources::Call;

/// How long connecting to a node, or to a pod, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where an agent listens that does not say otherwise.
const DEFAULT_AGENT_PORT: u16 = 10250;

/// Connects to nodes.
#[derive(Clone)]
pub struct NodeProxy {
    tls: tokio_rustls::TlsConnector,
    /// For pods and services, whose certificates nobody could know.
    any: tokio_rustls::TlsConnector,
}

/// Whom a connection believes to be the other side.
enum Trust {
    /// Plain HTTP.
    Plain,
    /// The agent of the node of this name.
    Node(String),
    /// Anyone.
    Anyone,
}

/// Where a request goes.
struct Upstream {
    host: String,
    port: u16,
    trust: Trust,
    path_and_query: String,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl NodeProxy {
    /// Connects with this client configuration, which has the cluster's CA and the API server's client certificate.
    pub fn new(config: Arc<rustls::ClientConfig>) -> Self {
        Self { tls: config.into(), any: crate::webhook::believing_anyone().into() }
    }

    async fn connect(&self, upstream: &Upstream) -> std::io::Result<Box<dyn Stream>> {
        let connecting = async {
            let stream = TcpStream::connect((upstream.host.as_str(), upstream.port)).await?;
            stream.set_nodelay(true)?;
            let (tls, name) = match &upstream.trust {
                Trust::Plain => return Ok(Box::new(stream) as Box<dyn Stream>),
                Trust::Node(name) => (&self.tls, name),
                Trust::Anyone => (&self.any, &upstream.host),
            };
            let name = ServerName::try_from(name.clone()).map_err(std::io::Error::other)?;
            Ok(Box::new(tls.connect(name, stream).await?) as Box<dyn Stream>)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

/// Whether a subresource is served by nodes.
pub fn serves(resource: &Resource, subresource: &str) -> bool {
    resource.group.is_empty()
        && match resource.plural.as_str() {
            "pods" => matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy"),
            "nodes" | "services" => subresource == "proxy",
            _ => false,
        }
}

/// Passes a request on.
pub async fn handle(call: &Call<'_>, resource: &Resource, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let info = call.info;
    if info.subresource == "proxy" {
        return proxied(call, resource, request).await;
    }
    let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
    let object = codec::decode(&call.app.registry.get(resource, namespace, &info.name).await?)?;
    let allowed = match info.subresource.as_str() {
        "log" => matches!(*request.method(), Method::GET | Method::HEAD),
        _ => matches!(*request.method(), Method::GET | Method::POST),
    };
    if !allowed {
        return Err(ApiError::new(
            gantry_api::Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        ));
    }
    let upstream = match (resource.plural.as_str(), info.subresource.as_str()) {
        (_, "log") => {
            check_log_options(&info.name, call.params)?;
            let container = container_of(&object, call.params)?;
            if meta::str_at(&object, &["spec", "nodeName"]).is_empty() {
                // Nothing has run, so nothing has been said.
                return Ok(super::respond::respond(StatusCode::OK, "text/plain", bytes::Bytes::new()));
            }
            let query =
                call.params.iter().filter(|(key, _)| !matches!(*key, "container" | "insecureSkipTLSVerifyBackend"));
            agent_of_pod(call, &object, &format!("/containerLogs/{}/{}/{container}", info.namespace, info.name), query)
                .await?
        }
        (_, "portforward") => {
            check_running(&object)?;
            agent_of_pod(call, &object, &format!("/portForward/{}/{}", info.namespace, info.name), call.params.iter())
                .await?
        }
        (_, action) => {
            check_running(&object)?;
            let container = container_of(&object, call.params)?;
            let query = call
                .params
                .iter()
                .filter(|(key, _)| *key != "container")
                .map(|(key, value)| (stream_parameter(key), value));
            agent_of_pod(call, &object, &format!("/{action}/{}/{}/{container}", info.namespace, info.name), query)
                .await?
        }
    };
    forward(call, &upstream, request).await
}

/// The node API's name of a parameter.
fn stream_parameter(key: &str) -> &str {
    match key {
        "stdin" => "input",
        "stdout" => "output",
        "stderr" => "error",
        other => other,
    }
}

fn check_running(pod: &Value) -> Result<(), ApiError> {
    let name = meta::name(pod);
    if meta::str_at(pod, &["spec", "nodeName"]).is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let phase = meta::str_at(pod, &["status", "phase"]);
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(ApiError::bad_request(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    Ok(())
}

fn container_names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    pod["spec"][list].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
}

/// The container a request is about: the one it names, or the only one.
fn container_of(pod: &Value, params: &Params) -> Result<String, ApiError> {
    let name = meta::name(pod);
    let containers = container_names(pod, "containers");
    let init = container_names(pod, "initContainers");
    match params.text("container") {
        Some(wanted) => {
            let ephemeral = container_names(pod, "ephemeralContainers");
            if containers.iter().chain(&init).chain(&ephemeral).any(|known| *known == wanted) {
                return Ok(wanted.to_owned());
            }
            Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")))
        }
        None => match containers.as_slice() {
            [only] => Ok((*only).to_owned()),
            many => {
                let mut text =
                    format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(ApiError::bad_request(text))
            }
        },
    }
}

fn check_log_options(pod: &str, params: &Params) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    for (key, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(number) = params.number(key)?
            && number < least
        {
            let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(FieldError::invalid(key, number, why));
        }
    }
    if params.text("sinceSeconds").is_some() && params.text("sinceTime").is_some() {
        errors.push(FieldError::forbidden(
            "sinceSeconds",
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "PodLogOptions", pod, errors)) }
}

async fn agent_of_pod<'a>(
    call: &Call<'_>,
    pod: &Value,
    path: &str,
    query: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Upstream, ApiError> {
    let name = meta::str_at(pod, &["spec", "nodeName"]);
    let nodes = call.app.registry.catalog().resource("", "v1", "nodes").ok_or_else(super::status::no_such_path)?;
    let node = codec::decode(&call.app.registry.get(nodes, "", name).await?)?;
    to_agent(&node, with_query(path.to_owned(), query))
}

fn with_query<'a>(path: String, query: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

fn to_agent(node: &Value, path_and_query: String) -> Result<Upstream, ApiError> {
    let name = meta::name(node);
    Ok(Upstream {
        host: node_address(node)?.to_owned(),
        port: agent_port(node),
        trust: Trust::Node(name.to_owned()),
        path_and_query,
    })
}

fn node_address(node: &Value) -> Result<&str, ApiError> {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let address = |kind: &str| {
        let mut matching = addresses.into_iter().flatten().filter(|address| address["type"] == kind);
        matching.find_map(|address| address["address"].as_str())
    };
    address("InternalIP").or_else(|| address("ExternalIP")).or_else(|| address("Hostname")).ok_or_else(|| {
        let name = meta::name(node);
        ApiError::internal(format!("no preferred addresses found for node {name}; known addresses: []"))
    })
}

fn agent_port(node: &Value) -> u16 {
    node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .unwrap_or(DEFAULT_AGENT_PORT)
}

/// Passes a request on to a pod, a service's endpoint or a node, with all below `…/proxy` as the client wrote it.
async fn proxied(call: &Call<'_>, resource: &Resource, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let info = call.info;
    let invalid = || ApiError::bad_request(format!("invalid {} request \"{}\"", resource.singular, info.name));
    let id = Id::parse(&info.name).ok_or_else(invalid)?;
    let path = request.uri().path().to_owned();
    let rest = backends::rest_of(&path, resource.namespaced);
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
    let registry = &call.app.registry;
    let object = codec::decode(&registry.get(resource, namespace, id.name).await?)?;
    let reach = |backend: backends::Backend| Upstream {
        trust: if backend.https { Trust::Anyone } else { Trust::Plain },
        host: backend.host,
        port: backend.port,
        path_and_query: format!("{rest}{query}"),
    };
    let upstream = match resource.plural.as_str() {
        "nodes" if id.port.is_empty() || id.port.parse() == Ok(agent_port(&object)) => {
            to_agent(&object, format!("{rest}{query}"))?
        }
        "nodes" => {
            let port = id.port.parse().map_err(|_| invalid())?;
            reach(backends::Backend { host: node_address(&object)?.to_owned(), port, https: id.https() })
        }
        "services" => {
            let port = backends::port_of_service(&id, &object)?;
            let catalog = registry.catalog();
            let kind = catalog.resource("", "v1", "endpoints").ok_or_else(super::status::no_such_path)?;
            let endpoints = match registry.get(kind, namespace, id.name).await {
                Ok(bytes) => codec::decode(&bytes)?,
                Err(error) if error.reason == gantry_api::Reason::NotFound => Value::Null,
                Err(error) => return Err(error),
            };
            reach(backends::of_endpoints(&id, port, &endpoints, rand::random_range(0..usize::MAX))?)
        }
        _ => reach(backends::of_pod(&id, &object)?),
    };
    let prefix = path.strip_suffix(rest).unwrap_or(&path);
    if rest.is_empty() {
        // Relative links below the root of what is proxied would else lead beside it.
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            let location = format!("{path}/{query}");
            let response = Response::builder().status(StatusCode::MOVED_PERMANENTLY).header(header::LOCATION, location);
            return response.body(Body::empty()).map_err(|error| ApiError::internal(error.to_string()));
        }
        let root = Upstream { path_and_query: format!("/{query}"), ..upstream };
        return pass(call, &root, prefix, request).await;
    }
    pass(call, &upstream, prefix, request).await
}

/// Forwards a request, telling the backend under which path it is seen, and keeps its redirects below that.
async fn pass(
    call: &Call<'_>,
    upstream: &Upstream,
    prefix: &str,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let seen = HeaderValue::from_str(&format!("{prefix}{}", upstream.path_and_query));
    let host = request.headers().get(header::HOST).cloned();
    let headers = request.headers_mut();
    for (name, value) in [
        ("x-forwarded-uri", seen.ok()),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", Some(HeaderValue::from_static("https"))),
    ] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    let to_pod = !matches!(upstream.trust, Trust::Node(_));
    let mut response = match forward(call, upstream, request).await {
        Err(error) if to_pod && error.reason == gantry_api::Reason::InternalError => {
            let why = error.message.trim_start_matches("Internal error occurred: error dialing backend: ");
            let why = format!("error trying to reach service: {why}");
            return Err(ApiError::new(gantry_api::Reason::ServiceUnavailable, why));
        }
        other => other?,
    };
    let headers = response.headers_mut();
    if to_pod {
        // What a pod lets other sites do says nothing about the API.
        for name in ["access-control-allow-origin", "access-control-allow-credentials", "access-control-allow-methods"]
        {
            headers.remove(name);
        }
    }
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let own = format!("{}:{}", upstream.host, upstream.port);
    let moved = location.map(|location| backends::relocated(location, &own, prefix));
    if let Some(moved) = moved.and_then(|moved| HeaderValue::from_str(&moved).ok()) {
        headers.insert(header::LOCATION, moved);
    }
    Ok(response)
}

/// Headers that belong to one connection, or to the API server alone.
fn is_private(name: &HeaderName, upgrades: bool) -> bool {
    match *name {
        header::HOST
        | header::AUTHORIZATION
        | header::TE
        | header::TRAILER
        | header::TRANSFER_ENCODING
        | header::PROXY_AUTHORIZATION => true,
        header::CONNECTION | header::UPGRADE => !upgrades,
        ref other => {
            other.as_str().starts_with("impersonate-")
                // Only this server says for whom it asks.
                || other.as_str().starts_with("x-remote-")
                || other.as_str() == "keep-alive"
        }
    }
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, upgrades: bool) {
    for (name, value) in from {
        if !is_private(name, upgrades) {
            to.append(name, value.clone());
        }
    }
}

async fn forward(call: &Call<'_>, upstream: &Upstream, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let unreachable = |error: &dyn std::fmt::Display| {
        ApiError::internal(format!(
            "error dialing backend: {} {}:{}: {error}",
            "dial tcp", upstream.host, upstream.port
        ))
    };
    let stream = call.app.proxy.connect(upstream).await.map_err(|error| unreachable(&error))?;
    let authority = format!("{}:{}", upstream.host, upstream.port);
    let onward = Onward { authority: &authority, path_and_query: &upstream.path_and_query, headers: HeaderMap::new() };
    match pass_on(call.app, call.info, stream, onward, request).await {
        Ok(response) => Ok(response),
        Err(PassError::Request(error)) => Err(error),
        Err(PassError::Connection(error)) => Err(unreachable(&error)),
    }
}

/// How a request is passed on.
pub(super) struct Onward<'a> {
    /// What the other side is called.
    pub authority: &'a str,
    /// What it is asked for.
    pub path_and_query: &'a str,
    /// What it is told besides the request's own headers.
    pub headers: HeaderMap,
}

/// Why a request could not be passed on.
pub(super) enum PassError {
    /// It cannot be.
    Request(ApiError),
    /// The connection failed.
    Connection(hyper::Error),
}

impl From<hyper::Error> for PassError {
    fn from(error: hyper::Error) -> Self {
        PassError::Connection(error)
    }
}

/// Passes a request on over a connection of its own, and the answer back as it comes; after an upgrade, bytes both ways.
pub(super) async fn pass_on(
    app: &super::App,
    info: &super::request_info::RequestInfo,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    onward: Onward<'_>,
    mut request: Request<Body>,
) -> Result<Response<Body>, PassError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::Builder::new().handshake::<_, Body>(TokioIo::new(stream)).await?;
    // Ends when either side closes, and with the session that was upgraded on it.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection that requests were passed on over ended");
        }
    });
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let client_side = upgrades.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut passed = Request::new(if upgrades { Body::empty() } else { body });
    *passed.method_mut() = parts.method;
    *passed.uri_mut() = onward
        .path_and_query
        .parse::<Uri>()
        .map_err(|error| PassError::Request(ApiError::bad_request(error.to_string())))?;
    copy_headers(&parts.headers, passed.headers_mut(), upgrades);
    passed.headers_mut().extend(onward.headers);
    if let Ok(host) = http::HeaderValue::from_str(onward.authority) {
        passed.headers_mut().insert(header::HOST, host);
    }
    let mut answer = sender.send_request(passed).await?;
    let open = app.metrics.open(info);
    let code = answer.status();
    let mut headers = HeaderMap::new();
    copy_headers(answer.headers(), &mut headers, code == StatusCode::SWITCHING_PROTOCOLS);
    let body = match client_side {
        Some(client_side) if code == StatusCode::SWITCHING_PROTOCOLS => {
            let node_side = hyper::upgrade::on(&mut answer);
            tokio::spawn(splice(client_side, node_side, app.shutdown.clone(), open));
            Body::empty()
        }
        _ => {
            let body = answer.into_body();
            Body::new(body.map_frame(move |frame| {
                // The request counts as open for as long as its body is read.
                let _open = &open;
                frame
            }))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Passes bytes both ways until either side is done or the server stops.
async fn splice(
    client: hyper::upgrade::OnUpgrade,
    node: hyper::upgrade::OnUpgrade,
    shutdown: CancellationToken,
    _open: super::metrics::OpenRequest,
) {
    let passing = async {
        let (client, node) = tokio::try_join!(client, node)?;
        let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
        match tokio::io::copy_bidirectional(&mut client, &mut node).await {
            Ok((sent, received)) => tracing::debug!(sent, received, "a session ended"),
            Err(error) => tracing::debug!(%error, "a session broke"),
        }
        Ok::<(), hyper::Error>(())
    };
    tokio::select! {
        result = passing => {
            if let Err(error) = result {
                tracing::debug!(%error, "a session could not be upgraded");
            }
        }
        () = shutdown.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_the_named_or_the_only_one() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        let none = Params::parse(None);
        assert_eq!(container_of(&one, &none).unwrap(), "a");
        assert_eq!(
            container_of(&two, &none).unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(container_of(&two, &Params::parse(Some("container=i"))).unwrap(), "i");
        assert_eq!(
            container_of(&two, &Params::parse(Some("container=x"))).unwrap_err().message,
            "container x is not valid for pod p"
        );
    }

    #[test]
    fn log_options_are_checked() {
        assert!(check_log_options("p", &Params::parse(Some("tailLines=5&follow=true"))).is_ok());
        let error = check_log_options("p", &Params::parse(Some("tailLines=-1"))).unwrap_err();
        assert!(
            error.message.contains("tailLines: Invalid value: -1: must be greater than or equal to 0"),
            "{}",
            error.message
        );
        assert!(check_log_options("p", &Params::parse(Some("sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z"))).is_err());
    }

    #[test]
    fn stream_parameters_are_renamed_and_commands_kept_in_order() {
        let params = Params::parse(Some("stdin=true&stdout=true&command=sh&command=-c&command=a%20b"));
        let query = params.iter().map(|(key, value)| (stream_parameter(key), value));
        assert_eq!(
            with_query("/exec/n/p/c".into(), query),
            "/exec/n/p/c?input=true&output=true&command=sh&command=-c&command=a+b"
        );
    }
}
