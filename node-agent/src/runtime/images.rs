//! Bringing image archives into containerd, as if they had been pulled.
//!
//! In: OCI or Docker archives on disk. Out: blobs in containerd's content store, layers
//! unpacked into snapshots, and image records in the namespace that CRI reads, with the
//! labels that keep all of it from being collected as garbage. An import is idempotent:
//! blobs and snapshots that are there are left alone, and an archive whose images are all
//! there already is recognised by the ids of their configurations.

mod archive;
mod lease;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
#[cfg(target_os = "linux")]
use std::time::SystemTime;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::services::v1::{
    ApplyRequest, CreateImageRequest, GetImageRequest, Image, Info, InfoRequest, UpdateImageRequest, UpdateRequest,
    WriteAction, WriteContentRequest,
};
use containerd_client::types;
use futures::stream::{self, StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};
use tonic::transport::Channel;
use tonic::{Code, Status};

use self::archive::{Archive, ArchivedImage, ArchivedLayer, Extent, read_exact_at};
pub(super) use self::lease::Held;
use self::lease::Lease;
use super::cri::namespaced;
use super::instance::Instance;
use super::oci::{digest, hex};
use super::{Runtime, RuntimeError};

/// Bytes in one message to the content store; containerd accepts 16 MiB. Below what the C library maps apart: one larger
/// block that was given back, and each thread keeps that much for good.
const CHUNK_SIZE: u64 = 64 << 10;
/// Chunks read ahead of the connection.
const CHUNKS_AHEAD: usize = 4;
/// Layers written at the same time. Two keep a disk and a core busy.
const LAYERS_AT_ONCE: usize = 2;
/// Archives of a folder imported at the same time, for the same reason.
const ARCHIVES_AT_ONCE: usize = 2;
/// How long CRI may take to notice an image that was added.
const NOTICE_TIME_MAX: Duration = Duration::from_secs(10);

/// The label by which CRI knows its images.
const LABEL_MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");

/// The label of images that came from an archive: nobody could pull them again, so they are not removed to make room.
pub(super) const LABEL_ARCHIVE: (&str, &str) = ("io.gantry.origin", "archive");

/// Why an archive could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The file is no image archive, or a damaged one.
    #[error("it is not a usable image archive: {0}")]
    NotAnImage(String),
    /// A part of the archive is not the JSON that it should be.
    #[error("{name} in the archive is not understood")]
    Json {
        /// Which part.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// An image has no name, so nothing could refer to it.
    #[error("an image in the archive has no name")]
    NoName,
    /// No agent has run on this data directory.
    #[error("no node agent has run with this data directory")]
    NoAgent(#[source] io::Error),
    /// containerd refused.
    #[error("containerd cannot {doing}")]
    Containerd {
        /// What it was doing.
        doing: &'static str,
        /// What it said.
        #[source]
        source: Box<Status>,
    },
    /// CRI did not take notice of the image.
    #[error("the image {0} was stored, but the runtime does not list it")]
    NotListed(String),
}

/// The error and its causes in one line, for messages that carry text only.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// Imports an archive into the containerd of the agent that uses (or last used) `data_dir`;
/// returns the names of the images.
pub async fn import_images(data_dir: &Path, archive: &Path) -> Result<Vec<String>, ImportError> {
    let instance = Instance::of(data_dir).map_err(ImportError::NoAgent)?;
    let record = instance.read_record().map_err(ImportError::NoAgent)?;
    let temporary = instance.containerd_dir().join("tmp");
    let channel = super::cri::channel(&record.address);
    Importer::new(channel, record.snapshotter, temporary, Held::default()).import(archive).await
}

/// How often an archive is tried that the runtime was not there for, and how soon again: it is back within a second.
const IMPORT_TRIES: usize = 5;
const IMPORT_RETRY: Duration = Duration::from_secs(1);

/// Imports every `*.tar`, `*.tar.gz` and `*.tgz` of the folder. Errors are logged, and one bad
/// archive does not keep out the others.
pub async fn import_archives(runtime: &dyn Runtime, folder: &Path) {
    let archives = match archives_in(folder) {
        Ok(archives) => archives,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "cannot list the images");
            return;
        }
    };
    stream::iter(archives)
        .for_each_concurrent(ARCHIVES_AT_ONCE, |path| async move {
            let mut imported = runtime.import_image(&path).await;
            for _ in 1..IMPORT_TRIES {
                let Err(RuntimeError::Unavailable(error)) = &imported else { break };
                tracing::info!(archive = %path.display(), error, "importing the archive is tried again");
                tokio::time::sleep(IMPORT_RETRY).await;
                imported = runtime.import_image(&path).await;
            }
            match imported {
                Ok(names) => tracing::info!(archive = %path.display(), ?names, "images are there"),
                Err(error) => tracing::warn!(archive = %path.display(), %error, "cannot import the archive"),
            }
        })
        .await;
}

