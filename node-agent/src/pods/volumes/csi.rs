//! Volumes that drivers make available: staged once on the node, published to each pod, given back when the last pod is gone.
//!
//! What was asked of a driver stands in the pod's records before it is asked, so that it is undone whatever comes between.
//! Drivers must bear being asked twice, and are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gantry_api::storage;
use k8s_openapi::api::core::v1::{CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use super::claims::{self, Record};
use super::persistent::Ownership;
use super::{VolumeError, sys};
use crate::Paths;
use crate::checkpoint::{Key, Kind as Kept};
use crate::csi::messages::{self as m};
use crate::csi::{CallError, Driver};
use crate::pods::context::Context;
use crate::pods::events::Kind;
use crate::pods::resources::amount;
use crate::pods::spec;

/// How long the node's status may take to say that a volume is in use.
const IN_USE_TOLD_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// A secret by namespace and name.
type SecretName = (String, String);

/// What a pod wants of a driver.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    driver: String,
    handle: String,
    /// The PersistentVolume; empty for a volume that only this pod has.
    volume: String,
    claim: String,
    fs_type: String,
    attributes: HashMap<String, String>,
    read_only: bool,
    block: bool,
    access_modes: Vec<String>,
    mount_options: Vec<String>,
    stage_secret: Option<SecretName>,
    publish_secret: Option<SecretName>,
    expand_secret: Option<SecretName>,
}

impl Wanted {
    /// A volume of the cluster.
    pub fn of_volume(found: &PersistentVolume, claim: &str, read_only: bool) -> Option<Self> {
        let spec = found.spec.as_ref()?;
        let csi = spec.csi.as_ref()?;
        let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
            let reference = reference.as_ref()?;
            Some((reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default()))
        };
        Some(Self {
            driver: csi.driver.clone(),
            handle: csi.volume_handle.clone(),
            volume: found.metadata.name.clone().unwrap_or_default(),
            claim: claim.to_owned(),
            fs_type: csi.fs_type.clone().unwrap_or_default(),
            attributes: csi.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            read_only,
            block: claims::volume_mode(found) == "Block",
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            stage_secret: secret(&csi.node_stage_secret_ref),
            publish_secret: secret(&csi.node_publish_secret_ref),
            expand_secret: secret(&csi.node_expand_secret_ref),
        })
    }

    /// A volume that a pod brings along.
    pub fn inline(pod: &Pod, name: &str, source: &CSIVolumeSource) -> Self {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        Self {
            driver: source.driver.clone(),
            handle: format!("csi-{}", storage::digest(&[uid, name])),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            read_only: source.read_only.unwrap_or(false),
            access_modes: vec!["ReadWriteOnce".to_owned()],
            publish_secret: source.node_publish_secret_ref.as_ref().map(|secret| (namespace, secret.name.clone())),
            ..Self::default()
        }
    }

    fn is_inline(&self) -> bool {
        self.volume.is_empty()
    }

    /// By this pods take their turns with it.
    fn key(&self) -> &str {
        if self.is_inline() { &self.handle } else { &self.volume }
    }

    fn capability(&self, driver: &Driver, group: Option<u32>) -> m::VolumeCapability {
        let group = group.filter(|_| driver.can(m::VOLUME_MOUNT_GROUP));
        let mount = m::MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_options.clone(),
            volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
        };
        let first = self.access_modes.first().map_or("ReadWriteOnce", String::as_str);
        let mode = access_mode(first, driver.can(m::SINGLE_NODE_MULTI_WRITER));
        m::VolumeCapability {
            block: self.block.then_some(m::Empty {}),
            mount: (!self.block).then_some(mount),
            access_mode: Some(m::AccessMode { mode }),
        }
    }

    /// Whether the agent gives the volume's files to the pod's group.
    fn is_given_to_group(&self, driver: &Driver, object: Option<&CSIDriver>) -> bool {
        if self.block || self.read_only || driver.can(m::VOLUME_MOUNT_GROUP) {
            return false;
        }
        let policy = object.and_then(|object| object.spec.fs_group_policy.as_deref());
        match policy.unwrap_or("ReadWriteOnceWithFSType") {
            "None" => false,
            "File" => true,
            _ => !self.fs_type.is_empty() && self.access_modes.iter().any(|mode| mode == "ReadWriteOnce"),
        }
    }
}

