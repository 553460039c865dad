//! A node for one test: own network namespace, own folder, own cgroup root.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_node_agent::runtime::containerd::{self, ContainerdOptions, Started};
use gantry_node_agent::runtime::instance::Instance;
use gantry_node_agent::runtime::oci::{ImageConfig, Layer, write_archive};
use gantry_node_agent::runtime::{
    ContainerConfig, ContainerState, LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID,
    PodIdentity, Runtime, SandboxConfig,
};
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine; what is stuck stays so.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// Set for the process that runs a test's body: the data directory of its node.
const DATA: &str = "GANTRY_TEST_DATA";
const BUSYBOX: &str = "/bin/busybox";
/// The image that [`Node::start`] brings along.
pub const IMAGE: &str = "gantry.local/busybox:test";
/// The pod CIDR of every test's node.
pub const POD_CIDR: &str = "10.245.7.0/24";

/// Runs the test body in a process of its own whose network namespace is its own too.
pub fn isolated<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if let Some(missing) = missing() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
        eprintln!("skipped: {missing}");
        return;
    }
    if std::env::var_os(DATA).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(body());
    }
    let data = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(DATA, data.path())
        .status()
        .unwrap();
    if !status.success() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(containerd::shutdown_everything(data.path())).unwrap();
    }
    assert!(status.success(), "{name} failed in its namespace");
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("tests with containers need root".to_owned());
    }
    let programs = [
        ("containerd", "containerd"),
        ("runc", "runc"),
        ("nft", "nftables"),
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
    ];
    for (program, package) in programs {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/usr/local/sbin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).exists());
        if !found {
            return Some(format!("{program} is missing (Debian: apt-get install {package})"));
        }
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("a static busybox is missing (Debian: apt-get install busybox-static)".to_owned());
    }
    None
}

/// A node with a containerd of its own.
pub struct Node {
    /// Its data directory.
    pub data: PathBuf,
    /// Its cgroup root.
    pub cgroup_root: String,
    /// Its runtime.
    pub runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
    supervisor: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Starts a node that has the image and a pod network.
    pub async fn start() -> Self {
        let data = PathBuf::from(std::env::var_os(DATA).unwrap());
        let cgroup_root = format!("/gantry-test-{}", std::process::id());
        let (started, shutdown) = Self::start_runtime(&data, &cgroup_root).await;
        let node = Self { data, cgroup_root, runtime: started.runtime, shutdown, supervisor: started.supervisor };
        let archive = node.data.join("busybox.tar");
        write_busybox(&archive);
        node.runtime.import_image(&archive).await.unwrap();
        node.runtime.set_pod_cidrs(&[POD_CIDR.to_owned()]).await.unwrap();
        node
    }

    async fn start_runtime(data: &Path, cgroup_root: &str) -> (Started, CancellationToken) {
        let shutdown = CancellationToken::new();
        let options = ContainerdOptions {
            address: None,
            data_dir: data.to_path_buf(),
            node_name: "test".to_owned(),
            cgroup_root: cgroup_root.to_owned(),
            stop_patience: STOP_PATIENCE,
        };
        let started = containerd::start(options, shutdown.child_token()).await.unwrap();
        (started, shutdown)
    }

    /// Ends the agent's part and starts it again, as a restarted agent does.
    pub async fn restart_agent(self) -> Self {
        self.shutdown.cancel();
        self.supervisor.await.unwrap();
        let (started, shutdown) = Self::start_runtime(&self.data, &self.cgroup_root).await;
        Self { runtime: started.runtime, supervisor: started.supervisor, shutdown, ..self }
    }

    /// The names and places of this node.
    pub fn instance(&self) -> Instance {
        Instance::of(&self.data).unwrap()
    }

    /// The pid of this node's containerd.
    pub fn containerd_pid(&self) -> u32 {
        let file = self.instance().run_dir().join("containerd.pid");
        std::fs::read_to_string(file).unwrap().parse().unwrap()
    }

    /// A sandbox configuration for a pod of that name; its folders exist.
    pub fn sandbox(&self, name: &str) -> SandboxConfig {
        let uid = format!("uid-{name}");
        let log_directory = self.data.join("logs").join(name);
        std::fs::create_dir_all(&log_directory).unwrap();
        std::fs::create_dir_all(self.data.join("pods").join(&uid)).unwrap();
        SandboxConfig {
            pod: PodIdentity { uid: uid.clone(), name: name.to_owned(), namespace: "test".to_owned() },
            hostname: name.to_owned(),
            log_directory,
            labels: labels(name, &uid),
            cgroup_parent: format!("{}/pod{uid}", self.cgroup_root),
            ..Default::default()
        }
    }

