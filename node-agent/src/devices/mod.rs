//! Devices of the node that containers get as a whole and that nobody but a plugin knows (the device plugins of Kubernetes,
//! version `v1beta1`).
//!
//! ```text
//!   plugin ─▶ DATA_DIR/device-plugins/kubelet.sock ─▶ registration ─▶ Book ─▶ capacity of the Node
//!   plugin ◀─ Allocate, before the pod is begun ◀─ claim ◀──────────────┤
//!   plugin ◀─ PreStartContainer ◀─ for_container ◀──────────────────────┴─▶ file: what was given
//! ```
//!
//! A pod has its devices before anything of it is made, and until nothing of it is left. Which they are lies on the disk before a
//! container has them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

mod client;
mod file;
mod messages;
pub mod plan;
pub mod registration;

use self::client::Plugin;
use self::file::Written;
use self::messages::{Grant, PluginOptions};
use self::plan::{Book, Key, Look};
use crate::clock;
use crate::pods::resources::Amounts;
use crate::pods::spec::{self, Role};
use crate::runtime::{Mount, MountPropagation};

/// How long after the agent's start pods wait for plugins that were there before: they register within seconds.
const RETURN_MAX: Duration = Duration::from_secs(30);
/// Where in the folder it is written what was given.
const FILE: &str = "given.json";

/// What a container needs to use its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Variables; the container's own go before them.
    pub env: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices: path on the node, path in the container, permissions.
    pub devices: Vec<(PathBuf, PathBuf, String)>,
    /// Annotations, for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Names of devices that the runtime finds by the Container Device Interface.
    pub cdi: Vec<String>,
}

/// The node's devices. Clones share them.
#[derive(Clone, Default)]
pub struct Devices {
    /// None has none (simulations).
    inner: Option<Arc<Inner>>,
}

