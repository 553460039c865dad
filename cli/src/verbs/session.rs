//! A connection to a cluster, and the names its resources go by.

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, Stream, StreamExt, TryStreamExt};
use http::{Method, Request};
use kube::Client;
use serde_json::Value;

use super::output::Out;
use crate::client::ClientFlags;

/// The form of an answer that is not a table.
pub const JSON: &str = "application/json";

/// A resource that the cluster serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Lower-case plural, as in URLs.
    pub plural: String,
    /// Lower-case singular.
    pub singular: String,
    /// Abbreviations.
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether it can be scaled.
    pub scalable: bool,
}

impl Resource {
    /// As kubectl names objects in messages: `pod`, `deployment.apps`.
    pub fn display(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    /// `plural.group`, as the server names it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The URL path of the collection.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let scope = namespace.filter(|_| self.namespaced).map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        format!("{root}/{}{scope}/{}", self.api_version(), self.plural)
    }

    /// Whether a user's word means this resource: a name, a short name, the kind, or those with `.group` or `.version.group`.
    fn is_called(&self, word: &str) -> bool {
        let (name, rest) = word.split_once('.').unwrap_or((word, ""));
        let named = [&self.plural, &self.singular].iter().any(|own| own.eq_ignore_ascii_case(name))
            || self.kind.eq_ignore_ascii_case(name)
            || self.short_names.iter().any(|own| own.eq_ignore_ascii_case(name));
        let version_group = format!("{}.{}", self.version, self.group);
        named && (rest.is_empty() || rest == self.group || rest == version_group.trim_end_matches('.'))
    }
}

/// A connection, with what is known of the cluster.
pub struct Session {
    /// The client.
    pub client: Client,
    /// Where answers go.
    pub out: Out,
    default_namespace: String,
    resources: tokio::sync::OnceCell<Vec<Resource>>,
}

impl Session {
    /// Connects as the flags say; nothing is sent yet.
    pub async fn new(flags: &ClientFlags) -> Result<Self> {
        let mut config = flags.config().await?;
        // Who types a command is told at once what is refused for a while, such as an eviction, and how long it is tried again.
        config.default_retry = false;
        let client = Client::try_from(config).context("cannot make a client from the kubeconfig")?;
        let default_namespace = client.default_namespace().to_owned();
        Ok(Self { client, out: Out::default(), default_namespace, resources: tokio::sync::OnceCell::new() })
    }

    /// A session with this client that keeps its answers.
    #[cfg(test)]
    pub fn capturing(client: Client) -> Self {
        let default_namespace = client.default_namespace().to_owned();
        Self { client, out: Out::capturing(), default_namespace, resources: tokio::sync::OnceCell::new() }
    }

    /// The namespace of a verb.
    pub fn namespace(&self, flag: &super::NamespaceFlag) -> String {
        flag.namespace.clone().unwrap_or_else(|| self.default_namespace.clone())
    }

    /// Every resource that the cluster serves, in the order of preference.
    pub async fn resources(&self) -> Result<&[Resource]> {
        let all = self.resources.get_or_try_init(|| self.discover()).await?;
        Ok(all)
    }

    /// What a user's word such as `po` or `deployments.apps` means.
    pub async fn resource(&self, word: &str) -> Result<Resource> {
        match self.resources().await?.iter().find(|resource| resource.is_called(word)) {
            Some(resource) => Ok(resource.clone()),
            None => bail!("the server doesn't have a resource type \"{word}\""),
        }
    }

    /// The resources of a category such as `all`.
    pub async fn category(&self, word: &str) -> Result<Vec<Resource>> {
        let all = self.resources().await?.iter();
        Ok(all.filter(|resource| resource.categories.iter().any(|category| category == word)).cloned().collect())
    }

    /// The resource of a manifest's `apiVersion` and `kind`.
    pub async fn resource_of(&self, api_version: &str, kind: &str) -> Result<Resource> {
        let found = self
            .resources()
            .await?
            .iter()
            .find(|resource| resource.kind == kind && resource.api_version() == api_version);
        match found {
            Some(resource) => Ok(resource.clone()),
            None => bail!("no matches for kind \"{kind}\" in version \"{api_version}\""),
        }
    }

    async fn discover(&self) -> Result<Vec<Resource>> {
        let unreachable = "cannot reach the cluster";
        let core = self.client.list_core_api_versions_aggregated().await.context(unreachable)?;
        let groups = self.client.list_api_groups_aggregated().await.context(unreachable)?;
        let mut all = Vec::new();
        for group in core.items.into_iter().chain(groups.items) {
            let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
            for version in group.versions {
                let number = version.version.unwrap_or_default();
                for found in version.resources {
                    let plural = found.resource.unwrap_or_default();
                    all.push(Resource {
                        group: name.clone(),
                        version: number.clone(),
                        kind: found.response_kind.and_then(|kind| kind.kind).unwrap_or_default(),
                        singular: found.singular_resource.unwrap_or_default(),
                        short_names: found.short_names,
                        categories: found.categories,
                        namespaced: found.scope.as_deref() == Some("Namespaced"),
                        scalable: found.subresources.iter().any(|sub| sub.subresource.as_deref() == Some("scale")),
                        plural,
                    });
                }
            }
        }
        Ok(all)
    }

