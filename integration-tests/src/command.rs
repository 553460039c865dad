//! Running a command to its end with a time limit, and waiting for something to become true.

use std::fmt;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a single command may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command as typed.
    pub command: String,
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output of a command that has to succeed.
    ///
    /// # Panics
    /// With all the command printed, when it did not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0, "{self}");
        self.stdout
    }

    /// Standard error of a command that has to fail with `code`.
    ///
    /// # Panics
    /// With all the command printed, when it ended otherwise.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> String {
        assert!(self.code == code, "expected exit code {code}: {self}");
        self.stderr
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` exited with {}\n--- stdout\n{}--- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// Runs a command with `input` on its standard input.
///
/// # Panics
/// When it cannot be started or does not end within two minutes.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Outcome {
    run_within(PATIENCE, command, input)
}

/// The same for a command that may take longer, such as a build.
///
/// # Panics
/// When it cannot be started or does not end in time.
#[track_caller]
pub fn run_within(patience: Duration, command: &mut Command, input: &[u8]) -> Outcome {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start `{shown}`: {error}"));
    let mut stdin = child.stdin.take().expect("piped above");
    let input = input.to_vec();
    let feed = std::thread::spawn(move || {
        // A command that does not read its input closes the pipe; that is its right.
        let _ = stdin.write_all(&input);
    });
    let stdout = collect(child.stdout.take().expect("piped above"));
    let stderr = collect(child.stderr.take().expect("piped above"));
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().expect("a running child can be killed");
                let _ = child.wait();
                panic!("`{shown}` did not end within {} s", patience.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    feed.join().expect("feeding does not panic");
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().expect("reading does not panic")).into_owned()
    };
    Outcome { command: shown, code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// Tries until `attempt` returns `Ok`, for at most `patience`.
///
/// # Panics
/// With the last reason, when it never does.
#[track_caller]
pub fn eventually<T>(what: &str, patience: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(reason) if Instant::now() > deadline => {
                panic!("waited {} s for: {what}\nthe last look: {reason}", patience.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
