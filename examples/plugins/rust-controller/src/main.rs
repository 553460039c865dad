//! A controller of a kind of its own, written with kube-runtime as anyone would. For every Page it keeps a ConfigMap with
//! the text and a Deployment that serves it, lists the page in the namespace's index, and tells in the Page's status how
//! many pods serve it.
//!
//! It is configured like every program of the kube crate (`KUBECONFIG`, or the account of the pod it runs in), says what it
//! wants by server-side apply, and knows nothing of the server but the Kubernetes API.

mod page;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::page::{Page, PageStatus};

/// Who writes, as managed fields and events name it.
const NAME: &str = "page-controller";
/// Holds a Page back until the index names it no more.
const FINALIZER: &str = "plugins.example.io/index";
/// The ConfigMap that lists a namespace's pages.
const INDEX: &str = "page-index";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server refused")]
    Api(#[from] kube::Error),
    #[error("the finalizer could not be handled")]
    Finalizer(#[source] Box<finalizer::Error<Error>>),
}

struct Context {
    client: Client,
    recorder: Recorder,
}

/// Makes what a Page wants, or takes leave of it.
async fn reconcile(page: Arc<Page>, context: Arc<Context>) -> Result<Action, Error> {
    let pages = context.api::<Page>(&page);
    let done = finalizer(&pages, FINALIZER, page, |event| async {
        match event {
            finalizer::Event::Apply(page) => context.serve(&page).await,
            finalizer::Event::Cleanup(page) => context.farewell(&page).await,
        }
    });
    done.await.map_err(|error| Error::Finalizer(Box::new(error)))
}

impl Context {
    fn api<K>(&self, page: &Page) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &page.namespace().unwrap_or_default())
    }

    async fn serve(&self, page: &Page) -> Result<Action, Error> {
        let mine = PatchParams::apply(NAME).force();
        self.list_in_index(page, BTreeMap::from([(page.name_any(), page.spec.text.clone())])).await?;
        let content = content(page);
        self.api::<ConfigMap>(page).patch(&page.name_any(), &mine, &Patch::Apply(&content)).await?;
        let deployment = deployment(page);
        let deployment =
            self.api::<Deployment>(page).patch(&page.name_any(), &mine, &Patch::Apply(&deployment)).await?;
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        self.tell(page, ready).await?;
        Ok(Action::await_change())
    }

    /// Each page applies its entry as a manager of its own, so that what it no longer names goes, and nothing else.
    async fn list_in_index(&self, page: &Page, entry: BTreeMap<String, String>) -> Result<(), Error> {
        let manager = PatchParams::apply(&format!("{NAME}-{}", page.name_any())).force();
        let index = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": INDEX}, "data": entry});
        self.api::<ConfigMap>(page).patch(INDEX, &manager, &Patch::Apply(&index)).await?;
        Ok(())
    }

    /// Writes the status if it is not what the server has.
    async fn tell(&self, page: &Page, ready: i32) -> Result<(), Error> {
        let before = page.status.clone().unwrap_or_default();
        let status = status(page, ready, Timestamp::now());
        if status == before {
            return Ok(());
        }
        let kind = Page::kind(&());
        let patch = json!({"apiVersion": Page::api_version(&()), "kind": kind, "status": status});
        let mine = PatchParams::apply(NAME).force();
        self.api::<Page>(page).patch_status(&page.name_any(), &mine, &Patch::Apply(&patch)).await?;
        let state = |status: &PageStatus| status.conditions.first().map(|condition| condition.status.clone());
        if state(&status) != state(&before) {
            let condition = &status.conditions[0];
            let event = Event {
                type_: EventType::Normal,
                reason: condition.reason.clone(),
                note: Some(condition.message.clone()),
                action: "Reconcile".into(),
                secondary: None,
            };
            self.recorder.publish(&event, &page.object_ref(&())).await?;
        }
        Ok(())
    }

    /// Takes a Page that is being deleted out of the index. Its ConfigMap and Deployment name it as their owner and go by
    /// themselves.
    async fn farewell(&self, page: &Page) -> Result<Action, Error> {
        if self.api::<ConfigMap>(page).get_opt(INDEX).await?.is_some() {
            self.list_in_index(page, BTreeMap::new()).await?;
        }
        Ok(Action::await_change())
    }
}

/// What the status should be, given how many pods are ready.
fn status(page: &Page, ready: i32, now: Timestamp) -> PageStatus {
    let before = page.status.as_ref().and_then(|status| status.conditions.first());
    let all = ready >= page.spec.replicas;
    let state = if all { "True" } else { "False" };
    let since =
        before.filter(|condition| condition.status == state).map(|condition| condition.last_transition_time.clone());
    // The server keeps whole seconds.
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let condition = Condition {
        type_: "Ready".into(),
        status: state.into(),
        reason: if all { "Serving" } else { "Starting" }.into(),
        message: if all { "All pods are ready" } else { "Not all pods are ready" }.into(),
        last_transition_time: since.unwrap_or(now),
        observed_generation: page.meta().generation,
    };
    PageStatus {
        observed_generation: page.meta().generation.unwrap_or(0),
        ready_replicas: ready,
        conditions: vec![condition],
    }
}

fn content(page: &Page) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": page.name_any(), "labels": {"page": page.name_any()}, "ownerReferences": [page.controller_owner_ref(&())],
        },
        "data": {"index.html": page.spec.text},
    })
}

fn deployment(page: &Page) -> serde_json::Value {
    let labels = json!({"page": page.name_any()});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": page.name_any(), "ownerReferences": [page.controller_owner_ref(&())]},
        "spec": {
            "replicas": page.spec.replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "httpd",
                        "image": "gantry.local/busybox:1.35",
                        "command": ["busybox", "httpd", "-f", "-p", "8080", "-h", "/www"],
                        "volumeMounts": [{"name": "content", "mountPath": "/www"}],
                    }],
                    "volumes": [{"name": "content", "configMap": {"name": page.name_any()}}],
                },
            },
        },
    })
}

fn try_again(page: Arc<Page>, error: &Error, _: Arc<Context>) -> Action {
    eprintln!("{}: {}", page.name_any(), with_causes(error));
    Action::requeue(Duration::from_secs(1))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[tokio::main]
async fn main() -> Result<(), kube::Error> {
    let client = Client::try_default().await?;
    let reporter = Reporter { controller: NAME.into(), instance: None };
    let context = Context { client: client.clone(), recorder: Recorder::new(client.clone(), reporter) };
    let ours = watcher::Config::default().labels("page");
    Controller::new(Api::<Page>::all(client.clone()), watcher::Config::default())
        .owns(Api::<Deployment>::all(client.clone()), watcher::Config::default())
        .owns(Api::<ConfigMap>::all(client), ours)
        .shutdown_on_signal()
        .run(reconcile, try_again, Arc::new(context))
        .for_each(|done| async {
            if let Err(error) = done {
                eprintln!("{}", with_causes(&error));
            }
        })
        .await;
    Ok(())
}
