//! The verbs from their command lines to their answers, against a small API in memory.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use clap::Parser;
use serde_json::{Value, json};

use super::session::Session;
use super::{Verb, carry_out, server_error};

#[derive(Parser, Debug)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

fn parse(line: &str) -> Result<Verb, clap::Error> {
    let words = std::iter::once("gantry").chain(line.split_whitespace());
    CommandLine::try_parse_from(words).map(|line| line.verb)
}

#[test]
fn kubectls_habits_on_the_command_line_are_understood() {
    for line in [
        "get pods",
        "get po,svc -A -o wide",
        "get pods web-1 web-2 -n shop -oyaml",
        "get deployment/web -o=jsonpath={.spec.replicas}",
        "get pods -w --field-selector status.phase=Running -l app=web",
        "get -f x.yaml --no-headers --ignore-not-found",
        "apply -f a.yaml -f b -R -n shop --wait --timeout 90s",
        "apply -f - --dry-run=server --force-conflicts",
        "describe pod web-1",
        "describe nodes",
        "delete -f a.yaml --wait=false",
        "delete pods --all --grace-period=0 --force",
        "delete pod a b --grace-period=-1 --now=false --ignore-not-found --cascade=foreground",
        "logs web-1 -f --tail=5 --since=1m --timestamps -c web",
        "logs deployment/web --all-containers -p --prefix",
        "logs -l app=web --tail=-1",
        "exec web-1 -- ls -l /",
        "exec -it web-1 -c web -- sh",
        "exec -i deploy/web -- cat",
        "scale deployment web --replicas=3",
        "scale deployment/web --replicas 3 --current-replicas 2",
        "rollout status deployment/web --timeout=1m --watch=false",
        "rollout undo deployment web --to-revision=2",
        "rollout restart deployment/web -n shop",
        "rollout history deployment/web",
        "rollout pause deployment/web",
        "rollout resume deployment/web",
        "image import a.tar b.tar",
        "node drain a b --ignore-daemonsets --delete-emptydir-data --force --grace-period=-1 --timeout 5m",
        "node drain -l disk=ssd --dry-run=server --pod-selector app=web --disable-eviction",
        "node cordon a --dry-run",
        "node uncordon a",
        "node diagnose",
        "node diagnose a",
        "node shutdown --data-dir /x --cancel",
    ] {
        // A flag that takes no value is the one difference that is meant.
        let line = line.replace(" --now=false", "");
        assert!(parse(&line).is_ok(), "{line}: {:?}", parse(&line).err());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        "",
        "get pods -o nonsense",
        "get pods -o jsonpath={.a",
        "exec web-1",
        "exec web-1 ls",
        "scale deployment/web",
        "scale deployment/web --replicas=-1",
        "delete pods --cascade=maybe",
        "delete pod a --now --force",
        "logs web-1 --since=soon",
        "rollout",
        "image import",
        "apply -f a --dry-run=client",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

/// A few objects by path, as an API server would give them.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<BTreeMap<String, Value>>>);

impl Api {
    fn session(&self) -> Session {
        let router = Router::new().fallback(answer).with_state(self.clone());
        Session::capturing(kube::Client::new(router, "default"))
    }

    fn with(self, path: &str, object: Value) -> Self {
        self.0.lock().unwrap().insert(path.to_owned(), object);
        self
    }
}

fn discovery(group: &str, resources: &[(&str, &str, &[&str], &[&str])]) -> Value {
    let resources: Vec<Value> = resources
        .iter()
        .map(|(plural, kind, short_names, subresources)| {
            json!({"resource": plural, "responseKind": {"group": group, "version": "v1", "kind": kind}, "scope": "Namespaced",
                "singularResource": kind.to_lowercase(), "verbs": ["get"], "shortNames": short_names,
                "subresources": subresources.iter().map(|name| json!({"subresource": name, "verbs": ["get"], "responseKind": {"kind": "Scale"}})).collect::<Vec<_>>()})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [
        {"metadata": {"name": group}, "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}]}]})
}

async fn answer(State(api): State<Api>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let accepts_table = parts.headers.get("accept").is_some_and(|accept| accept.to_str().unwrap().contains("as=Table"));
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    match path.as_str() {
        "/api" => {
            return Json(discovery(
                "",
                &[
                    ("pods", "Pod", &["po"], &[]),
                    ("configmaps", "ConfigMap", &["cm"], &[]),
                    ("events", "Event", &["ev"], &[]),
                ],
            ))
            .into_response();
        }
        "/apis" => {
            return Json(discovery("apps", &[("deployments", "Deployment", &["deploy"], &["scale"])])).into_response();
        }
        _ => {}
    }
    let mut objects = api.0.lock().unwrap();
    match parts.method {
        Method::PATCH => {
            let mut new: Value = serde_json::from_slice(&body).unwrap();
            let old = objects.get(&path);
            let same = old.is_some_and(|old| old["data"] == new["data"]);
            let version = old
                .map_or(0, |old| old["metadata"]["resourceVersion"].as_str().unwrap().parse::<u32>().unwrap())
                + u32::from(!same);
            new["metadata"]["resourceVersion"] = version.to_string().into();
            objects.insert(path, new.clone());
            Json(new).into_response()
        }
        Method::DELETE if objects.contains_key(&path) => Json(objects.remove(&path).unwrap()).into_response(),
        Method::GET if objects.contains_key(&path) && accepts_table => {
            let object = &objects[&path];
            let (rows, list) = match object["items"].as_array() {
                Some(items) => (items.clone(), true),
                None => (vec![object.clone()], false),
            };
            let rows: Vec<Value> = rows
                .iter()
                .map(|object| json!({"cells": [object["metadata"]["name"], "1/1", "10.0.0.1"], "object": object}))
                .collect();
            let columns = json!([{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}]);
            Json(json!({"kind": "Table", "columnDefinitions": columns, "rows": rows, "list": list})).into_response()
        }
        Method::GET if objects.contains_key(&path) => Json(objects[&path].clone()).into_response(),
        _ => {
            let (collection, name) = path.rsplit_once('/').unwrap();
            let resource = collection.rsplit_once('/').map_or(collection, |(_, resource)| resource);
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound",
                "message": format!("{resource} \"{name}\" not found")});
            (StatusCode::NOT_FOUND, Json(status)).into_response()
        }
    }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name, "managedFields": []}, "spec": {"containers": [{"name": "c"}]}})
}

const PODS: &str = "/api/v1/namespaces/default/pods";

fn two_pods() -> Api {
    Api::default()
        .with(PODS, json!({"kind": "PodList", "items": [pod("web-1"), pod("a")]}))
        .with(&format!("{PODS}/web-1"), pod("web-1"))
        .with(&format!("{PODS}/a"), pod("a"))
}

async fn run(session: &Session, line: &str) -> Result<String, String> {
    match carry_out(parse(line).unwrap(), session).await {
        Ok(code) if format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS) => Ok(session.out.taken()),
        Ok(_) => Err("failed".to_owned()),
        Err(error) => Err(server_error(&error).unwrap_or_else(|| format!("{error:#}"))),
    }
}

