//! What becomes of a node's pods when its machine goes down and comes up again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, cluster, command, docs, eventually};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

fn apply(cluster: &Cluster, yaml: &str) {
    cluster.kubectl_with(&["apply", "-f", "-"], yaml.as_bytes()).ok();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn kill(pid: &str) {
    command::run(Command::new("kill").args(["-KILL", pid]), b"");
}

/// The folder of containerd's sockets and state.
fn run_dir(cluster: &Cluster) -> PathBuf {
    let note = std::fs::read(cluster.data_dir().join("containerd/instance.json")).expect("the agent's note");
    let note: Value = serde_json::from_slice(&note).expect("the note is JSON");
    Path::new(note["address"].as_str().expect("it has its address")).parent().expect("a folder").to_owned()
}

/// The cgroups of the cluster's pods, the innermost first.
fn cgroups(cluster: &Cluster) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for name in names(folder) {
            let path = folder.join(name);
            if path.is_dir() {
                below(&path, found);
                found.push(path);
            }
        }
    }
    let base = Path::new("/sys/fs/cgroup");
    let root = cluster.cgroup_root();
    let mut found = Vec::new();
    for hierarchy in names(base).into_iter().map(|name| base.join(name)).chain([base.to_owned()]) {
        below(&hierarchy.join(root.trim_start_matches('/')), &mut found);
    }
    found
}

/// The processes in the cluster's pods and those that serve them.
fn processes(cluster: &Cluster, run: &Path) -> Vec<String> {
    let in_pods = cgroups(cluster).into_iter().map(|cgroup| cgroup.join("cgroup.procs"));
    let in_pods = in_pods.flat_map(|file| {
        std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let socket = run.join("containerd.sock").display().to_string();
    let all = names(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok());
    let shims = all.filter(|pid| {
        let line = std::fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("containerd-shim") && line.contains(&socket)
    });
    in_pods.chain(shims).collect()
}

/// As if the machine had lost its power and had it again: nothing runs, nothing is mounted, `/run`, the cgroups and the
/// network are as at the start. The agent is not started.
fn reboot(cluster: &Cluster, agent: u32) {
    let run = run_dir(cluster);
    kill(&agent.to_string());
    let containerd = std::fs::read_to_string(run.join("containerd.pid")).expect("containerd runs");
    kill(containerd.split_whitespace().next().expect("its pid"));
    eventually("all of the node's processes to end", MINUTE, || {
        let left = processes(cluster, &run);
        left.iter().for_each(|pid| kill(pid));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells what is mounted");
    let mut points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    points.retain(|point| [&run, &cluster.data_dir()].iter().any(|folder| Path::new(point).starts_with(folder)));
    for point in points.iter().rev() {
        command::run(Command::new("umount").args(["-l", point]), b"").ok();
    }
    for cgroup in cgroups(cluster) {
        let _ = std::fs::remove_dir(cgroup);
    }
    let links = command::run(cluster.command("ip").args(["-o", "link", "show", "type", "bridge"]), b"").ok();
    for link in links.lines().filter_map(|line| line.split(": ").nth(1)) {
        command::run(cluster.command("ip").args(["link", "delete", link]), b"").ok();
    }
    std::fs::remove_dir_all(&run).expect("what is in /run can be removed");
}

fn wait_ready(cluster: &Cluster) {
    eventually("the node to be ready", 2 * MINUTE, || {
        let node = cluster.object(&["node", "node-1"])?;
        let ready = cluster::condition(&node, "Ready");
        if ready.is_some_and(|ready| ready["status"] == "True") { Ok(()) } else { Err(format!("{ready:?}")) }
    });
}

/// What a pod of the test has written, a line each time that it was started.
fn lines(out: &Path, pod: &str) -> Vec<String> {
    let text = std::fs::read_to_string(out.join(pod)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn wait_lines(out: &Path, pod: &str, count: usize) -> Vec<String> {
    eventually(&format!("{pod} to have been started {count} times"), 2 * MINUTE, || {
        let lines = lines(out, pod);
        if lines.len() >= count { Ok(lines) } else { Err(format!("{lines:?}")) }
    })
}

fn is_alive(out: &Path, pod: &str) -> bool {
    let at = || std::fs::metadata(out.join(format!("{pod}.alive"))).and_then(|found| found.modified()).ok();
    let before = at();
    std::thread::sleep(Duration::from_secs(3));
    at() != before
}

/// Objects for pods that need one of each kind.
fn objects(claimed: &Path) -> String {
    format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: words, namespace: life}}, data: {{greeting: hello}}}}\n---\n\
         {{apiVersion: v1, kind: Secret, metadata: {{name: secret, namespace: life}}, stringData: {{word: hush}}}}\n---\n\
         apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: life}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: \
         [ReadWriteOnce], storageClassName: manual, claimRef: {{namespace: life, name: claimed}}, hostPath: {{path: '{}'}}}}\n\
         ---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: claimed, namespace: life}}\nspec: {{accessModes: \
         [ReadWriteOnce], storageClassName: manual, resources: {{requests: {{storage: 1Gi}}}}}}\n---\n",
        claimed.display()
    )
}

