//! Finds drivers: follows the folder in which they put their sockets, asks each who it is, and tells the API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kube::Client;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::messages::PluginInfo;
use super::node;
use super::{Driver, Drivers, Socket};
use crate::checkpoint;
use crate::node::SharedNode;

/// How often the folder is looked at. Reading a folder that is nearly always empty costs less than being told of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon a driver that could not be registered is asked again, doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The kind of plugin that has volumes.
const KIND: &str = "CSIPlugin";

/// Why a driver is not registered.
enum Refusal {
    /// The API server could not be told.
    Away(String),
    /// It cannot be used.
    No(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::No(why)
    }
}

/// A socket in the folder.
#[derive(Clone, Debug)]
struct Seen {
    /// Which of the sockets that had this name.
    stamp: Option<SystemTime>,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Waiting { until: Instant, delay: Duration },
    Registered,
}

/// Looks for drivers until shutdown.
pub async fn run(
    folder: PathBuf,
    client: Client,
    node: watch::Receiver<SharedNode>,
    drivers: Drivers,
    stop: CancellationToken,
) {
    let mut follower = Follower { folder, client, node, drivers, seen: BTreeMap::new() };
    let look = async {
        loop {
            follower.look().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let _: Option<()> = stop.run_until_cancelled(look).await;
}

struct Follower {
    folder: PathBuf,
    client: Client,
    node: watch::Receiver<SharedNode>,
    drivers: Drivers,
    seen: BTreeMap<PathBuf, Seen>,
}

impl Follower {
    async fn look(&mut self) {
        let folder = self.folder.clone();
        // One that hangs holds up no pods, only this.
        let Ok(sockets) = tokio::task::spawn_blocking(move || sockets(&folder)).await else { return };
        let gone: Vec<PathBuf> = self
            .seen
            .iter()
            .filter(|(path, seen)| sockets.get(*path) != Some(&seen.stamp))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.seen.remove(&path);
            let back = sockets.contains_key(&path);
            if let Some(name) = self.drivers.remove(&path) {
                info!(driver = name, "a storage driver has left");
                // One that only starts anew keeps its place.
                if !back {
                    self.tell(&name, None).await;
                }
            }
        }
        for (path, stamp) in sockets {
            let now = Instant::now();
            let delay = match self.seen.get(&path).map(|seen| &seen.state) {
                Some(State::Registered) => continue,
                Some(State::Waiting { until, .. }) if *until > now => continue,
                Some(State::Waiting { delay, .. }) => (*delay * 2).min(RETRY.1),
                None => RETRY.0,
            };
            let state = match self.register(&path).await {
                Ok(()) => State::Registered,
                Err(error) => {
                    warn!(socket = %path.display(), error, "cannot register a plugin");
                    State::Waiting { until: Instant::now() + delay, delay }
                }
            };
            self.seen.insert(path, Seen { stamp, state });
        }
    }

    async fn register(&self, path: &Path) -> Result<(), String> {
        let socket = Socket(path.to_owned());
        let info = socket.plugin_info().await;
        let info = info.map_err(|error| format!("failed to get plugin info using RPC GetInfo: {error}"))?;
        let result = match self.take(path, &info).await {
            Err(Refusal::Away(why)) => return Err(format!("{why}; it is used all the same")),
            Err(Refusal::No(why)) => Err(why),
            Ok(()) => Ok(()),
        };
        let told = socket.notify(result.clone().err()).await;
        result.and_then(|()| told.map_err(|error| format!("failed to send registration status: {error}")))
    }

    async fn take(&self, path: &Path, info: &PluginInfo) -> Result<(), Refusal> {
        check(info)?;
        let own = Socket(if info.endpoint.is_empty() { path.to_owned() } else { PathBuf::from(&info.endpoint) });
        let said = own.node_info().await.map_err(|error| format!("plugin registration failed with err: {error}"))?;
        let capabilities = own.capabilities().await;
        let capabilities = capabilities.map_err(|error| format!("plugin registration failed with err: {error}"))?;
        let Some(node) = self.node.borrow().clone() else {
            return Err(Refusal::No("the node is not registered yet".into()));
        };
        let told = node::tell(&self.client, &node, &info.name, Some(&said)).await;
        let why = |error: &kube::Error| format!("plugin registration failed with err: error updating CSINode: {error}");
        let result = match told {
            // The API is told when it is there again; until then pods that it knew of may need the driver.
            Err(error) if checkpoint::is_away(&error) => Err(Refusal::Away(why(&error))),
            Err(error) => return Err(Refusal::No(why(&error))),
            Ok(()) => Ok(()),
        };
        info!(driver = info.name, node_id = said.node_id, "a storage driver is registered");
        self.drivers.put(info.name.clone(), Driver { socket: own, capabilities, registered_by: path.to_owned() });
        result
    }

    async fn tell(&self, name: &str, info: Option<&super::messages::NodeInfo>) {
        let Some(node) = self.node.borrow().clone() else { return };
        if let Err(error) = node::tell(&self.client, &node, name, info).await {
            warn!(driver = name, %error, "cannot take a driver out of the CSINode");
        }
    }
}

/// Whether this is a driver that can be used.
fn check(info: &PluginInfo) -> Result<(), String> {
    if info.kind != KIND {
        return Err(format!("no handler registered for plugin type: {}", info.kind));
    }
    if info.name.is_empty() {
        return Err("the plugin has no name".into());
    }
    // Of other numbers before the point nothing is known.
    let supported = info.supported_versions.iter().any(|version| version.trim_start_matches('v').starts_with("1."));
    if !supported {
        let versions = &info.supported_versions;
        return Err(format!(
            "plugin validation failed with err: none of the versions specified {versions:?} are supported"
        ));
    }
    Ok(())
}

/// The sockets in a folder and the folders in it, each with when it was made.
fn sockets(folder: &Path) -> BTreeMap<PathBuf, Option<SystemTime>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            found.extend(sockets(&path));
        } else if is_socket(&metadata) {
            found.insert(path, metadata.modified().ok());
        }
    }
    found
}

#[cfg(unix)]
fn is_socket(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
}

#[cfg(not(unix))]
fn is_socket(_: &std::fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_drivers_of_the_interface_are_taken() {
        let info = |kind: &str, name: &str, version: &str| PluginInfo {
            kind: kind.into(),
            name: name.into(),
            supported_versions: vec![version.into()],
            ..PluginInfo::default()
        };
        assert_eq!(check(&info(KIND, "d", "1.0.0")), Ok(()));
        assert!(check(&info(KIND, "d", "2.0.0")).unwrap_err().contains("none of the versions specified"));
        assert!(check(&info(KIND, "", "1.0.0")).is_err());
        assert_eq!(
            check(&info("DRAPlugin", "d", "1.0.0")).unwrap_err(),
            "no handler registered for plugin type: DRAPlugin"
        );
    }

    #[test]
    #[cfg(unix)]
    fn sockets_are_found_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("file.sock"), "").unwrap();
        let paths = ["a.sock", "sub/b.sock", ".hidden"].map(|name| dir.path().join(name));
        let _open = paths.clone().map(|path| std::os::unix::net::UnixListener::bind(path).unwrap());
        assert_eq!(sockets(dir.path()).into_keys().collect::<Vec<_>>(), paths[..2]);
        assert!(sockets(&dir.path().join("none")).is_empty());
    }
}
