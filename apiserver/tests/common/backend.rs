//! A real TLS server in this process, for what the API server asks by itself: webhooks and aggregated APIs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use base64::Engine as _;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

/// A running server and the CA of its certificate.
pub struct Backend {
    pub address: SocketAddr,
    pub ca_pem: String,
    handle: axum_server::Handle<SocketAddr>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

impl Backend {
    /// Serves `router` on a port of its own with a certificate for `names` and the loopback address.
    pub async fn start(names: &[&str], router: Router) -> Self {
        Self::start_for(names, router, None).await
    }

    /// The same, for clients whose certificates come from this CA.
    pub async fn start_for(names: &[&str], router: Router, client_ca: Option<&str>) -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "backend-ca");
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let mut sans: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        sans.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(sans).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots.add(certificate.unwrap()).unwrap();
                }
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![leaf.der().clone()], private).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let handle = axum_server::Handle::new();
        let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(config)))
            .unwrap()
            .handle(handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
        Self { address, ca_pem: ca.pem(), handle }
    }

    /// The CA as a `caBundle`.
    pub fn ca_bundle(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(&self.ca_pem)
    }

    /// A webhook's `clientConfig`.
    pub fn client_config(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.address.port()), "caBundle": self.ca_bundle()})
    }
}

/// What a webhook was asked: path and request.
pub type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// A webhook server that answers each request with what `decide` makes of its path and the review's request: the response
/// without its UID. Null gives an answer that is none.
pub async fn webhooks(decide: impl Fn(&str, &Value) -> Value + Clone + Send + Sync + 'static) -> (Backend, Asked) {
    let asked = Asked::default();
    let record = Arc::clone(&asked);
    let answer = move |uri: http::Uri, body: bytes::Bytes| {
        let (decide, record) = (decide.clone(), Arc::clone(&record));
        async move {
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            let request = review["request"].take();
            let mut response = decide(uri.path(), &request);
            if response.is_object() {
                response["uid"] = request["uid"].clone();
            }
            record.lock().unwrap().push((uri.path().to_owned(), request));
            if uri.path() == "/slow" {
                tokio::time::sleep(std::time::Duration::from_secs(30)).await;
            }
            review["response"] = response;
            review.as_object_mut().unwrap().remove("request");
            axum::Json(review)
        }
    };
    (Backend::start(&[], Router::new().fallback(answer)).await, asked)
}

/// An answer that changes the object by a JSON patch.
pub fn patching(patch: &Value) -> Value {
    let patch = base64::engine::general_purpose::STANDARD.encode(patch.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}
