//! The one trait that every authorization decision goes through, and the chain of those who decide.

use super::identity::{AUTHENTICATED, Identity, MASTERS, UNAUTHENTICATED};

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The verb, in lower case.
    pub verb: String,
    /// True if it is about a resource and not about a path.
    pub is_resource: bool,
    /// The API group.
    pub group: String,
    /// The plural resource name.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace; empty for all and for cluster-wide objects.
    pub namespace: String,
    /// The object's name; empty for any.
    pub name: String,
    /// The path, for requests that are not about resources.
    pub path: String,
    /// The value of a `spec.nodeName=` field selector.
    pub node_selector: Option<String>,
}

/// What one authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be done.
    Allow,
    /// It must not be done, whatever others say.
    Deny(String),
    /// Somebody else must decide; the reason is shown if nobody allows it.
    NoOpinion(String),
}

/// Decides whether an identity may do something. Full role-based access control becomes one more implementation.
pub trait Authorizer: Send + Sync {
    /// The decision; reads memory only.
    fn authorize(&self, identity: &Identity, request: &Request) -> Decision;
}

/// Asks each authorizer in turn until one allows or denies.
pub struct Chain(Vec<Box<dyn Authorizer>>);

impl Chain {
    /// A chain in this order.
    pub fn new(authorizers: Vec<Box<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

impl Authorizer for Chain {
    fn authorize(&self, identity: &Identity, request: &Request) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(identity, request) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join(", "))
    }
}

/// What everyone may do: masters everything, authenticated users discovery and questions about themselves, everyone health
/// and version.
#[derive(Debug, Default)]
pub struct SelfService;

const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
const DISCOVERY_PATHS: &[&str] = &["/api", "/apis", "/openapi", "/.well-known/openid-configuration", "/openid/v1/jwks"];
const SELF_REVIEWS: &[&str] = &["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"];

impl Authorizer for SelfService {
    fn authorize(&self, identity: &Identity, request: &Request) -> Decision {
        if identity.is_in(MASTERS) {
            return Decision::Allow;
        }
        let under = |paths: &[&str]| {
            paths.iter().any(|path| {
                request
                    .path
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path.ends_with('/'))
            })
        };
        let reads = matches!(request.verb.as_str(), "get" | "head");
        if !request.is_resource
            && reads
            && under(PUBLIC_PATHS)
            && (identity.is_in(AUTHENTICATED) || identity.is_in(UNAUTHENTICATED))
        {
            return Decision::Allow;
        }
        if !identity.is_in(AUTHENTICATED) {
            return Decision::NoOpinion(String::new());
        }
        let discovers = !request.is_resource && reads && under(DISCOVERY_PATHS);
        let asks_about_itself = request.is_resource
            && request.verb == "create"
            && matches!(request.group.as_str(), "authorization.k8s.io" | "authentication.k8s.io")
            && SELF_REVIEWS.contains(&request.resource.as_str());
        if discovers || asks_about_itself { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Request {
        Request { verb: "get".into(), path: path.into(), ..Request::default() }
    }

    #[test]
    fn anonymous_reaches_health_and_version_only() {
        let anonymous = Identity::anonymous();
        for allowed in ["/healthz", "/readyz", "/livez/ping", "/version"] {
            assert_eq!(SelfService.authorize(&anonymous, &path(allowed)), Decision::Allow, "{allowed}");
        }
        for refused in ["/api", "/apis", "/metrics", "/healthzz", "/", "/openapi/v2"] {
            assert!(matches!(SelfService.authorize(&anonymous, &path(refused)), Decision::NoOpinion(_)), "{refused}");
        }
        let posts = Request { verb: "post".into(), ..path("/version") };
        assert!(matches!(SelfService.authorize(&anonymous, &posts), Decision::NoOpinion(_)));
    }

    #[test]
    fn service_accounts_discover_and_ask_about_themselves() {
        let account = Identity::service_account("ns", "default", "u");
        assert_eq!(SelfService.authorize(&account, &path("/apis")), Decision::Allow);
        let review = Request {
            verb: "create".into(),
            is_resource: true,
            group: "authorization.k8s.io".into(),
            resource: "selfsubjectaccessreviews".into(),
            ..Request::default()
        };
        assert_eq!(SelfService.authorize(&account, &review), Decision::Allow);
        let pods = Request { verb: "list".into(), is_resource: true, resource: "pods".into(), ..Request::default() };
        assert!(matches!(SelfService.authorize(&account, &pods), Decision::NoOpinion(_)));
    }
}
