//! The kind, as `page-crd.yaml` defines it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// What is wanted.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize)]
#[kube(
    group = "plugins.example.io",
    version = "v1",
    kind = "Page",
    namespaced,
    status = "PageStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct PageSpec {
    /// What the page says.
    pub text: String,
    /// How many pods serve it.
    pub replicas: i32,
}

/// What there is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PageStatus {
    /// The generation that was last looked at.
    pub observed_generation: i64,
    /// How many pods serve it.
    pub ready_replicas: i32,
    /// `Ready`: whether all do.
    pub conditions: Vec<Condition>,
}
