//! Checks what is stored, object by object. In: keys and values as they are stored, and the encryption keys. Out: [`Report`]. Pure.
//!
//! An object must open with the keys there are, be a JSON object, say of itself what its key says of it, and have revisions that
//! can be. What the API does not know (claims of addresses, kinds that others defined) must open and have possible revisions.

use std::collections::BTreeMap;

use gantry_api::kinds::{Catalog, Resource};
use gantry_store::{KeyValue, Revision};
use serde::{Deserialize, Serialize};

use crate::encryption::keyring::{Keyring, SealError, sealed_with};

/// How many problems are told one by one.
const TOLD_MAX: usize = 50;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How many keys were looked at.
    pub keys: u64,
    /// How many of their values are encrypted.
    pub encrypted: u64,
    /// How many there are by resource.
    pub resources: BTreeMap<String, u64>,
    /// How many problems there are.
    pub problems: u64,
    /// The first of them: key and what is wrong.
    pub told: Vec<(String, String)>,
}

/// A check under way.
pub struct Verifier<'a> {
    catalog: BTreeMap<&'a str, &'a Resource>,
    ring: &'a Keyring,
    at: Revision,
    last: Option<String>,
    report: Report,
}

impl<'a> Verifier<'a> {
    /// A check of a snapshot at revision `at`; none in the catalog counts as unknown.
    pub fn new(catalog: &'a Catalog, ring: &'a Keyring, at: Revision) -> Self {
        let known = catalog.iter().filter(|resource| resource.stored());
        let catalog = known.map(|resource| (resource.storage_prefix.as_str(), &**resource)).collect();
        Self { catalog, ring, at, last: None, report: Report::default() }
    }

    /// Looks at one key and value; they come in key order.
    pub fn look(&mut self, kv: &KeyValue) {
        self.report.keys += 1;
        self.report.encrypted += u64::from(sealed_with(&kv.value).is_some());
        if let Err(problem) = self.check(kv) {
            self.problem(kv.key.clone(), problem);
        }
        self.last = Some(kv.key.clone());
    }

    /// Notes something that is wrong with the whole.
    pub fn problem(&mut self, about: impl Into<String>, problem: impl Into<String>) {
        self.report.problems += 1;
        if self.report.told.len() < TOLD_MAX {
            self.report.told.push((about.into(), problem.into()));
        }
    }

    /// What was found.
    pub fn finish(self) -> Report {
        self.report
    }

    fn check(&mut self, kv: &KeyValue) -> Result<(), String> {
        if self.last.as_ref().is_some_and(|last| *last >= kv.key) {
            return Err("comes out of order".to_owned());
        }
        let (created, changed) = (kv.create_revision, kv.mod_revision);
        if created == 0 || created > changed || changed > self.at {
            return Err(format!("was created at revision {created} and changed at {changed}, of {}", self.at));
        }
        let resource = prefix_of(&kv.key).and_then(|prefix| self.catalog.get(prefix).copied());
        *self
            .report
            .resources
            .entry(resource.map_or_else(|| "(other)".to_owned(), Resource::qualified))
            .or_default() += 1;
        let value = self.ring.open(&kv.key, &kv.value).map_err(|error| match (error, self.ring.config()) {
            (SealError::NoKey(name), None) => {
                format!("is encrypted with key {name:?}; name the encryption configuration")
            }
            (error, _) => error.to_string(),
        })?;
        let Some(resource) = resource else { return Ok(()) };
        let object: serde_json::Value =
            serde_json::from_slice(&value).map_err(|error| format!("is not JSON: {error}"))?;
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        if text("name").is_empty() || text("uid").is_empty() {
            return Err("is no object: it has no name or no UID".to_owned());
        }
        let expected = resource.key(text("namespace"), text("name"));
        if expected != kv.key {
            return Err(format!("holds the object of {expected:?}"));
        }
        Ok(())
    }
}

/// `/registry/GROUP/PLURAL/` of a key.
fn prefix_of(key: &str) -> Option<&str> {
    let rest = key.strip_prefix(crate::cacher::ROOT)?;
    let group = rest.find('/')?;
    let plural = rest[group + 1..].find('/')?;
    Some(&key[..crate::cacher::ROOT.len() + group + plural + 2])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::encryption::config::{Config, Key};

    fn kv(key: &str, value: impl Into<Bytes>, created: u64, changed: u64) -> KeyValue {
        KeyValue { key: key.into(), value: value.into(), create_revision: created, mod_revision: changed }
    }

    fn map(namespace: &str, name: &str) -> String {
        format!(r#"{{"kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"{namespace}","uid":"u"}}}}"#)
    }

    fn report(ring: &Keyring, items: &[KeyValue]) -> Report {
        let catalog = Catalog::builtin();
        let mut verifier = Verifier::new(&catalog, ring, 100);
        items.iter().for_each(|item| verifier.look(item));
        verifier.finish()
    }

    #[test]
    fn each_kind_of_damage_is_told() {
        let ring = Keyring::new(Config::new(Key::generate("k"))).unwrap();
        let good = kv("/registry/core/configmaps/ns/b", map("ns", "b"), 2, 3);
        assert_eq!(report(&ring, std::slice::from_ref(&good)).problems, 0);
        let secret = "/registry/core/secrets/ns/s";
        let sealed = ring.seal(secret, map("ns", "s").into()).unwrap();
        let fine = report(&ring, &[good.clone(), kv(secret, sealed.clone(), 4, 5)]);
        assert_eq!((fine.problems, fine.keys, fine.encrypted), (0, 2, 1));
        assert_eq!(fine.resources["secrets"], 1);
        let table = [
            (kv("/registry/core/configmaps/ns/c", map("ns", "b"), 2, 3), "holds the object of"),
            (kv("/registry/core/configmaps/ns/c", "{", 2, 3), "not JSON"),
            (kv("/registry/core/configmaps/ns/c", "{}", 2, 3), "no name"),
            (kv("/registry/core/configmaps/ns/c", map("ns", "c"), 4, 3), "revision"),
            (kv("/registry/core/configmaps/ns/c", map("ns", "c"), 2, 101), "revision"),
            (kv("/registry/core/configmaps/ns/a", map("ns", "a"), 2, 3), "out of order"),
            (kv("/registry/core/secrets/ns/t", sealed, 2, 3), "does not belong"),
        ];
        for (item, says) in table {
            let found = report(&ring, &[good.clone(), item]);
            assert_eq!(found.problems, 1, "{found:?}");
            assert!(found.told[0].1.contains(says), "{found:?}");
        }
        let other = kv("/registry/ranges/serviceips/10.0.0.1", "ns/name", 2, 3);
        assert_eq!(report(&ring, &[other]).problems, 0);
    }
}
