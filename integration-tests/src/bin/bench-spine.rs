//! `cargo xtask bench spine`: what a pod costs from its creation to Ready beside what the bare runtime takes for the same
//! sandbox, container and start, on the same containerd in the same run; how long the server takes to be ready; and what
//! it occupies when idle.
//!
//! Pods and bare containers take turns, so that a machine whose speed drifts slows both. The figures are medians.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::error::Error;
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

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const IMAGE: &str = "gantry.local/busybox:1.35";
const COMMAND: [&str; 3] = ["sh", "-c", "trap exit TERM; while :; do sleep 0.2; done"];

fn main() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let gantry = PathBuf::from(std::env::var("GANTRY_BINARY")?);
    let data_dir = PathBuf::from(std::env::var("GANTRY_DATA_DIR")?);
    let rounds: usize = std::env::var("GANTRY_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);

    let mut first = Vec::new();
    let mut again = Vec::new();
    for round in 0..5 {
        let fresh = data_dir.join(format!("start-{round}"));
        first.push(time_to_ready(&gantry, &fresh).await?);
        again.push(time_to_ready(&gantry, &fresh).await?);
    }
    println!(
        "start to /readyz, median of 5: {:.0} ms on a fresh data directory, {:.0} ms on one in use",
        median(&mut first),
        median(&mut again)
    );

    let mut server = Server::start(&gantry, &data_dir, &["--cgroup-root", "/gantry-bench"])?;
    let client = server.client().await?;
    node_ready(&client).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    println!("idle memory of `gantry up`, all parts, no pods: {:.1} MiB resident", server.resident_mib()?);

    let mut cri = RuntimeServiceClient::new(containerd_client::connect(containerd_socket(&data_dir)?).await?);
    let (mut pods, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let pod = pod_to_ready(&client, &format!("bench-{round}")).await?;
        let container = bare_start(&mut cri, &format!("bare-{round}")).await?;
        if round > 0 {
            // The first round warms both.
            pods.push(pod);
            bare.push(container);
        }
    }
    let (pod, bare) = (median(&mut pods), median(&mut bare));
    println!("one pod from create to Ready, median of {rounds}: {pod:.0} ms");
    println!("sandbox + create + start by the same containerd: {bare:.0} ms");
    println!("ratio: {:.2}", pod / bare);
    println!("memory after {} pods came and went: {:.1} MiB resident", rounds + 1, server.resident_mib()?);
    server.stop()?;
    Ok(())
}

struct Server {
    child: Child,
    data_dir: PathBuf,
}

impl Server {
    fn start(gantry: &Path, data_dir: &Path, flags: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(data_dir)?;
        let log = std::fs::File::options().create(true).append(true).open(data_dir.join("gantry.log"))?;
        let mut command = Command::new(gantry);
        command.args([
            "up",
            "--listen",
            "127.0.0.1:16443",
            "--agent-listen",
            "127.0.0.1:0",
            "--node-name",
            "bench",
            "--data-dir",
        ]);
        command.arg(data_dir).args(flags).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: command.spawn()?, data_dir: data_dir.to_path_buf() })
    }

    async fn client(&mut self) -> Result<Client> {
        let file = self.data_dir.join("admin.kubeconfig");
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(
                    format!("gantry ended: {status}; see {}", self.data_dir.join("gantry.log").display()).into()
                );
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

    fn resident_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    fn stop(mut self) -> Result<()> {
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

async fn time_to_ready(gantry: &Path, data_dir: &Path) -> Result<f64> {
    let start = Instant::now();
    let mut server = Server::start(gantry, data_dir, &["--no-agent"])?;
    server.client().await?;
    let elapsed = start.elapsed();
    server.stop()?;
    Ok(elapsed.as_secs_f64() * 1e3)
}

async fn node_ready(client: &Client) -> Result<()> {
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

/// Milliseconds from sending the create to seeing the Ready condition; the pod is deleted afterwards.
async fn pod_to_ready(client: &Client, name: &str) -> Result<f64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "command": COMMAND}],
        },
    }))?;
    let version = pods.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
    let watch = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = pods.watch(&watch, &version).await?.boxed();
    let start = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    while let Some(event) = events.try_next().await? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
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
async fn bare_start(cri: &mut RuntimeServiceClient<Channel>, name: &str) -> Result<f64> {
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
    let start = Instant::now();
    let request = RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
    let id = cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let request =
        CreateContainerRequest { pod_sandbox_id: id.clone(), config: Some(container), sandbox_config: Some(sandbox) };
    let container_id = cri.create_container(request).await?.into_inner().container_id;
    cri.start_container(StartContainerRequest { container_id }).await?;
    let elapsed = start.elapsed();
    cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
    cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        // Only some of the hierarchies have it, and a process on its way out can hold it: a later reset takes what stays.
        let _ = std::fs::remove_dir(hierarchy.path().join("gantry-bench").join(name));
    }
    let _ = std::fs::remove_file(format!("/tmp/{name}.log"));
    Ok(elapsed.as_secs_f64() * 1e3)
}

/// The socket of the containerd that the agent of `data_dir` supervises, from the agent's own note of it.
fn containerd_socket(data_dir: &Path) -> Result<PathBuf> {
    let note = std::fs::read(data_dir.join("containerd").join("instance.json"))?;
    let note: serde_json::Value = serde_json::from_slice(&note)?;
    Ok(note["address"].as_str().ok_or("no address in the agent's note")?.into())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}
