//! Starts and supervises the agent's own containerd, or attaches to one.
//!
//! In: a data directory, or an address. Out: a [`Runtime`] that answers.
//!
//! containerd outlives the agent on purpose, killed or stopped: containers go on, and the
//! next agent on the same data directory adopts what runs, containerd included. It is
//! restarted when it dies (containers survive that) or when this version of the agent
//! wants another configuration. [`shutdown_everything`] is what ends it for good.

mod config;
mod handlers;
mod inspect;
mod leftovers;
mod lock;
mod process;
mod reset;
pub mod shims;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use self::inspect::{Inspection, inspect};
use self::leftovers::Leftovers;
use self::lock::Lock;
use self::process::Process;
pub use self::reset::shutdown_everything;
use super::cni::Cni;
use super::cri::{CriOptions, CriRuntime, default_snapshotter};
use super::instance::{Instance, Record};
use super::{Result, Runtime, RuntimeError, pause};

/// How long containerd may take to answer after its start.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Between questions whether it answers.
const START_POLL: Duration = Duration::from_millis(10);
/// First pause before a restart; doubles each time.
const RESTART_DELAY_MIN: Duration = Duration::from_millis(100);
/// How often containerd is started at the agent's start if it ends before it works: one that cannot work ends each time.
const START_TRIES: u32 = 3;
/// How long until an end is noticed that a failed call points to.
const END_NOTICED: Duration = Duration::from_secs(1);
/// Longest pause before a restart.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
/// A containerd that ran this long is restarted without delay again.
const STABLE_TIME: Duration = Duration::from_secs(30);
/// Until what a predecessor asked for when it was killed is done: containerd gives its own tidying a minute.
const FIRST_TIDY_AFTER: Duration = Duration::from_secs(75);
/// Until imports that a containerd took with it when it ended have been given up: they try for some seconds to end in order.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// Between later looks for what was left behind. Longer than making a sandbox may take: what was there then and is nobody's
/// now was given up.
const TIDY_EVERY: Duration = Duration::from_secs(300);
/// How long containerd is given to end by itself.
const END_TIME_MAX: Duration = Duration::from_secs(10);
/// CAP_SYS_RESOURCE, as a bit of the capability masks in /proc.
const CAP_SYS_RESOURCE: u32 = 24;
/// `f_type` of an overlay file system, on which overlays cannot be stacked for containers.
const OVERLAYFS_MAGIC: u32 = 0x794c_7630;

/// What to start or attach to.
#[derive(Clone, Debug)]
pub struct ContainerdOptions {
    /// Attach here; `None` starts an own one.
    pub address: Option<String>,
    /// The agent's data directory.
    pub data_dir: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// Cgroup below which the pods live.
    pub cgroup_root: String,
    /// How long a sandbox may take to stop, before what serves it is killed.
    pub stop_patience: Duration,
}

/// A runtime that answers, and the task that keeps it going until shutdown.
pub struct Started {
    /// The runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Ends after shutdown, when everything is wound down.
    pub supervisor: tokio::task::JoinHandle<()>,
}

/// Starts (or attaches to) containerd and returns once it answers.
pub async fn start(options: ContainerdOptions, shutdown: CancellationToken) -> Result<Started> {
    let instance = Instance::of(&options.data_dir).map_err(failed("cannot use the data directory"))?;
    match &options.address {
        Some(address) => attach(&instance, address, &options, shutdown).await,
        None => start_own(instance, &options, shutdown).await,
    }
}

async fn attach(
    instance: &Instance,
    address: &str,
    options: &ContainerdOptions,
    shutdown: CancellationToken,
) -> Result<Started> {
    let lock = Lock::take(instance).await.map_err(RuntimeError::Failed)?;
    let address = PathBuf::from(address.trim_start_matches("unix://"));
    let record = Record {
        address: address.clone(),
        own: false,
        snapshotter: default_snapshotter(),
        cgroup_root: options.cgroup_root.clone(),
    };
    instance.write_record(&record).map_err(failed("cannot write to the data directory"))?;
    let cri = CriOptions {
        cni: None,
        snapshotter: default_snapshotter(),
        temporary: instance.containerd_dir().join("tmp"),
        stop_patience: options.stop_patience,
    };
    let runtime = CriRuntime::new(&address, cri, shutdown.child_token());
    wait_until_ready(&runtime, None).await.map_err(|error| match error {
        RuntimeError::Unavailable(reason) => {
            RuntimeError::Unavailable(format!("no containerd with CRI answers at {}: {reason}", address.display()))
        }
        other => other,
    })?;
    let supervisor = tokio::spawn(async move {
        shutdown.cancelled().await;
        drop(lock);
    });
    Ok(Started { runtime: Arc::new(runtime), supervisor })
}

