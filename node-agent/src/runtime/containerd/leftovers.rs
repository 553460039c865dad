//! What containerd leaves behind when it is killed while it makes a sandbox, and forgets: the network namespace, the address, the
//! ports of the node that lead there, and the shim.
//!
//! In: what there was at one moment. Out, once whatever was being made then is either listed or given up: what still is there
//! and belongs to nobody is removed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::mount::{UnmountFlags, unmount};

use super::mounts_below;
use super::shims::{self, Shim};
use crate::runtime::cni;
use crate::runtime::cri::Sandboxes;
use crate::runtime::instance::Instance;

/// containerd's names of network namespaces begin so.
const NAMESPACE_PREFIX: &str = "cni-";

/// What of sandboxes there was, whoever's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// When it was.
    pub(super) seen: SystemTime,
    socket: PathBuf,
    namespaces: Vec<PathBuf>,
    addresses: Vec<PathBuf>,
    shims: Vec<Shim>,
}

impl Leftovers {
    /// What there is now.
    pub(super) fn look(instance: &Instance) -> Self {
        let is_namespace = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(NAMESPACE_PREFIX.as_bytes()))
        };
        let namespaces = mounts_below(&[instance.state_dir()]).unwrap_or_default();
        let networks = files_in(&instance.addresses_dir());
        Self {
            seen: SystemTime::now(),
            shims: shims::of(&instance.socket()),
            socket: instance.socket(),
            namespaces: namespaces.into_iter().filter(is_namespace).collect(),
            addresses: networks.iter().flat_map(|network| files_in(network)).filter(|path| is_address(path)).collect(),
        }
    }

    /// Removes what of it is still there, and belongs to none of the sandboxes that containerd knows now.
    pub(super) fn remove(&self, known: &Sandboxes) {
        // First: what it started last lives in the network.
        for shim in self.shims.iter().filter(|shim| !known.alive.contains(&shim.sandbox)) {
            shims::kill_one(shim, &self.socket);
        }
        self.give_back(known, cni::close_ports);
        let found: Vec<_> = self.namespaces.iter().filter_map(|path| Some((path, inode(path)?))).collect();
        if found.is_empty() {
            return;
        }
        let used = namespaces_in_use();
        for (path, _) in found.into_iter().filter(|(_, inode)| !used.contains(inode)) {
            tracing::info!(namespace = %path.display(), "a network namespace that nobody uses is removed");
            if let Err(error) = unmount(path, UnmountFlags::DETACH) {
                tracing::warn!(namespace = %path.display(), %error, "cannot unmount a network namespace");
                continue;
            }
            let _ = fs::remove_file(path);
        }
    }

    /// Gives the addresses of sandboxes back which containerd does not know, and the ports that lead to them.
    fn give_back(&self, known: &Sandboxes, close_ports: impl Fn(&str) -> io::Result<()>) {
        for address in &self.addresses {
            // The plug-in writes whose it is into the first line.
            let Ok(text) = fs::read_to_string(address) else { continue };
            let owner = text.lines().next().unwrap_or_default().trim();
            if known.all.contains(owner) {
                continue;
            }
            // Before the address: by it is known whose ports there may be, and they must not lead to whoever has it next.
            if let Err(error) = close_ports(owner) {
                tracing::warn!(sandbox = owner, %error, "cannot take back the ports of a sandbox that is no more");
                continue;
            }
            tracing::info!(address = %address.display(), "an address that nobody has is given back");
            let _ = fs::remove_file(address);
        }
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn is_address(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<std::net::IpAddr>().is_ok())
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.ino())
}

/// The network namespaces that processes live in.
fn namespaces_in_use() -> HashSet<u64> {
    let processes = files_in(Path::new("/proc"));
    processes.iter().filter_map(|process| inode(&process.join("ns/net"))).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn an_address_is_kept_for_its_sandbox_and_given_back_without() {
        let dir = tempfile::tempdir().unwrap();
        let network = dir.path().join("gantry");
        fs::create_dir(&network).unwrap();
        let address = |name: &str, owner: &str| {
            let path = network.join(name);
            fs::write(&path, format!("{owner}\r\neth0")).unwrap();
            path
        };
        let (kept, lost) = (address("10.0.0.2", "lives"), address("10.0.0.3", "lost"));
        let left = Leftovers {
            seen: SystemTime::now(),
            socket: PathBuf::new(),
            namespaces: Vec::new(),
            addresses: vec![kept.clone(), lost.clone()],
            shims: Vec::new(),
        };
        // Given out after the look: whose it is may not be known yet.
        let young = address("10.0.0.4", "young");
        let known = Sandboxes { all: HashSet::from(["lives".to_owned()]), ..Sandboxes::default() };
        left.give_back(&known, |_| Err(io::Error::other("the rules are locked")));
        assert!(lost.exists(), "ports still lead there");
        let closed = RefCell::new(Vec::new());
        left.give_back(&known, |sandbox| {
            closed.borrow_mut().push(sandbox.to_owned());
            Ok(())
        });
        assert_eq!(closed.into_inner(), ["lost"]);
        assert!(kept.exists() && !lost.exists() && young.exists());
        assert!(is_address(&young) && !is_address(&network.join("last_reserved_ip.0")));
    }

    #[test]
    fn the_namespace_that_a_process_lives_in_is_in_use() {
        let own = inode(Path::new("/proc/self/ns/net")).unwrap();
        assert!(namespaces_in_use().contains(&own));
    }
}
