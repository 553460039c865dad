//! A container's environment: its own variables with `$(VAR)` expansion, what ConfigMaps and Secrets give, and one group of
//! variables a service. Pure: the objects referred to come in as maps.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvFromSource, EnvVar, EnvVarSource, Pod, Secret, Service};

use super::fields::{self, Surroundings};

/// Objects of the pod's namespace which its containers refer to; `None` is one that does not exist.
#[derive(Clone, Debug, Default)]
pub struct Referred {
    /// ConfigMaps by name.
    pub config_maps: HashMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets by name.
    pub secrets: HashMap<String, Option<Arc<Secret>>>,
}

/// Names of the ConfigMaps and of the Secrets in a container's environment.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|reference| reference.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|reference| reference.name.clone()));
    }
    for names in [&mut config_maps, &mut secrets] {
        names.sort();
        names.dedup();
    }
    (config_maps, secrets)
}

/// The environment, in the order in which it is given; the error is the message of a CreateContainerConfigError.
pub fn environment(
    pod: &Pod,
    container: &Container,
    around: &Surroundings<'_>,
    referred: &Referred,
    services: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let mut result: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        add_all(from, referred, &mut result)?;
    }
    // What `$(VAR)` may refer to: variables declared before it, and the services'.
    let mut declared: BTreeMap<String, String> = result.clone();
    for var in container.env.iter().flatten() {
        let Some(value) = value(pod, container, var, around, referred, &declared, services)? else { continue };
        declared.insert(var.name.clone(), value.clone());
        result.insert(var.name.clone(), value);
    }
    for (name, value) in services {
        result.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(result.into_iter().collect())
}

fn add_all(from: &EnvFromSource, referred: &Referred, result: &mut BTreeMap<String, String>) -> Result<(), String> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &from.config_map_ref {
        match referred.config_maps.get(&reference.name).cloned().flatten() {
            Some(map) => {
                for (key, value) in map.data.iter().flatten() {
                    result.insert(format!("{prefix}{key}"), value.clone());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(format!("configmap \"{}\" not found", reference.name)),
        }
    }
    if let Some(reference) = &from.secret_ref {
        match referred.secrets.get(&reference.name).cloned().flatten() {
            Some(secret) => {
                for (key, value) in secret.data.iter().flatten() {
                    result.insert(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(format!("secret \"{}\" not found", reference.name)),
        }
    }
    Ok(())
}

fn value(
    pod: &Pod,
    container: &Container,
    var: &EnvVar,
    around: &Surroundings<'_>,
    referred: &Referred,
    declared: &BTreeMap<String, String>,
    services: &BTreeMap<String, String>,
) -> Result<Option<String>, String> {
    let Some(source) = &var.value_from else {
        let lookup = |name: &str| declared.get(name).or_else(|| services.get(name)).cloned();
        return Ok(Some(expand(var.value.as_deref().unwrap_or_default(), lookup)));
    };
    from_source(pod, container, source, around, referred)
}

fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    around: &Surroundings<'_>,
    referred: &Referred,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(selector) = &source.field_ref {
        return fields::field(pod, around, selector).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(pod, around, Some(container), selector).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = referred.config_maps.get(&reference.name).cloned().flatten() else {
            return absent(optional, || format!("configmap \"{}\" not found", reference.name));
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => absent(optional, || {
                format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name)
            }),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = referred.secrets.get(&reference.name).cloned().flatten() else {
            return absent(optional, || format!("secret \"{}\" not found", reference.name));
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => absent(optional, || {
                format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name)
            }),
        };
    }
    Ok(Some(String::new()))
}

fn absent(optional: bool, message: impl FnOnce() -> String) -> Result<Option<String>, String> {
    if optional { Ok(None) } else { Err(message()) }
}

/// Replaces `$(VAR)` by its value; `$$` is a dollar sign, and what is not defined stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Variables for the services a pod sees: those of its namespace if it wants links, and always `kubernetes`.
pub fn service_variables<'a>(pod: &Pod, services: impl Iterator<Item = &'a Service>) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = super::spec::spec(pod).enable_service_links.unwrap_or(true);
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let of = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
        let (Some(service_namespace), Some(name)) = of else { continue };
        if service_namespace == namespace && links {
            chosen.insert(name, service);
        } else if service_namespace == "default" && name == "kubernetes" {
            // One of the same name in the pod's own namespace goes before it.
            chosen.entry(name).or_insert(service);
        }
    }
    let mut variables = BTreeMap::new();
    for (name, service) in chosen {
        add_service(name, service, &mut variables);
    }
    variables
}

fn add_service(name: &str, service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => return,
        Some(ip) => ip,
    };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let prefix = name.replace('-', "_").to_uppercase();
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            variables.insert(format!("{prefix}_SERVICE_PORT"), port.port.to_string());
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = port_name.replace('-', "_").to_uppercase();
            variables.insert(format!("{prefix}_SERVICE_PORT_{port_name}"), port.port.to_string());
        }
        let port_prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.insert(port_prefix.clone(), url);
        variables.insert(format!("{port_prefix}_PROTO"), protocol.to_lowercase());
        variables.insert(format!("{port_prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{port_prefix}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::resources::Amounts;

    #[test]
    fn expansion_follows_kubernetes_rules() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expanded) in [
            ("$(A)", "1"),
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
        ] {
            assert_eq!(expand(text, lookup), expanded, "{text}");
        }
    }

    #[test]
    fn own_variables_win_over_sources_and_services() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [{"name": "c",
                "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}],
                "env": [
                    {"name": "FIRST", "value": "$(CM_key)-$(WEB_SERVICE_HOST)-$(LATER)"},
                    {"name": "LATER", "value": "$(FIRST)"},
                    {"name": "WEB_SERVICE_PORT", "value": "own"},
                    {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "gone", "optional": true}}}
                ]}]}
        }))
        .unwrap();
        let map: ConfigMap = serde_json::from_value(serde_json::json!({"data": {"key": "v"}})).unwrap();
        let mut referred = Referred::default();
        referred.config_maps.insert("cm".into(), Some(Arc::new(map)));
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80, "name": "http"}]}
        }))
        .unwrap();
        let services = service_variables(&pod, [&service].into_iter());
        assert_eq!(services["WEB_PORT_80_TCP"], "tcp://10.96.0.9:80");
        assert_eq!(services["WEB_SERVICE_PORT_HTTP"], "80");
        let allocatable = Amounts::new();
        let around = Surroundings { host_ips: &[], pod_ips: &[], node_name: "n", allocatable: &allocatable };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let env = environment(&pod, container, &around, &referred, &services).unwrap();
        let env: BTreeMap<_, _> = env.into_iter().collect();
        assert_eq!(env["FIRST"], "v-10.96.0.9-$(LATER)");
        assert_eq!(env["LATER"], "v-10.96.0.9-$(LATER)");
        assert_eq!(env["WEB_SERVICE_PORT"], "own");
        assert!(!env.contains_key("KEY"));
        let error = environment(&pod, container, &around, &Referred::default(), &services).unwrap_err();
        assert_eq!(error, "configmap \"cm\" not found");
    }
}
