//! Who a request is from, and what it may do.
//!
//! In: connection certificates, bearer tokens and request attributes. Out: an [`Identity`] and a [`Decision`].
//! Every decision goes through one trait, [`Authorizer`].

mod authenticator;
mod authorizer;
mod identity;
mod node;
mod rules;
pub mod static_tokens;
pub mod tokens;

pub use authenticator::{Authenticator, PeerCertificate, SERVICE_ACCOUNT_TOKEN, identity_of_certificate};
pub use authorizer::{Authorizer, Chain, Decision, Request, SelfService};
pub use identity::{ANONYMOUS, AUTHENTICATED, Identity, MASTERS, NODES, SERVICE_ACCOUNTS, UNAUTHENTICATED};
pub use node::NodeAuthorizer;
pub use rules::{Rule, RuleAuthorizer, rules_of};
