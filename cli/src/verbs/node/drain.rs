//! `gantry node drain`: lets no more pods come to a node and evicts those that it has, as far as disruption budgets allow.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::plan::{self, Allowed, DaemonSets, Plan};
use super::{Which, cordon};
use crate::components::duration;
use crate::verbs::session::Session;

/// How soon an eviction is asked for again that a disruption budget does not allow.
const BUDGET_RETRY: Duration = Duration::from_secs(5);
/// Between looks whether a pod is gone.
const POLL: Duration = Duration::from_secs(1);
/// Pods of a page of the list.
const PAGE: u32 = 500;

/// `gantry node drain`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Let pods go as well that no controller makes anew
    #[arg(long)]
    force: bool,
    /// Leave the pods of DaemonSets where they are
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Let pods go as well that have an emptyDir, whose contents are lost
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Seconds that each pod gets to end, -1 for its own
    #[arg(long, value_name = "SECONDS", default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
    grace_period: i64,
    /// How long it may take; 0 is for ever
    #[arg(long, default_value = "0s", value_parser = duration, hide_default_value = true)]
    timeout: Duration,
    /// Only pods with these labels
    #[arg(long, value_name = "SELECTOR")]
    pod_selector: Option<String>,
    /// Delete pods instead of evicting them, whatever disruption budgets say
    #[arg(long)]
    disable_eviction: bool,
    /// Do not wait for pods that were deleted more than so many seconds ago
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    skip_wait_for_delete_timeout: u32,
}

/// Drains one node after the other.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let nodes = args.which.nodes(session).await?;
    cordon(session, &args.which, &nodes, true).await?;
    let (mut failures, mut pending) = (Vec::new(), Vec::new());
    for node in &nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let drain = Drain { session, args, node: &name, deadline: deadline(args.timeout) };
        match drain.run().await {
            Ok(()) => session.out.line(format!("node/{name} drained{}", args.which.suffix()))?,
            Err(errors) => {
                let why = aggregate(&errors);
                tell!("error: unable to drain node \"{name}\" due to error: {why}, continuing command...");
                failures.push(errors);
                pending.push(name);
            }
        }
    }
    if pending.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    tell!("There are pending nodes to be drained:");
    for name in pending {
        tell!(" {name}");
    }
    // Each error of the node, or where there are several, each node's.
    match failures.as_slice() {
        [errors] => errors.iter().for_each(|error| tell!("{error}")),
        several => several.iter().for_each(|errors| tell!("{}", aggregate(errors))),
    }
    Ok(ExitCode::FAILURE)
}

fn deadline(timeout: Duration) -> Option<Instant> {
    (!timeout.is_zero()).then(|| Instant::now() + timeout)
}

/// Several errors as one: in brackets, each once.
fn aggregate(errors: &[String]) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for error in errors {
        if !unique.contains(&error.as_str()) {
            unique.push(error);
        }
    }
    match unique.as_slice() {
        [one] => (*one).to_owned(),
        several => format!("[{}]", several.join(", ")),
    }
}

struct Drain<'a> {
    session: &'a Session,
    args: &'a Args,
    node: &'a str,
    deadline: Option<Instant>,
}

