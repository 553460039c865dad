//! What docs/store.md tells an administrator to type, typed: back up, restore, move to etcd and back, change keys, check.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_integration_tests::command::run;
use gantry_integration_tests::{Cluster, Options, Outcome, eventually};
use serde_json::Value;

const PASSWORD: &str = "correct-horse-battery-staple";
/// The same as the API shows it.
const PASSWORD_BASE64: &str = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==";

/// `gantry store …` as root beside the server: with the data directory, without a kubeconfig.
#[track_caller]
fn store(cluster: &Cluster, args: &[&str]) -> Outcome {
    let mut command = cluster.command(&cluster.tools().gantry);
    command.arg("store").args(args).env("GANTRY_DATA_DIR", cluster.data_dir());
    run(&mut command, b"")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a resourceVersion")
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().expect("a UID").to_owned()
}

/// Whether any file below `dir` holds `needle`.
fn found_below(dir: &Path, needle: &str) -> bool {
    std::fs::read_dir(dir).expect("a folder").flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return found_below(&path, needle);
        }
        holds(&path, needle)
    })
}

/// Whether a file holds `needle`.
fn holds(file: &Path, needle: &str) -> bool {
    let bytes = std::fs::read(file).unwrap_or_default();
    let first = needle.as_bytes()[0];
    (0..bytes.len()).any(|at| bytes[at] == first && bytes[at..].starts_with(needle.as_bytes()))
}

fn is_plain(file: &Path) -> bool {
    holds(file, PASSWORD) || holds(file, PASSWORD_BASE64)
}

fn is_plain_below(dir: &Path) -> bool {
    found_below(dir, PASSWORD) || found_below(dir, PASSWORD_BASE64)
}

fn password(cluster: &Cluster) -> String {
    cluster.kubectl(&["get", "secret", "login", "-o", "jsonpath={.data.password}"]).ok()
}

fn fill(cluster: &Cluster) {
    cluster.kubectl(&["create", "secret", "generic", "login", &format!("--from-literal=password={PASSWORD}")]).ok();
    cluster.kubectl(&["create", "configmap", "settings", "--from-literal=colour=blue"]).ok();
}

#[test]
fn a_store_is_backed_up_checked_rotated_and_restored() {
    let flags =
        |dir: &str| ["--backup-dir", dir, "--backup-interval", "1s", "--backup-keep", "2"].map(str::to_owned).to_vec();
    let automatic = tempfile::tempdir().expect("a temporary folder");
    let options = Options { without_agent: true, flags: flags(text(automatic.path())), ..Options::default() };
    let Some(mut cluster) = Cluster::start(options) else { return };
    fill(&cluster);
    let scratch = cluster.scratch().to_path_buf();
    let file = scratch.join("monday.backup");

    // In use.
    let status = store(&cluster, &["status"]).ok();
    assert!(status.starts_with("STORE ") && status.contains("embedded") && status.contains("key-"), "{status}");
    let status: Value = serde_json::from_str(&store(&cluster, &["status", "-o", "json"]).ok()).expect("JSON");
    assert!(status["revision"].as_u64() > Some(1), "{status}");
    let written = store(&cluster, &["backup", text(&file)]).ok();
    assert!(written.contains("keys at revision"), "{written}");
    let again = store(&cluster, &["backup", text(&file)]).fails_with(1);
    assert!(again.contains("--force"), "{again}");
    assert!(!is_plain_below(&cluster.data_dir().join("store")), "the store does not show the secret");
    assert!(!is_plain(&file), "nor does the backup");
    for args in [&["verify"][..], &["verify", text(&file)]] {
        let report = store(&cluster, args).ok();
        assert!(report.contains(" 0 problems") && report.contains("secrets"), "{report}");
    }
    let compacted = store(&cluster, &["compact"]).ok();
    assert!(compacted.contains("dropped"), "{compacted}");
    let rotated = store(&cluster, &["rotate"]).ok();
    assert!(rotated.contains("written anew with key key-"), "{rotated}");
    assert_eq!(password(&cluster), PASSWORD_BASE64);
    eventually("two automatic backups", Duration::from_secs(30), || {
        let names: Vec<PathBuf> =
            std::fs::read_dir(automatic.path()).expect("it is there").flatten().map(|entry| entry.path()).collect();
        let whole = names.iter().filter(|name| name.extension().is_some_and(|extension| extension == "backup")).count();
        if whole == 2 { Ok(()) } else { Err(format!("{names:?}")) }
    });
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"]).ok();
    let last = metrics.lines().find(|line| line.starts_with("store_backup_last_success_timestamp_seconds"));
    assert!(last.is_some_and(|line| !line.ends_with(" 0")), "{last:?}");

    let settings = cluster.object(&["configmap", "settings"]).expect("it is there");
    cluster.kubectl(&["delete", "configmap", "settings"]).ok();
    cluster.kubectl(&["create", "configmap", "later"]).ok();
    let later = cluster.object(&["configmap", "later"]).expect("it is there");
    let in_use = store(&cluster, &["restore", text(&file), "--force"]).fails_with(1);
    assert!(in_use.contains("stop the server"), "{in_use}");

    // Not in use.
    assert!(cluster.server().terminate().success());
    let offline = store(&cluster, &["verify"]).ok();
    assert!(offline.contains(" 0 problems"), "{offline}");
    store(&cluster, &["status"]).ok();
    let refused = store(&cluster, &["restore", text(&file)]).fails_with(1);
    assert!(refused.contains("not empty") && refused.contains("--force"), "{refused}");
    let damaged = scratch.join("damaged.backup");
    let mut bytes = std::fs::read(&file).expect("the backup");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, &bytes).expect("the scratch folder can be written");
    let refused = store(&cluster, &["restore", text(&damaged), "--force"]).fails_with(1);
    assert!(refused.contains("nothing was changed") && refused.contains("checksum"), "{refused}");
    store(&cluster, &["verify", text(&damaged)]).fails_with(1);
    store(&cluster, &["restore", text(&file), "--force"]).ok();
    cluster.up();
    cluster.wait_ready();
    let restored = cluster.object(&["configmap", "settings"]).expect("it is back");
    assert_eq!(uid(&restored), uid(&settings));
    assert!(revision(&restored) > revision(&later), "no revision comes again");
    assert!(cluster.object(&["configmap", "later"]).is_err(), "it was made after the backup");
    assert_eq!(password(&cluster), PASSWORD_BASE64, "the old key is still in the file");
    // Whoever held a revision from before is told to list again.
    let old = cluster.kubectl(&[
        "get",
        "--raw",
        &format!("/api/v1/configmaps?watch=1&timeoutSeconds=5&resourceVersion={}", revision(&later)),
    ]);
    assert!(format!("{old}").contains("too old resource version"), "{old}");
    let dropped = store(&cluster, &["rotate", "--drop-old-keys"]).ok();
    assert!(dropped.contains("dropped from the file: key-"), "{dropped}");
    assert_eq!(password(&cluster), PASSWORD_BASE64);
}

