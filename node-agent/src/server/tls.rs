//! Who may call: TLS with client certificates of the cluster's authority.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::ServerError;
use crate::ServingIdentity;

/// The user of the API server when it calls nodes.
const API_SERVER_USER: &str = "kube-apiserver-kubelet-client";
/// Members may do everything.
const MASTERS_GROUP: &str = "system:masters";
/// Members are nodes.
const NODES_GROUP: &str = "system:nodes";
/// What the names of nodes as users begin with.
const NODE_USER_PREFIX: &str = "system:node:";

/// Who calls, as the certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// Common name.
    pub user: String,
    /// Organisations.
    pub groups: Vec<String>,
}

impl Caller {
    /// Whether the caller may use the node's API.
    pub(super) fn is_allowed(&self) -> bool {
        self.user == API_SERVER_USER || self.groups.iter().any(|group| group == MASTERS_GROUP)
    }

    /// The name of the node that calls, if it is one.
    pub(super) fn node(&self) -> Option<&str> {
        let name = self.user.strip_prefix(NODE_USER_PREFIX)?;
        self.groups.iter().any(|group| group == NODES_GROUP).then_some(name)
    }

    /// From a certificate that was verified already.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| Some(group.as_str().ok()?.to_owned()));
        Some(Self { user, groups: groups.collect() })
    }
}

/// An identity, read.
struct Parts {
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Parts {
    fn of(identity: &ServingIdentity) -> Result<Self, ServerError> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(identity.client_ca_pem.as_bytes()) {
            let root = root.map_err(|error| wrong("the client authority's certificate", &error))?;
            roots.add(root).map_err(|error| wrong("the client authority's certificate", &error))?;
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.cert_chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("the serving certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
            .map_err(|error| wrong("the serving certificate's key", &error))?;
        Ok(Self { roots, chain, key })
    }
}

fn wrong(what: &str, error: &dyn std::fmt::Display) -> ServerError {
    ServerError::Identity(format!("{what}: {error}"))
}

/// The configuration that demands a client certificate.
pub(crate) fn config(identity: &ServingIdentity) -> Result<Arc<rustls::ServerConfig>, ServerError> {
    let Parts { roots, chain, key } = Parts::of(identity)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| wrong("the client authority", &error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("TLS", &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| wrong("the serving certificate", &error))?;
    // Streams are upgrades, and those exist in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The configuration with which this node calls others of its cluster.
pub(crate) fn client_config(identity: &ServingIdentity) -> Result<rustls::ClientConfig, ServerError> {
    let Parts { roots, chain, key } = Parts::of(identity)?;
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("TLS", &error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong("the node's certificate", &error))
}
