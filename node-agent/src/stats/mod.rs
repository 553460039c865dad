//! What the node's pods use: sampled when somebody asks, and told in the kubelet's formats.
//!
//! ```text
//!   cgroups, interfaces ─▶ Collector ─┬─▶ summary: /stats/summary
//!   files, file systems ─┘            └─▶ exposition: /metrics/resource, /metrics/cadvisor
//! ```
//!
//! Nothing is sampled between requests. What costs more than reading a few files of the kernel (walking volumes) is
//! remembered for a while.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Volume;
use tokio::time::Instant;

use crate::Paths;
use crate::clock::{Moment, Now};
use crate::csi::Drivers;
use crate::csi::messages::VolumeUsage;
use crate::node::machine::{self, Machine};
use crate::pods::config::cgroup_parent;
use crate::pods::volumes::{claims, csi};
use crate::pods::{PodDirectory, PodEntry};
use crate::runtime::{ContainerRecord, ContainerState, InterfaceUsage, PodUsage, Runtime, RuntimeError, Usage};
use disk::{FileSystem, Taken};

pub mod disk;
pub mod exposition;
pub mod summary;

/// How long it is remembered what files take up.
const FILES_AGE_MAX: Duration = Duration::from_secs(60);
/// A rate is one over at least this long; shorter ones are noise.
const RATE_OVER_MIN_S: f64 = 1.0;

/// A pod at one moment.
#[derive(Clone, Debug)]
pub struct PodSample {
    /// The pod, and what the runtime had of it.
    pub entry: PodEntry,
    /// Its cgroup.
    pub cgroup: String,
    /// What it used.
    pub usage: PodUsage,
    /// When.
    pub at: Now,
}

impl PodSample {
    /// The containers that run, with what they used.
    pub fn containers(&self) -> impl Iterator<Item = (&ContainerRecord, &Usage)> {
        let running =
            self.entry.record.containers.iter().filter(|container| container.state == ContainerState::Running);
        running.filter_map(|container| Some((container, self.usage.members.get(&container.id)?)))
    }

    /// Namespace and name.
    pub fn name(&self) -> (&str, &str) {
        let meta = &self.entry.pod.metadata;
        (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }

    fn uid(&self) -> &str {
        self.entry.pod.metadata.uid.as_deref().unwrap_or_default()
    }
}

/// The node at one moment.
#[derive(Clone, Debug)]
pub struct NodeSample {
    /// What all of it used.
    pub usage: Usage,
    /// Its own interfaces.
    pub interfaces: Vec<InterfaceUsage>,
    /// When.
    pub at: Now,
}

/// A volume that a pod has a claim on.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Its name in the pod.
    pub name: String,
    /// The claim; empty if it is the pod's own.
    pub claim: String,
    /// The file system that it is on.
    pub on: FileSystem,
}

/// What a pod's files take up.
#[derive(Clone, Debug, Default)]
pub struct PodFiles {
    /// Volumes which the agent made, by name, with the file system of each.
    pub volumes: Vec<(String, Taken, Option<FileSystem>)>,
    /// Volumes that are not the pod's own.
    pub claimed: Vec<Claimed>,
    /// Logs by container.
    pub logs: HashMap<String, Taken>,
    /// What else the agent keeps of the pod.
    pub own: Taken,
}

/// Samples.
pub struct Collector {
    runtime: Arc<dyn Runtime>,
    pods: PodDirectory,
    paths: Paths,
    cgroup_root: String,
    /// The node's name.
    pub node_name: String,
    /// The machine.
    pub machine: Machine,
    drivers: Drivers,
    /// Processor time of each cgroup at its last sample, for rates.
    before: Mutex<HashMap<String, (Moment, u64)>>,
    files: Mutex<HashMap<String, (Instant, Arc<PodFiles>)>>,
}

