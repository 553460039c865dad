//! What the machine is and has, read from the operating system.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use crate::pods::resources::Amounts;
use crate::runtime::{InterfaceUsage, Usage};

/// Kept back from pods for the machine itself, as the kubelet's eviction threshold does.
const MEMORY_RESERVED: i64 = 100 << 20;

/// What does not change while the agent runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors the agent may use.
    pub cpus: i64,
    /// Bytes of memory, 0 if unknown.
    pub memory_bytes: i64,
    /// Bytes of the file system of the data directory, 0 if unknown.
    pub storage_bytes: i64,
    /// Huge pages by resource name, in bytes.
    pub hugepages: BTreeMap<String, i64>,
    /// Whether its kernel confines programs by AppArmor.
    pub app_armor: bool,
    /// Such as `6.1.0-18-amd64`.
    pub kernel_version: String,
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// Of the installation.
    pub machine_id: String,
    /// Of the hardware.
    pub system_uuid: String,
    /// Of this run of the machine.
    pub boot_id: String,
}

/// What is now left of what can run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of memory that can still be had, if known.
    pub memory_available: Option<i64>,
    /// Processes and how many there may be, if known.
    pub pids: Option<(i64, i64)>,
}

impl Machine {
    /// What there is, in the units of [`Amounts`].
    pub fn capacity(&self, max_pods: u32) -> Amounts {
        let mut capacity = Amounts::from([("cpu".into(), self.cpus * 1000), ("pods".into(), i64::from(max_pods))]);
        for (name, bytes) in [("memory", self.memory_bytes), ("ephemeral-storage", self.storage_bytes)] {
            if bytes > 0 {
                capacity.insert(name.into(), bytes);
            }
        }
        capacity.extend(self.hugepages.clone());
        capacity
    }

    /// What pods may have of it.
    pub fn allocatable(&self, max_pods: u32) -> Amounts {
        let mut allocatable = self.capacity(max_pods);
        let huge: i64 = self.hugepages.values().sum();
        if let Some(memory) = allocatable.get_mut("memory") {
            *memory = (*memory - MEMORY_RESERVED - huge).max(0);
        }
        if let Some(storage) = allocatable.get_mut("ephemeral-storage") {
            *storage = *storage / 10 * 9;
        }
        allocatable
    }
}

/// The size of huge pages as the names of resources have it.
#[cfg(target_os = "linux")]
fn page_size(kib: i64) -> String {
    match kib {
        _ if kib >= 1 << 20 => format!("{}Gi", kib >> 20),
        _ if kib >= 1 << 10 => format!("{}Mi", kib >> 10),
        _ => format!("{kib}Ki"),
    }
}

/// The address with which the machine speaks to others; nothing is sent to find it out.
pub fn default_ip() -> IpAddr {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // An address of the documentation: only the routing table is asked.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    match ask() {
        Ok(ip) if !ip.is_unspecified() => ip,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// Reads the machine.
pub fn read(data_dir: &Path) -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut machine = Machine { cpus: i64::try_from(cpus).unwrap_or(1), ..Machine::default() };
    system::fill(&mut machine, data_dir);
    machine
}

/// Reads what the whole machine uses, and what its interfaces have carried.
pub fn usage() -> (Usage, Vec<InterfaceUsage>) {
    system::usage()
}

/// Reads what is left.
pub fn load() -> Load {
    system::load()
}

#[cfg(target_os = "linux")]
mod system {
    use std::path::Path;

    use super::{InterfaceUsage, Load, Machine, Usage};

    /// Nanoseconds of a tick in `/proc/stat`, whatever the kernel's own are.
    const TICK_NS: u64 = 10_000_000;

    fn text(path: &str) -> String {
        std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    fn meminfo(name: &str) -> Option<i64> {
        let info = text("/proc/meminfo");
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: i64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kib * 1024)
    }

    pub fn fill(machine: &mut Machine, data_dir: &Path) {
        machine.memory_bytes = meminfo("MemTotal").unwrap_or(0);
        if let Ok(stat) = rustix::fs::statvfs(data_dir) {
            machine.storage_bytes = i64::try_from(stat.f_blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
        }
        for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(kib) = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")?.parse::<i64>().ok())
            else {
                continue;
            };
            let count: i64 = text(&entry.path().join("nr_hugepages").display().to_string()).parse().unwrap_or(0);
            machine.hugepages.insert(format!("hugepages-{}", super::page_size(kib)), count * kib * 1024);
        }
        machine.app_armor = text("/sys/module/apparmor/parameters/enabled").starts_with('Y');
        machine.kernel_version = text("/proc/sys/kernel/osrelease");
        let release = text("/etc/os-release");
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        machine.os_image = pretty.unwrap_or("Linux").trim_matches('"').to_owned();
        machine.machine_id = text("/etc/machine-id");
        machine.system_uuid = text("/sys/class/dmi/id/product_uuid");
        if machine.system_uuid.is_empty() {
            machine.system_uuid.clone_from(&machine.machine_id);
        }
        machine.boot_id = text("/proc/sys/kernel/random/boot_id");
    }

    pub fn usage() -> (Usage, Vec<InterfaceUsage>) {
        let stat = text("/proc/stat");
        let cpu = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let ticks: Vec<u64> = cpu.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        let spent = |fields: &[usize]| fields.iter().filter_map(|field| ticks.get(*field)).sum::<u64>() * TICK_NS;
        // user, nice, system, idle, iowait, irq, softirq, steal
        let (user, system) = (spent(&[0, 1]), spent(&[2, 5, 6]));
        let vmstat = text("/proc/vmstat");
        let faults = |name: &str| {
            let line = vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        let of = |name: &str| meminfo(name).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        let memory_bytes = of("MemTotal").saturating_sub(of("MemFree"));
        let running = text("/proc/loadavg");
        let processes = running.split(' ').nth(3).and_then(|part| part.split('/').nth(1)?.parse().ok());
        let usage = Usage {
            cpu_ns: user + system,
            cpu_user_ns: user,
            cpu_system_ns: system,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(of("Inactive(file)")),
            rss_bytes: of("AnonPages"),
            cache_bytes: of("Cached"),
            swap_bytes: of("SwapTotal").saturating_sub(of("SwapFree")),
            page_faults: faults("pgfault"),
            major_page_faults: faults("pgmajfault"),
            processes: processes.unwrap_or(0),
            ..Usage::default()
        };
        (usage, crate::linux::usage::own_interfaces())
    }

    pub fn load() -> Load {
        let loadavg = text("/proc/loadavg");
        let pids = loadavg.split(' ').nth(3).and_then(|part| part.split('/').nth(1)?.parse().ok());
        let pid_max = text("/proc/sys/kernel/pid_max").parse().ok();
        Load { memory_available: meminfo("MemAvailable"), pids: pids.zip(pid_max) }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::path::Path;

    use super::{InterfaceUsage, Load, Machine, Usage};

    pub fn fill(machine: &mut Machine, _data_dir: &Path) {
        machine.os_image = std::env::consts::OS.to_owned();
    }

    pub fn usage() -> (Usage, Vec<InterfaceUsage>) {
        Default::default()
    }

    pub fn load() -> Load {
        Load::default()
    }
}