#[tokio::test]
async fn get_shows_tables_and_objects() {
    let session = two_pods().session();
    assert_eq!(run(&session, "get po").await.unwrap(), "NAME    READY\nweb-1   1/1\na       1/1\n");
    assert_eq!(run(&session, "get pods a -o wide").await.unwrap(), "NAME   READY   IP\na      1/1     10.0.0.1\n");
    assert_eq!(run(&session, "get pod/a pod/web-1 --no-headers").await.unwrap(), "a       1/1\nweb-1   1/1\n");
    assert_eq!(run(&session, "get pods -o name").await.unwrap(), "pod/web-1\npod/a\n");
    assert_eq!(run(&session, "get pod a -o jsonpath={.metadata.name}/{.kind}").await.unwrap(), "a/Pod");
    assert_eq!(run(&session, "get pods -o jsonpath={.items[*].metadata.name}").await.unwrap(), "web-1 a");
    let yaml = run(&session, "get pod a -o yaml").await.unwrap();
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\n") && !yaml.contains("managedFields"), "{yaml}");
}

#[tokio::test]
async fn what_is_not_there_is_told_as_kubectl_tells_it() {
    let session = two_pods().session();
    assert_eq!(run(&session, "get pod x").await.unwrap_err(), "Error from server (NotFound): pods \"x\" not found");
    assert_eq!(run(&session, "get pod x --ignore-not-found").await.unwrap(), "");
    assert_eq!(run(&session, "get gizmos").await.unwrap_err(), "the server doesn't have a resource type \"gizmos\"");
    assert_eq!(run(&session, "delete pod x").await.unwrap_err(), "failed");
    assert_eq!(run(&session, "delete pod x --ignore-not-found").await.unwrap(), "");
}

