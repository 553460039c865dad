//! What cgroups and interfaces have used, read from the kernel. In: an absolute cgroup. Out: [`Usage`], [`InterfaceUsage`].
//! What a kernel does not tell is zero.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::cgroups::{Hierarchy, mounted, relative};
use crate::runtime::{InterfaceUsage, PodUsage, Usage};

/// cgroup v1's way to say that there is no limit is a number near this.
const UNLIMITED: u64 = 1 << 60;

/// Reads a pod's cgroup, those of its `members` below it, and the interfaces of the first member that has a process.
pub fn pod(cgroup: &str, members: &[String]) -> PodUsage {
    let (Ok(hierarchies), Ok(path)) = (mounted(), relative(cgroup)) else { return PodUsage::default() };
    let mut usage = PodUsage { pod: read(&hierarchies, &path).unwrap_or_default(), ..PodUsage::default() };
    for member in members {
        let path = path.join(member);
        if usage.interfaces.is_empty()
            && let Some(pid) = a_process(&hierarchies, &path)
        {
            usage.interfaces = interfaces(&format!("/proc/{pid}/net/dev"));
        }
        if let Some(read) = read(&hierarchies, &path) {
            usage.members.insert(member.clone(), read);
        }
    }
    usage
}

/// What the interfaces of this process's own network have carried.
pub fn own_interfaces() -> Vec<InterfaceUsage> {
    interfaces("/proc/self/net/dev")
}

fn text(path: PathBuf) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(path: PathBuf) -> Option<u64> {
    text(path)?.trim().parse().ok()
}

