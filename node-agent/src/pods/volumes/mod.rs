//! A pod's volumes on this node. In: the pod and the objects it refers to. Out: one folder (or path of the node) a volume
//! below the pod's folder, and mounts for its containers. Making a volume that is there already costs a comparison.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use futures::future::try_join_all;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::context::Context;
use super::env::{self, Referred};
use super::fields::Surroundings;
use super::objects::{ObjectError, Objects};
use super::spec;
use crate::Paths;
use crate::checkpoint::{self, Key, Kind};
use crate::clock::{Moment, Now};
use crate::runtime::{Mount, MountPropagation, PodIdentity};
use empty::Empty;
use payload::Written;
use sys::FileKind;

pub mod atomic;
pub mod claims;
pub mod csi;
mod empty;
pub mod image;
pub mod payload;
pub mod persistent;
pub mod read_only;
pub mod sys;

/// How often the contents of volumes are read again.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// A refresh may be answered by what another pod's refresh has just read.
pub const REFRESH_TOLERANCE: Duration = Duration::from_secs(20);
/// By how much a token may be younger than the clock says, for who checks it.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);
/// How long a token is valid if the pod does not say.
const TOKEN_EXPIRATION_S: i64 = 3600;

/// A volume that cannot be had; its text is the message of the FailedMount event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It is known what it is, but it could not be made.
    #[error("MountVolume.{stage} failed for volume \"{volume}\" : {message}")]
    Stage {
        /// How far it went.
        stage: &'static str,
        /// Its name; that of the PersistentVolume, where there is one.
        volume: String,
        /// Why.
        message: String,
    },
    /// It is not known what it is.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to process \
         volumes=[{volume}]: {message}"
    )]
    Process {
        /// Its name in the pod.
        volume: String,
        /// Why.
        message: String,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Token {
    text: String,
    /// What is kept for when the API server is away is not renewed by its time.
    #[serde(skip)]
    life: Option<Life>,
}

/// How long a token is used.
#[derive(Clone, Copy, Debug)]
struct Life {
    issued: Now,
    renew_after: Duration,
}

impl Life {
    /// To four fifths of what the API server gives it, or a day, as the kubelet renews tokens.
    fn new(issued: Now, seconds: i64) -> Self {
        let seconds = u64::try_from(seconds * 4 / 5).unwrap_or(0).min(86_400);
        Self { issued, renew_after: Duration::from_secs(seconds) }
    }

    /// Whether it goes on. Who checks a token goes by the time of day: a clock that is set makes it too old, or such as will only be
    /// issued one day, however long it has been.
    fn goes_on(&self, now: Now) -> bool {
        let by_wall = now.wall.duration_since(self.issued.wall);
        now.steady.since(self.issued.steady) < self.renew_after
            && by_wall < SignedDuration::try_from(self.renew_after).unwrap_or(SignedDuration::MAX)
            && by_wall > -LEEWAY
    }
}

/// Tokens that were issued to pods, by pod UID, volume and path; lost with the agent and then issued anew.
#[derive(Debug, Default)]
pub struct Tokens {
    issued: Mutex<HashMap<(String, String, String), Token>>,
}

impl Tokens {
    /// Forgets a pod's tokens.
    pub fn forget(&self, uid: &str) {
        let mut issued = self.issued.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        issued.retain(|(owner, _, _), _| owner != uid);
    }

    fn valid(&self, key: &(String, String, String), now: Now) -> Option<String> {
        let issued = self.issued.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        issued.get(key).filter(|token| token.life.is_some_and(|life| life.goes_on(now))).map(|token| token.text.clone())
    }

    fn put(&self, key: (String, String, String), token: Token) {
        let mut issued = self.issued.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        issued.insert(key, token);
    }

    /// A pod's tokens by volume and path, each as one name.
    fn of(&self, uid: &str) -> KeptTokens {
        let issued = self.issued.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let own = issued.iter().filter(|((owner, _, _), _)| owner == uid);
        own.map(|((_, volume, path), token)| (kept_token(volume, path), token.clone())).collect()
    }
}

/// Tokens as they are kept for when the API server is away.
type KeptTokens = BTreeMap<String, Token>;

/// A volume has no slash in its name.
fn kept_token(volume: &str, path: &str) -> String {
    format!("{volume}/{path}")
}

/// A volume's path on the node.
pub fn path(paths: &Paths, uid: &str, volume: &Volume) -> PathBuf {
    match &volume.host_path {
        Some(source) => PathBuf::from(&source.path),
        None => paths.pod(uid).join("volumes").join(&volume.name),
    }
}

/// Reads all ConfigMaps and Secrets of these names.
pub async fn refer(
    objects: &Objects,
    namespace: &str,
    (config_maps, secrets): (Vec<String>, Vec<String>),
    not_before: Instant,
) -> Result<Referred, ObjectError> {
    let config_maps = config_maps.into_iter().map(|name| async move {
        let found = objects.config_map(namespace, &name, not_before).await?;
        Ok::<_, ObjectError>((name, found))
    });
    let secrets = secrets.into_iter().map(|name| async move {
        let found = objects.secret(namespace, &name, not_before).await?;
        Ok::<_, ObjectError>((name, found))
    });
    let (config_maps, secrets) = tokio::try_join!(try_join_all(config_maps), try_join_all(secrets))?;
    Ok(Referred { config_maps: config_maps.into_iter().collect(), secrets: secrets.into_iter().collect() })
}

/// Whether any of a pod's volumes may change while it runs.
pub fn may_change(pod: &Pod) -> bool {
    // A volume of the cluster may grow, and a driver may want to see its pods again.
    let may = |volume: &Volume| payload::written(volume).is_some() || claims::is_foreign(volume);
    spec::spec(pod).volumes.iter().flatten().any(may)
}

/// When the volumes should be looked at again, if they may change.
pub fn next_refresh(pod: &Pod, now: Moment) -> Option<Moment> {
    // Spread over a fifth of the interval, so that pods that started together do not ask together for ever.
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let spread = uid.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let interval = REFRESH_EVERY + Duration::from_millis(spread % 12_000);
    may_change(pod).then(|| now.after(interval))
}

/// How old the objects may be that a refresh sees.
pub fn refresh_horizon() -> Instant {
    let now = Instant::now();
    now.checked_sub(REFRESH_TOLERANCE).unwrap_or(now)
}

/// Makes all volumes of the pod, or brings their contents up to date.
pub async fn mount(context: &Context, pod: &Pod, not_before: Instant) -> Result<(), VolumeError> {
    let volumes = spec::spec(pod).volumes.as_deref().unwrap_or_default();
    let all = volumes.iter().map(|volume| async move {
        if let Some(claim) = claims::claim_of(pod, volume) {
            return persistent::make(context, pod, volume, &claim).await;
        }
        if let Some(source) = &volume.csi {
            return csi::make(context, pod, volume, &csi::Wanted::inline(pod, &volume.name, source)).await;
        }
        if volume.image.is_some() {
            // It is resolved as the images of containers are, when the first container wants it.
            return Ok(());
        }
        let made = make(context, pod, volume, not_before).await;
        made.map_err(|message| VolumeError::Stage { stage: "SetUp", volume: volume.name.clone(), message })
    });
    try_join_all(all).await.map(drop)
}

async fn make(context: &Context, pod: &Pod, volume: &Volume, not_before: Instant) -> Result<(), String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let dir = path(&context.paths, uid, volume);
    let group = spec::spec(pod).security_context.as_ref().and_then(|security| security.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    let has_memory = context.runtime.has_memory();
    if let Some(source) = &volume.host_path {
        let source = source.clone();
        return blocking(move || check_host_path(&source)).await;
    }
    if let Some(source) = &volume.empty_dir {
        let empty = Empty::wanted(pod, source, group, has_memory)?;
        return blocking(move || empty.make(&dir).map_err(|error| error.to_string())).await;
    }
    let Some(written) = payload::written(volume) else {
        return Err("this kind of volume is not supported on this node".into());
    };
    let files = contents(context, pod, &written, not_before).await?;
    let (secret, now) = (written.secret && has_memory, crate::clock::now());
    blocking(move || {
        create_dir(&dir)?;
        // A secret should not reach a disk; where there is no memory file system, the folder's owner guards it.
        if secret && !sys::mount_memory(&dir, None, 0o755).map_err(|error| error.to_string())? {
            tracing::debug!(dir = %dir.display(), "no memory file system for a secret");
        }
        atomic::write(&dir, &files, group, now).map_err(|error| error.to_string())
    })
    .await
}

async fn blocking(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    blocking_of(|| work().map_err(|message| ("", message))).await.map_err(|(_, message)| message)
}

/// Runs what the file system may take its time for; a failure has its stage and its reason.
async fn blocking_of<F>(work: F) -> Result<(), (&'static str, String)>
where
    F: FnOnce() -> Result<(), (&'static str, String)> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(("SetUp", error.to_string())),
    }
}

async fn contents(
    context: &Context,
    pod: &Pod,
    written: &Written<'_>,
    not_before: Instant,
) -> Result<payload::Payload, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let referred = refer(&context.objects, namespace, payload::references(written), not_before).await;
    let referred = referred.map_err(|error| error.to_string())?;
    let mut tokens = BTreeMap::new();
    for wanted in payload::tokens(written) {
        let text = token(context, pod, written.name, wanted).await?;
        tokens.insert(wanted.path.clone(), text);
    }
    let around = Surroundings {
        host_ips: &context.host_ips,
        pod_ips: &[],
        node_name: &context.node_name,
        allocatable: &context.allocatable,
    };
    payload::payload(pod, written, &around, &referred, &tokens)
}

