//! A real API server on a port of its own with an embedded store in a temporary directory, and a plain HTTPS client.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod backend;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use gantry_apiserver::{Handle, Options};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub struct Server {
    pub handle: Handle,
    pub shutdown: CancellationToken,
    pub dir: Arc<tempfile::TempDir>,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub async fn start_in(dir: Arc<tempfile::TempDir>) -> Self {
        Self::start_with(dir, |_| {}).await
    }

    pub async fn start_with(dir: Arc<tempfile::TempDir>, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(dir.path());
        options.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut options);
        let shutdown = CancellationToken::new();
        let handle = gantry_apiserver::start(options, Default::default(), shutdown.clone()).await.unwrap();
        Self { handle, shutdown, dir }
    }

    /// Stops it and hands back its data.
    pub async fn stop(self) -> Arc<tempfile::TempDir> {
        self.shutdown.cancel();
        self.handle.stopped().await;
        self.dir
    }

    pub fn admin(&self) -> Client {
        let identity = self.handle.pki().admin();
        self.with_certificate(&identity.chain_pem, &identity.key_pem)
    }

    pub fn user(&self, user: &str, groups: &[&str]) -> Client {
        let identity = self.handle.pki().authority().issue_client(user, groups, jiff::Timestamp::now()).unwrap();
        self.with_certificate(&identity.chain_pem, &identity.key_pem)
    }

    fn with_certificate(&self, chain: &str, key: &str) -> Client {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let config = self.client_config().with_client_auth_cert(chain, key).unwrap();
        Client { address: self.handle.local_addr(), tls: Arc::new(config), token: None }
    }

    fn client_config(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.handle.pki().ca_pem().as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
    }

    pub fn anonymous(&self) -> Client {
        Client {
            address: self.handle.local_addr(),
            tls: Arc::new(self.client_config().with_no_client_auth()),
            token: None,
        }
    }

    pub fn bearer(&self, token: &str) -> Client {
        Client { token: Some(token.to_owned()), ..self.anonymous() }
    }

    /// A namespace with its default service account, as the controllers would make it.
    pub async fn namespace(&self, name: &str) -> Client {
        let admin = self.admin();
        admin
            .post("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await
            .expect(201);
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        admin.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account).await.expect(201);
        admin
    }
}

#[derive(Clone)]
pub struct Client {
    address: std::net::SocketAddr,
    tls: Arc<ClientConfig>,
    pub token: Option<String>,
}

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }

    /// Checks code, reason and a part of the message of a Status.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str, message: &str) -> Value {
        let status = self.json();
        assert_eq!(self.code, code, "{status}");
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["code"], code);
        assert_eq!(status["reason"].as_str().unwrap_or_default(), reason, "{status}");
        assert!(status["message"].as_str().unwrap().contains(message), "{message:?} is not in {status}");
        status
    }
}

impl Client {
    pub async fn connect(&self) -> http1::SendRequest<Body> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls))
            .connect(ServerName::try_from("localhost").unwrap(), stream)
            .await
            .unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move { connection.with_upgrades().await });
        sender
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> http::Response<Incoming> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.connect().await.send_request(request.body(body.into()).unwrap()).await.unwrap()
    }

    pub async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let response = self.send(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], Body::empty()).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        self.request("POST", path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        self.request("PUT", path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Answer {
        let content_type = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            kind => format!("application/{kind}+json"),
        };
        self.request("PATCH", path, &[("content-type", &content_type)], patch.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.request("DELETE", path, &[("content-type", "application/json")], body).await
    }

    pub async fn watch(&self, path: &str) -> Watch {
        let response = self.send("GET", path, &[], Body::empty()).await;
        assert_eq!(response.status(), 200, "{path}");
        Watch { body: response.into_body(), buffer: BytesMut::new() }
    }
}

/// An open watch.
pub struct Watch {
    body: Incoming,
    buffer: BytesMut,
}

impl Watch {
    /// The next event; none if the watch ended.
    pub async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(Duration::from_secs(20), self.read()).await.expect("no event within twenty seconds")
    }

    /// The next event if one comes soon.
    pub async fn soon(&mut self, wait: Duration) -> Option<Value> {
        tokio::time::timeout(wait, self.read()).await.ok().flatten()
    }

    async fn read(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?;
            let Ok(frame) = frame else { return None };
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }

    /// The next event's type and object name.
    pub async fn step(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch ended");
        (
            event["type"].as_str().unwrap().to_owned(),
            event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

/// Waits until something holds.
pub async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "it did not come to hold");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "value"}})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "example/image:1"}]},
    })
}

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "example/image:1"}]}},
        },
    })
}

pub fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}
