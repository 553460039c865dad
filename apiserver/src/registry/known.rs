//! The caches of the kinds that nearly every write goes by: found once, instead of by their names in every request.

use std::sync::Arc;

use gantry_api::kinds::Catalog;

use super::Registry;
use crate::cacher::{Cacher, ResourceCache};

/// A built-in kind that admission goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the names of Kubernetes' kinds")]
pub enum Known {
    Namespaces,
    LimitRanges,
    ResourceQuotas,
    ServiceAccounts,
    PriorityClasses,
    RuntimeClasses,
    MutatingWebhookConfigurations,
    ValidatingWebhookConfigurations,
    MutatingPolicies,
    MutatingPolicyBindings,
    ValidatingPolicies,
    ValidatingPolicyBindings,
}

impl Known {
    /// All of them, in the order of their declaration.
    const ALL: [Known; 12] = [
        Known::Namespaces,
        Known::LimitRanges,
        Known::ResourceQuotas,
        Known::ServiceAccounts,
        Known::PriorityClasses,
        Known::RuntimeClasses,
        Known::MutatingWebhookConfigurations,
        Known::ValidatingWebhookConfigurations,
        Known::MutatingPolicies,
        Known::MutatingPolicyBindings,
        Known::ValidatingPolicies,
        Known::ValidatingPolicyBindings,
    ];

    /// Group, version and plural.
    pub const fn names(self) -> (&'static str, &'static str, &'static str) {
        const ADMISSION: &str = "admissionregistration.k8s.io";
        match self {
            Known::Namespaces => ("", "v1", "namespaces"),
            Known::LimitRanges => ("", "v1", "limitranges"),
            Known::ResourceQuotas => ("", "v1", "resourcequotas"),
            Known::ServiceAccounts => ("", "v1", "serviceaccounts"),
            Known::PriorityClasses => ("scheduling.k8s.io", "v1", "priorityclasses"),
            Known::RuntimeClasses => ("node.k8s.io", "v1", "runtimeclasses"),
            Known::MutatingWebhookConfigurations => (ADMISSION, "v1", "mutatingwebhookconfigurations"),
            Known::ValidatingWebhookConfigurations => (ADMISSION, "v1", "validatingwebhookconfigurations"),
            Known::MutatingPolicies => (ADMISSION, "v1beta1", "mutatingadmissionpolicies"),
            Known::MutatingPolicyBindings => (ADMISSION, "v1beta1", "mutatingadmissionpolicybindings"),
            Known::ValidatingPolicies => (ADMISSION, "v1", "validatingadmissionpolicies"),
            Known::ValidatingPolicyBindings => (ADMISSION, "v1", "validatingadmissionpolicybindings"),
        }
    }
}

/// The caches of [`Known`] kinds.
pub(super) struct KnownCaches(Vec<Option<Arc<ResourceCache>>>);

impl KnownCaches {
    /// Finds them. The caches of built-in kinds are made with the cacher and stay.
    pub(super) fn new(catalog: &Catalog, cacher: &Cacher) -> Self {
        let find = |known: &Known| {
            let (group, version, plural) = known.names();
            cacher.resource(catalog.resource(group, version, plural)?)
        };
        Self(Known::ALL.iter().map(find).collect())
    }
}

impl Registry {
    /// The cache of a kind that admission goes by; none where the server does not keep it.
    pub fn known(&self, known: Known) -> Option<&Arc<ResourceCache>> {
        self.known.0.get(known as usize)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_kind_is_built_in_and_in_its_place() {
        let catalog = Catalog::builtin();
        for (at, known) in Known::ALL.into_iter().enumerate() {
            let (group, version, plural) = known.names();
            assert!(catalog.resource(group, version, plural).is_some(), "{known:?}");
            assert_eq!(known as usize, at);
        }
    }
}
