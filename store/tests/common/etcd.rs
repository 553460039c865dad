//! A real etcd of one member, on loopback and in a temporary directory, for as long as a test needs it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_store::{Options, Target};
use tempfile::TempDir;

/// The process; killed when dropped.
pub struct EtcdProcess {
    program: PathBuf,
    dir: TempDir,
    client: String,
    peer: String,
    child: Child,
}

impl EtcdProcess {
    /// Starts one and waits until it answers. None, with a word about it, where etcd is not installed.
    pub async fn start() -> Option<Self> {
        let Some(program) = find_program() else {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "etcd is not installed, and CI must not skip its tests"
            );
            eprintln!("SKIPPED: etcd is not installed (Debian: etcd-server)");
            return None;
        };
        // Another process may take a free port before etcd does; then other ports.
        for _ in 0..5 {
            let (client, peer) = (free_address(), free_address());
            let dir = TempDir::new().unwrap();
            let child = spawn(&program, dir.path(), &client, &peer);
            let mut etcd = EtcdProcess { program: program.clone(), dir, client, peer, child };
            if etcd.wait_ready().await {
                return Some(etcd);
            }
        }
        panic!("etcd did not start");
    }

    /// `host:port` for clients.
    pub fn endpoint(&self) -> &str {
        &self.client
    }

    /// Kills it outright.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same data and ports after [`EtcdProcess::kill`].
    pub async fn restart(&mut self) {
        self.child = spawn(&self.program, self.dir.path(), &self.client, &self.peer);
        assert!(self.wait_ready().await, "etcd did not start again");
    }

    async fn wait_ready(&mut self) -> bool {
        let target = Target::Etcd(vec![format!("http://{}", self.client)]);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            let mut options = Options::default();
            options.etcd.request_timeout = Duration::from_millis(500);
            if let Ok(store) = gantry_store::open(&target, options).await {
                store.close().await.unwrap();
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = [PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")];
    std::env::split_paths(&path).chain(standard).map(|dir| dir.join("etcd")).find(|program| program.is_file())
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn spawn(program: &Path, dir: &Path, client: &str, peer: &str) -> Child {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    Command::new(program)
        .args(["--name", "test", "--data-dir"])
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .args(["--heartbeat-interval", "50", "--election-timeout", "250"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
