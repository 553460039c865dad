//! The cgroups of pods: parents of the containers' own, made and removed by the agent.
//!
//! In: an absolute cgroup such as `/gantry/pod<uid>` and its limits. Out: folders in the
//! cgroup file systems. containerd makes the containers' cgroups below and never removes
//! the parent. Works with cgroup v1 (each controller its own hierarchy), v2, and both
//! mounted at once; what a hierarchy does not offer is left out of it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::runtime::Resources;

/// How long processes that were killed may take to leave their cgroup.
const EMPTY_TIME_MAX: Duration = Duration::from_secs(5);
/// Between looks at a cgroup that is not empty yet.
const EMPTY_POLL: Duration = Duration::from_millis(10);
/// Pods' cgroups are this, followed by the pod's UID.
const POD_PREFIX: &str = "pod";

/// Why a cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The name is not an absolute path below the root.
    #[error("{0:?} is not an absolute cgroup")]
    Name(String),
    /// The cgroup file systems cannot be found.
    #[error("cannot read the mounts: {0}")]
    Mounts(io::Error),
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted below /sys/fs/cgroup")]
    None,
    /// A file of a cgroup cannot be written.
    #[error("cannot write {value:?} to {path}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What should have been in it.
        value: String,
        /// Why.
        error: io::Error,
    },
    /// A folder cannot be made.
    #[error("cannot make {path}: {error}")]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A folder cannot be removed.
    #[error("cannot remove {path}: {error}")]
    Remove {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A mounted cgroup file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    /// Empty for v2, else the mount's options: controllers among others.
    pub(super) v1_options: Vec<String>,
    pub(super) v2: bool,
}

impl Hierarchy {
    pub(super) fn has_v1(&self, controller: &str) -> bool {
        self.v1_options.iter().any(|option| option == controller)
    }
}

/// Makes the cgroup and writes its limits.
pub fn apply(cgroup: &str, limits: &Resources) -> Result<(), CgroupError> {
    let hierarchies = mounted()?;
    if hierarchies.is_empty() {
        return Err(CgroupError::None);
    }
    let relative = relative(cgroup)?;
    for hierarchy in &hierarchies {
        let path = hierarchy.mount.join(&relative);
        if hierarchy.v2 {
            // Beside v1 hierarchies, v2 has no controllers and nothing to limit.
            if hierarchies.iter().all(|each| each.v2) {
                make_v2(&hierarchy.mount, &relative)?;
                write_all(&path, limits_v2(limits))?;
                write_all(&path, hugetlb(limits, &page_sizes(&path, "max"), "max"))?;
            }
        } else if hierarchy.has_v1("cpu") {
            make(&path)?;
            write_all(&path, cpu_v1(limits))?;
        } else if hierarchy.has_v1("memory") {
            make(&path)?;
            write_memory_v1(&path, limits.memory_limit_bytes)?;
        } else if hierarchy.has_v1("hugetlb") {
            make(&path)?;
            write_all(&path, hugetlb(limits, &page_sizes(&path, "limit_in_bytes"), "limit_in_bytes"))?;
        }
    }
    Ok(())
}

/// Kills what is left in the cgroup and those below it, and removes them everywhere.
pub async fn remove(cgroup: &str) -> Result<(), CgroupError> {
    let relative = relative(cgroup)?;
    for hierarchy in mounted()? {
        remove_tree(&hierarchy.mount.join(&relative)).await?;
    }
    Ok(())
}

/// Removes the cgroup wherever it has no process and no cgroup below.
pub fn remove_if_empty(cgroup: &str) {
    let (Ok(relative), Ok(hierarchies)) = (relative(cgroup), mounted()) else { return };
    for hierarchy in hierarchies {
        // The kernel refuses to remove one that is in use, which is what is wanted.
        let _ = fs::remove_dir(hierarchy.mount.join(&relative));
    }
}

/// The UIDs of the pods that have a cgroup below `cgroup_root` in any hierarchy.
pub fn pods(cgroup_root: &str) -> Result<Vec<String>, CgroupError> {
    let relative = relative(cgroup_root)?;
    let mut uids = BTreeSet::new();
    for hierarchy in mounted()? {
        for name in children(&hierarchy.mount.join(&relative)) {
            if let Some(uid) = name.strip_prefix(POD_PREFIX).filter(|uid| !uid.is_empty()) {
                uids.insert(uid.to_owned());
            }
        }
    }
    Ok(uids.into_iter().collect())
}

