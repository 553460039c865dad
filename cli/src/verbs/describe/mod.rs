//! `gantry describe`: an object for people to read, with what belongs to it and its events, laid out as kubectl does. Kinds
//! that matter at night have a form of their own; every other kind is shown as YAML under its heading.

mod nodes;
mod pods;
mod text;
mod workloads;

use std::process::ExitCode;

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde_json::Value;

use super::NamespaceFlag;
use super::manifests;
use super::output::{name, yaml};
use super::session::{Resource, Session};
use text::{Text, age, items, show, time};

/// `gantry describe`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// `TYPE [NAME…]` or `TYPE/NAME…`
    #[arg(value_name = "RESOURCE")]
    words: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceFlag,
    #[command(flatten)]
    manifests: manifests::Flags,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
}

/// Describes each object.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let objects = objects(session, args).await?;
    for (index, (resource, object)) in objects.iter().enumerate() {
        if index > 0 {
            session.out.text("\n\n")?;
        }
        session.out.text(&describe(session, resource, object).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn objects(session: &Session, args: &Args) -> Result<Vec<(Resource, Value)>> {
    let namespace = session.namespace(&args.namespace);
    let mut found = Vec::new();
    for manifest in args.manifests.objects()? {
        let text = |field: &str| manifest[field].as_str().unwrap_or_default();
        let resource = session.resource_of(text("apiVersion"), text("kind")).await?;
        let namespace = manifest["metadata"]["namespace"].as_str().unwrap_or(&namespace);
        let object = session.get(&resource, namespace, name(&manifest)).await?;
        found.push((resource, object));
    }
    let Some((first, rest)) = args.words.split_first() else {
        if found.is_empty() {
            bail!("You must specify the type of resource to describe.");
        }
        return Ok(found);
    };
    if first.contains('/') {
        for word in &args.words {
            let (resource, name) = session.target(std::slice::from_ref(word), None).await?;
            let object = session.get(&resource, &namespace, &name).await?;
            found.push((resource, object));
        }
        return Ok(found);
    }
    for word in first.split(',') {
        let resource = session.resource(word).await?;
        if rest.is_empty() {
            let query: Vec<_> =
                args.selector.as_deref().map(|selector| ("labelSelector", selector)).into_iter().collect();
            let all = session.list(&resource, (!args.all_namespaces).then_some(namespace.as_str()), &query).await?;
            found.extend(all.into_iter().map(|object| (resource.clone(), object)));
        }
        for name in rest {
            found.push((resource.clone(), session.get(&resource, &namespace, name).await?));
        }
    }
    if found.is_empty() {
        tell!("No resources found in {namespace} namespace.");
    }
    Ok(found)
}

async fn describe(session: &Session, resource: &Resource, object: &Value) -> Result<String> {
    let mut text = Text::default();
    let meta = &object["metadata"];
    text.pair(0, "Name", name(object));
    if resource.namespaced {
        text.pair(0, "Namespace", show(&meta["namespace"]));
    }
    let namespace = meta["namespace"].as_str();
    match (resource.kind.as_str(), resource.group.as_str()) {
        ("Pod", "") => pods::pod(&mut text, object),
        ("Node", "") => {
            let selector = format!("spec.nodeName={}", name(object));
            let on_it = session.list(&session.resource("pods").await?, None, &[("fieldSelector", &selector)]).await?;
            let leases = session.resource("leases.coordination.k8s.io").await?;
            // The lease is a help; that a node has none is worth seeing, not failing for.
            let lease = session.get(&leases, "kube-node-lease", name(object)).await.ok();
            nodes::node(&mut text, object, &on_it, lease.as_ref());
        }
        ("Deployment", "apps") => {
            let sets = owned(session, "replicasets.apps", namespace, object).await?;
            workloads::deployment(&mut text, object, &sets);
        }
        ("ReplicaSet", "apps") => {
            let its_pods = owned(session, "pods", namespace, object).await?;
            workloads::replica_set(&mut text, object, &its_pods);
        }
        ("Service", "") => {
            let selector = format!("kubernetes.io/service-name={}", name(object));
            let slices = session.resource("endpointslices.discovery.k8s.io").await?;
            let slices = session.list(&slices, namespace, &[("labelSelector", &selector)]).await?;
            workloads::service(&mut text, object, &slices);
        }
        _ => generic(&mut text, resource, object)?,
    }
    events(session, &mut text, object).await?;
    Ok(text.aligned())
}

/// The objects of a resource that this one controls.
async fn owned(session: &Session, resource: &str, namespace: Option<&str>, owner: &Value) -> Result<Vec<Value>> {
    let all = session.list(&session.resource(resource).await?, namespace, &[]).await?;
    let uid = &owner["metadata"]["uid"];
    let is_its = |object: &Value| {
        items(&object["metadata"], "ownerReferences").iter().any(|one| one["controller"] == true && one["uid"] == *uid)
    };
    Ok(all.into_iter().filter(is_its).collect())
}

fn generic(text: &mut Text, resource: &Resource, object: &Value) -> Result<()> {
    let meta = &object["metadata"];
    text.labels(meta);
    text.pair(0, "API Version", resource.api_version());
    text.pair(0, "Kind", &resource.kind);
    text.pair(0, "CreationTimestamp", time(&meta["creationTimestamp"]));
    let mut rest = object.clone();
    let Some(map) = rest.as_object_mut() else { return Ok(()) };
    for known in ["apiVersion", "kind", "metadata"] {
        map.remove(known);
    }
    if resource.kind == "Secret" && resource.group.is_empty() {
        // What is secret is not shown, only how much of it there is.
        let data = object["data"].as_object().into_iter().flatten();
        let hidden: serde_json::Map<String, Value> =
            data.map(|(key, value)| (key.clone(), format!("{} bytes", decoded_length(&show(value))).into())).collect();
        map.insert("data".into(), hidden.into());
    }
    if !map.is_empty() {
        text.plain("\n");
        text.plain(&yaml(&rest)?.replace('\t', "    "));
        text.plain("\n");
    }
    Ok(())
}

/// How many bytes a base64 text stands for.
fn decoded_length(text: &str) -> usize {
    let digits = text.trim_end_matches('=').len();
    digits * 3 / 4
}

/// A label selector in one line.
fn selector_text(selector: &Value) -> String {
    let mut all: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", show(value)))
        .collect();
    for one in items(selector, "matchExpressions") {
        let values: Vec<String> = items(one, "values").iter().map(show).collect();
        let key = show(&one["key"]);
        all.push(match one["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key,
        });
    }
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

async fn events(session: &Session, text: &mut Text, object: &Value) -> Result<()> {
    let resource = session.resource_of("v1", "Event").await?;
    let namespace = object["metadata"]["namespace"].as_str();
    let kind = object["kind"].as_str().unwrap_or_default();
    let mut selector = format!("involvedObject.name={},involvedObject.kind={kind}", name(object));
    // A node's events go by its name, since they are written before it has a UID, and may be in any namespace.
    if let Some(uid) = object["metadata"]["uid"].as_str().filter(|_| kind != "Node") {
        selector += &format!(",involvedObject.uid={uid}");
    }
    let mut found = session.list(&resource, namespace, &[("fieldSelector", &selector)]).await?;
    found.sort_by_key(|event| last_seen(event).as_str().unwrap_or_default().to_owned());
    if found.is_empty() {
        text.pair(0, "Events", "<none>");
        return Ok(());
    }
    text.line(0, "Events:");
    let now = Timestamp::now();
    let rows: Vec<Vec<String>> = found.iter().map(|event| event_row(event, now)).collect();
    text.table(1, &["Type", "Reason", "Age", "From", "Message"], &rows);
    Ok(())
}

/// When an event was last seen.
fn last_seen(event: &Value) -> &Value {
    let places = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    places.into_iter().find(|time| time.is_string()).unwrap_or(&Value::Null)
}

fn event_row(event: &Value, now: Timestamp) -> Vec<String> {
    let first = [&event["firstTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
    let first = first.into_iter().find(|time| time.is_string()).unwrap_or(&Value::Null);
    let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).filter(|count| *count > 1);
    let when = match count {
        Some(count) => format!("{} (x{count} over {})", age(last_seen(event), now), age(first, now)),
        None => age(first, now),
    };
    let from =
        event["source"]["component"].as_str().filter(|from| !from.is_empty()).or(event["reportingComponent"].as_str());
    let message = event["message"].as_str().unwrap_or_default().trim().replace(['\n', '\t'], " ");
    vec![show(&event["type"]), show(&event["reason"]), when, from.unwrap_or_default().to_owned(), message]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_say_when_and_how_often() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let once = json!({"type": "Normal", "reason": "Scheduled", "eventTime": "2026-01-01T00:09:30.000000Z", "reportingComponent": "default-scheduler", "message": "m"});
        assert_eq!(event_row(&once, now), ["Normal", "Scheduled", "30s", "default-scheduler", "m"]);
        let often = json!({"type": "Warning", "reason": "BackOff", "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:09:00Z", "count": 4,
            "source": {"component": "kubelet"}, "message": "a\nb"});
        assert_eq!(event_row(&often, now), ["Warning", "BackOff", "60s (x4 over 10m)", "kubelet", "a b"]);
    }

    #[test]
    fn selectors_read_in_one_line() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "Exists"}, {"key": "g", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "a=b,c in (d,e),f,!g");
    }

    #[test]
    fn secrets_show_their_size_only() {
        assert_eq!(decoded_length("aGVsbG8="), 5);
        assert_eq!(decoded_length("aGVsbG8h"), 6);
        assert_eq!(decoded_length(""), 0);
    }
}
