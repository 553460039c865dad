//! `gantry describe`: an object for people to read, with its events. Kinds that matter at night have a summary of their own;
//! every other kind is shown as YAML under its heading.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;

use super::NamespaceFlag;
use super::output::{columns, name, yaml};
use super::session::{Resource, Session};

/// `gantry describe`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// `TYPE [NAME…]` or `TYPE/NAME`
    #[arg(value_name = "RESOURCE", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceFlag,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
}

/// Describes each object.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let namespace = session.namespace(&args.namespace);
    let (resource, names) = match args.words.split_first() {
        Some((first, rest)) => match first.split_once('/') {
            Some((kind, name)) if rest.is_empty() => (session.resource(kind).await?, vec![name.to_owned()]),
            Some(_) => bail!("describe one TYPE/NAME at a time, or TYPE NAME…"),
            None => (session.resource(first).await?, rest.to_vec()),
        },
        None => bail!("You must specify the type of resource to describe."),
    };
    let mut objects = Vec::new();
    if names.is_empty() {
        let query: Vec<_> = args.selector.as_deref().map(|selector| ("labelSelector", selector)).into_iter().collect();
        objects = session.list(&resource, (!args.all_namespaces).then_some(namespace.as_str()), &query).await?;
        if objects.is_empty() {
            eprintln!("No resources found in {namespace} namespace.");
        }
    }
    for name in &names {
        objects.push(session.get(&resource, &namespace, name).await?);
    }
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            session.out.text("\n\n")?;
        }
        let mut text = Text::default();
        summary(&mut text, &resource, object)?;
        events(session, &mut text, object).await?;
        session.out.text(&text.0)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines of `Key:  value` with the values under each other.
#[derive(Default)]
struct Text(String);

/// The column at which values begin.
const VALUE_COLUMN: usize = 24;

impl Text {
    fn pair(&mut self, indent: usize, key: &str, value: impl AsRef<str>) {
        let width = VALUE_COLUMN.saturating_sub(indent);
        let _ = writeln!(self.0, "{:indent$}{:width$}{}", "", format!("{key}:"), value.as_ref());
    }

    fn heading(&mut self, indent: usize, key: &str) {
        let _ = writeln!(self.0, "{:indent$}{key}:", "");
    }

