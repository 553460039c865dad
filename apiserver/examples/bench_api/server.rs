//! The servers that are measured, each in a process of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::{Result, bare};

/// The bearer token of an administrator.
pub const TOKEN: &str = "bench-administrator";
/// The namespace of what is made.
pub const NAMESPACE: &str = "bench";

const READY_WAIT: Duration = Duration::from_secs(60);

/// A server, ended when dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
    ca: PathBuf,
    log: PathBuf,
}

impl Server {
    /// `gantry apiserver` with its embedded store in `dir`.
    pub async fn gantry(dir: &Path) -> Result<Self> {
        Self::of_gantry(dir, &["apiserver"]).await
    }

    /// `gantry up` with its embedded store in `dir`: all but the agent. Nobody tells of the nodes, which stay ready meanwhile.
    pub async fn up(dir: &Path) -> Result<Self> {
        Self::of_gantry(dir, &["up", "--no-agent", "--node-monitor-grace-period", "1h"]).await
    }

    async fn of_gantry(dir: &Path, command: &[&str]) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let tokens = dir.join("tokens.csv");
        std::fs::write(&tokens, format!("{TOKEN},bench,1,\"system:masters\"\n"))?;
        let gantry = gantry_binary()?;
        let address = free_address()?;
        let log = dir.join("gantry.log");
        let mut server = Command::new(gantry);
        server.args(command).args(["--listen", &address.to_string(), "--data-dir"]).arg(dir);
        server.arg("--token-auth-file").arg(tokens);
        let server = Self { child: spawn(server, &log)?, address, ca: dir.join("pki").join("ca.crt"), log };
        server.ready("/readyz").await
    }

    /// `gantry scheduler` of a server whose data is in `dir`, ended when dropped.
    pub fn scheduler(dir: &Path) -> Result<Companion> {
        let mut command = Command::new(gantry_binary()?);
        command
            .arg("scheduler")
            .arg("--kubeconfig")
            .arg(dir.join("admin.kubeconfig"))
            .args(["--health-listen", "127.0.0.1:0"]);
        Ok(Companion(spawn(command, &dir.join("scheduler.log"))?))
    }

    /// The bare server with the bodies that were put into `dir`.
    pub async fn bare(dir: &Path) -> Result<Self> {
        let log = dir.join("bare.log");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(bare::COMMAND).arg(dir);
        // It says which address it took.
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child: spawn(command, &log)?, address, ca: dir.join(bare::CA), log };
        server.address = wait_for(&server.log, || {
            std::fs::read_to_string(dir.join(bare::ADDRESS)).ok().and_then(|text| text.trim().parse().ok())
        })
        .await?;
        server.ready("/").await
    }

    async fn ready(mut self, path: &str) -> Result<Self> {
        let deadline = Instant::now() + READY_WAIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the server ended: {status}; its log:\n{}", self.log_text()).into());
            }
            if let Ok(client) = self.client().await
                && client.get(path).await.is_ok()
            {
                return Ok(self);
            }
            if Instant::now() > deadline {
                return Err(format!("the server is not ready; its log:\n{}", self.log_text()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A connection of its own.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(self.address, &std::fs::read_to_string(&self.ca)?, TOKEN).await
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The program's name, in parentheses, may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')').ok_or("a strange stat")?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).ok_or("a strange stat")?;
        // The kernel shows hundredths of a second on every Linux.
        Ok(Duration::from_millis((user + system) * 10))
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: f64 = line.split_whitespace().next().ok_or("no VmRSS")?.parse()?;
        Ok(kib * 1024.0)
    }

    /// Ends it as an operator does, and waits.
    pub async fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        while self.child.try_wait()?.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process beside a server, ended when dropped.
pub struct Companion(Child);

impl Drop for Companion {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gantry_binary() -> Result<String> {
    std::env::var("GANTRY_BINARY").map_err(|_| "GANTRY_BINARY names no program".into())
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let file = std::fs::File::create(log)?;
    Ok(command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?)
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

async fn wait_for<T>(log: &Path, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + READY_WAIT;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("the server did not start; its log:\n{}", std::fs::read_to_string(log)?).into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