/// A pod that tells, at each start, what it was given.
fn pod(name: &str, out: &Path) -> String {
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let script = format!(
        "echo \"$GREETING $(cat /secret/word) $(cat /claimed/file) $(test -s {token} && echo token) $KUBERNETES_SERVICE_PORT\" \
         >> /out/{name}; while :; do touch /out/{name}.alive; sleep 0.5; done"
    );
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: life}}\nspec:\n  nodeName: node-1\n  \
         terminationGracePeriodSeconds: 1\n  volumes: [{{name: secret, secret: {{secretName: secret}}}}, {{name: claimed, \
         persistentVolumeClaim: {{claimName: claimed}}}}, {{name: out, hostPath: {{path: '{}'}}}}]\n  containers:\n  - name: \
         c\n    image: gantry.local/busybox:1.35\n    env: [{{name: GREETING, valueFrom: {{configMapKeyRef: {{name: words, \
         key: greeting}}}}}}]\n    volumeMounts: [{{name: secret, mountPath: /secret}}, {{name: claimed, mountPath: \
         /claimed}}, {{name: out, mountPath: /out}}]\n    command:\n    - sh\n    - -c\n    - '{script}'\n---\n",
        out.display()
    )
}

#[test]
fn after_a_reboot_pods_start_without_the_api_server_and_it_has_the_last_word() {
    let Some(mut cluster) = Cluster::start(Options { without_agent: true, ..Options::default() }) else { return };
    let agent = cluster.start_agent("agent-0", &[]);
    wait_ready(&cluster);
    cluster.namespace("life");
    let (out, claimed) = (cluster.scratch().join("out"), cluster.scratch().join("claimed"));
    for folder in [&out, &claimed] {
        std::fs::create_dir(folder).expect("a folder can be made");
    }
    std::fs::write(claimed.join("file"), "mine").expect("a file can be written");
    apply(&cluster, &[objects(&claimed), pod("stays", &out), pod("goes", &out)].concat());
    for pod in ["stays", "goes"] {
        assert_eq!(wait_lines(&out, pod, 1), ["hello hush mine token 443"]);
    }
    let kept = cluster.data_dir().join("checkpoint");
    eventually("what was read to be kept", MINUTE, || {
        let count = |kind: &str| -> usize {
            names(&kept.join(kind)).iter().map(|namespace| names(&kept.join(kind).join(namespace)).len()).sum()
        };
        let counts =
            [count("pods"), count("secrets"), count("persistentvolumeclaims"), count("tokens"), count("services")];
        if counts == [2, 1, 1, 2, 2] { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&kept).expect("the folder is there"));
    assert_eq!(mode & 0o777, 0o700, "nobody else reads the secrets");

    // The machine goes down; one of the pods is deleted before it is up again, and then there is nobody to say so.
    reboot(&cluster, agent);
    cluster.kubectl(&["delete", "pod", "-n", "life", "goes", "--grace-period=0", "--force"]).ok();
    cluster.server().kill();
    cluster.start_agent("agent-1", &[]);
    for pod in ["stays", "goes"] {
        let lines = wait_lines(&out, pod, 2);
        assert_eq!(lines[1], lines[0], "{pod} has all that it had before");
    }
    assert!(is_alive(&out, "goes"), "nobody has said that it is to go");

    cluster.up();
    wait_ready(&cluster);
    eventually("the pod that was deleted to end", 2 * MINUTE, || match is_alive(&out, "goes") {
        true => Err("it runs".to_owned()),
        false => Ok(()),
    });
    let status = eventually("the pod that stays to be told of", 2 * MINUTE, || {
        let pod = cluster.object(&["pod", "-n", "life", "stays"])?;
        let status = &pod["status"];
        let ready = cluster::condition(&pod, "Ready").is_some_and(|ready| ready["status"] == "True");
        let restarted = status["containerStatuses"][0]["restartCount"] == 1;
        if ready && restarted { Ok(status.clone()) } else { Err(status.to_string()) }
    });
    assert!(is_alive(&out, "stays"), "{status}");
    assert_eq!(lines(&out, "stays").len(), 2, "it was not started again for the API server's sake");
    assert!(!names(&kept.join("pods/-")).is_empty());
    eventually("the other to be forgotten", MINUTE, || {
        let pods = names(&kept.join("pods/-"));
        if pods.len() == 1 { Ok(()) } else { Err(format!("{pods:?}")) }
    });
}

/// A pod that says when it ends, after whom, and takes its time for it.
fn slow(name: &str, class: &str, grace: u32, out: &Path) -> String {
    let script = format!(
        "trap \"touch /out/{name}; sleep 1; echo {name} >> /out/order; exit 0\" TERM; touch /out/{name}.alive; while :; do sleep 0.1; done"
    );
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: life}}\nspec:\n  nodeName: node-1\n  \
         priorityClassName: {class}\n  terminationGracePeriodSeconds: {grace}\n  volumes: [{{name: out, hostPath: {{path: \
         '{}'}}}}]\n  containers:\n  - name: c\n    image: gantry.local/busybox:1.35\n    volumeMounts: [{{name: out, \
         mountPath: /out}}]\n    command:\n    - sh\n    - -c\n    - '{script}'\n---\n",
        out.display()
    )
}

