//! Reading image archives: what images a tar holds, and where in it their blobs lie.
//!
//! In: a tar in the OCI image layout or in the form of `docker save`, compressed with gzip
//! or not. Out: [`ArchivedImage`]s whose blobs are read from the file by offset, so that
//! nothing large is held in memory. Archives are not trusted: sizes of what is parsed are
//! bounded, and every digest that the archive claims is checked (by containerd for layers,
//! here for the rest).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ImportError;
use crate::runtime::oci::{blob_path, digest, host_architecture};

/// Manifests, configurations and indexes are a few kilobytes; more is refused.
const JSON_SIZE_MAX: u64 = 8 << 20;
/// Entries in one archive: images have tens of layers.
const ENTRIES_MAX: usize = 65_536;
/// Indexes may hold indexes, but not for ever.
const INDEX_DEPTH_MAX: usize = 4;

const MEDIA_INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MEDIA_DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const MEDIA_DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const MEDIA_OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A reference to a blob, as OCI writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// For which machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    /// Annotations; hold names.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    annotations: HashMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct ConfigFile {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A stretch of the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
}

/// A layer: its compressed blob, and the digest of what is in it.
#[derive(Clone, Debug)]
pub(super) struct ArchivedLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Where the blob lies.
    pub extent: Extent,
}

/// An image of an archive.
#[derive(Clone, Debug)]
pub(super) struct ArchivedImage {
    /// Full names, such as `gantry.local/shop:1`.
    pub names: Vec<String>,
    /// The manifest and its bytes.
    pub manifest: (Descriptor, Vec<u8>),
    /// The configuration and its bytes; its digest is the image's id.
    pub config: (Descriptor, Vec<u8>),
    /// The lowest first.
    pub layers: Vec<ArchivedLayer>,
}

/// An opened archive.
pub(super) struct Archive {
    file: Arc<File>,
    entries: HashMap<String, Extent>,
    links: HashMap<String, String>,
}

impl Archive {
    /// Opens an archive and reads its table of contents. A compressed one is unpacked into a
    /// nameless file in `temporary` first, because blobs are read by offset.
    pub(super) fn open(path: &Path, temporary: &Path) -> Result<Self, ImportError> {
        let mut file = File::open(path).map_err(ImportError::Read)?;
        let mut magic = [0; 2];
        let read = file.read(&mut magic).map_err(ImportError::Read)?;
        file.seek(SeekFrom::Start(0)).map_err(ImportError::Read)?;
        if read == 2 && magic == [0x1f, 0x8b] {
            file = decompress(file, temporary).map_err(ImportError::Read)?;
        }
        Self::index(file)
    }

    fn index(file: File) -> Result<Self, ImportError> {
        let mut entries = HashMap::new();
        let mut links = HashMap::new();
        let mut reader = tar::Archive::new(file);
        for entry in reader.entries_with_seek().map_err(ImportError::Read)? {
            let entry = entry.map_err(ImportError::Read)?;
            if entries.len() + links.len() >= ENTRIES_MAX {
                return Err(ImportError::NotAnImage("it has too many entries".to_owned()));
            }
            let path = entry.path().map_err(ImportError::Read)?;
            let Some(path) = normal(&path, "") else { continue };
            let kind = entry.header().entry_type();
            if kind.is_file() || kind == tar::EntryType::Continuous {
                let extent = Extent { offset: entry.raw_file_position(), size: entry.size() };
                entries.insert(path, extent);
            } else if kind.is_symlink() || kind.is_hard_link() {
                let Some(target) = entry.link_name().map_err(ImportError::Read)? else { continue };
                // Symbolic links count from their own folder, hard links from the top.
                let folder = match path.rsplit_once('/') {
                    Some((folder, _)) if kind.is_symlink() => folder,
                    _ => "",
                };
                if let Some(target) = normal(&target, folder) {
                    links.insert(path, target);
                }
            }
        }
        let file = Arc::new(reader.into_inner());
        Ok(Self { file, entries, links })
    }

    /// The file that extents count in.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// The images for this machine's architecture.
    pub(super) fn images(&self) -> Result<Vec<ArchivedImage>, ImportError> {
        let images = if self.find("manifest.json").is_some() {
            // `docker save` writes an index.json as well nowadays, but names only there.
            self.docker_images()?
        } else if self.find("index.json").is_some() {
            let index: Index = parse("index.json", &self.json("index.json")?)?;
            self.oci_images(&index, None, 0)?
        } else {
            let reason = "it has neither an index.json nor a manifest.json";
            return Err(ImportError::NotAnImage(reason.to_owned()));
        };
        if images.is_empty() {
            let reason = format!("it has no image for linux/{}", host_architecture());
            return Err(ImportError::NotAnImage(reason));
        }
        Ok(images)
    }

