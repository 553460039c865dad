//! `DefaultTolerationSeconds`: how long every pod stays on a node that fails, unless it says otherwise.

use async_trait::async_trait;
use gantry_api::{ApiError, meta};
use serde_json::{Value, json};

use super::{Attributes, Dependence, Operation, Phases, Plugin};
use crate::registry::Registry;

/// How long a pod stays on a node that is not ready or not reachable.
const DEFAULT_TOLERATION_SECONDS: i64 = 300;

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        // On an update too: what a client replaces a pod with need not hold what was added to the first.
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        Phases::admit_if(writes && attributes.is("", "pods"))
    }

    fn depends_on(&self, _: &Attributes<'_>, _: &Registry) -> Dependence {
        Dependence::Object
    }

    async fn admit(&self, _: &Attributes<'_>, object: Option<&mut Value>, _: &Registry) -> Result<(), ApiError> {
        if let Some(pod) = object {
            add_tolerations(pod);
        }
        Ok(())
    }
}

fn add_tolerations(pod: &mut Value) {
    let tolerations = meta::object_mut(pod, "spec").entry("tolerations").or_insert_with(|| json!([]));
    if tolerations.is_null() {
        *tolerations = json!([]);
    }
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|toleration| {
            let effect = toleration["effect"].as_str().unwrap_or_default();
            let tolerated = toleration["key"].as_str().unwrap_or_default();
            (tolerated == key || tolerated.is_empty()) && matches!(effect, "NoExecute" | "")
        });
        if !covered {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": DEFAULT_TOLERATION_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_unless_covered() {
        let mut pod = json!({"spec": {}});
        add_tolerations(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let mut tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        add_tolerations(&mut tolerant);
        assert_eq!(tolerant["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