/// The interface's number of an access mode.
fn access_mode(mode: &str, tells_writers_apart: bool) -> i32 {
    match (mode, tells_writers_apart) {
        ("ReadWriteOnce", false) | ("ReadWriteOncePod", false) => 1,
        ("ReadWriteOnce", true) => 7,
        ("ReadWriteOncePod", true) => 6,
        ("ReadOnlyMany", _) => 3,
        ("ReadWriteMany", _) => 5,
        _ => 0,
    }
}

/// Where a volume is staged.
fn staging(paths: &Paths, wanted: &Wanted) -> PathBuf {
    let base = paths.drivers();
    match wanted.block {
        true => base.join("volumeDevices").join("staging").join(&wanted.volume),
        false => base.join(&wanted.driver).join(storage::digest(&[&wanted.handle])).join("globalmount"),
    }
}

/// Where a pod has a volume.
fn target(paths: &Paths, uid: &str, volume: &str, record: &Record) -> PathBuf {
    match record.block {
        true => paths.drivers().join("volumeDevices").join("publish").join(&record.volume).join(uid),
        false => paths.pod(uid).join("volumes").join(volume),
    }
}

/// Makes a volume available to a pod.
pub async fn make(context: &Context, pod: &Pod, volume: &Volume, wanted: &Wanted) -> Result<(), VolumeError> {
    let name = if wanted.is_inline() { volume.name.clone() } else { wanted.volume.clone() };
    let made = Making { context, pod, volume, wanted }.make().await;
    made.map_err(|(stage, message)| VolumeError::Stage { stage, volume: name, message })
}

type Failure = (&'static str, String);

const SET_UP: &str = "SetUp";
const STAGE: &str = "MountDevice";

fn set_up(error: impl std::fmt::Display) -> Failure {
    (SET_UP, error.to_string())
}

struct Making<'a> {
    context: &'a Context,
    pod: &'a Pod,
    volume: &'a Volume,
    wanted: &'a Wanted,
}

