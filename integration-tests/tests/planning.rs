//! Where pods would go, and where they then go, with the real API server, controllers and scheduler. Nodes are objects
//! that nobody runs.

use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, command, docs, eventually};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// A node with room for one pod of the file.
fn node(cluster: &Cluster, name: &str, zone: &str) {
    let labels =
        json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    cluster.kubectl_with(&["create", "-f", "-"], node.to_string().as_bytes()).ok();
    let amounts = json!({"cpu": "1", "memory": "4Gi", "pods": "10"});
    let status = json!({"status": {"allocatable": amounts, "capacity": amounts}});
    cluster.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &status.to_string()]).ok();
}

fn spec(cpu: &str) -> Value {
    // Nobody says that the nodes are well. Who tolerated everything would go to drained nodes, too.
    let well = ["not-ready", "unreachable"]
        .map(|state| json!({"key": format!("node.kubernetes.io/{state}"), "operator": "Exists"}));
    json!({"tolerations": well, "containers": [
        {"name": "main", "image": "gantry.local/busybox:1.35", "resources": {"requests": {"cpu": cpu}}}]})
}

fn create(cluster: &Cluster, object: &Value) {
    cluster.kubectl_with(&["create", "-f", "-"], object.to_string().as_bytes()).ok();
}

/// The page's commands of a section, one by one, as the reader types them.
fn typed(cluster: &Cluster, page: &docs::Page, section: &str) -> Vec<String> {
    let folder = cluster.tools().gantry.parent().expect("it is in a folder").to_path_buf();
    let lines: Vec<&str> = page.section(section).into_iter().flat_map(str::lines).collect();
    let run =
        |line: &str| command::run(cluster.shell(std::slice::from_ref(&folder), &[]).args(["-euc", line]), b"").ok();
    lines.into_iter().map(run).collect()
}

/// Pods and their nodes, or why they have none, as `gantry plan -o json` tells.
fn planned(cluster: &Cluster, args: &[&str]) -> Vec<(String, Option<String>, String)> {
    let told = cluster.gantry(&[args, &["-o", "json"]].concat()).ok();
    let review: Value = serde_json::from_str(&told).expect("it is JSON");
    let placements = review["status"]["placements"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let told = placements.iter().map(|one| {
        (text(&one["name"]).unwrap_or_default(), text(&one["node"]), text(&one["message"]).unwrap_or_default())
    });
    told.collect()
}

#[test]
fn what_is_planned_is_what_happens() {
    let Some(cluster) = Cluster::start(Options { without_agent: true, ..Options::default() }) else { return };
    let page = docs::Page::read("planning.md");
    eventually("the default account", MINUTE, || cluster.object(&["serviceaccount", "default"]).map(|_| ()));
    node(&cluster, "node-a", "east");
    node(&cluster, "node-b", "west");

    // A plan for a Deployment; nothing is made.
    let labels = json!({"app": "web"});
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 3, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec("800m")}}});
    std::fs::write(cluster.scratch().join("web.yaml"), web.to_string()).expect("a file can be written");
    let full = "0/2 nodes are available: 2 Insufficient cpu.";
    let table = eventually("a plan for both nodes", MINUTE, || {
        let told = typed(&cluster, &page, "Before you deploy").concat();
        if told.contains("node-b") { Ok(told) } else { Err(told) }
    });
    assert!(table.starts_with("NAMESPACE   NAME    NODE     SCORE"), "{table}");
    assert!(table.contains("web-0   node-a") && table.contains("web-1   node-b") && table.contains(full), "{table}");
    assert_eq!(cluster.object(&["pods"]).expect("a list")["items"], json!([]), "nothing is made");
    let plan = planned(&cluster, &["plan", "-f", "web.yaml"]);

    // Then it comes about, in the same words.
    for (name, ..) in &plan {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec("800m")});
        create(&cluster, &pod);
    }
    for (name, node, message) in &plan {
        eventually(&format!("{name} is as planned"), MINUTE, || {
            let pod = cluster.object(&["pod", name])?;
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let told = conditions.iter().find(|one| one["type"] == "PodScheduled" && one["status"] == "False");
            let told = told.and_then(|one| one["message"].as_str()).unwrap_or_default();
            let is_there = pod["spec"]["nodeName"].as_str() == node.as_deref() && told == message;
            if is_there { Ok(()) } else { Err(pod.to_string()) }
        });
    }
    why_and_what_if(&cluster, &page);
    from_a_program(&cluster, &page);
    bad_questions(&cluster);
}

