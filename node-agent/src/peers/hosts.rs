//! Where the runtime looks for a registry's images: at its mirrors as the operator has named them, and before them at this node's own.
//!
//! Operators' files are read and never written. What comes of them lies in a folder that the runtime looks into first.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable;

/// The file that describes a registry.
const FILE: &str = "hosts.toml";

/// The two folders, and what is put first.
pub struct Hosts {
    theirs: PathBuf,
    ours: PathBuf,
    mirror: String,
    token: String,
}

impl Hosts {
    /// With nothing of an agent before this one, whose mirror is no more.
    pub fn open(theirs: PathBuf, ours: PathBuf, mirror: String, token: String) -> io::Result<Self> {
        remove(&ours)?;
        std::fs::create_dir_all(&ours)?;
        Ok(Self { theirs, ours, mirror, token })
    }

    /// Sees that the runtime asks the mirror first for what is at a registry.
    pub fn route(&self, registry: &str) -> io::Result<()> {
        let ours = self.ours.join(folder_name(registry));
        let theirs =
            folder_names(registry).into_iter().map(|name| self.theirs.join(name)).find(|folder| folder.is_dir());
        let text = match &theirs {
            None => String::new(),
            Some(folder) => match std::fs::read_to_string(folder.join(FILE)) {
                Ok(text) => text,
                // Certificates alone say how a registry is reached, too; a file beside them would put an end to that.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return remove(&ours),
                Err(error) => return Err(error),
            },
        };
        std::fs::create_dir_all(&ours)?;
        let text = with_mirror(&text, &self.mirror, &self.token);
        if std::fs::read_to_string(ours.join(FILE)).is_ok_and(|there| there == text) && theirs.is_none() {
            return Ok(());
        }
        if let Some(theirs) = theirs {
            link_all(&theirs, &ours)?;
        }
        durable::replace(&ours.join(FILE), text.as_bytes())
    }
}

/// The folder's names for a registry, in the runtime's order.
fn folder_names(registry: &str) -> Vec<String> {
    let mut names = vec![folder_name(registry), registry.to_owned(), "_default".to_owned()];
    names.dedup();
    names
}

/// The runtime's own name for it, without a colon.
fn folder_name(registry: &str) -> String {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}_{port}_"),
        _ => registry.to_owned(),
    }
}

/// What a file says, with a mirror before all others that is asked for contents only.
fn with_mirror(text: &str, mirror: &str, token: &str) -> String {
    let mut at = text.len();
    let mut seen = 0;
    for line in text.split_inclusive('\n') {
        // What begins like this in the midst of a value has a quote next.
        if line.trim_start().strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with('h')) {
            at = seen;
            break;
        }
        seen += line.len();
    }
    let (head, tail) = text.split_at(at);
    let end = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
    let header = super::mirror::TOKEN;
    format!(
        "{head}{end}[host.\"{mirror}\"]\ncapabilities = [\"pull\"]\n\
         [host.\"{mirror}\".header]\n{header} = \"{token}\"\n{tail}"
    )
}

/// Makes what lies beside an operator's file lie beside ours, for paths in it may begin there.
fn link_all(theirs: &Path, ours: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(theirs)? {
        let entry = entry?;
        let link = ours.join(entry.file_name());
        if entry.file_name() == FILE || std::fs::read_link(&link).is_ok_and(|to| to == entry.path()) {
            continue;
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(entry.path(), link)?;
        #[cfg(not(unix))]
        std::fs::copy(entry.path(), link)?;
    }
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str =
        "[host.\"http://m\"]\ncapabilities = [\"pull\"]\n[host.\"http://m\".header]\nx-gantry-mirror = \"t\"\n";

    #[test]
    fn the_mirror_comes_before_others_and_after_what_is_about_the_registry() {
        let of = |text: &str| with_mirror(text, "http://m", "t");
        assert_eq!(of(""), MIRROR);
        assert_eq!(of("server = \"https://r\""), format!("server = \"https://r\"\n{MIRROR}"));
        let nested = "client = [\n  [\"a\", \"b\"],\n]\n";
        let host = "  [host.\"https://other\"]\n";
        assert_eq!(of(&format!("{nested}{host}x = 1\n")), format!("{nested}{MIRROR}{host}x = 1\n"));
    }

    #[test]
    fn what_the_operator_says_holds() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (dir.path().join("certs.d"), dir.path().join("routes"));
        let hosts = Hosts::open(theirs.clone(), ours.clone(), "http://m".into(), "t".into()).unwrap();
        let read = |name: &str| std::fs::read_to_string(ours.join(name).join(FILE));
        hosts.route("plain.example").unwrap();
        assert_eq!(read("plain.example").unwrap(), MIRROR);
        let named = theirs.join("r.example:5000");
        std::fs::create_dir_all(&named).unwrap();
        std::fs::write(named.join("ca.crt"), "ca").unwrap();
        hosts.route("r.example:5000").unwrap();
        assert!(read("r.example_5000_").is_err(), "certificates alone are left alone");
        for server in ["a", "b"] {
            std::fs::write(named.join(FILE), format!("server = \"{server}\"\nca = \"ca.crt\"\n")).unwrap();
            hosts.route("r.example:5000").unwrap();
            assert_eq!(read("r.example_5000_").unwrap(), format!("server = \"{server}\"\nca = \"ca.crt\"\n{MIRROR}"));
        }
        assert_eq!(std::fs::read_to_string(ours.join("r.example_5000_/ca.crt")).unwrap(), "ca");
        std::fs::create_dir_all(theirs.join("_default")).unwrap();
        std::fs::write(theirs.join("_default").join(FILE), "server = \"d\"\n").unwrap();
        hosts.route("plain.example").unwrap();
        assert_eq!(read("plain.example").unwrap(), format!("server = \"d\"\n{MIRROR}"));
        Hosts::open(theirs, ours.clone(), "http://m".into(), "t".into()).unwrap();
        assert!(read("plain.example").is_err());
    }
}
