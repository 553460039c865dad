//! Makes OCI image archives from Debian packages, so that examples and tests need no image registry.
//!
//! A package's dependencies are resolved by apt against an empty system, the packages' files are merged into one layer,
//! and the layer is written as an OCI layout in a tar file that any containerd imports. No root is needed.

mod archive;
mod layer;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::host;

/// An image to make: its name, what is in it and how it starts.
#[derive(Debug, Default)]
pub struct Recipe {
    /// The image's full reference.
    pub reference: String,
    /// Debian packages whose files, with those of all that they depend on, are the image.
    pub packages: &'static [&'static str],
    /// More files.
    pub files: Vec<Extra>,
    /// Lines for `/etc/passwd` and `/etc/group` beside those that every image has.
    pub accounts: (&'static str, &'static str),
    /// What is run.
    pub entrypoint: &'static [&'static str],
    /// The entrypoint's arguments, or what is run where there is none.
    pub command: &'static [&'static str],
    /// Who runs it; root where empty.
    pub user: &'static str,
}

/// A file that comes from no package.
#[derive(Debug)]
pub struct Extra {
    /// Where it lies in the image, without the leading slash.
    pub path: &'static str,
    /// What it is.
    pub content: Content,
}

/// What an [`Extra`] is.
#[derive(Debug)]
pub enum Content {
    /// A program or other file of this machine, with these permissions.
    Copy {
        /// Where it lies on this machine.
        from: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What it points to.
        target: &'static str,
    },
    /// A text.
    Text(&'static str),
    /// An empty folder with these permission bits.
    Directory(u32),
}

fn examples() -> Vec<Recipe> {
    vec![
        Recipe {
            reference: "gantry.local/nginx:1.22".into(),
            packages: &["nginx-light", "busybox"],
            entrypoint: &["/usr/sbin/nginx"],
            command: &["-g", "daemon off;"],
            ..Recipe::default()
        },
        Recipe {
            reference: "gantry.local/redis:7.0".into(),
            packages: &["redis-server", "busybox"],
            entrypoint: &["/usr/bin/redis-server"],
            ..Recipe::default()
        },
        Recipe {
            reference: "gantry.local/busybox:1.35".into(),
            packages: &["busybox-static"],
            command: &["/bin/sh"],
            ..Recipe::default()
        },
    ]
}

/// Makes the images of the examples and tests that are not there yet.
///
/// # Returns
/// The archives' paths.
pub fn ensure_all() -> Result<Vec<PathBuf>> {
    let dir = host::work_dir().join("images");
    examples().iter().map(|image| ensure(&dir, image)).collect()
}

/// Makes one image in `dir` if it is not there yet, and returns the archive's path.
pub fn ensure(dir: &Path, image: &Recipe) -> Result<PathBuf> {
    fs::create_dir_all(dir)?;
    // The recipe is part of the name: a changed recipe makes a new archive.
    let mut recipe = format!("{image:?} {}", layer::CONVENTIONS);
    for extra in &image.files {
        if let Content::Copy { from, .. } = &extra.content {
            let meta = fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
            recipe.push_str(&format!(" {} {:?}", meta.len(), meta.modified()?));
        }
    }
    let stem = image.reference.rsplit('/').next().unwrap_or(&image.reference).replace(':', "-");
    let archive = dir.join(format!("{stem}-{}.tar", &archive::hex(&Sha256::digest(recipe.as_bytes()))[..12]));
    if archive.exists() {
        return Ok(archive);
    }
    println!("Making image {} from {}", image.reference, image.packages.join(", "));
    let partial = archive.with_extension("partial");
    let layer = layer::make(&layer::download(dir, image.packages)?, image)?;
    archive::write(&partial, image, &layer)?;
    fs::rename(&partial, &archive)?;
    Ok(archive)
}
