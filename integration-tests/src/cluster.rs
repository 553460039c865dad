//! A cluster of one machine in a network namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::command::{self, Outcome, eventually};
use crate::process::Process;
use crate::tools::{self, Tools};

/// What kind of cluster a test wants.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More flags for `gantry up`.
    pub flags: Vec<String>,
    /// No node agent: the API, controllers and scheduler only.
    pub without_agent: bool,
    /// Start nothing; the test starts the processes itself.
    pub idle: bool,
}

/// A cluster, taken down when dropped.
pub struct Cluster {
    tools: Tools,
    name: String,
    options: Options,
    dir: tempfile::TempDir,
    server: Option<Process>,
    others: Vec<Process>,
    more_nodes: Vec<PathBuf>,
    ledger: PathBuf,
}

impl Cluster {
    /// Starts a cluster and waits until its node is ready. `None` when the machine lacks a tool.
    pub fn start(options: Options) -> Option<Self> {
        let tools = tools::find()?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gt-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("gt-").tempdir().expect("a temporary folder can be made");
        let ledger = tools.work_dir.join("ledger").join(format!("{name}.json"));
        let mut cluster =
            Self { tools, name, options, dir, server: None, others: Vec::new(), more_nodes: Vec::new(), ledger };
        cluster.write_ledger();
        cluster.make_network();
        cluster.place_images();
        if !cluster.options.idle {
            cluster.up();
            cluster.wait_ready();
        }
        Some(cluster)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder for the test's own files, gone with the cluster.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// The cgroup below which this cluster's pods live.
    pub fn cgroup_root(&self) -> String {
        format!("/gantry-{}", self.name)
    }

    /// The tools of this run.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// A command in the cluster's network namespace. (`ip netns exec` would hide the cgroups.)
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command.env_remove("KUBECONFIG").env("HOME", self.dir.path()).current_dir(self.dir.path());
        command
    }

    /// A shell as the administrator has it: with kubectl and the programs of more folders, and in a folder that has what
    /// the checkout has under these names.
    pub fn shell(&self, folders: &[PathBuf], copies: &[&str]) -> Command {
        let programs = self.scratch().join("programs");
        if !programs.exists() {
            fs::create_dir(&programs).expect("a folder can be made");
            std::os::unix::fs::symlink(&self.tools.kubectl, programs.join("kubectl")).expect("a link can be made");
        }
        for name in copies.iter().filter(|name| !self.scratch().join(name).exists()) {
            let target = self.scratch().join(name);
            fs::create_dir_all(target.parent().expect("it is below the scratch folder")).expect("a folder can be made");
            command::run(Command::new("cp").arg("-r").arg(crate::docs::root().join(name)).arg(&target), b"").ok();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = folders.iter().cloned().chain([programs]).chain(std::env::split_paths(&path));
        let mut command = self.command("bash");
        command.env("PATH", std::env::join_paths(folders).expect("folders have no colons"));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// kubectl as administrator.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Outcome {
        self.kubectl_with(args, b"")
    }

    /// kubectl as administrator, with something on its standard input.
    #[track_caller]
    pub fn kubectl_with(&self, args: &[&str], input: &[u8]) -> Outcome {
        command::run(&mut self.kubectl_command(args), input)
    }

    /// kubectl as administrator, to be started by the caller.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.tools.kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command
    }

    /// The `gantry` command line as administrator.
    #[track_caller]
    pub fn gantry(&self, args: &[&str]) -> Outcome {
        self.gantry_with(args, b"")
    }

    /// The `gantry` command line as administrator, with something on its standard input.
    #[track_caller]
    pub fn gantry_with(&self, args: &[&str], input: &[u8]) -> Outcome {
        let mut command = self.command(&self.tools.gantry);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command::run(&mut command, input)
    }

    /// An object as JSON; an error when it is not there.
    pub fn object(&self, args: &[&str]) -> Result<Value, String> {
        let outcome = self.kubectl(&[&["get", "-o", "json"], args].concat());
        if outcome.code != 0 {
            return Err(outcome.stderr);
        }
        serde_json::from_str(&outcome.stdout).map_err(|error| error.to_string())
    }

