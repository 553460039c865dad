//! What is asked for, as clients of registries ask for it. Pure: no I/O.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use crate::runtime::oci::hex;

/// The header in which a node shows that it has credentials for what it asks for.
pub const CREDENTIALS: &str = "x-gantry-credentials";

/// How many credentials are shown or looked at.
const CREDENTIALS_MAX: usize = 8;

/// A part of an image: a manifest, a configuration or a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The host of the registry, with its port if it has one.
    pub registry: String,
    /// The repository by its full name, which begins with the host.
    pub repository: String,
    /// Such as `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}

impl Wanted {
    /// Out of a request's path and query: `/v2/REPOSITORY/(blobs|manifests)/DIGEST` and `ns=REGISTRY`.
    pub fn parse(path: &str, query: Option<&str>) -> Option<Self> {
        let (name, digest) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let name = name.strip_suffix("/blobs").or_else(|| name.strip_suffix("/manifests"))?;
        let number = digest.strip_prefix("sha256:")?;
        let is_number = number.len() == 64 && number.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut query = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let (_, registry) = query.find(|(key, _)| key == "ns")?;
        let is_plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:[]/".contains(&byte))
        };
        if !is_number || !is_plain(name) || !is_plain(&registry) || registry.contains('/') {
            return None;
        }
        let repository = format!("{registry}/{name}");
        Some(Self { registry: registry.into_owned(), repository, digest: digest.to_owned() })
    }

    /// The repository's name at its registry.
    pub fn name(&self) -> &str {
        self.repository.strip_prefix(&self.registry).map_or("", |name| name.trim_start_matches('/'))
    }

    /// The path and query with which it is asked for.
    pub fn uri(&self) -> String {
        let query: String =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("ns", &self.registry).finish();
        format!("/v2/{}/blobs/{}?{query}", self.name(), self.digest)
    }

    /// By what the node `from` shows the node `to` that it has credentials of this hash. It is of no use to anybody else, nor for
    /// anything else: whoever gets it cannot show it on.
    fn proof(&self, credential_hash: &str, from: &str, to: &str) -> String {
        let about = Sha256::digest([from, to, &self.repository, &self.digest].join("\n"));
        hex(&Sha256::new().chain_update(credential_hash).chain_update(about).finalize())
    }

    /// What the header [`CREDENTIALS`] says.
    pub fn proofs(&self, credential_hashes: &BTreeSet<String>, from: &str, to: &str) -> String {
        let proofs = credential_hashes.iter().take(CREDENTIALS_MAX).map(|hash| self.proof(hash, from, to));
        proofs.collect::<Vec<_>>().join(",")
    }

    /// Whether that proves that who asks has credentials of this hash.
    pub fn is_proven(&self, proofs: &str, credential_hash: &str, from: &str, to: &str) -> bool {
        let proof = self.proof(credential_hash, from, to);
        !credential_hash.is_empty() && proofs.split(',').take(CREDENTIALS_MAX).any(|shown| shown == proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "0a".repeat(32))
    }

    #[test]
    fn only_contents_are_understood() {
        let path = format!("/v2/team/app/blobs/{}", digest());
        let wanted = Wanted::parse(&path, Some("ns=registry.example%3A5000")).unwrap();
        assert_eq!((wanted.registry.as_str(), wanted.name()), ("registry.example:5000", "team/app"));
        assert_eq!(wanted.repository, "registry.example:5000/team/app");
        let (path, query) = wanted.uri().split_once('?').map(|(p, q)| (p.to_owned(), q.to_owned())).unwrap();
        assert_eq!(Wanted::parse(&path, Some(&query)), Some(wanted.clone()));
        assert_eq!(Wanted::parse(&path.replace("/blobs/", "/manifests/"), Some(&query)), Some(wanted));
        for (path, query) in [
            ("/v2/team/app/manifests/latest".to_owned(), query.as_str()),
            (path.clone(), ""),
            (path.clone(), "ns="),
            (path.clone(), "ns=a/b"),
            (path.replace("0a", "0A"), &query),
            (path.replace("sha256:", "sha256:0"), &query),
            (path.replace("/v2/team/app", "/v2"), &query),
            (path.replace("team", "te\nam"), &query),
            ("/v2/".to_owned(), &query),
        ] {
            assert_eq!(Wanted::parse(&path, Some(query)), None, "{path} {query}");
        }
    }

    #[test]
    fn a_proof_is_for_one_node_and_one_thing() {
        let wanted = Wanted::parse(&format!("/v2/team/app/blobs/{}", digest()), Some("ns=r.example")).unwrap();
        let shown = wanted.proofs(&BTreeSet::from(["one".into(), "other".into()]), "a", "b");
        assert!(wanted.is_proven(&shown, "one", "a", "b") && wanted.is_proven(&shown, "other", "a", "b"));
        assert!(!wanted.is_proven(&shown, "third", "a", "b"));
        assert!(!wanted.is_proven(&shown, "one", "a", "c") && !wanted.is_proven(&shown, "one", "c", "b"));
        let other = Wanted { repository: "r.example/team/other".into(), ..wanted.clone() };
        assert!(!other.is_proven(&shown, "one", "a", "b"));
        assert!(!wanted.is_proven("", "", "a", "b"));
    }
}
