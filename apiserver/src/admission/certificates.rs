//! Who asks for a certificate: the server says so, not the request.

use async_trait::async_trait;
use gantry_api::{ApiError, meta};
use serde_json::{Value, json};

use super::{Attributes, Operation, Phases, Plugin};
use crate::registry::Registry;

const IDENTITY: [&str; 4] = ["username", "uid", "groups", "extra"];

/// Writes the user of the request into a CertificateSigningRequest.
pub(super) struct CertificateRequester;

#[async_trait]
impl Plugin for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }

    fn phases(&self, attributes: &Attributes<'_>, _: &Registry) -> Phases {
        let requests = attributes.is("certificates.k8s.io", "certificatesigningrequests");
        Phases::admit_if(attributes.operation == Operation::Create && requests)
    }

    async fn admit(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&mut Value>,
        _: &Registry,
    ) -> Result<(), ApiError> {
        let Some(request) = object else { return Ok(()) };
        let spec = meta::object_mut(request, "spec");
        for field in IDENTITY {
            spec.remove(field);
        }
        let identity = attributes.identity;
        spec.insert("username".to_owned(), json!(identity.user));
        if !identity.uid.is_empty() {
            spec.insert("uid".to_owned(), json!(identity.uid));
        }
        if !identity.groups.is_empty() {
            spec.insert("groups".to_owned(), json!(identity.groups));
        }
        if !identity.extra.is_empty() {
            spec.insert("extra".to_owned(), json!(identity.extra));
        }
        Ok(())
    }
}