async fn start_own(instance: Instance, options: &ContainerdOptions, shutdown: CancellationToken) -> Result<Started> {
    let own = Own::prepare(instance, &options.cgroup_root).await?;
    let left = Leftovers::look(&own.instance);
    let runtime = own.runtime(options.stop_patience, shutdown.child_token());
    let mut tries = START_TRIES;
    let process = loop {
        let (mut process, adopted) = own.find_or_spawn().await?;
        let begun = begin(&own, &mut process, &runtime, (!adopted).then_some(&left)).await;
        tries -= 1;
        match begun {
            Ok(()) => break process,
            // It was killed meanwhile, or one that was about to end was adopted.
            Err(error) if tries > 0 && tokio::time::timeout(END_NOTICED, process.ended()).await.is_ok() => {
                tracing::warn!(%error, "containerd ended while it started, and is started again");
                tokio::time::sleep(RESTART_DELAY_MIN).await;
            }
            Err(error) => return Err(error),
        }
    };
    tracing::info!(
        node = options.node_name,
        pid = process.pid(),
        socket = %own.instance.socket().display(),
        "containerd is ready"
    );
    let supervised = Supervised { own, process, runtime: runtime.clone(), left };
    let supervisor = tokio::spawn(supervised.run(shutdown));
    Ok(Started { runtime: Arc::new(runtime), supervisor })
}

/// Waits until containerd answers, removes what an earlier one has left (`left`, unless it is the same), and gives it the image that
/// every sandbox needs.
async fn begin(own: &Own, process: &mut Process, runtime: &CriRuntime, left: Option<&Leftovers>) -> Result<()> {
    wait_until_ready(runtime, Some((process, &own.log()))).await?;
    match left {
        Some(left) => tidy(runtime, left, true).await,
        None => runtime.importer().forget_interrupted().await,
    }
    let archive = pause::archive().map_err(failed("cannot make the pause image"))?;
    runtime.importer().import_bytes(archive).await.map(drop).map_err(|error| {
        RuntimeError::Failed(format!("cannot import the pause image: {}", super::images::with_sources(&error)))
    })
}

/// The agent's own containerd: its places and its programs.
struct Own {
    instance: Instance,
    binary: PathBuf,
    snapshotter: String,
    config: String,
    /// Held for as long as this agent supervises.
    _lock: Lock,
}

impl Own {
    /// Looks for everything that is needed and makes the folders.
    async fn prepare(instance: Instance, cgroup_root: &str) -> Result<Self> {
        let unsupported = RuntimeError::Unsupported;
        if !rustix::process::geteuid().is_root() {
            return Err(unsupported("running containers needs root".to_owned()));
        }
        let binary = process::find_program("containerd", "containerd").map_err(unsupported)?;
        process::find_program("runc", "runc").map_err(unsupported)?;
        process::find_program("setsid", "util-linux").map_err(unsupported)?;
        let cni_bin_dir = super::cni::find_plugins().map_err(unsupported)?;
        let version = version_of(&binary).await?;
        let lock = Lock::take(&instance).await.map_err(RuntimeError::Failed)?;

        let folders = [
            instance.run_dir(),
            instance.containerd_dir().join("tmp"),
            instance.containerd_dir().join("net.d"),
            instance.containerd_dir().join("certs.d"),
        ];
        for folder in &folders {
            fs::create_dir_all(folder).map_err(failed("cannot make containerd's folders"))?;
        }
        let snapshotter = snapshotter_for(&instance.containerd_dir());
        let record = Record {
            address: instance.socket(),
            own: true,
            snapshotter: snapshotter.clone(),
            cgroup_root: cgroup_root.to_owned(),
        };
        instance.write_record(&record).map_err(failed("cannot write to the data directory"))?;
        let config = config::render(&config::Settings {
            version,
            root: instance.containerd_dir().join("root"),
            state: instance.state_dir(),
            socket: instance.socket(),
            cni_bin_dir,
            cni_conf_dir: instance.containerd_dir().join("net.d"),
            registries_dir: instance.routes_dir(),
            snapshotter: snapshotter.clone(),
            may_lower_oom_score: has_capability(CAP_SYS_RESOURCE),
            has_hugetlb: crate::linux::cgroups::has_hugetlb(),
            handlers: handlers::offered(|program| process::find_program(program, program).ok()),
        });
        Ok(Self { instance, binary, snapshotter, config, _lock: lock })
    }

