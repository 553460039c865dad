//! Where the runtime looks for a registry's images: at its mirrors as the operator has named them, and before them at this node's own.
//!
//! Operators' files are read and never written. The runtime is told of another folder, because some versions look into one only: there
//! is a link to each of the operators' folders, and instead of a link what the agent has made of it where its mirror comes first.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::durable;

/// The file that describes a registry.
const FILE: &str = "hosts.toml";

/// This node's own mirror.
pub struct Mirror {
    /// Where it is.
    pub url: String,
    /// By what it knows its runtime.
    pub token: String,
}

/// The two folders, and what is put first.
pub struct Hosts {
    theirs: PathBuf,
    ours: PathBuf,
    mirror: Option<Mirror>,
    /// Held while files are written: pulls begin together.
    writing: Mutex<()>,
}

impl Hosts {
    /// With nothing of an agent before this one, whose mirror is no more.
    pub fn open(theirs: PathBuf, ours: PathBuf, mirror: Option<Mirror>) -> io::Result<Self> {
        remove(&ours)?;
        fs::create_dir_all(&ours)?;
        let hosts = Self { theirs, ours, mirror, writing: Mutex::default() };
        hosts.link_all()?;
        Ok(hosts)
    }

    /// Sees that what operators say of registries counts, and that the runtime asks the mirror before others if it `has_parts` of what
    /// is at this one. Waits for the disk.
    pub fn update(&self, registry: &str, has_parts: bool) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = self.ours.join(folder_name(registry));
        if let Some(mirror) = self.mirror.as_ref().filter(|_| has_parts || is_own(&ours)) {
            self.put_first(mirror, registry, &ours)?;
        }
        self.link_all()
    }

    fn put_first(&self, mirror: &Mirror, registry: &str, ours: &Path) -> io::Result<()> {
        let theirs =
            folder_names(registry).into_iter().map(|name| self.theirs.join(name)).find(|folder| folder.is_dir());
        let text = match &theirs {
            None => String::new(),
            Some(folder) => match fs::read_to_string(folder.join(FILE)) {
                Ok(text) => text,
                // Certificates alone say how a registry is reached, too; a file beside them would put an end to that.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return remove(ours),
                Err(error) => return Err(error),
            },
        };
        if !is_own(ours) {
            remove(ours)?;
            fs::create_dir(ours)?;
        }
        if let Some(theirs) = &theirs {
            // Paths in their file may begin beside it.
            link_below(theirs, ours)?;
        }
        let text = with_mirror(&text, mirror);
        if fs::read_to_string(ours.join(FILE)).is_ok_and(|there| there == text) {
            return Ok(());
        }
        durable::replace(&ours.join(FILE), text.as_bytes())
    }

    /// Links to all of the operators' folders that there are, but for those in whose place there is one of ours.
    fn link_all(&self) -> io::Result<()> {
        let theirs = names(&self.theirs)?;
        for gone in names(&self.ours)?.difference(&theirs).map(|name| self.ours.join(name)).filter(|ours| !is_own(ours))
        {
            remove(&gone)?;
        }
        link_below(&self.theirs, &self.ours)
    }
}

fn is_own(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|there| there.is_dir())
}