    /// Starts `gantry up` (again).
    pub fn up(&mut self) {
        self.up_with(&[]);
    }

    /// The same with more flags.
    pub fn up_with(&mut self, more: &[&str]) {
        let mut command = self.command(&self.tools.gantry);
        command.arg("up").arg("--data-dir").arg(self.data_dir());
        command.args(["--node-name", "node-1", "--cgroup-root", &self.cgroup_root()]).args(&self.options.flags);
        if self.options.without_agent {
            command.arg("--no-agent");
        }
        command.args(more);
        command.env("GANTRY_LOG", std::env::var("GANTRY_LOG").unwrap_or_else(|_| "warn,gantry=info".into()));
        self.server = Some(Process::start(command, &self.log()));
        self.write_ledger();
    }

    /// Starts another process of the cluster, logging to `NAME.log`.
    pub fn spawn(&mut self, name: &str, command: Command) -> u32 {
        let process = Process::start(command, &self.dir.path().join(format!("{name}.log")));
        let pid = process.pid();
        self.others.push(process);
        pid
    }

    /// Starts the node's agent in a process of its own, logging to `NAME.log`; returns its pid. For clusters without one.
    pub fn start_agent(&mut self, name: &str, flags: &[&str]) -> u32 {
        let command = self.agent("node-1", &self.data_dir(), flags);
        self.spawn(name, command)
    }

    /// Starts the agent of one more node, logging to `NAME.log`; its data directory is `NAME` beside the others and is reset with
    /// the cluster. All nodes have one address, so each listens at a port of its own.
    pub fn add_node(&mut self, name: &str, port: u16, flags: &[&str]) -> u32 {
        let data_dir = self.scratch().join(name);
        fs::create_dir_all(&data_dir).expect("a folder can be made");
        let mut command = self.agent(name, &data_dir, flags);
        command.args(["--agent-listen", &format!("127.0.0.1:{port}")]);
        self.more_nodes.push(data_dir);
        self.spawn(name, command)
    }

    /// The command of a node's agent.
    fn agent(&self, node: &str, data_dir: &Path, flags: &[&str]) -> Command {
        let kubeconfig = self.scratch().join(format!("{node}.kubeconfig"));
        if !kubeconfig.exists() {
            let mut command = self.command(&self.tools.gantry);
            command.arg("kubeconfig").arg("--data-dir").arg(self.data_dir());
            let text = command::run(command.args(["node", node, "--ip", "127.0.0.1"]), b"").ok();
            fs::write(&kubeconfig, text).expect("a file can be written");
        }
        let mut command = self.command(&self.tools.gantry);
        command.arg("agent").arg("--kubeconfig").arg(kubeconfig).arg("--data-dir").arg(data_dir);
        command.args(["--node-name", node, "--cgroup-root", &self.cgroup_root()]).args(flags);
        command.env("GANTRY_LOG", std::env::var("GANTRY_LOG").unwrap_or_else(|_| "warn,gantry=info".into()));
        command
    }

    /// Starts an etcd of one member at `http://127.0.0.1:2379`; `false` when the machine has none.
    ///
    /// # Panics
    /// With `CI` set, where a missing etcd is a failure.
    pub fn start_etcd(&mut self) -> bool {
        let Some(etcd) = tools::program("etcd") else {
            assert!(std::env::var_os("CI").is_none(), "this test needs etcd (Debian: etcd-server)");
            eprintln!("skipped: this test needs etcd (Debian: etcd-server)");
            return false;
        };
        let (clients, peers) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
        let mut command = self.command(etcd);
        command.arg("--data-dir").arg(self.scratch().join("etcd"));
        command.args(["--listen-client-urls", clients, "--advertise-client-urls", clients]);
        command.args(["--listen-peer-urls", peers]);
        self.spawn("etcd", command);
        true
    }

    /// The server's process.
    ///
    /// # Panics
    /// When it was never started.
    pub fn server(&mut self) -> &mut Process {
        self.server.as_mut().expect("the server was started")
    }

