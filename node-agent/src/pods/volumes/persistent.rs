//! Volumes of the cluster that pods have claims on: those that lie on this node are bound into the pod's folder, the others
//! are had from their drivers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use k8s_openapi::api::core::v1::{HostPathVolumeSource, PersistentVolume, PersistentVolumeSpec, Pod, Volume};

use super::claims::{self, ClaimRef, Record};
use super::{VolumeError, blocking_of, check_host_path, csi, sys};
use crate::Paths;
use crate::pods::context::Context;
use crate::pods::spec;

/// One task at a time for each volume: two pods that share one do not make it twice.
#[derive(Debug, Default)]
pub struct Locks {
    held: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits for a volume's turn.
    pub async fn lock(&self, volume: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|_, lock| lock.strong_count() > 0);
            let known = held.get(volume).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::new(tokio::sync::Mutex::new(()));
                held.insert(volume.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// How a pod's group gets at a volume.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ownership {
    /// The group, if the pod names one.
    pub group: Option<u32>,
    /// Whether a volume whose folder fits already is left as it is.
    pub only_if_unfit: bool,
}

impl Ownership {
    /// What a pod wants.
    pub fn of(pod: &Pod) -> Self {
        let security = spec::spec(pod).security_context.as_ref();
        let group = security.and_then(|security| u32::try_from(security.fs_group?).ok());
        let policy = security.and_then(|security| security.fs_group_change_policy.as_deref());
        Self { group, only_if_unfit: policy == Some("OnRootMismatch") }
    }

    /// Gives a volume to the group.
    pub fn apply(&self, dir: &Path) -> std::io::Result<()> {
        match self.group {
            Some(group) if self.only_if_unfit && sys::is_of_group(dir, group)? => Ok(()),
            Some(group) => sys::give_to_group(dir, group),
            None => Ok(()),
        }
    }
}

/// Makes the volume behind a claim available to a pod.
pub async fn make(context: &Context, pod: &Pod, volume: &Volume, claim: &ClaimRef) -> Result<(), VolumeError> {
    let found = resolve(context, pod, volume, claim).await;
    let found = found.map_err(|message| VolumeError::Process { volume: volume.name.clone(), message })?;
    let name = found.metadata.name.clone().unwrap_or_default();
    let failed = |stage, message| VolumeError::Stage { stage, volume: name.clone(), message };
    let node = context.node.borrow().clone();
    if let Some(node) = node
        && !claims::fits_node(&found, node.metadata.labels.as_ref().unwrap_or(&Default::default()), &context.node_name)
    {
        return Err(failed("NodeAffinity check", "no matching NodeSelectorTerms".into()));
    }
    let turn = context.volume_locks.lock(&name).await;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let (paths, of_this) = (context.paths.clone(), name.clone());
    let (own, looked_at) = (uid.clone(), paths.clone());
    let shared =
        tokio::task::spawn_blocking(move || claims::others(&looked_at, &own, |record| record.volume == of_this));
    let shared = shared.await.map_err(|error| failed("SetUp", error.to_string()))?;
    if shared && claims::is_for_one_pod(&found) {
        let why = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
        return Err(failed("SetUp", why.into()));
    }
    if let Some(wanted) = csi::Wanted::of_volume(&found, &claim.name, claim.read_only) {
        // It has its turn by itself: what the driver is asked may take long.
        drop(turn);
        csi::make(context, pod, volume, &wanted).await?;
        csi::expand(context, pod, volume, &found, &wanted).await;
        return Ok(());
    }
    let source = found.spec.as_ref().and_then(source);
    let Some(source) = source else {
        return Err(failed("SetUp", "this kind of volume is not supported on this node".into()));
    };
    let block = claims::volume_mode(&found) == "Block";
    let measured = matches!(source, Source::Local(_)) && !block;
    let record = Record { volume: name.clone(), claim: claim.name.clone(), block, measured, ..Record::default() };
    let ownership = match (&source, claim.read_only || shared) {
        // What is there belongs to whoever shared it first; and what lies on the node of its own accord is the node's.
        (_, true) | (Source::HostPath(_), _) => Ownership::default(),
        (Source::Local(_), false) => Ownership::of(pod),
    };
    let place = Place { paths, uid, volume: volume.name.clone(), read_only: claim.read_only, ownership };
    blocking_of(move || place.put(&source, &record)).await.map_err(|(stage, message)| failed(stage, message))
}

/// The volume behind a claim, or why there is none.
pub async fn resolve(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    claim: &ClaimRef,
) -> Result<PersistentVolume, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let wrong = |why: String| format!("error processing PVC {namespace}/{}: {why}", claim.name);
    let found = context.objects.claim(namespace, &claim.name).await;
    let found = found.map_err(|error| wrong(format!("failed to fetch PVC from API server: {error}")))?;
    let name = claims::check_claim(pod, claim, found.as_ref())?;
    let bound = context.objects.persistent_volume(&name).await;
    let bound = bound.map_err(|error| wrong(format!("failed to fetch PV {name} from API server: {error}")))?;
    let found = found.unwrap_or_default();
    claims::check_volume(pod, volume, &found, &name, bound.as_ref())?;
    Ok(bound.unwrap_or_default())
}

