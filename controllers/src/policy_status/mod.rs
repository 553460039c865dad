//! Tells in the status of ValidatingAdmissionPolicies which of their expressions do not fit the kinds that they are about.
//! Each generation of a policy is looked at once.

use std::sync::Arc;

use gantry_api::cel::Type;
use gantry_api::kinds::{Catalog, Gvk};
use gantry_api::policy::type_check::{KINDS_MAX, Subject, subjects, warnings};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::machinery::cache::Key;
use crate::machinery::context::Context;
use crate::machinery::patch::patch_params;
use crate::machinery::queue::Queue;
use crate::machinery::runner::{Controller, Outcome};
use crate::machinery::{Error, is_not_found};

/// See the module's description.
#[derive(Debug)]
pub struct PolicyStatusController {
    context: Arc<Context>,
    queue: Arc<Queue<String>>,
    builtin: Catalog,
}

/// Whether the status is about an older generation.
fn is_due(policy: &ValidatingAdmissionPolicy) -> bool {
    let observed = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or_default();
    policy.metadata.generation.unwrap_or_default() > observed
}

/// The version's kind and type, if the definition serves it.
fn served(definition: &CustomResourceDefinition, version: &str) -> Option<(Gvk, Type)> {
    let spec = &definition.spec;
    let found = spec.versions.iter().find(|known| known.served && known.name == version)?;
    let schema = serde_json::to_value(found.schema.as_ref()?.open_api_v3_schema.as_ref()?).ok()?;
    Some((Gvk::new(&spec.group, version, &spec.names.kind), Type::of_structural(&schema, true)?))
}

impl PolicyStatusController {
    /// The controller, listening to the shared caches.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        let queue: Arc<Queue<String>> = Arc::default();
        let keys = queue.clone();
        context.caches.validating_policies.on_change(move |change| {
            if let Some(policy) = change.new.filter(|policy| is_due(policy)) {
                keys.add(policy.name_any());
            }
        });
        Arc::new(PolicyStatusController { context, queue, builtin: Catalog::builtin() })
    }

    fn definitions(&self) -> Api<CustomResourceDefinition> {
        Api::all(self.context.client.clone())
    }

    /// The kind and type of a resource; none if there is no such.
    async fn kind_of(&self, subject: &Subject) -> Result<Option<(Gvk, Type)>, Error> {
        let Subject { group, version, resource } = subject;
        if let Some(found) = self.builtin.resource(group, version, resource) {
            return Ok(Some((found.gvk(), Type::of_schema(found.schema()))));
        }
        if group.is_empty() {
            return Ok(None);
        }
        let definition = self.definitions().get_opt(&format!("{resource}.{group}")).await?;
        Ok(definition.and_then(|definition| served(&definition, version)))
    }

    /// The type of a policy's parameters.
    async fn params(&self, policy: &Value) -> Result<Option<Type>, Error> {
        let text = |key: &str| policy["spec"]["paramKind"][key].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if kind.is_empty() {
            return Ok(None);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if let Some(found) = self.builtin.by_gvk(group, version, kind) {
            return Ok(Some(Type::of_schema(found.schema())));
        }
        let all = self.definitions().list(&ListParams::default()).await?;
        let found = all.iter().find(|d| d.spec.group == group && d.spec.names.kind == kind);
        Ok(found.and_then(|definition| served(definition, version)).map(|(_, ty)| ty))
    }
}

impl Controller for PolicyStatusController {
    type Key = String;

    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status"
    }

    fn queue(&self) -> &Queue<String> {
        &self.queue
    }

    async fn reconcile(&self, name: &String) -> Result<Outcome, Error> {
        let policy = self.context.caches.validating_policies.get(&Key::cluster(name.clone()));
        let Some(policy) = policy.filter(|policy| is_due(policy)) else { return Ok(Outcome::Done) };
        let value = serde_json::to_value(&*policy)?;
        let mut kinds = Vec::new();
        for subject in subjects(&value) {
            if kinds.len() < KINDS_MAX {
                kinds.extend(self.kind_of(&subject).await?);
            }
        }
        let params = self.params(&value).await?;
        let mut type_checking = json!({});
        let found = warnings(&value, &kinds, params.as_ref());
        if !found.is_empty() {
            type_checking["expressionWarnings"] = Value::from(found);
        }
        let patch = json!({
            "metadata": {"uid": policy.metadata.uid},
            "status": {"observedGeneration": policy.metadata.generation, "typeChecking": type_checking},
        });
        let api: Api<ValidatingAdmissionPolicy> = Api::all(self.context.client.clone());
        match api.patch_status(name, &patch_params(), &Patch::Merge(&patch)).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}
