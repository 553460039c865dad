//! `StorageObjectInUseProtection`: volumes, claims and their classes stay while they are used. `PersistentVolumeClaimResize`: a
//! claim grows only if its class lets it.

use async_trait::async_trait;
use gantry_api::{ApiError, meta, resources};
use serde_json::{Value, json};

use super::{Attributes, Operation, Phases, Plugin};
use crate::registry::Registry;

const GROUP: &str = "storage.k8s.io";

pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        let creates = attributes.operation == Operation::Create && attributes.subresource.is_empty();
        Phases::admit_if(creates && finalizer_of(attributes).is_some())
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        _: &Registry,
    ) -> Result<(), ApiError> {
        let (Some(object), Some(finalizer)) = (object, finalizer_of(attributes)) else { return Ok(()) };
        if !meta::finalizers(object).any(|present| present == finalizer) {
            let finalizers = meta::metadata_mut(object).entry("finalizers").or_insert_with(|| json!([]));
            if finalizers.is_null() {
                *finalizers = json!([]);
            }
            if let Some(finalizers) = finalizers.as_array_mut() {
                finalizers.push(json!(finalizer));
            }
        }
        Ok(())
    }
}

/// What keeps an object of the resource while it is used.
fn finalizer_of(attributes: &Attributes<'_>) -> Option<&'static str> {
    Some(match (attributes.resource.group.as_str(), attributes.resource.plural.as_str()) {
        ("", "persistentvolumes") => "kubernetes.io/pv-protection",
        ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
        (GROUP, "volumeattributesclasses") => "kubernetes.io/vac-protection",
        _ => return None,
    })
}

pub(super) struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        Phases::validate_if(attributes.operation == Operation::Update && attributes.is("", "persistentvolumeclaims"))
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let (Some(new), Some(old)) = (object, attributes.old) else { return Ok(()) };
        let size =
            |claim: &Value| resources::parse(meta::get(claim, &["spec", "resources", "requests"])).remove("storage");
        if size(new) <= size(old) {
            return Ok(());
        }
        if meta::str_at(old, &["status", "phase"]) != "Bound" {
            return Err(attributes.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = meta::str_at(new, &["spec", "storageClassName"]);
        let catalog = registry.catalog();
        let found = match catalog.resource(GROUP, "v1", "storageclasses") {
            Some(classes) if !class.is_empty() => registry.look_up(classes, "", class).await?,
            _ => None,
        };
        if found.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        Err(attributes.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}
