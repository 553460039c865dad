//! Which AppArmor profile a container has, and whether the node can give its pod what it wants. Pure.

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, Pod};

use super::spec;
use crate::runtime::AppArmor;

/// Annotations with this before a container's name said it before there were fields.
const ANNOTATION_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The profile that a container wants; none leaves it to the runtime. The error is the message of a CreateContainerConfigError.
pub fn profile(pod: &Pod, container: &Container) -> Result<Option<AppArmor>, String> {
    let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    if let Some(own) = own {
        return of_field(own).map(Some);
    }
    if let Some(noted) = noted(pod).find_map(|(name, value)| (name == container.name).then_some(value)) {
        return Ok(of_annotation(noted));
    }
    let of_pod = spec::spec(pod).security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    of_pod.map(of_field).transpose()
}

/// Why a node without AppArmor will not have a pod.
pub fn refuse(pod: &Pod, enabled: bool) -> Option<&'static str> {
    (!enabled && is_wanted(pod)).then_some("Cannot enforce AppArmor: AppArmor is not enabled on the host")
}

/// Whether any container is to be confined. Unconfined is what it is anyway.
fn is_wanted(pod: &Pod) -> bool {
    let confines = |profile: Option<&AppArmorProfile>| profile.is_some_and(|profile| profile.type_ != "Unconfined");
    let of_pod = spec::spec(pod).security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let own = |container: &Container| {
        confines(container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref()))
    };
    confines(of_pod)
        || spec::all_containers(pod).any(|container| own(container.spec))
        || spec::ephemeral_containers(pod).iter().any(|ephemeral| own(&ephemeral.container))
        || noted(pod).any(|(_, value)| value != "unconfined")
}

/// Annotations by container.
fn noted(pod: &Pod) -> impl Iterator<Item = (&str, &str)> {
    let annotations = pod.metadata.annotations.iter().flatten();
    annotations.filter_map(|(key, value)| Some((key.strip_prefix(ANNOTATION_PREFIX)?, value.as_str())))
}

fn of_field(profile: &AppArmorProfile) -> Result<AppArmor, String> {
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("RuntimeDefault", _) => Ok(AppArmor::RuntimeDefault),
        ("Unconfined", _) => Ok(AppArmor::Unconfined),
        ("Localhost", Some(name)) if !name.is_empty() => Ok(AppArmor::Localhost(name.clone())),
        ("Localhost", _) => Err("missing localhost apparmor profile name".into()),
        (other, _) => Err(format!("unknown apparmor profile type \"{other}\"")),
    }
}

/// One that says nothing known says nothing: the API server refuses it in a new pod.
fn of_annotation(value: &str) -> Option<AppArmor> {
    match value {
        "runtime/default" => Some(AppArmor::RuntimeDefault),
        "unconfined" => Some(AppArmor::Unconfined),
        _ => value.strip_prefix("localhost/").map(|name| AppArmor::Localhost(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(annotations: Value, of_pod: Value, own: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": {
            "securityContext": {"appArmorProfile": of_pod},
            "containers": [{"name": "a", "securityContext": {"appArmorProfile": own}}, {"name": "b"}]}}))
        .unwrap()
    }

    fn profiles(pod: &Pod) -> Vec<Result<Option<AppArmor>, String>> {
        spec::all_containers(pod).map(|container| profile(pod, container.spec)).collect()
    }

    #[test]
    fn the_closest_profile_counts() {
        let local = |name: &str| json!({"type": "Localhost", "localhostProfile": name});
        let (default, open) = (json!({"type": "RuntimeDefault"}), json!({"type": "Unconfined"}));
        let note = |container: &str, value: &str| json!({(format!("{ANNOTATION_PREFIX}{container}")): value});
        let named = |name: &str| Ok(Some(AppArmor::Localhost(name.into())));
        assert_eq!(profiles(&pod(json!({}), json!(null), json!(null))), [Ok(None), Ok(None)]);
        assert_eq!(
            profiles(&pod(note("b", "localhost/noted"), default.clone(), local("own"))),
            [named("own"), named("noted")]
        );
        assert_eq!(
            profiles(&pod(note("a", "unconfined"), default, json!(null))),
            [Ok(Some(AppArmor::Unconfined)), Ok(Some(AppArmor::RuntimeDefault))]
        );
        let nameless = profiles(&pod(json!({}), json!({"type": "Localhost"}), open));
        assert_eq!(
            nameless,
            [Ok(Some(AppArmor::Unconfined)), Err("missing localhost apparmor profile name".to_owned())]
        );
    }

    #[test]
    fn a_node_without_app_armor_refuses_who_wants_to_be_confined() {
        let (none, open, default) = (json!(null), json!({"type": "Unconfined"}), json!({"type": "RuntimeDefault"}));
        let note = |value: &str| json!({(format!("{ANNOTATION_PREFIX}a")): value});
        for (pod, wants) in [
            (pod(json!({}), none.clone(), none.clone()), false),
            (pod(note("unconfined"), open.clone(), open.clone()), false),
            (pod(json!({}), default.clone(), open.clone()), true),
            (pod(json!({}), open, default), true),
            (pod(note("runtime/default"), none.clone(), none), true),
        ] {
            assert_eq!(refuse(&pod, false).is_some(), wants, "{pod:?}");
            assert_eq!(refuse(&pod, true), None);
        }
    }
}
