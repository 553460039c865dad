//! What is left of pods on a cluster's machine: the check that nothing leaks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::ListRequest;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use futures::TryStreamExt;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{ListContainersRequest, ListPodSandboxRequest};
use serde_json::Value;

use crate::{Cluster, command, eventually};

/// containerd's namespace of what CRI manages.
const NAMESPACE: &str = "k8s.io";
/// How long what is left may take to go, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until a cluster's machine has nothing of pods, as one that never had any.
///
/// # Panics
/// When something stays.
#[track_caller]
pub fn wait_for_nothing(cluster: &Cluster) {
    eventually("the machine to have nothing of pods", PATIENCE, || Left::of(cluster)?.is_nothing());
}

/// What the agent noted down of its containerd.
fn note(cluster: &Cluster, name: &str) -> Result<String, String> {
    let note = std::fs::read(cluster.data_dir().join("containerd/instance.json")).map_err(|error| error.to_string())?;
    let note: Value = serde_json::from_slice(&note).map_err(|error| error.to_string())?;
    note[name].as_str().map(str::to_owned).ok_or_else(|| format!("the agent's note has no {name}: {note}"))
}

/// The folder of the sockets and the state of a cluster's agent.
pub fn run_dir(cluster: &Cluster) -> Result<PathBuf, String> {
    let address = note(cluster, "address")?;
    Ok(Path::new(&address).parent().ok_or("a socket is in a folder")?.to_owned())
}

/// What a cluster's machine has of pods, by where it was found.
#[derive(Debug)]
pub struct Left(BTreeMap<&'static str, Vec<String>>);

impl Left {
    /// Whether there is nothing; else what there is.
    pub fn is_nothing(&self) -> Result<(), String> {
        if self.0.values().all(Vec::is_empty) { Ok(()) } else { Err(format!("{self:#?}")) }
    }

    /// What there is now. An error when the runtime does not answer.
    pub fn of(cluster: &Cluster) -> Result<Self, String> {
        let (data, run) = (cluster.data_dir(), run_dir(cluster)?);
        let mut left = BTreeMap::new();
        left.insert("pods' folders", names(&data.join("pods")));
        left.insert("pods' logs", names(&data.join("logs/pods")));
        let addresses =
            names(&run.join("addresses")).into_iter().flat_map(|network| names(&run.join("addresses").join(network)));
        left.insert("addresses", addresses.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect());
        left.insert("mounts", mounts(&[&data, &run]));
        left.insert("shims", shims(&run.join("containerd.sock")));
        left.insert("cgroups", cgroups(&cluster.cgroup_root()));
        let mut links = cluster.command("ip");
        let links = command::run(links.args(["-o", "link", "show", "type", "veth"]), b"").ok();
        left.insert("links", links.lines().map(str::to_owned).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        left.extend(runtime.block_on(of_runtime(run.join("containerd.sock"), note(cluster, "snapshotter")?))?);
        Ok(Self(left))
    }
}

async fn of_runtime(socket: PathBuf, snapshotter: String) -> Result<BTreeMap<&'static str, Vec<String>>, String> {
    let channel = containerd_client::connect(socket).await.map_err(|error| error.to_string())?;
    let mut cri = RuntimeServiceClient::new(channel.clone());
    let failed = |status: tonic::Status| status.to_string();
    let sandboxes = cri.list_pod_sandbox(ListPodSandboxRequest::default()).await.map_err(failed)?.into_inner().items;
    let containers =
        cri.list_containers(ListContainersRequest::default()).await.map_err(failed)?.into_inner().containers;
    let mut request = tonic::Request::new(ListSnapshotsRequest { snapshotter, ..Default::default() });
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse().map_err(|_| "no namespace")?);
    let snapshots = SnapshotsClient::new(channel.clone()).list(request).await.map_err(failed)?.into_inner();
    let snapshots: Vec<_> = snapshots.try_collect().await.map_err(failed)?;
    let snapshots = snapshots.into_iter().flat_map(|answer| answer.info);
    // Those that are committed belong to images.
    let active = snapshots.filter(|snapshot| snapshot.kind != 3).map(|snapshot| snapshot.name).collect();
    let mut request = tonic::Request::new(ListRequest::default());
    request.metadata_mut().insert("containerd-namespace", NAMESPACE.parse().map_err(|_| "no namespace")?);
    let leases = LeasesClient::new(channel).list(request).await.map_err(failed)?.into_inner().leases;
    let imports = leases.into_iter().map(|lease| lease.id).filter(|id| id.starts_with("gantry-")).collect();
    Ok(BTreeMap::from([
        ("leases", imports),
        ("sandboxes", sandboxes.into_iter().map(|sandbox| sandbox.id).collect()),
        ("containers", containers.into_iter().map(|container| container.id).collect()),
        ("snapshots", active),
    ]))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn mounts(folders: &[&Path]) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells what is mounted");
    let points = all.lines().filter_map(|line| line.split(' ').nth(4));
    points
        // A folder may lie on a disk of its own.
        .filter(|point| {
            folders.iter().any(|folder| Path::new(point).starts_with(folder) && Path::new(point) != *folder)
        })
        .map(str::to_owned)
        .collect()
}

/// Processes that serve containers of this containerd: its socket is on their command line.
fn shims(socket: &Path) -> Vec<String> {
    let socket = socket.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for pid in names(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok()) {
        let line = std::fs::read(Path::new("/proc").join(&pid).join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("containerd-shim") && line.contains(&socket) {
            found.push(format!("{pid} {line}"));
        }
    }
    found
}

/// The folders of pods below a cgroup, in every hierarchy.
fn cgroups(root: &str) -> Vec<String> {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = names(base).into_iter().map(|name| base.join(name)).chain([base.to_owned()]);
    let below = |folder: PathBuf| names(&folder).into_iter().map(move |name| folder.join(name)).collect::<Vec<_>>();
    let root = root.trim_start_matches('/').to_owned();
    let instances = hierarchies.flat_map(|hierarchy| below(hierarchy.join(&root)));
    let pods = instances.filter(|path| path.is_dir()).flat_map(below);
    let pods = pods.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod")));
    pods.map(|path| path.display().to_string()).collect()
}
