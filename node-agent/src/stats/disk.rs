//! What files take up. In: a path. Out: bytes and inodes, of a tree or of its file system.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Its size in bytes.
    pub capacity: u64,
    /// Bytes that can still be written.
    pub available: u64,
    /// How many inodes it has; 0 if it does not count them.
    pub inodes: u64,
    /// How many of them are free.
    pub inodes_free: u64,
}

impl FileSystem {
    /// Bytes that are taken.
    pub fn used(&self) -> u64 {
        self.capacity.saturating_sub(self.available)
    }
}

/// What a tree of files takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
}

impl std::ops::Add for Taken {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// The file system on which a path lies.
#[cfg(unix)]
pub fn file_system(path: &Path) -> Option<FileSystem> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(FileSystem {
        capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_favail,
    })
}

/// The file system on which a path lies.
#[cfg(not(unix))]
pub fn file_system(_path: &Path) -> Option<FileSystem> {
    None
}

/// Counts what a tree takes up, without leaving its file system and without following links. What goes away meanwhile does
/// not count.
pub fn taken(root: &Path) -> Taken {
    let Ok(top) = fs::symlink_metadata(root) else { return Taken::default() };
    let mut taken = Taken { bytes: bytes(&top), inodes: 1 };
    // A file of several names takes its place once.
    let mut linked = HashSet::new();
    let mut folders = if top.is_dir() { vec![root.to_path_buf()] } else { Vec::new() };
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if device(&found) != device(&top) || (links(&found) > 1 && !found.is_dir() && !linked.insert(inode(&found)))
            {
                continue;
            }
            taken = taken + Taken { bytes: bytes(&found), inodes: 1 };
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    taken
}

#[cfg(unix)]
mod os {
    use std::fs::Metadata;
    use std::os::unix::fs::MetadataExt as _;

    /// Blocks of `stat` have this size whatever the file system's have.
    const BLOCK_LEN: u64 = 512;

    pub fn bytes(file: &Metadata) -> u64 {
        file.blocks() * BLOCK_LEN
    }

    pub fn device(file: &Metadata) -> u64 {
        file.dev()
    }

    pub fn inode(file: &Metadata) -> u64 {
        file.ino()
    }

    pub fn links(file: &Metadata) -> u64 {
        file.nlink()
    }
}

#[cfg(not(unix))]
mod os {
    use std::fs::Metadata;

    pub fn bytes(file: &Metadata) -> u64 {
        file.len()
    }

    pub fn device(_file: &Metadata) -> u64 {
        0
    }

    pub fn inode(_file: &Metadata) -> u64 {
        0
    }

    pub fn links(_file: &Metadata) -> u64 {
        1
    }
}

use os::{bytes, device, inode, links};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_counted_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        fs::create_dir_all(root.join("deep")).unwrap();
        let other = dir.path().join("other");
        fs::write(&other, vec![1; 1 << 20]).unwrap();
        let empty = taken(&root);
        assert_eq!(empty.inodes, 2);
        fs::write(root.join("deep/a"), vec![1; 300_000]).unwrap();
        fs::hard_link(root.join("deep/a"), root.join("b")).unwrap();
        std::os::unix::fs::symlink(&other, root.join("link")).unwrap();
        let full = taken(&root);
        assert_eq!(full.inodes, 4);
        let grown = full.bytes - empty.bytes;
        assert!((300_000..400_000).contains(&grown), "{grown}");
        assert_eq!(taken(&dir.path().join("none")), Taken::default());
        assert!(file_system(&root).is_some_and(|found| found.capacity > found.available));
    }
}