/// Whether the huge page controller is there; containerd wants to be told.
pub fn has_hugetlb() -> bool {
    mounted().is_ok_and(|hierarchies| {
        hierarchies.iter().any(|hierarchy| {
            hierarchy.has_v1("hugetlb")
                || fs::read_to_string(hierarchy.mount.join("cgroup.controllers"))
                    .is_ok_and(|text| text.split_whitespace().any(|name| name == "hugetlb"))
        })
    })
}

pub(super) fn mounted() -> Result<Vec<Hierarchy>, CgroupError> {
    let text = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
    Ok(hierarchies(&text))
}

/// The cgroup file systems of a `mountinfo`. One that is mounted twice counts once.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let Some(mount) = front.split(' ').nth(4) else { continue };
        if !mount.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let mut back = back.split(' ');
        let v2 = match back.next() {
            Some("cgroup") => false,
            Some("cgroup2") => true,
            _ => continue,
        };
        let options = back.nth(1).unwrap_or_default();
        let v1_options = if v2 { Vec::new() } else { options.split(',').map(str::to_owned).collect() };
        let hierarchy = Hierarchy { mount: PathBuf::from(mount), v1_options, v2 };
        let twice = found.iter().any(|each| each.v2 == hierarchy.v2 && each.v1_options == hierarchy.v1_options);
        if !twice {
            found.push(hierarchy);
        }
    }
    found
}

/// The cgroup's path below a mount. Anything but a plain absolute path is refused, because
/// what this names gets removed.
pub(super) fn relative(cgroup: &str) -> Result<PathBuf, CgroupError> {
    let wrong = || CgroupError::Name(cgroup.to_owned());
    let inner = Path::new(cgroup).strip_prefix("/").map_err(|_| wrong())?;
    let plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
    if inner.as_os_str().is_empty() || !plain {
        return Err(wrong());
    }
    Ok(inner.to_path_buf())
}

fn make(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|error| CgroupError::Make { path: path.to_path_buf(), error })
}

/// Makes the folders from the top, handing the controllers down on the way.
fn make_v2(mount: &Path, relative: &Path) -> Result<(), CgroupError> {
    let mut path = mount.to_path_buf();
    for part in relative.components() {
        for controller in ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"] {
            // Each by itself: one that is not there must not keep out the others.
            let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        path.push(part);
        make(&path)?;
    }
    for controller in ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"] {
        let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    Ok(())
}

type Settings = Vec<(String, String)>;

fn cpu_v1(limits: &Resources) -> Settings {
    let mut settings = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        settings.push(("cpu.shares".to_owned(), shares.clamp(2, 262_144).to_string()));
    }
    if let Some(period) = limits.cpu_period_us {
        settings.push(("cpu.cfs_period_us".to_owned(), period.to_string()));
    }
    let quota = limits.cpu_quota_us.unwrap_or(-1);
    settings.push(("cpu.cfs_quota_us".to_owned(), quota.to_string()));
    settings
}

fn limits_v2(limits: &Resources) -> Settings {
    let mut settings = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        // The mapping of the kernel's documentation: 2..262144 to 1..10000.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
        settings.push(("cpu.weight".to_owned(), weight.to_string()));
    }
    let period = limits.cpu_period_us.unwrap_or(100_000);
    let quota = match limits.cpu_quota_us {
        Some(quota) if quota > 0 => quota.to_string(),
        _ => "max".to_owned(),
    };
    settings.push(("cpu.max".to_owned(), format!("{quota} {period}")));
    let memory = match limits.memory_limit_bytes {
        Some(bytes) if bytes > 0 => bytes.to_string(),
        _ => "max".to_owned(),
    };
    settings.push(("memory.max".to_owned(), memory));
    settings
}

/// Limits of huge pages of each size that there is: whoever asks for none has none.
fn hugetlb(limits: &Resources, page_sizes: &[String], file: &str) -> Settings {
    let limit = |size: &String| limits.hugepage_limits.get(size).copied().unwrap_or(0);
    page_sizes.iter().map(|size| (format!("hugetlb.{size}.{file}"), limit(size).to_string())).collect()
}

/// The sizes of huge pages that a cgroup can limit, such as `2MB`.
fn page_sizes(cgroup: &Path, file: &str) -> Vec<String> {
    let files = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    // What is reserved has a file of its own, with one part more in its name.
    let size = |name: String| Some(name.strip_prefix("hugetlb.")?.strip_suffix(file)?.strip_suffix('.')?.to_owned());
    names.filter_map(size).filter(|size| !size.contains('.')).collect()
}

