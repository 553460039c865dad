//! Helm, in every version that is tested, on the chart in `charts/`: what `docs/helm.md` says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_integration_tests::command::{self, Outcome};
use gantry_integration_tests::{Cluster, Options, docs, eventually, tools};

const MINUTE: Duration = Duration::from_secs(60);

struct Helm<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
    version: &'a str,
    page: docs::Page,
}

impl Helm<'_> {
    /// Runs commands as the page's reader does.
    #[track_caller]
    fn types(&self, commands: &str) -> Outcome {
        let mut bash = self.cluster.shell(std::slice::from_ref(&self.folder), &["charts"]);
        bash.args(["-o", "pipefail", "-ec", commands]);
        command::run(&mut bash, b"")
    }

    /// Runs a block of the page and returns what it printed.
    #[track_caller]
    fn section(&self, title: &str, number: usize) -> String {
        let told = self.types(self.page.section(title)[number]);
        assert_eq!(told.code, 0, "Helm {}: {told}", self.version);
        told.stdout
    }

    /// What the site says under the Service's address.
    fn fetch(&self) -> String {
        let get = "address=$(kubectl get service blog -o jsonpath='{.spec.clusterIP}')
            pod=$(kubectl get pods -l app.kubernetes.io/instance=blog,!app.kubernetes.io/version -o name | head -n 1)
            kubectl exec $pod -- busybox wget -q -O - http://$address/index.html";
        // Right after a change an address may still lead to a pod that is about to end.
        eventually("an answer of the site", MINUTE, || {
            let told = self.types(get);
            if told.code == 0 { Ok(told.stdout) } else { Err(told.to_string()) }
        })
    }

    /// The states in the release's history.
    fn history(&self) -> Vec<String> {
        let told = self.types("helm history blog -o json").ok();
        let revisions: Vec<serde_json::Value> = serde_json::from_str(&told).expect("JSON");
        revisions.iter().map(|revision| revision["status"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn installs(helm: &Helm<'_>) {
    let told = helm.section("Install", 0);
    assert!(told.contains("1 chart(s) linted, 0 chart(s) failed"), "{told}");
    assert!(told.contains("STATUS: deployed") && told.contains("REVISION: 1"), "{told}");
    assert!(told.contains("The site \"My site\" is served"), "{told}");
    helm.cluster.kubectl(&["wait", "--for=condition=Established", "crd/banners.site.example.io", "--timeout=0s"]).ok();
    let ready = ["get", "deployment", "blog", "-o", "jsonpath={.status.readyReplicas}"];
    assert_eq!(helm.cluster.kubectl(&ready).ok(), "2", "--wait waited");
    let hooks = helm.cluster.kubectl(&["get", "pods", "blog-check", "--ignore-not-found"]).ok();
    assert_eq!(hooks, "", "a hook that succeeded is deleted");
    assert!(helm.fetch().contains("<h1>My site</h1>"));

    let told = helm.section("Install", 1);
    assert!(told.contains("Succeeded") && told.contains("<h1>My site</h1>"), "{told}");
    let again = helm.types("helm install blog charts/site").fails_with(1);
    assert!(again.contains("name that is still in use"), "{again}");
}

fn changes(helm: &Helm<'_>) {
    let told = helm.section("Change", 0);
    assert!(told.contains("REVISION: 2") && told.contains("superseded"), "{told}");
    let page = helm.fetch();
    assert!(page.contains("<h1>Our blog</h1>") && page.contains("Closed until Monday"), "{page}");
    let listed = helm.types("helm list -o json").ok();
    let releases: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(
        (releases.len(), &releases[0]["chart"], &releases[0]["revision"]),
        (1, &"site-1.0.0".into(), &"2".into())
    );

    let refused = helm.types(helm.page.section("Change")[1]);
    assert!(refused.stderr.contains("pre-upgrade hooks failed"), "{refused}");
    assert!(refused.stdout.contains("STATUS: failed"), "{refused}");
    assert!(helm.fetch().contains("Our blog"), "nothing else changed");
    assert_eq!(helm.history(), ["superseded", "deployed", "failed"]);
    let logs = helm.cluster.kubectl(&["logs", "blog-check"]).ok();
    assert_eq!(logs, "no page is named nowhere.html\n");
    let wrong = helm.types("helm upgrade blog charts/site --set replicas=-1").fails_with(1);
    assert!(wrong.contains("values don't meet the specifications of the schema"), "{wrong}");
    let dry = helm.types("helm upgrade blog charts/site --dry-run=server --set title=Never").ok();
    assert!(dry.contains("<h1>Never</h1>") && dry.contains("Closed until Monday"), "it looks banners up: {dry}");
}

fn goes_back(helm: &Helm<'_>) {
    let told = helm.section("Go back", 0);
    assert!(told.contains("Rollback was a success"), "{told}");
    assert!(told.contains("null"), "the first revision had no values: {told}");
    let page = helm.fetch();
    assert!(page.contains("<h1>My site</h1>") && !page.contains("Closed"), "{page}");
    assert_eq!(helm.history(), ["superseded", "superseded", "failed", "deployed"]);
    // A setting that only somebody else made stays, one of the chart is put right.
    helm.cluster.kubectl(&["scale", "deployment/blog", "--replicas=1"]).ok();
    helm.cluster.kubectl(&["label", "deployment/blog", "watched=yes"]).ok();
    // Helm 4 tells whose field it would take, as `kubectl apply --server-side` does.
    let more = if helm.version.starts_with("4.") { " --force-conflicts" } else { "" };
    helm.types(&format!("helm upgrade blog charts/site --wait --timeout 2m{more}")).ok();
    let seen = "jsonpath={.metadata.labels.watched} {.spec.replicas}";
    assert_eq!(helm.cluster.kubectl(&["get", "deployment", "blog", "-o", seen]).ok(), "yes 2");
}

fn goes(helm: &Helm<'_>) {
    let told = helm.section("Without a release", 0);
    assert!(told.contains("deployment.apps/plain created") && told.contains("successfully rolled out"), "{told}");
    let told = helm.section("Uninstall", 0);
    assert!(told.contains("release \"blog\" uninstalled") && told.contains("holiday"), "{told}");
    let left = helm.cluster.kubectl(&["get", "deploy,svc,cm", "-l", "app.kubernetes.io/instance=blog", "-o", "name"]);
    assert_eq!(left.ok(), "");
    let secrets = helm.cluster.kubectl(&["get", "secrets", "-l", "owner=helm", "-o", "name"]).ok();
    assert_eq!(secrets, "", "the history went with it");
    helm.cluster.kubectl(&["delete", "deploy,svc,cm", "-l", "app.kubernetes.io/instance=plain"]).ok();
    helm.cluster.kubectl(&["delete", "pod", "blog-fetch", "--ignore-not-found", "--now"]).ok();
    helm.cluster.kubectl(&["delete", "crd", "banners.site.example.io", "--timeout=60s"]).ok();
}

#[test]
fn the_chart_is_installed_tested_upgraded_rolled_back_and_uninstalled() {
    let helms = tools::helms();
    if helms.is_empty() {
        return;
    }
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    for (version, program) in &helms {
        let folder = program.parent().map(Path::to_owned).expect("a program in a folder");
        let helm = Helm { cluster: &cluster, folder, version, page: docs::Page::read("helm.md") };
        installs(&helm);
        changes(&helm);
        goes_back(&helm);
        goes(&helm);
    }
    let majors: Vec<_> = helms.iter().filter_map(|(version, _)| version.split('.').next()).collect();
    eprintln!("Helm {majors:?}");
    assert!(std::env::var_os("CI").is_none() || majors == ["3", "4"], "`cargo xtask setup` builds Helm 3 and 4");
}
