//! Service account tokens: JWTs signed with ES256, in the shape that Kubernetes gives them.
//!
//! In: what a token is to say, and the time; or a token, the audiences that accept it, and the time. Out: a signed token;
//! or what it says, once signature, issuer, times and audience have been checked. Whether the account and the pod
//! still exist is the caller's to check. Nothing here does I/O.

use std::collections::HashSet;
use std::fmt;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Who issues the tokens, and the audience of those made for the API server itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The longest token taken or made. Kubernetes' own are about a kilobyte; ours fit in a header with room for much else.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// The longest first part of a token, which says how it is signed.
const HEADER_BYTES_MAX: usize = 1 << 10;
/// How far the clocks of whoever issued a token and whoever checks it may be apart, as in Kubernetes.
const LEEWAY_SECONDS: i64 = 60;
/// How many tokens are known by their good signatures: a few for each service account that is at work. Clients send the
/// same token with every request, and a signature takes longer to check than most requests to answer.
const VERIFIED_MAX: usize = 16_384;
/// The only algorithm: a token does not get to choose.
const ALGORITHM: &str = "ES256";

/// What precedes a P-256 point in a DER-encoded public key.
const PUBLIC_KEY_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a token was refused, or cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The signing key cannot be used.
    #[error("the service account key is not a P-256 private key in PKCS #8")]
    Key,
    /// It is too long to be one of ours.
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// It is not a JWT, or says things in a way that ours don't.
    #[error("the token is malformed")]
    Malformed,
    /// It was not signed with our key and algorithm.
    #[error("the token's signature is invalid")]
    Signature,
    /// Somebody else issued it.
    #[error("the token has another issuer")]
    Issuer,
    /// Its subject is not the service account that it is about.
    #[error("the token's sub claim is invalid")]
    Subject,
    /// It has expired.
    #[error("service account token has expired")]
    Expired,
    /// Its time has not come.
    #[error("service account token is not valid yet")]
    NotYetValid,
    /// It was made for somebody else.
    #[error("the token is for other audiences")]
    Audience,
    /// What it was bound to is gone. For callers, who can tell.
    #[error("the {0} that the token is bound to no longer exists")]
    Gone(&'static str),
    /// No random numbers, or no such time.
    #[error("the token cannot be signed")]
    Signing,
}

/// What a token says of its holder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenClaims {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// The service account's UID.
    pub service_account_uid: String,
    /// Name and UID of the pod the token is bound to.
    pub pod: Option<(String, String)>,
    /// Name and UID of the node the pod runs on.
    pub node: Option<(String, String)>,
    /// Name and UID of the Secret that holds the token, and with which it ends.
    pub secret: Option<(String, String)>,
    /// The token's own id (`jti`); given to it when it is issued.
    pub id: Option<String>,
    /// The audiences of the token that were asked about; filled in when it is verified.
    pub audiences: Vec<String>,
}

/// A token just made.
#[derive(Clone)]
pub struct IssuedToken {
    /// The token.
    pub token: String,
    /// When it expires.
    pub expires: Timestamp,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken").field("token", &"[secret]").field("expires", &self.expires).finish()
    }
}

/// Makes and checks tokens with one key.
pub struct Tokens {
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
    /// Digests of tokens whose signatures were found good; that does not change while the key stays.
    verified: RwLock<HashSet<[u8; digest::SHA256_OUTPUT_LEN]>>,
}

/// The first part of a token.
#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
    /// Extensions that must be understood; there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<Value>,
}

/// The second part of a token.
#[derive(Serialize, Deserialize)]
struct Payload {
    aud: Audiences,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
    nbf: i64,
    sub: String,
}

/// One audience may stand without the list around it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audiences {
    Many(Vec<String>),
    One(String),
}

#[derive(Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
}

#[derive(Serialize, Deserialize)]
struct Reference {
    name: String,
    #[serde(default)]
    uid: String,
}

impl From<(String, String)> for Reference {
    fn from((name, uid): (String, String)) -> Self {
        Reference { name, uid }
    }
}

