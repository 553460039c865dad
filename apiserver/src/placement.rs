//! Where pods would go: a question that the API server takes and the scheduler's core answers.
//!
//! The API server knows no scheduler. The binary that knows both gives it a [`Reviewer`], whether the scheduler that binds
//! is in the same process, in another one, or not running at all.

use std::future::Future;
use std::pin::Pin;

use axum::Router;
use gantry_api::ApiError;
use serde_json::Value;

/// The answer, once it is there.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Value, ApiError>> + Send + 'a>>;

/// Answers placement reviews.
pub trait Reviewer: Send + Sync {
    /// The status of a review of this name and spec. `asker` is this API server, asked as the one who asks; what they
    /// may not do is refused there, and the refusal is the answer.
    fn review<'a>(&'a self, name: &'a str, spec: &'a Value, asker: Router) -> Answer<'a>;
}
