//! `gantry apply`: server-side apply of manifests, and the wait until what they describe is there.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::output::name;
use super::rollout;
use super::session::{Resource, Session};
use super::{NamespaceFlag, manifests};
use crate::components::duration;

/// Who the fields belong to that `gantry apply` sets.
const FIELD_MANAGER: &str = "gantry";

/// `gantry apply`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    manifests: manifests::Flags,
    #[command(flatten)]
    namespace: NamespaceFlag,
    /// Take over fields that another manager owns
    #[arg(long)]
    force_conflicts: bool,
    /// Only try: `server` sends the objects without storing them
    #[arg(long, value_name = "MODE", value_parser = ["none", "server"], default_value = "none")]
    dry_run: String,
    /// Wait until roll-outs are complete and pods are ready
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, default_value = "5m", value_parser = duration)]
    timeout: Duration,
}

/// An applied object.
struct Applied {
    resource: Resource,
    object: Value,
}

/// Applies the manifests; what the server refuses is told and the rest is still applied, as kubectl does.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    if args.manifests.filenames.is_empty() {
        bail!("must specify one of -f");
    }
    let objects = args.manifests.objects()?;
    if objects.is_empty() {
        bail!("no objects passed to apply");
    }
    let mut applied = Vec::new();
    let mut failed = false;
    for object in objects {
        match apply(session, args, &object).await {
            Ok(one) => applied.push(one),
            Err(error) => {
                failed = true;
                match super::server_error(&error) {
                    Some(text) if has_conflicts(&error) => tell!("{text}\n{error}"),
                    Some(text) => tell!("{text}"),
                    None => tell!("error: {error:#}"),
                }
            }
        }
    }
    if failed {
        return Ok(ExitCode::FAILURE);
    }
    if args.wait && args.dry_run == "none" {
        wait(session, &applied, args.timeout).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn apply(session: &Session, args: &Args, object: &Value) -> Result<Applied> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let resource = session.resource_of(text("apiVersion"), text("kind")).await?;
    if name(object).is_empty() {
        bail!("{}: resource name may not be empty", resource.display());
    }
    let own = object["metadata"]["namespace"].as_str();
    if let (Some(own), Some(flag)) = (own, &args.namespace.namespace)
        && resource.namespaced
        && own != flag
    {
        bail!(
            "the namespace from the provided object \"{own}\" does not match the namespace \"{flag}\". You must pass '--namespace={own}' to perform this operation."
        );
    }
    let namespace = own.map_or_else(|| session.namespace(&args.namespace), str::to_owned);
    let path = format!("{}/{}", resource.path(Some(&namespace)), name(object));
    let before = match session.request(Method::GET, &path, &[], None).await {
        Ok(found) => Some(found),
        Err(error) if is_not_found(&error) => None,
        Err(error) => return Err(error),
    };
    let after = send(session, args, &path, object).await?;
    let word = match before {
        None => "created",
        Some(before) if is_same(&before, &after) => "unchanged",
        Some(_) => "configured",
    };
    let dry = if args.dry_run == "server" { " (server dry run)" } else { "" };
    session.out.line(format!("{}/{} {word}{dry}", resource.display(), name(object)))?;
    Ok(Applied { resource, object: after })
}

/// Applies an object. A conflict with fields that other verbs of this command wrote (`scale`, `rollout undo`) is none: the
/// manifest is what the user wants now.
async fn send(session: &Session, args: &Args, path: &str, object: &Value) -> Result<Value> {
    let body = serde_json::to_vec(object)?;
    let mut force = args.force_conflicts;
    loop {
        let mut query = vec![("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")];
        query.extend(force.then_some(("force", "true")));
        query.extend((args.dry_run == "server").then_some(("dryRun", "All")));
        let body = Some(("application/apply-patch+yaml", body.clone()));
        match session.request(Method::PATCH, path, &query, body).await {
            Err(error) if !force && conflicts_only_with_itself(&error) => force = true,
            Err(error) if has_conflicts(&error) => {
                let hint = "Another manager owns these fields. Leave them out of the manifest, set them to the values that they have, \
                            or take them over with --force-conflicts.";
                return Err(error.context(hint));
            }
            answer => return answer,
        }
    }
}

