//! `DefaultStorageClass` and `DefaultIngressClass`: what asks for no class gets the one that the cluster marks as default.

use async_trait::async_trait;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, codec, meta};
use serde_json::{Value, json};

use super::{Attributes, Operation, Phases, Plugin};
use crate::registry::Registry;

/// Gives objects of one kind the default class of another.
pub(super) struct DefaultClass {
    name: &'static str,
    /// Group and resource of what gets a class.
    objects: (&'static str, &'static str),
    /// The field of its spec that names the class.
    field: &'static str,
    /// The annotation that did before there was a field.
    annotation: &'static str,
    /// Group and resource of the classes.
    classes: (&'static str, &'static str),
    /// The annotations that mark one as default.
    marks: &'static [&'static str],
}

/// Of claims.
pub(super) const STORAGE: DefaultClass = DefaultClass {
    name: "DefaultStorageClass",
    objects: ("", "persistentvolumeclaims"),
    field: "storageClassName",
    annotation: "volume.beta.kubernetes.io/storage-class",
    classes: ("storage.k8s.io", "storageclasses"),
    marks: &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"],
};

/// Of ingresses.
pub(super) const INGRESS: DefaultClass = DefaultClass {
    name: "DefaultIngressClass",
    objects: ("networking.k8s.io", "ingresses"),
    field: "ingressClassName",
    annotation: "kubernetes.io/ingress.class",
    classes: ("networking.k8s.io", "ingressclasses"),
    marks: &["ingressclass.kubernetes.io/is-default-class"],
};

#[async_trait]
impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        let (group, plural) = self.objects;
        Phases::admit_if(attributes.operation == Operation::Create && attributes.is(group, plural))
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>, registry: &Registry) -> Result<(), ApiError> {
        let Some(object) = object else { return Ok(()) };
        // An empty name is a choice too: no class at all.
        let chosen =
            meta::annotation(object, self.annotation).is_some() || meta::get(object, &["spec", self.field]).is_some();
        let catalog = registry.catalog();
        let (group, plural) = self.classes;
        if !chosen
            && let Some(classes) = catalog.resource(group, "v1", plural)
            && let Some(name) = newest_marked(classes, registry, self.marks)?
        {
            meta::object_mut(object, "spec").insert(self.field.to_owned(), json!(name));
        }
        Ok(())
    }
}

/// The newest class that one of the annotations marks as default; of those made in one second the first by name.
fn newest_marked(classes: &Resource, registry: &Registry, marks: &[&str]) -> Result<Option<String>, ApiError> {
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
