//! Has the API server's placement reviews answered by the scheduler's core, whether or not the scheduler that binds runs in
//! this process.

use std::sync::Arc;

use axum::Router;
use gantry_api::{ApiError, FieldError, Reason};
use gantry_apiserver::Handle;
use gantry_apiserver::placement::{Answer, Reviewer};
use gantry_scheduler::config::Configuration;
use gantry_scheduler::review::{self, Problem, Wrong, api};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Placements(review::Reviewer);

/// From now on `server` answers placement reviews as a scheduler with this configuration decides.
pub fn answer(server: &Handle, configuration: Configuration, shutdown: CancellationToken) {
    // It sees what the scheduler sees.
    let router = server.in_process_client(gantry_apiserver::pki::SCHEDULER_USER, &[]);
    let client = kube::Client::new(router, "default");
    server.answer_placement_reviews(Arc::new(Placements(review::Reviewer::new(client, configuration, shutdown))));
}

impl Reviewer for Placements {
    fn review<'a>(&'a self, name: &'a str, spec: &'a Value, asker: Router) -> Answer<'a> {
        Box::pin(async move {
            if spec.is_null() {
                return Err(invalid(name, FieldError::required("spec", "")));
            }
            let spec: api::Spec = serde_json::from_value(spec.clone())
                .map_err(|error| ApiError::bad_request(format!("spec cannot be read: {error}")))?;
            let status = self.0.answer(spec, &kube::Client::new(asker, "default")).await;
            let status = status.map_err(|error| refused(name, error))?;
            serde_json::to_value(status).map_err(ApiError::internal)
        })
    }
}

fn invalid(name: &str, error: FieldError) -> ApiError {
    ApiError::invalid("scheduling.gantry.io", api::KIND, name, vec![error])
}

/// Why there is no answer, as the API says it. What the API itself refused is told in its words.
fn refused(name: &str, error: review::Error) -> ApiError {
    match error {
        review::Error::Api(kube::Error::Api(status)) => {
            let message = status.message.clone();
            let mut told = match serde_json::to_value(*status) {
                Ok(told) => told,
                Err(error) => return ApiError::internal(error),
            };
            told["kind"] = json!("Status");
            told["apiVersion"] = json!("v1");
            ApiError::new(Reason::Unknown, message).with_status(told)
        }
        review::Error::Api(error) => ApiError::internal(error),
        review::Error::Invalid(Problem { field, wrong }) => invalid(
            name,
            match wrong {
                Wrong::Missing => FieldError::required(field, ""),
                Wrong::NotFound(value) => FieldError::not_found(field, value),
                Wrong::NotSupported(value, values) => FieldError::not_supported(field, value, values),
                Wrong::Invalid(value, why) => FieldError::invalid(field, value, why),
            },
        ),
        review::Error::NotKnown => {
            ApiError::new(Reason::ServiceUnavailable, "what the cluster is like is not known yet, try again")
        }
    }
}
