//! What the benches that run pods have in common: the server, pods from their creation to Ready, and the bare runtime.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest, SecurityProfile,
    StartContainerRequest, StopPodSandboxRequest,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Config};
use serde_json::json;
use tonic::transport::Channel;

/// A result of a bench.
pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// What the containers run.
pub const IMAGE: &str = "gantry.local/busybox:1.35";
/// How.
pub const COMMAND: [&str; 3] = ["sh", "-c", "trap exit TERM; while :; do sleep 0.2; done"];

/// Where the server of a bench listens.
pub const LISTEN: &str = "127.0.0.1:16443";
/// The same for its clients.
pub const URL: &str = "https://127.0.0.1:16443";

/// A process of Gantry.
pub struct Server {
    child: Child,
    data_dir: PathBuf,
}

impl Server {
    /// Starts `gantry up`.
    pub fn start(gantry: &Path, data_dir: &Path, flags: &[&str]) -> Result<Self> {
        const UP: [&str; 7] = ["up", "--listen", LISTEN, "--agent-listen", "127.0.0.1:0", "--node-name", "bench"];
        Self::run(gantry, data_dir, &[&UP, flags].concat())
    }

    /// Starts any command that takes a data directory.
    pub fn run(gantry: &Path, data_dir: &Path, arguments: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(data_dir)?;
        let log = format!("{}.log", arguments.first().copied().unwrap_or("gantry"));
        let log = std::fs::File::options().create(true).append(true).open(data_dir.join(log))?;
        let mut command = Command::new(gantry);
        command.args(arguments).arg("--data-dir").arg(data_dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: command.spawn()?, data_dir: data_dir.to_path_buf() })
    }

    /// The administrator's client, once the server is ready.
    pub async fn client(&mut self) -> Result<Client> {
        let file = self.data_dir.join("admin.kubeconfig");
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("gantry ended: {status}; see the logs in {}", self.data_dir.display()).into());
            }
            if let Ok(kubeconfig) = kube::config::Kubeconfig::read_from(&file) {
                let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
                let client = Client::try_from(config)?;
                if client.request_text(http::Request::get("/readyz").body(Vec::new())?).await.is_ok() {
                    return Ok(client);
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Memory that it occupies, in MiB, with as much of the program itself as is in memory.
    pub fn resident_mib(&self) -> Result<f64> {
        self.memory_mib("VmRSS:")
    }

    /// Memory that is its alone, in MiB: what would not be there without it. The program's pages are shared by all processes
    /// that run it, and can be read again.
    pub fn own_mib(&self) -> Result<f64> {
        self.memory_mib("RssAnon:")
    }

    fn memory_mib(&self, field: &'static str) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or(field)?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    /// Processor time that it has used.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        // The kernel tells it in hundredths of a second, whatever it counts in.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Ends it in order.
    pub fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` the process is gone and this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the node takes pods.
pub async fn node_ready(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if let Some(node) = nodes.get_opt("bench").await? {
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            let tainted = node.spec.and_then(|spec| spec.taints).is_some_and(|taints| !taints.is_empty());
            if !tainted && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the node did not get ready within 60 s".into())
}

/// A pod of one container.
pub fn pod(name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "command": COMMAND}],
        },
    }))?)
}

/// Whether a pod is Ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Milliseconds from sending the create to seeing the Ready condition; the pod is deleted afterwards.
pub async fn pod_to_ready(client: &Client, name: &str) -> Result<f64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = pod(name)?;
    let version = pods.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let watch = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = pods.watch(&watch, &version).await?.boxed();
    let start = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    while let Some(event) = events.try_next().await? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        if is_ready(&pod) {
            let elapsed = start.elapsed();
            pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
            while let Some(event) = events.try_next().await? {
                if matches!(event, WatchEvent::Deleted(_)) {
                    break;
                }
            }
            // The agent takes the sandbox down after the object is gone; the next measurement must not share the machine with that.
            tokio::time::sleep(Duration::from_millis(400)).await;
            return Ok(elapsed.as_secs_f64() * 1e3);
        }
    }
    Err("the watch ended before the pod was ready".into())
}

/// Milliseconds that the runtime takes for the sandbox, the container and its start; both are removed afterwards.
pub async fn bare_start(cri: &mut RuntimeServiceClient<Channel>, name: &str) -> Result<f64> {
    let start = Instant::now();
    let id = bare_run(cri, name).await?;
    let elapsed = start.elapsed();
    bare_remove(cri, name, id).await?;
    Ok(elapsed.as_secs_f64() * 1e3)
}

/// Makes a sandbox and starts a container in it; returns the sandbox's id.
pub async fn bare_run(cri: &mut RuntimeServiceClient<Channel>, name: &str) -> Result<String> {
    let namespaces = || NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    };
    // As the agent asks for it: Kubernetes leaves it out, which the runtime takes for no filter at all.
    let seccomp = || SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), ..Default::default() };
    let sandbox = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: name.into(),
            namespace: "bare".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: "/tmp".into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("/gantry-bench/{name}"),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(seccomp()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: COMMAND.map(String::from).to_vec(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                seccomp: Some(seccomp()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
    let id = cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let request =
        CreateContainerRequest { pod_sandbox_id: id.clone(), config: Some(container), sandbox_config: Some(sandbox) };
    let container_id = cri.create_container(request).await?.into_inner().container_id;
    cri.start_container(StartContainerRequest { container_id }).await?;
    Ok(id)
}

/// Removes what [`bare_run`] made.
pub async fn bare_remove(cri: &mut RuntimeServiceClient<Channel>, name: &str, id: String) -> Result<()> {
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        // Only some of the hierarchies have it, and a process on its way out can hold it: a later reset takes what stays.
        let _ = std::fs::remove_dir(hierarchy.path().join("gantry-bench").join(name));
    }
    let _ = std::fs::remove_file(format!("/tmp/{name}.log"));
    Ok(())
}

/// The socket of the containerd that the agent of `data_dir` supervises, from the agent's own note of it.
pub fn containerd_socket(data_dir: &Path) -> Result<PathBuf> {
    let note = std::fs::read(data_dir.join("containerd").join("instance.json"))?;
    let note: serde_json::Value = serde_json::from_slice(&note)?;
    Ok(note["address"].as_str().ok_or("no address in the agent's note")?.into())
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