/// Imports archives into one containerd.
#[derive(Clone)]
pub struct Importer {
    channel: Channel,
    snapshotter: String,
    temporary: PathBuf,
    held: Held,
}

impl Importer {
    pub(super) fn new(channel: Channel, snapshotter: String, temporary: PathBuf, held: Held) -> Self {
        Self { channel, snapshotter, temporary, held }
    }

    /// Gives up what imports left that did not come to their end, with the process that they ran in or without containerd.
    #[cfg(target_os = "linux")]
    pub(super) async fn forget_interrupted(&self) {
        lease::give_back_orphaned(&self.channel, &self.held).await;
    }

    /// Gives up what a containerd that has ended since `then` had begun: it keeps the snapshots of what it was making.
    #[cfg(target_os = "linux")]
    pub(super) async fn forget_lost(&self, then: SystemTime) {
        lease::give_back_lost(&self.channel, then).await;
    }

    /// Imports one archive, unless its images are there; returns the names it holds.
    pub async fn import(&self, path: &Path) -> Result<Vec<String>, ImportError> {
        let (path, temporary) = (path.to_path_buf(), self.temporary.clone());
        let (archive, images) = blocking(move || {
            let archive = Archive::open(&path, &temporary)?;
            let images = archive.images()?;
            Ok((archive, images))
        })
        .await?;
        self.import_opened(archive.file(), images).await
    }

    /// Imports an archive that is held in memory.
    pub async fn import_bytes(&self, bytes: Vec<u8>) -> Result<Vec<String>, ImportError> {
        let temporary = self.temporary.clone();
        let path = blocking(move || {
            std::fs::create_dir_all(&temporary).map_err(ImportError::Read)?;
            let path = temporary.join(format!("archive-{}", uuid::Uuid::new_v4()));
            std::fs::write(&path, bytes).map_err(ImportError::Read)?;
            Ok(path)
        })
        .await?;
        let imported = self.import(&path).await;
        let _ = std::fs::remove_file(&path);
        imported
    }

    async fn import_opened(&self, file: Arc<File>, images: Vec<ArchivedImage>) -> Result<Vec<String>, ImportError> {
        let mut all = BTreeSet::new();
        for image in images {
            if image.names.is_empty() {
                return Err(ImportError::NoName);
            }
            all.extend(image.names.iter().cloned());
            if self.is_listed(&image).await? {
                self.label_image(&image.config.0.digest).await?;
                continue;
            }
            let lease = Lease::take(&self.channel, &self.held).await?;
            let imported = self.import_image(&file, &image, &lease).await;
            lease.give_back(&self.channel).await;
            imported?;
            self.wait_until_listed(&image).await?;
        }
        Ok(all.into_iter().collect())
    }

