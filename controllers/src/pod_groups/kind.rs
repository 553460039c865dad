//! The PodGroup as this controller reads and writes it: what others put into it is left alone.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

/// See the module's description.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct PodGroup {
    /// Name, namespace, version.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What it asks for.
    #[serde(default)]
    pub spec: PodGroupSpec,
    /// What became of it.
    #[serde(default)]
    pub status: PodGroupStatus,
}

/// What a group asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodGroupSpec {
    /// So many of its pods are of use only together.
    #[serde(default)]
    pub min_member: i32,
}

/// What became of a group.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodGroupStatus {
    /// The step that it has come to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Who owns its pods.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub occupied_by: String,
    /// Its pods that have nodes and have not ended.
    #[serde(skip_serializing_if = "is_zero")]
    pub scheduled: i32,
    /// Its pods that run.
    #[serde(skip_serializing_if = "is_zero")]
    pub running: i32,
    /// Its pods that ended well.
    #[serde(skip_serializing_if = "is_zero")]
    pub succeeded: i32,
    /// Its pods that failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: i32,
    /// Since when there are pods enough to be placed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_start_time: Option<Time>,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

impl kube::Resource for PodGroup {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "PodGroup".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "scheduling.x-k8s.io".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1alpha1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "podgroups".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
