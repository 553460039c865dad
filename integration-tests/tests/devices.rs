//! Device plugins: one that is built with Kubernetes' own library registers, and containers get its devices.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, command, docs, eventually, left, tools};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
const RESOURCE: &str = "devices.example.io/file";

/// A plugin on the cluster's node; its devices are files.
struct Plugin {
    cluster: Cluster,
    page: docs::Page,
    program: PathBuf,
    data: PathBuf,
    pid: u32,
}

impl Plugin {
    /// Builds it, as `docs/devices.md` says, and starts it with these files.
    fn start(files: &[&str]) -> Option<Self> {
        let cluster = Cluster::start(Options::default())?;
        let go = tools::go()?;
        let page = docs::Page::read("devices.md");
        let folders = [go.parent().expect("a program is in a folder").to_owned()];
        let shell = cluster.shell(&folders, &["examples/plugins/device-plugin", "examples/devices"]);
        // Outside the cluster's network, which has no way to the modules.
        let mut bash = Command::new("bash");
        bash.args(["-ec", page.section("Build a plugin")[0]]).current_dir(cluster.scratch());
        bash.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value.filter(|_| name != "HOME")?))));
        bash.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto");
        command::run_within(Duration::from_secs(20 * 60), &mut bash, b"").ok();
        let program = cluster.scratch().join("examples/plugins/device-plugin/device-plugin");
        let data = cluster.scratch().join("files");
        std::fs::create_dir(&data).expect("a folder can be made");
        let mut plugin = Self { cluster, page, program, data, pid: 0 };
        files.iter().for_each(|name| plugin.file(name, ""));
        let mut command = plugin.cluster.command(&plugin.program);
        command.arg("-data").arg(&plugin.data).arg("-plugins").arg(plugin.cluster.data_dir().join("device-plugins"));
        plugin.pid = plugin.cluster.spawn("plugin", command);
        Some(plugin)
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.data.join(name), text).expect("a file can be written");
    }

    /// What it was asked, in order, with the answers' errors.
    fn asked(&self, what: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.cluster.scratch().join("plugin.log")).unwrap_or_default();
        text.lines().filter(|line| line.contains(&format!(" {what} "))).map(str::to_owned).collect()
    }

    fn wait_amounts(&self, capacity: &str, allocatable: &str) {
        eventually(&format!("{capacity} devices, {allocatable} of them to be had"), MINUTE, || {
            let status = self.cluster.object(&["node", "node-1"])?["status"].clone();
            let (all, free) = (&status["capacity"][RESOURCE], &status["allocatable"][RESOURCE]);
            if all == capacity && free == allocatable { Ok(()) } else { Err(format!("{all} {free}")) }
        });
    }

    /// A pod on the node, whatever the scheduler thinks, whose containers ask for so many.
    fn pod(&self, name: &str, init: Option<usize>, app: usize) {
        let container = |name: &str, script: &str, count: usize| {
            format!(
                "  - name: {name}\n    image: gantry.local/busybox:1.35\n    command: [sh, -c, '{script}']\n    resources: \
                 {{limits: {{{RESOURCE}: {count}}}}}\n"
            )
        };
        let init = init.map(|count| format!("  initContainers:\n{}", container("init", "echo first $FILES", count)));
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: node-1\n  \
             terminationGracePeriodSeconds: 1\n{}  containers:\n{}",
            init.unwrap_or_default(),
            container("app", "echo then $FILES; sleep 3600", app)
        );
        self.cluster.kubectl_with(&["create", "-f", "-"], yaml.as_bytes()).ok();
    }

    fn wait_log(&self, pod: &str, container: &str, text: &str) {
        eventually(&format!("{pod} to say {text:?}"), MINUTE, || {
            let log = self.cluster.kubectl(&["logs", pod, "-c", container]);
            if log.stdout.trim() == text { Ok(()) } else { Err(log.to_string()) }
        });
    }

    fn wait_refused(&self, pod: &str, why: &str) {
        let told = eventually(&format!("{pod} to be refused"), MINUTE, || {
            let status = self.cluster.object(&["pod", pod])?["status"].clone();
            if status["phase"] == "Failed" { Ok(status) } else { Err(status.to_string()) }
        });
        assert_eq!(told["reason"], "UnexpectedAdmissionError");
        let message = format!("Pod was rejected: Allocate failed due to {why}, which is unexpected");
        assert_eq!(told["message"].as_str(), Some(message.as_str()));
        eventually("the event", MINUTE, || {
            let events = self.cluster.kubectl(&["events", "--for", &format!("pod/{pod}")]).ok();
            if events.contains("UnexpectedAdmissionError") { Ok(()) } else { Err(events) }
        });
    }

    fn delete(&self, pods: &[&str]) {
        self.cluster.kubectl(&[&["delete", "pod"], pods].concat()).ok();
    }

    fn reader(&self, is_right: impl Fn(&Value) -> bool) -> Value {
        eventually("the reader to be right", MINUTE, || {
            let status = self.cluster.object(&["pod", "reader"])?["status"].clone();
            let container = &status["containerStatuses"][0];
            if container["ready"] == true && is_right(container) {
                Ok(container.clone())
            } else {
                Err(status.to_string())
            }
        })
    }

    /// A shell's words as the page's reader types them.
    fn types(&self, commands: &str) -> String {
        let mut shell = self.cluster.shell(&[], &[]);
        command::run(shell.args(["-euo", "pipefail", "-c", commands]), b"").ok()
    }
}

