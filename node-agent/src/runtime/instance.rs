//! The names and places that one node's runtime uses, derived from its data directory.
//!
//! In: a data directory. Out: paths, an interface name, a table name. Two agents with
//! different data directories share none of them; an agent that is started again on the
//! same directory finds what the last one left. Sockets live in a short folder below /run,
//! because their paths may have only 108 bytes; what must not outlive a reboot is there too.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::oci::hex;

/// Hexadecimal digits of the data directory's hash in names: enough to tell a machine's
/// agents apart, and short enough for the 15 characters of an interface.
const ID_LEN: usize = 8;

/// Where a node's runtime lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The agent's data directory, absolute.
    pub data_dir: PathBuf,
    id: String,
}

/// What later commands on the same data directory (import, reset) have to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// containerd's socket.
    pub address: PathBuf,
    /// Whether this containerd was started by the agent and is ended with it.
    pub own: bool,
    /// containerd's snapshotter.
    pub snapshotter: String,
    /// Cgroup below which the pods live.
    pub cgroup_root: String,
}

impl Instance {
    /// The instance of a data directory, which exists.
    pub fn of(data_dir: &Path) -> io::Result<Self> {
        let data_dir = std::fs::canonicalize(data_dir)?;
        let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let mut id = hex(&hash);
        id.truncate(ID_LEN);
        Ok(Self { data_dir, id })
    }

    /// For sockets, state and everything else that ends with the machine's run.
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/gantry").join(&self.id)
    }

    /// What containerd keeps for as long as the machine runs.
    pub fn state_dir(&self) -> PathBuf {
        self.run_dir().join("state")
    }

    /// Where the addresses given to pods are noted down, by network.
    pub fn addresses_dir(&self) -> PathBuf {
        self.run_dir().join("addresses")
    }

    /// For containerd's images, snapshots and configuration.
    pub fn containerd_dir(&self) -> PathBuf {
        self.data_dir.join("containerd")
    }

    /// What operators say of registries: for each a folder with a `hosts.toml`.
    pub fn registries_dir(&self) -> PathBuf {
        self.containerd_dir().join("certs.d")
    }

    /// The same for containerd, as the agent has made it out of that.
    pub fn routes_dir(&self) -> PathBuf {
        self.containerd_dir().join("routes.d")
    }

    /// The socket of the instance's own containerd.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("containerd.sock")
    }

    /// The bridge of the pod network.
    pub fn bridge(&self) -> String {
        format!("gantry-{}", self.id)
    }

    /// The table of the service proxy.
    pub fn table(&self) -> String {
        format!("gantry-{}", self.id)
    }

    /// The cgroup of this instance's pods. What lies below it and is not known is removed, so
    /// agents of one machine must not share it.
    pub fn cgroup(&self, root: &str) -> String {
        format!("{}/{}", root.trim_end_matches('/'), self.id)
    }

    fn record_path(&self) -> PathBuf {
        self.containerd_dir().join("instance.json")
    }

    /// Notes down what later commands need.
    pub fn write_record(&self, record: &Record) -> io::Result<()> {
        std::fs::create_dir_all(self.containerd_dir())?;
        std::fs::write(self.record_path(), serde_json::to_vec_pretty(record)?)
    }

    /// What the agent noted down when it last ran here.
    pub fn read_record(&self) -> io::Result<Record> {
        Ok(serde_json::from_slice(&std::fs::read(self.record_path())?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_stable_and_differ_between_directories() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Instance::of(one.path()).unwrap();
        assert_eq!(first, Instance::of(&one.path().join(".")).unwrap());
        assert_ne!(first.bridge(), Instance::of(two.path()).unwrap().bridge());
        assert!(first.bridge().len() <= 15);
        assert!(first.socket().as_os_str().len() < 90);
        let record = Record { own: true, ..Default::default() };
        first.write_record(&record).unwrap();
        assert_eq!(first.read_record().unwrap(), record);
    }
}
