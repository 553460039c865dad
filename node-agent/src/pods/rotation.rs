//! Keeps containers' logs small. In: the logs of what runs, and how large and how many they may be. Out: a log that has
//! grown too large becomes `<log>.<time>`, the ones before it `<log>.<time>.gz`, the oldest are removed, and the runtime
//! writes on into a new file.
//!
//! Names and order are the kubelet's, so that whatever collects logs from a node finds what it knows.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::context::Context;
use crate::runtime::ContainerState;

/// How large and how many the logs of a container may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A log of this many bytes is rotated; `None` lets logs grow.
    pub bytes_max: Option<u64>,
    /// Files that a container may have, the one that is written included; 2 at least.
    pub files_max: usize,
    /// How often logs are looked at.
    pub look_every: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { bytes_max: Some(10 << 20), files_max: 5, look_every: Duration::from_secs(10) }
    }
}

/// When a log was put aside, as part of its name.
const TIME_FORMAT: &str = "%Y%m%d-%H%M%S";
/// Of a log that was compressed.
const COMPRESSED: &str = ".gz";
/// Of one that is just being compressed, or was when the agent ended.
const UNFINISHED: &str = ".tmp";

/// What to do with the logs that were put aside, before the next one joins them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<String>,
    compress: Vec<String>,
}

/// Decides. `names` are the files put aside for one log.
fn plan(mut names: Vec<String>, files_max: usize) -> Plan {
    // The times in the names sort the oldest first, as `time_aside` sees to.
    names.sort();
    let mut plan = Plan::default();
    let mut keep = Vec::new();
    for name in &names {
        let twice = !name.ends_with(COMPRESSED) && names.contains(&format!("{name}{COMPRESSED}"));
        match name.ends_with(UNFINISHED) || twice {
            true => plan.remove.push(name.clone()),
            false => keep.push(name.clone()),
        }
    }
    // The one that is written and the one that is about to be put aside count too.
    let surplus = keep.len().saturating_sub(files_max.saturating_sub(2));
    plan.remove.extend(keep.drain(..surplus));
    plan.compress = keep.into_iter().filter(|name| !name.ends_with(COMPRESSED)).collect();
    plan
}

/// The time in the name of the next log that is put aside: now, or a second after the latest of those put aside before. A clock that
/// was set back would otherwise make the newest log look the oldest, which is removed first, or have it take another's name.
fn time_aside(now: DateTime, names: &[String]) -> DateTime {
    let latest = names.iter().filter_map(|name| {
        let name = name.strip_suffix(UNFINISHED).unwrap_or(name);
        let (_, time) = name.strip_suffix(COMPRESSED).unwrap_or(name).rsplit_once('.')?;
        DateTime::strptime(TIME_FORMAT, time).ok()
    });
    let after = latest.max().and_then(|latest| latest.checked_add(SignedDuration::from_secs(1)).ok());
    after.map_or(now, |after| now.max(after))
}

