//! Query parameters of requests, typed.
//!
//! In: the raw query. Out: [`Params`] and, from it, the options of each verb, checked with Kubernetes' texts.

use std::sync::Arc;

use gantry_api::engine::FieldValidation;
use gantry_api::kinds::Resource;
use gantry_api::selector::{FieldSelector, LabelSelector};
use gantry_api::{ApiError, FieldError};
use serde_json::{Map, Value, json};

use crate::auth::Identity;
use crate::cacher::Filter;
use crate::registry::{Caller, ListRequest, Match, Position, WatchRequest, parse_resource_version};

/// The query of a request, in order.
#[derive(Debug, Clone, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query string.
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    /// The first value of a parameter, if it is there.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value that is not empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// All pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// A flag: present and neither `false` nor `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.optional_flag(key).unwrap_or(false)
    }

    /// A flag that may be absent. An empty one is set.
    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// Whether a person is to read the answer: the parameter says so or, without it, the client's name.
    pub fn pretty(&self, user_agent: &str) -> bool {
        match self.text("pretty") {
            Some(text) => matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"),
            None => ["curl", "Wget", "Mozilla/5.0"].iter().any(|name| user_agent.starts_with(name)),
        }
    }

    /// A whole number; absent or empty is none.
    pub fn number(&self, key: &str) -> Result<Option<i64>, ApiError> {
        self.text(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    let quoted = gantry_api::error::quote(text);
                    ApiError::bad_request(format!(
                        "unable to decode query parameter {key}: strconv.ParseInt: parsing {quoted}: invalid syntax"
                    ))
                })
            })
            .transpose()
    }

    /// The `metadata.name=` of a field selector, which is what authorisation looks at.
    pub fn field_name(&self) -> Option<String> {
        self.exact_field("metadata.name")
    }

    /// The one value that the field selector demands of a field.
    pub fn exact_field(&self, field: &str) -> Option<String> {
        FieldSelector::parse(self.text("fieldSelector")?).ok()?.exact(field).map(str::to_owned)
    }

    /// Whether nothing is to be stored.
    pub fn dry_run(&self, kind: &str) -> Result<bool, ApiError> {
        let mut dry_run = false;
        for (_, value) in self.0.iter().filter(|(key, _)| key == "dryRun") {
            if value != "All" {
                let error = FieldError::not_supported("dryRun", value.as_str(), &["All"]);
                return Err(ApiError::invalid("meta.k8s.io", kind, "", vec![error]));
            }
            dry_run = true;
        }
        Ok(dry_run)
    }

    fn field_validation(&self, kind: &str) -> Result<FieldValidation, ApiError> {
        match self.text("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let error = FieldError::not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]);
                Err(ApiError::invalid("meta.k8s.io", kind, "", vec![error]))
            }
        }
    }

    /// Who writes and how; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub fn caller(&self, kind: &str, identity: &Arc<Identity>, user_agent: &str) -> Result<Caller, ApiError> {
        let manager = match self.text("fieldManager") {
            Some(manager) => {
                check_manager(kind, manager)?;
                manager.to_owned()
            }
            None => manager_of(user_agent),
        };
        Ok(Caller {
            identity: Arc::clone(identity),
            manager,
            field_validation: self.field_validation(kind)?,
            dry_run: self.dry_run(kind)?,
            notes: Arc::default(),
        })
    }

    /// What a list or watch selects.
    pub fn filter(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Arc<Filter>, ApiError> {
        let mut filter = Filter { namespace: namespace.to_owned(), ..Filter::default() };
        if let Some(text) = self.text("labelSelector") {
            let selector = LabelSelector::parse(text).map_err(|error| {
                ApiError::bad_request(format!(
                    "unable to parse requirement: {}",
                    strip(&error.message, "unable to parse requirement: ")
                ))
            })?;
            filter.labels = (!selector.is_everything()).then_some(selector);
        }
        if let Some(text) = self.text("fieldSelector") {
            let selector = FieldSelector::parse(text)?;
            for requirement in selector.requirements() {
                if !is_selectable(resource, &requirement.field) {
                    return Err(ApiError::bad_request(not_selectable(resource, &requirement.field)));
                }
            }
            filter.name = selector.exact("metadata.name").map(str::to_owned);
            if filter.namespace.is_empty()
                && resource.namespaced
                && let Some(namespace) = selector.exact("metadata.namespace")
            {
                namespace.clone_into(&mut filter.namespace);
            }
            filter.fields = (!selector.is_everything()).then_some(selector);
        }
        if !name.is_empty() {
            filter.name = Some(name.to_owned());
        }
        Ok(Arc::new(filter))
    }

    /// A list.
    pub fn list(&self, resource: &Resource, namespace: &str) -> Result<ListRequest, ApiError> {
        let limit = self.number("limit")?.unwrap_or(0).max(0);
        self.number("timeoutSeconds")?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let matching = self.resource_version_match()?;
        let filter = self.filter(resource, namespace, "")?;
        let version = self.get("resourceVersion");
        let position = Position::of_list(version, matching, limit, self.text("continue"))?;
        Ok(ListRequest { filter, limit, position })
    }

    /// `resourceVersionMatch` of a list, with Kubernetes' rules of what it goes together with.
    fn resource_version_match(&self) -> Result<Option<Match>, ApiError> {
        const FIELD: &str = "resourceVersionMatch";
        let version = self.text("resourceVersion");
        let matching = self.text(FIELD);
        let known = match matching {
            Some("Exact") => Some(Match::Exact),
            Some("NotOlderThan") => Some(Match::NotOlderThan),
            _ => None,
        };
        let mut errors = Vec::new();
        if let Some(given) = matching {
            if version.is_none() {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.push(FieldError::forbidden(FIELD, why));
            }
            if self.text("continue").is_some() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(FIELD, why));
            }
            if known.is_none() {
                errors.push(FieldError::not_supported(FIELD, given, &["Exact", "NotOlderThan", ""]));
            }
            if known == Some(Match::Exact) && version == Some("0") {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(FIELD, why));
            }
        }
        if self.get("sendInitialEvents").is_some() {
            errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        if errors.is_empty() { Ok(known) } else { Err(list_options(errors)) }
    }

    /// A watch, possibly of one object.
    pub fn watch(&self, resource: &Resource, namespace: &str, name: &str) -> Result<WatchRequest, ApiError> {
        const FIELD: &str = "resourceVersionMatch";
        self.number("limit")?;
        let send_initial_events = self.optional_flag("sendInitialEvents");
        let matching = self.text(FIELD);
        let right = matching == Some("NotOlderThan");
        let mut errors = Vec::new();
        if send_initial_events.is_some() && !right {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(FIELD, why));
        }
        if let Some(given) = matching {
            if send_initial_events.is_none() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.push(FieldError::forbidden(FIELD, why));
            }
            if !right {
                errors.push(FieldError::not_supported(FIELD, given, &["NotOlderThan"]));
            }
            if self.text("continue").is_some() {
                let why = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(FIELD, why));
            }
        }
        if !errors.is_empty() {
            return Err(list_options(errors));
        }
        if let (Some(_), Some(selected)) = (self.text("fieldSelector"), (!name.is_empty()).then(|| self.field_name()))
            && selected.as_deref() != Some(name)
        {
            return Err(ApiError::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        Ok(WatchRequest {
            filter: self.filter(resource, namespace, name)?,
            resource_version: parse_resource_version(self.get("resourceVersion"))?,
            send_initial_events,
        })
    }

    /// What a connection asks for, as the kind that stands for it: `PodExecOptions` and the like.
    pub fn connect_options(&self, resource: &Resource, subresource: &str, path: &str) -> Value {
        let kind = gantry_api::engine::subresource_kind(resource, subresource);
        let mut options = json!({"kind": kind.kind, "apiVersion": kind.api_version()});
        if subresource == "proxy" {
            options["path"] = json!(format!("/{path}"));
            return options;
        }
        for flag in ["stdin", "stdout", "stderr", "tty"] {
            if let Some(set) = self.optional_flag(flag).filter(|set| *set) {
                options[flag] = json!(set);
            }
        }
        if let Some(container) = self.text("container") {
            options["container"] = json!(container);
        }
        for (key, value) in self.iter() {
            let value = match key {
                "command" => json!(value),
                "ports" => json!(value.parse::<u16>().unwrap_or_default()),
                _ => continue,
            };
            if let Some(values) =
                options.as_object_mut().and_then(|map| map.entry(key).or_insert_with(|| json!([])).as_array_mut())
            {
                values.push(value);
            }
        }
        options
    }

    /// `DeleteOptions` given as parameters, to be laid over those of the body.
    pub fn delete_options(&self) -> Result<Map<String, Value>, ApiError> {
        let mut options = Map::new();
        if let Some(seconds) = self.number("gracePeriodSeconds")? {
            options.insert("gracePeriodSeconds".to_owned(), json!(seconds));
        }
        if let Some(policy) = self.text("propagationPolicy") {
            options.insert("propagationPolicy".to_owned(), json!(policy));
        }
        if let Some(orphan) = self.optional_flag("orphanDependents") {
            options.insert("orphanDependents".to_owned(), json!(orphan));
        }
        if self.dry_run("DeleteOptions")? {
            options.insert("dryRun".to_owned(), json!(["All"]));
        }
        Ok(options)
    }
}

