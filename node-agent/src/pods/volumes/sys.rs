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
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size_bytes.filter(|size| *size > 0) {
        options.push_str(&format!(",size={size}"));
    }
    mount_of("tmpfs", dir, options)
}

/// Mounts a file system of huge pages of this size likewise.
#[cfg(target_os = "linux")]
pub fn mount_huge_pages(dir: &Path, page_size: i64, size_bytes: Option<i64>) -> io::Result<bool> {
    let mut options = format!("pagesize={page_size}");
    if let Some(size) = size_bytes.filter(|size| *size > 0) {
        options.push_str(&format!(",size={size}"));
    }
    mount_of("hugetlbfs", dir, options)
}

#[cfg(target_os = "linux")]
fn mount_of(kind: &str, dir: &Path, options: String) -> io::Result<bool> {
    use rustix::mount::{MountFlags, mount};
    use std::os::unix::fs::MetadataExt;
    let parent = dir.parent().unwrap_or(dir);
    if std::fs::metadata(dir)?.dev() != std::fs::metadata(parent)?.dev() {
        return Ok(true);
    }
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    match mount(kind, dir, kind, flags, Some(options.as_c_str())) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Nor are there any of huge pages.
#[cfg(not(target_os = "linux"))]
pub fn mount_huge_pages(_dir: &Path, _page_size: i64, _size_bytes: Option<i64>) -> io::Result<bool> {
    Ok(false)
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
    // A pin of an earlier start of the container may be there still.
    let _ = rustix::mount::unmount(pin, rustix::mount::UnmountFlags::DETACH);
    make_point(&source, pin)?;
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

/// What is mounted at or below `dir`, in the order in which it was.
#[cfg(target_os = "linux")]
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.map(PathBuf::from).filter(|point| point.starts_with(dir)).collect())
}

/// Unmounts everything at and below `dir`.
#[cfg(target_os = "linux")]
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // Later ones are mounted on top of earlier ones.
    for point in mounts_below(&dir)?.iter().rev() {
        unmount(point)?;
    }
    Ok(())
}