/// Rotates logs until shutdown.
pub async fn run(context: Arc<Context>, policy: Policy, stop: CancellationToken) {
    let Some(bytes_max) = policy.bytes_max else { return stop.cancelled().await };
    let work = async {
        let mut ticks = tokio::time::interval(policy.look_every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for (id, log) in too_large(&context, bytes_max).await {
                match rotate(&context, &id, log.clone(), policy.files_max).await {
                    Ok(()) => debug!(log = %log.display(), "rotated"),
                    // The next look tries again.
                    Err(error) => warn!(log = %log.display(), %error, "cannot rotate a log"),
                }
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Running containers whose logs have grown too large, or have gone away.
async fn too_large(context: &Context, bytes_max: u64) -> Vec<(String, PathBuf)> {
    let mut logs = Vec::new();
    for entry in context.directory.list() {
        let running = entry.record.containers.iter().filter(|container| container.state == ContainerState::Running);
        logs.extend(running.filter_map(|container| Some((container.id.clone(), container.log_path.clone()?))));
    }
    let look = move || {
        logs.retain(|(_, log)| match fs::metadata(log) {
            Ok(found) => found.len() >= bytes_max,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        });
        logs
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

async fn rotate(context: &Context, id: &str, log: PathBuf, files_max: usize) -> io::Result<()> {
    let now = Offset::UTC.to_datetime(crate::clock::now());
    let from = log.clone();
    let put_aside = tokio::task::spawn_blocking(move || {
        tidy(&from, files_max)?;
        let time = time_aside(now, &put_aside(&from)?).strftime(TIME_FORMAT).to_string();
        let to = with_suffix(&from, &format!(".{time}"));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Someone removed the log; the runtime makes it anew.
            other => Ok(other.is_ok().then_some(to)),
        }
    });
    let aside = put_aside.await.map_err(io::Error::other)??;
    if let Err(error) = context.runtime.reopen_log(id).await {
        if let Some(aside) = aside.filter(|_| !log.exists()) {
            // The runtime still writes there.
            fs::rename(&aside, &log)?;
        }
        return Err(io::Error::other(error));
    }
    Ok(())
}

/// Removes and compresses what was put aside before.
fn tidy(log: &Path, files_max: usize) -> io::Result<()> {
    let folder = log.parent().unwrap_or(Path::new("."));
    let plan = plan(put_aside(log)?, files_max);
    for name in &plan.remove {
        remove(&folder.join(name))?;
    }
    for name in &plan.compress {
        compress(&folder.join(name))?;
    }
    Ok(())
}

/// The names of the files put aside for a log.
fn put_aside(log: &Path) -> io::Result<Vec<String>> {
    let Some((folder, name)) = log.parent().zip(log.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            names.push(name);
        }
    }
    Ok(names)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn compress(log: &Path) -> io::Result<()> {
    let unfinished = with_suffix(log, UNFINISHED);
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(log)?, &mut encoder)?;
    let file = encoder.finish()?;
    file.set_permissions(fs::metadata(log)?.permissions())?;
    drop(file);
    fs::rename(&unfinished, with_suffix(log, COMPRESSED))?;
    remove(log)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a log and all that was put aside for it.
pub fn remove_all(log: &Path) -> io::Result<()> {
    let folder = log.parent().unwrap_or(Path::new("."));
    match put_aside(log) {
        Ok(names) => names.iter().try_for_each(|name| remove(&folder.join(name)))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    remove(log)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn planned(names: &[&str], files_max: usize) -> (Vec<String>, Vec<String>) {
        let plan = plan(names.iter().map(|name| (*name).to_owned()).collect(), files_max);
        (plan.remove, plan.compress)
    }

    #[test]
    fn the_oldest_go_and_the_rest_is_compressed() {
        let none: [&str; 0] = [];
        let (one, two, three) = ("0.log.20261122-100000", "0.log.20261122-100010", "0.log.20261122-100020");
        for (names, files_max, remove, compress) in [
            (vec![], 5, vec![], vec![]),
            (vec![one], 5, vec![], vec![one]),
            (vec!["0.log.20261122-100000.gz", two], 5, vec![], vec![two]),
            (
                vec![three, "0.log.20261122-100010.gz", "0.log.20261122-100000.gz"],
                4,
                vec!["0.log.20261122-100000.gz"],
                vec![three],
            ),
            (vec![one, two], 2, vec![one, two], vec![]),
            // Left behind by an agent that ended in the midst of it.
            (
                vec![one, "0.log.20261122-100000.gz", "0.log.20261122-100010.tmp"],
                5,
                vec![one, "0.log.20261122-100010.tmp"],
                vec![],
            ),
        ] {
            assert_eq!(
                planned(&names, files_max),
                (
                    remove.iter().map(|n: &&str| n.to_string()).collect(),
                    compress.iter().map(|n: &&str| n.to_string()).collect()
                ),
                "{names:?} {files_max}"
            );
        }
        assert_eq!(planned(&none, 0), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_log_is_the_newest_by_its_name_whatever_the_clock_says() {
        let now: DateTime = "2026-11-22T10:00:00".parse().unwrap();
        for (names, expected) in [
            (vec![], "20261122-100000"),
            (vec!["0.log.20261122-095959.gz", "0.log.20261121-100000.gz"], "20261122-100000"),
            // The clock was set back, by more or less.
            (vec!["0.log.20261122-100000"], "20261122-100001"),
            (vec!["0.log.20261122-095959", "0.log.20261231-235959.gz"], "20270101-000000"),
            (vec!["0.log.20261122-100010.tmp", "0.log.20261122-100005.gz"], "20261122-100011"),
            // Somebody else's, and the end of time.
            (vec!["0.log.old", "0.log.1.gz", "0.log.99991231-235959"], "20261122-100000"),
        ] {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            assert_eq!(time_aside(now, &names).strftime(TIME_FORMAT).to_string(), expected, "{names:?}");
        }
        // Each of a row comes after the ones before it, and the first ones go first.
        let mut names = Vec::new();
        for hours in [0, -3, 1, -24] {
            let time = time_aside(now + SignedDuration::from_hours(hours), &names);
            names.push(format!("0.log.{}", time.strftime(TIME_FORMAT)));
        }
        assert_eq!(plan(names.clone(), 4).remove, names[..2]);
    }

    #[test]
    fn what_was_put_aside_is_compressed_whole_and_goes_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let other = dir.path().join("10.log");
        let text = "2026-11-22T10:00:00Z stdout F line\n".repeat(2000);
        fs::write(&log, "new").unwrap();
        fs::write(&other, "other").unwrap();
        fs::write(dir.path().join("0.log.20261122-100000"), &text).unwrap();
        tidy(&log, 5).unwrap();
        assert_eq!(put_aside(&log).unwrap(), ["0.log.20261122-100000.gz"]);
        let mut back = String::new();
        let file = File::open(dir.path().join("0.log.20261122-100000.gz")).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
        remove_all(&log).unwrap();
        remove_all(&log).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["10.log"]);
    }
}
