//! What was given, on the disk: an agent that begins anew takes nothing away from containers that run, and gives nothing twice.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::messages::Grant;
use super::plan::{Book, Given, Key};

/// The file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The names of all kinds of devices.
    kinds: Vec<String>,
    given: Vec<Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    pod: String,
    container: String,
    resource: String,
    devices: Vec<String>,
    /// The plugin's message, in base64.
    grant: String,
}

impl Written {
    /// What a book holds.
    pub fn of(book: &Book) -> Self {
        let entry = |(key, ids, grant): (&Key, &std::collections::BTreeSet<String>, &Grant)| Entry {
            pod: key.uid.clone(),
            container: key.container.clone(),
            resource: key.resource.clone(),
            devices: ids.iter().cloned().collect(),
            grant: STANDARD.encode(grant.encode_to_vec()),
        };
        Self { kinds: book.kinds(), given: book.given().map(entry).collect() }
    }

    /// What a book is made of again. What cannot be read is as if it had not been given.
    pub fn into_parts(self) -> (Vec<String>, BTreeMap<Key, Given>) {
        let mut given = BTreeMap::new();
        for entry in self.given {
            let grant = STANDARD.decode(&entry.grant).ok().and_then(|bytes| Grant::decode(bytes.as_slice()).ok());
            if grant.is_none() {
                tracing::warn!(pod = entry.pod, container = entry.container, "devices that were given are not known");
                continue;
            }
            let key = Key { uid: entry.pod, container: entry.container, resource: entry.resource };
            given.insert(key, Given { ids: entry.devices.into_iter().collect(), grant });
        }
        (self.kinds, given)
    }

    /// Reads the file; nothing if there is none.
    pub fn read(file: &Path) -> io::Result<Self> {
        match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the file, so that it is there whole or as it was before, whenever the power fails.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        crate::durable::replace(file, &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("given.json");
        assert_eq!(Written::read(&file).unwrap(), Written::default());
        let grant = Grant { envs: [("A".to_owned(), "b".to_owned())].into(), ..Grant::default() };
        let key = Key { uid: "u".into(), container: "c".into(), resource: "a.b/c".into() };
        let given = Given { ids: BTreeSet::from(["x".to_owned()]), grant: Some(grant) };
        let given = BTreeMap::from([(key, given)]);
        let book = Book::before(vec!["a.b/c".into()], given.clone(), Default::default());
        Written::of(&book).write(&file).unwrap();
        let read = Written::read(&file).unwrap();
        assert_eq!(read.into_parts(), (vec!["a.b/c".to_owned()], given));
        std::fs::write(&file, "{").unwrap();
        assert!(Written::read(&file).is_err());
    }
}
