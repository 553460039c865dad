//! One scenario with every version of kubectl at hand.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::command::{self, Outcome, eventually};
use crate::{Cluster, tools};

/// One version of kubectl in a namespace of its own.
pub struct Kubectl<'a> {
    /// Where it is typed.
    pub cluster: &'a Cluster,
    /// The program.
    pub program: &'a Path,
    /// 35 of 1.35.
    pub minor: u32,
    /// The namespace it is told to use.
    pub namespace: String,
}

/// Runs a scenario with each version, in a namespace `NAME-MINOR`.
///
/// # Panics
/// When there is no version at all.
pub fn each_version(cluster: &Cluster, name: &str, scenario: impl Fn(&Kubectl<'_>)) {
    let mut shown = String::new();
    for (minor, program) in tools::kubectls(cluster.tools()) {
        let namespace = cluster.namespace(&format!("{name}-{minor}"));
        scenario(&Kubectl { cluster, program: &program, minor, namespace });
        let _ = write!(shown, " 1.{minor}");
    }
    eprintln!("{name}: kubectl{shown}");
    assert!(!shown.is_empty());
}

impl Kubectl<'_> {
    /// A command to be started by the caller.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.cluster.command(self.program);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig()).args(["-n", &self.namespace]).args(args);
        // An editor that needs nobody: it sets the replicas to seven.
        command.env("KUBE_EDITOR", "sed -i s/replicas:.1/replicas:\\ 7/");
        command
    }

    /// Runs it with something on its standard input.
    #[track_caller]
    pub fn with(&self, args: &[&str], input: &str) -> Outcome {
        let mut outcome = command::run(&mut self.command(args), input.as_bytes());
        outcome.command = format!("1.{}: {}", self.minor, outcome.command);
        outcome
    }

    /// Runs it.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.with(args, "")
    }

    /// What a command that succeeds prints.
    ///
    /// # Panics
    /// When it prints something else or fails.
    #[track_caller]
    pub fn prints(&self, args: &[&str], expected: &str) {
        let outcome = self.run(args);
        assert_eq!((outcome.code, outcome.stdout.trim_end()), (0, expected), "{outcome}");
    }

    /// The same where versions differ: all of these are in what it prints, on either output.
    ///
    /// # Panics
    /// When one is not, or it fails.
    #[track_caller]
    pub fn tells(&self, args: &[&str], expected: &[&str]) {
        let outcome = self.run(args);
        let told = format!("{}{}", outcome.stdout, outcome.stderr);
        let missing: Vec<_> = expected.iter().filter(|text| !told.contains(**text)).collect();
        assert!(outcome.code == 0 && missing.is_empty(), "no {missing:?} in: {outcome}");
    }

    /// What a command that fails prints on standard error holds this.
    ///
    /// # Panics
    /// When it does not, or succeeds.
    #[track_caller]
    pub fn refuses(&self, args: &[&str], expected: &str) {
        let outcome = self.run(args);
        assert!(outcome.code != 0 && outcome.stderr.contains(expected), "no {expected:?} in: {outcome}");
    }

    /// Waits until a command succeeds and prints this.
    #[track_caller]
    pub fn comes_to_print(&self, args: &[&str], expected: &str) {
        eventually(&format!("{args:?} to print {expected:?}"), Duration::from_secs(60), || {
            let outcome = self.run(args);
            let right = outcome.code == 0 && outcome.stdout.trim_end() == expected;
            if right { Ok(()) } else { Err(outcome.to_string()) }
        });
    }

    /// Starts a command that goes on until it is dropped.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        // A standard input that stays open, as a person's does.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let stdout = child.stdout.take().expect("piped above");
        // As many lines as a test reads, and no more than a pipe would hold beside.
        let (sender, lines) = mpsc::sync_channel(1000);
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Running { child, lines }
    }

    /// A folder of the scenario's own.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn folder(&self) -> PathBuf {
        let folder = self.cluster.scratch().join(&self.namespace);
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }
}

/// A kubectl that goes on until it is dropped.
pub struct Running {
    child: std::process::Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// The next line that holds this.
    ///
    /// # Panics
    /// When none comes in a minute.
    #[track_caller]
    pub fn line(&self, wanted: &str) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(60)) {
            if line.contains(wanted) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {wanted:?} came; seen: {seen:?}");
    }

    /// Types a line on its standard input.
    ///
    /// # Panics
    /// When it does not take it.
    pub fn say(&self, line: &str) {
        let mut stdin = self.child.stdin.as_ref().expect("piped at the start");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("it reads its standard input");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