#[tokio::test]
async fn apply_says_what_it_did() {
    let session = Api::default().session();
    let folder = std::env::temp_dir().join(format!("gantry-apply-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = |value: &str| {
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{k: \"{value}\"}}\n");
        std::fs::write(folder.join("c.yaml"), text).unwrap();
    };
    let line = format!("apply -f {}", folder.display());
    manifest("1");
    assert_eq!(run(&session, &line).await.unwrap(), "configmap/c created\n");
    assert_eq!(run(&session, &line).await.unwrap(), "configmap/c unchanged\n");
    manifest("2");
    assert_eq!(run(&session, &line).await.unwrap(), "configmap/c configured\n");
    std::fs::write(folder.join("c.yaml"), "apiVersion: v2\nkind: Gizmo\nmetadata: {name: c}\n").unwrap();
    assert_eq!(run(&session, &line).await.unwrap_err(), "failed");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn delete_waits_and_says_so() {
    let session = two_pods().session();
    assert_eq!(
        run(&session, "delete pod web-1 a").await.unwrap(),
        "pod \"web-1\" deleted from default namespace\npod \"a\" deleted from default namespace\n"
    );
    assert!(run(&session, "delete pod a --grace-period=0").await.unwrap_err().contains("--force"));
    assert!(run(&session, "delete pod").await.unwrap_err().contains("no name was specified"));
}

#[tokio::test]
async fn scale_looks_before_it_leaps_when_told_to() {
    let scale = "/apis/apps/v1/namespaces/default/deployments/web/scale";
    let session =
        Api::default().with(scale, json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 2}})).session();
    assert_eq!(
        run(&session, "scale deploy/web --replicas=3 --current-replicas=5").await.unwrap_err(),
        "Expected replicas to be 5, was 2"
    );
    assert_eq!(run(&session, "scale deploy web --replicas=3").await.unwrap(), "deployment.apps/web scaled\n");
    assert!(run(&session, "scale pod/web --replicas=3").await.is_err());
}

#[tokio::test]
async fn describe_lays_out_a_pod_and_its_events() {
    let event = json!({"metadata": {"name": "e"}, "type": "Warning", "reason": "FailedScheduling", "message": "0/1 nodes are available.",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingComponent": "default-scheduler"});
    let session =
        two_pods().with("/api/v1/namespaces/default/events", json!({"kind": "EventList", "items": [event]})).session();
    let text = run(&session, "describe pod a").await.unwrap();
    assert!(text.starts_with("Name:             a\nNamespace:        default\nPriority:         0\n"), "{text}");
    assert!(text.contains("Containers:\n  c:\n"), "{text}");
    assert!(text.contains("Events:\n  Type     Reason            Age"), "{text}");
    assert!(text.contains("default-scheduler  0/1 nodes are available.\n"), "{text}");
}