async fn token(
    context: &Context,
    pod: &Pod,
    volume: &str,
    wanted: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection,
) -> Result<String, String> {
    let identity = spec::identity(pod);
    let key = (identity.uid.clone(), volume.to_owned(), wanted.path.clone());
    let now = Now::read();
    if let Some(text) = context.tokens.valid(&key, now) {
        return Ok(text);
    }
    let account = spec::spec(pod).service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let seconds = wanted.expiration_seconds.unwrap_or(TOKEN_EXPIRATION_S);
    let audience = wanted.audience.as_deref().filter(|audience| !audience.is_empty());
    let kept = Key::cluster(Kind::Tokens, &identity.uid);
    let issued = match context.objects.token(&identity, account, audience, seconds).await {
        Ok(issued) => issued,
        Err(error) => {
            // An old one is better than none: who does not know the API server to be there cannot show it a new one either.
            let away = matches!(&error, ObjectError::Api { source, .. } if checkpoint::is_away(source));
            let tokens = if away { context.checkpoint.find::<KeptTokens>(&kept).await } else { None };
            let old = tokens.and_then(|mut tokens| tokens.remove(&kept_token(volume, &wanted.path)));
            return old.map(|token| token.text).ok_or_else(|| error.to_string());
        }
    };
    let status = issued.status.ok_or("the API server issued no token")?;
    // How long it lives, not until when: the API server's clock may show another time than this one.
    let life = Life::new(now, issued.spec.expiration_seconds.unwrap_or(seconds));
    context.tokens.put(key, Token { text: status.token.clone(), life: Some(life) });
    context.checkpoint.keep(kept, &context.tokens.of(&identity.uid));
    Ok(status.token)
}