impl Making<'_> {
    async fn make(&self) -> Result<(), Failure> {
        let (context, wanted) = (self.context, self.wanted);
        let driver = context.drivers.get(&wanted.driver).map_err(set_up)?;
        let object = csi_driver(context, &wanted.driver).await.map_err(set_up)?;
        check_life_cycle(wanted, object.as_ref()).map_err(set_up)?;
        let attachment = self.attachment(object.as_ref()).await?;
        let _turn = context.volume_locks.lock(wanted.key()).await;
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let staged = !wanted.is_inline() && driver.can(m::STAGE_UNSTAGE_VOLUME);
        let mut record = Record {
            volume: wanted.volume.clone(),
            claim: wanted.claim.clone(),
            driver: wanted.driver.clone(),
            handle: wanted.handle.clone(),
            staged: staged.then(|| staging(&context.paths, wanted)),
            attached: attachment.is_some(),
            block: wanted.block,
            ..Record::default()
        };
        let mut publish_context = attachment.unwrap_or_default();
        let known = claims::read(&context.paths, uid).remove(&self.volume.name);
        let done = known.is_some_and(|known| known.boot == context.boot_id && !known.boot.is_empty());
        let again = object.as_ref().and_then(|object| object.spec.requires_republish).unwrap_or(false);
        if done && !again {
            return Ok(());
        }
        if !done {
            claims::write(&context.paths, uid, &self.volume.name, &record).map_err(set_up)?;
            context.in_use.note(uid, &self.volume.name, &record);
            if record.attached {
                self.tell_in_use().await;
                // It may have been taken away before anybody could see that it is in use.
                publish_context = self.attachment(object.as_ref()).await?.unwrap_or_default();
            }
        }
        let ownership = Ownership::of(self.pod);
        let capability = wanted.capability(&driver, ownership.group);
        if let Some(path) = record.staged.as_ref().filter(|_| !done) {
            self.stage(&driver, path, &capability, &publish_context).await?;
        }
        let target = target(&context.paths, uid, &self.volume.name, &record);
        self.publish(&driver, object.as_ref(), &record, &target, capability, publish_context).await?;
        if done {
            return Ok(());
        }
        if wanted.block {
            link(&context.paths, uid, &self.volume.name, &target).map_err(set_up)?;
        } else if wanted.is_given_to_group(&driver, object.as_ref()) {
            let dir = target.clone();
            let given = tokio::task::spawn_blocking(move || ownership.apply(&dir)).await.map_err(set_up)?;
            given.map_err(|error| set_up(format!("applyFSGroup failed for vol {}: {error}", wanted.handle)))?;
        }
        record.boot.clone_from(&context.boot_id);
        claims::write(&context.paths, uid, &self.volume.name, &record).map_err(set_up)
    }

    /// Waits until the node's status says that the volume is in use, and still that it is attached: from then on nobody takes it away.
    /// Without an API server there is nobody who could, nor anybody to tell.
    async fn tell_in_use(&self) {
        let name = storage::unique_name(&self.wanted.driver, &self.wanted.handle);
        let mut node = self.context.node.clone();
        let told = node.wait_for(|node| {
            // As it was kept, of no version: the API server has not been there since this agent began.
            if node.as_ref().is_some_and(|node| node.metadata.resource_version.is_none()) {
                return true;
            }
            let status = node.as_ref().and_then(|node| node.status.as_ref());
            status.is_some_and(|status| {
                status.volumes_in_use.iter().flatten().any(|other| *other == name)
                    && status.volumes_attached.iter().flatten().any(|other| other.name == name)
            })
        });
        if tokio::time::timeout(IN_USE_TOLD_MAX, told).await.is_err() {
            tracing::warn!(volume = name, "the node's status does not say yet that the volume is in use");
        }
    }

    /// What attaching the volume to this node said, if it has to be attached; an error as long as it is not.
    async fn attachment(&self, object: Option<&CSIDriver>) -> Result<Option<HashMap<String, String>>, Failure> {
        let wanted = self.wanted;
        let needed = object.and_then(|object| object.spec.attach_required).unwrap_or(true);
        if wanted.is_inline() || !needed {
            return Ok(None);
        }
        let name = storage::attachment_name(&wanted.handle, &wanted.driver, &self.context.node_name);
        let api: Api<VolumeAttachment> = Api::all(self.context.client.clone());
        let failed = |why: String| ("WaitForAttach", why);
        let found = self.context.checkpoint.read(Key::cluster(Kept::Attachment, &name), api.get_opt(&name)).await;
        let found = found.map_err(|error| failed(error.to_string()))?;
        if found.as_ref().is_some_and(|found| found.metadata.deletion_timestamp.is_some()) {
            return Err(failed(format!("volume {} is being detached: {name}", wanted.handle)));
        }
        let status = found.and_then(|found| found.status);
        let Some(status) = status else {
            return Err(failed(format!("volume {} has no VolumeAttachment yet: {name}", wanted.handle)));
        };
        if let Some(error) = status.attach_error.as_ref().and_then(|error| error.message.clone()) {
            return Err(failed(error));
        }
        if !status.attached {
            return Err(failed(format!("volume {} is not attached yet: {name}", wanted.handle)));
        }
        Ok(Some(status.attachment_metadata.unwrap_or_default().into_iter().collect()))
    }

    async fn stage(
        &self,
        driver: &Driver,
        path: &Path,
        capability: &m::VolumeCapability,
        publish_context: &HashMap<String, String>,
    ) -> Result<(), Failure> {
        let wanted = self.wanted;
        let secrets = secret(self.context, wanted.stage_secret.as_ref()).await.map_err(|error| (STAGE, error))?;
        std::fs::create_dir_all(path).map_err(|error| (STAGE, error.to_string()))?;
        let request = m::StageRequest {
            volume_id: wanted.handle.clone(),
            publish_context: publish_context.clone(),
            staging_target_path: path.display().to_string(),
            volume_capability: Some(capability.clone()),
            secrets,
            volume_context: wanted.attributes.clone(),
        };
        driver.socket.stage(request).await.map_err(|error| (STAGE, error.to_string()))
    }

    async fn publish(
        &self,
        driver: &Driver,
        object: Option<&CSIDriver>,
        record: &Record,
        target: &Path,
        capability: m::VolumeCapability,
        publish_context: HashMap<String, String>,
    ) -> Result<(), Failure> {
        let wanted = self.wanted;
        // The driver makes the last part of the path itself.
        target.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(set_up)?;
        let mut secrets = secret(self.context, wanted.publish_secret.as_ref()).await.map_err(set_up)?;
        let mut volume_context = wanted.attributes.clone();
        if object.and_then(|object| object.spec.pod_info_on_mount).unwrap_or(false) {
            volume_context.extend(pod_info(self.pod, wanted.is_inline()));
        }
        if let Some(tokens) = self.tokens(object).await.map_err(set_up)? {
            let secret = object.and_then(|object| object.spec.service_account_token_in_secrets).unwrap_or(false);
            let into = if secret { &mut secrets } else { &mut volume_context };
            into.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens);
        }
        let staged = record.staged.as_ref().map(|path| path.display().to_string());
        let request = m::PublishRequest {
            volume_id: wanted.handle.clone(),
            publish_context,
            staging_target_path: staged.unwrap_or_default(),
            target_path: target.display().to_string(),
            volume_capability: Some(capability),
            readonly: wanted.read_only,
            secrets,
            volume_context,
        };
        driver.socket.publish(request).await.map_err(set_up)
    }

    /// The tokens that the driver wants of the pod's account, as it wants them.
    async fn tokens(&self, object: Option<&CSIDriver>) -> Result<Option<String>, String> {
        let requests = object.and_then(|object| object.spec.token_requests.as_deref()).unwrap_or_default();
        if requests.is_empty() {
            return Ok(None);
        }
        let account = spec::spec(self.pod).service_account_name.clone().unwrap_or_else(|| "default".into());
        let mut tokens = serde_json::Map::new();
        for request in requests {
            let audience = (!request.audience.is_empty()).then_some(request.audience.as_str());
            let seconds = request.expiration_seconds.unwrap_or(3600);
            let who = spec::identity(self.pod);
            let issued = self.context.objects.token(&who, &account, audience, seconds).await;
            let status = issued.map_err(|error| error.to_string())?.status;
            let status = status.ok_or("the API server issued no token")?;
            let token = json!({"token": status.token, "expirationTimestamp": status.expiration_timestamp});
            tokens.insert(request.audience.clone(), token);
        }
        Ok(Some(serde_json::Value::Object(tokens).to_string()))
    }
}

