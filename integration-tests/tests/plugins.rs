//! Controllers by third parties, written with the libraries of three languages, reconcile a kind of their own: what
//! `docs/plugins.md` says, and what happens when things go wrong.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gantry_integration_tests::command::{self, Outcome, eventually};
use gantry_integration_tests::{Cluster, Options, docs, tools};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
/// A build from nothing, on a slow machine.
const BUILD: Duration = Duration::from_secs(20 * 60);

/// One language's controller on a cluster of its own.
struct Scenario {
    cluster: Cluster,
    page: docs::Page,
    /// Folders of the language's programs, for `PATH`.
    folders: Vec<PathBuf>,
    /// The command that runs the controller.
    start: String,
}

impl Scenario {
    /// Copies the examples where the page's commands find them, and builds the controller of a section as the page says.
    fn new(section: &str, folders: Vec<PathBuf>) -> Option<Self> {
        let cluster = Cluster::start(Options::default())?;
        let page = docs::Page::read("plugins.md");
        let mut scenario = Self { cluster, page, folders, start: String::new() };
        let commands = scenario.page.section(section).concat();
        // The last line runs the controller; those before it make it, which needs what is outside the cluster's network.
        let (build, start) = commands.trim_end().rsplit_once('\n').expect("more than one line");
        let mut bash = Command::new("bash");
        let shell = scenario.shell();
        bash.args(["-ec", build]).current_dir(scenario.cluster.scratch());
        bash.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value.filter(|_| name != "HOME")?))));
        command::run_within(BUILD, &mut bash, b"").ok();
        let (folder, _) = build.split_once('\n').expect("first it goes to the folder");
        scenario.start = format!("{folder}\nexec {start}");
        Some(scenario)
    }

    /// The shell of the page's reader.
    fn shell(&self) -> Command {
        let mut command = self.cluster.shell(&self.folders, &["examples/plugins"]);
        command.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto");
        // What is built of the controller in Rust stays for the next run, apart from what the workspace builds.
        command.env("CARGO_TARGET_DIR", target_dir().join("plugins"));
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
            command.env(name, std::env::var_os(name).unwrap_or_else(|| home.join(folder).into_os_string()));
        }
        command
    }

    /// Runs commands of the page as its reader does.
    #[track_caller]
    fn types(&self, commands: &str) -> Outcome {
        let mut bash = self.shell();
        bash.args(["-ec", commands]);
        command::run(&mut bash, b"")
    }

    /// Starts the controller and returns its pid.
    fn start(&mut self, name: &str) -> u32 {
        let mut bash = self.shell();
        bash.args(["-ec", &self.start]);
        self.cluster.spawn(name, bash)
    }

    fn signal(&self, signal: &str, pid: u32) {
        command::run(Command::new("kill").args([signal, &pid.to_string()]), b"").ok();
    }

    fn is_running(&self, pid: u32) -> bool {
        // A child that has ended is a zombie until it is waited for.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[track_caller]
    fn object(&self, args: &[&str], is_right: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{args:?} to be right"), MINUTE, || match self.cluster.object(args) {
            Ok(object) if is_right(&object) => Ok(object),
            Ok(object) => Err(object.to_string()),
            Err(error) => Err(error),
        })
    }
}

/// The folder in which cargo builds the tests.
fn target_dir() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a file");
    this.ancestors().nth(3).expect("target/debug/deps/test").into()
}

/// Creation, what it makes of it, changes, and who is told.
fn it_makes_what_a_page_wants(scenario: &Scenario) {
    let blocks = scenario.page.section("Use the kind");
    let told = scenario.types(blocks[0]).ok();
    assert!(told.contains("page.plugins.example.io/hello condition met"), "{told}");
    let header = told.lines().find(|line| line.starts_with("NAME")).unwrap_or_default();
    assert_eq!(header.split_whitespace().collect::<Vec<_>>(), ["NAME", "REPLICAS", "READY", "AGE"], "{told}");
    // Events are written behind what they tell of.
    eventually("the event", MINUTE, || {
        let told = scenario.cluster.kubectl(&["events", "--for", "page/hello"]).ok();
        if told.contains("Serving") && told.contains("All pods are ready") { Ok(()) } else { Err(told) }
    });
    let fetched = scenario.types(blocks[1]).ok();
    assert_eq!(fetched.trim_end(), "Hello");
    let deployment = scenario.object(&["deployment", "hello"], |_| true);
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["kind"], "Page");
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["controller"], true);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["terminationMessagePath"], "/dev/termination-log", "the server sets defaults");

    let told = scenario.types(blocks[2]).ok();
    assert!(told.contains("page.plugins.example.io/hello scaled"), "{told}");
    scenario.object(&["configmap", "hello"], |map| map["data"]["index.html"] == "Good morning");
    let page = scenario.object(&["page", "hello"], |page| {
        page["status"]["observedGeneration"] == page["metadata"]["generation"]
            && page["status"]["conditions"][0]["status"] == "True"
    });
    assert_eq!(page["metadata"]["generation"], 3, "text and scale, and no status: {page}");
}

