//! Whose certificates a webhook may have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig as TlsConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use super::{ClientConfig, Presented};

/// How many different CAs are kept ready.
const KEPT_MAX: usize = 64;
/// Where systems keep the certificates they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// TLS configurations by what they trust.
#[derive(Default)]
pub(super) struct Trust {
    made: Mutex<HashMap<[u8; 32], TlsConnector>>,
    presented: Option<Arc<Presented>>,
}

impl Trust {
    /// Presents this certificate from now on.
    pub fn present(&mut self, presented: Arc<Presented>) {
        self.made = Mutex::default();
        self.presented = Some(presented);
    }

    /// Names what a configuration trusts.
    pub fn digest(config: &ClientConfig) -> [u8; 32] {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&[u8::from(config.insecure)]);
        context.update(&config.ca_bundle);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// A connector that trusts the configuration's CA.
    pub fn connector(&self, config: &ClientConfig, digest: &[u8; 32]) -> Result<TlsConnector, String> {
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(connector) = made.get(digest) {
            return Ok(connector.clone());
        }
        let connector = TlsConnector::from(Arc::new(tls_config(config, self.presented.as_deref())?));
        if made.len() >= KEPT_MAX {
            made.clear();
        }
        made.insert(*digest, connector.clone());
        Ok(connector)
    }
}

/// A configuration that believes any certificate: for backends whose certificates nobody could know.
pub(crate) fn believing_anyone() -> Arc<TlsConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = TlsConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    let verifier = Arc::new(AnyCertificate(provider));
    Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn tls_config(config: &ClientConfig, presented: Option<&Presented>) -> Result<TlsConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = TlsConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if config.insecure {
        let verifier = Arc::new(AnyCertificate(provider));
        return finish(builder.dangerous().with_custom_certificate_verifier(verifier), presented);
    }
    let mut roots = RootCertStore::empty();
    if config.ca_bundle.is_empty() {
        let files = std::env::var("SSL_CERT_FILE").ok().into_iter().chain(SYSTEM_ROOTS.map(str::to_owned));
        if let Some(pem) = files.filter_map(|file| std::fs::read(file).ok()).next() {
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
        }
    } else {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&config.ca_bundle).collect();
        let certificates = read.map_err(|error| format!("unable to load root certificates: {error}"))?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
        }
    }
    finish(builder.with_root_certificates(roots), presented)
}

fn finish(
    builder: rustls::ConfigBuilder<TlsConfig, rustls::client::WantsClientCert>,
    presented: Option<&Presented>,
) -> Result<TlsConfig, String> {
    match presented {
        None => Ok(builder.with_no_client_auth()),
        Some(Presented { chain, key }) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(|error| error.to_string())
        }
    }
}

/// What Go says of a handshake that failed.
pub(super) fn go_text(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(why)) => format!("tls: failed to verify certificate: x509: {why}"),
        Some(other) => format!("tls: {other}"),
        None => error.to_string(),
    }
}

/// Believes any certificate whose key signed the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