fn create_dir(dir: &Path) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|error| error.to_string())
}

fn check_host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let wanted = source.type_.as_deref().unwrap_or_default();
    if wanted.is_empty() {
        // Whatever is there, and a folder if nothing is.
        if sys::file_kind(path).map_err(|error| error.to_string())?.is_none() {
            create_dir(path)?;
        }
        return Ok(());
    }
    let kind = sys::file_kind(path).map_err(|error| error.to_string())?;
    let (expected, name) = match wanted {
        "DirectoryOrCreate" | "Directory" => (FileKind::Directory, "a directory"),
        "FileOrCreate" | "File" => (FileKind::File, "a file"),
        "Socket" => (FileKind::Socket, "a socket file"),
        "CharDevice" => (FileKind::CharDevice, "a character device"),
        "BlockDevice" => (FileKind::BlockDevice, "a block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    match (kind, wanted) {
        (Some(kind), _) if kind == expected => Ok(()),
        (None, "DirectoryOrCreate") => create_dir(path),
        (None, "FileOrCreate") => std::fs::File::create(path).map(drop).map_err(|error| error.to_string()),
        _ => Err(format!("hostPath type check failed: {} is not {name}", source.path)),
    }
}

/// The mounts of one container for its pod's volumes; the error is the message of a CreateContainerConfigError.
pub fn mounts(paths: &Paths, pod: &Pod, container: &Container, env: &[(String, String)]) -> Result<Vec<Mount>, String> {
    let who = spec::identity(pod);
    let volumes = spec::spec(pod).volumes.as_deref().unwrap_or_default();
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| {
            format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, container.name)
        })?;
        let root = path(paths, &who.uid, volume);
        let pin = pin_path(paths, &who, &mount.name, &container.name, index);
        let is_recursive = read_only::is_recursive(mount)?;
        let host_path = match sub_path(mount, env)? {
            None if is_recursive => read_only::bind(&root, &pin).map_err(|error| {
                format!(
                    "failed to make volumeMount \"{}\" of container \"{}\" recursively read-only: {error}",
                    mount.name, container.name
                )
            })?,
            None => root,
            // Of what is mounted in the volume a path in it shows nothing.
            Some(sub) => sys::pin_subpath(&root, Path::new(&sub), &pin).map_err(|error| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                    mount.name, container.name
                )
            })?,
        };
        let written = payload::written(volume).is_some();
        mounts.push(Mount {
            container_path: PathBuf::from(&mount.mount_path),
            host_path,
            // What the agent writes is not the container's to change.
            read_only: mount.read_only.unwrap_or(false)
                || written
                || volume.image.is_some()
                || claims::is_read_only(volume),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::HostToContainer,
                Some("Bidirectional") => MountPropagation::Bidirectional,
                _ => MountPropagation::None,
            },
        });
    }
    Ok(mounts)
}

