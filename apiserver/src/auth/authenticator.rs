//! From credentials to an identity.
//!
//! In: the certificate a connection presented (already verified against the cluster's CA), or a bearer token. Out: an
//! [`Identity`], anonymous if there are no credentials, an error if there are wrong ones.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_api::{ApiError, Reason, codec};
use http::{HeaderMap, header};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::Identity;
use super::static_tokens::StaticTokens;
use super::tokens::{TokenError, Tokens};
use crate::cacher::Cacher;
use gantry_api::kinds::{Catalog, Resource};

/// The type of Secrets that hold a service account's token.
pub const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";

/// What a connection's client certificate says; none if it presented none.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate(pub Option<Arc<Identity>>);

/// Turns requests into identities.
pub struct Authenticator {
    tokens: Arc<Tokens>,
    static_tokens: Arc<StaticTokens>,
    cacher: Arc<Cacher>,
    accounts: Option<Arc<Resource>>,
    pods: Option<Arc<Resource>>,
    secrets: Option<Arc<Resource>>,
}

/// CN is the user, each O a group. The certificate has been verified already.
pub fn identity_of_certificate(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    if user.is_empty() {
        return None;
    }
    let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
    Some(Identity::new(user, groups))
}

impl Authenticator {
    /// Verifies tokens with `tokens`; service accounts and pods they belong to must still be in the cache. `static_tokens`
    /// are believed as they are.
    pub fn new(tokens: Arc<Tokens>, static_tokens: Arc<StaticTokens>, cacher: Arc<Cacher>, catalog: &Catalog) -> Self {
        Self {
            tokens,
            static_tokens,
            cacher,
            accounts: catalog.resource("", "v1", "serviceaccounts").cloned(),
            pods: catalog.resource("", "v1", "pods").cloned(),
            secrets: catalog.resource("", "v1", "secrets").cloned(),
        }
    }

    /// The identity of a request.
    pub fn authenticate(&self, headers: &HeaderMap, peer: &PeerCertificate) -> Result<Arc<Identity>, ApiError> {
        if let Some(identity) = &peer.0 {
            return Ok(Arc::clone(identity));
        }
        let Some(token) = bearer_token(headers) else {
            return Ok(Arc::new(Identity::anonymous()));
        };
        self.authenticate_token(token, &[]).map_err(|why| {
            tracing::debug!(%why, "a bearer token was refused");
            unauthorized()
        })
    }

    /// The identity a token proves, or why it proves none. `audiences`: any of these; empty for the API server's own.
    pub fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Arc<Identity>, TokenError> {
        if audiences.is_empty()
            && let Some(identity) = self.static_tokens.identity(token)
        {
            return Ok(Arc::clone(identity));
        }
        let claims = self.tokens.verify(token, audiences)?;
        if !self.is_alive(
            self.accounts.as_deref(),
            &claims.namespace,
            &claims.service_account,
            &claims.service_account_uid,
        ) {
            return Err(TokenError::Gone("service account"));
        }
        if let Some((name, uid)) = &claims.pod
            && !self.is_alive(self.pods.as_deref(), &claims.namespace, name, uid)
        {
            return Err(TokenError::Gone("pod"));
        }
        if let Some((name, uid)) = &claims.secret
            && !self.is_held(&claims.namespace, name, uid, token)
        {
            return Err(TokenError::Gone("secret"));
        }
        let mut identity =
            Identity::service_account(&claims.namespace, &claims.service_account, &claims.service_account_uid);
        let mut say = |key: &str, value: String| {
            identity.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        };
        if let Some((name, uid)) = claims.pod {
            say("pod-name", name);
            say("pod-uid", uid);
        }
        if let Some((name, uid)) = claims.node {
            say("node-name", name);
            say("node-uid", uid);
        }
        if let Some(id) = claims.id {
            say("credential-id", format!("JTI={id}"));
        }
        Ok(Arc::new(identity))
    }

    /// Whether the Secret that a token was made for still exists and, if it holds one, holds this one: what is taken out of it
    /// is good no more.
    fn is_held(&self, namespace: &str, name: &str, uid: &str, token: &str) -> bool {
        let entry = self.secrets.as_deref().and_then(|secrets| {
            self.cacher.resource(secrets)?.get(&secrets.key(namespace, name)).filter(|entry| entry.facts.uid == uid)
        });
        let Some(Ok(secret)) = entry.map(|entry| codec::decode(&entry.object)) else { return false };
        if secret["type"] != SERVICE_ACCOUNT_TOKEN {
            return true;
        }
        let held = secret["data"]["token"].as_str().unwrap_or_default();
        STANDARD.decode(held).is_ok_and(|held| held == token.as_bytes())
    }

    /// Whether the object a token is bound to still exists: tokens end with it.
    fn is_alive(&self, resource: Option<&Resource>, namespace: &str, name: &str, uid: &str) -> bool {
        resource
            .and_then(|resource| self.cacher.resource(resource)?.get(&resource.key(namespace, name)))
            .is_some_and(|entry| entry.facts.uid == uid)
    }
}

/// The answer to wrong credentials.
pub fn unauthorized() -> ApiError {
    ApiError::new(Reason::Unauthorized, "Unauthorized")
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