    fn oci_images(
        &self,
        index: &Index,
        outer_name: Option<&str>,
        depth: usize,
    ) -> Result<Vec<ArchivedImage>, ImportError> {
        let mut images: Vec<ArchivedImage> = Vec::new();
        for descriptor in &index.manifests {
            let own_name = name_of(descriptor);
            let name = own_name.as_deref().or(outer_name);
            if MEDIA_INDEX.contains(&descriptor.media_type.as_str()) {
                if depth >= INDEX_DEPTH_MAX {
                    return Err(ImportError::NotAnImage("its indexes are nested".to_owned()));
                }
                let bytes = self.verified_json(descriptor)?;
                let inner: Index = parse(&descriptor.digest, &bytes)?;
                images.extend(self.oci_images(&inner, name, depth + 1)?);
                continue;
            }
            let for_us = descriptor
                .platform
                .as_ref()
                .is_none_or(|platform| platform.os == "linux" && platform.architecture == host_architecture());
            if !for_us || !is_manifest(&descriptor.media_type) {
                continue;
            }
            let names = name.map(normalize_name).into_iter().collect();
            images.push(self.oci_image(descriptor, names)?);
        }
        Ok(images)
    }

    fn oci_image(&self, descriptor: &Descriptor, names: Vec<String>) -> Result<ArchivedImage, ImportError> {
        let bytes = self.verified_json(descriptor)?;
        let manifest: Manifest = parse(&descriptor.digest, &bytes)?;
        let config_bytes = self.verified_json(&manifest.config)?;
        let config: ConfigFile = parse(&manifest.config.digest, &config_bytes)?;
        let extents = manifest
            .layers
            .iter()
            .map(|layer| self.extent(&blob_path(&layer.digest)))
            .collect::<Result<Vec<_>, _>>()?;
        let layers = pair_layers(manifest.layers, config.rootfs.diff_ids, extents)?;
        let target = Descriptor {
            media_type: if descriptor.media_type.is_empty() {
                MEDIA_OCI_MANIFEST.to_owned()
            } else {
                descriptor.media_type.clone()
            },
            digest: descriptor.digest.clone(),
            size: bytes.len() as u64,
            ..Default::default()
        };
        Ok(ArchivedImage { names, manifest: (target, bytes), config: (manifest.config, config_bytes), layers })
    }

    fn docker_images(&self) -> Result<Vec<ArchivedImage>, ImportError> {
        let images: Vec<DockerImage> = parse("manifest.json", &self.json("manifest.json")?)?;
        images.into_iter().map(|image| self.docker_image(image)).collect()
    }