    /// A map, the first entry beside the key.
    fn map(&mut self, key: &str, map: &Value, separator: &str) {
        let entries: Vec<String> = map
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}{separator}{}", show(value)))
            .collect();
        self.list(key, &entries);
    }

    fn list(&mut self, key: &str, entries: &[String]) {
        self.pair(0, key, entries.first().map_or("<none>", String::as_str));
        for entry in entries.iter().skip(1) {
            let _ = writeln!(self.0, "{:VALUE_COLUMN$}{entry}", "");
        }
    }

    fn table(&mut self, indent: usize, rows: &[Vec<String>]) {
        for line in columns(rows).lines() {
            let _ = writeln!(self.0, "{:indent$}{line}", "");
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn summary(text: &mut Text, resource: &Resource, object: &Value) -> Result<()> {
    let meta = &object["metadata"];
    text.pair(0, "Name", name(object));
    if resource.namespaced {
        text.pair(0, "Namespace", show(&meta["namespace"]));
    }
    text.map("Labels", &meta["labels"], "=");
    text.map("Annotations", &meta["annotations"], ": ");
    text.pair(0, "CreationTimestamp", show(&meta["creationTimestamp"]));
    if let Some(time) = meta["deletionTimestamp"].as_str() {
        text.pair(0, "Status", format!("Terminating (since {time})"));
    }
    if let Some(owner) = items(meta, "ownerReferences").iter().find(|owner| owner["controller"] == true) {
        text.pair(0, "Controlled By", format!("{}/{}", show(&owner["kind"]), show(&owner["name"])));
    }
    match resource.kind.as_str() {
        "Pod" => pod(text, object),
        "Node" => node(text, object),
        "Deployment" | "ReplicaSet" => workload(text, object),
        "Service" => service(text, object),
        _ => {
            let mut rest = object.clone();
            if let Some(map) = rest.as_object_mut() {
                for known in ["apiVersion", "kind", "metadata"] {
                    map.remove(known);
                }
                if resource.kind == "Secret" {
                    let sizes = |data: &Value| {
                        data.as_object()
                            .into_iter()
                            .flatten()
                            .map(|(key, value)| (key.clone(), format!("{} bytes (base64)", show(value).len()).into()))
                            .collect()
                    };
                    let hidden: serde_json::Map<String, Value> = sizes(&object["data"]);
                    map.insert("data".into(), hidden.into());
                }
            }
            text.0.push_str(&yaml(&rest)?);
        }
    }
    Ok(())
}

fn conditions(text: &mut Text, object: &Value) {
    let all = items(&object["status"], "conditions");
    if all.is_empty() {
        return;
    }
    text.heading(0, "Conditions");
    let mut rows = vec![["Type", "Status", "Reason", "Message"].map(String::from).to_vec()];
    for condition in all {
        let cell = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        rows.push(vec![cell("type"), cell("status"), cell("reason"), cell("message")]);
    }
    text.table(2, &rows);
}

fn pod(text: &mut Text, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    text.pair(0, "Node", show(&spec["nodeName"]));
    text.pair(0, "Start Time", show(&status["startTime"]));
    text.pair(0, "Status", show(&status["phase"]));
    for field in ["reason", "message"] {
        if let Some(value) = status[field].as_str() {
            text.pair(0, if field == "reason" { "Reason" } else { "Message" }, value);
        }
    }
    text.pair(0, "IP", show(&status["podIP"]));
    text.pair(0, "QoS Class", show(&status["qosClass"]));
    text.pair(0, "Service Account", show(&spec["serviceAccountName"]));
    for (heading, specs, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
    ] {
        if items(spec, specs).is_empty() {
            continue;
        }
        text.heading(0, heading);
        for spec in items(spec, specs) {
            let status = items(status, statuses).iter().find(|status| status["name"] == spec["name"]);
            container(text, spec, status.unwrap_or(&Value::Null));
        }
    }
    conditions(text, object);
    let tolerations: Vec<String> = items(spec, "tolerations").iter().map(toleration).collect();
    text.list("Tolerations", &tolerations);
}

fn toleration(toleration: &Value) -> String {
    let mut out = toleration["key"].as_str().unwrap_or_default().to_owned();
    if let Some(value) = toleration["value"].as_str() {
        let _ = write!(out, "={value}");
    }
    if let Some(effect) = toleration["effect"].as_str() {
        let _ = write!(out, ":{effect}");
    }
    if toleration["operator"] == "Exists" {
        out.push_str(" op=Exists");
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        let _ = write!(out, " for {seconds}s");
    }
    out
}

fn container(text: &mut Text, spec: &Value, status: &Value) {
    text.heading(2, spec["name"].as_str().unwrap_or_default());
    text.pair(4, "Container ID", show(&status["containerID"]));
    text.pair(4, "Image", show(&spec["image"]));
    text.pair(4, "Image ID", show(&status["imageID"]));
    for port in items(spec, "ports") {
        text.pair(
            4,
            "Port",
            format!("{}/{}", show(&port["containerPort"]), port["protocol"].as_str().unwrap_or("TCP")),
        );
    }
    for field in ["command", "args"] {
        let words: Vec<String> = items(spec, field).iter().map(show).collect();
        if !words.is_empty() {
            text.pair(4, if field == "command" { "Command" } else { "Args" }, words.join(" "));
        }
    }
    for (heading, field) in [("State", "state"), ("Last State", "lastState")] {
        let Some((state, detail)) = status[field].as_object().and_then(|states| states.iter().next()) else { continue };
        text.pair(4, heading, capitalised(state));
        for (label, key) in [
            ("Reason", "reason"),
            ("Message", "message"),
            ("Exit Code", "exitCode"),
            ("Started", "startedAt"),
            ("Finished", "finishedAt"),
        ] {
            if !detail[key].is_null() {
                text.pair(6, label, show(&detail[key]));
            }
        }
    }
    text.pair(4, "Ready", if status["ready"] == true { "True" } else { "False" });
    text.pair(4, "Restart Count", status["restartCount"].as_i64().unwrap_or(0).to_string());
    for field in ["limits", "requests"] {
        if let Some(map) = spec["resources"][field].as_object().filter(|map| !map.is_empty()) {
            text.heading(4, &capitalised(field));
            for (resource, quantity) in map {
                text.pair(6, resource, show(quantity));
            }
        }
    }
    if !items(spec, "env").is_empty() {
        text.heading(4, "Environment");
        for variable in items(spec, "env") {
            let value = if variable["valueFrom"].is_null() {
                show(&variable["value"])
            } else {
                format!("<from {}>", variable["valueFrom"])
            };
            text.pair(6, variable["name"].as_str().unwrap_or_default(), value);
        }
    }
    let mounts: Vec<String> = items(spec, "volumeMounts")
        .iter()
        .map(|mount| format!("{} from {}", show(&mount["mountPath"]), show(&mount["name"])))
        .collect();
    if !mounts.is_empty() {
        text.heading(4, "Mounts");
        for mount in mounts {
            let _ = writeln!(text.0, "      {mount}");
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn node(text: &mut Text, object: &Value) {
    let taints: Vec<String> = items(&object["spec"], "taints")
        .iter()
        .map(|taint| match taint["value"].as_str() {
            Some(value) => format!("{}={value}:{}", show(&taint["key"]), show(&taint["effect"])),
            None => format!("{}:{}", show(&taint["key"]), show(&taint["effect"])),
        })
        .collect();
    text.list("Taints", &taints);
    text.pair(0, "Unschedulable", object["spec"]["unschedulable"].as_bool().unwrap_or(false).to_string());
    conditions(text, object);
    let addresses: Vec<String> = items(&object["status"], "addresses")
        .iter()
        .map(|address| format!("{} {}", show(&address["type"]), show(&address["address"])))
        .collect();
    text.list("Addresses", &addresses);
    text.map("Capacity", &object["status"]["capacity"], ": ");
    text.map("Allocatable", &object["status"]["allocatable"], ": ");
    text.map("System Info", &object["status"]["nodeInfo"], ": ");
    text.pair(0, "PodCIDR", show(&object["spec"]["podCIDR"]));
}

fn workload(text: &mut Text, object: &Value) {
    let (spec, status) = (&object["spec"], &object["status"]);
    text.map("Selector", &spec["selector"]["matchLabels"], "=");
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    text.pair(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            spec["replicas"].as_i64().unwrap_or(1),
            count("updatedReplicas"),
            count("replicas"),
            count("availableReplicas"),
            count("unavailableReplicas")
        ),
    );
    if let Some(strategy) = spec["strategy"]["type"].as_str() {
        text.pair(0, "StrategyType", strategy);
    }
    text.heading(0, "Pod Template");
    for spec in items(&spec["template"]["spec"], "containers") {
        text.pair(2, spec["name"].as_str().unwrap_or_default(), show(&spec["image"]));
    }
    conditions(text, object);
}

fn service(text: &mut Text, object: &Value) {
    let spec = &object["spec"];
    text.map("Selector", &spec["selector"], "=");
    text.pair(0, "Type", show(&spec["type"]));
    text.pair(0, "IP", show(&spec["clusterIP"]));
    for port in items(spec, "ports") {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        text.pair(
            0,
            "Port",
            format!("{} {}/{protocol}", port["name"].as_str().unwrap_or("<unset>"), show(&port["port"])),
        );
        text.pair(0, "TargetPort", show(&port["targetPort"]));
        if !port["nodePort"].is_null() {
            text.pair(0, "NodePort", show(&port["nodePort"]));
        }
    }
}

async fn events(session: &Session, text: &mut Text, object: &Value) -> Result<()> {
    let resource = session.resource_of("v1", "Event").await?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let mut selector = format!("involvedObject.name={}", name(object));
    // A node's events go by its name, since they are written before it has a UID.
    if let Some(uid) = object["metadata"]["uid"].as_str().filter(|_| object["kind"] != "Node") {
        let _ = write!(selector, ",involvedObject.uid={uid}");
    }
    let mut found = session.list(&resource, Some(namespace), &[("fieldSelector", &selector)]).await?;
    let time = |event: &Value| {
        ["lastTimestamp", "eventTime"]
            .iter()
            .find_map(|field| event[field].as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    found.sort_by_key(|event| time(event));
    if found.is_empty() {
        text.pair(0, "Events", "<none>");
        return Ok(());
    }
    text.heading(0, "Events");
    let mut rows = vec![["Type", "Reason", "Time", "From", "Message"].map(String::from).to_vec()];
    for event in &found {
        let from = event["source"]["component"]
            .as_str()
            .filter(|from| !from.is_empty())
            .or(event["reportingComponent"].as_str());
        let count = event["count"].as_i64().or(event["series"]["count"].as_i64()).filter(|count| *count > 1);
        let times = count.map(|count| format!(" (x{count})")).unwrap_or_default();
        let message = event["message"].as_str().unwrap_or_default().trim_end().replace('\n', " ");
        rows.push(vec![
            show(&event["type"]),
            show(&event["reason"]),
            time(event) + &times,
            from.unwrap_or("<none>").to_owned(),
            message,
        ]);
    }
    text.table(2, &rows);
    Ok(())
}