/// A driver must say that it has volumes that pods bring along; others it has unless it says otherwise.
fn check_life_cycle(wanted: &Wanted, object: Option<&CSIDriver>) -> Result<(), String> {
    let mode = if wanted.is_inline() { "Ephemeral" } else { "Persistent" };
    let Some(object) = object else {
        let why = format!("volume mode \"{mode}\" not supported by driver {} (no CSIDriver object)", wanted.driver);
        return if wanted.is_inline() { Err(why) } else { Ok(()) };
    };
    let persistent = vec!["Persistent".to_owned()];
    let modes = object.spec.volume_lifecycle_modes.as_ref().unwrap_or(&persistent);
    match modes.iter().any(|other| other == mode) {
        true => Ok(()),
        false => {
            let driver = &wanted.driver;
            Err(format!("volume mode \"{mode}\" not supported by driver {driver} (only supports {modes:?})"))
        }
    }
}

fn pod_info(pod: &Pod, ephemeral: bool) -> [(String, String); 5] {
    let who = spec::identity(pod);
    let account = spec::spec(pod).service_account_name.clone().unwrap_or_default();
    let key = |name: &str| format!("csi.storage.k8s.io/{name}");
    [
        (key("pod.name"), who.name),
        (key("pod.namespace"), who.namespace),
        (key("pod.uid"), who.uid),
        (key("serviceAccount.name"), account),
        (key("ephemeral"), ephemeral.to_string()),
    ]
}

