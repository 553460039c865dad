//! `gantry logs`

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::{AsyncReadExt, StreamExt};
use http::{Method, Request};
use serde_json::Value;

use super::NamespaceFlag;
use super::output::name;
use super::session::{Resource, Session, uri};
use crate::components::duration;

/// How many bytes of a log are read at once.
const CHUNK: usize = 16 * 1024;

/// `gantry logs`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A pod, or `TYPE/NAME` of something that has pods
    #[arg(value_name = "POD")]
    target: Option<String>,
    #[command(flatten)]
    namespace: NamespaceFlag,
    /// The container
    #[arg(long, short = 'c', value_name = "NAME")]
    container: Option<String>,
    /// All containers of the pod
    #[arg(long)]
    all_containers: bool,
    /// Pods with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Go on with what is written from now on
    #[arg(long, short = 'f')]
    follow: bool,
    /// The instance of the container before the present one
    #[arg(long, short = 'p')]
    previous: bool,
    /// Only so many lines from the end; -1 for all
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what is younger, for example 5m
    #[arg(long, value_parser = duration)]
    since: Option<Duration>,
    /// Only what was written after a time, for example 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since_time: Option<jiff::Timestamp>,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
    /// Put pod and container before each line
    #[arg(long)]
    prefix: bool,
}

/// Prints the logs, of several containers one after the other, or as they come when following.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let namespace = session.namespace(&args.namespace);
    let pods = session.resource("pods").await?;
    let chosen = choose(session, args, &namespace, &pods).await?;
    let mut sources = Vec::new();
    for pod in &chosen {
        for container in containers(args, pod)? {
            sources.push((name(pod).to_owned(), container));
        }
    }
    let several = sources.len() > 1;
    let streams =
        sources.iter().map(|(pod, container)| stream(session, args, &namespace, &pods, pod, container, several));
    // Following reads all at once; otherwise they come in order.
    let at_once = if args.follow { sources.len().max(1) } else { 1 };
    let results: Vec<Result<()>> = futures::stream::iter(streams).buffered(at_once).collect().await;
    results.into_iter().collect::<Result<()>>()?;
    Ok(ExitCode::SUCCESS)
}

async fn choose(session: &Session, args: &Args, namespace: &str, pods: &Resource) -> Result<Vec<Value>> {
    if let Some(selector) = &args.selector {
        return session.list(pods, Some(namespace), &[("labelSelector", selector)]).await;
    }
    let Some(target) = &args.target else { bail!("expected 'logs POD', 'logs TYPE/NAME' or 'logs -l SELECTOR'") };
    Ok(vec![session.pod_of(target, namespace).await?])
}