fn write_all(folder: &Path, settings: Settings) -> Result<(), CgroupError> {
    settings.into_iter().try_for_each(|(file, value)| write(folder, &file, &value))
}

/// Writes a setting; one whose file does not exist is not offered by this kernel.
fn write(folder: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let path = folder.join(file);
    match fs::write(&path, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CgroupError::Write { path, value: value.to_owned(), error })
        }
        _ => Ok(()),
    }
}

/// Memory with swap must never be less than memory alone, so which of them is written first
/// depends on whether the limit grows.
fn write_memory_v1(folder: &Path, limit: Option<i64>) -> Result<(), CgroupError> {
    const MEMORY: &str = "memory.limit_in_bytes";
    const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
    let value = limit.filter(|bytes| *bytes > 0).unwrap_or(-1).to_string();
    if write(folder, MEMORY, &value).is_ok() {
        return write(folder, WITH_SWAP, &value);
    }
    write(folder, WITH_SWAP, &value)?;
    write(folder, MEMORY, &value)
}

async fn remove_tree(root: &Path) -> Result<(), CgroupError> {
    let deadline = tokio::time::Instant::now() + EMPTY_TIME_MAX;
    loop {
        let mut folders = Vec::new();
        collect(root, &mut folders);
        let mut failed = None;
        for folder in &folders {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    kill_all(folder);
                    failed = Some((folder.clone(), error));
                }
                _ => {}
            }
        }
        match failed {
            None => return Ok(()),
            Some((path, error)) if tokio::time::Instant::now() >= deadline => {
                return Err(CgroupError::Remove { path, error });
            }
            Some(_) => tokio::time::sleep(EMPTY_POLL).await,
        }
    }
}

/// The folder and all below it, the deepest first.
fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    if !folder.is_dir() {
        return;
    }
    for child in children(folder) {
        collect(&folder.join(child), into);
    }
    into.push(folder.to_path_buf());
}

fn children(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn kill_all(folder: &Path) {
    let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) else { return };
    for pid in text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_for_no_huge_pages_has_none() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max", "hugetlb.1GB.max", "hugetlb.1GB.current", "memory.max"]
        {
            fs::write(dir.path().join(file), "max").unwrap();
        }
        let limits = Resources { hugepage_limits: [("2MB".to_owned(), 4 << 20)].into(), ..Resources::default() };
        write_all(dir.path(), hugetlb(&limits, &page_sizes(dir.path(), "max"), "max")).unwrap();
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!((read("hugetlb.2MB.max"), read("hugetlb.1GB.max")), ("4194304".to_owned(), "0".to_owned()));
        assert_eq!(read("hugetlb.2MB.rsvd.max"), "max");
    }

    #[test]
    fn mounts_of_every_kind_are_understood() {
        let v1 = "35 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
                  36 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  37 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  38 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                  39 31 0:33 / /data rw - ext4 /dev/vda rw\n";
        let found = hierarchies(v1);
        assert_eq!(found.len(), 3);
        assert!(found[0].has_v1("cpu") && !found[0].has_v1("memory"));
        assert!(found[2].v2);
        let v2 = hierarchies("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(v2.len(), 1);
        assert!(v2[0].v2);
    }

    #[test]
    fn only_plain_absolute_cgroups_are_touched() {
        for bad in ["", "/", "gantry/pod1", "/gantry/../memory", "/.."] {
            assert!(relative(bad).is_err(), "{bad:?}");
        }
        assert_eq!(relative("/gantry/pod1").unwrap(), Path::new("gantry/pod1"));
    }

    #[test]
    fn limits_are_written_in_each_version_s_units() {
        let limits = Resources {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit_bytes: Some(64 << 20),
            ..Default::default()
        };
        let v2 = limits_v2(&limits);
        assert!(v2.contains(&("cpu.weight".to_owned(), "39".to_owned())), "{v2:?}");
        assert!(v2.contains(&("cpu.max".to_owned(), "50000 100000".to_owned())));
        assert!(v2.contains(&("memory.max".to_owned(), "67108864".to_owned())));
        let none = limits_v2(&Resources::default());
        assert!(none.contains(&("cpu.max".to_owned(), "max 100000".to_owned())));
        assert!(none.contains(&("memory.max".to_owned(), "max".to_owned())));
        let v1 = cpu_v1(&limits);
        assert!(v1.contains(&("cpu.cfs_quota_us".to_owned(), "50000".to_owned())));
        assert!(cpu_v1(&Resources::default()).contains(&("cpu.cfs_quota_us".to_owned(), "-1".to_owned())));
    }
}