impl Tokens {
    /// Tokens signed with a P-256 private key in PKCS #8, as PEM.
    ///
    /// # Errors
    ///
    /// [`TokenError::Key`] if it is none.
    pub fn new(key_pem: &str) -> Result<Self, TokenError> {
        let random = SystemRandom::new();
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| TokenError::Key)?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|_| TokenError::Key)?;
        let public = [&PUBLIC_KEY_PREFIX, key.public_key().as_ref()].concat();
        let key_id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &public));
        Ok(Tokens { key, key_id, random, verified: RwLock::default() })
    }

    /// The audiences of a token that nobody named any for: the API server.
    #[must_use]
    pub fn default_audiences(&self) -> Vec<String> {
        vec![ISSUER.to_owned()]
    }

    /// Makes a token that is good for `lifetime` from now on.
    ///
    /// # Errors
    ///
    /// See [`Tokens::issue_at`].
    pub fn issue(
        &self,
        claims: &TokenClaims,
        audiences: &[String],
        lifetime: Duration,
    ) -> Result<IssuedToken, TokenError> {
        self.issue_at(claims, audiences, lifetime, Timestamp::now())
    }

    /// Makes a token that is good for `lifetime` from `now` on, with an id of its own.
    ///
    /// # Errors
    ///
    /// [`TokenError::TooLong`] if it would say too much, [`TokenError::Signing`] if it would outlast time.
    pub fn issue_at(
        &self,
        claims: &TokenClaims,
        audiences: &[String],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<IssuedToken, TokenError> {
        let seconds = i64::try_from(lifetime.as_secs()).map_err(|_| TokenError::Signing)?;
        let exp = now.as_second().checked_add(seconds).ok_or(TokenError::Signing)?;
        let expires = Timestamp::from_second(exp).map_err(|_| TokenError::Signing)?;
        let header = Header { alg: ALGORITHM.to_owned(), kid: self.key_id.clone(), crit: None };
        let payload = Payload {
            aud: Audiences::Many(audiences.to_vec()),
            exp,
            iat: now.as_second(),
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Kubernetes {
                namespace: claims.namespace.clone(),
                node: claims.node.clone().map(Reference::from),
                pod: claims.pod.clone().map(Reference::from),
                secret: claims.secret.clone().map(Reference::from),
                serviceaccount: Reference {
                    name: claims.service_account.clone(),
                    uid: claims.service_account_uid.clone(),
                },
            },
            nbf: now.as_second(),
            sub: subject(&claims.namespace, &claims.service_account),
        };
        let mut token = format!("{}.{}", part(&header)?, part(&payload)?);
        let signature = self.key.sign(&self.random, token.as_bytes()).map_err(|_| TokenError::Signing)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        Ok(IssuedToken { token, expires })
    }

    /// What a token says, if it is good now.
    ///
    /// # Errors
    ///
    /// See [`Tokens::verify_at`].
    pub fn verify(&self, token: &str, audiences: &[String]) -> Result<TokenClaims, TokenError> {
        self.verify_at(token, audiences, Timestamp::now())
    }

    /// What a token says, if it is good at `now` and for one of `audiences`; none given means the API server.
    ///
    /// # Errors
    ///
    /// Why it is not. The signature is checked before anything that the token says is looked at.
    pub fn verify_at(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<TokenClaims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if header.len() > HEADER_BYTES_MAX || payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header: Header = parse(header)?;
        if header.alg != ALGORITHM || header.kid != self.key_id || header.crit.is_some() {
            return Err(TokenError::Signature);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        self.verify_signature(token, signed, &signature)?;
        check(parse(payload)?, audiences, now.as_second())
    }

    /// Checks a signature unless this very token's was good before.
    fn verify_signature(&self, token: &str, signed: &str, signature: &[u8]) -> Result<(), TokenError> {
        let mut id = [0; digest::SHA256_OUTPUT_LEN];
        id.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if self.verified.read().unwrap_or_else(PoisonError::into_inner).contains(&id) {
            return Ok(());
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), signature)
            .map_err(|_| TokenError::Signature)?;
        let mut verified = self.verified.write().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(id);
        Ok(())
    }

    /// The public key, for others that check tokens: the document behind `/openid/v1/jwks`.
    #[must_use]
    pub fn jwks(&self) -> Value {
        // A point is 0x04, then its two coordinates of 32 bytes.
        let point = self.key.public_key().as_ref();
        let coordinate = |range| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": ALGORITHM,
            "x": coordinate(1..33),
            "y": coordinate(33..65),
        }]})
    }

    /// The document behind `/.well-known/openid-configuration`.
    #[must_use]
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
        })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Checks what a token whose signature is good says.