fn containers(args: &Args, pod: &Value) -> Result<Vec<String>> {
    let named = |field: &str| {
        let all = pod["spec"][field].as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter_map(|container| container["name"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    if args.all_containers {
        return Ok([named("initContainers"), named("containers")].concat());
    }
    if let Some(container) = &args.container {
        return Ok(vec![container.clone()]);
    }
    let all = named("containers");
    let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    let chosen = default.map(str::to_owned).or_else(|| all.first().cloned());
    let Some(chosen) = chosen else { bail!("pod {} has no container", name(pod)) };
    if all.len() > 1 && default.is_none() {
        tell!("Defaulted container \"{chosen}\" out of: {}", all.join(", "));
    }
    Ok(vec![chosen])
}

async fn stream(
    session: &Session,
    args: &Args,
    namespace: &str,
    pods: &Resource,
    pod: &str,
    container: &str,
    several: bool,
) -> Result<()> {
    let seconds = args.since.map(|since| since.as_secs().max(1).to_string());
    let time = args.since_time.map(|time| time.to_string());
    let tail =
        args.tail.or(args.selector.is_some().then_some(10)).filter(|lines| *lines >= 0).map(|lines| lines.to_string());
    let mut query = vec![("container", container)];
    query.extend(seconds.as_deref().map(|value| ("sinceSeconds", value)));
    query.extend(time.as_deref().map(|value| ("sinceTime", value)));
    query.extend(tail.as_deref().map(|value| ("tailLines", value)));
    for (flag, name) in [(args.follow, "follow"), (args.previous, "previous"), (args.timestamps, "timestamps")] {
        query.extend(flag.then_some((name, "true")));
    }
    let path = format!("{}/{pod}/log", pods.path(Some(namespace)));
    let request = Request::builder().method(Method::GET).uri(uri(&path, &query)).body(Vec::new())?;
    let mut body = Box::pin(session.client.request_stream(request).await?);
    let mut buffer = vec![0; CHUNK];
    let mut lines = Lines {
        prefix: args.prefix.then(|| format!("[pod/{pod}/{container}] ")),
        whole: several && args.follow,
        rest: Vec::new(),
    };
    loop {
        let read = body.read(&mut buffer).await?;
        session.out.bytes(&lines.pass(&buffer[..read], read == 0))?;
        if read == 0 {
            return Ok(());
        }
    }
}

/// Turns chunks of a log into what is printed.
struct Lines {
    /// What goes before each line.
    prefix: Option<String>,
    /// Whether only whole lines are printed, so that several logs do not mix within one.
    whole: bool,
    rest: Vec<u8>,
}

impl Lines {
    fn pass(&mut self, chunk: &[u8], last: bool) -> Vec<u8> {
        if self.prefix.is_none() && !self.whole {
            return chunk.to_vec();
        }
        self.rest.extend_from_slice(chunk);
        let end = if last {
            self.rest.len()
        } else {
            self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1)
        };
        let rest = self.rest.split_off(end);
        let done = std::mem::replace(&mut self.rest, rest);
        let Some(prefix) = &self.prefix else { return done };
        done.split_inclusive(|byte| *byte == b'\n').flat_map(|line| [prefix.as_bytes(), line].concat()).collect()
    }
}

impl Session {
    /// The pod that a word names: a pod's name, `pod/NAME`, or the first running pod of `TYPE/NAME`.
    pub async fn pod_of(&self, word: &str, namespace: &str) -> Result<Value> {
        let (resource, object) = self.target(&[word.to_owned()], Some("pods")).await?;
        let found = self.get(&resource, namespace, &object).await?;
        if resource.kind == "Pod" {
            return Ok(found);
        }
        let selector = match (&found["spec"]["selector"], resource.kind.as_str()) {
            (Value::Object(labels), "Service") => equalities(labels),
            (selector, _) => match selector["matchLabels"].as_object() {
                Some(labels) => equalities(labels),
                None => bail!("cannot tell the pods of {}/{object}", resource.display()),
            },
        };
        let pods = self.resource("pods").await?;
        let mut all = self.list(&pods, Some(namespace), &[("labelSelector", &selector)]).await?;
        // A running pod before others, as what one wants to look into.
        all.sort_by_key(|pod| pod["status"]["phase"] != "Running");
        match all.into_iter().next() {
            Some(pod) => Ok(pod),
            None => bail!("no pods found for {}/{object}", resource.display()),
        }
    }
}

fn equalities(labels: &serde_json::Map<String, Value>) -> String {
    let pairs: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::Lines;

    fn printed(prefix: Option<&str>, whole: bool, chunks: &[&str]) -> Vec<String> {
        let mut lines = Lines { prefix: prefix.map(Into::into), whole, rest: Vec::new() };
        let last = chunks.len() - 1;
        let passed = chunks.iter().enumerate().map(|(index, chunk)| lines.pass(chunk.as_bytes(), index == last));
        passed.map(|bytes| String::from_utf8(bytes).unwrap()).collect()
    }

    #[test]
    fn one_log_is_passed_on_as_it_comes() {
        assert_eq!(printed(None, false, &["a\nb", "c", ""]), ["a\nb", "c", ""]);
    }

    #[test]
    fn several_logs_mix_by_lines_only() {
        assert_eq!(printed(None, true, &["a\nb", "c\n", "d", ""]), ["a\n", "bc\n", "", "d"]);
        assert_eq!(printed(Some("[p] "), true, &["a\nb", "c\nd\n", ""]), ["[p] a\n", "[p] bc\n[p] d\n", ""]);
    }
}
