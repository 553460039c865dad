//! Keeps the node from running out of memory, disk, inodes and processes. In: what is left, and what pods use. Out: the
//! node's conditions, images that are removed, and pods that are evicted.
//!
//! ```text
//!   machine, file systems ─▶ plan::met ─┬─▶ conditions ─▶ node's status, admission
//!                                       ├─▶ images: what nobody uses goes first
//!                                       └─▶ plan::rank ─▶ an order to one pod's worker
//!   volumes, layers, logs ─▶ plan::exceeds ──────────────▶ likewise, for pods with limits
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::node::machine;
use crate::pods::context::Context;
use crate::pods::events::Kind;
use crate::pods::{Order, PodEntry, volumes};
use crate::runtime::{ContainerState, PodRecord, RuntimeError};
use crate::stats::disk::{self, Taken};
use crate::stats::{Collector, PodSample};
use plan::{Candidate, Condition, Conditions, Left, Met, Observed, Patience, Signal, Threshold, Written};

pub mod images;
pub mod plan;

/// Longest wait for an evicted pod to be gone, before the next is chosen.
const EVICTION_WAIT_MAX: Duration = Duration::from_secs(30);
/// Looks at how far that is.
const EVICTION_WAIT_POLL: Duration = Duration::from_millis(250);
/// What files take up is walked again after at least this many times what the walk took.
const WALK_SHARE: u32 = 20;
/// Seconds that the containers of a pod get which has written more than it may.
const GRACE_S: i64 = 1;

/// The conditions that the node has.
pub type Pressure = BTreeSet<Condition>;

/// What is little, and what is done about it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When there is too little of something.
    pub thresholds: Vec<Threshold>,
    /// Seconds that the containers of a pod get which is evicted for what could be borne for a while; below zero as long as the pod
    /// says itself.
    pub grace_max_s: i64,
    /// How long a condition stays after its cause has gone.
    pub transition: Duration,
    /// How often what is left is looked at.
    pub look_every: Duration,
    /// When images are removed.
    pub images: images::Policy,
    /// How often the images' disk is looked at.
    pub images_every: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            thresholds: plan::default_thresholds(),
            grace_max_s: 0,
            transition: Duration::from_secs(300),
            look_every: Duration::from_secs(10),
            images: images::Policy::default(),
            images_every: Duration::from_secs(300),
        }
    }
}

/// Keeps the node from running out.
pub struct Keeper {
    context: Arc<Context>,
    stats: Arc<Collector>,
    policy: Policy,
    orders: mpsc::Sender<(String, Order)>,
    shared: watch::Sender<Pressure>,
    conditions: Conditions,
    patience: Patience,
    ages: images::Ages,
    images_at: Option<Instant>,
    /// Where images are kept, once the runtime has said so.
    image_store: Option<PathBuf>,
    walk_at: Instant,
}

impl Keeper {
    /// A keeper which sends orders to the pods' manager and tells its conditions through `shared`.
    pub fn new(
        context: Arc<Context>,
        stats: Arc<Collector>,
        policy: Policy,
        orders: mpsc::Sender<(String, Order)>,
        shared: watch::Sender<Pressure>,
    ) -> Self {
        Self {
            context,
            stats,
            policy,
            orders,
            shared,
            conditions: Conditions::default(),
            patience: Patience::default(),
            ages: images::Ages::default(),
            images_at: None,
            image_store: None,
            walk_at: Instant::now(),
        }
    }