fn check(payload: Payload, audiences: &[String], now: i64) -> Result<TokenClaims, TokenError> {
    if payload.iss != ISSUER {
        return Err(TokenError::Issuer);
    }
    let Kubernetes { namespace, node, pod, secret, serviceaccount } = payload.kubernetes;
    if namespace.is_empty()
        || serviceaccount.name.is_empty()
        || payload.sub != subject(&namespace, &serviceaccount.name)
    {
        return Err(TokenError::Subject);
    }
    if now.saturating_sub(LEEWAY_SECONDS) > payload.exp {
        return Err(TokenError::Expired);
    }
    let latest_start = now.saturating_add(LEEWAY_SECONDS);
    if payload.nbf > latest_start || payload.iat > latest_start {
        return Err(TokenError::NotYetValid);
    }
    let own = [ISSUER.to_owned()];
    let accepted = if audiences.is_empty() { &own[..] } else { audiences };
    let mut intended = match payload.aud {
        Audiences::Many(many) => many,
        Audiences::One(one) => vec![one],
    };
    intended.retain(|audience| accepted.contains(audience));
    if intended.is_empty() {
        return Err(TokenError::Audience);
    }
    let pair = |reference: Reference| (reference.name, reference.uid);
    Ok(TokenClaims {
        namespace,
        service_account: serviceaccount.name,
        service_account_uid: serviceaccount.uid,
        pod: pod.map(pair),
        node: node.map(pair),
        secret: secret.map(pair),
        id: (!payload.jti.is_empty()).then_some(payload.jti),
        audiences: intended,
    })
}

fn subject(namespace: &str, service_account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{service_account}")
}

