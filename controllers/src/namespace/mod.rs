//! The namespace controller: empties a namespace that is being deleted, then lets it go.
//!
//! It deletes everything that discovery shows to live in namespaces, pods first and the rest once they are gone,
//! so that nothing is taken from under a running pod. What is left shows in the namespace's conditions. When
//! nothing is left it takes its finalizer off through the subresource `finalize`.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, ResourceExt};

use self::plan::{FINALIZER, Findings};
use crate::machinery::cache::Key;
use crate::machinery::context::Context;
use crate::machinery::discovery::{Served, discover};
use crate::machinery::patch::{post_params, write_status};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_not_found, message_of};

/// Resource types that are emptied at a time.
const TYPES_AT_A_TIME: usize = 8;
/// Objects are listed in pages of this many.
const PAGE: u32 = 500;

/// See the module's description.
#[derive(Debug)]
pub struct NamespaceController {
    context: Arc<Context>,
    queue: Arc<Queue<String>>,
}

impl NamespaceController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<String>> = Arc::default();
        let keys = queue.clone();
        context.caches.namespaces.on_change(move |change| {
            if let Some(namespace) = change.new.filter(|n| is_leaving(n)) {
                keys.add(namespace.name_any());
            }
        });
        let (keys, caches) = (queue.clone(), context.caches.clone());
        context.caches.pods.on_change(move |change| {
            // The last pod of a namespace makes way for the rest.
            let (Some(pod), None) = (change.old, change.new) else {
                return;
            };
            let name = pod.namespace().unwrap_or_default();
            let leaving = caches.namespaces.get(&Key::cluster(name.clone()));
            if leaving.is_some_and(|n| is_leaving(&n)) && caches.pods.in_namespace(&name).is_empty() {
                keys.add(name);
            }
        });
        Arc::new(NamespaceController { context, queue })
    }
}

fn is_leaving(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

fn has_our_finalizer(namespace: &Namespace) -> bool {
    let spec = namespace.spec.as_ref();
    let finalizers = spec.and_then(|spec| spec.finalizers.as_ref());
    finalizers.is_some_and(|all| all.iter().any(|finalizer| finalizer == FINALIZER))
}

impl Controller for NamespaceController {
    type Key = String;

    fn name(&self) -> &'static str {
        "namespace"
    }

    fn queue(&self) -> &Queue<String> {
        &self.queue
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, Error> {
        let api: Api<Namespace> = Api::all(self.context.client.clone());
        let Some(namespace) = api.get_opt(name).await? else {
            return Ok(Outcome::Done);
        };
        if !is_leaving(&namespace) || !has_our_finalizer(&namespace) {
            return Ok(Outcome::Done);
        }
        let findings = self.empty(name).await;
        let before = namespace.status.clone().unwrap_or_default();
        let clean = findings.is_clean();
        let mut current = namespace.clone();
        // A namespace that is empty at once goes without a word.
        if !clean || before.conditions.is_some() {
            let after = plan::status(&before, &findings, Timestamp::now());
            if let Some(written) = write_status(&api, &namespace, &before, &after).await? {
                current = written;
            }
        }
        if !clean {
            return Ok(Outcome::After(findings.again()));
        }
        finalize(&api, current).await?;
        Ok(Outcome::Done)
    }
}

async fn finalize(api: &Api<Namespace>, mut namespace: Namespace) -> Result<(), Error> {
    let name = namespace.name_any();
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let done: Result<Namespace, _> = api.replace_subresource("finalize", &name, &post_params(), &namespace).await;
    match done {
        Err(error) if !is_not_found(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// What one resource type has come to.
#[derive(Default)]
struct Emptied {
    errors: Vec<String>,
    remaining: usize,
    finalizers: Vec<String>,
}

impl NamespaceController {
    async fn empty(&self, namespace: &str) -> Findings {
        let mut findings = Findings::default();
        let served = match discover(&self.context.client).await {
            Ok(served) => served,
            Err(error) => {
                findings.discovery_error = Some(message_of(&error));
                return findings;
            }
        };
        let (pods, rest): (Vec<Served>, Vec<Served>) = served
            .into_iter()
            .filter(|served| served.namespaced && served.deletable)
            .partition(|s| s.resource.group.is_empty() && s.resource.plural == "pods");
        for types in [pods, rest] {
            self.empty_types(namespace, types, &mut findings).await;
            if !findings.is_clean() {
                break;
            }
        }
        if findings.remaining.contains_key("pods.") {
            findings.grace = self.grace(namespace).await;
        }
        findings
    }

    async fn empty_types(&self, namespace: &str, types: Vec<Served>, findings: &mut Findings) {
        let mut results = futures::stream::iter(types)
            .map(|served| async move {
                let emptied = self.empty_type(namespace, &served).await;
                (served, emptied)
            })
            .buffer_unordered(TYPES_AT_A_TIME);
        while let Some((served, emptied)) = results.next().await {
            findings.delete_errors.extend(emptied.errors);
            if emptied.remaining > 0 {
                let name = format!("{}.{}", served.resource.plural, served.resource.group);
                findings.remaining.insert(name, emptied.remaining);
            }
            for finalizer in emptied.finalizers {
                *findings.finalizers.entry(finalizer).or_default() += 1;
            }
        }
    }

    async fn empty_type(&self, namespace: &str, served: &Served) -> Emptied {
        let client = self.context.client.clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &served.resource);
        let mut emptied = Emptied::default();
        let mut all_at_once = false;
        if served.collection_deletable {
            let delete = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
            all_at_once = match delete {
                Ok(_) => true,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => false,
                Err(error) => {
                    emptied.errors.push(message_of(&error));
                    true
                }
            };
        }
        if let Err(error) = self.look(&api, all_at_once, &mut emptied).await
            && !matches!(&error, kube::Error::Api(status) if matches!(status.code, 404 | 405))
        {
            emptied.errors.push(message_of(&error));
        }
        emptied
    }

    /// Counts what is left, deleting it one by one where that can't be done all at once.
    async fn look(
        &self,
        api: &Api<DynamicObject>,
        all_at_once: bool,
        emptied: &mut Emptied,
    ) -> Result<(), kube::Error> {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list_metadata(&params).await?;
            for object in page.items {
                if !all_at_once && object.metadata.deletion_timestamp.is_none() {
                    let deleted = api.delete(&object.name_any(), &DeleteParams::background()).await;
                    match deleted {
                        // Gone at once, with nothing that could hold it.
                        Ok(_) if object.finalizers().is_empty() => continue,
                        Ok(_) => {}
                        Err(error) if is_not_found(&error) => continue,
                        Err(error) => emptied.errors.push(message_of(&error)),
                    }
                }
                emptied.remaining += 1;
                emptied.finalizers.extend(object.metadata.finalizers.unwrap_or_default());
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }

    /// How long the namespace's pods may still take to end.
    async fn grace(&self, namespace: &str) -> Option<Duration> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        let pods = api.list(&ListParams::default().limit(PAGE)).await.ok()?;
        pods.items
            .iter()
            .filter_map(|pod| pod.metadata.deletion_grace_period_seconds)
            .max()
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs)
    }
}
