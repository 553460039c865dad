//! The credentials of a pod's pull secrets, and which of them are for an image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::context::Context;
use super::pulled::Source;
use super::spec;
use crate::runtime::RegistryAuth;

/// What Docker calls its own registry in the files that hold credentials.
const DOCKER: &str = "index.docker.io";

/// Credentials, and the secret that they are from.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// What the registry is shown.
    pub auth: RegistryAuth,
    /// Where they are from.
    pub source: Source,
}

/// Credentials with the places that they are for: a host, which may have a port and stars, and the beginning of a path.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Vec<(String, Credentials)>);

/// The credentials of all of a pod's pull secrets, and the names of those that are not there.
pub async fn keyring(context: &Context, pod: &Pod) -> (Keyring, Vec<String>) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let horizon = super::volumes::refresh_horizon();
    let (mut keys, mut missing) = (Keyring::default(), Vec::new());
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        match context.objects.secret(namespace, &reference.name, horizon).await {
            Ok(Some(secret)) => keys.add(&secret),
            _ => missing.push(reference.name.clone()),
        }
    }
    (keys, missing)
}

impl Keyring {
    /// Takes what a secret has; nothing if it is not of a kind for this, or cannot be understood.
    fn add(&mut self, secret: &Secret) {
        let data = |name: &str| {
            let bytes = secret.data.as_ref()?.get(name)?;
            serde_json::from_slice::<Value>(&bytes.0).ok()
        };
        let auths = match data(".dockerconfigjson") {
            Some(config) => config["auths"].clone(),
            None => data(".dockercfg").unwrap_or_default(),
        };
        for (place, entry) in auths.as_object().into_iter().flatten() {
            let auth = auth(entry);
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let source = Source {
                uid: text(&secret.metadata.uid),
                namespace: text(&secret.metadata.namespace),
                name: text(&secret.metadata.name),
                credential_hash: hash(&auth),
            };
            self.0.push((normalize(place), Credentials { auth, source }));
        }
    }

    /// Those that are for an image: the closest first, and in the order of the secrets where they are as close.
    pub fn of(&self, image: &str) -> Vec<Credentials> {
        let image = repository(image);
        let mut found: Vec<_> = self.0.iter().filter(|(place, _)| is_for(place, &image)).collect();
        found.sort_by(|(one, _), (other, _)| other.cmp(one));
        if found.is_empty() && image.starts_with("docker.io/") {
            found = self.0.iter().filter(|(place, _)| place == DOCKER).collect();
        }
        found.into_iter().map(|(_, credentials)| credentials.clone()).collect()
    }
}

/// One entry. No server is named, as the kubelet names none: the runtime would hold it against the host that it speaks to, which may
/// be called otherwise than the registry.
fn auth(entry: &Value) -> RegistryAuth {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let mut auth = RegistryAuth {
        username: text("username"),
        password: text("password"),
        identity_token: text("identitytoken"),
        ..RegistryAuth::default()
    };
    // What is encoded counts more than what is written out.
    let decoded = STANDARD.decode(text("auth")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((username, password)) = decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        auth.username = username.to_owned();
        auth.password = password.to_owned();
    }
    auth
}

/// By this it is known that others have the same credentials.
fn hash(auth: &RegistryAuth) -> String {
    let mut hash = Sha256::new();
    for part in [&auth.username, &auth.password, &auth.identity_token] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part.as_bytes());
    }
    crate::runtime::oci::hex(&hash.finalize())
}

