//! Volumes that are the contents of an image: resolved once for a pod, and only read.
//!
//! Which image it is stands in a note in the pod's folder before anything is mounted: what the runtime keeps for it is given back
//! when the pod goes, also by an agent that has not begun it.

use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use tokio::fs;

use super::{blocking, path, sys};
use crate::pods::backoff::RESTART_BASE;
use crate::pods::context::Context;
use crate::pods::events::Kind;
use crate::pods::images::{self, Missing};
use crate::pods::memory::Waiting;
use crate::pods::spec;

/// The volumes of images that a container mounts.
fn of<'a>(pod: &'a Pod, container: &'a Container) -> impl Iterator<Item = &'a Volume> {
    let mounted = |volume: &&Volume| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
    spec::spec(pod).volumes.iter().flatten().filter(|volume| volume.image.is_some()).filter(mounted)
}

/// The name under which the runtime keeps a volume's contents.
pub fn key(uid: &str, volume: &str) -> String {
    format!("gantry-volume-{uid}-{volume}")
}

/// Sees to it that the volumes of images which a container mounts are there.
pub async fn make(context: &Context, pod: &Pod, container: &Container) -> Result<(), Missing> {
    for volume in of(pod, container) {
        if let Err(missing) = make_one(context, pod, volume).await {
            let message = format!("Error: {}", missing.waiting.message);
            context.events.container(pod, &container.name, Kind::Warning, "Failed", message);
            return Err(missing);
        }
    }
    Ok(())
}

async fn make_one(context: &Context, pod: &Pod, volume: &Volume) -> Result<(), Missing> {
    let uid = spec::identity(pod).uid;
    let failed = |error: String| {
        let message = format!("ImageVolumeMountFailed: failed to mount image volume \"{}\": {error}", volume.name);
        let waiting = Waiting { reason: "CreateContainerError".into(), message };
        Missing { waiting, retry_at: crate::clock::steady().after(RESTART_BASE) }
    };
    let note = context.paths.image_volumes(&uid).join(&volume.name);
    let id = match fs::read_to_string(&note).await {
        Ok(id) if !id.is_empty() => id,
        _ => {
            let Some(source) = &volume.image else { return Ok(()) };
            let wanted = images::Wanted {
                image: source.reference.as_deref().unwrap_or_default(),
                policy: source.pull_policy.as_deref(),
                container: None,
            };
            let (image, _) = images::ensure(context, pod, &wanted).await?;
            write(&note, &image.id).await.map_err(|error| failed(error.to_string()))?;
            image.id
        }
    };
    let target = path(&context.paths, &uid, volume);
    let mounts = context.runtime.view_image(&id, &key(&uid, &volume.name)).await;
    let mounts = mounts.map_err(|error| failed(error.to_string()))?;
    blocking(move || sys::mount_view(&mounts, &target).map_err(|error| error.to_string())).await.map_err(failed)
}

async fn write(note: &Path, id: &str) -> io::Result<()> {
    if let Some(folder) = note.parent() {
        fs::create_dir_all(folder).await?;
    }
    fs::write(note, id).await
}

/// Gives back what the runtime keeps for a pod's volumes, which are not mounted any more.
pub async fn remove(context: &Context, uid: &str) -> Result<(), String> {
    let notes = context.paths.image_volumes(uid);
    let mut entries = match fs::read_dir(&notes).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    while let Some(entry) = entries.next_entry().await.map_err(|error| error.to_string())? {
        let volume = entry.file_name().to_string_lossy().into_owned();
        context.runtime.remove_view(&key(uid, &volume)).await.map_err(|error| error.to_string())?;
        fs::remove_file(entry.path()).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The ids of the images that are volumes of a pod.
pub fn used_by(paths: &crate::Paths, pod: &Pod) -> Vec<String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let volumes = spec::spec(pod).volumes.iter().flatten().filter(|volume| volume.image.is_some());
    let notes = volumes.map(|volume| paths.image_volumes(uid).join(&volume.name));
    notes.filter_map(|note| std::fs::read_to_string(note).ok()).collect()
}
