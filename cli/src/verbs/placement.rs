//! `gantry plan`, `gantry why` and `gantry what-if`: placement reviews, asked and shown.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use gantry_scheduler::review::api::{
    self, MoreNodes, NodeAnswer, Placement, PodGroup, PodName, Spec, Status, Workload,
};
use http::Method;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::output::{self, Format};
use super::session::Session;
use super::{NamespaceFlag, manifests};

/// What a Deployment's pods are told apart by, once it makes them.
const HASH_LABEL: &str = "pod-template-hash";
const NONE: &str = "<none>";

/// How an answer is shown.
#[derive(clap::Args, Debug)]
pub(super) struct Shown {
    /// wide (with all nodes), yaml or json
    #[arg(long, short = 'o', default_value = "", hide_default_value = true, value_name = "FORMAT")]
    output: Format,
    /// No line of column names
    #[arg(long)]
    pub(super) no_headers: bool,
}

/// `gantry plan`
#[derive(clap::Args, Debug)]
pub struct Plan {
    #[command(flatten)]
    manifests: manifests::Flags,
    #[command(flatten)]
    namespace: NamespaceFlag,
    #[command(flatten)]
    shown: Shown,
}

/// `gantry why`
#[derive(clap::Args, Debug)]
pub struct Why {
    /// The pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Only this node
    #[arg(value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    namespace: NamespaceFlag,
    #[command(flatten)]
    shown: Shown,
}

/// `gantry what-if`
#[derive(clap::Subcommand, Debug)]
pub enum WhatIf {
    /// … nodes were drained
    Drain {
        /// The nodes
        #[arg(value_name = "NODE", required = true)]
        nodes: Vec<String>,
        #[command(flatten)]
        more: More,
    },
    /// … all nodes of zones were gone
    LoseZone {
        /// The zones: values of topology.kubernetes.io/zone
        #[arg(value_name = "ZONE", required = true)]
        zones: Vec<String>,
        #[command(flatten)]
        more: More,
    },
    /// … there were more nodes
    Add {
        /// How many
        #[arg(value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        count: i32,
        /// The node that they would be like
        #[arg(long, value_name = "NODE")]
        like: String,
        #[command(flatten)]
        more: More,
    },
}

/// What else is asked.
#[derive(clap::Args, Debug)]
pub struct More {
    #[command(flatten)]
    manifests: manifests::Flags,
    #[command(flatten)]
    namespace: NamespaceFlag,
    #[command(flatten)]
    shown: Shown,
}

/// Shows where the pods of manifests would go.
pub async fn plan(session: &Session, args: &Plan) -> Result<ExitCode> {
    if args.manifests.filenames.is_empty() {
        bail!("must specify one of -f");
    }
    let made = made_by(&args.manifests, &session.namespace(&args.namespace))?;
    if made.workloads.is_empty() {
        bail!("no objects passed to plan make pods");
    }
    let spec = Spec { nodes: detail(&args.shown), ..made };
    show(session, &spec, &args.shown).await
}

/// Shows what happens to pods if something happens to nodes.
pub async fn what_if(session: &Session, command: &WhatIf) -> Result<ExitCode> {
    let (change, more) = match command {
        WhatIf::Drain { nodes, more } => (api::WhatIf { drain: nodes.clone(), ..Default::default() }, more),
        WhatIf::LoseZone { zones, more } => (api::WhatIf { lose_zones: zones.clone(), ..Default::default() }, more),
        WhatIf::Add { count, like, more } => {
            let add = vec![MoreNodes { like: like.clone(), count: Some(*count) }];
            (api::WhatIf { add, ..Default::default() }, more)
        }
    };
    let made = made_by(&more.manifests, &session.namespace(&more.namespace))?;
    let spec = Spec { what_if: Some(change), nodes: detail(&more.shown), ..made };
    show(session, &spec, &more.shown).await
}

