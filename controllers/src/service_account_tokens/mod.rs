//! Fills Secrets of type `kubernetes.io/service-account-token` with a token of their account, the cluster's CA and the
//! namespace, and deletes them when the account goes.
//!
//! The token is asked for as any client asks for one, bound to the Secret: it ends when the Secret does.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::plan::{ANNOTATION_NAME, ANNOTATION_UID, Step, plan};
use crate::machinery::cache::Key;
use crate::machinery::context::{Context, of_account};
use crate::machinery::patch::{patch_params, post_params};
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_not_found};

/// The longest life that may be asked for: the token is to live as long as its Secret.
const TOKEN_SECONDS: i64 = 1 << 32;

/// See the module's description.
#[derive(Debug)]
pub struct ServiceAccountTokensController {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

fn key(secret: &Secret) -> Key {
    Key::new(secret.namespace().unwrap_or_default(), secret.name_any())
}

impl ServiceAccountTokensController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<Key>> = Arc::default();
        let keys = queue.clone();
        context.caches.token_secrets.on_change(move |change| {
            if let Some(secret) = change.new {
                keys.add(key(secret));
            }
        });
        let (keys, secrets) = (queue.clone(), context.caches.token_secrets.clone());
        context.caches.service_accounts.on_change(move |change| {
            // Only that an account comes or goes matters.
            if let (Some(account), None) | (None, Some(account)) = (change.old, change.new) {
                let of = of_account(&account.namespace().unwrap_or_default(), &account.name_any());
                secrets.indexed(&of).iter().for_each(|secret| keys.add(key(secret)));
            }
        });
        Arc::new(ServiceAccountTokensController { context, queue })
    }

    async fn account(&self, secret: &Secret) -> Result<Option<Arc<ServiceAccount>>, Error> {
        let (namespace, name) = (secret.namespace().unwrap_or_default(), account_name(secret));
        if let Some(account) = self.context.caches.service_accounts.get(&Key::new(namespace.clone(), name.clone())) {
            return Ok(Some(account));
        }
        // A Secret may be known before its account is: it must not go because of that.
        let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), &namespace);
        Ok(api.get_opt(&name).await?.map(Arc::new))
    }

    async fn token(&self, secret: &Secret) -> Result<String, Error> {
        let api: Api<ServiceAccount> =
            Api::namespaced(self.context.client.clone(), &secret.namespace().unwrap_or_default());
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Secret".into()),
                    name: secret.metadata.name.clone(),
                    uid: secret.metadata.uid.clone(),
                }),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let made = api.create_token_request(&account_name(secret), &post_params(), &request).await?;
        Ok(made.status.map(|status| status.token).unwrap_or_default())
    }

    async fn act(&self, secret: &Secret, step: Step) -> Result<(), Error> {
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &secret.namespace().unwrap_or_default());
        let name = secret.name_any();
        match step {
            Step::Delete => {
                let preconditions = Preconditions {
                    uid: secret.metadata.uid.clone(),
                    resource_version: secret.metadata.resource_version.clone(),
                };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                api.delete(&name, &params).await?;
            }
            Step::Fill { account_uid, data, token } => {
                let mut data: serde_json::Map<String, serde_json::Value> =
                    data.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
                if token {
                    data.insert("token".to_owned(), self.token(secret).await?.into());
                }
                let patch = json!({
                    "metadata": {
                        "uid": secret.metadata.uid, "resourceVersion": secret.metadata.resource_version,
                        "annotations": {ANNOTATION_UID: account_uid},
                    },
                    "stringData": data,
                });
                api.patch(&name, &patch_params(), &Patch::Merge(&patch)).await?;
            }
        }
        Ok(())
    }
}

fn account_name(secret: &Secret) -> String {
    secret.annotations().get(ANNOTATION_NAME).cloned().unwrap_or_default()
}

/// The index name of the Secrets of an account.
pub fn index(secret: &Secret) -> Vec<String> {
    vec![of_account(&secret.namespace().unwrap_or_default(), &account_name(secret))]
}

pub use plan::TYPE;

impl Controller for ServiceAccountTokensController {
    type Key = Key;

    fn name(&self) -> &'static str {
        "service-account-tokens"
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(secret) = self.context.caches.token_secrets.get(key) else { return Ok(Outcome::Done) };
        let account = self.account(&secret).await?;
        let Some(step) = plan(&secret, account.as_deref(), self.context.options.ca_pem.as_deref()) else {
            return Ok(Outcome::Done);
        };
        match self.act(&secret, step).await {
            // The Secret or its account went away meanwhile: its event brings the next round.
            Err(Error::Api(error)) if is_not_found(&error) => Ok(Outcome::Done),
            other => other.map(|()| Outcome::Done),
        }
    }
}
