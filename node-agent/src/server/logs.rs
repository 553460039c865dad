//! Container logs as CRI keeps them, read the way `kubectl logs` asks for.
//!
//! In: a log file of lines `RFC3339Nano stdout|stderr P|F text`, where `P` means that the
//! line goes on in the next. Out: the text. Everything about one line is pure ([`Filter`]);
//! reading from the end and following are here as well.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// Bytes read at a time.
const READ_LEN: usize = 64 << 10;
/// Text is handed on in pieces of about this size.
const PIECE_LEN: usize = 32 << 10;
/// A line of CRI has 16 KiB of text; what is longer than this is not one and is cut up.
const LINE_LEN_MAX: usize = 256 << 10;
/// Time, stream and tag at a line's head fit into this.
const HEAD_LEN_MAX: usize = 96;
/// First and longest pause between looks at a file that does not grow.
const POLL_DELAY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// How long a runtime may still write into a log that was rotated, after it has made the new one.
const ROTATION_SETTLE: Duration = Duration::from_millis(200);

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    /// Wait for more until the container ends.
    pub follow: bool,
    /// The log of the instance before.
    pub previous: bool,
    /// The time before each line.
    pub timestamps: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Not more than so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only this stream: `stdout` or `stderr`.
    pub stream: Option<String>,
}

impl LogOptions {
    /// From the query's names and values; `now` is what `sinceSeconds` counts from.
    pub(super) fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in query {
            let flag = || match value.as_str() {
                "" | "1" | "true" | "True" | "TRUE" => Ok(true),
                "0" | "false" | "False" | "FALSE" => Ok(false),
                _ => Err(format!("{name}: {value:?} is neither true nor false")),
            };
            let number = |min: u64| match value.parse::<u64>() {
                Ok(number) if number >= min => Ok(number),
                _ => Err(format!("{name}: Invalid value: {value:?}: must be greater than or equal to {min}")),
            };
            match name.as_str() {
                "follow" => options.follow = flag()?,
                "previous" => options.previous = flag()?,
                "timestamps" => options.timestamps = flag()?,
                "tailLines" => options.tail_lines = Some(number(0)?),
                "limitBytes" => options.limit_bytes = Some(number(1)?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number(1)?).map_err(|error| error.to_string())?;
                    let since = now.checked_sub(jiff::SignedDuration::from_secs(seconds));
                    options.since = Some(since.unwrap_or(Timestamp::MIN));
                }
                "sinceTime" => {
                    let time = value.parse().map_err(|error| format!("{name}: Invalid value: {value:?}: {error}"))?;
                    options.since = Some(time);
                }
                "stream" => {
                    options.stream = match value.as_str() {
                        "All" | "" => None,
                        "Stdout" => Some("stdout".to_owned()),
                        "Stderr" => Some("stderr".to_owned()),
                        _ => return Err(format!("{name}: Unsupported value: {value:?}")),
                    };
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

/// A line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line<'bytes> {
    time: &'bytes str,
    stream: &'bytes str,
    /// The line goes on in the next one.
    partial: bool,
    text: &'bytes [u8],
}

/// Takes a line (without its newline) apart; none if it is not CRI's.
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next().unwrap_or_default();
    if !matches!(stream, "stdout" | "stderr") || time.len() < 20 {
        return None;
    }
    // Tags are separated by colons, the first says whether the line is whole.
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Some(Line { time, stream, partial, text })
}

/// Turns the file's lines into what was asked for.
pub(super) struct Filter {
    options: LogOptions,
    left: Option<u64>,
    /// The last line that was handed on goes on.
    within_line: bool,
    out: Vec<u8>,
}

impl Filter {
    /// A filter for these options.
    pub(super) fn new(options: &LogOptions) -> Self {
        Self { options: options.clone(), left: options.limit_bytes, within_line: false, out: Vec::new() }
    }

    /// Takes one line without its newline. Damaged lines are left out.
    pub(super) fn line(&mut self, line: &[u8]) {
        let Some(line) = parse_line(line) else { return };
        if self.options.stream.as_deref().is_some_and(|wanted| wanted != line.stream) {
            return;
        }
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return;
        }
        if self.options.timestamps && !self.within_line {
            self.put(fixed_width(line.time).as_bytes());
            self.put(b" ");
        }
        self.put(line.text);
        if !line.partial {
            self.put(b"\n");
        }
        self.within_line = line.partial;
    }

    fn put(&mut self, bytes: &[u8]) {
        let len = match &mut self.left {
            None => bytes.len(),
            Some(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                len
            }
        };
        self.out.extend_from_slice(&bytes[..len]);
    }

    /// True once the limit of bytes is reached.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// What has come together.
    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.out))
    }
}

