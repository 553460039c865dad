//! Volumes that begin empty and end with their pod: on the node's disk, in memory, or of huge pages.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};

use super::sys;
use crate::pods::resources::{HUGE_PAGES, amount, page_size, requests};
use crate::pods::spec;

/// The medium of huge pages of the one size that the pod asks for.
const MEDIUM_HUGE_PAGES: &str = "HugePages";

/// What a volume is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The node's disk.
    Disk,
    /// Memory.
    Memory,
    /// Huge pages of so many bytes.
    HugePages(i64),
}

/// A volume to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Empty {
    /// Of what.
    pub medium: Medium,
    /// How large it may be; a disk has no such limit, who writes too much there is evicted.
    pub size: Option<i64>,
    /// Whose it is.
    pub group: Option<u32>,
}

impl Empty {
    /// What a pod wants. Where there is no memory file system the disk takes its place.
    pub fn wanted(
        pod: &Pod,
        source: &EmptyDirVolumeSource,
        group: Option<u32>,
        has_memory: bool,
    ) -> Result<Self, String> {
        let medium = match source.medium.as_deref().unwrap_or_default() {
            "Memory" if has_memory => Medium::Memory,
            "" | "Memory" => Medium::Disk,
            medium if medium.starts_with(MEDIUM_HUGE_PAGES) => Medium::HugePages(page_size_of(pod, medium)?),
            other => return Err(format!("unknown storage medium \"{other}\"")),
        };
        Ok(Self { medium, size: source.size_limit.as_ref().map(|size| amount("memory", size)), group })
    }

    /// Makes it, unless it is there.
    pub fn make(&self, dir: &Path) -> io::Result<()> {
        if dir.exists() && self.medium == Medium::Disk {
            return Ok(());
        }
        std::fs::create_dir_all(dir)?;
        let (mounted, what) = match self.medium {
            Medium::Disk => (true, ""),
            Medium::Memory => (sys::mount_memory(dir, self.size, 0o777)?, "a memory file system"),
            Medium::HugePages(page) => (sys::mount_huge_pages(dir, page, self.size)?, "a file system of huge pages"),
        };
        if !mounted {
            return Err(io::Error::other(format!("{what} cannot be mounted here")));
        }
        sys::set_mode(dir, 0o777)?;
        self.group.map_or(Ok(()), |group| sys::give_to_group(dir, group))
    }
}

/// The size of a medium's pages in bytes, by what the pod's containers ask for.
fn page_size_of(pod: &Pod, medium: &str) -> Result<i64, String> {
    let containers = spec::all_containers(pod).flat_map(|container| requests(container.spec).into_keys());
    let of_pod = spec::spec(pod).resources.iter().flat_map(|resources| resources.requests.iter().flatten());
    let names = containers.chain(of_pod.map(|(name, _)| name.clone()));
    let asked: BTreeSet<i64> = names.filter_map(|name| page_size(&name)).collect();
    let missing =
        || format!("medium: {medium}: huge pages storage requested, but there is no resource request for huge pages");
    if let Some(size) = medium.strip_prefix(MEDIUM_HUGE_PAGES).and_then(|size| size.strip_prefix('-')) {
        let size =
            page_size(&format!("{HUGE_PAGES}{size}")).ok_or_else(|| format!("unknown storage medium \"{medium}\""))?;
        return if asked.contains(&size) { Ok(size) } else { Err(missing()) };
    }
    match (asked.first(), asked.len()) {
        (Some(size), 1) => Ok(*size),
        (Some(_), _) => Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes")),
        (None, _) => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(medium: &str, sizes: &[&str], has_memory: bool) -> Result<Medium, String> {
        let limits: serde_json::Map<_, _> =
            sizes.iter().map(|size| (format!("hugepages-{size}"), json!("4Gi"))).collect();
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {"limits": limits}}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let source = EmptyDirVolumeSource { medium: Some(medium.into()), size_limit: None };
        Empty::wanted(&pod, &source, None, has_memory).map(|empty| empty.medium)
    }

    #[test]
    fn the_pages_of_a_volume_are_of_a_size_that_the_pod_asks_for() {
        assert_eq!(wanted("HugePages", &["2Mi"], true), Ok(Medium::HugePages(2 << 20)));
        assert_eq!(wanted("HugePages-1Gi", &["2Mi", "1Gi"], true), Ok(Medium::HugePages(1 << 30)));
        let none = "huge pages storage requested, but there is no resource request for huge pages";
        assert!(wanted("HugePages", &[], true).unwrap_err().ends_with(none));
        assert!(wanted("HugePages-2Mi", &["1Gi"], true).unwrap_err().ends_with(none));
        let many = "medium: HugePages can't be used if container requests multiple huge page sizes";
        assert_eq!(wanted("HugePages", &["2Mi", "1Gi"], true).unwrap_err(), many);
        assert_eq!(wanted("HugePages-x", &["2Mi"], true).unwrap_err(), "unknown storage medium \"HugePages-x\"");
    }

    #[test]
    fn where_there_is_no_memory_file_system_the_disk_has_to_do() {
        assert_eq!(wanted("Memory", &[], true), Ok(Medium::Memory));
        assert_eq!(wanted("Memory", &[], false), Ok(Medium::Disk));
        assert_eq!(wanted("", &[], true), Ok(Medium::Disk));
    }

    /// A file system can be mounted where no page is set aside; what is written there then ends with a signal.
    #[cfg(target_os = "linux")]
    #[test]
    fn huge_pages_are_mounted_where_the_kernel_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("pages");
        let empty = Empty { medium: Medium::HugePages(2 << 20), size: Some(4 << 20), group: None };
        let has_pages = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
        if !has_pages || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: the kernel has no huge pages of 2Mi, or this is not root");
            return;
        }
        for _ in 0..2 {
            empty.make(&volume).unwrap();
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here: Vec<_> = mounts.lines().filter(|line| line.contains(volume.to_str().unwrap())).collect();
        assert!(here.len() == 1 && here[0].contains("hugetlbfs") && here[0].contains("pagesize=2M"), "{here:?}");
        sys::unmount(&volume).unwrap();
    }
}
