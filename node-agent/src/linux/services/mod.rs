//! Service addresses on this node, by nft.
//!
//! In: Services and EndpointSlices of the cluster, and the node's pod CIDRs. Out: one nft
//! table of this node's own, replaced as a whole whenever [`plan`] says something new.

pub mod plan;

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::follow::follow;

use self::plan::{Key, ServiceFacts, Settings, SliceFacts};

/// Changes that come this close together are applied at once. A rollout of many pods would
/// otherwise load the rules for each of them, at 10 to 20 ms a time.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Pause after nft refused.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// What the service proxy is told at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the nft table.
    pub table: String,
    /// The node's pod CIDRs, once they are known, and whenever they change.
    pub pod_cidrs: watch::Receiver<Vec<String>>,
    /// Where pods of all nodes have their addresses; if empty, the node's own are meant.
    pub cluster_cidrs: Vec<String>,
}

/// Why the rules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// nft is not there or cannot be run.
    #[error("cannot run nft (Debian: apt-get install nftables)")]
    Run(#[source] io::Error),
    /// nft refused.
    #[error("nft: {0}")]
    Refused(String),
}

/// Keeps the table as the API has the services, until `shutdown`. The table stays, because
/// so do the pods.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) {
    let Options { table, mut pod_cidrs, cluster_cidrs } = options;
    let mut services = Cache::<ServiceFacts>::default();
    let mut slices = Cache::<SliceFacts>::default();
    let config = watcher::Config::default();
    let mut service_events = pin!(follow(Api::<Service>::all(client.clone()), config.clone()));
    let mut slice_events = pin!(follow(Api::<EndpointSlice>::all(client), config));
    let mut applied = String::new();
    let mut due: Option<tokio::time::Instant> = None;
    let mut cidrs_open = true;
    loop {
        let wake = due.unwrap_or_else(tokio::time::Instant::now);
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = service_events.next() => services.take(event, ServiceFacts::of),
            Some(event) = slice_events.next() => slices.take(event, SliceFacts::of),
            changed = pod_cidrs.changed(), if cidrs_open => cidrs_open = changed.is_ok(),
            () = tokio::time::sleep_until(wake), if due.is_some() => {
                due = None;
                let settings = Settings {
                    table: table.clone(),
                    pod_cidrs: pod_cidrs.borrow().clone(),
                    cluster_cidrs: cluster_cidrs.clone(),
                };
                let text = plan::ruleset(&settings, &services.facts, &slices.facts);
                if text == applied {
                    continue;
                }
                match nft(&text).await {
                    Ok(()) => {
                        tracing::debug!(services = services.facts.len(), "service addresses are up to date");
                        applied = text;
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot load the service addresses");
                        due = Some(tokio::time::Instant::now() + RETRY_DELAY);
                    }
                }
                continue;
            }
        }
        // Before both are complete, the rules would cut off services that work.
        if services.complete && slices.complete {
            due.get_or_insert_with(|| tokio::time::Instant::now() + DEBOUNCE);
        }
    }
}

/// Removes the table; one that does not exist is fine.
pub async fn remove_table(table: &str) -> Result<(), NftError> {
    nft(&format!("add table ip {table}\ndelete table ip {table}\n")).await
}

/// What is known of one kind.
struct Cache<T> {
    facts: BTreeMap<Key, T>,
    /// Objects of a list that is not complete yet.
    pending: BTreeMap<Key, T>,
    /// Whether a whole list was seen.
    complete: bool,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { facts: BTreeMap::new(), pending: BTreeMap::new(), complete: false }
    }
}

impl<T> Cache<T> {
    fn take<K: ResourceExt>(&mut self, event: Result<Event<K>, watcher::Error>, facts: fn(&K) -> Option<T>) {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Ok(Event::Init) => self.pending.clear(),
            Ok(Event::InitApply(object)) => {
                if let Some(facts) = facts(&object) {
                    self.pending.insert(key(&object), facts);
                }
            }
            Ok(Event::InitDone) => {
                self.facts = std::mem::take(&mut self.pending);
                self.complete = true;
            }
            Ok(Event::Apply(object)) => {
                match facts(&object) {
                    Some(facts) => self.facts.insert(key(&object), facts),
                    None => self.facts.remove(&key(&object)),
                };
            }
            Ok(Event::Delete(object)) => drop(self.facts.remove(&key(&object))),
            Err(error) => tracing::debug!(%error, "the watch of services is interrupted"),
        }
    }
}

async fn nft(ruleset: &str) -> Result<(), NftError> {
    let mut child = tokio::process::Command::new(program())
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft reads all of its input before it writes, so neither waits for the other.
        stdin.write_all(ruleset.as_bytes()).await.map_err(NftError::Run)?;
    }
    let output = child.wait_with_output().await.map_err(NftError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NftError::Refused(said.lines().take(5).collect::<Vec<_>>().join(" | ")))
}

/// Administrators' programs are often not in PATH.
fn program() -> &'static str {
    if std::path::Path::new("/usr/sbin/nft").is_file() { "/usr/sbin/nft" } else { "nft" }
}