fn part(value: &impl Serialize) -> Result<String, TokenError> {
    let json = serde_json::to_vec(value).map_err(|_| TokenError::Malformed)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn parse<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn tokens() -> Tokens {
        Tokens::new(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
    }

    fn noon() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    fn later(seconds: i64) -> Timestamp {
        Timestamp::from_second(noon().as_second() + seconds).unwrap()
    }

    fn claims() -> TokenClaims {
        TokenClaims {
            namespace: "team".to_owned(),
            service_account: "builder".to_owned(),
            service_account_uid: "uid-1".to_owned(),
            pod: Some(("build-7".to_owned(), "uid-2".to_owned())),
            node: Some(("node-a".to_owned(), "uid-3".to_owned())),
            ..TokenClaims::default()
        }
    }

    fn payload_of(token: &str) -> Value {
        parse(token.split('.').nth(1).unwrap()).unwrap()
    }

    /// A token with parts of the test's choosing, signed properly.
    fn forge(tokens: &Tokens, header: &Value, payload: &Value) -> String {
        let signed = format!("{}.{}", part(header).unwrap(), part(payload).unwrap());
        let signature = tokens.key.sign(&tokens.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn proper_header(tokens: &Tokens) -> Value {
        json!({"alg": "ES256", "kid": tokens.key_id})
    }

    #[test]
    fn a_token_says_what_was_put_in() {
        let tokens = tokens();
        let issued = tokens.issue_at(&claims(), &tokens.default_audiences(), HOUR, noon()).unwrap();
        assert_eq!(issued.expires, later(3600));
        let verified = tokens.verify_at(&issued.token, &[], later(10)).unwrap();
        assert!(verified.id.is_some());
        assert_eq!(TokenClaims { id: None, audiences: vec![], ..verified.clone() }, claims());
        assert_eq!(verified.audiences, [ISSUER]);
        let again = tokens.issue_at(&claims(), &tokens.default_audiences(), HOUR, noon()).unwrap();
        assert_ne!(tokens.verify_at(&again.token, &[], noon()).unwrap().id, verified.id, "each has its own id");
        let mut payload = payload_of(&issued.token);
        payload.as_object_mut().unwrap().remove("jti");
        let second = noon().as_second();
        let expected = json!({
            "aud": [ISSUER], "exp": second + 3600, "iat": second, "iss": ISSUER, "nbf": second,
            "sub": "system:serviceaccount:team:builder",
            "kubernetes.io": {
                "namespace": "team",
                "node": {"name": "node-a", "uid": "uid-3"},
                "pod": {"name": "build-7", "uid": "uid-2"},
                "serviceaccount": {"name": "builder", "uid": "uid-1"},
            },
        });
        assert_eq!(payload, expected);
    }

    #[test]
    fn unbound_tokens_name_no_pod() {
        let tokens = tokens();
        let claims = TokenClaims { pod: None, node: None, ..claims() };
        let issued = tokens.issue_at(&claims, &tokens.default_audiences(), HOUR, noon()).unwrap();
        assert!(payload_of(&issued.token)["kubernetes.io"].get("pod").is_none());
        let verified = tokens.verify_at(&issued.token, &[], noon()).unwrap();
        assert_eq!((verified.pod, verified.node), (None, None));
    }

    #[test]
    fn any_change_breaks_the_signature() {
        let tokens = tokens();
        let token = tokens.issue_at(&claims(), &tokens.default_audiences(), HOUR, noon()).unwrap().token;
        for at in (0..token.len()).step_by(3) {
            for other in ['A', '.', '='] {
                if token.as_bytes()[at] == other as u8 {
                    continue;
                }
                let mut changed = token.clone();
                changed.replace_range(at..=at, &other.to_string());
                let outcome = tokens.verify_at(&changed, &[], noon());
                assert!(
                    matches!(outcome, Err(TokenError::Signature | TokenError::Malformed)),
                    "{at} {other}: {outcome:?}"
                );
            }
        }
        let mut payload = payload_of(&token);
        payload["sub"] = json!("system:serviceaccount:kube-system:admin");
        let parts: Vec<&str> = token.split('.').collect();
        let swapped = format!("{}.{}.{}", parts[0], part(&payload).unwrap(), parts[2]);
        assert_eq!(tokens.verify_at(&swapped, &[], noon()), Err(TokenError::Signature));
    }

    #[test]
    fn only_our_key_and_algorithm_count() {
        let (ours, theirs) = (tokens(), tokens());
        let token = theirs.issue_at(&claims(), &ours.default_audiences(), HOUR, noon()).unwrap().token;
        assert_eq!(ours.verify_at(&token, &[], noon()), Err(TokenError::Signature));
        let payload = payload_of(&token);
        // With our key's id on it.
        let forged = forge(&theirs, &proper_header(&ours), &payload);
        assert_eq!(ours.verify_at(&forged, &[], noon()), Err(TokenError::Signature));
        for alg in ["none", "None", "HS256", "es256", "ES384", "RS256", ""] {
            let header = json!({"alg": alg, "kid": ours.key_id});
            let signed = forge(&ours, &header, &payload);
            assert_eq!(ours.verify_at(&signed, &[], noon()), Err(TokenError::Signature), "{alg}");
            let unsigned = format!("{}.{}.", part(&header).unwrap(), part(&payload).unwrap());
            assert_eq!(ours.verify_at(&unsigned, &[], noon()), Err(TokenError::Signature), "{alg}");
        }
        let critical = json!({"alg": "ES256", "kid": ours.key_id, "crit": ["b64"]});
        assert_eq!(ours.verify_at(&forge(&ours, &critical, &payload), &[], noon()), Err(TokenError::Signature));
        let nameless = json!({"alg": "ES256"});
        assert_eq!(ours.verify_at(&forge(&ours, &nameless, &payload), &[], noon()), Err(TokenError::Malformed));
        assert!(ours.verify_at(&forge(&ours, &proper_header(&ours), &payload), &[], noon()).is_ok());
    }

    #[test]
    fn times_are_kept_to_the_minute() {
        let tokens = tokens();
        let token = tokens.issue_at(&claims(), &tokens.default_audiences(), HOUR, noon()).unwrap().token;
        let at = |seconds| tokens.verify_at(&token, &[], later(seconds)).map(drop);
        assert_eq!(at(-61), Err(TokenError::NotYetValid));
        assert_eq!(at(-60), Ok(()));
        assert_eq!(at(3660), Ok(()));
        assert_eq!(at(3661), Err(TokenError::Expired));
        let forever = tokens.issue_at(&claims(), &[], Duration::from_secs(u64::MAX), noon());
        assert!(matches!(forever, Err(TokenError::Signing)));
        let mut payload = payload_of(&token);
        payload["exp"] = json!(i64::MIN);
        let extreme = forge(&tokens, &proper_header(&tokens), &payload);
        assert_eq!(tokens.verify_at(&extreme, &[], noon()), Err(TokenError::Expired));
    }

    #[test]
    fn audiences_must_meet() {
        let tokens = tokens();
        let audiences = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let token = tokens.issue_at(&claims(), &audiences(&["vault", "mail"]), HOUR, noon()).unwrap().token;
        assert_eq!(tokens.verify_at(&token, &[], noon()), Err(TokenError::Audience));
        assert_eq!(tokens.verify_at(&token, &audiences(&["web"]), noon()), Err(TokenError::Audience));
        let met = tokens.verify_at(&token, &audiences(&["web", "mail"]), noon()).unwrap();
        assert_eq!(met.audiences, ["mail"]);
        let mut payload = payload_of(&token);
        payload["aud"] = json!("mail");
        let single = forge(&tokens, &proper_header(&tokens), &payload);
        assert!(tokens.verify_at(&single, &audiences(&["mail"]), noon()).is_ok());
        let none = tokens.issue_at(&claims(), &[], HOUR, noon()).unwrap().token;
        assert_eq!(tokens.verify_at(&none, &[], noon()), Err(TokenError::Audience));
    }

    #[test]
    fn claims_must_agree() {
        let tokens = tokens();
        let token = tokens.issue_at(&claims(), &tokens.default_audiences(), HOUR, noon()).unwrap().token;
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut payload = payload_of(&token);
            change(&mut payload);
            tokens.verify_at(&forge(&tokens, &proper_header(&tokens), &payload), &[], noon()).unwrap_err()
        };
        assert_eq!(refused(&|p| p["iss"] = json!("https://elsewhere")), TokenError::Issuer);
        assert_eq!(refused(&|p| p["sub"] = json!("system:serviceaccount:team:other")), TokenError::Subject);
        assert_eq!(refused(&|p| p["kubernetes.io"]["namespace"] = json!("")), TokenError::Subject);
        assert_eq!(refused(&|p| p["nbf"] = json!(noon().as_second() + 1000)), TokenError::NotYetValid);
        assert_eq!(refused(&|p| p["exp"] = json!("tomorrow")), TokenError::Malformed);
        assert_eq!(refused(&|p| p["kubernetes.io"] = json!(null)), TokenError::Malformed);
        assert_eq!(refused(&|p| *p = json!([])), TokenError::Malformed);
    }

    #[test]
    fn rubbish_is_refused() {
        let tokens = tokens();
        for rubbish in ["", ".", "..", "...", "a.b", "a.b.c", "e30.e30.", "e30.e30.e30", "\u{0}.é.☃", &"x".repeat(5000)]
        {
            let outcome = tokens.verify_at(rubbish, &[], noon());
            assert!(matches!(outcome, Err(TokenError::Malformed | TokenError::Signature)), "{rubbish:?}: {outcome:?}");
        }
        assert_eq!(tokens.verify_at(&"x.".repeat(TOKEN_BYTES_MAX), &[], noon()), Err(TokenError::TooLong));
        let wordy = TokenClaims { namespace: "n".repeat(TOKEN_BYTES_MAX), ..claims() };
        assert!(matches!(tokens.issue_at(&wordy, &[], HOUR, noon()), Err(TokenError::TooLong)));
        assert!(matches!(Tokens::new("not a key"), Err(TokenError::Key)));
    }

    #[test]
    fn the_public_key_can_be_handed_out() {
        let tokens = tokens();
        let jwks = tokens.jwks();
        let key = &jwks["keys"][0];
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let token = tokens.issue_at(&claims(), &[], HOUR, noon()).unwrap().token;
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature).unwrap();
        assert_eq!(tokens.openid_configuration()["issuer"], ISSUER);
    }
}
