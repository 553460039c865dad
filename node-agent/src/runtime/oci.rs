//! A small writer of OCI image archives: files in, one tar in the OCI image layout out.
//!
//! The pause image and the images of the tests are made with it, so that nothing here
//! depends on an image registry. The output is a function of the input alone (no clock,
//! no host paths): the same files give the same digests.

use std::io::{self, Write};

use serde_json::json;
use sha2::{Digest, Sha256};

/// The `linux/<architecture>` name that OCI uses for the machine this was built for.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What a container started from the image runs, beside the files of its layers.
#[derive(Clone, Debug, Default)]
pub struct ImageConfig {
    /// OCI architecture name; empty means that of this machine.
    pub architecture: String,
    /// The entrypoint.
    pub entrypoint: Vec<String>,
    /// The default arguments.
    pub cmd: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory; empty means `/`.
    pub working_dir: String,
    /// `user[:group]`; empty means root.
    pub user: String,
}

/// A layer of an image: an uncompressed tar that grows entry by entry.
pub struct Layer {
    builder: tar::Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Layer::new()
    }
}

impl Layer {
    /// A layer without entries.
    pub fn new() -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        builder.mode(tar::HeaderMode::Deterministic);
        Layer { builder }
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
        self.builder.append_data(&mut header, path, content)
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        self.builder.append_data(&mut header, path, io::empty())
    }

    /// Adds a symbolic link at `path` that points to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.builder.append_link(&mut header, path, target)
    }

    /// The layer's tar.
    pub fn into_bytes(self) -> io::Result<Vec<u8>> {
        self.builder.into_inner()
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Writes an image of `layers` (uncompressed tars, the lowest first), known as `name`
/// (a full reference such as `gantry.local/pause:1`), as an OCI layout in a tar.
pub fn write_archive(out: impl Write, name: &str, config: &ImageConfig, layers: &[Vec<u8>]) -> io::Result<()> {
    let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config_blob = config_json(config, &digests).to_string().into_bytes();
    let layer_descriptors: Vec<_> = layers
        .iter()
        .zip(&digests)
        .map(|(layer, digest)| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": layer.len(),
            })
        })
        .collect();
    let manifest_blob = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config_blob),
            "size": config_blob.len(),
        },
        "layers": layer_descriptors,
    })
    .to_string()
    .into_bytes();
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest_blob),
            "size": manifest_blob.len(),
            "platform": { "architecture": architecture(config), "os": "linux" },
            "annotations": {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            },
        }],
    })
    .to_string();

    let mut archive = tar::Builder::new(out);
    let mut put = |path: &str, content: &[u8]| {
        let mut header = header(tar::EntryType::Regular, 0o644, content.len() as u64);
        archive.append_data(&mut header, path, content)
    };
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put("index.json", index.as_bytes())?;
    for blob in [&manifest_blob, &config_blob].into_iter().chain(layers) {
        put(&blob_path(&digest(blob)), blob)?;
    }
    archive.into_inner()?.flush()
}

fn architecture(config: &ImageConfig) -> &str {
    if config.architecture.is_empty() { host_architecture() } else { &config.architecture }
}

fn config_json(config: &ImageConfig, diff_ids: &[String]) -> serde_json::Value {
    let mut run = serde_json::Map::new();
    for (key, list) in [("Entrypoint", &config.entrypoint), ("Cmd", &config.cmd), ("Env", &config.env)] {
        if !list.is_empty() {
            run.insert(key.to_owned(), json!(list));
        }
    }
    for (key, text) in [("WorkingDir", &config.working_dir), ("User", &config.user)] {
        if !text.is_empty() {
            run.insert(key.to_owned(), json!(text));
        }
    }
    json!({
        "architecture": architecture(config),
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// `sha256:<hex>` of the bytes, as image specifications write digests.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

/// The path of a blob in an OCI layout.
pub(crate) fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_archive_and_digests_match_their_blobs() {
        let make = || {
            let mut layer = Layer::new();
            layer.directory("bin", 0o755).unwrap();
            layer.file("bin/tool", 0o755, b"tool").unwrap();
            layer.symlink("bin/alias", "tool").unwrap();
            let mut out = Vec::new();
            write_archive(&mut out, "gantry.local/tool:1", &ImageConfig::default(), &[layer.into_bytes().unwrap()])
                .unwrap();
            out
        };
        let archive = make();
        assert_eq!(archive, make());
        let mut blobs = 0;
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            io::Read::read_to_end(&mut entry, &mut content).unwrap();
            if path.starts_with("blobs/") {
                assert_eq!(path, blob_path(&digest(&content)));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3, "manifest, config and one layer");
    }
}
