//! Requests a second, Gantry and the bare server in turn.

use std::path::Path;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::bare;
use crate::h2load::{self, Answers, Connections, IN_FLIGHT, Load};
use crate::server::{NAMESPACE, Server};
use crate::{Result, median};

/// Pods are read so many times in a turn.
const READS: usize = 40_000;
/// Lists are read so many times in a turn.
const LISTS: usize = 60;

/// Whose turn it is.
#[derive(Clone, Copy)]
enum Turns {
    Ours,
    Limit,
}

/// One line of the table: what was done, by Gantry and by the limit, a figure for each turn.
struct Row {
    work: &'static str,
    ours: Vec<Answers>,
    limit: Vec<Answers>,
    by_bytes: bool,
}

impl Row {
    fn new(work: &'static str, by_bytes: bool) -> Self {
        Self { work, ours: Vec::new(), limit: Vec::new(), by_bytes }
    }

    fn push(&mut self, turn: Turns, answers: Answers) {
        match turn {
            Turns::Ours => self.ours.push(answers),
            Turns::Limit => self.limit.push(answers),
        }
    }

    fn print(&self) {
        let figure = |answers: &Answers| if self.by_bytes { answers.bytes / 1e6 } else { answers.rate };
        let ours = median(self.ours.iter().map(figure).collect());
        let limit = median(self.limit.iter().map(figure).collect());
        let p99 = median(self.ours.iter().map(|answers| answers.p99).collect());
        let unit = if self.by_bytes { "MB/s" } else { "/s" };
        println!(
            "{:<32} {:>11} {:>9.1} ms {:>11} {:>8.0} %",
            self.work,
            format!("{ours:.0} {unit}"),
            p99,
            format!("{limit:.0} {unit}"),
            100.0 * ours / limit
        );
    }
}

/// Makes `pods` pods, reads, changes and deletes them, `rounds` times.
pub async fn run(dir: &Path, rounds: usize, pods: usize) -> Result<()> {
    if !h2load::is_there() {
        return Err("h2load is missing; it is in the Debian package nghttp2-client".into());
    }
    let server = Server::gantry(dir).await?;
    set_scene(&server).await?;
    let collection = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let manifest = pod().to_string();
    // The first round warms the server up and says what the bare one is to answer.
    create(&server, dir, &collection, &manifest, pods).await?;
    let names = self::names(&server, &collection).await?;
    let client = server.client().await?;
    let (object, list) = (client.get(&names[0]).await?, client.get(&collection).await?);
    std::fs::write(dir.join(bare::OBJECT_FILE), &object)?;
    std::fs::write(dir.join(bare::LIST_FILE), &list)?;
    delete(&server, dir, &names).await?;
    let limit = Server::bare(dir).await?;

    println!(
        "{IN_FLIGHT} requests at once over TLS and HTTP/2, {} bytes a pod, {pods} pods, median of {rounds} turns:",
        object.len()
    );
    println!("{:<32} {:>11} {:>12} {:>11} {:>10}", "", "gantry", "p99", "bare axum", "ratio");
    let mut rows = [
        Row::new("create, one body", false),
        Row::new("get", false),
        Row::new("list (two at once)", true),
        Row::new("merge patch of an annotation", false),
        Row::new("delete", false),
        Row::new("create a job, each prepared anew", false),
    ];
    let jobs = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs");
    let job = job().to_string();
    let patch = json!({"metadata": {"annotations": {"example.com/touched": "yes"}}}).to_string();
    let lists = [format!("{collection}?resourceVersion=")];
    for _ in 0..rounds {
        rows[0].push(Turns::Limit, create(&limit, dir, &collection, &manifest, pods).await?);
        rows[0].push(Turns::Ours, create(&server, dir, &collection, &manifest, pods).await?);
        let names = self::names(&server, &collection).await?;
        for (server, turns) in [(&limit, Turns::Limit), (&server, Turns::Ours)] {
            let gets = Load { paths: &names, requests: READS, ..Load::default() };
            rows[1].push(turns, h2load::run(server, dir, &gets).await?);
            let lists = Load { paths: &lists, requests: LISTS, connections: Connections::Alone, ..Load::default() };
            rows[2].push(turns, h2load::run(server, dir, &lists).await?);
            let patches = Load {
                paths: &names,
                requests: names.len(),
                method: Some("PATCH"),
                body: Some((patch.as_bytes(), "application/merge-patch+json")),
                connections: Connections::One,
            };
            rows[3].push(turns, h2load::run(server, dir, &patches).await?);
            rows[4].push(turns, delete(server, dir, &names).await?);
            rows[5].push(turns, create(server, dir, &jobs, &job, pods).await?);
        }
        server.client().await?.call(Method::DELETE, &jobs, Bytes::new()).await?;
    }
    for row in &rows {
        row.print();
    }
    limit.stop().await?;
    server.stop().await
}

/// The namespace and what a pod in it needs.
pub async fn set_scene(server: &Server) -> Result<()> {
    let client = server.client().await?;
    client.create("/api/v1/namespaces", &json!({"metadata": {"name": NAMESPACE}})).await?;
    let account = json!({"metadata": {"name": "default"}});
    client.create(&format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), &account).await?;
    Ok(())
}

/// The pod of Kubernetes' own scheduling benches.
pub fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "pod-"},
        "spec": {
            "containers": [{
                "name": "pause",
                "image": "example.com/pause:3.10",
                "ports": [{"containerPort": 80}],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "500Mi"},
                    "limits": {"cpu": "100m", "memory": "500Mi"}
                }
            }]
        }
    })
}

/// A job with the same container: its name is in its labels, so that no job is a pattern for the next.
fn job() -> Value {
    let mut template = pod();
    template["spec"]["restartPolicy"] = "Never".into();
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "job-"},
        "spec": {"template": {"spec": template["spec"]}}
    })
}

async fn create(server: &Server, dir: &Path, collection: &str, manifest: &str, pods: usize) -> Result<Answers> {
    let body = Some((manifest.as_bytes(), "application/json"));
    let load = Load { paths: &[collection.to_owned()], requests: pods, body, ..Load::default() };
    h2load::run(server, dir, &load).await
}

async fn delete(server: &Server, dir: &Path, names: &[String]) -> Result<Answers> {
    let (method, connections) = (Some("DELETE"), Connections::One);
    let load = Load { paths: names, requests: names.len(), method, connections, ..Load::default() };
    h2load::run(server, dir, &load).await
}

/// The paths of all pods.
async fn names(server: &Server, collection: &str) -> Result<Vec<String>> {
    let list: Value = serde_json::from_slice(&server.client().await?.get(collection).await?)?;
    let items = list["items"].as_array().ok_or("a list without items")?;
    Ok(items.iter().filter_map(|pod| Some(format!("{collection}/{}", pod["metadata"]["name"].as_str()?))).collect())
}
