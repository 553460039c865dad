//! What goes into the files of configMap, secret, downwardAPI and projected volumes. Pure: the objects come in as maps, and
//! tokens as they were issued.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use crate::pods::env::Referred;
use crate::pods::fields::{self, Surroundings};

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Contents.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// The files of a volume by path.
pub type Payload = BTreeMap<String, File>;

/// A volume whose files the agent writes.
#[derive(Clone, Debug)]
pub struct Written<'a> {
    /// Its sources, in order.
    pub sources: Vec<VolumeProjection>,
    /// Permission bits of files whose source names none.
    pub default_mode: u32,
    /// Whether it must not reach a disk.
    pub secret: bool,
    /// The volume's name.
    pub name: &'a str,
}

const DEFAULT_MODE: u32 = 0o644;

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).map_or(DEFAULT_MODE, |mode| mode & 0o7777)
}

/// The volume as a list of sources, if it is of a kind whose files the agent writes.
pub fn written(volume: &Volume) -> Option<Written<'_>> {
    let one = |projection: VolumeProjection, default_mode: Option<i32>, secret: bool| Written {
        sources: vec![projection],
        default_mode: mode(default_mode),
        secret,
        name: &volume.name,
    };
    if let Some(source) = &volume.config_map {
        let config_map = k8s_openapi::api::core::v1::ConfigMapProjection {
            name: source.name.clone(),
            items: source.items.clone(),
            optional: source.optional,
        };
        let projection = VolumeProjection { config_map: Some(config_map), ..VolumeProjection::default() };
        return Some(one(projection, source.default_mode, false));
    }
    if let Some(source) = &volume.secret {
        let secret = k8s_openapi::api::core::v1::SecretProjection {
            name: source.secret_name.clone().unwrap_or_default(),
            items: source.items.clone(),
            optional: source.optional,
        };
        let projection = VolumeProjection { secret: Some(secret), ..VolumeProjection::default() };
        return Some(one(projection, source.default_mode, true));
    }
    if let Some(source) = &volume.downward_api {
        let downward = k8s_openapi::api::core::v1::DownwardAPIProjection { items: source.items.clone() };
        let projection = VolumeProjection { downward_api: Some(downward), ..VolumeProjection::default() };
        return Some(one(projection, source.default_mode, false));
    }
    let projected = volume.projected.as_ref()?;
    let sources = projected.sources.clone().unwrap_or_default();
    let secret = sources.iter().any(|source| source.secret.is_some() || source.service_account_token.is_some());
    Some(Written { sources, default_mode: mode(projected.default_mode), secret, name: &volume.name })
}

/// Names of the ConfigMaps and Secrets in a volume's sources.
pub fn references(written: &Written<'_>) -> (Vec<String>, Vec<String>) {
    let sources = || written.sources.iter();
    (
        sources().filter_map(|source| source.config_map.as_ref()).map(|source| source.name.clone()).collect(),
        sources().filter_map(|source| source.secret.as_ref()).map(|source| source.name.clone()).collect(),
    )
}

/// The service account tokens a volume wants.
pub fn tokens<'a>(written: &'a Written<'_>) -> impl Iterator<Item = &'a ServiceAccountTokenProjection> {
    written.sources.iter().filter_map(|source| source.service_account_token.as_ref())
}