/// Where a volume that lies on the node is.
enum Source {
    HostPath(HostPathVolumeSource),
    Local(PathBuf),
}

fn source(spec: &PersistentVolumeSpec) -> Option<Source> {
    let of_node = spec.host_path.clone().map(Source::HostPath);
    of_node.or_else(|| Some(Source::Local(PathBuf::from(&spec.local.as_ref()?.path))))
}

/// Where it is to be.
struct Place {
    paths: Paths,
    uid: String,
    volume: String,
    read_only: bool,
    ownership: Ownership,
}

/// The stage of mounting that failed, and why.
type Failure = (&'static str, String);

impl Place {
    fn put(&self, source: &Source, record: &Record) -> Result<(), Failure> {
        let set_up = |error: std::io::Error| ("SetUp", error.to_string());
        let path = match source {
            Source::HostPath(source) => {
                check_host_path(source).map_err(|error| ("SetUp", error))?;
                PathBuf::from(&source.path)
            }
            Source::Local(path) => {
                check_local(path, record.block)?;
                path.clone()
            }
        };
        claims::write(&self.paths, &self.uid, &self.volume, record).map_err(set_up)?;
        let put = match record.block {
            true => self.link(&path),
            false => self.bind(&path),
        };
        put.map_err(|error| {
            // Nothing is there that would have to be given back.
            let _ = claims::strike(&self.paths, &self.uid, &self.volume);
            set_up(error)
        })
    }

    fn bind(&self, source: &Path) -> std::io::Result<()> {
        let target = self.paths.pod(&self.uid).join("volumes").join(&self.volume);
        if !sys::bind(source, &target, self.read_only)? {
            return Ok(());
        }
        self.ownership.apply(&target).inspect_err(|_| {
            // So that it is done again.
            let _ = sys::unmount(&target);
        })
    }

    fn link(&self, device: &Path) -> std::io::Result<()> {
        let device = device.canonicalize()?;
        if sys::file_kind(&device)? != Some(sys::FileKind::BlockDevice) {
            return Err(std::io::Error::other(format!("{} is not a block device", device.display())));
        }
        let link = self.paths.devices(&self.uid).join(&self.volume);
        match std::fs::read_link(&link) {
            Ok(there) if there == device => return Ok(()),
            Ok(_) => std::fs::remove_file(&link)?,
            Err(_) => std::fs::create_dir_all(self.paths.devices(&self.uid))?,
        }
        sys::symlink_file(&device, &link)
    }
}

fn check_local(path: &Path, block: bool) -> Result<(), Failure> {
    const STAGE: &str = "NewMounter initialization";
    let kind = sys::file_kind(path).map_err(|error| (STAGE, error.to_string()))?;
    match kind {
        None => Err((STAGE, format!("path \"{}\" does not exist", path.display()))),
        Some(sys::FileKind::Directory) if !block => Ok(()),
        Some(sys::FileKind::BlockDevice) if block => Ok(()),
        Some(sys::FileKind::BlockDevice) => {
            Err((STAGE, "a block device without a file system that is mounted is not supported here".into()))
        }
        Some(_) => Err((STAGE, "only directory and block device are supported".into())),
    }
}