/// Fractions of seconds with nine digits, as Kubernetes prints them.
fn fixed_width(time: &str) -> String {
    let Some(zone) = time.rfind(['Z', '+', '-']).filter(|at| *at >= 19) else { return time.to_owned() };
    let (front, zone) = time.split_at(zone);
    let (seconds, fraction) = front.split_once('.').unwrap_or((front, ""));
    format!("{seconds}.{fraction:0<9}{zone}")
}

/// Where in the file the last `lines` lines begin, and where they end. A line that goes on in others counts once; one that
/// is just being written does not count.
async fn tail(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let mut at = file.seek(io::SeekFrom::End(0)).await?;
    let mut end = None;
    let mut found = 0;
    let mut buffer = vec![0; READ_LEN];
    while at > 0 {
        let len = READ_LEN.min(usize::try_from(at).unwrap_or(READ_LEN));
        at -= len as u64;
        file.seek(io::SeekFrom::Start(at)).await?;
        file.read_exact(&mut buffer[..len]).await?;
        for index in memchr_reverse(&buffer[..len]) {
            let start = at + index as u64 + 1;
            let end = *end.get_or_insert(start);
            if lines == 0 {
                return Ok((end, end));
            }
            // Behind each newline but the last begins a line. It begins one of the lines that count unless the one before
            // it goes on.
            if start < end && !is_partial_before(file, start).await? {
                found += 1;
                if found == lines {
                    return Ok((start, end));
                }
            }
        }
    }
    Ok((0, end.unwrap_or(0)))
}

fn memchr_reverse(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(index, _)| index)
}

/// Whether the line that ends before `start` goes on at `start`.
async fn is_partial_before(file: &mut File, start: u64) -> io::Result<bool> {
    // Find the head of that line: lines of CRI are at most 16 KiB of text.
    let mut window_len = 1 << 10;
    loop {
        let from = start.saturating_sub(1 + window_len);
        file.seek(io::SeekFrom::Start(from)).await?;
        let mut window = vec![0; usize::try_from(start - 1 - from).unwrap_or(0)];
        file.read_exact(&mut window).await?;
        if let Some(newline) = window.iter().rposition(|byte| *byte == b'\n') {
            return Ok(is_partial(&window[newline + 1..]));
        }
        if from == 0 || window_len > LINE_LEN_MAX as u64 {
            return Ok(is_partial(&window));
        }
        window_len *= 8;
    }
}

fn is_partial(line: &[u8]) -> bool {
    let head = &line[..line.len().min(HEAD_LEN_MAX)];
    parse_line(head).is_some_and(|line| line.partial)
}

/// Says whether more may come after a log's end.
pub(super) trait Writer: Send {
    /// Whether the container that writes the log still runs.
    fn is_running(&mut self) -> impl Future<Output = bool> + Send;
}

/// Whether another file has taken this one's place.
async fn is_replaced(path: &Path, file: &File) -> bool {
    match (tokio::fs::metadata(path).await, file.metadata().await) {
        (Ok(there), Ok(ours)) => identity(&there) != identity(&ours),
        _ => false,
    }
}

