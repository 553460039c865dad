//! Looks at the machine of a node. In: the data directory of its agent. Out: findings; nothing
//! is changed, and no API server is asked.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::Finding;
use crate::node::machine::{self, Load};
use crate::runtime::containerd::{Inspection, inspect};
use crate::runtime::instance::Instance;
use crate::stats::disk::{self, FileSystem};

/// Certificates that run out sooner than this are told of.
const CERTIFICATE_DAYS_MIN: i64 = 30;
/// The controllers without which pods have no limits.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

/// What was seen of the machine.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whether an agent answers; `None` if it could not be found out.
    pub agent: Option<bool>,
    /// The container runtime and what it needs.
    pub runtime: Inspection,
    /// The disk of the data directory.
    pub disk: Option<FileSystem>,
    /// What is left of memory and processes.
    pub load: Load,
    /// Bytes of memory in all.
    pub memory_bytes: i64,
    /// Controllers that the kernel offers.
    pub controllers: Vec<String>,
    /// Whether overlays can be mounted.
    pub overlay: bool,
    /// Whether the kernel routes between pods.
    pub forwarding: bool,
    /// Whether bridged packets are shown to the rules of services; `None` without the kernel's module.
    pub bridge_rules: Option<bool>,
    /// Certificates in the data directory, and when they run out.
    pub certificates: Vec<(PathBuf, Timestamp)>,
}

/// Looks at the machine.
pub async fn look(data_dir: &Path) -> Facts {
    let machine = machine::read(data_dir);
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let is_set = |path: &str| text(path).trim() == "1";
    let bridge = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    Facts {
        agent: agent_answers(data_dir).await,
        runtime: inspect(data_dir).await,
        disk: disk::file_system(data_dir),
        load: machine::load(),
        memory_bytes: machine.memory_bytes,
        controllers: controllers(),
        overlay: text("/proc/filesystems").lines().any(|line| line.ends_with("overlay")),
        forwarding: is_set("/proc/sys/net/ipv4/ip_forward"),
        bridge_rules: Path::new(bridge).exists().then(|| is_set(bridge)),
        certificates: certificates(data_dir),
    }
}

async fn agent_answers(data_dir: &Path) -> Option<bool> {
    let instance = Instance::of(data_dir).ok()?;
    match crate::shutdown::control::is_there(&instance.run_dir()).await {
        Ok(()) => Some(true),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        Err(_) => Some(false),
    }
}

/// Of the one hierarchy, or of the several that older systems have.
fn controllers() -> Vec<String> {
    let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let several = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let several = several.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let name = line.split_whitespace().next()?;
        Path::new("/sys/fs/cgroup").join(name).is_dir().then(|| name.to_owned())
    });
    unified.split_whitespace().map(str::to_owned).chain(several).collect()
}

/// The certificates below the data directory's own folders, not those of pods.
fn certificates(data_dir: &Path) -> Vec<(PathBuf, Timestamp)> {
    let mut found = Vec::new();
    let folders = [data_dir.to_owned(), data_dir.join("pki")];
    for entry in folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten()) {
        let path = entry.path();
        let is_certificate = path.extension().is_some_and(|extension| extension == "crt" || extension == "pem");
        let Some(bytes) = is_certificate.then(|| std::fs::read(&path).ok()).flatten() else { continue };
        let Some(Ok(pem)) = x509_parser::pem::Pem::iter_from_buffer(&bytes).next() else { continue };
        let Ok(certificate) = pem.parse_x509() else { continue };
        if let Ok(until) = Timestamp::from_second(certificate.validity().not_after.timestamp()) {
            found.push((path, until));
        }
    }
    found.sort();
    found
}

/// What is to be said of what was seen.
pub fn judge(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings = vec![match facts.agent {
        Some(true) => Finding::good("the node agent runs"),
        Some(false) => Finding::bad(
            "no node agent of this data directory runs",
            "start it (`gantry agent` or `gantry up`), and see what its log says; pods that run go on meanwhile",
        ),
        None => Finding::odd("whether the node agent runs cannot be seen", "run this as root"),
    }];
    findings.extend(runtime(&facts.runtime));
    findings.extend(facts.disk.as_ref().map(space).unwrap_or_default());
    findings.push(memory(facts));
    findings.extend(kernel(facts));
    findings.extend(facts.certificates.iter().filter_map(|(path, until)| certificate(path, *until, now)));
    if !facts.certificates.is_empty() && !findings.iter().any(|finding| finding.what.starts_with("the certificate")) {
        findings
            .push(Finding::good(format!("{} certificates are good for a month and more", facts.certificates.len())));
    }
    findings
}