fn status(cluster: &Cluster, pod: &str) -> Result<Value, String> {
    Ok(cluster.object(&["pod", "-n", "life", pod])?["status"].clone())
}

#[test]
fn pods_end_in_order_before_the_machine_goes_down() {
    let flags = ["--shutdown-grace-period-by-pod-priority=0=20,1000=20,2000000000=10".to_owned()];
    let Some(mut cluster) = Cluster::start(Options { flags: flags.to_vec(), ..Options::default() }) else { return };
    cluster.namespace("life");
    let out = cluster.scratch().join("out");
    std::fs::create_dir(&out).expect("a folder can be made");
    let class = "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: NAME}, value: VALUE}\n---\n";
    let classes = [("plain", "0"), ("important", "1000")];
    let classes = classes.map(|(name, value)| class.replace("NAME", name).replace("VALUE", value)).concat();
    let names = ["first", "second", "last"];
    let pods = [slow("first", "plain", 30, &out), slow("second", "important", 30, &out)].concat();
    apply(&cluster, &(classes + &pods + &slow("last", "system-node-critical", 30, &out)));
    for name in names {
        eventually(&format!("{name} to run"), MINUTE, || match out.join(format!("{name}.alive")).exists() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
    }

    // An agent that is restarted ends nothing.
    cluster.server().terminate();
    cluster.up();
    wait_ready(&cluster);
    let ready = || {
        let data = cluster.data_dir().display().to_string();
        let asked = cluster.gantry(&["node", "shutdown", "--cancel", "--data-dir", &data]);
        if asked.code == 0 { Ok(asked.stdout) } else { Err(asked.stderr) }
    };
    let told = eventually("the agent to be there again", MINUTE, ready);
    assert_eq!(told, "the node was not shutting down\npods may come again\n");
    assert!(!out.join("first").exists(), "nobody was told to end");

    let page = docs::Page::read("maintenance.md");
    let programs = [cluster.tools().gantry.parent().expect("a folder").to_owned()];
    let run = |commands: &str| {
        let mut shell = cluster.shell(&programs, &[]);
        shell.env("DATA_DIR", cluster.data_dir());
        command::run(shell.args(["-euo", "pipefail", "-c", commands]), b"").ok()
    };
    let [shutdown, cancel] = page.section("Shut a machine down")[..] else { panic!("the page has two blocks") };
    let told = run(shutdown);
    for name in names {
        assert!(told.contains(&format!("life/{name} has ended")), "{told}");
    }
    let order = std::fs::read_to_string(out.join("order")).unwrap_or_else(|error| panic!("{error}\n{told}"));
    assert_eq!(order.lines().collect::<Vec<_>>(), names, "{told}");
    for name in names {
        let status = eventually(&format!("{name} to be told of"), MINUTE, || {
            let status = status(&cluster, name)?;
            if status["phase"] == "Failed" { Ok(status) } else { Err(status.to_string()) }
        });
        assert_eq!(status["reason"], "Terminated", "{status}");
        assert_eq!(status["message"], "Pod was terminated in response to imminent node shutdown.");
        let disrupted = cluster::condition(&serde_json::json!({ "status": status }), "DisruptionTarget").cloned();
        assert_eq!(disrupted.expect("the condition is there")["reason"], "TerminationByKubelet");
    }
    let node = eventually("the node to say so", MINUTE, || {
        let node = cluster.object(&["node", "node-1"])?;
        let ready = cluster::condition(&node, "Ready").cloned().unwrap_or_default();
        if ready["status"] == "False" { Ok(ready) } else { Err(ready.to_string()) }
    });
    assert_eq!(
        (node["reason"].as_str(), node["message"].as_str()),
        (Some("KubeletNotReady"), Some("node is shutting down"))
    );

    apply(&cluster, &slow("late", "plain", 1, &out));
    let late = eventually("the late pod to be refused", MINUTE, || {
        let status = status(&cluster, "late")?;
        if status["phase"] == "Failed" { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(late["reason"], "NodeShutdown");
    assert_eq!(late["message"], "Pod was rejected: Pod was rejected as the node is shutting down.");
    run(cancel);
    apply(&cluster, &slow("again", "plain", 1, &out));
    eventually("pods to run again", MINUTE, || match out.join("again.alive").exists() {
        true => Ok(()),
        false => Err("not yet".to_owned()),
    });
}

/// Two pods of a Deployment, one of which at a time may be away.
const WEB: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: life}\nspec:\n  replicas: 2\n  \
     selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      volumes: [{name: v, \
     emptyDir: {}}]\n      containers: [{name: c, image: app}]\n---\napiVersion: policy/v1\nkind: PodDisruptionBudget\n\
     metadata: {name: web, namespace: life}\nspec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}\n";

/// The nodes of the ready pods of the Deployment.
fn ready_on(cluster: &Cluster) -> Result<Vec<String>, String> {
    let pods = cluster.object(&["pods", "-n", "life", "-l", "app=web"])?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let ready = pods.iter().filter(|pod| {
        let ready = cluster::condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True");
        ready && pod["metadata"]["deletionTimestamp"].is_null()
    });
    Ok(ready.map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()).collect())
}

#[test]
fn a_node_is_drained_as_with_kubectl() {
    let flags = ["--simulate", "2", "--node-name", "node"].map(str::to_owned).to_vec();
    let Some(mut cluster) = Cluster::start(Options { idle: true, ..Options::default() }) else { return };
    let gantry = cluster.tools().gantry.clone();
    let mut up = cluster.command(&gantry);
    up.arg("up").arg("--data-dir").arg(cluster.data_dir()).args(flags);
    cluster.spawn("up", up);
    eventually("the nodes", MINUTE, || {
        let nodes = cluster.object(&["nodes"])?;
        let ready = |node: &Value| cluster::condition(node, "Ready").is_some_and(|ready| ready["status"] == "True");
        let count = nodes["items"].as_array().map_or(0, |nodes| nodes.iter().filter(|node| ready(node)).count());
        if count == 2 { Ok(()) } else { Err(format!("{count} are ready")) }
    });
    cluster.namespace("life");
    assert_eq!(cluster.gantry(&["node", "cordon", "node-1"]).ok(), "node/node-1 cordoned\n");
    assert_eq!(cluster.gantry(&["node", "cordon", "node-1"]).ok(), "node/node-1 already cordoned\n");
    apply(&cluster, WEB);
    let all_on = |node: &str| {
        eventually(&format!("both pods on {node}"), 2 * MINUTE, || match ready_on(&cluster)? {
            nodes if nodes == [node, node] => Ok(()),
            nodes => Err(format!("{nodes:?}")),
        });
    };
    all_on("node-0");
    assert_eq!(cluster.gantry(&["node", "uncordon", "node-1"]).ok(), "node/node-1 uncordoned\n");

    // What it will not do without being told, it says as kubectl does, and nothing goes.
    let both = |more: &[&str]| {
        let (own, theirs) = ([&["node", "drain", "node-0"], more].concat(), [&["drain", "node-0"], more].concat());
        let (own, theirs) = (cluster.gantry(&own), cluster.kubectl(&theirs));
        assert_eq!((own.code, &own.stderr), (theirs.code, &theirs.stderr), "{own}\n{theirs}");
        cluster.gantry(&["node", "uncordon", "node-0"]).ok();
        own
    };
    assert!(
        both(&[]).stderr.contains("cannot delete Pods with local storage (use --delete-emptydir-data to override)")
    );
    let bare = "{apiVersion: v1, kind: Pod, metadata: {name: bare, namespace: life}, spec: {nodeName: node-0, containers: \
                [{name: c, image: app}]}}";
    apply(&cluster, bare);
    let refused = both(&["--delete-emptydir-data"]).fails_with(1);
    assert!(refused.contains("cannot delete Pods that declare no controller (use --force to override)"), "{refused}");
    let planned = both(&["--delete-emptydir-data", "--force", "--dry-run=client"]);
    assert_eq!(planned.stdout.matches("(dry run)").count(), 5, "{planned}");
    all_on("node-0");

    // One at a time, when the one before is replaced.
    cluster.kubectl(&["delete", "pod", "-n", "life", "bare", "--grace-period=0", "--force"]).ok();
    let page = docs::Page::read("maintenance.md");
    let programs = [gantry.parent().expect("a folder").to_owned()];
    let [drain, uncordon] = page.section("Move the pods elsewhere")[..] else { panic!("the page has two blocks") };
    let run = |commands: &str| {
        let commands = commands.replace("node-1", "node-0");
        command::run(cluster.shell(&programs, &[]).args(["-euo", "pipefail", "-c", &commands]), b"").ok()
    };
    let told = run(drain);
    assert_eq!(
        told.lines().filter(|line| line.starts_with("pod/web-") && line.ends_with(" evicted")).count(),
        2,
        "{told}"
    );
    assert!(told.starts_with("node/node-0 cordoned\n") && told.ends_with("node/node-0 drained\n"), "{told}");
    all_on("node-1");
    assert_eq!(run(uncordon), "node/node-0 uncordoned\n");

    // A budget that allows nothing is waited for, but not longer than one wants to.
    cluster
        .kubectl(&["patch", "pdb", "-n", "life", "web", "--type=merge", "-p", "{\"spec\":{\"maxUnavailable\":0}}"])
        .ok();
    let budget = || {
        let pdb = cluster.object(&["pdb", "-n", "life", "web"])?;
        if pdb["status"]["disruptionsAllowed"] == 0 { Ok(()) } else { Err(pdb["status"].to_string()) }
    };
    eventually("the budget to allow nothing", MINUTE, budget);
    let kept = cluster.gantry(&["node", "drain", "node-1", "--delete-emptydir-data", "--timeout=2s"]);
    let why = kept.fails_with(1);
    assert!(
        why.contains("(will retry after 5s): Cannot evict pod as it would violate the pod's disruption budget."),
        "{why}"
    );
    assert!(
        why.contains("global timeout reached: 2s") && why.contains("There are pending nodes to be drained:\n node-1\n"),
        "{why}"
    );
    let forced = cluster.gantry(&["node", "drain", "node-1", "--delete-emptydir-data", "--disable-eviction"]).ok();
    assert_eq!(forced.matches(" deleted\n").count(), 2, "{forced}");
    all_on("node-0");
}

#[test]
fn trouble_of_a_node_is_named() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    cluster.namespace("life");
    let page = docs::Page::read("maintenance.md");
    let [from_afar, on_the_machine] = page.section("Find out what is wrong")[..] else {
        panic!("the page has two blocks")
    };
    let run = |cluster: &Cluster, commands: &str| {
        let programs = [cluster.tools().gantry.parent().expect("a folder").to_owned()];
        let mut shell = cluster.shell(&programs, &[]);
        shell.env("DATA_DIR", cluster.data_dir());
        command::run(shell.args(["-euo", "pipefail", "-c", commands]), b"")
    };
    let well = run(&cluster, from_afar);
    for good in ["clocks of this machine and of the API server agree", "the agent was heard of", "Ready is True"] {
        assert!(well.stdout.contains(good), "{good}: {well}");
    }
    let well = run(&cluster, on_the_machine);
    for good in ["ok    the node agent runs", "ok    containerd 1.", "of memory are left"] {
        assert!(
            well.stdout.contains(good) || good.contains("containerd") && well.stdout.contains("ok    containerd 2."),
            "{well}"
        );
    }

    apply(
        &cluster,
        "{apiVersion: v1, kind: Pod, metadata: {name: lost, namespace: life}, spec: {nodeName: node-1, containers: [{name: c, \
         image: 'gantry.local/missing:1', imagePullPolicy: Never}]}}",
    );
    cluster.gantry(&["node", "cordon", "node-1"]).ok();
    eventually("the pod to be told of", MINUTE, || {
        let told = run(&cluster, from_afar);
        let all = told.code == 1
            && told.stdout.contains("BAD   pod life/lost, container c: ErrImageNeverPull")
            && told.stdout.contains("note  it is cordoned")
            && told.stdout.contains("-> when it is to have pods again: `gantry node uncordon node-1`");
        if all { Ok(()) } else { Err(told.to_string()) }
    });

    let pid = std::fs::read_to_string(run_dir(&cluster).join("containerd.pid")).expect("containerd runs");
    let pid = pid.split_whitespace().next().expect("its pid").to_owned();
    let signal = |name: &str| command::run(Command::new("kill").args([name, &pid]), b"").ok();
    signal("-STOP");
    let hung = run(&cluster, on_the_machine);
    signal("-CONT");
    assert_eq!(hung.code, 1, "{hung}");
    assert!(hung.stdout.contains("BAD   containerd does not answer: nothing came from"), "{hung}");
    cluster.server().kill();
    let alone = run(&cluster, on_the_machine);
    assert!(alone.stdout.contains("BAD   no node agent of this data directory runs"), "{alone}");
    assert!(alone.stdout.contains("ok    containerd"), "it goes on without its agent: {alone}");
    let missing = run(&cluster, "gantry node diagnose nowhere");
    assert_ne!(missing.code, 0, "{missing}");
}