fn why_and_what_if(cluster: &Cluster, page: &docs::Page) {
    let why = eventually("why it waits", MINUTE, || {
        let why = typed(cluster, page, "Why is it there, or why does it wait");
        if why[0].contains("gets no node: 0/2") { Ok(why) } else { Err(why.concat()) }
    });
    assert!(why[0].contains("node-a   no     <none>   Insufficient cpu\nnode-b   no "), "{}", why[0]);
    assert!(why[1].contains("node-a   no") && !why[1].contains("node-b"), "{}", why[1]);
    let there = cluster.gantry(&["why", "web-0"]).ok();
    assert!(there.starts_with("pod default/web-0 is on node-a, and would go there again (score "), "{there}");

    // A small pod with a controller goes where there is room; that of web-0 has none.
    let labels = json!({"app": "small"});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "small"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec("100m")}}});
    create(cluster, &set);
    eventually("the small pod's node", MINUTE, || {
        let pods = cluster.object(&["pods", "-l", "app=small"])?;
        pods["items"][0]["spec"]["nodeName"].as_str().map(|_| ()).ok_or_else(|| pods.to_string())
    });
    let told = eventually("what drains do", MINUTE, || {
        let told = typed(cluster, page, "What if");
        if told[0].contains("small-") { Ok(told) } else { Err(told.concat()) }
    });
    assert!(told[0].contains("node-a   node-b"), "drained: {}", told[0]);
    assert!(told[1].contains("node-a   node-b"), "lost: {}", told[1]);
    assert!(told[2].contains("web-2   node-b-like-1"), "added: {}", told[2]);
    let after = "web-0   node-b-like-2";
    assert!(
        told[3].contains(after) && told[3].contains("web-2   <none>") && told[3].contains("0/4 nodes"),
        "{}",
        told[3]
    );
    let lost = cluster.gantry(&["what-if", "drain", "node-a"]);
    assert_eq!(lost.code, 0);
    assert!(
        lost.stderr.contains("default/web-0 on node-a would be lost: no controller makes it anew"),
        "{}",
        lost.stderr
    );
}

fn from_a_program(cluster: &Cluster, page: &docs::Page) {
    let text = std::fs::read_to_string(docs::root().join("docs/planning.md")).expect("the page is there");
    let (_, rest) = text.split_once("```yaml\n").expect("the page shows a review");
    let (review, _) = rest.split_once("```").expect("it ends");
    std::fs::write(cluster.scratch().join("review.yaml"), review).expect("a file can be written");
    let told = typed(cluster, page, "From a program").concat();
    assert!(told.contains("name: before-the-sale") && told.contains("unplaced: 3"), "{told}");
    // Without tolerations, a node that nobody runs takes nothing.
    assert!(told.contains("node(s) had untolerated taint(s)") && told.contains("node(s) were unschedulable"), "{told}");
    assert!(told.contains("clusterrole.rbac.authorization.k8s.io/planner created"), "{told}");
    let explained = cluster.kubectl(&["explain", "placementreview.spec.whatIf.add"]).ok();
    assert!(explained.contains("The node that they are like"), "{explained}");
}