fn pin_path(paths: &Paths, who: &PodIdentity, volume: &str, container: &str, index: usize) -> PathBuf {
    paths.pod(&who.uid).join("volume-subpaths").join(volume).join(container).join(index.to_string())
}

fn sub_path(
    mount: &k8s_openapi::api::core::v1::VolumeMount,
    env: &[(String, String)],
) -> Result<Option<String>, String> {
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        let lookup = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let expanded = env::expand(expression, lookup);
        if expanded.contains("$(") {
            return Err(format!("missing value for subPathExpr {expression}"));
        }
        return Ok(Some(expanded));
    }
    Ok(mount.sub_path.clone().filter(|text| !text.is_empty()))
}

/// The devices of one container: those of the node, by where the container sees them and what it may do with them.
pub fn devices(paths: &Paths, pod: &Pod, container: &Container) -> Result<Vec<(PathBuf, PathBuf, String)>, String> {
    let uid = spec::identity(pod).uid;
    let volumes = spec::spec(pod).volumes.as_deref().unwrap_or_default();
    let found = container.volume_devices.iter().flatten().map(|device| {
        let volume = volumes.iter().find(|volume| volume.name == device.name);
        let volume = volume.ok_or_else(|| {
            format!("cannot find volume \"{}\" to pass into container \"{}\"", device.name, container.name)
        })?;
        let link = paths.devices(&uid).join(&device.name);
        let on_node = std::fs::read_link(&link).map_err(|error| {
            format!("failed to prepare device \"{}\" of container \"{}\": {error}", device.name, container.name)
        })?;
        let rights = if claims::is_read_only(volume) { "r" } else { "mrw" };
        Ok((on_node, PathBuf::from(&device.device_path), rights.to_owned()))
    });
    found.collect()
}

/// Unmounts and removes everything of a pod but the folder of its logs.
pub async fn remove(context: &Context, uid: &str) -> Result<(), String> {
    let (dir, records) = (context.paths.pod(uid), context.paths.claims(uid));
    let parts = dir.clone();
    blocking(move || {
        // What is mounted from a volume is in the way of giving it back.
        let removed = ["volume-subpaths", "volume-devices"].map(|part| sys::remove_unmounted(&parts.join(part)));
        removed.into_iter().collect::<Result<(), _>>().map_err(|error| error.to_string())
    })
    .await?;
    csi::remove(context, uid).await?;
    let volumes = dir.join("volumes");
    blocking(move || sys::remove_unmounted(&volumes).map_err(|error| error.to_string())).await?;
    image::remove(context, uid).await?;
    blocking(move || {
        let failed = |error: io::Error| error.to_string();
        // Last: as long as anything is left of a volume, it is known whose it is.
        sys::remove_unmounted(&records).map_err(failed)?;
        sys::unmount_below(&dir).map_err(failed)
    })
    .await
}

/// Removes all that is left of a pod.
pub async fn remove_folder(paths: &Paths, uid: &str) -> Result<(), String> {
    let dir = paths.pod(uid);
    blocking(move || sys::remove_unmounted(&dir).map_err(|error| error.to_string())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_by_whichever_clock_says_so() {
        let at = |wall: i64, steady| Now {
            wall: jiff::Timestamp::from_second(1_000_000 + wall).unwrap(),
            steady: Moment::from_second(steady),
        };
        let life = Life::new(at(0, 0), 1000);
        for (wall, steady, goes_on) in [
            (799, 799, true),
            (800, 800, false),
            // The clock was set back: by its stamps it lives on, and whoever checks it says that it is not valid yet.
            (-30, 100, true),
            (-60, 100, false),
            (-30, 800, false),
            (800, 100, false),
        ] {
            assert_eq!(life.goes_on(at(wall, steady)), goes_on, "{wall} {steady}");
        }
        let long = Life::new(at(0, 0), 1_000_000);
        assert!(long.goes_on(at(86_399, 86_399)) && !long.goes_on(at(86_400, 86_400)));
    }

    #[test]
    fn host_path_types_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let check = |path: &Path, kind: &str| {
            check_host_path(&HostPathVolumeSource { path: path.display().to_string(), type_: Some(kind.into()) })
        };
        assert!(check(&file, "File").is_ok());
        let error = check(&file, "Directory").unwrap_err();
        assert!(error.starts_with("hostPath type check failed") && error.ends_with("is not a directory"));
        assert!(check(&dir.path().join("none"), "Directory").is_err());
        assert!(check(&dir.path().join("none"), "DirectoryOrCreate").is_ok());
        assert!(check(&dir.path().join("none"), "Directory").is_ok());
        assert!(check(&dir.path().join("new"), "FileOrCreate").is_ok());
        assert!(check(&dir.path().join("new"), "Socket").is_err());
    }
}