/// Shows why a pod is where it is, or why it waits.
pub async fn why(session: &Session, args: &Why) -> Result<ExitCode> {
    let pod = PodName { namespace: session.namespace(&args.namespace), name: args.pod.clone() };
    let spec = Spec { pods: vec![pod], nodes: "All".to_owned(), ..Spec::default() };
    let mut answer = ask(session, &spec).await?;
    if let Some(node) = &args.node {
        let nodes = answer["status"]["placements"][0]["nodes"].as_array_mut();
        let all = nodes.context("the server told nothing about nodes")?;
        // A pod that no node was asked about says itself why.
        if !all.is_empty() && !all.iter().any(|one| one["name"] == **node) {
            bail!("nodes \"{node}\" not found");
        }
        all.retain(|one| one["name"] == **node);
    }
    if as_object(session, &answer, &args.shown)? {
        return Ok(ExitCode::SUCCESS);
    }
    let status = status_of(&answer)?;
    for placement in &status.placements {
        session.out.line(sentence(placement))?;
        session.out.text(&nodes_table(&placement.nodes, args.shown.no_headers))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn detail(shown: &Shown) -> String {
    if shown.output == Format::Wide { "First".to_owned() } else { String::new() }
}

pub(super) async fn ask(session: &Session, spec: &Spec) -> Result<Value> {
    let review = json!({"apiVersion": api::API_VERSION, "kind": api::KIND, "metadata": {}, "spec": spec});
    let path = format!("/apis/{}/{}", api::API_VERSION, api::PLURAL);
    let body = Some((super::session::JSON, serde_json::to_vec(&review)?));
    session.request(Method::POST, &path, &[], body).await
}

pub(super) fn status_of(answer: &Value) -> Result<Status> {
    serde_json::from_value(answer["status"].clone()).context("the server's answer cannot be read")
}

async fn show(session: &Session, spec: &Spec, shown: &Shown) -> Result<ExitCode> {
    let answer = ask(session, spec).await?;
    if as_object(session, &answer, shown)? {
        return Ok(ExitCode::SUCCESS);
    }
    let status = status_of(&answer)?;
    if status.placements.is_empty() && status.lost.is_empty() {
        tell!("No pod would move.");
        return Ok(ExitCode::SUCCESS);
    }
    session.out.text(&placements_table(&status, shown.no_headers))?;
    for lost in &status.lost {
        tell!("{}/{} on {} would be lost: no controller makes it anew", lost.namespace, lost.name, lost.node);
    }
    for placement in status.placements.iter().filter(|placement| !placement.nodes.is_empty()) {
        session.out.line(format!("\n{}", sentence(placement)))?;
        session.out.text(&nodes_table(&placement.nodes, shown.no_headers))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the answer as it is, if that is wanted.
pub(super) fn as_object(session: &Session, answer: &Value, shown: &Shown) -> Result<bool> {
    if matches!(shown.output, Format::Table | Format::Wide) {
        return Ok(false);
    }
    let display = |_: &Value| "placementreview.scheduling.gantry.io".to_owned();
    session.out.text(&output::objects(&shown.output, vec![answer.clone()], true, display)?)?;
    Ok(true)
}

/// Points with one decimal.
fn points(score: Option<i64>) -> String {
    score.map_or_else(|| NONE.to_owned(), |score| format!("{}.{}", score / 1_000, score % 1_000 / 100))
}

fn sentence(placement: &Placement) -> String {
    let Placement { namespace, name, current_node, node, score, victims, message, .. } = placement;
    let pod = format!("pod {namespace}/{name}");
    let makes_room = |victims: &[api::Leaving]| match victims {
        [] => String::new(),
        some => format!(", where {} would have to go", leaving(some)),
    };
    match (current_node, node, message) {
        (Some(current), Some(node), _) if current == node => {
            format!("{pod} is on {current}, and would go there again (score {})", points(*score))
        }
        (Some(current), Some(node), _) => {
            format!(
                "{pod} is on {current}; now it would go to {node} (score {}){}",
                points(*score),
                makes_room(victims)
            )
        }
        (Some(current), None, message) => {
            format!("{pod} is on {current}; now it would get no node: {}", message.as_deref().unwrap_or(NONE))
        }
        (None, Some(node), _) => format!("{pod} would go to {node} (score {}){}", points(*score), makes_room(victims)),
        (None, None, message) => format!("{pod} gets no node: {}", message.as_deref().unwrap_or(NONE)),
    }
}

fn leaving(victims: &[api::Leaving]) -> String {
    let names = victims.iter().map(|victim| format!("{}/{}", victim.namespace, victim.name));
    names.collect::<Vec<_>>().join(",")
}

fn placements_table(status: &Status, no_headers: bool) -> String {
    let moves = status.placements.iter().any(|placement| placement.current_node.is_some());
    let mut header = vec!["NAMESPACE", "NAME", "FROM", "NODE", "SCORE", "VICTIMS", "REASON"];
    if !moves {
        header.remove(2);
    }
    let mut rows = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| NONE.to_owned());
    for one in &status.placements {
        let victims = if one.victims.is_empty() { NONE.to_owned() } else { leaving(&one.victims) };
        let message = one.message.clone().unwrap_or_default();
        let mut row = vec![one.namespace.clone(), one.name.clone()];
        if moves {
            row.push(text(&one.current_node));
        }
        row.extend([text(&one.node), points(one.score), victims, message]);
        rows.push(row);
    }
    if no_headers {
        rows.remove(0);
    }
    output::columns(&rows)
}

fn nodes_table(nodes: &[NodeAnswer], no_headers: bool) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let mut best: Vec<&NodeAnswer> = nodes.iter().collect();
    best.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.name.cmp(&b.name)));
    let mut rows = vec![["NODE", "FITS", "SCORE", "REASON"].map(str::to_owned).to_vec()];
    for one in best {
        let fits = if one.score.is_some() { "yes" } else { "no" };
        rows.push(vec![one.name.clone(), fits.to_owned(), points(one.score), one.reasons.join(", ")]);
    }
    if no_headers {
        rows.remove(0);
    }
    output::columns(&rows)
}

