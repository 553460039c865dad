//! `gantry rollout`: follow, undo, restart, pause and list roll-outs of Deployments.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::NamespaceFlag;
use super::output::{columns, name};
use super::session::{Resource, Session};
use crate::components::duration;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// `gantry rollout`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Follow a roll-out until it is complete
    Status {
        #[command(flatten)]
        target: Target,
        /// Only say how it stands
        #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
        watch: bool,
        /// How long to follow at most; 0 for ever
        #[arg(long, default_value = "0s", value_parser = duration)]
        timeout: Duration,
    },
    /// Go back to an earlier revision
    Undo {
        #[command(flatten)]
        target: Target,
        /// The revision to go back to; 0 for the one before
        #[arg(long, value_name = "N", default_value_t = 0)]
        to_revision: i64,
    },
    /// Replace every pod, keeping to the roll-out's limits
    Restart {
        #[command(flatten)]
        target: Target,
    },
    /// List the revisions
    History {
        #[command(flatten)]
        target: Target,
    },
    /// Keep changes of the template from being rolled out
    Pause {
        #[command(flatten)]
        target: Target,
    },
    /// Roll out what was changed during a pause
    Resume {
        #[command(flatten)]
        target: Target,
    },
}

/// The Deployment that is meant.
#[derive(clap::Args, Debug)]
pub struct Target {
    /// `deployment NAME` or `deployment/NAME`
    #[arg(value_name = "RESOURCE", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceFlag,
}

struct Found {
    resource: Resource,
    namespace: String,
    name: String,
    object: Value,
}

impl Found {
    fn display(&self) -> String {
        format!("{}/{}", self.resource.display(), self.name)
    }
}