    /// Works until shutdown.
    pub async fn run(mut self, stop: CancellationToken) {
        let work = async {
            loop {
                let evicted = match self.look().await {
                    Ok(evicted) => evicted,
                    Err(error) => {
                        warn!(%error, "cannot see what the node's pods use");
                        Vec::new()
                    }
                };
                if evicted.is_empty() {
                    tokio::time::sleep(self.policy.look_every).await;
                } else {
                    self.wait_until_ended(&evicted).await;
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// One look; returns the UIDs of the pods that were told to go.
    async fn look(&mut self) -> Result<Vec<String>, RuntimeError> {
        self.look_at_images().await?;
        let observed = self.observe().await;
        let met = plan::met(&self.policy.thresholds, &observed);
        self.tell(&met);
        let due = self.patience.due(&met, crate::clock::steady());
        let evicted = self.look_at_limits().await?;
        let (Some(worst), true) = (due.first().copied(), evicted.is_empty()) else { return Ok(evicted) };
        let message = format!("Attempting to reclaim {}", worst.signal.resource());
        self.context.events.node(&self.context.node_name, Kind::Warning, "EvictionThresholdMet", message);
        if worst.signal.condition() == Condition::DiskPressure {
            self.remove_images(None, self.policy.images.age_min).await?;
            let observed = self.observe().await;
            let met = plan::met(&self.policy.thresholds, &observed);
            if !met.iter().any(|met| (met.signal, met.grace) == (worst.signal, worst.grace)) {
                info!("there is room again without the images that nobody uses");
                return Ok(Vec::new());
            }
        }
        self.evict_one(&worst).await
    }

    fn tell(&mut self, met: &[Met]) {
        let now = self.conditions.update(met, self.policy.transition, crate::clock::steady());
        self.shared.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// What is left of what can run out.
    async fn observe(&mut self) -> Observed {
        if self.image_store.is_none() {
            self.image_store = self.context.runtime.image_store().await.ok().map(|store| store.path);
        }
        let (node, images) = (self.context.paths.data_dir().to_owned(), self.image_store.clone());
        let memory = self.stats.machine.memory_bytes;
        let read = tokio::task::spawn_blocking(move || observe(&node, images, memory));
        read.await.unwrap_or_default()
    }

    async fn look_at_images(&mut self) -> Result<(), RuntimeError> {
        if self.images_at.is_some_and(|at| at.elapsed() < self.policy.images_every) {
            return Ok(());
        }
        self.images_at = Some(Instant::now());
        let store = self.context.runtime.image_store().await?;
        let wanted =
            disk::file_system(&store.path).and_then(|disk| Some((disk, images::to_free(&self.policy.images, &disk)?)));
        let age_min = self.policy.images.age_min;
        let Some((disk, bytes)) = wanted else { return self.note_images().await };
        let freed = self.remove_images(Some(bytes), age_min).await?;
        if freed < bytes {
            let message = format!(
                "Insufficient free disk space on the node's image filesystem ({}% of {} bytes used). Failed to free sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
                images::percent_used(&disk),
                disk.capacity
            );
            self.context.events.node(&self.context.node_name, Kind::Warning, "FreeDiskSpaceFailed", message);
        }
        Ok(())
    }

    async fn note_images(&mut self) -> Result<(), RuntimeError> {
        let asked_at = crate::clock::steady();
        let (images, pods) = tokio::try_join!(self.context.runtime.images(), self.context.runtime.list())?;
        self.context.images.keep_only(&images, asked_at).await;
        self.ages.note(&images, &self.used_by(&pods), crate::clock::steady());
        Ok(())
    }

    /// All names of images that are in use, by containers or as volumes.
    fn used_by(&self, records: &[PodRecord]) -> HashSet<String> {
        let mut used = images::used_by(records);
        for entry in self.context.directory.list() {
            used.extend(volumes::image::used_by(&self.context.paths, &entry.pod));
        }
        used
    }

    /// Removes images that nobody uses; returns how many bytes they were.
    async fn remove_images(&mut self, bytes: Option<u64>, age_min: Duration) -> Result<u64, RuntimeError> {
        let asked_at = crate::clock::steady();
        let (all, pods) = tokio::try_join!(self.context.runtime.images(), self.context.runtime.list())?;
        self.context.images.keep_only(&all, asked_at).await;
        let (used, now) = (self.used_by(&pods), crate::clock::steady());
        self.ages.note(&all, &used, now);
        let mut freed = 0;
        for image in self.ages.plan(&all, &used, bytes, age_min, now) {
            info!(image = %image.id, names = ?image.tags, bytes = image.size_bytes, "removing an image that nobody uses");
            match self.context.runtime.remove_image(&image.id).await {
                Ok(()) => freed += image.size_bytes,
                Err(error) => warn!(image = %image.id, %error, "cannot remove an image"),
            }
        }
        Ok(freed)
    }

    /// Sends away pods that have written more than they may.
    async fn look_at_limits(&mut self) -> Result<Vec<String>, RuntimeError> {
        let active = self.context.pods();
        let limited: Vec<_> = active.into_iter().filter(|entry| plan::has_disk_limits(&entry.pod)).collect();
        if limited.is_empty() || self.walk_at > Instant::now() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let layers = match limited.iter().any(|entry| plan::limits_containers(&entry.pod)) {
            true => self.context.runtime.layers().await?,
            false => Default::default(),
        };
        let mut evicted = Vec::new();
        for entry in limited {
            let written = self.written(&entry, &layers).await;
            if let Some(message) = plan::exceeds(&entry.pod, &written)
                && self.evict(&entry.pod, message, GRACE_S, false).await
            {
                evicted.extend(entry.pod.metadata.uid.clone());
            }
        }
        self.walk_at = Instant::now() + began.elapsed() * WALK_SHARE;
        Ok(evicted)
    }

    async fn written(&self, entry: &PodEntry, layers: &std::collections::HashMap<String, Taken>) -> Written {
        let files = self.stats.files(entry, Duration::ZERO).await;
        let own_disk = self.stats.node_file_system().map(|disk| disk.capacity);
        let bytes = |taken: &Taken| i64::try_from(taken.bytes).unwrap_or(i64::MAX);
        let mut written = Written { total: bytes(&files.own), ..Written::default() };
        for (name, taken, on) in &files.volumes {
            written.volumes.insert(name.clone(), bytes(taken));
            if on.map(|on| on.capacity) == own_disk {
                written.total += bytes(taken);
            }
        }
        for container in &entry.record.containers {
            let layer = layers.get(&container.id).copied().unwrap_or_default();
            *written.containers.entry(container.name.clone()).or_default() += bytes(&layer);
        }
        for (name, taken) in &files.logs {
            *written.containers.entry(name.clone()).or_default() += bytes(taken);
        }
        written.total += written.containers.values().sum::<i64>();
        written
    }

    /// Sends away the pod that has to go first.
    async fn evict_one(&mut self, met: &Met) -> Result<Vec<String>, RuntimeError> {
        let samples: Vec<_> = self.stats.pods().await?.into_iter().filter(|sample| is_active(&sample.entry)).collect();
        let layers = match met.signal.condition() {
            Condition::DiskPressure => self.context.runtime.layers().await?,
            _ => Default::default(),
        };
        let mut candidates = Vec::new();
        for sample in &samples {
            candidates.push(self.candidate(sample, met, &layers).await);
        }
        plan::rank(&mut candidates, met.signal);
        for candidate in &candidates {
            let grace_s = plan::grace_s(candidate.pod, met, self.policy.grace_max_s);
            if self.evict(candidate.pod, plan::message(candidate, met), grace_s, true).await {
                return Ok(candidate.pod.metadata.uid.clone().into_iter().collect());
            }
        }
        warn!(resource = met.signal.resource(), "the node is short of it, and no pod can be evicted");
        Ok(Vec::new())
    }

    async fn candidate<'a>(
        &self,
        sample: &'a PodSample,
        met: &Met,
        layers: &std::collections::HashMap<String, Taken>,
    ) -> Candidate<'a> {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let on_disk = met.signal.condition() == Condition::DiskPressure;
        let files = match on_disk {
            true => Some(self.stats.files(&sample.entry, Duration::from_secs(60)).await),
            false => None,
        };
        let mut disk = Taken::default();
        for (_, taken, _) in files.iter().flat_map(|files| &files.volumes) {
            disk = disk + *taken;
        }
        let mut containers = Vec::new();
        for (container, usage) in sample.containers() {
            let logs = files.as_ref().and_then(|files| files.logs.get(&container.name)).copied().unwrap_or_default();
            let own = layers.get(&container.id).copied().unwrap_or_default() + logs;
            disk = disk + own;
            containers.push((container.name.clone(), number(usage.working_set_bytes), number(own.bytes)));
        }
        let usage = &sample.usage.pod;
        let (memory, processes) = (number(usage.working_set_bytes), number(usage.processes));
        Candidate { pod: &sample.entry.pod, memory, disk, processes, containers }
    }

    /// Tells a pod to go; false if nobody could be told.
    async fn evict(&self, pod: &Pod, message: String, grace_s: i64, by_the_node: bool) -> bool {
        if plan::is_critical(pod) {
            debug!(pod = ?pod.metadata.name, "a critical pod is not evicted");
            return false;
        }
        self.context.events.pod(pod, Kind::Warning, "Evicted", message.clone());
        info!(namespace = ?pod.metadata.namespace, pod = ?pod.metadata.name, message, "evicting a pod");
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let order = Order { reason: "Evicted".into(), message, grace_s, disrupts: by_the_node };
        self.orders.send((uid, order)).await.is_ok()
    }

    async fn wait_until_ended(&self, uids: &[String]) {
        let deadline = Instant::now() + EVICTION_WAIT_MAX;
        let runs = |uid: &String| {
            let entries = self.context.directory.list();
            let entry = entries.iter().find(|entry| entry.pod.metadata.uid.as_ref() == Some(uid));
            entry.is_some_and(|entry| entry.record.containers.iter().any(|each| each.state == ContainerState::Running))
        };
        while uids.iter().any(runs) && Instant::now() < deadline {
            tokio::time::sleep(EVICTION_WAIT_POLL).await;
        }
    }
}

/// Whether a pod still runs and is not on its way out.
fn is_active(entry: &PodEntry) -> bool {
    let phase = entry.pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed")) && entry.pod.metadata.deletion_timestamp.is_none()
}

impl Context {
    /// Pods that still run and are not on their way out.
    fn pods(&self) -> Vec<PodEntry> {
        let mut entries = self.directory.list();
        entries.retain(is_active);
        entries
    }
}

fn observe(node: &std::path::Path, images: Option<PathBuf>, capacity: i64) -> Observed {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let load = machine::load();
    let mut observed = BTreeMap::new();
    if let Some(available) = load.memory_available {
        observed.insert(Signal::Memory, Left { available, capacity });
    }
    if let Some((running, most)) = load.pids {
        observed.insert(Signal::Pids, Left { available: most - running, capacity: most });
    }
    let signals = [(Signal::NodeFs, Signal::NodeFsInodes), (Signal::ImageFs, Signal::ImageFsInodes)];
    for (path, (bytes, inodes)) in [Some(node.to_owned()), images].into_iter().zip(signals) {
        let Some(disk) = path.and_then(|path| disk::file_system(&path)) else { continue };
        observed.insert(bytes, Left { available: signed(disk.available), capacity: signed(disk.capacity) });
        // Some file systems make inodes as they are needed, and say that they have none.
        if disk.inodes > 0 {
            observed.insert(inodes, Left { available: signed(disk.inodes_free), capacity: signed(disk.inodes) });
        }
    }
    observed
}