/// The pods that manifests make, and their groups.
pub(super) fn made_by(flags: &manifests::Flags, namespace: &str) -> Result<Spec> {
    let mut spec = Spec::default();
    for object in flags.objects()? {
        let (kind, name) = (object["kind"].as_str().unwrap_or_default(), output::name(&object));
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace).to_owned();
        if kind == "PodGroup" {
            let min_member = object["spec"]["minMember"].as_i64().and_then(|number| i32::try_from(number).ok());
            spec.pod_groups.push(PodGroup { namespace, name: name.to_owned(), min_member });
            continue;
        }
        if kind == "DaemonSet" {
            tell!("warning: daemonset.apps/{name} is left out: its pods go to every node that takes them");
            continue;
        }
        let made = workload(&object).with_context(|| format!("{kind} {name} cannot be read"))?;
        spec.workloads.extend(made.map(|made| Workload { namespace, ..made }));
    }
    Ok(spec)
}

/// The pods that an object makes, if it is one that makes any.
fn workload(object: &Value) -> Result<Option<Workload>> {
    let (kind, spec) = (object["kind"].as_str().unwrap_or_default(), &object["spec"]);
    let number = |field: &str| spec[field].as_i64().and_then(|number| i32::try_from(number).ok());
    let template = |at: &Value| -> Result<PodTemplateSpec> {
        Ok(if at.is_null() { PodTemplateSpec::default() } else { serde_json::from_value(at.clone())? })
    };
    let selector = || -> Result<Option<LabelSelector>> {
        let selector = &spec["selector"];
        Ok(if selector.is_null() { None } else { Some(serde_json::from_value(selector.clone())?) })
    };
    let name = output::name(object).to_owned();
    let made = Workload { name, ..Workload::default() };
    Ok(Some(match kind {
        "Pod" => Workload { template: template(object)?, ..made },
        "Deployment" => {
            let (mut template, mut selector) = (template(&spec["template"])?, selector()?);
            let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
            labels.insert(HASH_LABEL.to_owned(), "planned".to_owned());
            if let Some(selector) = &mut selector {
                let wanted = selector.match_labels.get_or_insert_default();
                wanted.insert(HASH_LABEL.to_owned(), "planned".to_owned());
            }
            Workload { template, selector, count: Some(number("replicas").unwrap_or(1)), ..made }
        }
        "ReplicaSet" | "StatefulSet" => {
            let (template, count) = (template(&spec["template"])?, Some(number("replicas").unwrap_or(1)));
            Workload { template, selector: selector()?, count, ..made }
        }
        "ReplicationController" => {
            let template = template(&spec["template"])?;
            let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
            let selector = Some(LabelSelector { match_labels: labels, match_expressions: None });
            Workload { template, selector, count: Some(number("replicas").unwrap_or(1)), ..made }
        }
        "Job" => {
            let at_once = number("parallelism").unwrap_or(1).min(number("completions").unwrap_or(i32::MAX));
            Workload { template: template(&spec["template"])?, count: Some(at_once), ..made }
        }
        "CronJob" => {
            let mut job = spec["jobTemplate"].clone();
            (job["kind"], job["metadata"]) = (json!("Job"), object["metadata"].clone());
            return workload(&job);
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests;