fn runtime(seen: &Inspection) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        seen.missing.iter().map(|what| Finding::bad(what.clone(), "install it and start the agent again")).collect();
    match &seen.answer {
        Err(why) => {
            let log =
                seen.log.as_deref().filter(|log| !log.is_empty()).map(|log| format!("; its log ends with: {log}"));
            let what = format!("containerd does not answer: {why}{}", log.unwrap_or_default());
            findings
                .push(Finding::bad(what, "start the agent, which starts it; if it hangs, end it: containers go on"));
        }
        Ok((version, status)) => {
            findings.push(Finding::good(format!("{} {} answers", version.name, version.version)));
            for (what, state) in [("runs no containers", &status.runtime), ("has no network for pods", &status.network)]
            {
                if !state.ready {
                    let what = format!("containerd {what}: {} {}", state.reason, state.message);
                    let remedy = "a network comes when the node has its pods' addresses; else see containerd's log";
                    findings.push(Finding::bad(what.trim_end(), remedy));
                }
            }
        }
    }
    if seen.network == Some(false) {
        let remedy = "the node gets its pods' addresses from the controllers: see that they run";
        findings.push(Finding::odd("no pod network has been configured here yet", remedy));
    }
    findings
}

fn space(disk: &FileSystem) -> Vec<Finding> {
    let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or(100);
    let left = percent(disk.available, disk.capacity);
    let gib = disk.available >> 30;
    let mut findings = vec![match left {
        0..10 => Finding::bad(
            format!("the data directory's disk has {left}% ({gib} GiB) left"),
            "make room: below the thresholds images are removed and pods are evicted",
        ),
        10..20 => Finding::odd(format!("the data directory's disk has {left}% ({gib} GiB) left"), "make room in time"),
        _ => Finding::good(format!("the data directory's disk has {left}% ({gib} GiB) left")),
    }];
    if disk.inodes > 0 && percent(disk.inodes_free, disk.inodes) < 5 {
        let what = format!("of its inodes {}% are left", percent(disk.inodes_free, disk.inodes));
        findings.push(Finding::bad(what, "remove what is many small files"));
    }
    findings
}

fn memory(facts: &Facts) -> Finding {
    let Some(available) = facts.load.memory_available else { return Finding::good("memory is not told of here") };
    let mib = available >> 20;
    if available < 100 << 20 {
        return Finding::bad(format!("{mib} MiB of memory are left"), "move pods elsewhere or give them limits");
    }
    match facts.load.pids {
        Some((running, most)) if running.saturating_mul(100) > most.saturating_mul(95) => {
            Finding::bad(format!("{running} of {most} processes run"), "look for who makes so many")
        }
        _ => Finding::good(format!("{mib} MiB of {} MiB of memory are left", facts.memory_bytes >> 20)),
    }
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let missing: Vec<_> =
        CONTROLLERS.into_iter().filter(|wanted| !facts.controllers.iter().any(|has| has == wanted)).collect();
    if !missing.is_empty() {
        let what = format!("the kernel offers no control group for {}", missing.join(", "));
        findings.push(Finding::bad(
            what,
            "mount cgroup2 at /sys/fs/cgroup, or switch these on at the kernel's command line",
        ));
    }
    if !facts.overlay {
        let remedy = "`modprobe overlay`; without it every container's files are copied";
        findings.push(Finding::odd("the kernel has no overlay file system", remedy));
    }
    if !facts.forwarding {
        let remedy = "`sysctl net.ipv4.ip_forward=1`; the agent does it when it configures the pods' network";
        findings.push(Finding::bad("the kernel does not route: pods reach nobody beyond their node", remedy));
    }
    match facts.bridge_rules {
        Some(true) => {}
        Some(false) => findings.push(Finding::bad(
            "bridged packets pass the rules of services by",
            "`sysctl net.bridge.bridge-nf-call-iptables=1`",
        )),
        None => findings.push(Finding::odd(
            "the kernel's module br_netfilter is not loaded",
            "`modprobe br_netfilter`; without it pods of one node may not reach each other by a Service's address",
        )),
    }
    if findings.is_empty() {
        findings.push(Finding::good("the kernel has what is needed: control groups, overlay, routing, bridges"));
    }
    findings
}