fn bad_questions(cluster: &Cluster) {
    let ask = |spec: Value, more: &[&str]| {
        let review = json!({"apiVersion": "scheduling.gantry.io/v1alpha1", "kind": "PlacementReview",
            "metadata": {"name": "bad"}, "spec": spec});
        // The client's own checks were made above; they read the whole OpenAPI document each time.
        let create = ["create", "--validate=false", "-f", "-"];
        let outcome = cluster.kubectl_with(&[&create, more].concat(), review.to_string().as_bytes());
        assert_ne!(outcome.code, 0, "{}", outcome.stdout);
        outcome.stderr
    };
    let told = ask(json!({"whatIf": {"drain": ["node-a", "nowhere"]}}), &[]);
    assert!(told.contains("\"bad\" is invalid: spec.whatIf.drain[1]: Not found: \"nowhere\""), "{told}");
    let told = ask(json!({"nodes": "Some"}), &[]);
    assert!(
        told.contains("spec.nodes: Unsupported value: \"Some\": supported values: \"None\", \"First\", \"All\""),
        "{told}"
    );
    let workload =
        |count: i64, spec: Value| json!({"workloads": [{"name": "w", "count": count, "template": {"spec": spec}}]});
    let told = ask(workload(-1, spec("1")), &[]);
    assert!(told.contains("spec.workloads[0].count: Invalid value: -1: must be greater than or equal to 0"), "{told}");
    // What would not be made is refused as it would be then.
    let told = ask(workload(1, json!({"containers": []})), &[]);
    assert!(told.contains("spec.containers: Required value"), "{told}");
    let told = ask(json!({"pods": [{"name": "none"}]}), &[]);
    assert!(told.contains("pods \"none\" not found"), "{told}");
    let told = ask(workload(1, spec("1")), &["--as=somebody"]);
    assert!(told.contains("placementreviews.scheduling.gantry.io is forbidden"), "{told}");
}

#[test]
fn an_api_server_alone_answers() {
    let Some(mut cluster) = Cluster::start(Options { idle: true, ..Options::default() }) else { return };
    let mut server = cluster.command(&cluster.tools().gantry);
    server.args(["apiserver", "--listen", "127.0.0.1:0", "--data-dir"]).arg(cluster.data_dir());
    cluster.spawn("server", server);
    eventually("the kubeconfig", MINUTE, || cluster.kubeconfig().exists().then_some(()).ok_or("not there".into()));
    node(&cluster, "node-a", "east");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    create(&cluster, &account);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec("500m")});
    std::fs::write(cluster.scratch().join("pod.yaml"), pod.to_string()).expect("a file can be written");
    eventually("a plan", MINUTE, || {
        let plan = planned(&cluster, &["plan", "-f", "pod.yaml"]);
        let wanted = ("one".to_owned(), Some("node-a".to_owned()), String::new());
        if plan == [wanted] { Ok(()) } else { Err(format!("{plan:?}")) }
    });
}

/// Two nodes with a small pod each, and one that waits because neither has room enough.
fn broken_up(cluster: &Cluster) {
    eventually("the default account", MINUTE, || cluster.object(&["serviceaccount", "default"]).map(|_| ()));
    node(cluster, "node-a", "east");
    node(cluster, "node-b", "west");
    for (name, other) in [("small-a", "node-b"), ("small-b", "node-a")] {
        cluster.kubectl(&["cordon", other]).ok();
        let labels = json!({"app": name});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name}, "spec": {
            "replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec("400m")}}});
        create(cluster, &set);
        eventually("the small pod's node", MINUTE, || {
            let pods = cluster.object(&["pods", "-l", &format!("app={name}")])?;
            pods["items"][0]["spec"]["nodeName"].as_str().map(|_| ()).ok_or_else(|| pods.to_string())
        });
        cluster.kubectl(&["uncordon", other]).ok();
    }
    let large = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "large"}, "spec": spec("800m")});
    create(cluster, &large);
}

/// The evicted pod ends, as nobody's node agent sees to; then everyone has the place that was meant.
fn moves_come_about(cluster: &Cluster) {
    let evicted = eventually("an evicted pod", MINUTE, || {
        let pods = cluster.object(&["pods", "-l", "app=small-a"])?;
        let going =
            pods["items"].as_array().into_iter().flatten().find(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
        going.and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).ok_or_else(|| pods.to_string())
    });
    cluster.kubectl(&["delete", "pod", &evicted, "--force", "--grace-period=0"]).ok();
    eventually("room for the large pod", MINUTE, || {
        let (large, small) = (cluster.object(&["pod", "large"])?, cluster.object(&["pods", "-l", "app=small-a"])?);
        let nodes = (&large["spec"]["nodeName"], &small["items"][0]["spec"]["nodeName"]);
        if nodes == (&json!("node-a"), &json!("node-b")) { Ok(()) } else { Err(format!("{large} {small}")) }
    });
    let other = cluster.object(&["pods", "-l", "app=small-b"]).expect("a list");
    assert_eq!(other["items"].as_array().map(Vec::len), Some(1));
    assert!(other["items"][0]["metadata"]["deletionTimestamp"].is_null(), "one move was enough: {other}");
}

