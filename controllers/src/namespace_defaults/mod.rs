//! Gives every active namespace the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`, and restores
//! them when they are removed or changed.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::Patch;
use kube::{Api, ResourceExt};

use self::plan::{DEFAULT_ACCOUNT, Step, plan};
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, ROOT_CA};
use crate::machinery::patch::{patch_params, post_params};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_already_exists, is_namespace_terminating, is_not_found};

/// See the module's description.
#[derive(Debug)]
pub struct NamespaceDefaultsController {
    context: Arc<Context>,
    queue: Arc<Queue<String>>,
}

impl NamespaceDefaultsController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<String>> = Arc::default();
        let keys = queue.clone();
        context.caches.namespaces.on_change(move |change| {
            if let Some(namespace) = change.new {
                keys.add(namespace.name_any());
            }
        });
        let keys = queue.clone();
        context.caches.service_accounts.on_change(move |change| {
            if let (Some(old), None) = (change.old, change.new)
                && old.name_any() == DEFAULT_ACCOUNT
            {
                keys.add(old.namespace().unwrap_or_default());
            }
        });
        let keys = queue.clone();
        context.caches.root_cas.on_change(move |change| {
            if let Some(map) = change.sides().next() {
                keys.add(map.namespace().unwrap_or_default());
            }
        });
        Arc::new(NamespaceDefaultsController { context, queue })
    }
}

impl Controller for NamespaceDefaultsController {
    type Key = String;

    fn name(&self) -> &'static str {
        "namespace-defaults"
    }

    fn queue(&self) -> &Queue<String> {
        &self.queue
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, Error> {
        let caches = &self.context.caches;
        let Some(namespace) = caches.namespaces.get(&Key::cluster(name.clone())) else {
            return Ok(Outcome::Done);
        };
        let account = Key::new(name.clone(), DEFAULT_ACCOUNT);
        let has_account = caches.service_accounts.get(&account).is_some();
        let root_ca = caches.root_cas.get(&Key::new(name.clone(), ROOT_CA));
        let steps = plan(&namespace, has_account, root_ca.as_deref(), self.context.options.ca_pem.as_deref());
        for step in steps {
            match self.act(name, step).await {
                Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => {}
                // The namespace or the ConfigMap went away meanwhile; its event brings the next round.
                Err(error) if is_not_found(&error) => {}
                other => other?,
            }
        }
        Ok(Outcome::Done)
    }
}

impl NamespaceDefaultsController {
    async fn act(&self, namespace: &str, step: Step) -> Result<(), kube::Error> {
        let client = self.context.client.clone();
        match step {
            Step::CreateAccount(account) => {
                let api: Api<ServiceAccount> = Api::namespaced(client, namespace);
                api.create(&post_params(), &account).await.map(|_| ())
            }
            Step::CreateCa(map) => {
                let api: Api<ConfigMap> = Api::namespaced(client, namespace);
                api.create(&post_params(), &map).await.map(|_| ())
            }
            Step::MendCa(patch) => {
                let api: Api<ConfigMap> = Api::namespaced(client, namespace);
                api.patch(ROOT_CA, &patch_params(), &Patch::Merge(&patch)).await.map(|_| ())
            }
        }
    }
}