struct Inner {
    folder: PathBuf,
    book: Mutex<Book>,
    /// Whose turn it is to write the file.
    writing: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
    began: Instant,
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|times| *times += 1);
    }

    async fn write(self: &Arc<Self>) -> io::Result<()> {
        let _turn = self.writing.lock().await;
        let inner = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            // What is in the book now: whoever waited for his turn writes for those behind him as well.
            let written = Written::of(&inner.book());
            std::fs::create_dir_all(&inner.folder)?;
            written.write(&inner.folder.join(FILE))
        });
        written.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Devices {
    /// The devices whose plugins put their sockets into `folder`; reads what was given by an agent before.
    pub fn open(folder: PathBuf) -> Self {
        let written = Written::read(&folder.join(FILE)).unwrap_or_else(|error| {
            warn!(folder = %folder.display(), %error, "which devices were given is not known");
            Written::default()
        });
        let (kinds, given) = written.into_parts();
        let book = Mutex::new(Book::before(kinds, given, clock::steady()));
        let (writing, changed) = (tokio::sync::Mutex::new(()), watch::channel(0).0);
        Self { inner: Some(Arc::new(Inner { folder, book, writing, changed, began: Instant::now() })) }
    }

    /// Where the sockets are.
    fn folder(&self) -> Option<PathBuf> {
        self.inner.as_ref().map(|inner| inner.folder.clone())
    }

    /// How many devices there are by kind, and how many of them pods can have.
    pub fn amounts(&self) -> (Amounts, Amounts) {
        self.inner.as_ref().map(|inner| inner.book().amounts(clock::steady())).unwrap_or_default()
    }

    /// Tells whenever there are others.
    pub fn changes(&self) -> watch::Receiver<u64> {
        match &self.inner {
            Some(inner) => inner.changed.subscribe(),
            None => watch::channel(0).1,
        }
    }

    async fn connected(&self, resource: &str, plugin: Plugin, options: PluginOptions) -> u64 {
        let Some(inner) = &self.inner else { return 0 };
        let generation = inner.book().connected(resource, plugin, options);
        inner.tell();
        if let Err(error) = inner.write().await {
            warn!(%error, "which devices there are cannot be written down");
        }
        generation
    }

    fn listed(&self, resource: &str, generation: u64, devices: BTreeMap<String, bool>) {
        let Some(inner) = &self.inner else { return };
        if inner.book().listed(resource, generation, devices) {
            inner.tell();
        }
    }

    fn disconnected(&self, resource: &str, generation: u64) {
        let Some(inner) = &self.inner else { return };
        inner.book().disconnected(resource, generation, clock::steady());
        inner.tell();
    }

    /// Gives a pod of which nothing runs the devices that its containers ask for; the error says why it cannot have them. What they
    /// were given before must still be healthy: the machine may have been started again without it.
    pub async fn claim(&self, pod: &Pod) -> Result<(), String> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.wait_for_plugins(pod).await;
        let uid = spec::identity(pod).uid;
        for container in spec::all_containers(pod) {
            for (resource, _) in plan::wanted(container.spec) {
                let (uid, container) = (uid.clone(), container.spec.name.clone());
                inner.book().vouch(&Key { uid, container, resource: resource.to_owned() })?;
            }
        }
        inner.claim(pod).await
    }

    /// What a container needs to use its devices, which are made ready for it.
    pub async fn for_container(&self, pod: &Pod, container: &Container) -> Result<Extras, String> {
        let Some(inner) = &self.inner else { return Ok(Extras::default()) };
        let uid = spec::identity(pod).uid;
        let key =
            |resource: &str| Key { uid: uid.clone(), container: container.name.clone(), resource: resource.to_owned() };
        let ours: Vec<_> = {
            let book = inner.book();
            let wanted = plan::wanted(container).filter(|(resource, wanted)| *wanted > 0 && book.is_ours(resource));
            wanted.map(|(resource, _)| resource).collect()
        };
        let mut grants = Vec::new();
        for resource in ours {
            let prepare = inner.book().to_prepare(resource)?;
            if inner.book().is_suspect(&key(resource)) {
                inner.book().vouch(&key(resource))?;
            }
            let given = |book: &Book| book.given_to(&key(resource)).map(|(ids, grant)| (ids.clone(), grant.clone()));
            let had = given(&inner.book());
            let (ids, grant) = match had {
                Some(had) => had,
                None => {
                    // There was no such plugin when the pod was let in.
                    inner.wait_for_plugins(pod).await;
                    inner.claim(pod).await?;
                    given(&inner.book()).ok_or_else(|| format!("unknown Device Plugin {resource}"))?
                }
            };
            if let Some(plugin) = prepare {
                let failed = |error| format!("device plugin PreStartContainer rpc failed with err: {error}");
                plugin.pre_start(ids.into_iter().collect()).await.map_err(failed)?;
            }
            grants.push(grant);
        }
        Ok(extras(grants))
    }

    /// A pod of which nothing is left gives its devices back.
    pub async fn release(&self, uid: &str) {
        self.retain(|other| other != uid).await;
    }

    /// The same for all pods that are not kept.
    pub async fn retain(&self, keep: impl Fn(&str) -> bool + Send) {
        let Some(inner) = &self.inner else { return };
        let changed = inner.book().retain(keep);
        if changed && let Err(error) = inner.write().await {
            // Until the file is written again, an agent that begins anew takes them for given.
            warn!(%error, "that devices were given back cannot be written down");
        }
    }
}

impl Inner {
    /// Just after the agent's start, plugins that were there before come back.
    async fn wait_for_plugins(&self, pod: &Pod) {
        let awaited = || {
            let book = self.book();
            let mut wanted = spec::all_containers(pod).flat_map(|container| plan::wanted(container.spec));
            wanted.any(|(resource, _)| book.is_awaited(resource))
        };
        let mut changed = self.changed.subscribe();
        let wait = async { while awaited() && changed.changed().await.is_ok() {} };
        let _ = tokio::time::timeout_at(self.began + RETURN_MAX, wait).await;
    }

    /// Gives what is not given yet.
    async fn claim(self: &Arc<Self>, pod: &Pod) -> Result<(), String> {
        let uid = spec::identity(pod).uid;
        // Containers that end before others begin leave them their devices.
        let mut reusable: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for container in spec::init_containers(pod).chain(spec::app_containers(pod)) {
            for (resource, wanted) in plan::wanted(container.spec) {
                let key =
                    Key { uid: uid.clone(), container: container.spec.name.clone(), resource: resource.to_owned() };
                let of_others = reusable.entry(resource).or_default();
                let ids = self.allocate(&key, wanted, of_others).await?;
                match container.role {
                    Role::Init => of_others.extend(ids),
                    _ => of_others.retain(|id| !ids.contains(id)),
                }
            }
        }
        Ok(())
    }