/// Carries a command out.
pub async fn run(session: &Session, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Status { target, watch, timeout } => {
            let found = find(session, target).await?;
            let followed = follow(session, &found, *watch);
            if timeout.is_zero() {
                followed.await?;
            } else {
                match tokio::time::timeout(*timeout, followed).await {
                    Ok(done) => done?,
                    Err(_) => bail!("timed out waiting for the condition"),
                }
            }
        }
        Command::Undo { target, to_revision } => undo(session, &find(session, target).await?, *to_revision).await?,
        Command::Restart { target } => {
            let found = find(session, target).await?;
            if found.object["spec"]["paused"] == true {
                bail!("can't restart paused deployment (run rollout resume first)");
            }
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
            change(session, &found, &patch, "restarted").await?;
        }
        Command::History { target } => history(session, &find(session, target).await?).await?,
        Command::Pause { target } => pause(session, &find(session, target).await?, true).await?,
        Command::Resume { target } => pause(session, &find(session, target).await?, false).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn find(session: &Session, target: &Target) -> Result<Found> {
    let (resource, name) = session.target(&target.words, None).await?;
    if resource.qualified() != "deployments.apps" {
        bail!("no rollout is kept for {}; name a deployment", resource.qualified());
    }
    let namespace = session.namespace(&target.namespace);
    let object = session.get(&resource, &namespace, &name).await?;
    Ok(Found { resource, namespace, name, object })
}

async fn change(session: &Session, found: &Found, patch: &Value, done: &str) -> Result<()> {
    session.patch(&found.resource, &found.namespace, &found.name, STRATEGIC, patch).await?;
    session.out.line(format!("{} {done}", found.display()))
}

async fn pause(session: &Session, found: &Found, paused: bool) -> Result<()> {
    let word = if paused { "paused" } else { "resumed" };
    if found.object["spec"]["paused"].as_bool().unwrap_or(false) == paused {
        bail!(
            "{} \"{}\" is {}",
            found.resource.qualified(),
            found.name,
            if paused { "already paused" } else { "not paused" }
        );
    }
    change(session, found, &json!({"spec": {"paused": paused}}), word).await
}

/// How far a roll-out is.
pub enum Progress {
    /// Complete, with the words that say so.
    Done(String),
    /// Not complete, and what is being waited for.
    Waiting(String),
}

/// Judges a Deployment by kubectl's rules; `revision` is the one that was asked for, if any.
///
/// # Errors
/// When the roll-out exceeded its deadline.
pub fn progress(deployment: &Value, revision: Option<&str>) -> Result<Progress> {
    let name = name(deployment);
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    if let Some(revision) = revision
        && deployment["metadata"]["annotations"][REVISION] != *revision
    {
        bail!("desired revision ({revision}) is different from the running revision");
    }
    if deployment["metadata"]["generation"].as_i64() > status["observedGeneration"].as_i64() {
        return Ok(Progress::Waiting("waiting for deployment spec update to be observed...".into()));
    }
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if conditions
        .iter()
        .any(|condition| condition["type"] == "Progressing" && condition["reason"] == "ProgressDeadlineExceeded")
    {
        bail!("deployment \"{name}\" exceeded its progress deadline");
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let (all, updated, available) = (count("replicas"), count("updatedReplicas"), count("availableReplicas"));
    let prefix = format!("Waiting for deployment \"{name}\" rollout to finish:");
    Ok(if updated < wanted {
        Progress::Waiting(format!("{prefix} {updated} out of {wanted} new replicas have been updated..."))
    } else if all > updated {
        Progress::Waiting(format!("{prefix} {} old replicas are pending termination...", all - updated))
    } else if available < updated {
        Progress::Waiting(format!("{prefix} {available} of {updated} updated replicas are available..."))
    } else {
        Progress::Done(format!("deployment \"{name}\" successfully rolled out"))
    })
}

async fn follow(session: &Session, found: &Found, watch: bool) -> Result<()> {
    if !watch {
        let (Progress::Done(text) | Progress::Waiting(text)) = progress(&found.object, None)?;
        return session.out.line(text);
    }
    let mut last = String::new();
    session
        .wait_for(&found.resource, &found.namespace, &found.name, |object| {
            let progress = progress(object, None)?;
            let (Progress::Done(text) | Progress::Waiting(text)) = &progress;
            if *text != last {
                session.out.line(text)?;
                last.clone_from(text);
            }
            Ok(matches!(progress, Progress::Done(_)))
        })
        .await
}

/// The ReplicaSets of a Deployment by revision, oldest first.
async fn revisions(session: &Session, found: &Found) -> Result<Vec<(i64, Value)>> {
    let sets = session.resource("replicasets.apps").await?;
    let uid = &found.object["metadata"]["uid"];
    let owned = |set: &Value| {
        let owners = set["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        owners.iter().any(|owner| owner["controller"] == true && owner["uid"] == *uid)
    };
    let all = session.list(&sets, Some(&found.namespace), &[]).await?;
    let numbered = all.into_iter().filter(owned).filter_map(|set| {
        let revision = set["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?;
        Some((revision, set))
    });
    let mut numbered: Vec<(i64, Value)> = numbered.collect();
    numbered.sort_by_key(|(revision, _)| *revision);
    Ok(numbered)
}

async fn history(session: &Session, found: &Found) -> Result<()> {
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    for (revision, set) in revisions(session, found).await? {
        let cause = set["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap_or("<none>");
        rows.push(vec![revision.to_string(), cause.to_owned()]);
    }
    session.out.text(&format!("{} \n{}\n", found.display(), columns(&rows)))
}

async fn undo(session: &Session, found: &Found, to: i64) -> Result<()> {
    if found.object["spec"]["paused"] == true {
        bail!(
            "you cannot rollback a paused deployment; resume it first with 'gantry rollout resume {}' and try again",
            found.display()
        );
    }
    let revisions = revisions(session, found).await?;
    let chosen =
        if to > 0 { revisions.iter().find(|(revision, _)| *revision == to) } else { revisions.iter().rev().nth(1) };
    let Some((_, set)) = chosen else {
        if to > 0 {
            bail!("unable to find specified revision {to} in history");
        }
        bail!("no rollout history found for deployment \"{}\"", found.name);
    };
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    if template == found.object["spec"]["template"] {
        return session
            .out
            .line(format!("{} skipped rollback (current template already matches revision {to})", found.display()));
    }
    // The whole template is replaced, so that what a later revision added goes away again.
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    session.patch(&found.resource, &found.namespace, &found.name, "application/json-patch+json", &patch).await?;
    session.out.line(format!("{} rolled back", found.display()))
}

#[cfg(test)]
mod tests {
    use super::{Progress, progress};
    use serde_json::json;

    #[test]
    fn a_rollout_is_judged_as_kubectl_judges_it() {
        let deployment = |status: serde_json::Value| json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        let text = |status| match progress(&deployment(status), None).unwrap() {
            Progress::Done(text) | Progress::Waiting(text) => text,
        };
        assert!(text(json!({"observedGeneration": 1})).contains("spec update to be observed"));
        assert!(text(json!({"observedGeneration": 2, "updatedReplicas": 1})).contains("1 out of 3 new replicas"));
        assert!(
            text(json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 3}))
                .contains("1 old replicas are pending termination")
        );
        assert!(
            text(json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2}))
                .contains("2 of 3 updated")
        );
        assert!(
            text(json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}))
                .contains("successfully rolled out")
        );
        let late = json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]});
        assert!(progress(&deployment(late), None).is_err());
    }
}
