//! The operating system's part of volumes: permissions, links, mounts. What a system lacks is left out there.

use std::io;
use std::path::{Path, PathBuf};

/// Sets permission bits.
#[cfg(unix)]
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Sets the group, if there is one.
#[cfg(unix)]
pub fn set_group(path: &Path, group: Option<u32>) -> io::Result<()> {
    match group {
        Some(group) => std::os::unix::fs::lchown(path, None, Some(group)),
        None => Ok(()),
    }
}

/// Gives a folder and all in it to a group which may read and write it, and makes new files inherit it.
#[cfg(unix)]
pub fn give_to_group(dir: &Path, group: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::symlink_metadata(dir)?;
    set_group(dir, Some(group))?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if !metadata.is_dir() {
        return set_mode(dir, mode | 0o660);
    }
    set_mode(dir, mode | 0o2770)?;
    for entry in std::fs::read_dir(dir)? {
        give_to_group(&entry?.path(), group)?;
    }
    Ok(())
}

/// A link to a folder.
#[cfg(unix)]
pub fn symlink_dir(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// A link to a file (or to a folder, where the two are the same).
#[cfg(unix)]
pub fn symlink_file(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Permission bits mean nothing here.
#[cfg(not(unix))]
pub fn set_mode(_path: &Path, _mode: u32) -> io::Result<()> {
    Ok(())
}

/// Groups by number mean nothing here.
#[cfg(not(unix))]
pub fn set_group(_path: &Path, _group: Option<u32>) -> io::Result<()> {
    Ok(())
}

/// Groups by number mean nothing here.
#[cfg(not(unix))]
pub fn give_to_group(_dir: &Path, _group: u32) -> io::Result<()> {
    Ok(())
}

/// A link to a folder.
#[cfg(windows)]
pub fn symlink_dir(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_dir(target, link)
}

/// A link to a file.
#[cfg(windows)]
pub fn symlink_file(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// What kind of file a path is, for `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Directory,
    /// A regular file.
    File,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// Something else.
    Other,
}

/// The kind of the file at `path`, links followed; `None` if there is none.
pub fn file_kind(path: &Path) -> io::Result<Option<FileKind>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Ok(Some(FileKind::Directory));
    }
    if kind.is_file() {
        return Ok(Some(FileKind::File));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        for (is, what) in [
            (kind.is_socket(), FileKind::Socket),
            (kind.is_char_device(), FileKind::CharDevice),
            (kind.is_block_device(), FileKind::BlockDevice),
        ] {
            if is {
                return Ok(Some(what));
            }
        }
    }
    Ok(Some(FileKind::Other))
}

/// Mounts a memory file system on `dir` if nothing is mounted there. False if this system will not have it.
#[cfg(target_os = "linux")]
pub fn mount_memory(dir: &Path, size_bytes: Option<i64>, mode: u32) -> io::Result<bool> {
    use rustix::mount::{MountFlags, mount};
    use std::os::unix::fs::MetadataExt;
    let parent = dir.parent().unwrap_or(dir);
    if std::fs::metadata(dir)?.dev() != std::fs::metadata(parent)?.dev() {
        return Ok(true);
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size_bytes.filter(|size| *size > 0) {
        options.push_str(&format!(",size={size}"));
    }
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    match mount("tmpfs", dir, "tmpfs", flags, Some(options.as_c_str())) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// There are no memory file systems here.
#[cfg(not(target_os = "linux"))]
pub fn mount_memory(_dir: &Path, _size_bytes: Option<i64>, _mode: u32) -> io::Result<bool> {
    Ok(false)
}

/// Resolves `sub` below `root` without ever leaving it, makes it a folder if it is missing, and pins what was found at
/// `pin`: whoever swaps a link afterwards changes nothing.
#[cfg(target_os = "linux")]
pub fn pin_subpath(root: &Path, sub: &Path, pin: &Path) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
    use rustix::io::Errno;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let root_fd = openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let mut walked = PathBuf::new();
    let mut found = openat2(&root_fd, ".", flags, Mode::empty(), beneath)?;
    for component in sub.components() {
        let std::path::Component::Normal(name) = component else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath must not contain '..'"));
        };
        walked.push(name);
        found = match openat2(&root_fd, &walked, flags, Mode::empty(), beneath) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                mkdirat(&found, name, Mode::from_raw_mode(0o755))?;
                openat2(&root_fd, &walked, flags | OFlags::NOFOLLOW, Mode::empty(), beneath)?
            }
            Err(error) => return Err(error.into()),
        };
    }
    let source = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let is_dir = std::fs::metadata(&source)?.is_dir();
    if let Some(parent) = pin.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // A pin of an earlier start of the container may be there still.
    let _ = rustix::mount::unmount(pin, rustix::mount::UnmountFlags::DETACH);
    if is_dir {
        std::fs::create_dir_all(pin)?;
    } else {
        std::fs::File::create(pin)?;
    }
    rustix::mount::mount_bind(&source, pin)?;
    Ok(pin.to_owned())
}

/// Resolves `sub` below `root`, making it a folder if it is missing; refuses what leads out of `root`.
#[cfg(not(target_os = "linux"))]
pub fn pin_subpath(root: &Path, sub: &Path, _pin: &Path) -> io::Result<PathBuf> {
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "subPath leads out of the volume");
    if sub.components().any(|component| !matches!(component, std::path::Component::Normal(_))) {
        return Err(outside());
    }
    let path = root.join(sub);
    if !path.exists() {
        std::fs::create_dir_all(&path)?;
    }
    let (root, path) = (root.canonicalize()?, path.canonicalize()?);
    if path.starts_with(&root) { Ok(path) } else { Err(outside()) }
}

/// Unmounts everything below `dir`.
#[cfg(target_os = "linux")]
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<PathBuf> = points.map(PathBuf::from).filter(|point| point.starts_with(&dir)).collect();
    // Later lines are mounted on top of earlier ones.
    below.reverse();
    for point in below {
        unmount(&point, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// Nothing is mounted here.
#[cfg(not(target_os = "linux"))]
pub fn unmount_below(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// The kernel writes blanks and the like as octal numbers.
#[cfg(target_os = "linux")]
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|octal| std::str::from_utf8(octal).ok());
        match code.and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_subpath_cannot_leave_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("link")).unwrap();
        for sub in ["link", "link/x", "../outside"] {
            assert!(pin_subpath(&volume, Path::new(sub), &dir.path().join("pin")).is_err(), "{sub}");
        }
        assert!(!dir.path().join("outside/x").exists());
    }
}