    /// A container that runs a shell script.
    pub fn container(&self, sandbox: &SandboxConfig, name: &str, script: &str) -> ContainerConfig {
        let mut labels = sandbox.labels.clone();
        labels.insert(LABEL_CONTAINER_NAME.to_owned(), name.to_owned());
        std::fs::create_dir_all(sandbox.log_directory.join(name)).unwrap();
        ContainerConfig {
            name: name.to_owned(),
            image: IMAGE.to_owned(),
            image_ref: IMAGE.to_owned(),
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            labels,
            log_path: PathBuf::from(name).join("0.log"),
            ..Default::default()
        }
    }

    /// Runs a pod with one container; returns the ids of sandbox and container.
    pub async fn run_pod(&self, name: &str, script: &str) -> (String, String) {
        let sandbox = self.sandbox(name);
        let sandbox_id = self.runtime.run_sandbox(&sandbox).await.unwrap();
        let container = self.container(&sandbox, "main", script);
        let id = self.runtime.create_container(&sandbox_id, &container, &sandbox).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        (sandbox_id, id)
    }

    /// Waits until the container has ended.
    pub async fn wait_for_exit(&self, container: &str) {
        eventually("the container ends", || async {
            self.runtime.container(container).await.unwrap().state == ContainerState::Exited
        })
        .await;
    }

    /// Takes the node down and checks that nothing of it is left.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        (&mut self.supervisor).await.unwrap();
        let instance = self.instance();
        let pid = self.containerd_pid();
        containerd::shutdown_everything(&self.data).await.unwrap();
        assert!(!instance.run_dir().exists(), "the run folder is left");
        eventually("containerd is gone", || async { is_gone(pid) }).await;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data.to_str().unwrap();
        assert!(!mounts.contains(data), "mounts are left");
        assert!(!mounts.contains(instance.run_dir().to_str().unwrap()), "mounts are left");
        let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
        let links = String::from_utf8(links.stdout).unwrap();
        assert!(!links.contains(&instance.bridge()), "the bridge is left: {links}");
        assert!(cgroups_named(&self.cgroup_root).is_empty(), "cgroups are left");
        let socket = instance.socket();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            assert!(!command.contains(socket.to_str().unwrap()), "left running: {command}");
        }
    }
}

fn is_gone(pid: u32) -> bool {
    // A zombie has ended too: its parent is this very process.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

/// Folders of that absolute cgroup in any hierarchy.
pub fn cgroups_named(cgroup: &str) -> Vec<PathBuf> {
    let relative = cgroup.trim_start_matches('/');
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    if let Ok(entries) = std::fs::read_dir("/sys/fs/cgroup") {
        folders.extend(entries.flatten().map(|entry| entry.path()));
    }
    folders.into_iter().map(|folder| folder.join(relative)).filter(|folder| folder.exists()).collect()
}

fn labels(name: &str, uid: &str) -> std::collections::BTreeMap<String, String> {
    [(LABEL_POD_NAME, name), (LABEL_POD_NAMESPACE, "test"), (LABEL_POD_UID, uid)]
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .into()
}

/// An image archive with busybox and its commands.
pub fn write_busybox(path: &Path) {
    let mut layer = Layer::new();
    layer.directory("bin", 0o755).unwrap();
    layer.directory("tmp", 0o1777).unwrap();
    layer.directory("etc", 0o755).unwrap();
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n").unwrap();
    layer.file("bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap()).unwrap();
    for command in [
        "sh", "cat", "echo", "sleep", "ls", "true", "false", "id", "nc", "wget", "httpd", "tar", "wc", "head", "stty",
        "env",
    ] {
        layer.symlink(&format!("bin/{command}"), "busybox").unwrap();
    }
    let config =
        ImageConfig { env: vec!["PATH=/bin".to_owned()], cmd: vec!["/bin/sh".to_owned()], ..Default::default() };
    let file = std::fs::File::create(path).unwrap();
    write_archive(file, IMAGE, &config, &[layer.into_bytes().unwrap()]).unwrap();
}

/// Asks again and again, for ten seconds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