/// A place without what does not count: the scheme, the version of the registry's protocol, a slash at the end of a host.
fn normalize(place: &str) -> String {
    let place = place.trim_start_matches("https://").trim_start_matches("http://");
    let Some((host, path)) = place.split_once('/') else { return place.to_owned() };
    let path = path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/")).unwrap_or(path);
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

/// An image's repository by its full name: with its host, and without tag and digest.
pub fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    match name.split_once('/') {
        Some((host, path)) if host == DOCKER => format!("docker.io/{path}"),
        Some(("docker.io", path)) if !path.contains('/') => format!("docker.io/library/{path}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Whether credentials for a place are for a repository: as many labels in the host's name, each the same or fitting the pattern,
/// the same port, and the path's beginning.
fn is_for(place: &str, repository: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = host.split_once(':').unwrap_or((host, ""));
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((pattern, port, path), (host, its_port, its_path)) = (split(place), split(repository));
    let (patterns, labels): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    port == its_port
        && patterns.len() == labels.len()
        && its_path.starts_with(&path)
        && patterns.iter().zip(labels).all(|(pattern, label)| fits(pattern.as_bytes(), label.as_bytes()))
}

/// Whether a label fits a pattern of characters, `?` for any one and `*` for any number of them.
fn fits(pattern: &[u8], label: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where the last star stands, and how much of the label was left to what follows it: when that does not fit, the star takes one
    // more.
    let mut star = None;
    while seen < label.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || *wanted == label[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((stands, from)) = star else { return false };
                star = Some((stands, from + 1));
                (at, seen) = (stands + 1, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    /// A ring of credentials whose users are called after their places.
    fn ring(places: &[&str]) -> Keyring {
        let mut ring = Keyring::default();
        for place in places {
            let auths: Value = [((*place).to_owned(), json!({"username": place}))].into_iter().collect();
            ring.add(&secret(".dockerconfigjson", &json!({"auths": auths})));
        }
        ring
    }

    fn secret(name: &str, value: &Value) -> Secret {
        let data = [(name.to_owned(), ByteString(value.to_string().into_bytes()))].into();
        Secret { data: Some(data), ..Secret::default() }
    }

    fn users(places: &[&str], image: &str) -> Vec<String> {
        ring(places).of(image).into_iter().map(|credentials| credentials.auth.username).collect()
    }

    #[test]
    fn credentials_are_for_a_host_and_the_beginning_of_a_path() {
        let both = ["r.example", "r.example/team", "https://r.example/v2/", "r.example/other", "r.example:5000"];
        assert_eq!(users(&both, "r.example/team/app:1"), ["r.example/team", "r.example", "https://r.example/v2/"]);
        assert_eq!(users(&both, "r.example:5000/app@sha256:00"), ["r.example:5000"]);
        assert_eq!(users(&both, "other.example/team/app"), [] as [&str; 0]);
        let stars = ["*.example", "a*.r.example", "*.r.example", "?.r.example"];
        assert_eq!(users(&stars, "ab.r.example/x"), ["a*.r.example", "*.r.example"]);
        assert_eq!(users(&stars, "b.r.example/x"), ["?.r.example", "*.r.example"]);
        assert!(fits(b"**a*b*", b"xaab") && fits(b"*", b"") && !fits(b"*a?", b"ba") && !fits(b"", b"a"));
        assert!(!fits("*a".repeat(100_000).as_bytes(), "a".repeat(60).as_bytes()), "in no time");
    }

    #[test]
    fn docker_has_names_of_its_own() {
        let docker = "https://index.docker.io/v1/";
        for image in ["nginx", "team/app:1", "docker.io/team/app", "index.docker.io/nginx"] {
            assert_eq!(users(&[docker, "r.example"], image), [docker], "{image}");
        }
        assert_eq!(users(&[docker, "docker.io/library"], "nginx:1"), ["docker.io/library"]);
        assert_eq!(users(&[docker], "localhost/app"), [] as [&str; 0]);
    }

    #[test]
    fn a_password_is_written_out_or_encoded() {
        let mut ring = Keyring::default();
        ring.add(&secret(".dockercfg", &json!({"r.example": {"auth": "dTpwOnE="}})));
        ring.add(&secret(".dockerconfigjson", &json!({"auths": {"r.example": {"identitytoken": "t"}}})));
        ring.add(&secret("other", &json!({"r.example": {"auth": "dTpw"}})));
        ring.add(&secret(".dockerconfigjson", &json!("none")));
        let found = ring.of("r.example/a/b:1");
        let of = |credentials: &Credentials| {
            let auth = &credentials.auth;
            (auth.username.clone(), auth.password.clone(), auth.identity_token.clone())
        };
        let text = |user: &str, password: &str, token: &str| (user.to_owned(), password.to_owned(), token.to_owned());
        assert_eq!(found.iter().map(of).collect::<Vec<_>>(), [text("u", "p:q", ""), text("", "", "t")]);
        assert!(found.iter().all(|credentials| credentials.auth.server.is_empty()));
        assert_ne!(found[0].source.credential_hash, found[1].source.credential_hash);
    }
}
