//! The claims that a pod brings along. Pure.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::machinery::owners::controller_reference;

/// Whether a pod brings claims along.
pub fn brings_claims(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    pod.metadata.deletion_timestamp.is_none() && volumes.any(|volume| volume.ephemeral.is_some())
}

/// All of them, as they are to be made.
pub fn claims_to_make(pod: &Pod) -> Vec<PersistentVolumeClaim> {
    if !brings_claims(pod) {
        return Vec::new();
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
        let given = template.metadata.unwrap_or_default();
        let mut claim = PersistentVolumeClaim { spec: Some(template.spec), ..PersistentVolumeClaim::default() };
        claim.metadata.name = Some(format!("{}-{}", pod.name_any(), volume.name));
        claim.metadata.namespace = pod.namespace();
        claim.metadata.labels = given.labels;
        claim.metadata.annotations = given.annotations;
        claim.metadata.owner_references = Some(vec![controller_reference(pod)]);
        Some(claim)
    });
    claims.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_named_after_the_pod_and_the_volume_and_is_the_pods() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "fast"}});
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}},
                                                   {"name": "other", "emptyDir": {}}]}}))
        .unwrap();
        let claims = claims_to_make(&pod);
        let [claim] = &claims[..] else { panic!("{claims:?}") };
        assert_eq!((claim.name_any().as_str(), claim.namespace().as_deref()), ("web-v", Some("ns")));
        assert_eq!(claim.labels()["a"], "b");
        assert_eq!(claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()), Some("fast"));
        let owner = &claim.owner_references()[0];
        assert_eq!((owner.uid.as_str(), owner.controller, owner.kind.as_str()), ("u", Some(true), "Pod"));
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(claims_to_make(&pod), [], "one that goes needs none");
    }
}
