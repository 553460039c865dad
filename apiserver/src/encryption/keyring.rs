//! Sealing and opening of values. In: a key path and bytes. Out: bytes. No I/O.
//!
//! ```text
//! gantry:enc:aesgcm:v1:KEY NAME:  32 bytes of salt  ciphertext and tag
//! ```
//!
//! Each value has an AES-256-GCM key of its own, derived from the configured one and the salt (HKDF-SHA-256), so the number of
//! values that a key may encrypt has no practical bound and no nonce is ever used twice. What stands before the salt and the
//! store's key are authenticated with it: a value that was moved to another key does not open.

use std::collections::HashMap;

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};

use super::config::{Config, ConfigError};

/// How a sealed value starts. A JSON object starts with a brace.
const MARK: &[u8] = b"gantry:enc:aesgcm:v1:";
const SALT_BYTES: usize = 32;

/// Why a value cannot be opened or sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Its key is not in the configuration.
    #[error("it is encrypted with the key {0:?}, which the encryption configuration does not have")]
    NoKey(String),
    /// It was changed, moved from another key of the store, or encrypted with another key of the same name.
    #[error("what is stored does not belong there or was changed: it does not open with the key {0:?}")]
    Forged(String),
    /// It is cut short.
    #[error("what is stored is cut short")]
    Short,
    /// There is no configuration, so nothing is written that should be encrypted.
    #[error("there is no encryption configuration although the store holds encrypted values")]
    NotConfigured,
    /// The cipher failed.
    #[error("the cipher failed")]
    Cipher,
}

/// The keys, and for which kinds they are used.
#[derive(Debug, Default)]
pub struct Keyring {
    config: Option<Config>,
    keys: HashMap<String, Prk>,
}

