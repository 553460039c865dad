//! Binding, the action subresource of pods by which the scheduler decides.

use gantry_api::engine::Binding;
use gantry_api::kinds::Resource;
use gantry_api::policy::room::IF_FITS_ANNOTATION;
use gantry_api::{ApiError, FieldError, Reason};
use gantry_store::Error;
use jiff::Timestamp;
use serde_json::Value;

use super::update::{CONFLICT_ATTEMPTS_MAX, Target, modified};
use super::{Caller, Current, Registry, errors};
use crate::admission::{Attributes, Operation};

impl Registry {
    /// Binds a pod to a node, once.
    pub async fn bind(
        &self,
        pods: &Resource,
        namespace: &str,
        name: &str,
        binding: &Value,
        caller: &Caller,
    ) -> Result<(), ApiError> {
        Binding::of(binding, name)?;
        let target = Target { resource: pods, subresource: "binding", namespace, name };
        let mut admitted = binding.clone();
        self.admit(&Attributes::new(Operation::Create, target, caller), &mut admitted).await?;
        let if_fits = asks_for_room(&mut admitted, name)?;
        let binding = Binding::of(&admitted, name)?;
        if if_fits {
            return self.bind_if_fits(target, &binding, caller).await;
        }
        // What the cache has is most often what is stored; that it is not shows when it is written, or refused.
        if let Some(entry) = self.cached(pods, namespace, name) {
            match self.bind_once(&Current::of(&entry), &binding, caller).await {
                Ok(true) => return Ok(()),
                Err(error) if error.reason != Reason::Conflict => return Err(error),
                Ok(false) | Err(_) => {}
            }
        }
        for _ in 0..CONFLICT_ATTEMPTS_MAX {
            let current = self.current(pods, namespace, name).await?;
            if self.bind_once(&current, &binding, caller).await? {
                return Ok(());
            }
        }
        Err(modified(&target))
    }

    /// False if the pod is not what it was any more.
    async fn bind_once(&self, current: &Current, binding: &Binding<'_>, caller: &Caller) -> Result<bool, ApiError> {
        let bound = binding.apply(&current.bytes, Timestamp::now())?;
        if caller.dry_run {
            return Ok(true);
        }
        match self.put(current, bound).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict { .. }) => Ok(false),
            Err(error) => Err(errors::from_store(error)),
        }
    }
}

/// Whether the binding is to be refused where the pod does not fit. That is about the request, not about the pod.
fn asks_for_room(binding: &mut Value, name: &str) -> Result<bool, ApiError> {
    let annotations = binding.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let asked = annotations.and_then(|annotations| annotations.remove(IF_FITS_ANNOTATION));
    match asked.as_ref().map(|asked| asked.as_str().unwrap_or_default()) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            let path = format!("metadata.annotations[{IF_FITS_ANNOTATION}]");
            let error = FieldError::not_supported(path, other, &["true", "false"]);
            Err(ApiError::invalid("", "Binding", name, vec![error]))
        }
    }
}