    fn config_path(&self) -> PathBuf {
        config_path(&self.instance)
    }

    fn pid_file(&self) -> PathBuf {
        pid_file(&self.instance)
    }

    fn log(&self) -> PathBuf {
        self.instance.containerd_dir().join("containerd.log")
    }

    /// Adopts the containerd that runs, unless it runs with another configuration; whether it did.
    async fn find_or_spawn(&self) -> Result<(Process, bool)> {
        let same = fs::read_to_string(self.config_path()).is_ok_and(|old| old == self.config);
        match Process::find(&self.config_path(), &self.pid_file()) {
            Some(running) if same => {
                tracing::info!(pid = running.pid(), "containerd runs already and is adopted");
                return Ok((running, true));
            }
            Some(running) => {
                tracing::info!(pid = running.pid(), "containerd is restarted with a new configuration");
                running.end(END_TIME_MAX).await;
            }
            None => {}
        }
        fs::write(self.config_path(), &self.config).map_err(failed("cannot write containerd's configuration"))?;
        self.spawn().map(|process| (process, false)).map_err(failed("cannot start containerd"))
    }

    fn spawn(&self) -> io::Result<Process> {
        Process::spawn(&self.binary, &self.config_path(), &self.log(), &self.pid_file())
    }

    fn runtime(&self, stop_patience: Duration, shutdown: CancellationToken) -> CriRuntime {
        let cni = Cni {
            conf_dir: self.instance.containerd_dir().join("net.d"),
            addresses_dir: self.instance.addresses_dir(),
            bridge: self.instance.bridge(),
        };
        let options = CriOptions {
            cni: Some(cni),
            snapshotter: self.snapshotter.clone(),
            temporary: self.instance.containerd_dir().join("tmp"),
            stop_patience,
        };
        CriRuntime::new(&self.instance.socket(), options, shutdown)
    }
}

fn config_path(instance: &Instance) -> PathBuf {
    instance.containerd_dir().join("config.toml")
}

fn pid_file(instance: &Instance) -> PathBuf {
    instance.run_dir().join("containerd.pid")
}

/// A containerd that is kept running.
struct Supervised {
    own: Own,
    process: Process,
    runtime: CriRuntime,
    /// What there was when it was last looked for what is left behind.
    left: Leftovers,
}

