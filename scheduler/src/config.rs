//! The configuration file: Kubernetes' `KubeSchedulerConfiguration`, as far as this scheduler has what it
//! sets. Anything else in it is refused by name, so that no setting is silently without effect.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::core::resources::GPU_MILLI;
use crate::core::{PodSelector, Scoring, Spread, SpreadMode, Strategy};
use crate::defrag::settings::{self, Settings};
use crate::driver::queue::Delays;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
const DEFAULT_SCHEDULER: &str = "default-scheduler";
const FIT: &str = "NodeResourcesFit";
const SPREAD: &str = "PodTopologySpread";
const BINDER: &str = "DefaultBinder";
const WEIGHTS: std::ops::RangeInclusive<i64> = 1..=100;
/// What a shape's scores go up to; points are ten times that.
const SHAPE_SCORE_MAX: i64 = 10;

/// The pods with one scheduler name, and how nodes are scored for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `spec.schedulerName` of the pods.
    pub scheduler_name: String,
    /// How nodes that fit are compared.
    pub scoring: Scoring,
    /// How pods are spread over places that do not say; the selectors are left open.
    pub spread: Vec<Spread>,
    /// The API server is asked to refuse bindings to nodes that have no room: others bind to them too.
    pub if_fits: bool,
}

/// How pods that do not say are spread unless a profile says: over hosts, and less so over zones.
pub fn system_spread() -> Vec<Spread> {
    let keys = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];
    keys.into_iter().map(|(key, max_skew)| default_spread(key.into(), max_skew, SpreadMode::Default)).collect()
}

fn default_spread(topology_key: String, max_skew: i32, mode: SpreadMode) -> Spread {
    Spread {
        selector: PodSelector::default(),
        topology_key,
        max_skew,
        min_domains: 1,
        honors_affinity: true,
        honors_taints: false,
        mode,
    }
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            scheduler_name: DEFAULT_SCHEDULER.into(),
            scoring: Scoring::default(),
            spread: system_spread(),
            if_fits: false,
        }
    }
}

/// What a configuration file sets.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The profiles, at least one.
    pub profiles: Vec<Profile>,
    /// Back-off times.
    pub delays: Delays,
    /// Whether pods are moved so that others have room.
    pub defragmentation: Settings,
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            profiles: vec![Profile::default()],
            delays: Delays::default(),
            defragmentation: Settings::default(),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not of the right form; the message names the field.
    #[error("the scheduler configuration cannot be read")]
    Form(#[source] serde_json::Error),
    /// A field has a value that it cannot have.
    #[error("{path}: {problem}")]
    Field {
        /// The field.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn refuse<T>(path: impl Into<String>, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Field { path: path.into(), problem: problem.into() })
}

impl Configuration {
    /// The profile of the pods with this scheduler name.
    pub fn profile(&self, scheduler_name: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.scheduler_name == scheduler_name)
    }

    /// Reads a document.
    pub fn read(document: Value) -> Result<Configuration, ConfigError> {
        let view: ConfigurationView = serde_json::from_value(document).map_err(ConfigError::Form)?;
        if view.api_version != API_VERSION {
            return refuse(
                "apiVersion",
                format!("Unsupported value: {:?}: supported: {API_VERSION}", view.api_version),
            );
        }
        if view.kind != KIND {
            return refuse("kind", format!("Unsupported value: {:?}: supported: {KIND}", view.kind));
        }
        let mut configuration = Configuration::default();
        let delays = &mut configuration.delays;
        let seconds = |path: &str, value: Option<i64>, default: Duration| match value {
            None => Ok(default),
            Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.unsigned_abs())),
            Some(seconds) => refuse(path, format!("Invalid value: {seconds}: must be greater than 0")),
        };
        delays.backoff_initial =
            seconds("podInitialBackoffSeconds", view.pod_initial_backoff_seconds, delays.backoff_initial)?;
        delays.backoff_max = seconds("podMaxBackoffSeconds", view.pod_max_backoff_seconds, delays.backoff_max)?;
        if delays.backoff_max < delays.backoff_initial {
            let problem = format!(
                "Invalid value: {}: must be greater than or equal to PodInitialBackoffSeconds",
                delays.backoff_max.as_secs()
            );
            return refuse("podMaxBackoffSeconds", problem);
        }
        if let Some(view) = view.defragmentation {
            configuration.defragmentation = view.read()?;
        }
        if let Some(profiles) = view.profiles {
            if profiles.is_empty() {
                return refuse("profiles", "Required value");
            }
            let mut names = BTreeSet::new();
            configuration.profiles.clear();
            for (index, view) in profiles.into_iter().enumerate() {
                let path = format!("profiles[{index}]");
                let profile = profile(&path, view)?;
                if !names.insert(profile.scheduler_name.clone()) {
                    return refuse(
                        format!("{path}.schedulerName"),
                        format!("Duplicate value: {:?}", profile.scheduler_name),
                    );
                }
                configuration.profiles.push(profile);
            }
        }
        Ok(configuration)
    }
}