    /// Waits until the API answers and, with an agent, the node is ready.
    ///
    /// # Panics
    /// When that takes longer than a minute, or the server ends.
    pub fn wait_ready(&mut self) {
        eventually("the cluster to be ready", Duration::from_secs(60), || {
            if let Some(status) = self.server.as_mut().and_then(Process::ended) {
                panic!("gantry ended: {status}\n{}", self.server().tail(60));
            }
            if self.options.without_agent {
                return self.object(&["namespace", "default"]).map(|_| ());
            }
            let node = self.object(&["node", "node-1"])?;
            match condition(&node, "Ready") {
                Some(ready) if ready["status"] == "True" => Ok(()),
                ready => Err(format!("the node's Ready condition: {ready:?}")),
            }
        });
        // A namespace is usable once its default account is there.
        eventually("the default service account", Duration::from_secs(20), || {
            self.object(&["serviceaccount", "default"]).map(|_| ())
        });
    }

    /// Makes a namespace that is ready for pods and returns its name.
    pub fn namespace(&self, name: &str) -> String {
        self.kubectl(&["create", "namespace", name]).ok();
        eventually("the namespace's default account", Duration::from_secs(20), || {
            self.object(&["serviceaccount", "default", "-n", name]).map(|_| ())
        });
        name.to_owned()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("gantry.log")
    }

    fn make_network(&self) {
        let ip = |args: &[&str]| command::run(Command::new("ip").args(args), b"").ok();
        ip(&["netns", "add", &self.name]);
        ip(&["-n", &self.name, "link", "set", "lo", "up"]);
    }

    fn place_images(&self) {
        let folder = self.data_dir().join("images");
        fs::create_dir_all(&folder).expect("the data directory can be made");
        for entry in fs::read_dir(&self.tools.images).expect("the images folder can be read").flatten() {
            let file = entry.path();
            if file.extension().is_some_and(|extension| extension == "tar") {
                let target = folder.join(entry.file_name());
                if fs::hard_link(&file, &target).is_err() {
                    fs::copy(&file, &target).expect("an image can be copied");
                }
            }
        }
    }

    fn write_ledger(&self) {
        let pid = self.server.as_ref().map(Process::pid);
        let record = json!({
            "pid": pid,
            "pid_started": pid.and_then(started),
            "data_dir": self.data_dir(),
            "netns": self.name,
        });
        fs::create_dir_all(self.ledger.parent().expect("a file in a folder")).expect("the ledger's folder can be made");
        fs::write(&self.ledger, record.to_string()).expect("the ledger can be written");
    }

    /// Everything one needs to see why a test failed.
    fn print_state(&self) {
        eprintln!("==== state of cluster {} ====", self.name);
        for args in [
            &["get", "nodes,all", "-A", "-o", "wide"][..],
            &["get", "events", "-A", "--sort-by=.metadata.creationTimestamp"],
            &["describe", "pods", "-A"],
        ] {
            let mut command = self.kubectl_command(&["--request-timeout=5s"]);
            eprintln!("{}", command::run(command.args(args), b""));
        }
        for log in fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            if log.path().extension().is_some_and(|extension| extension == "log") {
                let text = fs::read(log.path()).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("---- {}\n{}", log.path().display(), lines[lines.len().saturating_sub(100)..].join("\n"));
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_state();
        }
        self.others.clear();
        self.server = None;
        let reset = |data_dir: &Path| {
            let mut reset = self.command(&self.tools.gantry);
            command::run(reset.args(["reset", "--yes", "--data-dir"]).arg(data_dir), b"")
        };
        let resets: Vec<_> = self.more_nodes.iter().chain([&self.data_dir()]).map(|data_dir| reset(data_dir)).collect();
        let netns = command::run(Command::new("ip").args(["netns", "delete", &self.name]), b"");
        if resets.iter().chain([&netns]).all(|outcome| outcome.code == 0) {
            let _ = fs::remove_file(&self.ledger);
        } else {
            eprintln!("the cluster is not wholly taken down; `cargo xtask clean-up` tries again");
            resets.iter().chain([&netns]).for_each(|outcome| eprintln!("{outcome}"));
        }
    }
}

/// A condition of an object by type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// When a process started, in the form the ledger has it.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