/// What somebody else breaks is mended, and when all is right nothing is written.
fn it_mends_and_then_rests(scenario: &Scenario) {
    let cluster = &scenario.cluster;
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    let before = scenario.object(&["deployment", "hello"], |_| true);
    cluster.kubectl(&["delete", "deployment", "hello", "--cascade=foreground", "--timeout=60s"]).ok();
    scenario.object(&["deployment", "hello"], |after| uid(after) != uid(&before));
    cluster.kubectl(&["patch", "configmap", "hello", "-p", r#"{"data":{"index.html":"Defaced"}}"#]).ok();
    scenario.object(&["configmap", "hello"], |map| map["data"]["index.html"] == "Good morning");
    scenario.object(&["page", "hello"], |page| page["status"]["readyReplicas"] == 2);

    let versions = || -> Vec<Value> {
        let things = [["page", "hello"], ["deployment", "hello"], ["configmap", "hello"], ["configmap", "page-index"]];
        things.iter().map(|thing| scenario.object(thing, |_| true)["metadata"]["resourceVersion"].clone()).collect()
    };
    eventually("the controller to rest", MINUTE, || {
        let before = versions();
        std::thread::sleep(Duration::from_secs(2));
        let after = versions();
        if before == after { Ok(()) } else { Err(format!("{before:?} became {after:?}")) }
    });
}

/// The API server ends and comes back; the controller was not told, and goes on.
fn it_outlives_a_restart_of_the_server(scenario: &mut Scenario, pid: u32) {
    scenario.cluster.server().terminate();
    scenario.cluster.up();
    scenario.cluster.wait_ready();
    scenario.cluster.kubectl(&["patch", "page", "hello", "--type=merge", "-p", r#"{"spec":{"text":"Again"}}"#]).ok();
    scenario.object(&["configmap", "hello"], |map| map["data"]["index.html"] == "Again");
    scenario.object(&["configmap", "page-index"], |map| map["data"]["hello"] == "Again");
    scenario.cluster.kubectl(&["scale", "page/hello", "--replicas=1"]).ok();
    scenario.object(&["page", "hello"], |page| page["status"]["readyReplicas"] == 1);
    assert!(scenario.is_running(pid), "the controller ended");
}

/// Two pages, one goes: it is taken out of the index, what it owned goes, the other stays.
fn a_page_goes(scenario: &Scenario) {
    let other =
        "apiVersion: plugins.example.io/v1\nkind: Page\nmetadata: {name: other}\nspec: {text: Other, replicas: 0}\n";
    scenario.cluster.kubectl_with(&["create", "-f", "-"], other.as_bytes()).ok();
    scenario.object(&["page", "other"], |page| page["status"]["conditions"][0]["status"] == "True");
    scenario.object(&["configmap", "page-index"], |map| map["data"]["other"] == "Other");
    let left = scenario.types(&scenario.page.section("Take it away").concat()).ok();
    assert!(left.ends_with(r#"{"other":"Other"}"#), "{left}");
    eventually("what the page owned to be gone", MINUTE, || {
        let left = scenario.cluster.kubectl(&["get", "rs,pods,cm", "-l", "page=hello", "-o", "name"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    scenario.object(&["configmap", "other"], |_| true);
}

/// A second instance waits while the first leads, and takes over when that has ended.
fn another_one_takes_over(scenario: &mut Scenario, first: u32, signal: &str) {
    let holder = |scenario: &Scenario| {
        let lease = scenario.object(&["lease", "page-controller"], |lease| {
            lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty())
        });
        lease["spec"]["holderIdentity"].clone()
    };
    let leader = holder(scenario);
    let second = scenario.start("controller-2");
    scenario.signal(signal, first);
    eventually("the other one to lead", 2 * MINUTE, || {
        let now = holder(scenario);
        if now == leader { Err(now.to_string()) } else { Ok(()) }
    });
    scenario
        .cluster
        .kubectl(&["patch", "page", "hello", "--type=merge", "-p", r#"{"spec":{"text":"Taken over"}}"#])
        .ok();
    scenario.object(&["configmap", "hello"], |map| map["data"]["index.html"] == "Taken over");
    assert!(scenario.is_running(second), "the second controller ended");
}

/// The life of a page; `stop` is the signal that ends the first of two instances, where the library elects leaders.
fn a_controller_reconciles(scenario: Option<Scenario>, stop: Option<&str>) {
    let Some(mut scenario) = scenario else { return };
    scenario.types(&scenario.page.section("Define the kind").concat()).ok();
    let pid = scenario.start("controller");
    it_makes_what_a_page_wants(&scenario);
    it_mends_and_then_rests(&scenario);
    it_outlives_a_restart_of_the_server(&mut scenario, pid);
    if let Some(signal) = stop {
        another_one_takes_over(&mut scenario, pid, signal);
    }
    a_page_goes(&scenario);
}

fn folder_of(program: &Path) -> PathBuf {
    program.parent().expect("a program in a folder").to_owned()
}

#[test]
fn a_controller_in_go_reconciles() {
    let Some(go) = tools::go() else { return };
    // It gives up the lease when it is asked to end.
    a_controller_reconciles(Scenario::new("In Go", vec![folder_of(&go)]), Some("-TERM"));
}

#[test]
fn a_controller_in_rust_reconciles() {
    let cargo = std::env::var_os("CARGO").map(PathBuf::from).or_else(|| tools::program("cargo"));
    let cargo = cargo.expect("cargo runs this test");
    a_controller_reconciles(Scenario::new("In Rust", vec![folder_of(&cargo)]), None);
}

#[test]
fn a_controller_in_python_reconciles() {
    let Some(python) = tools::python() else { return };
    // Nobody gives up the lease of one that is killed: it runs out.
    a_controller_reconciles(Scenario::new("In Python", vec![folder_of(&python)]), Some("-KILL"));
}

#[test]
fn every_section_of_the_page_is_typed() {
    let page = docs::Page::read("plugins.md");
    let typed = ["Define the kind", "In Go", "In Rust", "In Python", "Use the kind", "Take it away"];
    assert_eq!(page.sections(), typed);
    assert_eq!(page.section("Use the kind").len(), 3);
}