/// The agent is killed and begins anew: plugins register again, the pod goes on, and what it has stays its own.
fn an_agent_that_begins_anew_gives_nothing_twice(plugin: &mut Plugin) {
    let before = plugin.reader(|_| true)["containerID"].clone();
    plugin.cluster.server().kill();
    plugin.cluster.up();
    plugin.cluster.wait_ready();
    eventually("the plugin to register again", MINUTE, || match plugin.asked("GetDevicePluginOptions").len() {
        2 => Ok(()),
        other => Err(other.to_string()),
    });
    plugin.wait_amounts("3", "2");
    plugin.pod("late", None, 1);
    plugin.wait_refused(
        "late",
        &format!("requested number of devices unavailable for {RESOURCE}. Requested: 1, Available: 0"),
    );
    assert_eq!(plugin.reader(|_| true)["containerID"], before);

    // A container that starts anew has the same ones, made ready once more.
    let times = plugin.asked("PreStartContainer").len();
    plugin.cluster.kubectl(&["exec", "reader", "--", "kill", "1"]).ok();
    plugin.reader(|container| container["restartCount"] == 1);
    assert_eq!(plugin.cluster.kubectl(&["exec", "reader", "--", "sh", "-c", "echo $FILES"]).ok().trim(), "b,c");
    assert_eq!(plugin.asked("PreStartContainer").len(), times + 1);
    assert_eq!(plugin.asked("Allocate").len(), 1, "it was not asked for them again");
}

/// The machine is started again, and the device that a pod had is not what it was.
fn who_begins_anew_has_no_device_that_is_not_healthy(plugin: &mut Plugin) {
    plugin.pod("reborn", None, 1);
    plugin.wait_log("reborn", "app", "then c");
    plugin.cluster.server().kill();
    let root = plugin.cluster.cgroup_root();
    let script =
        format!("find /sys/fs/cgroup -path '*{root}/*/cgroup.procs' | xargs cat | sort -u | xargs -r kill -KILL");
    command::run(Command::new("bash").args(["-c", &script]), b"");
    plugin.file("c", "broken");
    plugin.cluster.up();
    plugin.cluster.wait_ready();
    let why =
        format!("previously allocated devices are no longer healthy; cannot allocate unhealthy devices {RESOURCE}");
    plugin.wait_refused("reborn", &why);
    plugin.file("c", "");
    plugin.wait_amounts("3", "3");
}

#[test]
fn containers_have_the_devices_that_a_plugin_gives_them() {
    let Some(mut plugin) = Plugin::start(&["a", "b", "c"]) else { return };
    plugin.wait_amounts("3", "3");
    let told = plugin.types(plugin.page.section("Use a device plugin")[0]);
    assert!(told.contains(&format!("\"{RESOURCE}\":\"3\"")), "{told}");

    // The plugin prefers the last ones, and says what a container needs to use them.
    let told = plugin.types(plugin.page.section("Build a plugin")[1]);
    let lines: Vec<_> = told.lines().skip_while(|line| !line.starts_with("b,c")).collect();
    assert_eq!(&lines[..3], ["b,c", "b", "c"], "{told}");
    assert!(lines[3].starts_with("cr"), "a device: {told}");
    let write = plugin.cluster.kubectl(&["exec", "reader", "--", "touch", "/files/b"]);
    assert!(write.stderr.contains("Read-only file system"), "{write}");
    assert_eq!(plugin.asked("PreStartContainer").len(), 1);

    // What is not healthy is not to be had.
    plugin.file("a", "broken");
    plugin.wait_amounts("3", "2");
    an_agent_that_begins_anew_gives_nothing_twice(&mut plugin);

    // What a pod gives back, another gets; and an init container leaves its own to the next one.
    plugin.file("a", "");
    plugin.wait_amounts("3", "3");
    plugin.pod("in-turn", Some(1), 1);
    plugin.wait_log("in-turn", "init", "first a");
    plugin.wait_log("in-turn", "app", "then a");
    plugin.delete(&["reader", "in-turn"]);
    plugin.pod("both", None, 3);
    plugin.wait_log("both", "app", "then a,b,c");
    plugin.delete(&["both"]);
    who_begins_anew_has_no_device_that_is_not_healthy(&mut plugin);

    // The plugin's own words.
    plugin.file("d", "refused");
    plugin.wait_amounts("4", "4");
    plugin.pod("unlucky", None, 1);
    plugin.wait_refused("unlucky", "rpc error: code = Unknown desc = d is not to be had");

    // One that is gone has nothing.
    command::run(Command::new("kill").args(["-KILL", &plugin.pid.to_string()]), b"").ok();
    plugin.wait_amounts("4", "0");
    plugin.pod("too-late", None, 1);
    plugin
        .wait_refused("too-late", &format!("no healthy devices present; cannot allocate unhealthy devices {RESOURCE}"));

    plugin.delete(&["late", "reborn", "unlucky", "too-late"]);
    left::wait_for_nothing(&plugin.cluster);
    let given = plugin.cluster.data_dir().join("device-plugins/given.json");
    eventually("nothing to be given", MINUTE, || {
        let text = std::fs::read_to_string(&given).map_err(|error| error.to_string())?;
        if text.contains("\"given\":[]") { Ok(()) } else { Err(text) }
    });
}
