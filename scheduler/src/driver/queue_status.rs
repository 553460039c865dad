//! Writes into the status of queues what their pods use.
//!
//! What is to be told is put together when it is written, so that however often a queue changes, one writing tells the last.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::queues::WatchedQueue;
use super::state::QueueReport;

/// Between two writings.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Requests in flight: these have time.
const CONCURRENCY: usize = 4;

/// What was last written of each queue, so that nothing is written twice.
pub type Written = BTreeMap<String, QueueReport>;

/// Writes the reports; returns each with whether it was written.
pub async fn write(client: Client, reports: Vec<QueueReport>) -> Vec<(QueueReport, bool)> {
    let api: Api<WatchedQueue> = Api::all(client);
    let all = futures::stream::iter(reports).map(|report| {
        let api = api.clone();
        async move {
            let written = api.patch_status(&report.name, &PatchParams::default(), &Patch::Merge(status(&report))).await;
            match written {
                Ok(_) => (report, true),
                // It is gone; when it comes back, that is a change.
                Err(kube::Error::Api(status)) if status.code == 404 => (report, true),
                Err(error) => {
                    tracing::warn!(queue = report.name, %error, "the status of a queue was not written");
                    (report, false)
                }
            }
        }
    });
    all.buffer_unordered(CONCURRENCY).collect().await
}

fn status(report: &QueueReport) -> serde_json::Value {
    let (usable, reason) = match &report.fault {
        None => ("True", "Placed"),
        Some(_) => ("False", "Misplaced"),
    };
    let condition = Condition {
        type_: "Usable".to_owned(),
        status: usable.to_owned(),
        reason: reason.to_owned(),
        message: report.fault.clone().unwrap_or_default(),
        last_transition_time: Time(Timestamp::now()),
        observed_generation: None,
    };
    // What is not used any more is to go from what was written before.
    let mut used: serde_json::Map<String, serde_json::Value> =
        report.dropped.iter().map(|name| (name.clone(), serde_json::Value::Null)).collect();
    used.extend(report.used.iter().map(|(name, amount)| (name.clone(), json!(amount))));
    let mut status = json!({"used": used, "share": share(report.share), "placed": report.placed,
        "waiting": report.waiting});
    if report.is_fault_news {
        status["conditions"] = json!([condition]);
    }
    json!({ "status": status })
}

/// Billionths as a percentage with one digit behind the point.
fn share(billionths: u64) -> String {
    let tenths = billionths / 1_000_000;
    format!("{}.{}%", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_in_percent() {
        for (billionths, told) in [(0, "0.0%"), (1_000_000_000, "100.0%"), (375_400_000, "37.5%"), (999_999, "0.0%")] {
            assert_eq!(share(billionths), told);
        }
    }
}
