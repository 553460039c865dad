//! Scheduled backups. In: the time, and what is in the folder. Out: a new backup when one is due, and no more of them than are to
//! be kept. A backup reads a snapshot, so writers never wait for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Operations;

/// What is to be backed up automatically, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    /// The folder, made if missing.
    pub dir: PathBuf,
    /// How long between two backups.
    pub interval: Duration,
    /// How many are kept.
    pub keep: usize,
}

/// The names of scheduled backups; nothing else in the folder is touched.
const PREFIX: &str = "gantry-";
const SUFFIX: &str = ".backup";
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// After a failure the next try comes this soon, or at the interval if that is shorter.
const RETRY: Duration = Duration::from_secs(60);

/// A backup's name: it sorts by time.
fn name(now: Timestamp) -> String {
    format!("{PREFIX}{}{SUFFIX}", now.strftime(TIME))
}

/// When the backup of this name was made; none if it is not one of ours.
fn time_of(name: &str) -> Option<Timestamp> {
    let text = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let time = jiff::civil::DateTime::strptime(TIME, text).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|time| time.timestamp())
}

/// How long until the next backup is due when the folder holds `names`.
fn due_in(names: &[String], interval: Duration, now: Timestamp) -> Duration {
    let newest = names.iter().filter_map(|name| time_of(name)).max();
    // One from the future (the clock was set back) does not count.
    let age = newest.map(|newest| now.duration_since(newest)).and_then(|age| Duration::try_from(age).ok());
    age.map_or(Duration::ZERO, |age| interval.saturating_sub(age))
}

/// Which of `names` are too many.
fn surplus(names: &[String], keep: usize) -> Vec<String> {
    let mut ours: Vec<&String> = names.iter().filter(|name| time_of(name).is_some()).collect();
    ours.sort();
    let gone = ours.len().saturating_sub(keep.max(1));
    ours.into_iter().take(gone).cloned().collect()
}

fn names_in(dir: &Path) -> std::io::Result<Vec<String>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Makes backups until shutdown.
pub async fn run(operations: Operations, options: BackupOptions, shutdown: CancellationToken) {
    loop {
        let wait = match make_dir(&options.dir).and_then(|()| names_in(&options.dir)) {
            Ok(names) => due_in(&names, options.interval, Timestamp::now()),
            Err(error) => {
                failed(&operations, &options, &error);
                RETRY.min(options.interval)
            }
        };
        if !wait.is_zero() {
            if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            continue;
        }
        let Some(made) = shutdown.run_until_cancelled(back_up(&operations, &options)).await else { return };
        if let Err(error) = made {
            failed(&operations, &options, error.as_ref());
            if shutdown.run_until_cancelled(tokio::time::sleep(RETRY.min(options.interval))).await.is_none() {
                return;
            }
        }
    }
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn failed(operations: &Operations, options: &BackupOptions, error: &(dyn std::error::Error + 'static)) {
    operations.metrics.failed.inc();
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    tracing::error!(dir = %options.dir.display(), reason, "a scheduled backup failed");
}

async fn back_up(
    operations: &Operations,
    options: &BackupOptions,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let now = Timestamp::now();
    let path = options.dir.join(name(now));
    let mut bytes = 0;
    let (header, objects) =
        gantry_store::backup::write_file(operations.snapshot(), &path, |written| bytes = written).await?;
    let metrics = &operations.metrics;
    metrics.made.inc();
    metrics.last_success.set(now.as_second());
    metrics.last_revision.set(i64::try_from(header.revision).unwrap_or(i64::MAX));
    metrics.last_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    tracing::info!(file = %path.display(), revision = header.revision, objects, bytes, "backed up");
    for name in surplus(&names_in(&options.dir)?, options.keep) {
        std::fs::remove_file(options.dir.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn backups_are_due_when_the_newest_is_old_enough() {
        let hour = Duration::from_secs(3600);
        let names = |times: &[&str]| times.iter().map(|time| name(at(time))).collect::<Vec<_>>();
        let now = at("2026-01-02T12:00:00Z");
        let table = [
            (vec![], 0),
            (names(&["2026-01-02T11:30:00Z", "2026-01-02T10:30:00Z"]), 1800),
            (names(&["2026-01-02T10:30:00Z"]), 0),
            (names(&["2026-01-02T13:00:00Z"]), 0),
            (vec!["notes.txt".to_owned(), "gantry-.backup".to_owned()], 0),
        ];
        for (names, seconds) in table {
            assert_eq!(due_in(&names, hour, now), Duration::from_secs(seconds), "{names:?}");
        }
    }

    #[test]
    fn the_oldest_are_surplus_and_strangers_are_left_alone() {
        let mut names: Vec<String> = (1..=5).map(|day| name(at(&format!("2026-01-0{day}T00:00:00Z")))).collect();
        names.push("gantry-mine.backup".to_owned());
        names.push("gantry-20260101T000000Z.backup.old".to_owned());
        assert_eq!(surplus(&names, 3), ["gantry-20260101T000000Z.backup", "gantry-20260102T000000Z.backup"]);
        assert_eq!(surplus(&names, 9), [""; 0]);
        assert_eq!(surplus(&names, 0).len(), 4, "the last one is never removed");
    }
}