fn names(folder: &Path) -> io::Result<BTreeSet<OsString>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Makes what lies in one folder, but for the file, lie in another, where that has nothing by the name.
fn link_below(theirs: &Path, ours: &Path) -> io::Result<()> {
    for name in names(theirs)?.into_iter().filter(|name| name != FILE) {
        let (target, link) = (theirs.join(&name), ours.join(&name));
        if fs::symlink_metadata(&link).is_ok() {
            continue;
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(target, link)?;
        #[cfg(windows)]
        match target.is_dir() {
            true => std::os::windows::fs::symlink_dir(target, link)?,
            false => std::os::windows::fs::symlink_file(target, link)?,
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match is_own(path) {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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
fn with_mirror(text: &str, mirror: &Mirror) -> String {
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
    let (header, Mirror { url, token }) = (super::mirror::TOKEN, mirror);
    format!(
        "{head}{end}[host.\"{url}\"]\ncapabilities = [\"pull\"]\n\
         [host.\"{url}\".header]\n{header} = \"{token}\"\n{tail}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str =
        "[host.\"http://m\"]\ncapabilities = [\"pull\"]\n[host.\"http://m\".header]\nx-gantry-mirror = \"t\"\n";

    fn mirror() -> Mirror {
        Mirror { url: "http://m".into(), token: "t".into() }
    }

    #[test]
    fn the_mirror_comes_before_others_and_after_what_is_about_the_registry() {
        let of = |text: &str| with_mirror(text, &mirror());
        assert_eq!(of(""), MIRROR);
        assert_eq!(of("server = \"https://r\""), format!("server = \"https://r\"\n{MIRROR}"));
        let nested = "client = [\n  [\"a\", \"b\"],\n]\n";
        let host = "  [host.\"https://other\"]\n";
        assert_eq!(of(&format!("{nested}{host}x = 1\n")), format!("{nested}{MIRROR}{host}x = 1\n"));
    }

    struct Folders {
        theirs: PathBuf,
        ours: PathBuf,
        _dir: tempfile::TempDir,
    }

    impl Folders {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { theirs: dir.path().join("certs.d"), ours: dir.path().join("routes.d"), _dir: dir }
        }

        fn open(&self, mirror: Option<Mirror>) -> Hosts {
            Hosts::open(self.theirs.clone(), self.ours.clone(), mirror).unwrap()
        }

        fn say(&self, name: &str, file: &str, text: &str) {
            fs::create_dir_all(self.theirs.join(name)).unwrap();
            fs::write(self.theirs.join(name).join(file), text).unwrap();
        }

        fn read(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.ours.join(name).join(FILE)).ok()
        }
    }

    #[test]
    fn what_the_operator_says_holds_before_and_after_there_is_a_mirror() {
        let folders = Folders::new();
        folders.say("_default", FILE, "server = \"d\"\n");
        let hosts = folders.open(Some(mirror()));
        assert_eq!(folders.read("_default").as_deref(), Some("server = \"d\"\n"));
        hosts.update("plain.example", false).unwrap();
        assert_eq!(folders.read("plain.example"), None, "nobody has anything of it");
        hosts.update("plain.example", true).unwrap();
        assert_eq!(folders.read("plain.example"), Some(format!("server = \"d\"\n{MIRROR}")));
        fs::remove_dir_all(folders.theirs.join("_default")).unwrap();
        hosts.update("plain.example", false).unwrap();
        assert_eq!((folders.read("plain.example").as_deref(), folders.read("_default")), (Some(MIRROR), None));

        for (server, has_parts) in [("a", false), ("b", true), ("c", false)] {
            let text = format!("server = \"{server}\"\nca = \"ca.crt\"\n");
            folders.say("r.example:5000", FILE, &text);
            folders.say("r.example:5000", "ca.crt", "ca");
            hosts.update("r.example:5000", has_parts).unwrap();
            assert_eq!(folders.read("r.example:5000"), Some(text.clone()));
            let own = (server != "a").then(|| format!("{text}{MIRROR}"));
            assert_eq!(folders.read("r.example_5000_"), own);
        }
        assert_eq!(fs::read_to_string(folders.ours.join("r.example_5000_/ca.crt")).unwrap(), "ca");
        folders.say("same.example", FILE, "");
        hosts.update("same.example", false).unwrap();
        hosts.update("same.example", true).unwrap();
        assert_eq!(folders.read("same.example").as_deref(), Some(MIRROR), "it is in the place of the link");
        assert_eq!(fs::read_to_string(folders.theirs.join("same.example").join(FILE)).unwrap(), "");
        folders.open(None).update("same.example", true).unwrap();
        assert_eq!(folders.read("same.example").as_deref(), Some(""), "without a mirror all is as they say");
        assert_eq!(folders.read("plain.example"), None);
    }

    #[test]
    fn certificates_alone_are_left_alone() {
        let folders = Folders::new();
        folders.say("r.example", "ca.crt", "ca");
        let hosts = folders.open(Some(mirror()));
        hosts.update("r.example", true).unwrap();
        assert_eq!(folders.read("r.example"), None);
        assert_eq!(fs::read_to_string(folders.ours.join("r.example/ca.crt")).unwrap(), "ca");
    }
}
