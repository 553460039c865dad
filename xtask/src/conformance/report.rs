//! The suite's report as a table by area.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Vec<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_text: String,
    leaf_node_type: String,
    state: String,
    /// Nanoseconds.
    run_time: u64,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

/// What ran, by area.
pub struct Table {
    areas: BTreeMap<String, Area>,
    failures: Vec<String>,
}

#[derive(Default)]
struct Area {
    passed: usize,
    failed: usize,
    seconds: f64,
}

/// Reads ginkgo's JSON report.
///
/// # Errors
/// When there is none, as when the suite did not start.
pub fn read(file: &Path) -> Result<Table> {
    let text = fs::read(file).with_context(|| format!("the suite left no report at {}", file.display()))?;
    let suites: Vec<Suite> = serde_json::from_slice(&text)?;
    Ok(table(&suites))
}

fn table(suites: &[Suite]) -> Table {
    let mut table = Table { areas: BTreeMap::new(), failures: Vec::new() };
    let specs = suites.iter().flat_map(|suite| &suite.spec_reports);
    for spec in specs.filter(|spec| !matches!(spec.state.as_str(), "skipped" | "pending")) {
        let name = spec.container_hierarchy_texts.iter().flatten().chain([&spec.leaf_node_text]);
        let name = name.map(String::as_str).collect::<Vec<_>>().join(" ");
        let passed = spec.state == "passed";
        // What runs around the specs counts only when it fails.
        if spec.leaf_node_type == "It" || !passed {
            let area = table.areas.entry(area(&name)).or_default();
            area.seconds += spec.run_time as f64 / 1e9;
            *(if passed { &mut area.passed } else { &mut area.failed }) += 1;
        }
        if !passed {
            let message = spec.failure.as_ref().map_or("", |failure| failure.message.as_str());
            let message: String = message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
            table.failures.push(format!("{name}\n      {}: {message}", spec.state));
        }
    }
    table
}

/// The special interest group whose spec it is, without `sig-`.
fn area(name: &str) -> String {
    let group = name.split_once("[sig-").and_then(|(_, rest)| rest.split_once(']'));
    group.map_or_else(|| "the suite itself".to_owned(), |(group, _)| group.to_owned())
}

impl Table {
    /// Specs that failed.
    pub fn failed(&self) -> usize {
        self.areas.values().map(|area| area.failed).sum()
    }

    /// Specs that ran.
    pub fn ran(&self) -> usize {
        self.areas.values().map(|area| area.passed + area.failed).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>6} {:>6} {:>8}", "AREA", "PASSED", "FAILED", "SECONDS")?;
        for (name, area) in &self.areas {
            writeln!(f, "{name:<20} {:>6} {:>6} {:>8.0}", area.passed, area.failed, area.seconds)?;
        }
        for failure in &self.failures {
            writeln!(f, "\nFAILED {failure}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_count_by_area_and_failures_are_told() {
        let spec = |kind: &str, text: &str, state: &str| {
            serde_json::json!({
                "ContainerHierarchyTexts": (kind == "It").then(|| vec!["[sig-cli] Kubectl"]),
                "LeafNodeText": text, "LeafNodeType": kind, "State": state, "RunTime": 2_000_000_000_u64,
                "Failure": (state == "failed").then(|| serde_json::json!({"Message": "expected\n  less"})),
            })
        };
        let suites = serde_json::json!([{"SpecReports": [
            spec("It", "a", "passed"), spec("It", "b", "failed"), spec("It", "c", "skipped"),
            spec("SynchronizedBeforeSuite", "", "passed"),
        ]}]);
        let table = table(&serde_json::from_value::<Vec<Suite>>(suites).unwrap());
        assert_eq!((table.ran(), table.failed()), (2, 1));
        let shown = table.to_string();
        assert!(shown.contains("cli                       1      1        4"), "{shown}");
        assert!(shown.contains("FAILED [sig-cli] Kubectl b\n      failed: expected less"), "{shown}");
    }
}
