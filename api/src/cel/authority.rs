//! The `authorizer` of expressions: questions of what whoever makes a request may do.
//!
//! ```text
//! authorizer ─▶ .path(…) ───────────────────────────────▶ .check(verb) ─▶ decision
//!      │  └───▶ .group(…).resource(…)[.namespace(…) …] ─▶ .check(verb) ─▶ decision
//!      └──────▶ .serviceAccount(namespace, name) ─▶ the same for somebody else
//! ```
//!
//! Who decides is outside: an [`Authority`].

use std::fmt;
use std::sync::Arc;

use super::Val;
use super::libraries::Opaque;

pub(super) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(super) const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub(super) const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub(super) const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub(super) const DECISION: &str = "kubernetes.authorization.Decision";

/// What somebody may want to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as their names say; what is not said is empty")]
pub struct Check {
    pub verb: String,
    /// For what is no resource.
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

/// Whether it may be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// That it may.
    pub allowed: bool,
    /// Why, or why not.
    pub reason: String,
    /// Why that could not be decided.
    pub error: Option<String>,
}

/// Who decides what may be done by whoever makes a request.
pub trait Authority: Send + Sync {
    /// Whether the requester may do it; or the service account of this namespace and name instead.
    fn decide(&self, account: Option<(&str, &str)>, check: &Check) -> Decision;
}

/// How far a question has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
}

/// A question on its way.
#[derive(Clone)]
pub struct Asking {
    authority: Arc<dyn Authority>,
    account: Option<(Arc<str>, Arc<str>)>,
    pub(super) stage: Stage,
    pub(super) check: Check,
}

impl Asking {
    /// The beginning of every question.
    pub fn new(authority: Arc<dyn Authority>) -> Self {
        Self { authority, account: None, stage: Stage::Authorizer, check: Check::default() }
    }

    /// A question about a resource, where only the verb is missing.
    pub fn of_resource(authority: Arc<dyn Authority>, check: Check) -> Self {
        Self { stage: Stage::Resource, check, ..Self::new(authority) }
    }

    /// As a value of expressions.
    pub fn value<'a>(self) -> Val<'a> {
        Val::Opaque(Arc::new(Opaque::Asking(self)))
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => AUTHORIZER,
            Stage::Path => PATH_CHECK,
            Stage::Group => GROUP_CHECK,
            Stage::Resource => RESOURCE_CHECK,
        }
    }

    /// The same, further on.
    pub(super) fn at(&self, stage: Stage, change: impl FnOnce(&mut Check)) -> Self {
        let mut next = Self { stage, ..self.clone() };
        change(&mut next.check);
        next
    }

    /// The same for a service account.
    pub(super) fn of_account(&self, namespace: &str, name: &str) -> Self {
        Self { account: Some((Arc::from(namespace), Arc::from(name))), ..self.clone() }
    }

    pub(super) fn decide(&self, verb: &str) -> Decision {
        let check = Check { verb: verb.to_owned(), ..self.check.clone() };
        self.authority.decide(self.account.as_ref().map(|(namespace, name)| (&**namespace, &**name)), &check)
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("account", &self.account).field("check", &self.check).finish_non_exhaustive()
    }
}
