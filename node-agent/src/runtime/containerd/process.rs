//! containerd as a process: found on the machine, started apart from us, and watched.
//!
//! It runs in a session of its own, so that neither a signal to the agent's terminal nor
//! the agent's end reaches it. Whoever comes next finds it by a pid file, and believes the
//! file only if that process was started with this instance's configuration.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::io::unix::AsyncFd;

/// Where programs are looked for besides PATH: administrators' programs are often not in it.
const MORE_PATHS: [&str; 5] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin"];
/// A log larger than this is set aside before the next start.
const LOG_SIZE_MAX: u64 = 16 << 20;

/// A running containerd, whoever started it.
pub(super) struct Process {
    pid: Pid,
    /// Readable once the process has ended.
    ended: AsyncFd<OwnedFd>,
    /// If it is our own child, it has to be reaped.
    child: Option<tokio::process::Child>,
}

impl Process {
    /// Starts containerd with the configuration, and notes down its pid.
    pub(super) fn spawn(binary: &Path, config: &Path, log: &Path, pid_file: &Path) -> io::Result<Self> {
        if fs::metadata(log).is_ok_and(|log| log.len() > LOG_SIZE_MAX) {
            fs::rename(log, log.with_extension("log.1"))?;
        }
        let log = File::options().create(true).append(true).open(log)?;
        // `setsid` becomes containerd itself, so the pid is the right one (it would fork if it
        // led a process group already).
        let child = tokio::process::Command::new("setsid")
            .arg(binary)
            .arg("--config")
            .arg(config)
            .env("PATH", search_path())
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .ok_or_else(|| io::Error::other("containerd ended at once"))?;
        let process = Self { pid, ended: watch(pid)?, child: Some(child) };
        fs::write(pid_file, pid.as_raw_nonzero().to_string())?;
        Ok(process)
    }

    /// The containerd which the pid file names, if it runs with this configuration.
    pub(super) fn find(config: &Path, pid_file: &Path) -> Option<Self> {
        let pid = Pid::from_raw(fs::read_to_string(pid_file).ok()?.trim().parse().ok()?)?;
        // The pidfd comes first: afterwards the pid cannot come to mean another process.
        let ended = watch(pid).ok()?;
        let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let config = config.as_os_str().as_encoded_bytes();
        let is_ours = command.split(|byte| *byte == 0).any(|argument| argument == config);
        is_ours.then_some(Self { pid, ended, child: None })
    }

    /// The process id.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Returns when the process has ended.
    pub(super) async fn ended(&mut self) {
        match &mut self.child {
            Some(child) => drop(child.wait().await),
            None => drop(self.ended.readable().await),
        }
    }

    /// SIGTERM, and SIGKILL if that does not help in time.
    pub(super) async fn end(mut self, patience: Duration) {
        for signal in [Signal::TERM, Signal::KILL] {
            if kill_process(self.pid, signal).is_err() {
                return;
            }
            if tokio::time::timeout(patience, self.ended()).await.is_ok() {
                return;
            }
        }
    }
}

#[expect(deprecated, reason = "its successor is unsafe to call; with an OwnedFd the old one is sound")]
fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// A program's path, or what to install.
pub(super) fn find_program(name: &str, package: &str) -> Result<PathBuf, String> {
    std::env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not installed (Debian: apt-get install {package})"))
}

fn search_path() -> std::ffi::OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&own).collect();
    for more in MORE_PATHS.map(PathBuf::from) {
        if !folders.contains(&more) {
            folders.push(more);
        }
    }
    // Fails only if a folder's name has a colon, and then PATH could not have held it.
    std::env::join_paths(folders).unwrap_or(own)
}
