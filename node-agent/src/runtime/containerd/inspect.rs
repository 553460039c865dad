//! Looks at what an agent's runtime needs and whether it answers, without changing anything.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::process::find_program;
use super::{failed, last_lines};
use crate::runtime::cri::{CriOptions, CriRuntime};
use crate::runtime::instance::Instance;
use crate::runtime::{Runtime, RuntimeStatus, RuntimeVersion, cni};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What is missing of the programs that are needed, each with how it is had.
    pub missing: Vec<String>,
    /// What the runtime answers.
    pub answer: Result<(RuntimeVersion, RuntimeStatus), String>,
    /// The end of its log, if it is the agent's own.
    pub log: Option<String>,
    /// Whether the pods' network is configured; `None` if that is not the agent's matter.
    pub network: Option<bool>,
}

/// Looks.
pub async fn inspect(data_dir: &Path) -> Inspection {
    let instance = match Instance::of(data_dir).map_err(failed("cannot use the data directory")) {
        Ok(instance) => instance,
        Err(error) => {
            return Inspection { missing: Vec::new(), answer: Err(error.to_string()), log: None, network: None };
        }
    };
    let record = instance.read_record();
    let own = record.as_ref().map_or(true, |record| record.own);
    let mut missing = Vec::new();
    if own {
        let programs = [("containerd", "containerd"), ("runc", "runc"), ("setsid", "util-linux"), ("nft", "nftables")];
        missing.extend(programs.into_iter().filter_map(|(program, package)| find_program(program, package).err()));
        missing.extend(cni::find_plugins().err());
    }
    let answer = match &record {
        Ok(record) => ask(&record.address).await,
        Err(_) => Err(format!("no agent has run with the data directory {}", data_dir.display())),
    };
    let log = instance.containerd_dir().join("containerd.log");
    let network = own.then(|| {
        let entries = std::fs::read_dir(instance.containerd_dir().join("net.d")).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.path().extension().is_some_and(|extension| extension == "conflist"))
    });
    Inspection { missing, answer, log: (own && log.exists()).then(|| last_lines(&log)), network }
}

async fn ask(address: &Path) -> Result<(RuntimeVersion, RuntimeStatus), String> {
    let stop = CancellationToken::new();
    let runtime = CriRuntime::new(address, CriOptions::default(), stop.child_token());
    let _cancelled_at_the_end = stop.drop_guard();
    let both = async { Ok::<_, crate::runtime::RuntimeError>((runtime.version().await?, runtime.status().await?)) };
    match tokio::time::timeout(PATIENCE, both).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("nothing came from {} within {} s", address.display(), PATIENCE.as_secs())),
    }
}