impl Keyring {
    /// The keys of a configuration.
    ///
    /// # Errors
    /// When a key is not one.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let mut keys = HashMap::new();
        for key in config.keys() {
            keys.insert(key.name.clone(), Prk::new_less_safe(HKDF_SHA256, &key.secret()?));
        }
        Ok(Self { config: Some(config), keys })
    }

    /// No keys, for a store whose keys are lost: what should be encrypted cannot be written.
    pub fn locked() -> Self {
        Self::default()
    }

    /// The configuration.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The name of the key that values under `path` are to be encrypted with.
    fn wanted(&self, path: &str) -> Result<Option<&str>, SealError> {
        let Some((group, plural)) = kind_of(path) else { return Ok(None) };
        match &self.config {
            Some(config) => Ok(config.writes_with(group, plural).map(|key| key.name.as_str())),
            None if group.is_empty() && plural == "secrets" => Err(SealError::NotConfigured),
            None => Ok(None),
        }
    }

    /// The value as it is to be stored under `path`.
    ///
    /// # Errors
    /// When it should be encrypted and cannot be.
    pub fn seal(&self, path: &str, value: Bytes) -> Result<Bytes, SealError> {
        match self.wanted(path)? {
            Some(name) => self.seal_with(name, path, &value),
            None => Ok(value),
        }
    }

    fn seal_with(&self, name: &str, path: &str, value: &[u8]) -> Result<Bytes, SealError> {
        let salt: [u8; SALT_BYTES] = rand::random();
        let key = self.value_key(name, &salt)?;
        let head = head(name);
        let mut sealed = Vec::with_capacity(head.len() + SALT_BYTES + value.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&head);
        sealed.extend_from_slice(&salt);
        let start = sealed.len();
        sealed.extend_from_slice(value);
        let tag = key
            .seal_in_place_separate_tag(nonce(), Aad::from(associated(&head, path)), &mut sealed[start..])
            .map_err(|_| SealError::Cipher)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(Bytes::from(sealed))
    }

    /// The value that was stored under `path`; one that is not sealed is what it is.
    ///
    /// # Errors
    /// When it is sealed and does not open.
    pub fn open(&self, path: &str, stored: &Bytes) -> Result<Bytes, SealError> {
        let Some(name) = sealed_with(stored) else { return Ok(stored.clone()) };
        let head = head(name);
        let rest = &stored[head.len()..];
        let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>().ok_or(SealError::Short)?;
        let key = self.value_key(name, salt)?;
        let mut text = sealed.to_vec();
        let length = key
            .open_in_place(nonce(), Aad::from(associated(&head, path)), &mut text)
            .map_err(|_| SealError::Forged(name.to_owned()))?
            .len();
        text.truncate(length);
        Ok(Bytes::from(text))
    }

    /// Whether what is stored under `path` would be stored otherwise now: with another key, or encrypted at all, or not.
    pub fn is_outdated(&self, path: &str, stored: &[u8]) -> bool {
        self.wanted(path).is_ok_and(|wanted| wanted != sealed_with(stored))
    }

    /// The key of one value.
    fn value_key(&self, name: &str, salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, SealError> {
        let key = self.keys.get(name).ok_or_else(|| SealError::NoKey(name.to_owned()))?;
        let info = [salt.as_slice()];
        let derived = key.expand(&info, &AES_256_GCM).map_err(|_| SealError::Cipher)?;
        Ok(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

/// The name of the key that a value is sealed with; none if it is not sealed.
pub fn sealed_with(stored: &[u8]) -> Option<&str> {
    let rest = stored.strip_prefix(MARK)?;
    let end = rest.iter().position(|byte| *byte == b':')?;
    std::str::from_utf8(&rest[..end]).ok()
}

fn head(name: &str) -> Vec<u8> {
    [MARK, name.as_bytes(), b":"].concat()
}

fn associated(head: &[u8], path: &str) -> Vec<u8> {
    [head, path.as_bytes()].concat()
}

/// A value's key is used once, so any nonce will do.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// The group and plural of `/registry/GROUP/PLURAL/…`; the core group's folder is `core`.
fn kind_of(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.strip_prefix(crate::cacher::ROOT)?.splitn(3, '/');
    let (folder, plural, rest) = (parts.next()?, parts.next()?, parts.next()?);
    (!rest.is_empty()).then_some((if folder == "core" { "" } else { folder }, plural))
}

#[cfg(test)]
mod tests {
    use super::super::config::Key;
    use super::*;

    const PATH: &str = "/registry/core/secrets/ns/a";
    const TEXT: &[u8] = br#"{"kind":"Secret","data":{"password":"aHVudGVyMg=="}}"#;

    fn ring(key: &Key) -> Keyring {
        Keyring::new(Config::new(key.clone())).unwrap()
    }

    fn sealed(ring: &Keyring, path: &str) -> Bytes {
        ring.seal(path, Bytes::from_static(TEXT)).unwrap()
    }

    #[test]
    fn a_sealed_value_hides_its_text_and_opens_where_it_belongs_only() {
        let ring = ring(&Key::generate("k"));
        let stored = sealed(&ring, PATH);
        assert!(!stored.windows(8).any(|part| TEXT.windows(8).any(|text| text == part)));
        assert_ne!(stored, sealed(&ring, PATH), "no two are alike");
        assert_eq!(&ring.open(PATH, &stored).unwrap()[..], TEXT);
        let forged = SealError::Forged("k".into());
        assert_eq!(ring.open("/registry/core/secrets/ns/b", &stored).unwrap_err(), forged, "swapped");
        for at in [stored.len() - 1, stored.len() - 20, MARK.len() + 2 + SALT_BYTES / 2] {
            let mut changed = stored.to_vec();
            changed[at] ^= 1;
            assert_eq!(ring.open(PATH, &Bytes::from(changed)).unwrap_err(), forged, "changed at {at}");
        }
        for length in MARK.len() + 2..stored.len() {
            assert!(ring.open(PATH, &stored.slice(..length)).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn only_what_is_configured_is_sealed() {
        let ring = ring(&Key::generate("k"));
        let plain = Bytes::from_static(b"{}");
        for path in ["/registry/core/configmaps/ns/secrets", "/registry/apps/secrets/ns/a", "/other/core/secrets/ns/a"]
        {
            assert_eq!(ring.seal(path, plain.clone()).unwrap(), plain, "{path}");
        }
        assert_eq!(ring.open(PATH, &plain).unwrap(), plain, "what was stored before encryption can be read");
        assert!(ring.is_outdated(PATH, &plain) && !ring.is_outdated(PATH, &sealed(&ring, PATH)));
    }

    #[test]
    fn keys_change_and_old_values_open_as_long_as_their_key_is_there() {
        let (old, new) = (Key::generate("old"), Key::generate("new"));
        let before = sealed(&ring(&old), PATH);
        let mut config = Config::new(old);
        config.add_first(&new);
        let both = Keyring::new(config.clone()).unwrap();
        assert_eq!(&both.open(PATH, &before).unwrap()[..], TEXT);
        assert!(both.is_outdated(PATH, &before));
        let after = sealed(&both, PATH);
        assert_eq!((sealed_with(&before), sealed_with(&after)), (Some("old"), Some("new")));
        config.drop_unused();
        let only = Keyring::new(config).unwrap();
        assert_eq!(&only.open(PATH, &after).unwrap()[..], TEXT);
        assert_eq!(only.open(PATH, &before).unwrap_err(), SealError::NoKey("old".into()));
        let other = ring(&Key::generate("old"));
        assert_eq!(other.open(PATH, &before).unwrap_err(), SealError::Forged("old".into()), "another key of that name");
    }

    #[test]
    fn without_keys_secrets_are_not_written_in_plain_text() {
        let locked = Keyring::locked();
        assert_eq!(locked.seal(PATH, Bytes::from_static(TEXT)).unwrap_err(), SealError::NotConfigured);
        assert!(locked.seal("/registry/core/configmaps/ns/a", Bytes::from_static(TEXT)).is_ok());
    }
}
