//! The record of what demos and tests have started, so that a later run can end what a crashed one left.
//!
//! One JSON file an instance in `<target>/gantry/ledger/`, written before the instance starts and removed after it was
//! taken down: `{"pid": 1, "pid_started": "…", "data_dir": "…", "netns": "…"}`; every field but `data_dir` may be absent.
//! The integration tests write the same files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::host;

/// One started instance.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// The process that was started.
    #[serde(default)]
    pub pid: Option<u32>,
    /// That process' start time, which tells it from a later one with the same id.
    #[serde(default)]
    pub pid_started: Option<String>,
    /// The data directory; it is removed by a clean-up.
    pub data_dir: PathBuf,
    /// The network namespace that was made for the instance.
    #[serde(default)]
    pub netns: Option<String>,
}

/// The folder of records.
pub fn dir() -> PathBuf {
    host::work_dir().join("ledger")
}

/// Writes a record under `name`.
pub fn write(name: &str, record: &Record) -> Result<PathBuf> {
    fs::create_dir_all(dir())?;
    let file = dir().join(format!("{name}.json"));
    fs::write(&file, serde_json::to_vec_pretty(record)?).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Every record, with its file. A file that is no record is skipped.
pub fn read_all() -> Vec<(PathBuf, Record)> {
    let files = fs::read_dir(dir()).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter_map(|file| Some((file.clone(), serde_json::from_slice(&fs::read(&file).ok()?).ok()?))).collect()
}

/// When a process started, as the kernel counts it (clock ticks since boot); `None` when there is no such process, or only
/// what is left of it until its parent has taken note of its end.
pub fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The command name, in brackets, may hold spaces: count fields after it. State is the line's field 3, start time 22.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn a_process_that_ended_is_gone_even_before_it_is_waited_for() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let started = super::started(child.id());
        assert!(started.is_some_and(|ticks| ticks.parse::<u64>().is_ok()));
        child.kill().unwrap();
        while super::started(child.id()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