async fn csi_driver(context: &Context, name: &str) -> Result<Option<CSIDriver>, String> {
    let api: Api<CSIDriver> = Api::all(context.client.clone());
    let found = context.checkpoint.read(Key::cluster(Kept::Driver, name), api.get_opt(name)).await;
    found.map_err(|error| error.to_string())
}

async fn secret(context: &Context, name: Option<&SecretName>) -> Result<HashMap<String, String>, String> {
    let Some((namespace, name)) = name else { return Ok(HashMap::new()) };
    let found = context.objects.secret(namespace, name, Instant::now()).await.map_err(|error| error.to_string())?;
    let found =
        found.ok_or_else(|| format!("fetching secret {namespace}/{name} failed: secrets \"{name}\" not found"))?;
    let data = found.data.iter().flatten();
    Ok(data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect())
}

fn link(paths: &Paths, uid: &str, volume: &str, device: &Path) -> std::io::Result<()> {
    let link = paths.devices(uid).join(volume);
    std::fs::create_dir_all(paths.devices(uid))?;
    if std::fs::read_link(&link).ok().as_deref() != Some(device) {
        let _ = std::fs::remove_file(&link);
        sys::symlink_file(device, &link)?;
    }
    Ok(())
}

/// Makes a volume's file system as large as the volume has become, and says so in the claim.
pub async fn expand(context: &Context, pod: &Pod, volume: &Volume, found: &PersistentVolume, wanted: &Wanted) {
    let Ok(driver) = context.drivers.get(&wanted.driver) else { return };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Ok(Some(claim)) = context.objects.claim(namespace, &wanted.claim).await else { return };
    let Some((size, text)) = growth(found, &claim).filter(|_| driver.can(m::EXPAND_VOLUME)) else { return };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let Some(record) = claims::read(&context.paths, uid).remove(&volume.name) else { return };
    let secrets = secret(context, wanted.expand_secret.as_ref()).await.unwrap_or_default();
    let staged = record.staged.as_ref().map(|path| path.display().to_string());
    let request = m::ExpandRequest {
        volume_id: wanted.handle.clone(),
        volume_path: target(&context.paths, uid, &volume.name, &record).display().to_string(),
        capacity_range: Some(m::CapacityRange { required_bytes: size, limit_bytes: 0 }),
        staging_target_path: staged.unwrap_or_default(),
        volume_capability: Some(wanted.capability(&driver, None)),
        secrets,
    };
    let name = &wanted.volume;
    if let Err(error) = driver.socket.expand(request).await {
        let message = format!("MountVolume.NodeExpandVolume failed for volume \"{name}\" : {error}");
        context.events.pod(pod, Kind::Warning, "VolumeResizeFailed", message);
        return;
    }
    let message = format!("MountVolume.NodeExpandVolume succeeded for volume \"{name}\" {}", context.node_name);
    context.events.pod(pod, Kind::Normal, "FileSystemResizeSuccessful", message);
    let left: Vec<_> = claim
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .filter(|condition| !matches!(condition.type_.as_str(), "Resizing" | "FileSystemResizePending"))
        .collect();
    let patch = json!({"metadata": {"resourceVersion": claim.metadata.resource_version}, "status": {
        "capacity": {"storage": text}, "conditions": left, "allocatedResourceStatuses": null}});
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    if let Err(error) = api.patch_status(&wanted.claim, &PatchParams::default(), &Patch::Merge(patch)).await {
        // The next look does it again, which the driver must bear.
        tracing::warn!(claim = wanted.claim, %error, "cannot tell that a volume has grown");
    }
}

