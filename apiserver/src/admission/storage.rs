//! `DefaultStorageClass`: a claim that asks for no class gets the cluster's default. `StorageObjectInUseProtection`: volumes,
//! claims and their classes stay while they are used. `PersistentVolumeClaimResize`: a claim grows only if its class lets it.

use async_trait::async_trait;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, codec, meta, resources};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::registry::Registry;

const GROUP: &str = "storage.k8s.io";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const BETA_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";

pub(super) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let creates = attributes.operation == Operation::Create && attributes.is("", "persistentvolumeclaims");
        let Some(claim) = object.filter(|_| creates) else {
            return Ok(());
        };
        // An empty name is a choice too: no class at all.
        let chosen =
            meta::annotation(claim, BETA_CLASS).is_some() || meta::get(claim, &["spec", "storageClassName"]).is_some();
        let catalog = registry.catalog();
        if !chosen
            && let Some(classes) = catalog.resource(GROUP, "v1", "storageclasses")
            && let Some(name) = newest_marked(classes, registry, &[DEFAULT, BETA_DEFAULT])?
        {
            meta::object_mut(claim, "spec").insert("storageClassName".to_owned(), json!(name));
        }
        Ok(())
    }
}

/// The newest class that one of the annotations marks as default; of those made in one second the first by name.
pub(super) fn newest_marked(
    classes: &Resource,
    registry: &Registry,
    marks: &[&str],
) -> Result<Option<String>, ApiError> {
    let Some(cache) = registry.cacher().resource(classes) else {
        return Ok(None);
    };
    let mut marked = Vec::new();
    cache.for_each(|entry| {
        // A class is only worth a parse if it may be marked.
        if memchr::memmem::find(&entry.object, b"is-default-class").is_some() {
            marked.push(entry.object.clone());
        }
    });
    let mut newest: Option<(String, String)> = None;
    for bytes in marked {
        let class = codec::decode(&bytes)?;
        let is_default = marks.iter().any(|key| meta::annotation(&class, key) == Some("true"));
        let created = meta::str_at(&class, &["metadata", "creationTimestamp"]).to_owned();
        let name = meta::name(&class).to_owned();
        let newer = newest.as_ref().is_none_or(|(at, other)| created > *at || (created == *at && name < *other));
        if is_default && newer {
            newest = Some((created, name));
        }
    }
    Ok(newest.map(|(_, name)| name))
}

pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        _: &Registry,
    ) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create || !attributes.subresource.is_empty() {
            return Ok(());
        }
        let finalizer = match (attributes.resource.group.as_str(), attributes.resource.plural.as_str()) {
            ("", "persistentvolumes") => "kubernetes.io/pv-protection",
            ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            (GROUP, "volumeattributesclasses") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        let Some(object) = object else { return Ok(()) };
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

pub(super) struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let updates = attributes.operation == Operation::Update && attributes.is("", "persistentvolumeclaims");
        let (Some(new), Some(old)) = (object.filter(|_| updates), attributes.old) else {
            return Ok(());
        };
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