fn profile(path: &str, view: ProfileView) -> Result<Profile, ConfigError> {
    let mut profile = Profile::default();
    if let Some(name) = view.scheduler_name {
        if name.is_empty() {
            return refuse(format!("{path}.schedulerName"), "Required value");
        }
        profile.scheduler_name = name;
    }
    let mut seen = BTreeSet::new();
    for (index, plugin) in view.plugin_config.into_iter().enumerate() {
        let path = format!("{path}.pluginConfig[{index}]");
        match plugin.name.as_str() {
            FIT => {
                let args: FitView = serde_json::from_value(plugin.args).map_err(ConfigError::Form)?;
                if let Some(strategy) = args.scoring_strategy {
                    profile.scoring = scoring(&format!("{path}.args.scoringStrategy"), strategy)?;
                }
            }
            SPREAD => {
                let args: SpreadView = serde_json::from_value(plugin.args).map_err(ConfigError::Form)?;
                profile.spread = spread(&format!("{path}.args"), args)?;
            }
            BINDER => {
                let args: BinderView = serde_json::from_value(plugin.args).map_err(ConfigError::Form)?;
                profile.if_fits = args.if_fits;
            }
            other => {
                let problem = format!("Unsupported value: {other:?}: supported: {BINDER}, {FIT}, {SPREAD}");
                return refuse(format!("{path}.name"), problem);
            }
        }
        if !seen.insert(plugin.name.clone()) {
            return refuse(path, format!("Duplicate value: {:?}", plugin.name));
        }
    }
    Ok(profile)
}

fn spread(path: &str, view: SpreadView) -> Result<Vec<Spread>, ConfigError> {
    let constraints = view.default_constraints.unwrap_or_default();
    match view.defaulting_type.as_deref() {
        None | Some("System") if constraints.is_empty() => return Ok(system_spread()),
        None | Some("System") => {
            let problem = "Invalid value: when .defaultingType is not specified or is System, must be empty";
            return refuse(format!("{path}.defaultConstraints"), problem);
        }
        Some("List") => {}
        Some(other) => {
            let problem = format!("Unsupported value: {other:?}: supported: List, System");
            return refuse(format!("{path}.defaultingType"), problem);
        }
    }
    let mut spreads: Vec<Spread> = Vec::new();
    for (index, one) in constraints.into_iter().enumerate() {
        let path = format!("{path}.defaultConstraints[{index}]");
        if one.max_skew <= 0 {
            return refuse(
                format!("{path}.maxSkew"),
                format!("Invalid value: {}: not in valid range (0, inf)", one.max_skew),
            );
        }
        if one.topology_key.is_empty() {
            return refuse(format!("{path}.topologyKey"), "Required value: can not be empty");
        }
        let mode = match one.when_unsatisfiable.as_str() {
            "DoNotSchedule" => SpreadMode::DoNotSchedule,
            "ScheduleAnyway" => SpreadMode::ScheduleAnyway,
            other => {
                let problem = format!("Unsupported value: {other:?}: supported: DoNotSchedule, ScheduleAnyway");
                return refuse(format!("{path}.whenUnsatisfiable"), problem);
            }
        };
        if spreads.iter().any(|known| known.topology_key == one.topology_key && known.mode == mode) {
            let pair = format!("{{{}, {}}}", one.topology_key, one.when_unsatisfiable);
            return refuse(path, format!("Duplicate value: {pair:?}"));
        }
        spreads.push(default_spread(one.topology_key, one.max_skew, mode));
    }
    Ok(spreads)
}

