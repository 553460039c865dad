//! `gantry defrag`: which pods could move so that those have room that wait, asked, shown, and made.

use std::process::ExitCode;

use anyhow::{Result, bail};
use gantry_scheduler::review::api::{Defragment, Moved, PodName, Spec, Status};
use http::Method;
use serde_json::json;

use super::placement::{self, Shown};
use super::session::{JSON, Session};
use super::{NamespaceFlag, manifests, output};

const MERGE: &str = "application/merge-patch+json";

/// `gantry defrag`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Pods that wait; by default all
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// How many pods may move; by default as many as the scheduler's configuration says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    moves: Option<i32>,
    /// Make the moves: evict the pods
    #[arg(long, conflicts_with = "filenames")]
    apply: bool,
    #[command(flatten)]
    manifests: manifests::Flags,
    #[command(flatten)]
    namespace: NamespaceFlag,
    #[command(flatten)]
    shown: Shown,
}

/// Shows the fewest moves, and makes them if that is wanted.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let namespace = session.namespace(&args.namespace);
    let made = placement::made_by(&args.manifests, &namespace)?;
    let name = |name: &String| PodName { namespace: namespace.clone(), name: name.clone() };
    let spec =
        Spec { pods: args.pods.iter().map(name).collect(), defragment: Some(Defragment { moves: args.moves }), ..made };
    let answer = placement::ask(session, &spec).await?;
    let status = placement::status_of(&answer)?;
    if !placement::as_object(session, &answer, &args.shown)? {
        show(session, &status, args.shown.no_headers)?;
    }
    if args.apply { apply(session, &status).await } else { Ok(ExitCode::SUCCESS) }
}

fn show(session: &Session, status: &Status, no_headers: bool) -> Result<()> {
    session.out.text(&table(&status.moves, no_headers))?;
    for one in status.placements.iter().filter(|one| one.node.is_none()) {
        let why = one.message.as_deref().unwrap_or_default();
        tell!("pod {}/{} has no room, and no moves were found that make some: {why}", one.namespace, one.name);
    }
    if status.moves.is_empty() && status.unplaced == 0 {
        tell!("No pod waits for room.");
    }
    Ok(())
}

fn table(moves: &[Moved], no_headers: bool) -> String {
    if moves.is_empty() {
        return String::new();
    }
    let mut rows = vec![["NAMESPACE", "NAME", "FROM", "TO", "FOR"].map(str::to_owned).to_vec()];
    rows.extend(moves.iter().map(|one| {
        let whom = format!("{}/{}", one.for_pod.namespace, one.for_pod.name);
        vec![one.namespace.clone(), one.name.clone(), one.from.clone(), one.to.clone(), whom]
    }));
    if no_headers {
        rows.remove(0);
    }
    output::columns(&rows)
}

/// Has each pod wait for its node, and evicts those that leave it. What a budget refuses ends it: what follows was found as if all
/// before it had happened.
async fn apply(session: &Session, status: &Status) -> Result<ExitCode> {
    if let Some(one) = status.placements.iter().find(|one| one.current_node.is_some()) {
        bail!("pod {}/{} has a node already", one.namespace, one.name);
    }
    let mut told: Vec<&PodName> = Vec::new();
    for one in &status.moves {
        let Moved { namespace, name, uid, from, for_pod, .. } = one;
        let waiting = format!("/api/v1/namespaces/{}/pods/{}/status", for_pod.namespace, for_pod.name);
        if !told.contains(&for_pod) {
            told.push(for_pod);
            let patch = serde_json::to_vec(&json!({"status": {"nominatedNodeName": from}}))?;
            session.request(Method::PATCH, &waiting, &[], Some((MERGE, patch))).await?;
        }
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}}});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        match session.request(Method::POST, &path, &[], Some((JSON, serde_json::to_vec(&eviction)?))).await {
            Ok(_) => session.out.line(format!("pod/{name} evicted"))?,
            Err(error) => {
                tell!("error when evicting pods/\"{name}\" -n \"{namespace}\": {error:#}");
                // The room does not come, so none is kept.
                let patch = serde_json::to_vec(&json!({"status": {"nominatedNodeName": null}}))?;
                session.request(Method::PATCH, &waiting, &[], Some((MERGE, patch))).await?;
                bail!("not all pods were moved");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_read_as_a_table() {
        let moved = Moved {
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: "u".into(),
            from: "node-a".into(),
            to: "node-b".into(),
            for_pod: PodName { namespace: "jobs".into(), name: "training".into() },
        };
        let told = table(&[moved], false);
        let wanted = "NAMESPACE   NAME    FROM     TO       FOR\n\
                      shop        web-1   node-a   node-b   jobs/training\n";
        assert_eq!(told, wanted);
        assert_eq!(table(&[], false), "");
    }
}
