//! Binding, the action subresource of pods by which the scheduler decides.

use gantry_api::engine::Binding;
use gantry_api::kinds::Resource;
use gantry_api::{ApiError, Reason};
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
        let binding = Binding::of(&admitted, name)?;
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