impl Supervised {
    /// Restarts containerd whenever it ends, until shutdown; then leaves it running.
    async fn run(mut self, shutdown: CancellationToken) {
        let mut delay = RESTART_DELAY_MIN;
        let mut started = Instant::now();
        let mut tidy_at = tokio::time::Instant::now() + FIRST_TIDY_AFTER;
        let mut forget_at = None;
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.process.ended() => true,
                () = tokio::time::sleep_until(tidy_at) => false,
                () = tokio::time::sleep_until(forget_at.unwrap_or(tidy_at)), if forget_at.is_some() => {
                    forget_at = None;
                    if shutdown.run_until_cancelled(self.runtime.importer().forget_interrupted()).await.is_none() {
                        return;
                    }
                    continue;
                }
            };
            if ended {
                // All that it was at is over, and what it does not list afterwards it has forgotten.
                self.left = Leftovers::look(&self.own.instance);
                if started.elapsed() > STABLE_TIME {
                    delay = RESTART_DELAY_MIN;
                }
                if shutdown.run_until_cancelled(self.restart(&mut delay)).await.is_none() {
                    return;
                }
                started = Instant::now();
            }
            if shutdown.run_until_cancelled(tidy(&self.runtime, &self.left, ended)).await.is_none() {
                return;
            }
            self.left = Leftovers::look(&self.own.instance);
            tidy_at = tokio::time::Instant::now() + TIDY_EVERY;
            // Who was at an import when containerd ended may have held on to it until just now.
            forget_at = ended.then(|| tokio::time::Instant::now() + FORGET_AFTER);
        }
    }

    /// Tries until there is a process again.
    async fn restart(&mut self, delay: &mut Duration) {
        let log = self.own.log();
        tracing::warn!(log = %log.display(), delay_ms = delay.as_millis(), "containerd ended and is restarted");
        loop {
            tokio::time::sleep(*delay).await;
            *delay = (*delay * 2).min(RESTART_DELAY_MAX);
            match self.own.spawn() {
                Ok(new) => {
                    self.process = new;
                    return;
                }
                Err(error) => tracing::error!(%error, "cannot start containerd"),
            }
        }
    }
}

/// Removes what is left of sandboxes that containerd does not know, and of imports that nobody goes on with; if it was `restarted`
/// since that was looked at, also what it had begun for itself.
async fn tidy(runtime: &CriRuntime, left: &Leftovers, restarted: bool) {
    if let Err(error) = wait_until_ready(runtime, None).await {
        // It may have ended again; the next start looks anew.
        tracing::debug!(%error, "containerd does not say what is its");
        return;
    }
    match runtime.sandboxes().await {
        Ok(sandboxes) => {
            let left = left.clone();
            let _ = tokio::task::spawn_blocking(move || left.remove(&sandboxes)).await;
        }
        Err(error) => tracing::debug!(%error, "containerd does not list its sandboxes"),
    }
    if restarted {
        runtime.importer().forget_lost(left.seen).await;
    }
    runtime.importer().forget_interrupted().await;
}

/// Waits until CRI answers. With a process and its log, stops waiting if that ends.
async fn wait_until_ready(runtime: &CriRuntime, process: Option<(&mut Process, &Path)>) -> Result<()> {
    let answers = async {
        let deadline = tokio::time::Instant::now() + START_TIME_MAX;
        loop {
            match runtime.version().await {
                Ok(_) => return Ok(()),
                Err(RuntimeError::Unavailable(_)) if tokio::time::Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(START_POLL).await;
        }
    };
    let Some((process, log)) = process else { return answers.await };
    tokio::select! {
        answer = answers => answer,
        () = process.ended() => Err(RuntimeError::Unavailable(format!(
            "containerd ended at once; its log {} ends with: {}",
            log.display(),
            last_lines(log),
        ))),
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

async fn version_of(binary: &Path) -> Result<(u32, u32)> {
    let output = tokio::process::Command::new(binary)
        .arg("--version")
        .output()
        .await
        .map_err(failed("cannot run containerd"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    config::parse_version(&text)
        .ok_or_else(|| RuntimeError::Unsupported(format!("containerd --version says {:?}", text.trim())))
}

/// Overlays cannot be made on an overlay (a data directory inside a container, say).
fn snapshotter_for(folder: &Path) -> String {
    match rustix::fs::statfs(folder) {
        Ok(found) if found.f_type as u32 == OVERLAYFS_MAGIC => "native".to_owned(),
        _ => default_snapshotter(),
    }
}

fn has_capability(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 << bit != 0)
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> RuntimeError {
    move |error| RuntimeError::Failed(format!("{what}: {error}"))
}

/// What is mounted below these folders, the innermost first.
fn mounts_below(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(failed("cannot read what is mounted"))?;
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| folders.iter().any(|folder| point.starts_with(folder) && point != folder))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(points)
}

/// mountinfo writes blanks and backslashes as octal escapes.
fn unescape(text: &str) -> String {
    let mut plain = text.to_owned();
    for (escape, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(escape, character);
    }
    plain
}
