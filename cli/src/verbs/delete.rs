//! `gantry delete`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::TryStreamExt;
use http::Method;
use serde_json::{Value, json};

use super::output::name;
use super::session::{JSON, Resource, Session};
use super::{NamespaceFlag, apply, manifests};
use crate::components::duration;

/// `gantry delete`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// `TYPE NAME…`, `TYPE/NAME…` or, with a selector or --all, `TYPE`
    #[arg(value_name = "RESOURCE")]
    words: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceFlag,
    #[command(flatten)]
    manifests: manifests::Flags,
    /// Objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds that a pod gets to end, -1 for its own; 0 only with --force
    #[arg(long, value_name = "SECONDS", default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
    grace_period: i64,
    /// Let pods end within a second
    #[arg(long, conflicts_with_all = ["force", "grace_period"])]
    now: bool,
    /// Remove from the API at once, without waiting for the pod to end
    #[arg(long)]
    force: bool,
    /// What happens to the objects that a deleted one owns
    #[arg(long, default_value = "background", value_parser = ["background", "foreground", "orphan"])]
    cascade: String,
    /// Return only when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    wait: bool,
    /// How long to wait at most
    #[arg(long, default_value = "5m", value_parser = duration)]
    timeout: Duration,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
}

struct Target {
    resource: Resource,
    namespace: Option<String>,
    name: String,
}

/// Deletes, then waits for the end of what was deleted.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    if args.grace_period == 0 && !args.force {
        bail!("--grace-period=0 removes pods without waiting for them to end, and so needs --force");
    }
    if args.force && args.grace_period > 0 {
        bail!("--force and --grace-period greater than 0 cannot be specified together");
    }
    let targets = targets(session, args).await?;
    if targets.is_empty() && !(args.ignore_not_found) {
        session.out.line("No resources found")?;
    }
    if args.force {
        tell!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
        );
    }
    let mut code = ExitCode::SUCCESS;
    let mut deleted = Vec::new();
    for target in targets {
        match delete(session, args, &target).await {
            Ok(uid) => {
                let how = if args.force { "force deleted" } else { "deleted" };
                let place = target
                    .namespace
                    .as_ref()
                    .map(|namespace| format!(" from {namespace} namespace"))
                    .unwrap_or_default();
                session.out.line(format!("{} \"{}\" {how}{place}", target.resource.display(), target.name))?;
                deleted.push((target, uid));
            }
            Err(error)
                if apply::is_not_found(&error) && (args.ignore_not_found || args.all || args.selector.is_some()) => {}
            Err(error) => match super::server_error(&error) {
                Some(text) => {
                    tell!("{text}");
                    code = ExitCode::FAILURE;
                }
                None => return Err(error),
            },
        }
    }
    if args.wait {
        let deadline = Instant::now() + args.timeout;
        for (target, uid) in deleted {
            let gone = wait_until_gone(session, &target, &uid);
            if tokio::time::timeout(deadline.saturating_duration_since(Instant::now()), gone)
                .await
                .map(|done| done.is_err())
                .unwrap_or(true)
            {
                bail!("timed out waiting for the condition on {}/{}", target.resource.plural, target.name);
            }
        }
    }
    Ok(code)
}

async fn targets(session: &Session, args: &Args) -> Result<Vec<Target>> {
    let scope = |resource: &Resource| resource.namespaced.then(|| session.namespace(&args.namespace));
    let mut targets = Vec::new();
    for object in args.manifests.objects()? {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let resource = session.resource_of(text("apiVersion"), text("kind")).await?;
        let own = object["metadata"]["namespace"].as_str().map(str::to_owned);
        targets.push(Target {
            namespace: scope(&resource).map(|default| own.unwrap_or(default)),
            name: name(&object).to_owned(),
            resource,
        });
    }
    let Some((first, names)) = args.words.split_first() else {
        if args.manifests.filenames.is_empty() {
            bail!("You must provide one or more resources by argument or filename.");
        }
        return Ok(targets);
    };
    if first.contains('/') {
        for word in &args.words {
            let (resource, name) = session.target(std::slice::from_ref(word), None).await?;
            targets.push(Target { namespace: scope(&resource), resource, name });
        }
        return Ok(targets);
    }
    for word in first.split(',') {
        let members = session.category(word).await?;
        let resources = if members.is_empty() { vec![session.resource(word).await?] } else { members };
        for resource in resources {
            let namespace = scope(&resource);
            let target = |name: String| Target { namespace: namespace.clone(), resource: resource.clone(), name };
            if args.all || args.selector.is_some() {
                let query: Vec<_> =
                    args.selector.as_deref().map(|selector| ("labelSelector", selector)).into_iter().collect();
                let found = session.list(&resource, namespace.as_deref(), &query).await?;
                targets.extend(found.iter().map(|object| target(name(object).to_owned())));
            } else if names.is_empty() {
                bail!("resource(s) were provided, but no name was specified");
            } else {
                targets.extend(names.iter().cloned().map(target));
            }
        }
    }
    Ok(targets)
}

/// Deletes one object and returns its UID.
async fn delete(session: &Session, args: &Args, target: &Target) -> Result<String> {
    let policy = match args.cascade.as_str() {
        "foreground" => "Foreground",
        "orphan" => "Orphan",
        _ => "Background",
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = match (args.force, args.now, args.grace_period) {
        (true, ..) => Some(0),
        (_, true, _) => Some(1),
        (_, _, seconds) => Some(seconds).filter(|seconds| *seconds >= 0),
    };
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let path = format!("{}/{}", target.resource.path(target.namespace.as_deref()), target.name);
    let answer: Value =
        session.request(Method::DELETE, &path, &[], Some((JSON, serde_json::to_vec(&options)?))).await?;
    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
    Ok(uid.unwrap_or_default().to_owned())
}

async fn wait_until_gone(session: &Session, target: &Target, uid: &str) -> Result<()> {
    let path = format!("{}/{}", target.resource.path(target.namespace.as_deref()), target.name);
    let selector = format!("metadata.name={}", target.name);
    loop {
        let object = match session.request(Method::GET, &path, &[], None).await {
            Err(error) if apply::is_not_found(&error) => return Ok(()),
            found => found?,
        };
        if !uid.is_empty() && object["metadata"]["uid"] != uid {
            return Ok(());
        }
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let query = [("fieldSelector", selector.as_str()), ("resourceVersion", version)];
        let mut events = Box::pin(session.watch(&target.resource, target.namespace.as_deref(), &query, JSON).await?);
        while let Some(event) = events.try_next().await? {
            if matches!(event["type"].as_str(), Some("DELETED" | "ERROR")) {
                break;
            }
        }
    }
}