    /// Makes the manifest which the archive lacks.
    fn docker_image(&self, image: DockerImage) -> Result<ArchivedImage, ImportError> {
        let config_bytes = self.json(&image.config)?;
        let config: ConfigFile = parse(&image.config, &config_bytes)?;
        let mut layers = Vec::new();
        let mut extents = Vec::new();
        for path in &image.layers {
            let extent = self.extent(path)?;
            layers.push(Descriptor {
                media_type: self.layer_media_type(extent)?.to_owned(),
                digest: self.hash(extent)?,
                size: extent.size,
                ..Default::default()
            });
            extents.push(extent);
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: MEDIA_DOCKER_MANIFEST.to_owned(),
            config: Descriptor {
                media_type: MEDIA_DOCKER_CONFIG.to_owned(),
                digest: digest(&config_bytes),
                size: config_bytes.len() as u64,
                ..Default::default()
            },
            layers,
        };
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|source| ImportError::Json { name: "manifest".to_owned(), source })?;
        let target = Descriptor {
            media_type: MEDIA_DOCKER_MANIFEST.to_owned(),
            digest: digest(&bytes),
            size: bytes.len() as u64,
            ..Default::default()
        };
        let names = image.repo_tags.unwrap_or_default();
        Ok(ArchivedImage {
            names: names.iter().map(|name| normalize_name(name)).collect(),
            manifest: (target, bytes),
            config: (manifest.config, config_bytes),
            layers: pair_layers(manifest.layers, config.rootfs.diff_ids, extents)?,
        })
    }

    fn layer_media_type(&self, extent: Extent) -> Result<&'static str, ImportError> {
        let mut magic = [0; 4];
        let wanted = extent.size.min(4) as usize;
        read_exact_at(&self.file, &mut magic[..wanted], extent.offset).map_err(ImportError::Read)?;
        Ok(match magic {
            [0x1f, 0x8b, ..] => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
            _ => "application/vnd.docker.image.rootfs.diff.tar",
        })
    }

    fn hash(&self, extent: Extent) -> Result<String, ImportError> {
        use sha2::{Digest, Sha256};
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        let mut done = 0;
        while done < extent.size {
            let part = (extent.size - done).min(buffer.len() as u64) as usize;
            read_exact_at(&self.file, &mut buffer[..part], extent.offset + done).map_err(ImportError::Read)?;
            hasher.update(&buffer[..part]);
            done += part as u64;
        }
        Ok(format!("sha256:{}", crate::runtime::oci::hex(&hasher.finalize())))
    }

    fn find(&self, path: &str) -> Option<Extent> {
        let path = normal(Path::new(path), "")?;
        let mut path = path.as_str();
        // Old archives link equal layers; a chain longer than this is a circle.
        for _ in 0..16 {
            if let Some(extent) = self.entries.get(path) {
                return Some(*extent);
            }
            path = self.links.get(path)?;
        }
        None
    }

    fn extent(&self, path: &str) -> Result<Extent, ImportError> {
        self.find(path).ok_or_else(|| ImportError::NotAnImage(format!("{path} is missing")))
    }

    fn json(&self, path: &str) -> Result<Vec<u8>, ImportError> {
        let extent = self.extent(path)?;
        if extent.size > JSON_SIZE_MAX {
            return Err(ImportError::NotAnImage(format!("{path} is too large")));
        }
        let mut bytes = vec![0; extent.size as usize];
        read_exact_at(&self.file, &mut bytes, extent.offset).map_err(ImportError::Read)?;
        Ok(bytes)
    }

    fn verified_json(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImportError> {
        let bytes = self.json(&blob_path(&descriptor.digest))?;
        if digest(&bytes) != descriptor.digest {
            let reason = format!("the blob {} has another digest", descriptor.digest);
            return Err(ImportError::NotAnImage(reason));
        }
        Ok(bytes)
    }
}

/// Fills the buffer from the file at the offset, whatever the file's own position.
pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            match std::os::windows::fs::FileExt::seek_read(file, &mut buffer[done..], at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}

fn pair_layers(
    descriptors: Vec<Descriptor>,
    diff_ids: Vec<String>,
    extents: Vec<Extent>,
) -> Result<Vec<ArchivedLayer>, ImportError> {
    if descriptors.len() != diff_ids.len() {
        let reason = format!("it has {} layers and its configuration names {}", descriptors.len(), diff_ids.len());
        return Err(ImportError::NotAnImage(reason));
    }
    Ok(descriptors
        .into_iter()
        .zip(diff_ids)
        .zip(extents)
        .map(|((descriptor, diff_id), extent)| ArchivedLayer { descriptor, diff_id, extent })
        .collect())
}

fn is_manifest(media_type: &str) -> bool {
    media_type.is_empty() || media_type == MEDIA_OCI_MANIFEST || media_type == MEDIA_DOCKER_MANIFEST
}

/// The full name in a descriptor's annotations. The plain `ref.name` counts only if it is
/// more than a tag.
fn name_of(descriptor: &Descriptor) -> Option<String> {
    let full = descriptor.annotations.get("io.containerd.image.name");
    let plain =
        descriptor.annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']));
    full.or(plain).cloned()
}

