//! Reads what an ended container left as its last words.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::config::{ANNOTATION_TERMINATION_FILE, ANNOTATION_TERMINATION_POLICY};
use super::memory::Memory;
use super::spec;
use crate::Paths;
use crate::clock::Moment;
use crate::runtime::{ContainerRecord, ContainerState, PodRecord};

/// The kubelet reads no more of the file.
const FILE_MAX: usize = 4096;
/// Nor more of the log.
const LOG_MAX: usize = 2048;
/// Nor more lines of it.
const LOG_LINES_MAX: usize = 80;

/// A container that ended longer ago than this has all its lines in its log.
const LOG_RECENT: Duration = Duration::from_secs(5);
/// How long the last lines may take to be written.
const LOG_SETTLE_MAX: Duration = Duration::from_millis(500);
/// Looks at whether they are.
const LOG_SETTLE_POLL: Duration = Duration::from_millis(50);

/// Reads the messages of those containers whose message is not yet known.
pub async fn read(record: &PodRecord, memory: &mut Memory, pod: &Pod, paths: &Paths, now: Moment) {
    for container in &record.containers {
        if container.state != ContainerState::Exited || memory.termination_messages.contains_key(&container.id) {
            continue;
        }
        let ended_ago = memory.ended.get(&container.id).map_or(Duration::ZERO, |ended_at| now.since(*ended_at));
        let message = message(container, pod, paths, ended_ago).await;
        memory.termination_messages.insert(container.id.clone(), message);
    }
}

async fn message(container: &ContainerRecord, pod: &Pod, paths: &Paths, ended_ago: Duration) -> String {
    let Some(file) = container.annotations.get(ANNOTATION_TERMINATION_FILE) else { return String::new() };
    // The annotation names a file; only the pod's own folder is believed.
    let own = paths.pod(&spec::identity(pod).uid);
    let file = Path::new(file);
    let text = if file.starts_with(&own) { read_head(file).await } else { String::new() };
    let fallback = container.annotations.get(ANNOTATION_TERMINATION_POLICY).map(String::as_str);
    if !text.is_empty() || fallback != Some("FallbackToLogsOnError") || container.exit_code == 0 {
        return text;
    }
    let Some(log) = &container.log_path else { return String::new() };
    if ended_ago < LOG_RECENT {
        settled(log).await;
    }
    log_tail(&read_tail(log).await)
}

/// Waits until a log has something in it and does not grow, for a moment at most: the runtime may write the last lines after
/// it has said that the container ended.
async fn settled(log: &Path) {
    let deadline = tokio::time::Instant::now() + LOG_SETTLE_MAX;
    let mut before = None;
    while tokio::time::Instant::now() < deadline {
        let len = tokio::fs::metadata(log).await.map_or(0, |found| found.len());
        if len > 0 && before == Some(len) {
            return;
        }
        before = Some(len);
        tokio::time::sleep(LOG_SETTLE_POLL).await;
    }
}

async fn read_head(file: &Path) -> String {
    use tokio::io::AsyncReadExt;
    let Ok(file) = tokio::fs::File::open(file).await else { return String::new() };
    let mut bytes = Vec::new();
    let _ = file.take(FILE_MAX as u64).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of a log; a log line is longer than its text by a stamp and a tag.
async fn read_tail(log: &Path) -> String {
    use tokio::io::{AsyncReadExt, AsyncSeekExt};
    const RAW_MAX: u64 = (LOG_MAX + LOG_LINES_MAX * 64) as u64;
    let Ok(mut file) = tokio::fs::File::open(log).await else { return String::new() };
    let len = file.metadata().await.map_or(0, |metadata| metadata.len());
    if file.seek(std::io::SeekFrom::Start(len.saturating_sub(RAW_MAX))).await.is_err() {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = file.take(RAW_MAX).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The text of the last lines of a log in the runtime's format. A line that goes on, or that the container did not end, is
/// tagged `P`.
fn log_tail(raw: &str) -> String {
    let mut parts: Vec<(&str, &str)> = raw.lines().filter_map(tags_and_text).collect();
    parts.drain(..parts.len().saturating_sub(LOG_LINES_MAX));
    let mut text = String::new();
    for (tags, part) in parts {
        text.push_str(part);
        if tags.split(':').next() != Some("P") {
            text.push('\n');
        }
    }
    let mut start = text.len().saturating_sub(LOG_MAX);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.split_off(start)
}

fn tags_and_text(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.splitn(4, ' ').skip(2);
    Some((fields.next()?, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_lines_are_waited_for_but_not_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        let (file, began) = (log.clone(), tokio::time::Instant::now());
        let writing = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(120)).await;
            std::fs::write(&file, "line").unwrap();
        });
        settled(&log).await;
        writing.await.unwrap();
        assert!(log.exists() && began.elapsed() < LOG_SETTLE_MAX);
        settled(&dir.path().join("none")).await;
    }

    #[test]
    fn the_tail_of_a_log_is_its_text() {
        let raw = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr F two words\n";
        assert_eq!(log_tail(raw), "one\ntwo words\n");
        assert_eq!(log_tail(""), "");
        let unended = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stdout P DONE\n";
        assert_eq!(log_tail(unended), "one\nDONE");
    }
}