    async fn allocate(
        self: &Arc<Self>,
        key: &Key,
        wanted: usize,
        reusable: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, String> {
        let look = self.book().look(key, wanted, reusable)?;
        let preferred = match look {
            Look::NotOurs => return Ok(BTreeSet::new()),
            Look::Has(ids) => return Ok(ids),
            Look::Choose { ask: None, .. } => Vec::new(),
            Look::Choose { available, reused, ask: Some(plugin) } => {
                let failed = |error| format!("device plugin GetPreferredAllocation rpc failed with err: {error}");
                let preferred = plugin.preferred(Vec::from_iter(available), Vec::from_iter(reused), wanted).await;
                preferred.map_err(failed)?
            }
        };
        let taken = self.book().take(key, wanted, reusable, &preferred)?;
        let Some((plugin, ids)) = taken else { return Ok(BTreeSet::new()) };
        let granted = plugin.allocate(ids.iter().cloned().collect()).await;
        let granted = granted
            .map_err(|error| error.to_string())
            .and_then(|granted| granted.ok_or_else(|| "no containers return in allocation response".to_owned()));
        self.book().confirm(key, granted.as_ref().ok().cloned());
        granted?;
        if let Err(error) = self.write().await {
            self.book().confirm(key, None);
            return Err(format!("failed to write checkpoint file: {error}"));
        }
        Ok(ids)
    }
}

/// What all of a container's kinds of devices need; of two that disagree the first counts.
fn extras(grants: Vec<Grant>) -> Extras {
    let mut extras = Extras::default();
    let mut env = BTreeMap::new();
    for grant in grants {
        for (name, value) in grant.envs {
            env.entry(name).or_insert(value);
        }
        for (name, value) in grant.annotations {
            extras.annotations.entry(name).or_insert(value);
        }
        for mount in grant.mounts {
            let container_path = PathBuf::from(mount.container_path);
            if extras.mounts.iter().any(|other| other.container_path == container_path) {
                continue;
            }
            extras.mounts.push(Mount {
                container_path,
                host_path: mount.host_path.into(),
                read_only: mount.read_only,
                propagation: MountPropagation::None,
            });
        }
        for device in grant.devices {
            let container_path = PathBuf::from(device.container_path);
            if !extras.devices.iter().any(|(_, other, _)| *other == container_path) {
                extras.devices.push((device.host_path.into(), container_path, device.permissions));
            }
        }
        for device in grant.cdi_devices {
            if !extras.cdi.contains(&device.name) {
                extras.cdi.push(device.name);
            }
        }
    }
    extras.env = env.into_iter().collect();
    extras
}

#[cfg(test)]
mod tests {
    use super::messages::{CdiDevice, GrantedDevice, GrantedMount};
    use super::*;

    #[test]
    fn of_what_two_plugins_want_at_one_place_the_first_counts() {
        let grant = |which: &str| Grant {
            envs: [("NAME".to_owned(), which.to_owned()), (which.to_owned(), String::new())].into(),
            mounts: vec![GrantedMount { container_path: "/m".into(), host_path: which.into(), read_only: true }],
            devices: vec![GrantedDevice {
                container_path: "/dev/x".into(),
                host_path: which.into(),
                permissions: "rw".into(),
            }],
            annotations: [("note".to_owned(), which.to_owned())].into(),
            cdi_devices: vec![CdiDevice { name: "v.com/c=1".into() }],
        };
        let extras = extras(vec![grant("A"), grant("B")]);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(extras.env, [pair("A", ""), pair("B", ""), pair("NAME", "A")]);
        assert_eq!(extras.mounts.len(), 1);
        assert_eq!((extras.mounts[0].host_path.to_str(), extras.mounts[0].read_only), (Some("A"), true));
        assert_eq!(extras.devices, [("A".into(), "/dev/x".into(), "rw".to_owned())]);
        assert_eq!(extras.annotations, BTreeMap::from([pair("note", "A")]));
        assert_eq!(extras.cdi, ["v.com/c=1"]);
    }

    #[tokio::test]
    async fn a_node_without_plugins_gives_nothing_and_refuses_nothing() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "x", "resources": {"limits": {"a.b/c": "2"}}}]}}))
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        for devices in [Devices::default(), Devices::open(dir.path().join("none"))] {
            assert_eq!(devices.claim(&pod).await, Ok(()));
            let container = spec::all_containers(&pod).next().unwrap();
            assert_eq!(devices.for_container(&pod, container.spec).await, Ok(Extras::default()));
            assert_eq!(devices.amounts(), Default::default());
        }
    }
}