/// Completes a short name the way docker does: registry, `library/` and tag.
pub(super) fn normalize_name(name: &str) -> String {
    let (registry, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let tagged = rest.contains('@') || rest.rsplit('/').next().is_some_and(|l| l.contains(':'));
    let tag = if tagged { "" } else { ":latest" };
    format!("{registry}/{rest}{tag}")
}

/// The path below `folder` without `.` and `..`; none if it leads out of the archive.
fn normal(path: &Path, folder: &str) -> Option<String> {
    let mut parts: Vec<String> = folder.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?.to_owned()),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ImportError> {
    serde_json::from_slice(bytes).map_err(|source| ImportError::Json { name: name.to_owned(), source })
}

fn decompress(file: File, temporary: &Path) -> io::Result<File> {
    std::fs::create_dir_all(temporary)?;
    let path = temporary.join(format!("import-{}", uuid::Uuid::new_v4()));
    let mut out = File::options().read(true).write(true).create_new(true).open(&path)?;
    // The name goes at once, so that nothing is left behind whatever happens.
    std::fs::remove_file(&path)?;
    let mut reader = flate2::read::MultiGzDecoder::new(io::BufReader::new(file));
    io::copy(&mut reader, &mut out)?;
    out.flush()?;
    out.seek(SeekFrom::Start(0))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::oci::{ImageConfig, Layer, write_archive};

    fn opened(bytes: &[u8]) -> Result<Archive, ImportError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        std::fs::write(&path, bytes).unwrap();
        Archive::open(&path, folder.path())
    }

    fn archive() -> Vec<u8> {
        let mut layer = Layer::new();
        layer.file("hello", 0o644, b"hello").unwrap();
        let mut out = Vec::new();
        let layers = [layer.into_bytes().unwrap()];
        write_archive(&mut out, "gantry.local/hello:1", &ImageConfig::default(), &layers).unwrap();
        out
    }

    #[test]
    fn an_oci_layout_is_read_compressed_or_not() {
        let plain = archive();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        for bytes in [plain, encoder.finish().unwrap()] {
            let images = opened(&bytes).unwrap().images().unwrap();
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].names, ["gantry.local/hello:1"]);
            assert_eq!(images[0].layers.len(), 1);
            assert_eq!(images[0].layers[0].diff_id, images[0].layers[0].descriptor.digest);
        }
    }

    #[test]
    fn what_docker_saves_is_read_through_its_links() {
        let mut layer = Layer::new();
        layer.file("a", 0o644, b"a").unwrap();
        let layer = layer.into_bytes().unwrap();
        let config = format!(r#"{{"rootfs":{{"diff_ids":["{0}","{0}"]}}}}"#, digest(&layer));
        let manifest = r#"[{"Config":"c.json","RepoTags":["shop"],
                            "Layers":["1/layer.tar","2/layer.tar"]}]"#;
        let mut outer = Layer::new();
        outer.file("1/layer.tar", 0o644, &layer).unwrap();
        outer.symlink("2/layer.tar", "../1/layer.tar").unwrap();
        outer.file("c.json", 0o644, config.as_bytes()).unwrap();
        outer.file("manifest.json", 0o644, manifest.as_bytes()).unwrap();
        let images = opened(&outer.into_bytes().unwrap()).unwrap().images().unwrap();
        assert_eq!(images[0].names, ["docker.io/library/shop:latest"]);
        assert_eq!(images[0].layers[0].extent, images[0].layers[1].extent);
        assert_eq!(images[0].config.0.digest, digest(config.as_bytes()));
    }

    #[test]
    fn damaged_archives_are_refused() {
        let good = archive();
        assert!(opened(b"not a tar at all").is_err());
        assert!(opened(&[]).and_then(|archive| archive.images()).is_err());
        let mut changed = good.clone();
        // The manifest: change a byte of its JSON without changing its length.
        let at = good.windows(15).position(|w| w == b"\"schemaVersion\"").unwrap();
        let second = good[at + 15..].windows(15).position(|w| w == b"\"schemaVersion\"").unwrap();
        changed[at + 15 + second + 1] = b'S';
        assert!(opened(&changed).and_then(|archive| archive.images()).is_err());
        for cut in (0..good.len()).step_by(97) {
            // Whatever is missing, it is an error and no panic.
            let _ = opened(&good[..cut]).and_then(|archive| archive.images());
        }
    }

    #[test]
    fn names_are_completed() {
        let cases = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("me/nginx:2", "docker.io/me/nginx:2"),
            ("gantry.local/shop:1", "gantry.local/shop:1"),
            ("localhost/shop", "localhost/shop:latest"),
            ("r:5000/a/b", "r:5000/a/b:latest"),
        ];
        for (short, full) in cases {
            assert_eq!(normalize_name(short), full);
        }
    }

    #[test]
    fn paths_stay_in_the_archive() {
        assert_eq!(normal(Path::new("./a/../b"), ""), Some("b".to_owned()));
        assert_eq!(normal(Path::new("../x"), "a"), Some("x".to_owned()));
        assert_eq!(normal(Path::new("../../x"), "a"), None);
        assert_eq!(normal(Path::new("/etc/passwd"), ""), None);
    }
}
