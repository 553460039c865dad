//! The cluster that the specs run against: a Gantry in network namespaces of its own, one a machine, on one bridge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cleanup, demo, host, ledger};

/// The subnet of the machines; the first one also is the bridge.
const SUBNET: &str = "192.168.213";

/// A running cluster. Dropped without [`Cluster::take_down`], the ledger still has it, and `cargo xtask clean-up` ends it.
pub struct Cluster {
    machines: Vec<Machine>,
}

struct Machine {
    name: String,
    netns: String,
    record: ledger::Record,
    entry: PathBuf,
    process: Option<Child>,
}

impl Cluster {
    /// Starts `nodes` machines: the first one runs everything, the others an agent.
    pub fn start(gantry: &Path, images: &[PathBuf], nodes: u8) -> Result<Self> {
        let mut cluster = Self { machines: Vec::new() };
        for number in 1..=nodes {
            let machine = Machine::make(number, images)?;
            cluster.machines.push(machine);
            let started = cluster.boot(gantry, usize::from(number) - 1);
            if let Err(error) = started {
                cluster.print_log();
                cluster.take_down()?;
                return Err(error);
            }
        }
        cluster.join_pod_networks(gantry)?;
        Ok(cluster)
    }

    fn boot(&mut self, gantry: &Path, index: usize) -> Result<()> {
        let machine = &self.machines[index];
        let address = machine.address();
        let data_dir = &machine.record.data_dir;
        let mut command = machine.command(gantry);
        if index == 0 {
            command.args(["up", "--listen", "0.0.0.0:6443"]);
        } else {
            command.args(["agent", "--kubeconfig"]).arg(self.node_kubeconfig(gantry, machine)?);
        }
        command.arg("--data-dir").arg(data_dir).args(["--node-name", &machine.name, "--node-ip", &address]);
        command.args(["--cgroup-root", &format!("/{}", machine.netns)]).env("GANTRY_LOG", "info");
        let log = fs::File::create(data_dir.join("gantry.log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let machine = &mut self.machines[index];
        machine.record.pid = Some(child.id());
        machine.record.pid_started = ledger::started(child.id());
        ledger::write(&machine.netns, &machine.record)?;
        machine.process = Some(child);
        self.wait_ready(gantry, index)
    }

    /// Makes the identity of a machine that joins.
    fn node_kubeconfig(&self, gantry: &Path, machine: &Machine) -> Result<PathBuf> {
        let first = &self.machines[0];
        let mut make = first.command(gantry);
        make.arg("kubeconfig").arg("--data-dir").arg(&first.record.data_dir);
        make.args(["--url", &format!("https://{}:6443", first.address())]);
        make.args(["node", &machine.name, "--ip", &machine.address()]);
        let file = machine.record.data_dir.join("node.kubeconfig");
        fs::write(&file, host::output(&mut make)?)?;
        Ok(file)
    }

    fn wait_ready(&mut self, gantry: &Path, index: usize) -> Result<()> {
        let name = self.machines[index].name.clone();
        let kubeconfig = self.kubeconfig();
        let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let mut get = self.machines[0].command(gantry);
            get.arg("--kubeconfig").arg(&kubeconfig).args(["get", "node", &name, "-o", ready]);
            if host::output(&mut get).is_ok_and(|status| status == b"True") {
                return Ok(());
            }
            if let Some(status) = self.machines[index].process.as_mut().and_then(|child| child.try_wait().transpose()) {
                bail!("gantry ended on {name}: {}", status?);
            }
            if Instant::now() > deadline {
                bail!("{name} did not get ready");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Routes each machine's pods to it, as the network that the machines stand in does.
    fn join_pod_networks(&self, gantry: &Path) -> Result<()> {
        for to in &self.machines {
            let mut get = self.machines[0].command(gantry);
            get.arg("--kubeconfig").arg(self.kubeconfig());
            let range = host::output(get.args(["get", "node", &to.name, "-o", "jsonpath={.spec.podCIDR}"]))?;
            let range = String::from_utf8(range)?;
            for from in self.machines.iter().filter(|from| from.netns != to.netns) {
                let route = ["-n", &from.netns, "route", "replace", &range, "via", &to.address()];
                host::run(host::privileged("ip").args(route))?;
            }
        }
        Ok(())
    }

    /// A command on the first machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.machines[0].command(program)
    }

    /// The administrator's kubeconfig, which names the first machine's address.
    pub fn kubeconfig(&self) -> PathBuf {
        self.machines[0].record.data_dir.join("admin.kubeconfig")
    }

    /// What to type to look at the cluster from another terminal.
    pub fn how_to_look(&self) -> String {
        let enter = self.machines[0].enter();
        format!("{enter} kubectl --kubeconfig {} get pods -A", self.kubeconfig().display())
    }

    /// Waits for Ctrl-C.
    pub fn wait_for_interrupt(&self) -> Result<()> {
        demo::until_interrupted()
    }

    /// Copies each machine's log into `dir`.
    pub fn keep_logs(&self, dir: &Path) {
        for machine in &self.machines {
            let log = machine.record.data_dir.join("gantry.log");
            if let Err(error) = fs::copy(&log, dir.join(format!("{}.log", machine.name))) {
                println!("cannot keep {}: {error}", log.display());
            }
        }
    }

    fn print_log(&self) {
        for machine in &self.machines {
            let log = fs::read_to_string(machine.record.data_dir.join("gantry.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!("---- {}\n{}", machine.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }

    /// Ends all of it, the first machine last.
    pub fn take_down(mut self) -> Result<()> {
        while let Some(mut machine) = self.machines.pop() {
            cleanup::take_down(&machine.record)?;
            if let Some(process) = &mut machine.process {
                process.wait()?;
            }
            fs::remove_file(machine.entry)?;
        }
        Ok(())
    }
}

impl Machine {
    fn make(number: u8, images: &[PathBuf]) -> Result<Self> {
        let netns = format!("gc{}-{number}", std::process::id());
        let data_dir = host::work_dir().join(&netns);
        demo::install_images(&data_dir, images)?;
        let record = ledger::Record { data_dir, netns: Some(netns.clone()), ..Default::default() };
        let entry = ledger::write(&netns, &record)?;
        let machine = Self { name: format!("node-{number}"), netns, record, entry, process: None };
        machine.connect(number)?;
        Ok(machine)
    }

    fn connect(&self, number: u8) -> Result<()> {
        let ip =
            |args: &[&str]| host::run(host::privileged("ip").args(args)).context("cannot make a network namespace");
        let address = format!("{}/24", self.address());
        let netns = self.netns.as_str();
        ip(&["netns", "add", netns])?;
        ip(&["-n", netns, "link", "set", "lo", "up"])?;
        if number == 1 {
            ip(&["-n", netns, "link", "add", "machines0", "type", "bridge"])?;
            ip(&["-n", netns, "address", "add", &address, "dev", "machines0"])?;
            ip(&["-n", netns, "link", "set", "machines0", "up"])?;
            return ip(&["-n", netns, "route", "add", "default", "dev", "machines0"]);
        }
        let first = format!("gc{}-1", std::process::id());
        let port = format!("machine{number}");
        ip(&["-n", &first, "link", "add", &port, "type", "veth", "peer", "name", "uplink0", "netns", netns])?;
        ip(&["-n", &first, "link", "set", &port, "master", "machines0", "up"])?;
        ip(&["-n", netns, "address", "add", &address, "dev", "uplink0"])?;
        ip(&["-n", netns, "link", "set", "uplink0", "up"])?;
        ip(&["-n", netns, "route", "add", "default", "via", &format!("{SUBNET}.1")])
    }

    fn address(&self) -> String {
        format!("{SUBNET}.{}", self.name.trim_start_matches("node-"))
    }

    fn enter(&self) -> String {
        format!("nsenter --net=/run/netns/{} --", self.netns)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = host::privileged("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program);
        command
    }
}