fn scoring(path: &str, view: StrategyView) -> Result<Scoring, ConfigError> {
    let shape = view.requested_to_capacity_ratio;
    if shape.is_some() && view.type_ != "RequestedToCapacityRatio" {
        return refuse(format!("{path}.requestedToCapacityRatio"), format!("has no effect on {}", view.type_));
    }
    let strategy = match view.type_.as_str() {
        "BinPacking" => Strategy::BinPacking,
        "BestFit" => Strategy::BestFit,
        "DotProduct" => Strategy::DotProduct,
        "FGD" => Strategy::Fragmentation,
        "MostAllocated" => Strategy::MostAllocated,
        "LeastAllocated" => Strategy::LeastAllocated,
        "RequestedToCapacityRatio" => {
            Strategy::RequestedToCapacityRatio(points(&format!("{path}.requestedToCapacityRatio.shape"), shape)?)
        }
        other => {
            let known = "BestFit, BinPacking, DotProduct, FGD, LeastAllocated, MostAllocated, RequestedToCapacityRatio";
            return refuse(format!("{path}.type"), format!("Unsupported value: {other:?}: supported: {known}"));
        }
    };
    let problem = match strategy {
        Strategy::BinPacking => "BinPacking weighs CPU, memory and all that a pod asks for alike",
        Strategy::Fragmentation => "FGD looks at devices, and at CPU as far as they need it",
        _ => "",
    };
    if !problem.is_empty() && view.resources.is_some() {
        return refuse(format!("{path}.resources"), problem);
    }
    let mut resources = Vec::new();
    for (index, resource) in view.resources.into_iter().flatten().enumerate() {
        let weight = resource.weight.unwrap_or(1);
        if !WEIGHTS.contains(&weight) {
            let problem =
                format!("Invalid value: {weight}: resource weight of {} not in valid range [1, 100]", resource.name);
            return refuse(format!("{path}.resources[{index}].weight"), problem);
        }
        resources.push((resource.name, weight));
    }
    let defaults: &[&str] = match strategy {
        _ if !resources.is_empty() => &[],
        Strategy::BinPacking | Strategy::Fragmentation => &[],
        Strategy::BestFit | Strategy::DotProduct => &["cpu", "memory", GPU_MILLI],
        Strategy::MostAllocated | Strategy::LeastAllocated | Strategy::RequestedToCapacityRatio(_) => {
            &["cpu", "memory"]
        }
    };
    resources.extend(defaults.iter().map(|name| ((*name).to_owned(), 1)));
    Ok(Scoring { strategy, resources })
}