/// The files of a volume; `tokens` are by path. The error is the message of a FailedMount event.
pub fn payload(
    pod: &Pod,
    written: &Written<'_>,
    around: &Surroundings<'_>,
    referred: &Referred,
    tokens: &BTreeMap<String, String>,
) -> Result<Payload, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut files = Payload::new();
    for source in &written.sources {
        if let Some(source) = &source.config_map {
            match referred.config_maps.get(&source.name).cloned().flatten() {
                Some(map) => add_items(
                    &mut files,
                    &config_map_data(&map),
                    source.items.as_deref(),
                    written.default_mode,
                    source.optional == Some(true),
                    &format!("configmap references non-existent config key: {{}} ({namespace}/{})", source.name),
                )?,
                None if source.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", source.name)),
            }
        }
        if let Some(source) = &source.secret {
            match referred.secrets.get(&source.name).cloned().flatten() {
                Some(secret) => add_items(
                    &mut files,
                    &secret_data(&secret),
                    source.items.as_deref(),
                    written.default_mode,
                    source.optional == Some(true),
                    &format!("references non-existent secret key: {{}} ({namespace}/{})", source.name),
                )?,
                None if source.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", source.name)),
            }
        }
        if let Some(source) = &source.downward_api {
            for item in source.items.iter().flatten() {
                let data = downward(pod, item, around)?.into_bytes();
                insert(
                    &mut files,
                    &item.path,
                    File { data, mode: item.mode.map_or(written.default_mode, |m| mode(Some(m))) },
                )?;
            }
        }
        if let Some(source) = &source.service_account_token {
            let token = tokens.get(&source.path).ok_or("no service account token was issued")?;
            let file = File { data: token.clone().into_bytes(), mode: written.default_mode };
            insert(&mut files, &source.path, file)?;
        }
        if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            return Err("projected source is not supported".into());
        }
    }
    Ok(files)
}

fn downward(pod: &Pod, item: &DownwardAPIVolumeFile, around: &Surroundings<'_>) -> Result<String, String> {
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(selector), _) => fields::field(pod, around, selector),
        (None, Some(selector)) => fields::resource(pod, around, None, selector),
        (None, None) => Err(format!("no source for {}", item.path)),
    }
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect()
}

fn add_items(
    files: &mut Payload,
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: bool,
    missing: &str,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, value) in data {
            insert(files, key, File { data: value.to_vec(), mode: default_mode })?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => {
                let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
                insert(files, &item.path, File { data: value.to_vec(), mode })?;
            }
            None if optional => {}
            None => return Err(missing.replace("{}", &item.key)),
        }
    }
    Ok(())
}

/// Paths must stay inside the volume and out of the names that the atomic writer uses.
fn insert(files: &mut Payload, path: &str, file: File) -> Result<(), String> {
    let mut components = Path::new(path).components();
    let safe = !path.is_empty()
        && !path.starts_with("..")
        && components.all(|component| matches!(component, Component::Normal(_)));
    if !safe {
        return Err(format!("invalid path: {path}"));
    }
    files.insert(path.to_owned(), file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pods::resources::Amounts;

    fn files(volume: serde_json::Value, referred: &Referred) -> Result<Payload, String> {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod: Pod =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let allocatable = Amounts::new();
        let around = Surroundings { host_ips: &[], pod_ips: &[], node_name: "n", allocatable: &allocatable };
        payload(&pod, &written(&volume).unwrap(), &around, referred, &BTreeMap::new())
    }

    #[test]
    fn items_modes_and_missing_keys() {
        let map: ConfigMap = serde_json::from_value(serde_json::json!({"data": {"a": "1", "b": "2"}})).unwrap();
        let mut referred = Referred::default();
        referred.config_maps.insert("cm".into(), Some(Arc::new(map)));
        let all = files(serde_json::json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 0o400}}), &referred);
        assert_eq!(all.unwrap()["b"], File { data: b"2".to_vec(), mode: 0o400 });
        let items = serde_json::json!({"name": "v", "configMap": {"name": "cm",
            "items": [{"key": "a", "path": "dir/x", "mode": 0o600}]}});
        let some = files(items, &referred).unwrap();
        assert_eq!(some.keys().collect::<Vec<_>>(), ["dir/x"]);
        assert_eq!(some["dir/x"].mode, 0o600);
        let gone = serde_json::json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}});
        assert_eq!(files(gone, &referred).unwrap_err(), "configmap references non-existent config key: z (ns/cm)");
        let evil =
            serde_json::json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": "../x"}]}});
        assert!(files(evil, &referred).is_err());
        let absent = serde_json::json!({"name": "v", "secret": {"secretName": "s"}});
        assert_eq!(files(absent, &referred).unwrap_err(), "secret \"s\" not found");
        let optional = serde_json::json!({"name": "v", "secret": {"secretName": "s", "optional": true}});
        assert!(files(optional, &referred).unwrap().is_empty());
    }
}
