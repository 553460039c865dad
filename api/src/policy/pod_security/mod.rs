//! The Pod Security Standards: what the labels of a namespace let its pods do.
//!
//! In: a namespace's labels ([`Policy::of_labels`]) and a pod's metadata and spec. Out: why a level forbids it
//! ([`evaluate`]), in the words of Kubernetes' own admission plugin. The rules are in [`checks`], one a row.

mod checks;

use std::fmt;

use serde_json::Value;

use crate::error::FieldError;

/// How much a pod may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything.
    Privileged,
    /// Nothing that is known to reach the node.
    Baseline,
    /// Only what follows hardening practice.
    Restricted,
}

/// The minor version of Kubernetes whose rules count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Those of `v1.N`.
    Minor(u32),
    /// The newest ones known.
    Latest,
}

/// A level in a version: `restricted:latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// How much.
    pub level: Level,
    /// By which rules.
    pub version: Version,
}

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A pod beyond it is refused.
    pub enforce: Standard,
    /// A pod beyond it is noted.
    pub audit: Standard,
    /// Who makes a pod beyond it is warned.
    pub warn: Standard,
}

/// Why a pod is beyond a standard: reasons with details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// In a word: `host namespaces`.
    pub reason: &'static str,
    /// What exactly.
    pub detail: String,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level),
        }
    }
}

fn parse_level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

fn parse_version(text: &str) -> Result<Version, &'static str> {
    const WRONG: &str = "must be \"latest\" or \"v1.x\"";
    if text == "latest" {
        return Ok(Version::Latest);
    }
    let minor = text.strip_prefix("v1.").ok_or(WRONG)?;
    let well_formed = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
    minor.parse().ok().filter(|_| well_formed).map(Version::Minor).ok_or(WRONG)
}

impl Policy {
    /// A namespace that asks for nothing.
    pub const PRIVILEGED: Policy = {
        let all = Standard { level: Level::Privileged, version: Version::Latest };
        Policy { enforce: all, audit: all, warn: all }
    };

    /// What a namespace with these labels asks for, and which labels are wrong. A wrong label of `enforce` counts as the
    /// strictest.
    pub fn of_labels(labels: Option<&Value>) -> (Policy, Vec<FieldError>) {
        let mut policy = Policy::PRIVILEGED;
        let mut errors = Vec::new();
        let label = |mode: &str| {
            let key = format!("pod-security.kubernetes.io/{mode}");
            let value = labels.and_then(|labels| labels.get(&key)).and_then(Value::as_str);
            value.map(|value| (format!("metadata.labels[{key}]"), value))
        };
        let mut note = |path: String, value: &str, why: &str| errors.push(FieldError::invalid(path, value, why));
        let mut enforces = false;
        let modes = [
            ("enforce", Level::Restricted, &mut policy.enforce),
            ("audit", Level::Privileged, &mut policy.audit),
            ("warn", Level::Privileged, &mut policy.warn),
        ];
        for (mode, if_wrong, standard) in modes {
            if let Some((path, value)) = label(mode) {
                let parsed = parse_level(value);
                enforces |= mode == "enforce" && parsed.is_ok();
                standard.level = parsed.unwrap_or(if_wrong);
                if let Err(why) = parsed {
                    note(path, value, why);
                }
            }
            if let Some((path, value)) = label(&format!("{mode}-version")) {
                let parsed = parse_version(value);
                standard.version = parsed.unwrap_or(Version::Latest);
                if let Err(why) = parsed {
                    note(path, value, why);
                }
            }
        }
        // Who is held to a level is warned of it too, as pods are mostly made by controllers.
        if label("warn").is_none() && enforces && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// Whether nothing is asked for.
    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }
}

/// Why a pod with this metadata and spec is beyond the standard; empty if it is not.
pub fn evaluate(standard: Standard, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let minor = match standard.version {
        Version::Minor(minor) => minor,
        Version::Latest => u32::MAX,
    };
    let pod = checks::Pod { metadata, spec };
    match standard.level {
        Level::Privileged => Vec::new(),
        level => checks::applying(level == Level::Restricted, minor).filter_map(|check| check(&pod)).collect(),
    }
}

/// The reasons alone: `host namespaces, privileged`.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason).collect::<Vec<_>>().join(", ")
}

/// The reasons with their details: `host namespaces (hostNetwork=true), …`.
pub fn details(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|violation| match violation.detail.as_str() {
        "" => violation.reason.to_owned(),
        detail => format!("{} ({detail})", violation.reason),
    });
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