fn strip<'a>(text: &'a str, prefix: &str) -> &'a str {
    text.strip_prefix(prefix).unwrap_or(text)
}

fn list_options(errors: Vec<FieldError>) -> ApiError {
    ApiError::invalid("meta.k8s.io", "ListOptions", "", errors)
}

fn is_selectable(resource: &Resource, field: &str) -> bool {
    match field {
        "metadata.name" => true,
        "metadata.namespace" => resource.namespaced || has_general_fields(resource),
        field => resource.selectable_fields.iter().any(|selectable| selectable.label == field),
    }
}

/// Whether a resource offers what every built-in one does and nothing of its own.
fn has_general_fields(resource: &Resource) -> bool {
    resource.custom.is_none() && resource.selectable_fields.is_empty()
}

fn not_selectable(resource: &Resource, field: &str) -> String {
    if has_general_fields(resource) {
        let field = gantry_api::error::quote(field);
        return format!("{field} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
    }
    format!("field label not supported: {field}")
}

/// A field manager's default: what stands before the first slash of the user agent.
fn manager_of(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let printable: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
    if printable.is_empty() { "unknown".to_owned() } else { printable }
}

fn check_manager(kind: &str, manager: &str) -> Result<(), ApiError> {
    let error = if manager.len() > 128 {
        FieldError::too_long("fieldManager", 128)
    } else if let Some(position) = manager.chars().position(char::is_control) {
        FieldError::invalid(
            "fieldManager",
            manager,
            format!("should only contain printable characters (invalid character at position {position})"),
        )
    } else {
        return Ok(());
    };
    Err(ApiError::invalid("meta.k8s.io", kind, "", vec![error]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_numbers() {
        let params = Params::parse(Some("watch=1&follow=false&limit=5&bad=x&pretty"));
        assert!(params.flag("watch"));
        assert!(!params.flag("follow"));
        assert!(!params.flag("absent"));
        assert_eq!(params.number("limit").unwrap(), Some(5));
        assert!(params.number("bad").is_err());
        assert_eq!(params.get("pretty"), Some(""));
    }

    #[test]
    fn managers_come_from_the_user_agent() {
        assert_eq!(manager_of("kubectl/v1.33.0 (linux/amd64)"), "kubectl");
        assert_eq!(manager_of(""), "unknown");
    }

    #[test]
    fn dry_run_is_all_or_an_error() {
        assert!(Params::parse(Some("dryRun=All")).dry_run("CreateOptions").unwrap());
        assert!(!Params::parse(None).dry_run("CreateOptions").unwrap());
        let error = Params::parse(Some("dryRun=Some")).dry_run("CreateOptions").unwrap_err();
        assert!(
            error.message.contains("dryRun: Unsupported value: \"Some\": supported values: \"All\""),
            "{}",
            error.message
        );
    }
}
