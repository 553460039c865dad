//! Policies of namespaces, as pure decisions: how much may be used ([`quota`]), how much a container may ask for
//! ([`limits`]), and what a pod may do to its node ([`pod_security`]).

pub mod limits;
pub mod pod_security;
pub mod quota;