/// How large the volume has become since the claim was told, in bytes and as it is written.
fn growth(found: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<(i64, String)> {
    let size = found.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    let told = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    let bytes = amount("storage", size);
    (bytes > amount("storage", told)).then(|| (bytes, size.0.clone()))
}

/// Gives back what a pod has of drivers; what cannot be given back yet is told, and stays in the records.
pub async fn remove(context: &Context, uid: &str) -> Result<(), String> {
    for (volume, record) in
        claims::read(&context.paths, uid).into_iter().filter(|(_, record)| !record.driver.is_empty())
    {
        let key = if record.volume.is_empty() { &record.handle } else { &record.volume };
        let _turn = context.volume_locks.lock(key).await;
        let driver = context.drivers.get(&record.driver)?;
        let target = target(&context.paths, uid, &volume, &record);
        let failed = |what: &str, error: CallError| format!("{what} failed for volume \"{volume}\" : {error}");
        let request =
            m::UnpublishRequest { volume_id: record.handle.clone(), target_path: target.display().to_string() };
        driver.socket.unpublish(request).await.map_err(|error| failed("UnmountVolume.TearDown", error))?;
        sys::remove_if_free(&target).map_err(|error| error.to_string())?;
        if let Some(staged) = &record.staged
            && !has_others(&context.paths, uid, &record).await?
        {
            let request = m::UnstageRequest {
                volume_id: record.handle.clone(),
                staging_target_path: staged.display().to_string(),
            };
            driver.socket.unstage(request).await.map_err(|error| failed("UnmountDevice", error))?;
            sys::remove_if_free(staged).map_err(|error| error.to_string())?;
            // The folder of this volume; a driver's is left while it has others.
            let _ = staged.parent().map(std::fs::remove_dir);
        }
        claims::strike(&context.paths, uid, &volume).map_err(|error| error.to_string())?;
        context.in_use.strike(uid, &volume);
    }
    Ok(())
}

/// Whether other pods have the volume of a pod's record as well.
async fn has_others(paths: &Paths, uid: &str, record: &Record) -> Result<bool, String> {
    let (paths, uid, same) = (paths.clone(), uid.to_owned(), record.clone());
    let is_same = move |other: &Record| other.driver == same.driver && other.handle == same.handle;
    let looked = tokio::task::spawn_blocking(move || claims::others(&paths, &uid, is_same)).await;
    looked.map_err(|error| error.to_string())
}

/// What a volume of a pod holds, as its driver says; `None` if it does not.
pub async fn stats(
    driver: &Driver,
    paths: &Paths,
    uid: &str,
    volume: &str,
    record: &Record,
) -> Option<Vec<m::VolumeUsage>> {
    if !driver.can(m::GET_VOLUME_STATS) {
        return None;
    }
    let staged = record.staged.as_ref().map(|path| path.display().to_string());
    let request = m::StatsRequest {
        volume_id: record.handle.clone(),
        volume_path: target(paths, uid, volume, record).display().to_string(),
        staging_target_path: staged.unwrap_or_default(),
    };
    match driver.socket.stats(request).await {
        Ok(answer) => Some(answer.usage),
        Err(error) => {
            tracing::debug!(volume, %error, "a driver does not tell what a volume holds");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::Socket;

    fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn driver(capabilities: &[i32]) -> Driver {
        Driver { socket: Socket(PathBuf::new()), capabilities: capabilities.to_vec(), registered_by: PathBuf::new() }
    }

    fn volume() -> PersistentVolume {
        object(
            json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"], "mountOptions": ["noatime"],
            "capacity": {"storage": "2Gi"}, "csi": {"driver": "d", "volumeHandle": "h", "fsType": "ext4",
            "volumeAttributes": {"a": "b"}, "nodeStageSecretRef": {"namespace": "ns", "name": "s"}}}}),
        )
    }

    #[test]
    fn what_is_asked_of_a_driver_follows_from_the_volume() {
        let wanted = Wanted::of_volume(&volume(), "c", false).unwrap();
        assert_eq!((wanted.driver.as_str(), wanted.handle.as_str(), wanted.key()), ("d", "h", "pv"));
        assert_eq!(wanted.stage_secret, Some(("ns".into(), "s".into())));
        let capability = wanted.capability(&driver(&[]), Some(7));
        let mount = capability.mount.unwrap();
        assert_eq!((mount.fs_type.as_str(), &mount.mount_flags[..]), ("ext4", &["noatime".to_owned()][..]));
        assert_eq!(mount.volume_mount_group, "", "the driver does not do that");
        let capability = wanted.capability(&driver(&[m::VOLUME_MOUNT_GROUP]), Some(7));
        assert_eq!(capability.mount.unwrap().volume_mount_group, "7");
        for (mode, plain, apart) in
            [("ReadWriteOnce", 1, 7), ("ReadWriteOncePod", 1, 6), ("ReadOnlyMany", 3, 3), ("ReadWriteMany", 5, 5)]
        {
            assert_eq!((access_mode(mode, false), access_mode(mode, true)), (plain, apart), "{mode}");
        }
    }

    #[test]
    fn a_group_gets_a_volume_as_the_driver_says() {
        let wanted = Wanted::of_volume(&volume(), "c", false).unwrap();
        let with = |policy: &str| object::<CSIDriver>(json!({"metadata": {}, "spec": {"fsGroupPolicy": policy}}));
        let given = |wanted: &Wanted, policy: &str| wanted.is_given_to_group(&driver(&[]), Some(&with(policy)));
        assert!(wanted.is_given_to_group(&driver(&[]), None));
        assert!(!wanted.is_given_to_group(&driver(&[m::VOLUME_MOUNT_GROUP]), None));
        assert!(given(&wanted, "File") && !given(&wanted, "None"));
        let no_type = Wanted { fs_type: String::new(), ..wanted.clone() };
        assert!(given(&no_type, "File") && !given(&no_type, "ReadWriteOnceWithFSType"));
        let shared = Wanted { access_modes: vec!["ReadWriteMany".into()], ..wanted.clone() };
        assert!(!given(&shared, "ReadWriteOnceWithFSType"));
        assert!(!given(&Wanted { read_only: true, ..wanted }, "File"));
    }

    #[test]
    fn a_driver_must_have_volumes_that_pods_bring_along() {
        let pod: Pod = object(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}}));
        let source = object(json!({"driver": "d", "nodePublishSecretRef": {"name": "s"}}));
        let inline = Wanted::inline(&pod, "v", &source);
        assert_eq!(inline.publish_secret, Some(("ns".into(), "s".into())));
        assert_eq!(inline.handle, format!("csi-{}", storage::digest(&["uv"])));
        let persistent = Wanted::of_volume(&volume(), "c", false).unwrap();
        let with =
            |modes: &[&str]| object::<CSIDriver>(json!({"metadata": {}, "spec": {"volumeLifecycleModes": modes}}));
        assert_eq!(check_life_cycle(&persistent, None), Ok(()));
        assert_eq!(
            check_life_cycle(&inline, None).unwrap_err(),
            "volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)"
        );
        assert_eq!(check_life_cycle(&inline, Some(&with(&["Persistent", "Ephemeral"]))), Ok(()));
        assert_eq!(
            check_life_cycle(&persistent, Some(&with(&["Ephemeral"]))).unwrap_err(),
            "volume mode \"Persistent\" not supported by driver d (only supports [\"Ephemeral\"])"
        );
    }

    #[test]
    fn a_volume_has_grown_when_it_is_larger_than_its_claim_was_told() {
        let claim = |size: &str| object(json!({"status": {"capacity": {"storage": size}}}));
        assert_eq!(growth(&volume(), &claim("1Gi")), Some((2 << 30, "2Gi".into())));
        assert_eq!(growth(&volume(), &claim("2048Mi")), None);
        assert_eq!(growth(&volume(), &object(json!({}))), None);
    }
}