/// The lines `name value` of a file.
fn table(path: PathBuf) -> HashMap<String, u64> {
    let text = text(path).unwrap_or_default();
    let row = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// Reads one cgroup; none if it is nowhere.
fn read(hierarchies: &[Hierarchy], path: &Path) -> Option<Usage> {
    let mut usage = Usage::default();
    let mut found = false;
    let only_v2 = hierarchies.iter().all(|hierarchy| hierarchy.v2);
    for hierarchy in hierarchies {
        let folder = hierarchy.mount.join(path);
        if !folder.is_dir() {
            continue;
        }
        if hierarchy.v2 && only_v2 {
            found = true;
            read_v2(&folder, &mut usage);
        } else if hierarchy.v2 {
            // Beside v1 hierarchies, v2 has no controllers and nothing to tell.
        } else {
            found |= read_v1(hierarchy, &folder, &mut usage);
        }
    }
    found.then_some(usage)
}

fn read_v2(folder: &Path, usage: &mut Usage) {
    let cpu = table(folder.join("cpu.stat"));
    let of = |name: &str| cpu.get(name).copied().unwrap_or(0);
    usage.cpu_ns = of("usage_usec") * 1000;
    usage.cpu_user_ns = of("user_usec") * 1000;
    usage.cpu_system_ns = of("system_usec") * 1000;
    usage.cpu_periods = of("nr_periods");
    usage.cpu_periods_throttled = of("nr_throttled");
    usage.cpu_throttled_ns = of("throttled_usec") * 1000;
    let memory = table(folder.join("memory.stat"));
    let of = |name: &str| memory.get(name).copied().unwrap_or(0);
    usage.memory_bytes = number(folder.join("memory.current")).unwrap_or(0);
    usage.working_set_bytes = usage.memory_bytes.saturating_sub(of("inactive_file"));
    usage.rss_bytes = of("anon");
    usage.cache_bytes = of("file");
    usage.page_faults = of("pgfault");
    usage.major_page_faults = of("pgmajfault");
    usage.memory_limit_bytes = number(folder.join("memory.max"));
    usage.swap_bytes = number(folder.join("memory.swap.current")).unwrap_or(0);
    usage.processes = number(folder.join("pids.current")).unwrap_or(0);
}

fn read_v1(hierarchy: &Hierarchy, folder: &Path, usage: &mut Usage) -> bool {
    let mut known = false;
    if hierarchy.has_v1("cpuacct") {
        known = true;
        usage.cpu_ns = number(folder.join("cpuacct.usage")).unwrap_or(0);
        usage.cpu_user_ns = number(folder.join("cpuacct.usage_user")).unwrap_or(0);
        usage.cpu_system_ns = number(folder.join("cpuacct.usage_sys")).unwrap_or(0);
    }
    if hierarchy.has_v1("cpu") {
        known = true;
        let cpu = table(folder.join("cpu.stat"));
        let of = |name: &str| cpu.get(name).copied().unwrap_or(0);
        usage.cpu_periods = of("nr_periods");
        usage.cpu_periods_throttled = of("nr_throttled");
        usage.cpu_throttled_ns = of("throttled_time");
    }
    if hierarchy.has_v1("memory") {
        known = true;
        let memory = table(folder.join("memory.stat"));
        let of = |name: &str| memory.get(name).copied().unwrap_or(0);
        usage.memory_bytes = number(folder.join("memory.usage_in_bytes")).unwrap_or(0);
        usage.working_set_bytes = usage.memory_bytes.saturating_sub(of("total_inactive_file"));
        usage.rss_bytes = of("total_rss");
        usage.cache_bytes = of("total_cache");
        usage.page_faults = of("total_pgfault");
        usage.major_page_faults = of("total_pgmajfault");
        let limit = number(folder.join("memory.limit_in_bytes"));
        usage.memory_limit_bytes = limit.filter(|limit| *limit < UNLIMITED);
        let with_swap = number(folder.join("memory.memsw.usage_in_bytes"));
        usage.swap_bytes = with_swap.unwrap_or(0).saturating_sub(usage.memory_bytes);
    }
    if hierarchy.has_v1("pids") {
        known = true;
        usage.processes = number(folder.join("pids.current")).unwrap_or(0);
    }
    known
}

fn a_process(hierarchies: &[Hierarchy], path: &Path) -> Option<u64> {
    let first = |hierarchy: &Hierarchy| {
        text(hierarchy.mount.join(path).join("cgroup.procs"))?.lines().next()?.trim().parse().ok()
    };
    hierarchies.iter().find_map(first)
}

fn interfaces(file: &str) -> Vec<InterfaceUsage> {
    parse_interfaces(&fs::read_to_string(file).unwrap_or_default())
}

/// Reads `/proc/net/dev`; the loopback carries nothing that leaves.
fn parse_interfaces(text: &str) -> Vec<InterfaceUsage> {
    let row = |line: &str| {
        let (name, values) = line.split_once(':')?;
        let values: Vec<u64> = values.split_whitespace().filter_map(|value| value.parse().ok()).collect();
        let of = |index: usize| values.get(index).copied();
        Some(InterfaceUsage {
            name: name.trim().to_owned(),
            rx_bytes: of(0)?,
            rx_packets: of(1)?,
            rx_errors: of(2)?,
            rx_dropped: of(3)?,
            tx_bytes: of(8)?,
            tx_packets: of(9)?,
            tx_errors: of(10)?,
            tx_dropped: of(11)?,
        })
    };
    text.lines().filter_map(row).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn both_versions_tell_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let v1 = |name: &str| Hierarchy { mount: dir.path().join(name), v1_options: vec![name.into()], v2: false };
        let hierarchies = [v1("cpu"), v1("cpuacct"), v1("memory"), v1("pids")];
        let path = Path::new("gantry/podx");
        write(
            &hierarchies[0].mount.join(path),
            &[("cpu.stat", "nr_periods 10\nnr_throttled 2\nthrottled_time 5000\n")],
        );
        write(
            &hierarchies[1].mount.join(path),
            &[("cpuacct.usage", "3000000\n"), ("cpuacct.usage_user", "2000000\n"), ("cpuacct.usage_sys", "1000000\n")],
        );
        let stat =
            "cache 1\ntotal_rss 40\ntotal_cache 50\ntotal_inactive_file 30\ntotal_pgfault 7\ntotal_pgmajfault 1\n";
        let memory = [
            ("memory.stat", stat),
            ("memory.usage_in_bytes", "100\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.usage_in_bytes", "120\n"),
        ];
        write(&hierarchies[2].mount.join(path), &memory);
        write(&hierarchies[3].mount.join(path), &[("pids.current", "4\n")]);
        let first = read(&hierarchies, path).unwrap();

        let v2 = [Hierarchy { mount: dir.path().join("v2"), v1_options: Vec::new(), v2: true }];
        let files = [
            (
                "cpu.stat",
                "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 10\nnr_throttled 2\nthrottled_usec 5\n",
            ),
            ("memory.stat", "anon 40\nfile 50\ninactive_file 30\npgfault 7\npgmajfault 1\n"),
            ("memory.current", "100\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "20\n"),
            ("pids.current", "4\n"),
        ];
        write(&v2[0].mount.join(path), &files);
        let second = read(&v2, path).unwrap();
        assert_eq!(first, second);
        assert_eq!((first.cpu_ns, first.working_set_bytes, first.swap_bytes), (3_000_000, 70, 20));
        assert_eq!(first.memory_limit_bytes, None);
        assert!(read(&v2, Path::new("gantry/other")).is_none());
    }

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let text = "Inter-|   Receive                                                |  Transmit\n\
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
                    lo:  100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n\
                    eth0: 2000 20 3 4 0 0 0 0 1000 10 5 6 0 0 0 0\n";
        let found = parse_interfaces(text);
        assert_eq!(found.len(), 1);
        let eth0 = &found[0];
        assert_eq!((eth0.name.as_str(), eth0.rx_bytes, eth0.rx_errors), ("eth0", 2000, 3));
        assert_eq!((eth0.tx_bytes, eth0.tx_packets, eth0.tx_dropped), (1000, 10, 6));
    }
}
