//! Takes down everything that an agent set up on its machine.
//!
//! In: the agent's data directory; the agent itself has ended. Out: no pod, no containerd,
//! no mount, cgroup, link or table of that instance is left; images and logs are still there.
//! Works with whatever is found: a containerd that runs is asked to stop its pods, one that
//! died is started for that, and where there is none left, processes are found by the socket
//! that they were given.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use rustix::mount::{UnmountFlags, unmount};
use tokio_util::sync::CancellationToken;

use super::lock::Lock;
use super::process::{Process, find_program};
use super::{END_TIME_MAX, config_path, failed, mounts_below, pid_file, shims, wait_until_ready};
use crate::Paths;
use crate::linux::{cgroups, netlink, services};
use crate::pods::volumes::image;
use crate::runtime::cri::{CriOptions, CriRuntime};
use crate::runtime::instance::{Instance, Record};
use crate::runtime::{Result, Runtime, RuntimeError};

/// Pods that are stopped at the same time; more would only wait for each other.
const PODS_AT_ONCE: usize = 8;
/// How long one pod may take to go.
const POD_TIME_MAX: Duration = Duration::from_secs(30);

/// Stops all pods of the instance, its containerd and its network, and removes what they left.
pub async fn shutdown_everything(data_dir: &Path) -> Result<()> {
    if !data_dir.exists() {
        return Ok(());
    }
    let instance = Instance::of(data_dir).map_err(failed("cannot use the data directory"))?;
    let _lock = Lock::take(&instance).await.map_err(RuntimeError::Failed)?;
    let record = instance.read_record().unwrap_or_else(|_| Record {
        address: instance.socket(),
        own: true,
        snapshotter: String::new(),
        cgroup_root: "/gantry".to_owned(),
    });
    let mut process = Process::find(&config_path(&instance), &pid_file(&instance));
    if record.own && process.is_none() && instance.state_dir().exists() {
        process = respawn(&instance);
    }
    if process.is_some() || !record.own {
        let shutdown = CancellationToken::new();
        let options = CriOptions { snapshotter: record.snapshotter.clone(), ..CriOptions::default() };
        let runtime = CriRuntime::new(&record.address, options, shutdown.child_token());
        let _cancelled_at_the_end = shutdown.drop_guard();
        match wait_until_ready(&runtime, None).await {
            Ok(()) => {
                remove_pods(&runtime, &instance).await;
                if !record.own {
                    unmount_below(std::slice::from_ref(&instance.data_dir))?;
                    remove_views(&runtime, data_dir, &instance).await;
                }
            }
            Err(error) => tracing::warn!(%error, "containerd does not answer; its pods are killed"),
        }
    }
    if let Some(process) = process {
        process.end(END_TIME_MAX).await;
    }
    if record.own {
        shims::kill(&record.address, None);
    }
    remove_cgroups(&instance, &record.cgroup_root).await;
    unmount_below(&[instance.run_dir(), instance.data_dir.clone()])?;
    if let Err(error) = netlink::delete_link(&instance.bridge()) {
        tracing::warn!(bridge = instance.bridge(), %error, "cannot remove the bridge");
    }
    if let Err(error) = services::remove_table(&instance.table()).await {
        tracing::warn!(table = instance.table(), %error, "cannot remove the table");
    }
    match fs::remove_dir_all(instance.run_dir()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("cannot remove the folder below /run")(error))
        }
        _ => Ok(()),
    }
}

/// Starts the instance's containerd once more, if it is installed and was configured.
fn respawn(instance: &Instance) -> Option<Process> {
    let binary = find_program("containerd", "containerd").ok()?;
    let config = config_path(instance);
    let log = instance.containerd_dir().join("containerd.log");
    if !config.exists() {
        return None;
    }
    Process::spawn(&binary, &config, &log, &pid_file(instance)).ok()
}

/// Removes the pods that belong to this instance: all of its own containerd's, or those with
/// a folder in its data directory.
async fn remove_pods(runtime: &CriRuntime, instance: &Instance) {
    let known = pod_folders(instance);
    let own = runtime_is_own(instance);
    let pods = match runtime.list().await {
        Ok(pods) => pods,
        Err(error) => {
            tracing::warn!(%error, "cannot list the pods");
            return;
        }
    };
    let sandboxes = pods
        .into_iter()
        .filter(|pod| own || known.contains(&pod.pod.uid))
        .flat_map(|pod| pod.sandboxes)
        .map(|sandbox| sandbox.id);
    stream::iter(sandboxes)
        .for_each_concurrent(PODS_AT_ONCE, |id| async move {
            let removal = async {
                runtime.stop_sandbox(&id).await?;
                runtime.remove_sandbox(&id).await
            };
            match tokio::time::timeout(POD_TIME_MAX, removal).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(sandbox = id, %error, "cannot remove a pod"),
                Err(_) => tracing::warn!(sandbox = id, "a pod takes too long to go"),
            }
        })
        .await;
}

/// Gives back what somebody else's containerd keeps for the pods' volumes of images.
async fn remove_views(runtime: &CriRuntime, data_dir: &Path, instance: &Instance) {
    let paths = Paths::new(data_dir);
    for uid in pod_folders(instance) {
        for note in fs::read_dir(paths.image_volumes(&uid)).into_iter().flatten().flatten() {
            let key = image::key(&uid, &note.file_name().to_string_lossy());
            if let Err(error) = runtime.remove_view(&key).await {
                tracing::warn!(view = key, %error, "cannot give back what is kept of an image");
            }
        }
    }
}

fn runtime_is_own(instance: &Instance) -> bool {
    instance.read_record().is_ok_and(|record| record.own)
}

fn pod_folders(instance: &Instance) -> Vec<String> {
    let Ok(entries) = fs::read_dir(instance.data_dir.join("pods")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes the cgroups of this instance's pods, and their parents if nobody else uses them.
async fn remove_cgroups(instance: &Instance, root: &str) {
    let mut uids = pod_folders(instance);
    uids.extend(cgroups::pods(root).unwrap_or_default());
    for uid in uids {
        if let Err(error) = cgroups::remove(&format!("{root}/pod{uid}")).await {
            tracing::warn!(uid, %error, "cannot remove a cgroup");
        }
    }
    cgroups::remove_if_empty(root);
    if let Some(parent) = Path::new(root).parent().and_then(Path::to_str) {
        cgroups::remove_if_empty(parent);
    }
}

/// Detaches every mount below the folders, the innermost first. Where one stays, nothing must be removed: what is mounted
/// may be anybody's.
fn unmount_below(folders: &[PathBuf]) -> Result<()> {
    for point in mounts_below(folders)? {
        if let Err(error) = unmount(&point, UnmountFlags::DETACH) {
            tracing::warn!(mount = %point.display(), %error, "cannot unmount");
        }
    }
    match mounts_below(folders)?.first() {
        Some(point) => Err(RuntimeError::Failed(format!("{} is still mounted", point.display()))),
        None => Ok(()),
    }
}
