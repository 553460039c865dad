//! Policies of namespaces, as pure decisions: how much may be used ([`quota`]), how much a container may ask for
//! ([`limits`]), what a pod may do to its node ([`pod_security`]), which secrets it may name ([`secrets`]), and whether
//! a node has room for it ([`room`]).
//! Whether admission policies fit the kinds that they are about is told by [`type_check`].

pub mod limits;
pub mod pod_security;
pub mod quota;
pub mod room;
pub mod secrets;
pub mod type_check;