/// The texts of the conflicts in an answer to an apply.
fn conflicts(error: &anyhow::Error) -> Vec<String> {
    let status = error.chain().find_map(|cause| match cause.downcast_ref::<kube::Error>()? {
        kube::Error::Api(status) if status.reason == "Conflict" => Some(status),
        _ => None,
    });
    let causes =
        status.and_then(|status| status.details.as_ref()).map(|details| details.causes.as_slice()).unwrap_or_default();
    causes.iter().filter(|cause| cause.reason == "FieldManagerConflict").map(|cause| cause.message.clone()).collect()
}

fn has_conflicts(error: &anyhow::Error) -> bool {
    !conflicts(error).is_empty()
}

fn conflicts_only_with_itself(error: &anyhow::Error) -> bool {
    let own = format!("conflict with \"{FIELD_MANAGER}\"");
    has_conflicts(error) && conflicts(error).iter().all(|text| text.starts_with(&own))
}

/// Whether applying changed nothing. A dry run leaves the version as it was, so the contents are compared.
fn is_same(before: &Value, after: &Value) -> bool {
    if before["metadata"]["resourceVersion"] != after["metadata"]["resourceVersion"] {
        return false;
    }
    let contents = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = object["metadata"].as_object_mut() {
            for field in ["managedFields", "generation"] {
                meta.remove(field);
            }
        }
        object
    };
    contents(before) == contents(after)
}

/// Whether the server said that something is not there.
pub fn is_not_found(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.reason == "NotFound")
    })
}

/// Waits until every applied object is as it should be, showing how far each is.
async fn wait(session: &Session, applied: &[Applied], timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let waiting =
        applied.iter().filter(|one| matches!(one.resource.kind.as_str(), "Deployment" | "ReplicaSet" | "Pod"));
    for one in waiting {
        let namespace = one.object["metadata"]["namespace"].as_str().unwrap_or_default();
        let label = format!("{}/{}", one.resource.display(), name(&one.object));
        let progress = Progress::start(&label);
        let watched = session.wait_for(&one.resource, namespace, name(&one.object), |object| {
            let state = readiness(&one.resource.kind, object)?;
            if let State::Waiting(text) = &state {
                progress.say(text);
            }
            Ok(matches!(state, State::Ready))
        });
        match tokio::time::timeout(deadline.saturating_duration_since(Instant::now()), watched).await {
            Ok(done) => done?,
            Err(_) => {
                bail!("timed out waiting for {label} to be ready; `gantry describe {label} -n {namespace}` shows why")
            }
        }
        progress.done();
    }
    Ok(())
}

enum State {
    Ready,
    Waiting(String),
}

fn readiness(kind: &str, object: &Value) -> Result<State> {
    Ok(match kind {
        "Deployment" => match rollout::progress(object, None)? {
            rollout::Progress::Done(_) => State::Ready,
            rollout::Progress::Waiting(text) => State::Waiting(text),
        },
        "ReplicaSet" => {
            let (wanted, ready) = (
                object["spec"]["replicas"].as_i64().unwrap_or(1),
                object["status"]["readyReplicas"].as_i64().unwrap_or(0),
            );
            if ready >= wanted {
                State::Ready
            } else {
                State::Waiting(format!("{ready} of {wanted} replicas are ready"))
            }
        }
        _ => match object["status"]["phase"].as_str() {
            Some("Succeeded") => State::Ready,
            Some("Failed") => {
                bail!("the pod failed: {}", object["status"]["message"].as_str().unwrap_or("see its containers' logs"))
            }
            phase => {
                let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
                if conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
                    State::Ready
                } else {
                    State::Waiting(format!("the pod is {}", phase.unwrap_or("Pending")))
                }
            }
        },
    })
}

/// A line that changes in a terminal; plain lines elsewhere.
struct Progress {
    label: String,
    bar: Option<ProgressBar>,
    last: std::cell::RefCell<String>,
}

impl Progress {
    fn start(label: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.set_prefix(label.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { label: label.to_owned(), bar, last: Default::default() }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if *self.last.borrow() != text => tell!("{}: {text}", self.label),
            None => {}
        }
        text.clone_into(&mut self.last.borrow_mut());
    }

    fn done(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        tell!("{}: ready", self.label);
    }
}
