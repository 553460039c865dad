//! `MutatingAdmissionWebhook` and `ValidatingAdmissionWebhook`: servers outside that complete or refuse writes.
//!
//! ```text
//! write ─▶ index of compiled configurations ─▶ selectors, conditions ─▶ review ─▶ HTTPS ─▶ verdict ─▶ patch, refusal
//! ```
//!
//! Mutating webhooks are asked one after the other, in the order of their configurations' names; validating ones all at once.
//! A webhook that cannot be asked refuses the write or is passed over, as its `failurePolicy` says.

mod hook;
mod review;

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use gantry_api::{ApiError, engine, patch};
use serde_json::Value;

pub use review::request as review_request;

use super::attributes::Attributes;
use super::compiled::{Candidate, Compiled, is_exempt};
use super::expressions::Inputs;
use super::rules::Shown;
use super::{Phases, Plugin, Rounds};
use crate::registry::{Known, Registry};
use crate::webhook::Client;
use hook::Hook;
use review::Verdict;

/// How many validating webhooks are asked at once about one write. More wait for their turn, within the time of the request.
const PARALLEL_MAX: usize = 32;

/// Why a webhook did not let a write pass.
enum Failure {
    /// It could not be asked, or its answer is none: its `failurePolicy` decides.
    Call(String),
    /// It, or the server, refused.
    Refusal(ApiError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure::Refusal(error)
    }
}

/// Asks webhooks that may change the object.
pub struct MutatingWebhooks {
    hooks: Compiled<Hook>,
    client: Arc<Client>,
}

/// Asks webhooks that may only refuse it.
pub struct ValidatingWebhooks {
    hooks: Compiled<Hook>,
    client: Arc<Client>,
}

impl MutatingWebhooks {
    /// Asks with this client.
    pub fn new(client: Arc<Client>) -> Self {
        Self { hooks: Compiled::new(Known::MutatingWebhookConfigurations), client }
    }
}

impl ValidatingWebhooks {
    /// Asks with this client.
    pub fn new(client: Arc<Client>) -> Self {
        Self { hooks: Compiled::new(Known::ValidatingWebhookConfigurations), client }
    }
}

/// Whether the webhook is to be asked about a request that its rules match.
async fn concerns(
    candidate: &Candidate<Hook>,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    registry: &Registry,
) -> Result<bool, ApiError> {
    let hook = &candidate.item;
    if !hook.constraint.selects(attributes, object, registry).await? {
        return Ok(false);
    }
    if hook.conditions.is_empty() {
        return Ok(true);
    }
    let shown = Shown::new(&candidate.matched, attributes, object)?;
    let inputs = Inputs::of_request(
        attributes,
        registry,
        shown.resource(attributes),
        shown.object.as_deref(),
        shown.old.as_deref(),
    );
    hook.conditions.all_hold(&inputs, None).map_err(|why| attributes.forbidden(why))
}

/// Asks one webhook.
async fn ask(
    client: &Client,
    hook: &Hook,
    attributes: &Attributes<'_>,
    shown: &Shown<'_>,
    mutating: bool,
) -> Result<Verdict, Failure> {
    if attributes.dry_run && !hook.allows_dry_run {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Refusal(ApiError::bad_request(why)));
    }
    let Some(version) = hook.review else {
        let why =
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(Failure::Call(why.to_owned()));
    };
    let Some(config) = &hook.client else {
        return Err(Failure::Call("could not get REST client: no service or URL is configured".to_owned()));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let request = review::request(attributes, shown.resource(attributes));
    let body = review::encode(version, &uid, request, shown.object.as_deref(), shown.old.as_deref());
    let answer = client.post(config, body.into(), hook.timeout).await;
    let answer = answer.map_err(|error| Failure::Call(format!("failed to call webhook: {error}")))?;
    let verdict = review::read(&answer, version, &uid, mutating)
        .map_err(|why| Failure::Call(format!("received invalid webhook response: {why}")))?;
    for (key, value) in &verdict.annotations {
        attributes.notes().annotate(format!("{}/{key}", hook.name), value.clone());
    }
    for warning in &verdict.warnings {
        attributes.notes().warn(warning.clone());
    }
    if verdict.allowed { Ok(verdict) } else { Err(Failure::Refusal(review::refusal(&hook.name, verdict.result))) }
}