#[test]
fn a_cluster_moves_to_etcd_and_back_with_uids_and_growing_revisions() {
    let Some(mut cluster) = Cluster::start(Options { without_agent: true, ..Options::default() }) else { return };
    if !cluster.start_etcd() {
        return;
    }
    let scratch = cluster.scratch().to_path_buf();
    fill(&cluster);
    for n in 0..20 {
        cluster.kubectl(&["label", "configmap", "settings", "--overwrite", &format!("round={n}")]).ok();
    }
    let before = cluster.object(&["configmap", "settings"]).expect("it is there");
    let embedded = format!("embedded:{}", cluster.data_dir().join("store").display());
    let in_use = store(&cluster, &["copy", "--from", &embedded, "--to", "etcd://127.0.0.1:2379"]).fails_with(1);
    assert!(in_use.contains("stop the server"), "{in_use}");
    assert!(cluster.server().terminate().success());

    let copied = store(&cluster, &["copy", "--from", &embedded, "--to", "etcd://127.0.0.1:2379"]).ok();
    assert!(copied.contains("keys copied to etcd://127.0.0.1:2379"), "{copied}");
    let twice = store(&cluster, &["copy", "--from", &embedded, "--to", "etcd://127.0.0.1:2379"]).fails_with(1);
    assert!(twice.contains("not empty"), "{twice}");
    assert!(!is_plain_below(&scratch.join("etcd")), "etcd's files do not show the secret");
    assert!(found_below(&scratch.join("etcd"), "gantry:enc:aesgcm:v1:"), "etcd holds it encrypted");
    let verified = store(&cluster, &["verify", "--store", "etcd://127.0.0.1:2379"]).ok();
    assert!(verified.contains(" 0 problems"), "{verified}");

    let after = on_store(&mut cluster, "etcd://127.0.0.1:2379");
    assert_eq!(uid(&after), uid(&before));
    assert!(revision(&after) > revision(&before), "{} after {}", revision(&after), revision(&before));
    let rotated = store(&cluster, &["rotate", "--store", "etcd://127.0.0.1:2379"]).ok();
    assert!(rotated.contains("written anew"), "{rotated}");
    assert_eq!(password(&cluster), PASSWORD_BASE64, "the server that runs knows the new key");
    cluster.kubectl(&["label", "configmap", "settings", "home=etcd"]).ok();
    let on_etcd = cluster.object(&["configmap", "settings"]).expect("it is there");
    let backup = scratch.join("etcd.backup");
    store(&cluster, &["backup", "--store", "etcd://127.0.0.1:2379", text(&backup)]).ok();
    assert!(cluster.server().terminate().success());

    let back = format!("embedded:{}", scratch.join("back").display());
    store(&cluster, &["copy", "--from", "etcd://127.0.0.1:2379", "--to", &back]).ok();
    let home = on_store(&mut cluster, &back);
    assert_eq!(uid(&home), uid(&before));
    assert_eq!(home["metadata"]["labels"]["home"], "etcd");
    assert!(revision(&home) > revision(&on_etcd));
    assert_eq!(password(&cluster), PASSWORD_BASE64);
}

/// Starts the server on another store and returns the settings as it has them.
fn on_store(cluster: &mut Cluster, store: &str) -> Value {
    cluster.up_with(&["--store", store]);
    cluster.wait_ready();
    cluster.object(&["configmap", "settings"]).expect("it moved along")
}
