//! Where the agent keeps things below its data directory. In: the directory. Out: paths; nothing is touched here.

use std::path::{Path, PathBuf};

use crate::runtime::PodIdentity;

/// The layout of the data directory.
#[derive(Clone, Debug)]
pub struct Paths {
    data_dir: PathBuf,
}

impl Paths {
    /// The layout below `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into() }
    }

    /// The directory itself.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Image archives which are imported at start.
    pub fn images(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// Notes of who may use which image.
    pub fn image_manager(&self) -> PathBuf {
        self.data_dir.join("image_manager")
    }

    /// What the node starts its pods from when there is no API server to ask.
    pub fn checkpoint(&self) -> PathBuf {
        self.data_dir.join("checkpoint")
    }

    /// Folders of all pods: one a UID.
    pub fn pods(&self) -> PathBuf {
        self.data_dir.join("pods")
    }

    /// A pod's folder: volumes, hosts file, termination logs.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// Notes of a pod's containers whose start has begun and not ended, by the runtime's id.
    pub fn starting(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("starting")
    }

    /// Records of a pod's volumes that come from elsewhere.
    pub fn claims(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("claims")
    }

    /// Notes of which images a pod's volumes are, by the volume's name.
    pub fn image_volumes(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("image-volumes")
    }

    /// Links to the devices among a pod's volumes, by the volume's name.
    pub fn devices(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("volume-devices")
    }

    /// Sockets of plugins that want to be found.
    pub fn plugins_registry(&self) -> PathBuf {
        self.data_dir.join("plugins_registry")
    }

    /// Sockets of device plugins, and which devices were given to whom.
    pub fn device_plugins(&self) -> PathBuf {
        self.data_dir.join("device-plugins")
    }

    /// What storage drivers were told to use for volumes that are no single pod's.
    pub fn drivers(&self) -> PathBuf {
        self.data_dir.join("plugins").join("kubernetes.io").join("csi")
    }

    /// Logs of all pods.
    pub fn pod_logs(&self) -> PathBuf {
        self.data_dir.join("logs").join("pods")
    }

    /// Folder of a pod's logs, the runtime's `log_directory`.
    pub fn pod_log_dir(&self, pod: &PodIdentity) -> PathBuf {
        self.pod_logs().join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }

    /// A container's log below [`Self::pod_log_dir`].
    pub fn container_log(container: &str, restarts: u32) -> PathBuf {
        Path::new(container).join(format!("{restarts}.log"))
    }
}