/// Unmounts what was last mounted at `point`.
#[cfg(target_os = "linux")]
pub fn unmount(point: &Path) -> io::Result<()> {
    use rustix::mount::UnmountFlags;
    match rustix::mount::unmount(point, UnmountFlags::DETACH) {
        // One mount can have gone with another that it was a copy of.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts everything at and below `dir` and removes it. Nothing is removed as long as anything is mounted there: what is
/// in it would be lost, and it is not the agent's.
#[cfg(target_os = "linux")]
pub fn remove_unmounted(dir: &Path) -> io::Result<()> {
    unmount_below(dir)?;
    let Ok(real) = dir.canonicalize() else { return Ok(()) };
    if let Some(point) = mounts_below(&real)?.first() {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is still mounted", point.display())));
    }
    match std::fs::remove_dir_all(&real) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes an empty folder (or a file that something was mounted on), if it is there; an error while something is mounted.
#[cfg(target_os = "linux")]
pub fn remove_if_free(path: &Path) -> io::Result<()> {
    if is_mounted(path)? {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is still mounted", path.display())));
    }
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether something is mounted at `path`.
#[cfg(target_os = "linux")]
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    match path.canonicalize() {
        Ok(real) => Ok(mounts_below(&real)?.contains(&real)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a folder or a file at `target`, on which `source` can be mounted.
#[cfg(target_os = "linux")]
pub fn make_point(source: &Path, target: &Path) -> io::Result<()> {
    if std::fs::metadata(source)?.is_dir() {
        return std::fs::create_dir_all(target);
    }
    target.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::File::create(target).map(drop)
}

/// Makes `source`, with all that is mounted below it, appear at `target`; false if something is mounted there already.
#[cfg(target_os = "linux")]
pub fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<bool> {
    use rustix::mount::{MountFlags, mount_bind_recursive, mount_remount};
    if is_mounted(target)? {
        return Ok(false);
    }
    make_point(source, target)?;
    mount_bind_recursive(source, target)?;
    if read_only && let Err(error) = mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "") {
        unmount(target)?;
        return Err(error.into());
    }
    Ok(true)
}

/// Shows the contents of an image at `target`, for reading only and not for programs to be started from; nothing if something is
/// mounted there already.
#[cfg(target_os = "linux")]
pub fn mount_view(mounts: &[crate::runtime::ViewMount], target: &Path) -> io::Result<()> {
    std::fs::create_dir_all(target)?;
    if is_mounted(target)? {
        return Ok(());
    }
    for (below, view) in mounts.iter().enumerate() {
        let Err(error) = mount_one(view, target) else { continue };
        // Half of it would count as all of it the next time.
        for _ in 0..below {
            unmount(target)?;
        }
        return Err(error);
    }
    Ok(())
}

/// One of the mounts of a view; if it fails nothing is mounted.
#[cfg(target_os = "linux")]
fn mount_one(view: &crate::runtime::ViewMount, target: &Path) -> io::Result<()> {
    use std::os::fd::{AsRawFd, OwnedFd};

    use rustix::fs::{CWD, Mode, OFlags, openat};
    use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
    /// The kernel takes a page of options.
    const OPTIONS_MAX: usize = 4000;
    let flags = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    if view.kind == "bind" {
        mount_bind(&view.source, target)?;
        if let Err(error) = mount_remount(target, MountFlags::BIND | flags, "") {
            unmount(target)?;
            return Err(error.into());
        }
        return Ok(());
    }
    let is_data = |option: &&String| !["ro", "rw", "bind", "rbind"].contains(&option.as_str());
    let mut options: Vec<String> = view.options.iter().filter(is_data).cloned().collect();
    let mut opened: Vec<OwnedFd> = Vec::new();
    if options.iter().map(|option| option.len() + 1).sum::<usize>() > OPTIONS_MAX {
        // Many layers in long paths: by the numbers of opened folders they are short.
        for option in &mut options {
            let Some(layers) = option.strip_prefix("lowerdir=") else { continue };
            let folders = layers.split(':').map(|layer| {
                opened.push(openat(CWD, layer, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
                Ok(format!("/proc/self/fd/{}", opened.last().map_or(-1, AsRawFd::as_raw_fd)))
            });
            let folders = folders.collect::<io::Result<Vec<_>>>()?;
            *option = format!("lowerdir={}", folders.join(":"));
        }
    }
    let options = std::ffi::CString::new(options.join(",")).map_err(io::Error::other)?;
    mount(&view.source, target, view.kind.as_str(), flags, Some(options.as_c_str()))?;
    Ok(())
}

/// Images are not mounted here.
#[cfg(not(target_os = "linux"))]
pub fn mount_view(_mounts: &[crate::runtime::ViewMount], _target: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether a folder and what is made in it belong to a group that may read and write it.
#[cfg(target_os = "linux")]
pub fn is_of_group(dir: &Path, group: u32) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(dir)?;
    Ok(metadata.gid() == group && metadata.mode() & 0o2070 == 0o2070)
}

/// Groups by number mean nothing here.
#[cfg(not(target_os = "linux"))]
pub fn is_of_group(_dir: &Path, _group: u32) -> io::Result<bool> {
    Ok(true)
}

/// Nothing is mounted here.
#[cfg(not(target_os = "linux"))]
pub fn unmount(_point: &Path) -> io::Result<()> {
    Ok(())
}

/// Nothing is mounted here.
#[cfg(not(target_os = "linux"))]
pub fn is_mounted(_path: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Makes `source` appear at `target`; false if something is there already.
#[cfg(not(target_os = "linux"))]
pub fn bind(source: &Path, target: &Path, _read_only: bool) -> io::Result<bool> {
    if std::fs::symlink_metadata(target).is_ok() {
        return Ok(false);
    }
    target.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    symlink_dir(source, target)?;
    Ok(true)
}

/// Removes an empty folder, if it is there.
#[cfg(not(target_os = "linux"))]
pub fn remove_if_free(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a folder; links are not followed.
#[cfg(not(target_os = "linux"))]
pub fn remove_unmounted(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Nothing is mounted here.
#[cfg(not(target_os = "linux"))]
pub fn unmount_below(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// The kernel writes blanks and the like as octal numbers.
#[cfg(target_os = "linux")]
pub fn unescape(text: &str) -> String {
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
