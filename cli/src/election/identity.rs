//! What tells one candidate from another: the host's name and something random, as Kubernetes' components do it.
//!
//! A server with a data directory keeps its random part there, in a file that it locks while it runs. When it was killed, its
//! next start is the same candidate and goes on with its own lease at once, instead of waiting for it to run out.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// The file in the data directory.
const FILE: &str = "candidate-id";

/// An identity, and what must live as long as it is used.
#[derive(Debug)]
pub struct Identity {
    /// What is written into leases.
    pub name: String,
    /// The locked file.
    _lock: Option<File>,
}

/// An identity that is new with each call.
pub fn fresh(host: &str) -> Identity {
    Identity { name: format!("{host}_{}", uuid::Uuid::new_v4()), _lock: None }
}

/// The identity of the data directory, or a new one while another process uses that.
///
/// # Errors
/// When the file cannot be read or written.
pub fn kept(host: &str, data_dir: &Path) -> Result<Identity> {
    let path = data_dir.join(FILE);
    let open = || -> std::io::Result<Option<(String, File)>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        if let Ok(id) = text.trim().parse::<uuid::Uuid>() {
            return Ok(Some((id.to_string(), file)));
        }
        let id = uuid::Uuid::new_v4().to_string();
        file.set_len(0)?;
        std::io::Seek::rewind(&mut file)?;
        writeln!(file, "{id}")?;
        file.sync_all()?;
        Ok(Some((id, file)))
    };
    match open().with_context(|| format!("cannot use {}", path.display()))? {
        // The host's name too: a copy of the directory on another machine is another candidate.
        Some((id, lock)) => Ok(Identity { name: format!("{host}_{id}"), _lock: Some(lock) }),
        None => Ok(fresh(host)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_one_candidate_at_a_time_and_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = kept("host", dir.path()).unwrap();
        let name = first.name.clone();
        assert!(name.starts_with("host_"));
        assert_ne!(kept("host", dir.path()).unwrap().name, name, "in use");
        drop(first);
        assert_eq!(kept("host", dir.path()).unwrap().name, name);
        assert_ne!(kept("other", dir.path()).unwrap().name, name, "another machine");
        std::fs::write(dir.path().join(FILE), "torn").unwrap();
        assert_ne!(kept("host", dir.path()).unwrap().name, name, "what cannot be read is made anew");
    }
}