impl Drain<'_> {
    async fn run(&self) -> Result<(), Vec<String>> {
        let plan = self.plan().await?;
        if !plan.errors.is_empty() {
            return Err(plan.errors);
        }
        if !plan.warnings.is_empty() {
            tell!("Warning: {}", plan.warnings.join("; "));
        }
        if self.args.which.dry_run == "client" {
            for (namespace, name) in &plan.go {
                self.say(format!("evicting pod {namespace}/{name} (dry run)"))?;
            }
            return Ok(());
        }
        let mut going: FuturesUnordered<_> =
            plan.go.iter().map(|(namespace, name)| self.remove(namespace, name)).collect();
        let mut errors = Vec::new();
        while let Some(done) = going.next().await {
            errors.extend(done.err());
        }
        if errors.is_empty() {
            return Ok(());
        }
        let pending = self.plan().await?;
        if !pending.go.is_empty() {
            let why = aggregate(&errors);
            tell!("There are pending pods in node \"{}\" when an error occurred: {why}", self.node);
            for (_, name) in &pending.go {
                tell!("pod/{name}");
            }
        }
        Err(errors)
    }

    async fn plan(&self) -> Result<Plan, Vec<String>> {
        let pods = self.pods().await.map_err(|error| vec![error.to_string()])?;
        let mut daemon_sets = DaemonSets::new();
        for pod in &pods {
            let Some(owner) = plan::daemon_set(pod) else { continue };
            let key = (plan::name(pod).0, owner.name.clone());
            if daemon_sets.contains_key(&key) {
                continue;
            }
            let api: Api<DaemonSet> = Api::namespaced(self.session.client.clone(), &key.0);
            let found = api.get_opt(&key.1).await.map(|found| found.is_some()).map_err(|error| message(&error));
            daemon_sets.insert(key, found);
        }
        let allowed = Allowed {
            ignore_daemon_sets: self.args.ignore_daemonsets,
            delete_local: self.args.delete_emptydir_data,
            force: self.args.force,
            skip_deleted_s: i64::from(self.args.skip_wait_for_delete_timeout),
        };
        Ok(plan::plan(&pods, &daemon_sets, &allowed, Timestamp::now()))
    }

    async fn pods(&self) -> Result<Vec<Pod>, kube::Error> {
        let api: Api<Pod> = Api::all(self.session.client.clone());
        let mut params = ListParams::default().fields(&format!("spec.nodeName={}", self.node)).limit(PAGE);
        if let Some(selector) = &self.args.pod_selector {
            params = params.labels(selector);
        }
        let mut pods = Vec::new();
        loop {
            let page = api.list(&params).await?;
            pods.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(pods),
            }
        }
    }

    fn say(&self, line: String) -> Result<(), Vec<String>> {
        self.session.out.line(line).map_err(|error| vec![error.to_string()])
    }

    fn delete_params(&self) -> DeleteParams {
        let grace_period_seconds = u32::try_from(self.args.grace_period).ok();
        let dry_run = self.args.which.is_dry();
        DeleteParams { grace_period_seconds, dry_run, ..DeleteParams::default() }
    }

    /// Sees one pod out.
    async fn remove(&self, namespace: &str, name: &str) -> Result<(), String> {
        let api: Api<Pod> = Api::namespaced(self.session.client.clone(), namespace);
        let done = match self.args.disable_eviction {
            true => self.delete(&api, name).await?,
            false => self.evict(&api, namespace, name).await?,
        };
        let Some(uid) = done.filter(|_| !self.args.which.is_dry()) else { return Ok(()) };
        let (did, failed) = match self.args.disable_eviction {
            true => ("deleted", "deletion failed"),
            false => ("evicted", "eviction failed"),
        };
        let gone = self.wait_until_gone(&api, name, &uid).await;
        let verb = if gone.is_ok() { did } else { failed };
        self.session.out.line(format!("pod/{name} {verb}")).map_err(|error| error.to_string())?;
        gone.map_err(|why| {
            format!("error when waiting for pod \"{name}\" in namespace \"{namespace}\" to terminate: {why}")
        })
    }

    /// Deletes; returns the UID of what is to go, if it is still there.
    async fn delete(&self, api: &Api<Pod>, name: &str) -> Result<Option<String>, String> {
        let found = api.get_opt(name).await.map_err(|error| message(&error))?;
        let Some(uid) = found.and_then(|pod| pod.metadata.uid) else { return Ok(None) };
        match api.delete(name, &self.delete_params()).await {
            Ok(_) => Ok(Some(uid)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(message(&error)),
        }
    }

    async fn evict(&self, api: &Api<Pod>, namespace: &str, name: &str) -> Result<Option<String>, String> {
        // The client's own method does not send the options that it is given.
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace}, "deleteOptions": self.delete_params()});
        let params = PostParams { dry_run: self.args.which.is_dry(), ..PostParams::default() };
        loop {
            let found = api.get_opt(name).await.map_err(|error| message(&error))?;
            let Some(pod) = found else { return Ok(None) };
            let suffix = self.args.which.suffix();
            let line = format!("evicting pod {namespace}/{name}{suffix}");
            self.session.out.line(line).map_err(|error| error.to_string())?;
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(format!(
                    "error when evicting pods/\"{name}\" -n \"{namespace}\": global timeout reached: {}",
                    shown(self.args.timeout)
                ));
            }
            let asked = api.create_subresource::<_, Value>("eviction", name, &params, &eviction).await;
            let error = match asked {
                Ok(_) => return Ok(pod.metadata.uid),
                Err(error) => error,
            };
            let terminating = is_terminating(&error);
            match &error {
                kube::Error::Api(status) if status.code == 404 => return Ok(None),
                kube::Error::Api(status) if status.code == 429 => tell!(
                    "error when evicting pods/\"{name}\" -n \"{namespace}\" (will retry after {}): {}",
                    shown(BUDGET_RETRY),
                    status.message
                ),
                // Its namespace is going, and it with it.
                _ if terminating && pod.metadata.deletion_timestamp.is_some() => return Ok(pod.metadata.uid),
                _ if terminating => tell!(
                    "error when evicting pod \"{name}\" from terminating namespace \"{namespace}\" (will retry after {}): {}",
                    shown(BUDGET_RETRY),
                    message(&error)
                ),
                error => {
                    return Err(format!("error when evicting pods/\"{name}\" -n \"{namespace}\": {}", message(error)));
                }
            }
            tokio::time::sleep(BUDGET_RETRY).await;
        }
    }

    async fn wait_until_gone(&self, api: &Api<Pod>, name: &str, uid: &str) -> Result<(), String> {
        let skip_s = i64::from(self.args.skip_wait_for_delete_timeout);
        loop {
            let found = api.get_opt(name).await.map_err(|error| message(&error))?;
            let Some(pod) = found.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)) else { return Ok(()) };
            if let Some(since) = &pod.metadata.deletion_timestamp
                && skip_s > 0
                && Timestamp::now().duration_since(since.0).as_secs() > skip_s
            {
                return Ok(());
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(format!("global timeout reached: {}", shown(self.args.timeout)));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The server's words, without what the client adds.
fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether something is refused because its namespace is going away.
fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    status.code == 403 && causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// As Go writes a duration.
fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}