impl Collector {
    /// A collector.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        pods: PodDirectory,
        paths: Paths,
        cgroup_root: String,
        node_name: String,
        drivers: Drivers,
    ) -> Self {
        let machine = machine::read(paths.data_dir());
        let (before, files) = (Mutex::default(), Mutex::default());
        Self { runtime, pods, paths, cgroup_root, node_name, machine, drivers, before, files }
    }

    /// Samples all pods that have a sandbox that lives.
    pub async fn pods(&self) -> Result<Vec<PodSample>, RuntimeError> {
        let mut entries = Vec::new();
        let mut asked = Vec::new();
        for entry in self.pods.list() {
            let Some(sandbox) = entry.record.sandboxes.iter().find(|sandbox| sandbox.ready) else { continue };
            let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
            let mut members = vec![sandbox.id.clone()];
            let running = entry.record.containers.iter().filter(|each| each.state == ContainerState::Running);
            members.extend(running.map(|container| container.id.clone()));
            let cgroup = cgroup_parent(&self.cgroup_root, &uid);
            asked.push((cgroup.clone(), members));
            entries.push((entry, cgroup));
        }
        let usages = self.runtime.usage(&asked).await?;
        let at = Now::read();
        let samples = entries.into_iter().zip(usages);
        Ok(samples.map(|((entry, cgroup), usage)| PodSample { entry, cgroup, usage, at }).collect())
    }

    /// Samples the node.
    pub fn node(&self) -> NodeSample {
        let (usage, interfaces) = machine::usage();
        NodeSample { usage, interfaces, at: Now::read() }
    }

    /// Nanoseconds of processor time a second since the last sample of what is known by `key`; none the first time.
    fn rate(&self, key: &str, at: Moment, cpu_ns: u64) -> Option<u64> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, used) = *before.get(key).unwrap_or(&(at, cpu_ns));
        let seconds = at.since(since).as_secs_f64();
        if seconds >= RATE_OVER_MIN_S || !before.contains_key(key) {
            before.insert(key.to_owned(), (at, cpu_ns));
        }
        if seconds <= 0.0 || cpu_ns < used {
            return None;
        }
        Some(((cpu_ns - used) as f64 / seconds) as u64)
    }

    /// Forgets what was remembered of pods that are no more.
    fn keep_only(&self, samples: &[PodSample]) {
        let uids: std::collections::HashSet<&str> = samples.iter().map(PodSample::uid).collect();
        self.files.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid.as_str()));
        let known = |key: &String| key.as_str() == summary::NODE || uids.iter().any(|uid| key.starts_with(uid));
        self.before.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| known(key));
    }

    /// What a pod's files take up, not older than `age_max`.
    pub async fn files(&self, entry: &PodEntry, age_max: Duration) -> Arc<PodFiles> {
        let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
        let known = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).cloned();
        if let Some((at, files)) = known
            && at.elapsed() <= age_max
        {
            return files;
        }
        let (paths, entry) = (self.paths.clone(), entry.clone());
        let walked = tokio::task::spawn_blocking(move || walk(&paths, &entry)).await;
        let mut files = walked.unwrap_or_default();
        for (name, record) in claims::read(&self.paths, &uid) {
            files.claimed.extend(self.measured(&uid, name, record).await);
        }
        let files = Arc::new(files);
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (Instant::now(), files.clone()));
        files
    }

    /// What a volume holds that comes from elsewhere, if anybody can tell.
    async fn measured(&self, uid: &str, name: String, record: claims::Record) -> Option<Claimed> {
        let on = match self.drivers.get(&record.driver) {
            Ok(driver) => {
                let usage = csi::stats(&driver, &self.paths, uid, &name, &record).await?;
                file_system_of(&usage)
            }
            Err(_) if record.measured => disk::file_system(&self.paths.pod(uid).join("volumes").join(&name))?,
            Err(_) => return None,
        };
        Some(Claimed { name, claim: record.claim, on })
    }

    /// The file system of the data directory.
    pub fn node_file_system(&self) -> Option<FileSystem> {
        disk::file_system(self.paths.data_dir())
    }
}

/// What a driver said, as of a file system.
fn file_system_of(usage: &[VolumeUsage]) -> FileSystem {
    let of = |unit: i32| usage.iter().find(|usage| usage.unit == unit).copied().unwrap_or_default();
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let (bytes, inodes) = (of(VolumeUsage::BYTES), of(VolumeUsage::INODES));
    FileSystem {
        capacity: number(bytes.total),
        available: number(bytes.available),
        inodes: number(inodes.total),
        inodes_free: number(inodes.available),
    }
}

fn walk(paths: &Paths, entry: &PodEntry) -> PodFiles {
    let pod = &entry.pod;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let folder = paths.pod(uid);
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mut files = PodFiles::default();
    // What lies on the node was there before the pod and is not the pod's.
    let own = |volume: &&Volume| volume.host_path.is_none() && volume.image.is_none() && !claims::is_foreign(volume);
    for volume in volumes.iter().filter(own) {
        let path = folder.join("volumes").join(&volume.name);
        files.volumes.push((volume.name.clone(), disk::taken(&path), disk::file_system(&path)));
    }
    files.own = disk::taken(&folder.join("containers")) + disk::taken(&folder.join("etc-hosts"));
    let logs = paths.pod_log_dir(&entry.record.pod);
    for log in std::fs::read_dir(&logs).into_iter().flatten().flatten() {
        let (name, path): (_, PathBuf) = (log.file_name().to_string_lossy().into_owned(), log.path());
        files.logs.insert(name, disk::taken(&path));
    }
    files
}