    /// Sends a request and returns the JSON that comes back; a Status that says failure becomes an error.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Value> {
        self.request_as(method, path, query, body, JSON).await
    }

    /// As [`Session::request`], asking for a certain form of answer.
    pub async fn request_as(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<(&str, Vec<u8>)>,
        accept: &str,
    ) -> Result<Value> {
        let mut request = Request::builder().method(method).uri(uri(path, query)).header(http::header::ACCEPT, accept);
        let body = match body {
            Some((content_type, bytes)) => {
                request = request.header(http::header::CONTENT_TYPE, content_type);
                bytes
            }
            None => Vec::new(),
        };
        Ok(self.client.request(request.body(body)?).await?)
    }

    /// One object.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Value> {
        self.request(Method::GET, &format!("{}/{name}", resource.path(Some(namespace))), &[], None).await
    }

    /// The objects that selectors choose.
    pub async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        query: &[(&str, &str)],
    ) -> Result<Vec<Value>> {
        let mut list = self.request(Method::GET, &resource.path(namespace), query, None).await?;
        match list["items"].take() {
            Value::Array(mut items) => {
                for item in &mut items {
                    // Items of a list carry no type of their own.
                    item["apiVersion"] = resource.api_version().into();
                    item["kind"] = resource.kind.clone().into();
                }
                Ok(items)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Patches an object.
    pub async fn patch(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        kind: &str,
        patch: &Value,
    ) -> Result<Value> {
        let path = format!("{}/{name}", resource.path(Some(namespace)));
        let query = [("fieldManager", "gantry")];
        self.request(Method::PATCH, &path, &query, Some((kind, serde_json::to_vec(patch)?))).await
    }

    /// Watches one object until `done` says so, beginning with its present state.
    ///
    /// # Errors
    /// What `done` returns, or when the object is deleted meanwhile.
    pub async fn wait_for(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        mut done: impl FnMut(&Value) -> Result<bool>,
    ) -> Result<()> {
        loop {
            let object = self.get(resource, namespace, name).await?;
            if done(&object)? {
                return Ok(());
            }
            let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            let selector = format!("metadata.name={name}");
            let mut events = Box::pin(
                self.watch(
                    resource,
                    Some(namespace),
                    &[("fieldSelector", &selector), ("resourceVersion", &version)],
                    JSON,
                )
                .await?,
            );
            // A watch that ends, or an error event, is followed by a fresh look.
            while let Some(event) = events.try_next().await? {
                match event["type"].as_str() {
                    Some("ADDED" | "MODIFIED") if done(&event["object"])? => return Ok(()),
                    Some("DELETED") => bail!("{}/{name} was deleted", resource.display()),
                    Some("ERROR") => break,
                    _ => {}
                }
            }
        }
    }

    /// The events of a watch, as they are on the wire.
    pub async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        query: &[(&str, &str)],
        accept: &str,
    ) -> Result<impl Stream<Item = Result<Value>> + use<>> {
        let query: Vec<_> = [("watch", "true")].into_iter().chain(query.iter().copied()).collect();
        let request = Request::get(uri(&resource.path(namespace), &query)).header(http::header::ACCEPT, accept);
        let lines = self.client.request_stream(request.body(Vec::new())?).await?.lines();
        Ok(lines.map(|line| Ok(serde_json::from_str(&line?)?)))
    }

    /// Resolves `TYPE NAME`, `TYPE/NAME` or a bare pod name to a resource and a name.
    pub async fn target(&self, words: &[String], default_type: Option<&str>) -> Result<(Resource, String)> {
        let (kind, name) = match words {
            [word] => match (word.split_once('/'), default_type) {
                (Some((kind, name)), _) => (kind, name),
                (None, Some(kind)) => (kind, word.as_str()),
                (None, None) => bail!("name an object: TYPE/NAME or TYPE NAME"),
            },
            [kind, name] => (kind.as_str(), name.as_str()),
            _ => bail!("name one object: TYPE/NAME or TYPE NAME"),
        };
        Ok((self.resource(kind).await?, name.to_owned()))
    }
}

/// A path with a query string.
pub fn uri(path: &str, query: &[(&str, &str)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let mut encoded = url::form_urlencoded::Serializer::new(String::new());
    encoded.extend_pairs(query);
    format!("{path}?{}", encoded.finish())
}

#[cfg(test)]
mod tests {
    use super::{Resource, uri};

    fn deployments() -> Resource {
        Resource {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            singular: "deployment".into(),
            short_names: vec!["deploy".into()],
            categories: vec!["all".into()],
            namespaced: true,
            scalable: true,
        }
    }

    #[test]
    fn a_resource_goes_by_all_its_names() {
        for word in ["deployments", "deployment", "deploy", "Deployment", "deployments.apps", "deployments.v1.apps"] {
            assert!(deployments().is_called(word), "{word}");
        }
        for word in ["deploys", "deployments.batch", "pods", "", "deployments.v2.apps"] {
            assert!(!deployments().is_called(word), "{word}");
        }
    }

    #[test]
    fn paths_and_names_are_those_of_the_api() {
        let resource = deployments();
        assert_eq!(resource.path(Some("shop")), "/apis/apps/v1/namespaces/shop/deployments");
        assert_eq!(resource.path(None), "/apis/apps/v1/deployments");
        assert_eq!(resource.display(), "deployment.apps");
        assert_eq!(uri("/a", &[("b", "c d")]), "/a?b=c+d");
    }
}