#[cfg(unix)]
fn identity(file: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

#[cfg(not(unix))]
fn identity(file: &std::fs::Metadata) -> Option<std::time::SystemTime> {
    file.created().ok()
}

/// Sends the log to `out`. When following, `writer` is asked at the file's end whether to wait, and a log that was rotated
/// is read to its end before the one that took its place.
pub(super) async fn stream(
    path: &Path,
    options: &LogOptions,
    mut writer: impl Writer,
    out: mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut file = File::open(path).await?;
    let (start, end) = match options.tail_lines {
        Some(lines) => tail(&mut file, lines).await?,
        None => (0, u64::MAX),
    };
    file.seek(io::SeekFrom::Start(start)).await?;
    // Who does not follow gets, of a log that grows, no more lines than it wants.
    let mut file = file.take(if options.follow { u64::MAX } else { end - start });
    let mut filter = Filter::new(options);
    let mut pending = Vec::new();
    let mut delay = POLL_DELAY.0;
    let mut ended = !options.follow;
    let mut rotated = false;
    loop {
        let mut buffer = vec![0; READ_LEN];
        let len = file.read(&mut buffer).await?;
        pending.extend_from_slice(&buffer[..len]);
        let used = take_lines(&pending, &mut filter, (ended || rotated) && len == 0);
        pending.drain(..used);
        let full = filter.is_full();
        let due = len == 0 || full || filter.out.len() >= PIECE_LEN;
        if due && !filter.out.is_empty() && out.send(Ok(filter.take())).await.is_err() {
            return Ok(());
        }
        if full {
            return Ok(());
        }
        if len > 0 {
            delay = POLL_DELAY.0;
        } else if rotated {
            file = File::open(path).await?.take(u64::MAX);
            rotated = false;
        } else if options.follow && is_replaced(path, file.get_ref()).await {
            rotated = true;
            tokio::time::sleep(ROTATION_SETTLE).await;
        } else if ended {
            return Ok(());
        } else if writer.is_running().await {
            tokio::select! {
                () = out.closed() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(POLL_DELAY.1);
        } else {
            // One more look: it may have written between ours and its end.
            ended = true;
        }
    }
}

/// Feeds whole lines to the filter; returns how many bytes that were. At the end, what is
/// left counts as a line too.
fn take_lines(bytes: &[u8], filter: &mut Filter, at_end: bool) -> usize {
    let mut used = 0;
    while let Some(len) = bytes[used..].iter().position(|byte| *byte == b'\n') {
        if filter.is_full() {
            return bytes.len();
        }
        filter.line(&bytes[used..used + len]);
        used += len + 1;
    }
    if used < bytes.len() && (at_end || bytes.len() - used > LINE_LEN_MAX) {
        filter.line(&bytes[used..]);
        used = bytes.len();
    }
    used
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    const LOG: &str = "2026-11-22T10:00:00.1Z stdout F one\n\
                       2026-11-22T10:00:01.000000002Z stderr P tw\n\
                       2026-11-22T10:00:01.000000003Z stderr F o\n\
                       2026-11-22T10:00:02Z stdout F \n\
                       2026-11-22T11:00:03.5+01:00 stdout F four\n";

    impl Writer for std::sync::Arc<std::sync::atomic::AtomicBool> {
        async fn is_running(&mut self) -> bool {
            self.load(std::sync::atomic::Ordering::SeqCst)
        }
    }

    async fn read(log: &str, query: &[(&str, &str)]) -> String {
        let now = "2026-11-22T10:00:04Z".parse().unwrap();
        let query: Vec<_> = query.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let options = LogOptions::parse(&query, now).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::fs::write(&path, log).unwrap();
        read_file(path, options).await
    }

    async fn read_file(path: PathBuf, options: LogOptions) -> String {
        let (sender, mut receiver) = mpsc::channel(1);
        let reading = tokio::spawn(async move { stream(&path, &options, std::sync::Arc::default(), sender).await });
        let mut text = Vec::new();
        while let Some(piece) = receiver.recv().await {
            text.extend_from_slice(&piece.unwrap());
        }
        reading.await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn each_option_gives_its_part() {
        assert_eq!(read(LOG, &[]).await, "one\ntwo\n\nfour\n");
        assert_eq!(read(LOG, &[("tailLines", "0")]).await, "");
        assert_eq!(read(LOG, &[("tailLines", "1")]).await, "four\n");
        assert_eq!(read(LOG, &[("tailLines", "2")]).await, "\nfour\n");
        assert_eq!(read(LOG, &[("tailLines", "3")]).await, "two\n\nfour\n");
        assert_eq!(read(LOG, &[("tailLines", "4")]).await, "one\ntwo\n\nfour\n");
        assert_eq!(read(LOG, &[("tailLines", "99")]).await, "one\ntwo\n\nfour\n");
        assert_eq!(read(LOG, &[("limitBytes", "5")]).await, "one\nt");
        assert_eq!(read(LOG, &[("sinceSeconds", "2")]).await, "\nfour\n");
        assert_eq!(read(LOG, &[("sinceTime", "2026-11-22T10:00:03Z")]).await, "four\n");
        assert_eq!(read(LOG, &[("stream", "Stderr")]).await, "two\n");
        assert_eq!(read(LOG, &[("follow", "true")]).await, "one\ntwo\n\nfour\n", "the container has ended");
        assert_eq!(
            read(LOG, &[("timestamps", "true"), ("tailLines", "3")]).await,
            "2026-11-22T10:00:01.000000002Z two\n2026-11-22T10:00:02.000000000Z \n\
             2026-11-22T11:00:03.500000000+01:00 four\n"
        );
    }

    #[tokio::test]
    async fn long_logs_are_tailed_across_blocks() {
        let mut log = String::new();
        for number in 0..5000 {
            log += &format!("2026-11-22T10:00:00.1Z stdout F line {number} {}\n", "x".repeat(number % 90));
        }
        let tail = read(&log, &[("tailLines", "3000")]).await;
        assert_eq!(tail.lines().count(), 3000);
        assert!(tail.starts_with("line 2000 "));
    }

    #[tokio::test]
    async fn a_tail_of_a_log_that_grows_has_no_more_lines_than_were_asked_for() {
        use std::io::Write as _;
        use std::sync::atomic::{AtomicBool, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut file = std::fs::File::create(&path).unwrap();
        writeln!(file, "2026-11-22T10:00:02Z stdout F first").unwrap();
        let enough = std::sync::Arc::new(AtomicBool::new(false));
        let until = enough.clone();
        let writing = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                // As the runtime writes: a line at once.
                file.write_all(b"2026-11-22T10:00:02Z stdout F more\n").unwrap();
            }
        });
        for _ in 0..100 {
            let query = [("tailLines".to_owned(), "1".to_owned())];
            let options = LogOptions::parse(&query, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(read_file(path.clone(), options).await.lines().count(), 1);
        }
        enough.store(true, Ordering::Relaxed);
        writing.join().unwrap();
    }

    #[tokio::test]
    async fn damaged_lines_are_left_out() {
        assert_eq!(read("garbage\n\n\n2026-11-22T10:00:02Z stdout F good\nend", &[]).await, "good\n");
        assert_eq!(read("", &[("tailLines", "5")]).await, "");
    }

    #[test]
    fn wrong_options_are_refused() {
        let now = Timestamp::UNIX_EPOCH;
        for (name, value) in [
            ("tailLines", "-1"),
            ("limitBytes", "0"),
            ("sinceSeconds", "0"),
            ("sinceTime", "noon"),
            ("follow", "maybe"),
        ] {
            assert!(LogOptions::parse(&[(name.to_owned(), value.to_owned())], now).is_err(), "{name}={value}");
        }
    }

    #[tokio::test]
    async fn following_goes_on_until_the_container_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::fs::write(&path, "2026-11-22T10:00:00Z stdout F one\n2026-11-22T10:00:00Z stdout F ha").unwrap();
        let (sender, mut receiver) = mpsc::channel(1);
        let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (asked, file) = (running.clone(), path.clone());
        let reading = tokio::spawn(async move {
            let options = LogOptions { follow: true, ..Default::default() };
            stream(&file, &options, asked, sender).await
        });
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "one\n");
        let mut log = std::fs::File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut log, b"lf\n").unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "half\n");
        std::io::Write::write_all(&mut log, b"2026-11-22T10:00:00Z stdout F last\n").unwrap();
        running.store(false, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "last\n");
        assert!(receiver.recv().await.is_none());
        reading.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn following_goes_on_in_the_file_that_took_a_rotated_ones_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let line = |text: &str| format!("2026-11-22T10:00:00Z stdout F {text}\n");
        std::fs::write(&path, line("one")).unwrap();
        let (sender, mut receiver) = mpsc::channel(1);
        let running = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (asked, file) = (running.clone(), path.clone());
        let reading = tokio::spawn(async move {
            let options = LogOptions { follow: true, ..Default::default() };
            stream(&file, &options, asked, sender).await
        });
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "one\n");
        for round in 0..3 {
            let aside = folder.path().join(format!("0.log.{round}"));
            std::fs::rename(&path, &aside).unwrap();
            // Written before the runtime lets go of the old file, with and without a new one.
            let mut old = std::fs::File::options().append(true).open(&aside).unwrap();
            std::io::Write::write_all(&mut old, line("late").as_bytes()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::io::Write::write_all(&mut old, line("later").as_bytes()).unwrap();
            let mut new = std::fs::File::options().append(true).open(&path).unwrap();
            std::io::Write::write_all(&mut new, line("new").as_bytes()).unwrap();
            let mut text = String::new();
            while !text.ends_with("new\n") {
                text += std::str::from_utf8(&receiver.recv().await.unwrap().unwrap()).unwrap();
            }
            assert_eq!(text, "late\nlater\nnew\n");
        }
        // What is written after the last rotation is not lost to the container's end.
        std::fs::rename(&path, folder.path().join("0.log.3")).unwrap();
        std::fs::write(&path, line("last")).unwrap();
        running.store(false, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(receiver.recv().await.unwrap().unwrap(), "last\n");
        assert!(receiver.recv().await.is_none());
        reading.await.unwrap().unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(line in proptest::collection::vec(any::<u8>(), 0..200), timestamps: bool) {
            let mut filter = Filter::new(&LogOptions { timestamps, limit_bytes: Some(50), ..Default::default() });
            filter.line(&line);
            let _ = take_lines(&line, &mut filter, true);
            prop_assert!(filter.out.len() <= 50);
        }

        #[test]
        fn times_get_nine_digits(nanoseconds in 0i64..2_000_000_000_000_000_000) {
            let time = Timestamp::from_nanosecond(nanoseconds.into()).unwrap();
            let fixed = fixed_width(&time.to_string());
            prop_assert_eq!(fixed.len(), "2026-11-22T10:00:00.000000000Z".len());
            prop_assert_eq!(fixed.parse::<Timestamp>().unwrap(), time);
        }
    }
}
