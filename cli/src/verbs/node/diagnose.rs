//! `gantry node diagnose`: names what is wrong with a node and what to do about it.

use std::process::ExitCode;

use anyhow::Result;
use gantry_node_agent::diagnose::{Finding, Level};
use http::Request;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};

use super::findings::{self, Known};
use crate::args::DataDir;
use crate::verbs::output::Out;
use crate::verbs::session::Session;

/// `gantry node diagnose`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A node of the cluster; without it, the machine that this runs on, whose agent is not asked
    #[arg(value_name = "NODE")]
    pub node: Option<String>,
    #[command(flatten)]
    data: DataDir,
}

/// Looks at a node through the API.
pub async fn remote(session: &Session, name: &str) -> Result<ExitCode> {
    let name = name.trim_start_matches("node/").trim_start_matches("nodes/");
    let client = || session.client.clone();
    let node = Api::<Node>::all(client()).get(name).await?;
    let lease = Api::<Lease>::namespaced(client(), "kube-node-lease").get_opt(name).await?;
    let bound = ListParams::default().fields(&format!("spec.nodeName={name}"));
    let pods = Api::<Pod>::all(client()).list(&bound).await?.items;
    let theirs = server_time(session).await;
    let ours = Timestamp::now();
    let mut found: Vec<Finding> = theirs.map(|theirs| findings::clock(theirs, ours)).into_iter().collect();
    let now = theirs.unwrap_or(ours);
    found.extend(findings::find(&Known { node: &node, lease: lease.as_ref(), pods: &pods, now }));
    print(&session.out, &found)
}

/// What time the API server has, if it says.
async fn server_time(session: &Session) -> Option<Timestamp> {
    let request = Request::get("/version").body(kube::client::Body::empty()).ok()?;
    let answer = session.client.send(request).await.ok()?;
    let date = answer.headers().get(http::header::DATE)?.to_str().ok()?;
    DateTimeParser::new().parse_timestamp(date).ok()
}

/// Looks at this machine.
#[cfg(target_os = "linux")]
pub async fn local(args: &Args) -> Result<ExitCode> {
    use gantry_node_agent::diagnose::machine;
    let facts = machine::look(&args.data.data_dir).await;
    print(&Out::default(), &machine::judge(&facts, Timestamp::now()))
}

/// There is no agent to be looked at here.
#[cfg(not(target_os = "linux"))]
pub async fn local(_: &Args) -> Result<ExitCode> {
    anyhow::bail!("node agents run on Linux only; name a node of a cluster")
}

/// Worst last, where eyes are; a failure if something has to be seen to.
fn print(out: &Out, found: &[Finding]) -> Result<ExitCode> {
    let mut found: Vec<&Finding> = found.iter().collect();
    found.sort_by_key(|finding| finding.level);
    for finding in &found {
        let word = match finding.level {
            Level::Good => "ok",
            Level::Odd => "note",
            Level::Bad => "BAD",
        };
        out.line(format!("{word:<5} {}", finding.what))?;
        if !finding.remedy.is_empty() {
            out.line(format!("      -> {}", finding.remedy))?;
        }
    }
    let bad = found.iter().any(|finding| finding.level == Level::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