fn points(path: &str, view: Option<RatioView>) -> Result<Vec<(i64, i64)>, ConfigError> {
    let shape = view.map(|view| view.shape).unwrap_or_default();
    if shape.is_empty() {
        return refuse(path, "Required value: at least one point must be specified");
    }
    let mut points: Vec<(i64, i64)> = Vec::new();
    for (index, point) in shape.into_iter().enumerate() {
        let PointView { utilization, score } = point;
        let follows = points.last().is_none_or(|(before, _)| *before < utilization);
        if !follows || !(0..=100).contains(&utilization) {
            let problem =
                format!("Invalid value: {utilization}: values must be from 0 to 100 and sorted in increasing order");
            return refuse(format!("{path}[{index}].utilization"), problem);
        }
        if !(0..=SHAPE_SCORE_MAX).contains(&score) {
            let problem = format!("Invalid value: {score}: not in valid range [0, {SHAPE_SCORE_MAX}]");
            return refuse(format!("{path}[{index}].score"), problem);
        }
        points.push((utilization, score * 100 / SHAPE_SCORE_MAX));
    }
    Ok(points)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigurationView {
    api_version: String,
    kind: String,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    profiles: Option<Vec<ProfileView>>,
    defragmentation: Option<settings::View>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileView {
    scheduler_name: Option<String>,
    #[serde(default)]
    plugin_config: Vec<PluginView>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginView {
    name: String,
    args: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BinderView {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(default)]
    if_fits: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadView {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    default_constraints: Option<Vec<ConstraintView>>,
    defaulting_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConstraintView {
    max_skew: i32,
    topology_key: String,
    when_unsatisfiable: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitView {
    /// May be there and says nothing that the plugin's name does not.
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    scoring_strategy: Option<StrategyView>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StrategyView {
    #[serde(rename = "type")]
    type_: String,
    resources: Option<Vec<ResourceView>>,
    requested_to_capacity_ratio: Option<RatioView>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceView {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RatioView {
    shape: Vec<PointView>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PointView {
    utilization: i64,
    score: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(profiles: Value) -> Result<Configuration, String> {
        let document = json!({"apiVersion": API_VERSION, "kind": KIND, "profiles": profiles});
        Configuration::read(document).map_err(|error| match error {
            ConfigError::Form(error) => error.to_string(),
            error => error.to_string(),
        })
    }

    fn fit(strategy: Value) -> Value {
        json!([{"pluginConfig": [{"name": FIT, "args": {"scoringStrategy": strategy}}]}])
    }

    #[test]
    fn profiles_are_read() {
        let configuration = with(json!([
            {},
            {"schedulerName": "spread", "pluginConfig": [{"name": FIT, "args": {
                "apiVersion": API_VERSION, "kind": "NodeResourcesFitArgs",
                "scoringStrategy": {"type": "LeastAllocated"}}}]},
            {"schedulerName": "gpu", "pluginConfig": [{"name": FIT, "args": {"scoringStrategy": {
                "type": "RequestedToCapacityRatio", "resources": [{"name": "example.com/gpu", "weight": 5}],
                "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}}}]},
        ]))
        .unwrap();
        let names: Vec<_> = configuration.profiles.iter().map(|profile| &*profile.scheduler_name).collect();
        assert_eq!(names, ["default-scheduler", "spread", "gpu"]);
        assert_eq!(configuration.profiles[0].scoring, Scoring::default());
        let spread = &configuration.profiles[1].scoring;
        assert_eq!(spread.strategy, Strategy::LeastAllocated);
        assert_eq!(spread.resources, [("cpu".to_owned(), 1), ("memory".to_owned(), 1)]);
        let gpu = &configuration.profiles[2].scoring;
        assert_eq!(gpu.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]));
        assert_eq!(gpu.resources, [("example.com/gpu".to_owned(), 5)]);
    }

    #[test]
    fn a_profile_says_how_pods_are_spread_that_do_not() {
        let read = |args: Value| {
            let configuration = with(json!([{"pluginConfig": [{"name": SPREAD, "args": args}]}]))?;
            let spread = configuration.profiles[0].spread.iter();
            Ok::<_, String>(spread.map(|one| (one.topology_key.clone(), one.max_skew, one.mode)).collect::<Vec<_>>())
        };
        let rack = json!({"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"});
        let list = |constraints: Value| json!({"defaultingType": "List", "defaultConstraints": constraints});
        assert_eq!(read(json!({})).unwrap().len(), 2);
        assert_eq!(read(list(json!([]))).unwrap(), []);
        assert_eq!(read(list(json!([rack]))).unwrap(), [("rack".to_owned(), 2, SpreadMode::DoNotSchedule)]);
        let args = "profiles[0].pluginConfig[0].args";
        for (given, expected) in [
            (json!({"defaultConstraints": [rack]}), "defaultConstraints: Invalid value"),
            (json!({"defaultingType": "Some"}), "defaultingType: Unsupported value: \"Some\""),
            (list(json!([rack, rack])), "defaultConstraints[1]: Duplicate value"),
            (
                list(json!([{"maxSkew": 0, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}])),
                "defaultConstraints[0].maxSkew: Invalid value: 0",
            ),
        ] {
            let refused = read(given.clone()).unwrap_err();
            assert!(refused.starts_with(&format!("{args}.{expected}")), "{given}: {refused}");
        }
    }

    #[test]
    fn a_profile_says_whether_the_server_is_to_check_bindings() {
        let binder =
            |args: Value| json!([{"pluginConfig": [{"name": BINDER, "args": args}]}, {"schedulerName": "other"}]);
        let configuration = with(binder(json!({"ifFits": true}))).unwrap();
        let asks = |name: &str| configuration.profile(name).map(|profile| profile.if_fits);
        assert_eq!(["default-scheduler", "other", "none"].map(asks), [Some(true), Some(false), None]);
        assert!(with(binder(json!({"ifFit": true}))).unwrap_err().starts_with("unknown field `ifFit`"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        let strategy = "profiles[0].pluginConfig[0].args.scoringStrategy";
        let cases = [
            (json!([]), "profiles: Required value".to_owned()),
            (json!([{}, {}]), "profiles[1].schedulerName: Duplicate value: \"default-scheduler\"".to_owned()),
            (json!([{"plugins": {}}]), "unknown field `plugins`".to_owned()),
            (
                json!([{"pluginConfig": [{"name": "ImageLocality", "args": {}}]}]),
                "profiles[0].pluginConfig[0].name: Unsupported value: \"ImageLocality\"".to_owned(),
            ),
            (fit(json!({"type": "Random"})), format!("{strategy}.type: Unsupported value: \"Random\"")),
            (
                fit(json!({"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 0}]})),
                format!("{strategy}.resources[0].weight: Invalid value: 0"),
            ),
            (
                fit(json!({"type": "RequestedToCapacityRatio"})),
                format!("{strategy}.requestedToCapacityRatio.shape: Required value"),
            ),
            (
                fit(json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": [
                    {"utilization": 50, "score": 0}, {"utilization": 50, "score": 1}]}})),
                format!("{strategy}.requestedToCapacityRatio.shape[1].utilization: Invalid value: 50"),
            ),
        ];
        for (profiles, expected) in cases {
            let refused = with(profiles.clone()).unwrap_err();
            assert!(refused.starts_with(&expected), "{profiles}: {refused}");
        }
        let document = json!({"apiVersion": API_VERSION, "kind": KIND, "podInitialBackoffSeconds": 20});
        let refused = Configuration::read(document).unwrap_err().to_string();
        assert!(refused.starts_with("podMaxBackoffSeconds: Invalid value: 10"), "{refused}");
    }
}