/// A cluster whose scheduler reads this file.
fn configured(defragmentation: &str) -> Option<(Cluster, tempfile::NamedTempFile)> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), defragmentation).expect("it can be written");
    let flags = vec!["--scheduler-config".to_owned(), file.path().to_string_lossy().into_owned()];
    Some((Cluster::start(Options { flags, without_agent: true, ..Options::default() })?, file))
}

#[test]
fn the_moves_that_are_shown_make_room_once_they_are_made() {
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    let Some((cluster, _file)) = configured(&format!("{head}defragmentation: {{coolDownSeconds: 0}}\n")) else {
        return;
    };
    let page = docs::Page::read("defragment.md");
    let nobody = eventually("an answer", MINUTE, || {
        let told = cluster.gantry(&["defrag"]);
        if told.code == 0 { Ok(told.stderr) } else { Err(told.to_string()) }
    });
    assert!(nobody.contains("No pod waits for room."), "{nobody}");
    broken_up(&cluster);
    let told = eventually("the move", MINUTE, || {
        let told = typed(&cluster, &page, "See what would have to move");
        let all = told.iter().all(|told| told.contains("default/large"));
        if all { Ok(told) } else { Err(told.concat()) }
    });
    for told in told {
        let rows: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAMESPACE", "NAME", "FROM", "TO", "FOR"]);
        assert!(rows.len() == 2 && rows[1][1].starts_with("small-a-"), "{told}");
        assert_eq!(rows[1][2..], ["node-a", "node-b", "default/large"]);
    }
    let refused = cluster.gantry(&["defrag", "--moves", "33"]);
    assert!(refused.stderr.contains("spec.defragment.moves: Invalid value: 33: must be between 1 and 32"), "{refused}");
    let made = typed(&cluster, &page, "Make the moves").concat();
    assert!(made.contains("pod/small-a-") && made.contains(" evicted\n"), "{made}");
    moves_come_about(&cluster);
}

#[test]
fn the_scheduler_moves_pods_if_it_may() {
    let text = std::fs::read_to_string(docs::root().join("docs/defragment.md")).expect("the page is there");
    let example =
        text.split("```yaml\n").nth(1).and_then(|rest| rest.split_once("```")).expect("the page shows a file").0;
    // As it stands it takes longer than a test may.
    let quick = [
        ("intervalSeconds: 60", "intervalSeconds: 1"),
        ("waitSeconds: 30", "waitSeconds: 0"),
        ("coolDownSeconds: 600", "coolDownSeconds: 0"),
    ];
    let example = quick.into_iter().fold(example.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{text}");
        text.replace(from, to)
    });
    let Some((cluster, _file)) = configured(&example) else { return };
    broken_up(&cluster);
    moves_come_about(&cluster);
    let page = docs::Page::read("defragment.md");
    let section = page.section("Let the scheduler do it").concat();
    let events = section.lines().find(|line| line.starts_with("kubectl")).expect("the page shows how to see it");
    eventually("the event that the page shows", MINUTE, || {
        let told = command::run(cluster.shell(&[], &[]).args(["-euc", events]), b"").ok();
        let wanted = told.contains("Made room on node node-a: moved default/small-a-") && told.contains(" to node-b");
        if wanted { Ok(()) } else { Err(told) }
    });
    let moved = cluster.kubectl(&["get", "events", "--field-selector", "reason=Moved"]).ok();
    assert!(
        moved.contains("Moved from node node-a to make room for pod default/large; node node-b has room for it"),
        "{moved}"
    );
}
