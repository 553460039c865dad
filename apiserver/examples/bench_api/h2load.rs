//! Load from `h2load`, a client in C: it leaves more of the machine to the server than one of ours would.

use std::path::Path;
use std::process::Command;

use crate::server::{Server, TOKEN};
use crate::{Result, percentile};

/// Requests that are under way at once.
pub const IN_FLIGHT: usize = 64;

/// How requests under way share connections.
#[derive(Debug, Clone, Copy, Default)]
pub enum Connections {
    #[default]
    /// Eight connections, each of which goes through all paths.
    Eight,
    /// One connection, so that each path is asked for once in turn.
    One,
    /// Two connections with one request at a time: for large answers.
    Alone,
}

/// What is sent.
#[derive(Default)]
pub struct Load<'a> {
    /// What the requests are about, in turn.
    pub paths: &'a [String],
    /// How many requests.
    pub requests: usize,
    /// Another method than GET or, with a body, POST.
    pub method: Option<&'a str>,
    /// The body of each, and its type.
    pub body: Option<(&'a [u8], &'a str)>,
    /// How they are sent.
    pub connections: Connections,
}

/// What came back.
#[derive(Debug, Clone, Copy)]
pub struct Answers {
    /// Requests answered in a second.
    pub rate: f64,
    /// Milliseconds that all but one of a hundred took at most.
    pub p99: f64,
    /// Bytes of bodies in a second.
    pub bytes: f64,
}

/// Sends the requests; every one must succeed.
pub async fn run(server: &Server, dir: &Path, load: &Load<'_>) -> Result<Answers> {
    let (uris, log, body) = (dir.join("uris"), dir.join("h2load.log"), dir.join("body"));
    let text: String = load.paths.iter().map(|path| server.url(path) + "\n").collect();
    std::fs::write(&uris, text)?;
    let _ = std::fs::remove_file(&log);
    let mut command = tokio::process::Command::new("h2load");
    let (connections, streams) = match load.connections {
        Connections::Eight => (8, IN_FLIGHT / 8),
        Connections::One => (1, IN_FLIGHT),
        Connections::Alone => (2, 1),
    };
    command.arg("-n").arg(load.requests.to_string()).arg("-c").arg(connections.to_string());
    command.arg("-m").arg(streams.to_string()).arg("-i").arg(&uris);
    // Windows of 2^30 bytes: the limit of a list is not to be the client's.
    command.args(["-w", "30", "-W", "30"]).arg("--log-file").arg(&log);
    command.arg("-H").arg(format!("authorization: Bearer {TOKEN}"));
    if let Some(method) = load.method {
        command.arg("-H").arg(format!(":method: {method}"));
    }
    if let Some((bytes, content_type)) = load.body {
        std::fs::write(&body, bytes)?;
        command.arg("-d").arg(&body).arg("-H").arg(format!("content-type: {content_type}"));
    }
    let output = command.output().await.map_err(|error| format!("h2load (Debian package nghttp2-client): {error}"))?;
    let report = String::from_utf8_lossy(&output.stdout);
    parse(&report, &std::fs::read_to_string(&log)?, load.requests)
        .ok_or_else(|| format!("not every request succeeded:\n{report}").into())
}

/// Whether h2load can be run.
pub fn is_there() -> bool {
    Command::new("h2load").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn parse(report: &str, log: &str, requests: usize) -> Option<Answers> {
    let finished = report.lines().find_map(|line| line.strip_prefix("finished in "))?;
    let (time, rest) = finished.split_once(", ")?;
    let rate: f64 = rest.split_once(" req/s")?.0.parse().ok()?;
    let codes = report.lines().find_map(|line| line.strip_prefix("status codes: "))?;
    if codes.split_once(" 2xx")?.0.parse::<usize>().ok()? != requests {
        return None;
    }
    let traffic = report.lines().find_map(|line| line.strip_prefix("traffic: "))?;
    let data: f64 = traffic.rsplit_once('(')?.1.split_once(')')?.0.parse().ok()?;
    // `start`, `status` and `took`, in microseconds.
    let mut took: Vec<f64> =
        log.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).map(|micros: f64| micros / 1e3).collect();
    Some(Answers { rate, p99: percentile(&mut took, 99), bytes: data / seconds(time)? })
}

/// `2.01s`, `840.23ms` and `90us` as seconds.
fn seconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    let scale = match &text[unit..] {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        _ => return None,
    };
    Some(number * scale)
}
