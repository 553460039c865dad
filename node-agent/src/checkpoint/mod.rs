//! What the node needs to start its pods when there is no API server to ask, kept on its disk.
//!
//! ```text
//!   pods of this node, ConfigMaps, Secrets, claims, ─▶ keep ─▶ plan::Kept ─▶ writer ─▶ DATA_DIR/checkpoint
//!   volumes, drivers, tokens, the Node               ◀─ find ◀──────────────────────────┘
//! ```
//!
//! Nobody waits for the disk: what has changed is written a moment later, all of it together, and each thing once. What a
//! power cut takes from that is known to the API server, and only the API server's word counts where it can be had.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeStatus, Pod};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

mod disk;
mod plan;

pub use plan::{Key, Kind};

/// Changes of so long are written together.
const GATHER: Duration = Duration::from_millis(500);
/// How soon it is tried again when the disk did not take them.
const RETRY: Duration = Duration::from_secs(10);
/// How long the API server is asked for what is kept as well, before what is kept is used.
const ASK_MAX: Duration = Duration::from_secs(5);
/// How long the API server may say nothing before the node begins with what is kept.
pub const WAIT: Duration = Duration::from_secs(10);

/// Whether an error says that the API server is not there, rather than what it thinks.
pub fn is_away(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

struct Inner {
    root: PathBuf,
    kept: Mutex<plan::Kept>,
    changed: Notify,
}

/// A handle to what is kept.
#[derive(Clone)]
pub struct Checkpoint {
    /// None keeps nothing (simulations).
    inner: Option<Arc<Inner>>,
}

impl Checkpoint {
    /// One that keeps nothing.
    pub fn none() -> Self {
        Self { inner: None }
    }

    /// What is kept below `root`; reads all of it.
    pub fn open(root: PathBuf, node_name: &str) -> std::io::Result<Self> {
        disk::prepare(&root)?;
        let mut kept = plan::Kept::new(plan::Place { node_name: node_name.to_owned() });
        let mut broken = Vec::new();
        for (key, bytes) in disk::scan(&root)? {
            match serde_json::from_slice::<Value>(&bytes) {
                Ok(value) => kept.found(key, &value),
                Err(error) => {
                    warn!(file = %disk::path(&root, &key).display(), %error, "a file of the checkpoint is no use");
                    broken.push((key, None));
                }
            }
        }
        disk::write(&root, &broken)?;
        Ok(Self { inner: Some(Arc::new(Inner { root, kept: Mutex::new(kept), changed: Notify::new() })) })
    }

    /// Keeps something as it is now.
    pub fn keep(&self, key: Key, value: &impl Serialize) {
        let Some(inner) = &self.inner else { return };
        match serde_json::to_value(value) {
            Ok(value) => {
                if inner.kept().keep(key, &value) {
                    inner.changed.notify_one();
                }
            }
            Err(error) => warn!(?key, %error, "cannot be kept"),
        }
    }

    /// Keeps an object of the API as it was just read: if it was not there, not at all.
    pub fn keep_read<K>(&self, key: Key, object: Option<&K>)
    where
        K: kube::Resource<DynamicType = ()> + Serialize,
    {
        let Some(inner) = &self.inner else { return };
        let Some(object) = object else { return self.forget(&key) };
        let meta = object.meta();
        if let Some(version) = &meta.resource_version {
            let look = format!("{}/{version}", meta.uid.as_deref().unwrap_or_default());
            if inner.kept().has(&key, Some(&look)) {
                return;
            }
        }
        self.keep(key, object);
    }

    /// Keeps something no more.
    pub fn forget(&self, key: &Key) {
        let Some(inner) = &self.inner else { return };
        if inner.kept().forget(key) {
            inner.changed.notify_one();
        }
    }

    /// Keeps a pod that is to run here.
    pub fn keep_pod(&self, pod: &Pod) {
        if self.inner.is_some()
            && let Some(uid) = pod.metadata.uid.as_deref()
        {
            self.keep(Key::cluster(Kind::Pod, uid), &plan::essence(pod));
        }
    }

    /// Keeps a pod no more.
    pub fn forget_pod(&self, uid: &str) {
        self.forget(&Key::cluster(Kind::Pod, uid));
    }

    /// Of the pods, keeps only these.
    pub fn retain_pods(&self, keep: impl Fn(&str) -> bool) {
        let Some(inner) = &self.inner else { return };
        let pods = inner.kept().all(Kind::Pod);
        for key in pods.iter().filter(|key| !keep(&key.name)) {
            self.forget(key);
        }
    }

    /// Keeps the Node, but for how it is.
    pub fn keep_node(&self, node: &Node) {
        let mut node = node.clone();
        node.metadata.managed_fields = None;
        node.metadata.resource_version = None;
        // What the runtime can do decides which pods are let in, also before it is asked anew.
        let features = node.status.take().and_then(|status| status.features);
        node.status = features.map(|features| NodeStatus { features: Some(features), ..NodeStatus::default() });
        let name = node.metadata.name.clone().unwrap_or_default();
        self.keep(Key::cluster(Kind::Node, &name), &node);
    }

    /// What is kept under a key.
    pub async fn find<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        let inner = self.inner.as_ref()?;
        let unwritten = {
            let kept = inner.kept();
            if !kept.has(key, None) {
                return None;
            }
            kept.unwritten(key).map(<[u8]>::to_vec)
        };
        let bytes = match unwritten {
            Some(bytes) => bytes,
            None => tokio::fs::read(disk::path(&inner.root, key)).await.ok()?,
        };
        serde_json::from_slice(&bytes).ok()
    }

    /// The pods that are kept.
    pub async fn pods(&self) -> Vec<Pod> {
        let keys = self.inner.as_ref().map(|inner| inner.kept().all(Kind::Pod)).unwrap_or_default();
        let mut pods = Vec::with_capacity(keys.len());
        for key in keys {
            pods.extend(self.find::<Pod>(&key).await);
        }
        pods
    }

    /// The answer of the API server, or what is kept while it is away. What it answers is kept.
    pub async fn read<K>(
        &self,
        key: Key,
        ask: impl Future<Output = Result<Option<K>, kube::Error>>,
    ) -> Result<Option<K>, kube::Error>
    where
        K: kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let kept = self.inner.as_ref().is_some_and(|inner| inner.kept().has(&key, None));
        if !kept {
            let found = ask.await?;
            if found.is_some() {
                self.keep_read(key, found.as_ref());
            }
            return Ok(found);
        }
        tokio::pin!(ask);
        let answer = tokio::time::timeout(ASK_MAX, &mut ask).await;
        match answer {
            Ok(Ok(found)) => {
                self.keep_read(key, found.as_ref());
                Ok(found)
            }
            Ok(Err(error)) if !is_away(&error) => Err(error),
            Ok(Err(error)) => self.find(&key).await.map(Some).ok_or(error),
            Err(_) => match self.find(&key).await {
                Some(found) => Ok(Some(found)),
                None => ask.await,
            },
        }
    }

    /// Writes what changes until shutdown, and then what is left.
    pub async fn write(self, stop: CancellationToken) {
        let Some(inner) = self.inner else { return stop.cancelled().await };
        let mut failing = false;
        loop {
            let stopped = stop.run_until_cancelled(inner.changed.notified()).await.is_none();
            if !stopped {
                tokio::time::sleep(GATHER).await;
            }
            let written = inner.clone().write_changes().await;
            if let Err(error) = &written {
                if !failing {
                    warn!(%error, "cannot write the checkpoint");
                }
                debug!(%error, "cannot write the checkpoint");
            }
            failing = written.is_err();
            if stopped {
                return;
            }
            if failing {
                inner.changed.notify_one();
                stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
            }
        }
    }
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, plan::Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_changes(self: Arc<Self>) -> std::io::Result<()> {
        let changes = self.kept().take_changes();
        if changes.is_empty() {
            return Ok(());
        }
        let inner = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let result = disk::write(&inner.root, &changes);
            (changes, result)
        });
        let (changes, result) = work.await.map_err(std::io::Error::other)?;
        if result.is_err() {
            self.kept().put_back(changes);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod() -> Pod {
        object(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7"}, "spec": {
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]}]}}))
    }

    fn map(version: &str, value: &str) -> ConfigMap {
        object(json!({"metadata": {"name": "m", "namespace": "ns", "uid": "m", "resourceVersion": version},
            "data": {"k": value}}))
    }

    fn away() -> kube::Error {
        kube::Error::Service("connection refused".into())
    }

    fn refused(code: u16) -> kube::Error {
        let status = kube::core::Status { code, ..kube::core::Status::default() };
        kube::Error::Api(Box::new(status))
    }

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart_and_only_while_the_api_server_is_away() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("checkpoint");
        let key = Key::of(Kind::ConfigMap, "ns", "m");
        let stop = CancellationToken::new();
        {
            let checkpoint = Checkpoint::open(root.clone(), "n").unwrap();
            checkpoint.keep_pod(&pod());
            let read = checkpoint.read(key.clone(), async { Ok(Some(map("1", "old"))) }).await.unwrap();
            assert_eq!(read, Some(map("1", "old")));
            stop.cancel();
            checkpoint.write(stop.clone()).await;
        }
        let checkpoint = Checkpoint::open(root, "n").unwrap();
        assert_eq!(checkpoint.pods().await.len(), 1);
        let read = checkpoint.read(key.clone(), async { Err(away()) }).await.unwrap();
        assert_eq!(read, Some(map("1", "old")));
        assert!(checkpoint.read::<ConfigMap>(key.clone(), async { Err(refused(503)) }).await.unwrap().is_some());
        let forbidden = checkpoint.read::<ConfigMap>(key.clone(), async { Err(refused(403)) }).await;
        assert!(forbidden.is_err(), "its word counts");
        let newer = checkpoint.read(key.clone(), async { Ok(Some(map("2", "new"))) }).await.unwrap();
        assert_eq!(newer, Some(map("2", "new")));
        let read = checkpoint.read(key.clone(), async { Err(away()) }).await.unwrap();
        assert_eq!(read, Some(map("2", "new")), "before it is written too");
        assert_eq!(checkpoint.read::<ConfigMap>(key.clone(), async { Ok(None) }).await.unwrap(), None);
        assert!(checkpoint.read::<ConfigMap>(key, async { Err(away()) }).await.is_err(), "it is no more");
        checkpoint.retain_pods(|_| false);
        assert!(checkpoint.pods().await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_says_nothing_is_not_waited_for_when_there_is_something_else() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(dir.path().join("checkpoint"), "n").unwrap();
        let key = Key::of(Kind::ConfigMap, "ns", "m");
        checkpoint.keep_pod(&pod());
        checkpoint.keep_read(key.clone(), Some(&map("1", "old")));
        let silent = std::future::pending::<Result<Option<ConfigMap>, kube::Error>>();
        assert_eq!(checkpoint.read(key, silent).await.unwrap(), Some(map("1", "old")));
    }

    #[tokio::test]
    async fn a_file_that_is_no_use_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("checkpoint");
        let folder = root.join("pods").join("-");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("u"), "{").unwrap();
        let checkpoint = Checkpoint::open(root, "n").unwrap();
        assert!(checkpoint.pods().await.is_empty());
        assert!(!folder.join("u").exists());
    }
}
