//! `/healthz`, `/livez`, `/readyz` and `/metrics`.

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};

use super::App;
use super::params::Params;
use super::respond::respond;

const TEXT: &str = "text/plain; charset=utf-8";

/// One named check and whether it passes.
type Check = (&'static str, bool);

async fn checks(app: &App, ready: bool) -> Vec<Check> {
    let mut checks = vec![("ping", true), ("etcd", app.registry.store().current_revision().await.is_ok())];
    if ready {
        checks.push(("informer-sync", app.registry.cacher().is_following()));
        checks.push(("poststarthook/bootstrap", app.is_bootstrapped()));
        checks.push(("shutdown", !app.shutdown.is_cancelled()));
    }
    checks
}

/// Answers a health path, `/readyz` or `/readyz/etcd`; none if it is no such path.
pub async fn answer(app: &App, path: &str, params: &Params) -> Option<Response<Body>> {
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let endpoint = parts.next()?;
    let only = parts.next();
    let ready = match endpoint {
        "healthz" | "readyz" => true,
        "livez" => false,
        _ => return None,
    };
    let mut checks = checks(app, ready).await;
    if let Some(only) = only {
        checks.retain(|(name, _)| *name == only);
        if checks.is_empty() {
            return Some(super::status::response(&super::status::no_such_path(), super::negotiate::Format::Json));
        }
    }
    checks.retain(|(name, _)| !params.iter().any(|(key, value)| key == "exclude" && value == *name));
    let healthy = checks.iter().all(|(_, passes)| *passes);
    let mut text = String::new();
    if !healthy || params.get("verbose").is_some() {
        for (name, passes) in &checks {
            text.push_str(&if *passes {
                format!("[+]{name} ok\n")
            } else {
                format!("[-]{name} failed: reason withheld\n")
            });
        }
        text.push_str(&format!("{endpoint} check {}\n", if healthy { "passed" } else { "failed" }));
    } else {
        text.push_str("ok");
    }
    let code = if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    Some(respond(code, TEXT, Bytes::from(text)))
}

/// Every metric of the process in Prometheus' text format.
pub async fn metrics(app: &App) -> Response<Body> {
    let status = app.registry.store().status().await.ok();
    app.metrics.observe(app.registry.cacher(), status.as_ref());
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, &app.exposition).is_err() {
        return super::status::response(
            &gantry_api::ApiError::internal("the metrics cannot be encoded"),
            super::negotiate::Format::Json,
        );
    }
    respond(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", Bytes::from(text))
}
