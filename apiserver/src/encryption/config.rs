//! The encryption configuration: Kubernetes' file format. In: YAML. Out: [`Rules`], or what is wrong with it; and the file
//! that a new cluster starts with.
//!
//! ```yaml
//! apiVersion: apiserver.config.k8s.io/v1
//! kind: EncryptionConfiguration
//! resources:
//! - resources: [secrets]              # also deployments.apps, '*.apps', '*.' for the core group, '*.*'
//!   providers:
//!   - aesgcm: {keys: [{name: key-1, secret: 32 BYTES IN BASE64}]}
//!   - identity: {}                    # what is stored unencrypted can be read
//! ```
//!
//! The first entry that names a kind is the one that counts for it; its first provider's first key encrypts what is written,
//! and what is read may be encrypted with any key of the file.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// What the file says it is.
const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";
/// The length of a key.
const SECRET_BYTES: usize = 32;
/// What is encrypted unless somebody says otherwise.
const DEFAULT_RESOURCES: &[&str] = &["secrets"];

/// A key of the file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What values say that they are encrypted with.
    pub name: String,
    secret: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Key {
    /// A new key.
    pub fn generate(name: impl Into<String>) -> Self {
        let secret: [u8; SECRET_BYTES] = rand::random();
        Self { name: name.into(), secret: STANDARD.encode(secret) }
    }

    /// Its bytes.
    pub fn secret(&self) -> Result<[u8; SECRET_BYTES], ConfigError> {
        let bytes = STANDARD.decode(self.secret.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| {
            ConfigError::new(format!("the secret of key {:?} is not {SECRET_BYTES} bytes in base64", self.name))
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// How values are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aesgcm: Option<Keys>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Nothing>,
}

/// Some kinds and how their values are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.`, `*.*`.
    pub resources: Vec<String>,
    providers: Vec<Provider>,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    api_version: String,
    kind: String,
    /// In order; the first that names a kind counts.
    pub resources: Vec<Rule>,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Config {
    /// The configuration that a new cluster starts with: secrets are encrypted with `key`.
    pub fn new(key: Key) -> Self {
        let keys = Provider { aesgcm: Some(Keys { keys: vec![key] }), identity: None };
        let identity = Provider { aesgcm: None, identity: Some(Nothing {}) };
        let resources = DEFAULT_RESOURCES.iter().map(|name| (*name).to_owned()).collect();
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            resources: vec![Rule { resources, providers: vec![keys, identity] }],
        }
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is no such configuration, or one that cannot be carried out.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| {
            ConfigError::new(format!("not an {KIND} that can be used (providers are aesgcm and identity): {error}"))
        })?;
        if config.api_version != API_VERSION || config.kind != KIND {
            return Err(ConfigError::new(format!("not of apiVersion {API_VERSION} and kind {KIND}")));
        }
        config.check()?;
        Ok(config)
    }

    /// The file's text.
    pub fn to_text(&self) -> Result<String, ConfigError> {
        serde_saphyr::to_string(self).map_err(|error| ConfigError::new(error.to_string()))
    }

    fn check(&self) -> Result<(), ConfigError> {
        for rule in &self.resources {
            if rule.resources.is_empty() || rule.providers.is_empty() {
                return Err(ConfigError::new("an entry of resources names no resources or no providers"));
            }
            for provider in &rule.providers {
                match (&provider.aesgcm, &provider.identity) {
                    (Some(keys), None) if keys.keys.is_empty() => return Err(ConfigError::new("aesgcm has no keys")),
                    (Some(_), None) | (None, Some(_)) => {}
                    _ => return Err(ConfigError::new("each provider is either aesgcm or identity")),
                }
            }
        }
        let mut seen: Vec<&Key> = Vec::new();
        for key in self.keys() {
            key.secret()?;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if key.name.is_empty() || key.name.len() > 63 || !key.name.chars().all(plain) {
                return Err(ConfigError::new(format!(
                    "key name {:?} is not up to 63 letters, digits, '-', '_' and '.'",
                    key.name
                )));
            }
            if seen.iter().any(|other| other.name == key.name && *other != key) {
                return Err(ConfigError::new(format!("two different keys have the name {:?}", key.name)));
            }
            seen.push(key);
        }
        Ok(())
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let providers = self.resources.iter().flat_map(|rule| &rule.providers);
        providers.filter_map(|provider| provider.aesgcm.as_ref()).flat_map(|keys| &keys.keys)
    }

    /// The key that values of a kind are encrypted with; none if they are not.
    pub fn writes_with(&self, group: &str, plural: &str) -> Option<&Key> {
        let rule = self.resources.iter().find(|rule| rule.names(group, plural))?;
        rule.first_key()
    }

    /// Makes `key` the one that encrypts, wherever something is encrypted; the others stay, to read with.
    pub fn add_first(&mut self, key: &Key) {
        for rule in &mut self.resources {
            if let Some(keys) = rule.providers.first_mut().and_then(|provider| provider.aesgcm.as_mut()) {
                keys.keys.insert(0, key.clone());
            }
        }
    }

    /// Drops every key that encrypts nothing that is written, and returns their names.
    pub fn drop_unused(&mut self) -> Vec<String> {
        let used: Vec<String> = self.resources.iter().filter_map(|rule| Some(rule.first_key()?.name.clone())).collect();
        let mut dropped = Vec::new();
        for rule in &mut self.resources {
            for keys in rule.providers.iter_mut().filter_map(|provider| provider.aesgcm.as_mut()) {
                let (kept, gone) = std::mem::take(&mut keys.keys).into_iter().partition(|key| used.contains(&key.name));
                keys.keys = kept;
                dropped.extend(Vec::into_iter(gone).map(|key: Key| key.name));
            }
            rule.providers.retain(|provider| provider.aesgcm.as_ref().is_none_or(|keys| !keys.keys.is_empty()));
        }
        dropped.sort();
        dropped.dedup();
        dropped
    }
}

impl Rule {
    /// The key that encrypts what it names; none if nothing does.
    pub fn first_key(&self) -> Option<&Key> {
        self.providers.first()?.aesgcm.as_ref()?.keys.first()
    }

    fn names(&self, group: &str, plural: &str) -> bool {
        self.resources.iter().any(|pattern| {
            let (resource, of_group) = pattern.split_once('.').unwrap_or((pattern, ""));
            match (resource, of_group) {
                ("*", "*") => true,
                ("*", of_group) => of_group == group,
                (resource, of_group) => resource == plural && of_group == group,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, byte: u8) -> Key {
        Key { name: name.into(), secret: STANDARD.encode([byte; SECRET_BYTES]) }
    }

    #[test]
    fn a_new_cluster_encrypts_secrets_and_its_file_reads_back() {
        let config = Config::new(Key::generate("key-1"));
        let text = config.to_text().unwrap();
        assert_eq!(Config::parse(&text).unwrap(), config, "{text}");
        assert_eq!(config.writes_with("", "secrets").unwrap().name, "key-1");
        assert_eq!(config.writes_with("", "configmaps"), None);
        assert!(!format!("{config:?}").contains(&config.keys().next().unwrap().secret), "keys are not shown");
    }

    #[test]
    fn the_first_entry_that_names_a_kind_counts() {
        let secret = STANDARD.encode([7; SECRET_BYTES]);
        let text = format!(
            "apiVersion: {API_VERSION}\nkind: {KIND}\nresources:\n\
             - resources: [events]\n  providers: [{{identity: {{}}}}]\n\
             - resources: [secrets, deployments.apps]\n  providers: [{{aesgcm: {{keys: [{{name: a, secret: {secret}}}]}}}}]\n\
             - resources: ['*.batch', '*.']\n  providers: [{{identity: {{}}}}, {{aesgcm: {{keys: [{{name: a, secret: {secret}}}]}}}}]\n\
             - resources: ['*.*']\n  providers: [{{aesgcm: {{keys: [{{name: b, secret: {}}}]}}}}]\n",
            STANDARD.encode([8; SECRET_BYTES])
        );
        let config = Config::parse(&text).unwrap();
        let name = |group: &str, plural: &str| config.writes_with(group, plural).map(|key| key.name.as_str());
        let table = [
            ("", "events", None),
            ("", "secrets", Some("a")),
            ("apps", "deployments", Some("a")),
            ("apps", "replicasets", Some("b")),
            ("batch", "jobs", None),
            ("", "configmaps", None),
            ("example.com", "secrets", Some("b")),
        ];
        for (group, plural, expected) in table {
            assert_eq!(name(group, plural), expected, "{plural}.{group}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let good = Config::new(key("a", 1)).to_text().unwrap();
        let secret = STANDARD.encode([1; SECRET_BYTES]);
        for (text, says) in [
            (good.replace(KIND, "Secret"), "kind"),
            (good.replace(&secret, "c2hvcnQ="), "32 bytes"),
            (good.replace("aesgcm", "aescbc"), "aesgcm and identity"),
            (good.replace("name: a", "name: 'a:b'"), "name"),
            (
                format!("apiVersion: {API_VERSION}\nkind: {KIND}\nresources: [{{resources: [], providers: []}}]"),
                "names no",
            ),
        ] {
            let error = Config::parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn keys_are_added_in_front_and_dropped_when_unused() {
        let mut config = Config::new(key("old", 1));
        config.add_first(&key("new", 2));
        assert_eq!(config.writes_with("", "secrets").unwrap().name, "new");
        assert_eq!(config.keys().count(), 2);
        assert_eq!(config.drop_unused(), ["old"]);
        assert_eq!(config.keys().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["new"]);
    }
}