/// What a failure comes to: nothing, where the webhook's failures are ignored.
fn settle(hook: &Hook, failure: Failure, attributes: &Attributes<'_>, note: &str) -> Result<(), ApiError> {
    match failure {
        Failure::Refusal(error) => Err(error),
        Failure::Call(why) if hook.ignores_failure => {
            tracing::warn!(webhook = hook.name, why, "a webhook could not be asked and is passed over");
            attributes.notes().annotate(format!("failed-open.{note}"), hook.name.clone());
            Ok(())
        }
        Failure::Call(why) => {
            tracing::warn!(webhook = hook.name, why, "a webhook could not be asked; the write is refused");
            Err(ApiError::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
        }
    }
}

#[async_trait]
impl Plugin for MutatingWebhooks {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn phases(&self, _: &Attributes<'_>, registry: &Registry) -> Phases {
        Phases::admit_if(self.hooks.any(registry))
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let Some(rounds) = attributes.rounds else { return Ok(()) };
        let candidates = self.hooks.candidates(attributes, registry);
        if candidates.is_empty() || is_exempt(attributes) {
            return Ok(());
        }
        rounds.enter(self.name(), object.as_deref());
        for (index, candidate) in candidates.iter().enumerate() {
            let hook = &candidate.item;
            if !concerns(candidate, attributes, object.as_deref(), registry).await?
                || !rounds.is_due(self.name(), &hook.id)
            {
                continue;
            }
            let changed = self.mutate(candidate, attributes, object.as_deref_mut()).await;
            rounds.ran(self.name(), &hook.id, matches!(changed, Ok(true)), hook.reinvoke);
            if let Err(failure) = changed {
                let note = note("mutation.webhook.admission.k8s.io", rounds, index);
                settle(hook, failure, attributes, &note)?;
            }
        }
        rounds.leave(self.name(), object.as_deref());
        Ok(())
    }
}

/// The key under which something about the `index`th webhook of a round is noted.
fn note(prefix: &str, rounds: &Rounds, index: usize) -> String {
    format!("{prefix}/round_{}_index_{index}", u8::from(rounds.is_second()))
}

impl MutatingWebhooks {
    /// Asks one webhook and applies its patch; whether that changed the object.
    async fn mutate(
        &self,
        candidate: &Candidate<Hook>,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
    ) -> Result<bool, Failure> {
        let hook = &candidate.item;
        let (verdict, patched) = {
            let shown = Shown::new(&candidate.matched, attributes, object.as_deref())?;
            let verdict = ask(&self.client, hook, attributes, &shown, true).await?;
            if verdict.patch.is_empty() {
                return Ok(false);
            }
            let before = shown.object.as_deref().cloned();
            (verdict, before)
        };
        let operations: Vec<Value> = serde_json::from_slice(&verdict.patch)
            .map_err(|error| Failure::Call(format!("received undecodable patch in webhook response: {error}")))?;
        if operations.is_empty() {
            return Ok(false);
        }
        let (Some(object), Some(before)) = (object, patched) else {
            return Err(Failure::Refusal(ApiError::internal(format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            ))));
        };
        let mut patched = patch::json(&before, &verdict.patch).map_err(ApiError::internal)?;
        let resource = candidate.matched.resource(attributes);
        engine::read_again(resource, attributes.subresource, &mut patched).map_err(ApiError::internal)?;
        if patched == before {
            return Ok(false);
        }
        *object = candidate.matched.restore(attributes, patched)?;
        Ok(true)
    }
}

#[async_trait]
impl Plugin for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn phases(&self, _: &Attributes<'_>, registry: &Registry) -> Phases {
        Phases::validate_if(self.hooks.any(registry))
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Value>,
        registry: &Registry,
    ) -> Result<(), ApiError> {
        let candidates = self.hooks.candidates(attributes, registry);
        if candidates.is_empty() || is_exempt(attributes) {
            return Ok(());
        }
        let mut relevant = Vec::new();
        for candidate in candidates.iter() {
            if concerns(candidate, attributes, object, registry).await? {
                relevant.push((candidate, Shown::new(&candidate.matched, attributes, object)?));
            }
        }
        let mut asking = Vec::with_capacity(relevant.len());
        for (index, (candidate, shown)) in relevant.iter().enumerate() {
            asking.push(self.check(index, &candidate.item, attributes, shown));
        }
        // All are asked to the end, so that what they note does not depend on who is first.
        let verdicts: Vec<Result<(), ApiError>> = futures::stream::iter(asking).buffered(PARALLEL_MAX).collect().await;
        verdicts.into_iter().collect()
    }
}

impl ValidatingWebhooks {
    /// Asks one webhook, the `index`th.
    async fn check(
        &self,
        index: usize,
        hook: &Hook,
        attributes: &Attributes<'_>,
        shown: &Shown<'_>,
    ) -> Result<(), ApiError> {
        match ask(&self.client, hook, attributes, shown, false).await {
            Ok(_) => Ok(()),
            Err(failure) => {
                let note = format!("validating.webhook.admission.k8s.io/round_0_index_{index}");
                settle(hook, failure, attributes, &note)
            }
        }
    }
}