    async fn import_image(&self, file: &Arc<File>, image: &ArchivedImage, lease: &Lease) -> Result<(), ImportError> {
        let writes: Vec<_> = image.layers.iter().map(|layer| self.write_layer(file, layer, lease)).collect();
        stream::iter(writes).buffer_unordered(LAYERS_AT_ONCE).try_collect::<()>().await?;
        let chain = self.unpack(image, lease).await?;
        let mut config_labels = HashMap::new();
        if let Some(top) = chain {
            let label = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter);
            config_labels.insert(label, top);
        }
        self.write_bytes(&image.config.1, config_labels, lease).await?;
        let mut manifest_labels =
            HashMap::from([("containerd.io/gc.ref.content.config".to_owned(), image.config.0.digest.clone())]);
        for (number, layer) in image.layers.iter().enumerate() {
            manifest_labels.insert(format!("containerd.io/gc.ref.content.l.{number}"), layer.descriptor.digest.clone());
        }
        self.write_bytes(&image.manifest.1, manifest_labels, lease).await?;
        // CRI refers to an image by the digest of its configuration, so that name comes
        // first: whoever sees the others can resolve them.
        self.name_image(&image.config.0.digest, image).await?;
        for name in &image.names {
            self.name_image(name, image).await?;
        }
        Ok(())
    }

    async fn write_layer(&self, file: &Arc<File>, layer: &ArchivedLayer, lease: &Lease) -> Result<(), ImportError> {
        let uncompressed = HashMap::from([("containerd.io/uncompressed".to_owned(), layer.diff_id.clone())]);
        let source = Source::File(file.clone(), layer.extent);
        self.write_blob(source, &layer.descriptor.digest, uncompressed, lease).await
    }

    async fn write_bytes(
        &self,
        bytes: &[u8],
        labels: HashMap<String, String>,
        lease: &Lease,
    ) -> Result<(), ImportError> {
        self.write_blob(Source::Bytes(bytes.to_vec()), &digest(bytes), labels, lease).await
    }

    async fn write_blob(
        &self,
        source: Source,
        digest: &str,
        labels: HashMap<String, String>,
        lease: &Lease,
    ) -> Result<(), ImportError> {
        let mut client = ContentClient::new(self.channel.clone());
        let request = lease.apply(InfoRequest { digest: digest.to_owned() });
        match client.info(request).await {
            Ok(_) => return self.label_blob(digest, labels).await,
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(containerd("look for a blob", status)),
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let digest_owned = digest.to_owned();
        let feeder = tokio::spawn(feed(source, digest_owned, labels.clone(), sender));
        let request = lease.apply(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let written = async {
            let mut answers = client.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        }
        .await;
        let fed = feeder.await.unwrap_or_else(|join| Err(io::Error::other(join)));
        match written {
            Ok(()) => fed.map_err(ImportError::Read),
            // Another import was quicker.
            Err(status) if status_is_exists(&status) => self.label_blob(digest, labels).await,
            Err(status) => match fed {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ImportError::Read(error)),
                _ => Err(containerd("store a blob", status)),
            },
        }
    }

    async fn label_blob(&self, digest: &str, labels: HashMap<String, String>) -> Result<(), ImportError> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|label| format!("labels.{label}")).collect();
        let request = UpdateRequest {
            info: Some(Info { digest: digest.to_owned(), labels, ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let mut client = ContentClient::new(self.channel.clone());
        client.update(namespaced(request)).await.map_err(|status| containerd("label a blob", status))?;
        Ok(())
    }

    /// Unpacks the layers that are not unpacked yet; returns the name of the topmost.
    async fn unpack(&self, image: &ArchivedImage, lease: &Lease) -> Result<Option<String>, ImportError> {
        let mut parent = String::new();
        for layer in &image.layers {
            let chain_id = chain_id(&parent, &layer.diff_id);
            if !self.has_snapshot(&chain_id).await? {
                self.unpack_layer(layer, &parent, &chain_id, lease).await?;
            }
            parent = chain_id;
        }
        Ok(Some(parent).filter(|top| !top.is_empty()))
    }

    async fn has_snapshot(&self, name: &str) -> Result<bool, ImportError> {
        let mut client = SnapshotsClient::new(self.channel.clone());
        let request = StatSnapshotRequest { snapshotter: self.snapshotter.clone(), key: name.to_owned() };
        match client.stat(namespaced(request)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(containerd("look for a snapshot", status)),
        }
    }

    async fn unpack_layer(
        &self,
        layer: &ArchivedLayer,
        parent: &str,
        chain_id: &str,
        lease: &Lease,
    ) -> Result<(), ImportError> {
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let key = format!("import-{} {chain_id}", uuid::Uuid::new_v4());
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        let mounts = snapshots
            .prepare(lease.apply(request))
            .await
            .map_err(|status| containerd("prepare a snapshot", status))?
            .into_inner()
            .mounts;
        let applied = self.apply_layer(layer, mounts, lease).await;
        let request = CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: chain_id.to_owned(),
            key: key.clone(),
            ..Default::default()
        };
        let committed = match applied {
            Ok(()) => match snapshots.commit(lease.apply(request)).await {
                Ok(_) => return Ok(()),
                Err(status) if status_is_exists(&status) => Ok(()),
                Err(status) => Err(containerd("commit a snapshot", status)),
            },
            Err(error) => Err(error),
        };
        let request = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key };
        if let Err(status) = snapshots.remove(namespaced(request)).await {
            tracing::debug!(error = %status, "cannot remove a snapshot that is not needed");
        }
        committed
    }

    async fn apply_layer(
        &self,
        layer: &ArchivedLayer,
        mounts: Vec<types::Mount>,
        lease: &Lease,
    ) -> Result<(), ImportError> {
        let request = ApplyRequest {
            diff: Some(types::Descriptor {
                media_type: layer.descriptor.media_type.clone(),
                digest: layer.descriptor.digest.clone(),
                size: i64::try_from(layer.extent.size).unwrap_or(i64::MAX),
                ..Default::default()
            }),
            mounts,
            ..Default::default()
        };
        let applied = DiffClient::new(self.channel.clone())
            .apply(lease.apply(request))
            .await
            .map_err(|status| containerd("unpack a layer", status))?
            .into_inner()
            .applied
            .unwrap_or_default();
        if applied.digest == layer.diff_id {
            return Ok(());
        }
        Err(ImportError::NotAnImage(format!(
            "the content of layer {} has the digest {} instead of {}",
            layer.descriptor.digest, applied.digest, layer.diff_id
        )))
    }

    async fn name_image(&self, name: &str, image: &ArchivedImage) -> Result<(), ImportError> {
        let mut client = ImagesClient::new(self.channel.clone());
        let labels = [LABEL_MANAGED, LABEL_ARCHIVE].map(|(label, value)| (label.to_owned(), value.to_owned()));
        let target = &image.manifest.0;
        let image = Image {
            name: name.to_owned(),
            labels: HashMap::from(labels),
            target: Some(types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.clone(),
                size: i64::try_from(target.size).unwrap_or(i64::MAX),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        match client.create(namespaced(request)).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(containerd("name an image", status)),
        }
        let request = UpdateImageRequest { image: Some(image), ..Default::default() };
        client.update(namespaced(request)).await.map_err(|status| containerd("rename an image", status))?;
        Ok(())
    }

    /// Says of an image that was there already that it is in an archive too.
    async fn label_image(&self, name: &str) -> Result<(), ImportError> {
        let (label, value) = LABEL_ARCHIVE;
        let labels = HashMap::from([(label.to_owned(), value.to_owned())]);
        let mut client = ImagesClient::new(self.channel.clone());
        let there = match client.get(namespaced(GetImageRequest { name: name.to_owned() })).await {
            Ok(answer) => answer.into_inner().image.unwrap_or_default(),
            Err(status) if status.code() == Code::NotFound => return Ok(()),
            Err(status) => return Err(containerd("look for an image", status)),
        };
        let request = UpdateImageRequest {
            // Only labels are written, but containerd 2 dies of an image without a target.
            image: Some(Image { labels, ..there }),
            update_mask: Some(prost_types::FieldMask { paths: vec![format!("labels.{label}")] }),
            ..Default::default()
        };
        match client.update(namespaced(request)).await {
            Err(status) if status.code() != Code::NotFound => Err(containerd("label an image", status)),
            _ => Ok(()),
        }
    }

    /// Whether CRI knows the image under all its names.
    async fn is_listed(&self, image: &ArchivedImage) -> Result<bool, ImportError> {
        let mut client = k8s_cri::v1::image_service_client::ImageServiceClient::new(self.channel.clone());
        for name in &image.names {
            let spec = k8s_cri::v1::ImageSpec { image: name.clone(), ..Default::default() };
            let request = k8s_cri::v1::ImageStatusRequest { image: Some(spec), ..Default::default() };
            let found = client
                .image_status(request)
                .await
                .map_err(|status| containerd("look for an image", status))?
                .into_inner()
                .image;
            if found.is_none_or(|found| found.id != image.config.0.digest) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn wait_until_listed(&self, image: &ArchivedImage) -> Result<(), ImportError> {
        let deadline = tokio::time::Instant::now() + NOTICE_TIME_MAX;
        let mut delay = Duration::from_millis(1);
        while !self.is_listed(image).await? {
            if tokio::time::Instant::now() >= deadline {
                return Err(ImportError::NotListed(image.names.join(", ")));
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Where a blob's bytes come from.
enum Source {
    File(Arc<File>, Extent),
    Bytes(Vec<u8>),
}

impl Source {
    fn size(&self) -> u64 {
        match self {
            Self::File(_, extent) => extent.size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    async fn read(&self, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes[offset as usize..(offset + size) as usize].to_vec()),
            Self::File(file, extent) => {
                let (file, at) = (file.clone(), extent.offset + offset);
                tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; size as usize];
                    read_exact_at(&file, &mut buffer, at).map(|()| buffer)
                })
                .await
                .map_err(io::Error::other)?
            }
        }
    }
}

/// Sends a blob in chunks and asks to commit it; containerd checks the digest.
async fn feed(
    source: Source,
    digest: String,
    labels: HashMap<String, String>,
    sender: tokio::sync::mpsc::Sender<WriteContentRequest>,
) -> io::Result<()> {
    let total = source.size();
    let common = WriteContentRequest {
        r#ref: format!("gantry-import-{digest}-{}", uuid::Uuid::new_v4()),
        total: i64::try_from(total).unwrap_or(i64::MAX),
        expected: digest,
        ..Default::default()
    };
    let mut offset = 0;
    while offset < total {
        let size = CHUNK_SIZE.min(total - offset);
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            data: source.read(offset, size).await?,
            ..common.clone()
        };
        sender.send(request).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        offset += size;
    }
    let commit = WriteContentRequest { action: WriteAction::Commit.into(), offset: common.total, labels, ..common };
    sender.send(commit).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// The name of the snapshot that holds `diff_id` above `parent`, as OCI defines it.
fn chain_id(parent: &str, diff_id: &str) -> String {
    if parent.is_empty() {
        return diff_id.to_owned();
    }
    let digest = Sha256::digest(format!("{parent} {diff_id}"));
    format!("sha256:{}", hex(&digest))
}

fn archives_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end)) {
            archives.push(path);
        }
    }
    archives.sort();
    Ok(archives)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
) -> Result<T, ImportError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|join| Err(ImportError::Read(io::Error::other(join))))
}

fn containerd(doing: &'static str, status: Status) -> ImportError {
    ImportError::Containerd { doing, source: Box::new(status) }
}

fn status_is_exists(status: &Status) -> bool {
    status.code() == Code::AlreadyExists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        assert_eq!(chain_id("", "sha256:a"), "sha256:a");
        assert_eq!(chain_id("sha256:a", "sha256:b"), digest(b"sha256:a sha256:b"));
    }
}