fn certificate(path: &Path, until: Timestamp, now: Timestamp) -> Option<Finding> {
    let left = until.duration_since(now);
    let path = path.display();
    if left <= SignedDuration::ZERO {
        let remedy = "components renew their own when they start; make others with `gantry kubeconfig`";
        return Some(Finding::bad(format!("the certificate {path} ran out at {until}"), remedy));
    }
    let days = left.as_hours() / 24;
    (days < CERTIFICATE_DAYS_MIN).then(|| {
        let remedy = "start its component again, which renews it, or make another with `gantry kubeconfig`";
        Finding::odd(format!("the certificate {path} runs out in {days} days"), remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Level;
    use crate::runtime::{Readiness, RuntimeStatus, RuntimeVersion};

    fn well() -> Facts {
        let ready = Readiness { ready: true, reason: String::new(), message: String::new() };
        let version = RuntimeVersion { name: "containerd".into(), version: "1.6.20".into() };
        Facts {
            agent: Some(true),
            runtime: Inspection {
                missing: Vec::new(),
                answer: Ok((version, RuntimeStatus { runtime: ready.clone(), network: ready, strict_groups: false })),
                log: None,
                network: Some(true),
            },
            disk: Some(FileSystem { capacity: 100 << 30, available: 50 << 30, inodes: 100, inodes_free: 50 }),
            load: Load { memory_available: Some(1 << 30), pids: Some((10, 1000)) },
            memory_bytes: 2 << 30,
            controllers: CONTROLLERS.map(str::to_owned).to_vec(),
            overlay: true,
            forwarding: true,
            bridge_rules: Some(true),
            certificates: vec![("/d/pki/a.crt".into(), Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365))],
        }
    }

    fn seen(change: impl FnOnce(&mut Facts)) -> Vec<(Level, String)> {
        let mut facts = well();
        change(&mut facts);
        let found = judge(&facts, Timestamp::UNIX_EPOCH);
        assert!(found.iter().all(|finding| (finding.level == Level::Good) == finding.remedy.is_empty()), "{found:?}");
        found.into_iter().filter(|found| found.level > Level::Good).map(|found| (found.level, found.what)).collect()
    }

    #[test]
    fn each_trouble_is_named() {
        let bad = |what: &str| vec![(Level::Bad, what.to_owned())];
        let odd = |what: &str| vec![(Level::Odd, what.to_owned())];
        assert_eq!(seen(|_| {}), []);
        assert_eq!(seen(|facts| facts.agent = Some(false)), bad("no node agent of this data directory runs"));
        assert_eq!(seen(|facts| facts.agent = None), odd("whether the node agent runs cannot be seen"));
        let silent = |facts: &mut Facts| {
            facts.runtime.answer = Err("nothing came".into());
            facts.runtime.log = Some("panic".into());
        };
        assert_eq!(seen(silent), bad("containerd does not answer: nothing came; its log ends with: panic"));
        assert_eq!(seen(|facts| facts.runtime.missing = vec!["no runc".into()]), bad("no runc"));
        assert_eq!(
            seen(|facts| facts.runtime.network = Some(false)),
            odd("no pod network has been configured here yet")
        );
        let disk = |available: u64, inodes_free: u64| {
            seen(|facts| facts.disk = Some(FileSystem { capacity: 100 << 30, available, inodes: 100, inodes_free }))
        };
        assert_eq!(disk(5 << 30, 50), bad("the data directory's disk has 5% (5 GiB) left"));
        assert_eq!(disk(15 << 30, 50), odd("the data directory's disk has 15% (15 GiB) left"));
        assert_eq!(disk(50 << 30, 4), bad("of its inodes 4% are left"));
        assert_eq!(seen(|facts| facts.load.memory_available = Some(50 << 20)), bad("50 MiB of memory are left"));
        assert_eq!(seen(|facts| facts.load.pids = Some((990, 1000))), bad("990 of 1000 processes run"));
        assert_eq!(
            seen(|facts| facts.controllers.retain(|name| name != "pids")),
            bad("the kernel offers no control group for pids")
        );
        assert_eq!(seen(|facts| facts.overlay = false), odd("the kernel has no overlay file system"));
        assert_eq!(seen(|facts| facts.bridge_rules = None), odd("the kernel's module br_netfilter is not loaded"));
        let certificate = |hours: i64| {
            seen(|facts| facts.certificates[0].1 = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours))
        };
        assert_eq!(certificate(24 * 3 + 1), odd("the certificate /d/pki/a.crt runs out in 3 days"));
        assert_eq!(certificate(0), bad("the certificate /d/pki/a.crt ran out at 1970-01-01T00:00:00Z"));
    }
}
