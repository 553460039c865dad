//! `Priority`: a pod's priority class becomes a number, and at most one class is the default of all pods.

use std::sync::Arc;

use async_trait::async_trait;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, codec, meta};
use serde_json::{Value, json};

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::{Known, Registry};

const GROUP: &str = "scheduling.k8s.io";
/// What preempts whom where no class says so.
const DEFAULT_POLICY: &str = "PreemptLowerPriority";

pub(super) struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        Phases {
            admit: writes && attributes.is("", "pods"),
            validate: writes && attributes.is(GROUP, "priorityclasses"),
        }
    }

    fn depends_on(&self, _: &Attributes<'_>, _: &Registry) -> Dependence {
        Dependence::Kind(Known::PriorityClasses)
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(pod) = object else { return Ok(()) };
        if attributes.operation == Operation::Create {
            return resolve(attributes, pod, registry).await;
        }
        keep(attributes, pod);
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(class) = object.filter(|class| class["globalDefault"] == true) else {
            return Ok(());
        };
        let present = default_class(registry)?;
        let present = present.as_ref().map(meta::name);
        match present {
            Some(name) if attributes.operation == Operation::Create || name != meta::name(class) => Err(attributes
                .forbidden(format!("PriorityClass {name} is already marked as default. Only one default can exist"))),
            _ => Ok(()),
        }
    }
}

/// What the class of a pod said when it was made stays, though the client leaves it out.
fn keep(attributes: &Attributes<'_>, pod: &mut Value) {
    let Some(old) = attributes.old else { return };
    for field in ["priority", "preemptionPolicy"] {
        if let Some(value) = meta::get(old, &["spec", field]) {
            let present = meta::object_mut(pod, "spec").entry(field).or_insert(Value::Null);
            if present.is_null() {
                *present = value.clone();
            }
        }
    }
}

async fn resolve(attributes: &Attributes<'_>, pod: &mut Value, registry: &Registry) -> Result<(), ApiError> {
    let named = meta::str_at(pod, &["spec", "priorityClassName"]).to_owned();
    let class = if named.is_empty() {
        default_class(registry)?
    } else {
        let catalog = registry.catalog();
        let found = match catalog.resource(GROUP, "v1", "priorityclasses") {
            Some(classes) => registry.look_up(classes, "", &named).await?,
            None => None,
        };
        let missing = || attributes.forbidden(format!("no PriorityClass with name {named} was found"));
        Some(found.ok_or_else(missing)?)
    };
    let priority = class.as_ref().and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let policy = match &class {
        Some(class) => class["preemptionPolicy"].as_str(),
        None => Some(DEFAULT_POLICY),
    };
    let spec = meta::object_mut(pod, "spec");
    if let (Some(class), true) = (&class, named.is_empty()) {
        spec.insert("priorityClassName".to_owned(), json!(meta::name(class)));
    }
    if let Some(given) = spec.get("priority").and_then(Value::as_i64)
        && given != priority
    {
        return Err(attributes.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        )));
    }
    spec.insert("priority".to_owned(), json!(priority));
    let Some(policy) = policy else { return Ok(()) };
    if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str)
        && given != policy
    {
        return Err(attributes.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    spec.insert("preemptionPolicy".to_owned(), json!(policy));
    Ok(())
}

/// The class of pods that name none; of several, which a race may leave, the lowest.
fn default_class(registry: &Registry) -> Result<Option<Value>, ApiError> {
    let catalog = registry.catalog();
    let classes: Option<&Arc<Resource>> = catalog.resource(GROUP, "v1", "priorityclasses");
    let Some(cache) = classes.and_then(|classes| registry.cacher().resource(classes)) else {
        return Ok(None);
    };
    let mut defaults = Vec::new();
    cache.for_each(|entry| {
        // A class is only worth a parse if it may be the default.
        if memchr::memmem::find(&entry.object, b"\"globalDefault\":true").is_some() {
            defaults.push(entry.object.clone());
        }
    });
    let mut lowest: Option<Value> = None;
    for bytes in defaults {
        let class = codec::decode(&bytes)?;
        let value = class["value"].as_i64();
        if class["globalDefault"] == true && lowest.as_ref().is_none_or(|lowest| value < lowest["value"].as_i64()) {
            lowest = Some(class);
        }
    }
    Ok(lowest)
}
