//! Volumes that pods have claims on: bound into the pods that may have them, kept when the pods go; and volumes that a driver
//! makes available, one by third parties' libraries that speaks to the node over its socket.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, command, docs, eventually, left, tools};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

fn apply(cluster: &Cluster, yaml: &str) {
    cluster.kubectl_with(&["apply", "-f", "-"], yaml.as_bytes()).ok();
}

/// A volume of this folder, for the claim of the same name.
fn volume(name: &str, source: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec:\n  capacity: {{storage: 1Gi}}\n  \
         accessModes: [ReadWriteOnce]\n  storageClassName: manual\n  persistentVolumeReclaimPolicy: Retain\n  \
         claimRef: {{namespace: claims, name: {name}}}\n  {source}\n  nodeAffinity: {{required: {{nodeSelectorTerms: \
         [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}\n---\n"
    )
}

fn claim(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}, namespace: claims}}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  storageClassName: manual\n  resources: {{requests: {{storage: 1Gi}}}}\n---\n"
    )
}

fn pod(name: &str, volumes: &str, mounts: &str, more: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: claims}}\nspec:\n  nodeName: node-1\n  \
         terminationGracePeriodSeconds: 1\n  automountServiceAccountToken: false\n  {more}\n  volumes: [{volumes}]\n  \
         containers:\n  - name: c\n    image: gantry.local/busybox:1.35\n    volumeMounts: [{mounts}]\n    \
         command: [sh, -c, '{script}']\n---\n"
    )
}

fn of_claim(claim: &str, more: &str) -> String {
    format!("{{name: {claim}, persistentVolumeClaim: {{claimName: {claim}{more}}}}}")
}

fn wait_ready(cluster: &Cluster, name: &str) {
    cluster.kubectl(&["wait", "-n", "claims", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=90s"]).ok();
}

fn wait_event(cluster: &Cluster, pod: &str, text: &str) {
    eventually(&format!("an event of {pod}: {text}"), MINUTE, || {
        let events = cluster.object(&["events", "-n", "claims"])?;
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let of_pod = all.iter().filter(|event| event["involvedObject"]["name"] == pod);
        let told: Vec<&Value> = of_pod.filter(|event| event["reason"] == "FailedMount").collect();
        let found = told.iter().any(|event| event["message"].as_str().is_some_and(|message| message.contains(text)));
        if found { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is mounted below the folders of the cluster's pods.
fn mounts(cluster: &Cluster) -> Vec<String> {
    let folder = cluster.data_dir().join("pods");
    let all = read(Path::new("/proc/self/mountinfo"));
    let points = all.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned);
    points.filter(|point| Path::new(point).starts_with(&folder)).collect()
}

fn folder(cluster: &Cluster, name: &str) -> PathBuf {
    let folder = cluster.scratch().join(name);
    std::fs::create_dir(&folder).expect("a folder can be made");
    folder
}

#[test]
fn claims_are_waited_for_and_what_is_written_stays() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.namespace("claims");
    let (local, host) = (folder(&cluster, "local"), folder(&cluster, "host"));
    // A pod of a claim that is not there, or not bound, waits, and says why.
    let both = [of_claim("local", ""), of_claim("host", "")].join(", ");
    let script = "id -G > /local/who; echo one > /local/file; echo two > /host/sub/file; sleep 3600";
    let at = "{name: local, mountPath: /local}, {name: host, mountPath: /host/sub, subPath: sub}";
    let group = "securityContext: {fsGroup: 4711, runAsUser: 1000, runAsGroup: 1000}";
    std::fs::create_dir(host.join("sub")).expect("a folder can be made");
    std::fs::set_permissions(host.join("sub"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("a mode");
    apply(&cluster, &pod("writer", &both, at, group, script));
    wait_event(&cluster, "writer", "persistentvolumeclaims \"local\" not found");
    apply(&cluster, &[claim("local"), claim("host")].concat());
    wait_event(&cluster, "writer", "error processing PVC claims/local: PVC is not bound");
    let of_local = format!("local: {{path: {}}}", local.display());
    let of_host = format!("hostPath: {{path: {}}}", host.display());
    apply(&cluster, &[volume("local", &of_local, "node-1"), volume("host", &of_host, "node-1")].concat());
    wait_ready(&cluster, "writer");
    eventually("the files to be written", MINUTE, || match std::fs::read_to_string(host.join("sub/file")) {
        Ok(text) if text == "two\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(read(&local.join("file")), "one\n");
    assert!(read(&local.join("who")).split_whitespace().any(|group| group == "4711"));
    let owner = std::fs::metadata(&local).expect("the folder is there");
    assert_eq!((owner.gid(), owner.mode() & 0o2070), (4711, 0o2070), "the pod's group may write");
    assert_ne!(
        std::fs::metadata(&host).expect("the folder is there").gid(),
        4711,
        "what is the node's stays the node's"
    );

    // Another pod shares the volume, and may only read it.
    let read_only = of_claim("local", ", readOnly: true");
    let script = "cat /local/file; touch /local/no && echo written; sleep 3600";
    apply(&cluster, &pod("reader", &read_only, "{name: local, mountPath: /local}", "", script));
    wait_ready(&cluster, "reader");
    eventually("the reader's log", MINUTE, || {
        let log = cluster.kubectl(&["logs", "-n", "claims", "reader"]).stdout;
        if log.contains("one") && log.contains("Read-only file system") { Ok(()) } else { Err(log) }
    });
    // The node tells how full the volume's file system is, and whose claim it is.
    eventually("the claim in the summary", MINUTE, || {
        let text = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node-1/proxy/stats/summary"]).ok();
        let summary: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let of_pod = pods.iter().find(|pod| pod["podRef"]["name"] == "writer").cloned().unwrap_or_default();
        let volumes = of_pod["volume"].as_array().cloned().unwrap_or_default();
        let claimed = volumes.iter().find(|volume| volume["pvcRef"]["name"] == "local");
        let told = claimed.is_some_and(|volume| volume["capacityBytes"].as_u64().unwrap_or(0) > 0);
        if told { Ok(()) } else { Err(format!("{volumes:?}")) }
    });

    // Gone pods leave nothing mounted, and everything written.
    cluster.kubectl(&["delete", "pod", "-n", "claims", "writer", "reader"]).ok();
    eventually("nothing to be mounted", MINUTE, || {
        let mounts = mounts(&cluster);
        if mounts.is_empty() { Ok(()) } else { Err(format!("{mounts:?}")) }
    });
    assert_eq!((read(&local.join("file")), read(&host.join("sub/file"))), ("one\n".into(), "two\n".into()));
    eventually("no pod's folder to be left", MINUTE, || {
        match std::fs::read_dir(cluster.data_dir().join("pods")).expect("the folder is there").count() {
            0 => Ok(()),
            left => Err(format!("{left} folders")),
        }
    });
}

#[test]
fn a_volume_that_cannot_be_had_is_told_of() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    cluster.namespace("claims");
    let kept = folder(&cluster, "kept");
    std::fs::write(kept.join("file"), "kept").expect("a file can be written");
    let missing = format!("local: {{path: {}/missing}}", cluster.scratch().display());
    let of_kept = format!("local: {{path: {}}}", kept.display());
    let other = "nfs: {server: 127.0.0.1, path: /x}";
    for (name, source, node) in [
        ("elsewhere", &*of_kept, "another"),
        ("missing", &missing, "node-1"),
        ("nfs", other, "node-1"),
        ("kept", &of_kept, "node-1"),
    ] {
        apply(&cluster, &[volume(name, source, node), claim(name)].concat());
        let mount = format!("{{name: {name}, mountPath: /v}}");
        apply(&cluster, &pod(name, &of_claim(name, ""), &mount, "", "sleep 3600"));
    }
    wait_event(
        &cluster,
        "elsewhere",
        "MountVolume.NodeAffinity check failed for volume \"elsewhere\" : no matching NodeSelectorTerms",
    );
    wait_event(&cluster, "missing", "MountVolume.NewMounter initialization failed for volume \"missing\" : path \"");
    wait_event(&cluster, "nfs", "MountVolume.SetUp failed for volume \"nfs\"");
    wait_ready(&cluster, "kept");
    // A node that is taken down while volumes are mounted keeps what is in them.
    let pid = cluster.server().pid();
    cluster.server().kill();
    let reset = {
        let mut reset = cluster.command(&cluster.tools().gantry);
        reset.args(["reset", "--yes", "--data-dir"]).arg(cluster.data_dir());
        command::run(&mut reset, b"")
    };
    assert_eq!(reset.code, 0, "{pid}: {reset}");
    assert_eq!(mounts(&cluster), Vec::<String>::new());
    assert_eq!(read(&kept.join("file")), "kept");
}

#[test]
fn what_the_page_about_volumes_says_is_so() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let page = docs::Page::read("volumes.md");
    let run = |commands: &str| {
        command::run(cluster.shell(&[], &["examples/volumes"]).args(["-euo", "pipefail", "-c", commands]), b"").ok()
    };
    let mut told = Vec::new();
    for commands in page.section("Use a folder of a machine") {
        // The pod is ready a moment before it has written.
        let wait = "for try in $(seq 100); do [ -s kept/dates ] && break; sleep 0.1; done";
        told.push(run(&commands.replace("cat kept/dates", &format!("{wait}; cat kept/dates"))));
    }
    let dates = |text: &str| text.lines().last().map(str::to_owned);
    assert!(dates(&told[0]).is_some_and(|line| line.contains("UTC")), "{told:?}");
    assert_eq!(dates(&told[0]), dates(&told[1]), "what was written stays");
    page.section("Use a storage driver").into_iter().for_each(|commands| drop(run(commands)));
    let told = run(page.section("Use an image")[0]);
    assert!(told.lines().any(|line| line.trim() == "busybox"), "{told}");
}

#[test]
fn a_pod_brings_its_claim_along_and_takes_it_away() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.namespace("claims");
    let place = folder(&cluster, "place");
    let of_place = format!("local: {{path: {}}}", place.display());
    apply(&cluster, &volume("bringer-own", &of_place, "node-1"));
    let own = "{name: own, ephemeral: {volumeClaimTemplate: {metadata: {labels: {of: bringer}}, spec: {accessModes: \
               [ReadWriteOnce], storageClassName: manual, resources: {requests: {storage: 1Gi}}}}}}";
    apply(&cluster, &pod("bringer", own, "{name: own, mountPath: /own}", "", "echo here > /own/file; sleep 3600"));
    wait_ready(&cluster, "bringer");
    eventually("the file", MINUTE, || std::fs::read_to_string(place.join("file")).map_err(|error| error.to_string()));
    let claim = cluster.object(&["pvc", "-n", "claims", "bringer-own"]).expect("the claim is there");
    assert_eq!((&claim["metadata"]["labels"]["of"], &claim["status"]["phase"]), (&"bringer".into(), &"Bound".into()));
    cluster.kubectl(&["delete", "pod", "-n", "claims", "bringer"]).ok();
    eventually("the claim to go with its pod", MINUTE, || {
        match cluster.object(&["pvc", "-n", "claims", "bringer-own"]) {
            Ok(claim) => Err(claim.to_string()),
            Err(_) => Ok(()),
        }
    });
    assert_eq!(read(&place.join("file")), "here\n", "the volume is kept");
}

/// A driver on the cluster's node.
struct Driver {
    program: PathBuf,
    data: PathBuf,
    /// Which of its processes runs, and the numbers of all of them.
    pids: Vec<u32>,
}

impl Driver {
    const NAME: &str = "folders.example.io";

    /// Builds it, as `docs/volumes.md` says.
    fn build(cluster: &Cluster) -> Option<Self> {
        let go = tools::go()?;
        let page = docs::Page::read("volumes.md");
        let commands = page.section("Build a driver").concat();
        let folders = [go.parent().expect("a program is in a folder").to_owned()];
        let shell = cluster.shell(&folders, &["examples/plugins/storage-driver"]);
        // Outside the cluster's network, which has no way to the modules.
        let mut bash = Command::new("bash");
        bash.args(["-ec", &commands]).current_dir(cluster.scratch());
        bash.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value.filter(|_| name != "HOME")?))));
        bash.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "auto");
        command::run_within(Duration::from_secs(20 * 60), &mut bash, b"").ok();
        let program = cluster.scratch().join("examples/plugins/storage-driver/storage-driver");
        Some(Self { program, data: folder(cluster, "driver-data"), pids: Vec::new() })
    }

    fn start(&mut self, cluster: &mut Cluster) {
        let mut command = cluster.command(&self.program);
        command.args(["-name", Self::NAME, "-node", "the-node"]).arg("-data").arg(&self.data);
        command.arg("-socket").arg(cluster.data_dir().join("plugins").join(Self::NAME).join("csi.sock"));
        command.arg("-registry").arg(cluster.data_dir().join("plugins_registry"));
        let name = format!("driver-{}", self.pids.len());
        self.pids.push(cluster.spawn(&name, command));
    }

    fn stop(&mut self) {
        let pid = self.pids.last().expect("it was started").to_string();
        command::run(Command::new("kill").args(["-KILL", &pid]), b"").ok();
    }

    /// What its processes were asked, in order, with the answers' errors.
    fn asked(&self, cluster: &Cluster, what: &str) -> Vec<String> {
        let logs = (0..self.pids.len()).map(|number| cluster.scratch().join(format!("driver-{number}.log")));
        let text: String = logs.map(|log| std::fs::read_to_string(log).unwrap_or_default()).collect();
        text.lines().filter(|line| line.contains(&format!(" {what} "))).map(str::to_owned).collect()
    }
}

fn driver_object(attach: bool) -> String {
    format!(
        "apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {{name: {}}}\nspec:\n  attachRequired: {attach}\n  \
         podInfoOnMount: true\n  fsGroupPolicy: File\n  volumeLifecycleModes: [Persistent, Ephemeral]\n---\n",
        Driver::NAME
    )
}

fn driven(name: &str) -> String {
    let source = format!(
        "csi: {{driver: {}, volumeHandle: {name}, volumeAttributes: {{key: open}}, nodeStageSecretRef: {{namespace: claims, \
         name: key}}}}",
        Driver::NAME
    );
    volume(name, &source, "node-1")
}

#[test]
fn volumes_of_a_driver_are_staged_published_grown_measured_and_given_back() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    let Some(mut driver) = Driver::build(&cluster) else { return };
    cluster.namespace("claims");
    std::fs::create_dir(driver.data.join("vol")).expect("a folder can be made");
    let secret =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: key, namespace: claims}\nstringData: {key: open}\n---\n";
    apply(&cluster, &[driver_object(false).as_str(), secret, &driven("vol"), &claim("vol")].concat());
    let at = "{name: vol, mountPath: /v}";
    let group = "securityContext: {fsGroup: 4711, runAsUser: 1000}";
    apply(&cluster, &pod("first", &of_claim("vol", ""), at, group, "echo one > /v/file; sleep 3600"));
    // Until the driver is there, the pod waits for it.
    wait_event(&cluster, "first", "driver name folders.example.io not found in the list of registered CSI drivers");
    driver.start(&mut cluster);
    wait_ready(&cluster, "first");
    eventually("the file", MINUTE, || std::fs::read_to_string(driver.data.join("vol/file")).map_err(|e| e.to_string()));
    assert_eq!(std::fs::metadata(driver.data.join("vol")).expect("it is there").gid(), 4711);
    // What the driver calls the node, and where the node is.
    let node = cluster.object(&["csinode", "node-1"]).expect("the node has drivers");
    let told = &node["spec"]["drivers"][0];
    assert_eq!((&told["name"], &told["nodeID"]), (&Driver::NAME.into(), &"the-node".into()), "{node}");
    assert_eq!(
        (&told["allocatable"]["count"], &told["topologyKeys"][0]),
        (&32.into(), &"folders.example.io/node".into())
    );
    let labels = cluster.object(&["node", "node-1"]).expect("it is there")["metadata"]["labels"].clone();
    assert_eq!(labels["folders.example.io/node"], "the-node");
    let secrets: Vec<String> = driver.asked(&cluster, "NodeStageVolume");
    assert!(secrets.iter().any(|line| line.contains("open")), "the driver got the secret: {secrets:?}");

    // The driver starts anew; another pod shares the volume. It is staged once for both as long as one has it.
    driver.stop();
    driver.start(&mut cluster);
    eventually("the driver to be registered again", MINUTE, || {
        let log = std::fs::read_to_string(cluster.scratch().join("driver-1.log")).unwrap_or_default();
        if log.lines().any(|line| line.ends_with(" registered")) { Ok(()) } else { Err(log) }
    });
    cluster.kubectl(&["patch", "pv", "vol", "-p", r#"{"spec": {"capacity": {"storage": "2Gi"}}}"#]).ok();
    let both = format!("{}, {{name: own, csi: {{driver: {}}}}}", of_claim("vol", ", readOnly: true"), Driver::NAME);
    let script = "cat /v/file /own/pod; touch /v/no; sleep 3600";
    apply(&cluster, &pod("second", &both, &format!("{at}, {{name: own, mountPath: /own}}"), "", script));
    wait_ready(&cluster, "second");
    eventually("what the second pod sees", MINUTE, || {
        let log = cluster.kubectl(&["logs", "-n", "claims", "second"]).stdout;
        let right = ["one", "claims/second", "Read-only file system"].iter().all(|part| log.contains(part));
        if right { Ok(()) } else { Err(log) }
    });
    // The volume has become larger: so does its file system, and the claim says so.
    eventually("the claim to have grown", Duration::from_secs(180), || {
        let claim = cluster.object(&["pvc", "-n", "claims", "vol"])?;
        if claim["status"]["capacity"]["storage"] == "2Gi" { Ok(()) } else { Err(claim["status"].to_string()) }
    });
    assert_eq!(read(&driver.data.join("vol.size")), (2u64 << 30).to_string());
    eventually("the volume in the summary", Duration::from_secs(150), || {
        let text = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node-1/proxy/stats/summary"]).ok();
        let summary: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let of_pod = pods.iter().find(|pod| pod["podRef"]["name"] == "first").cloned().unwrap_or_default();
        let volumes = of_pod["volume"].as_array().cloned().unwrap_or_default();
        let found = volumes.iter().find(|volume| volume["pvcRef"]["name"] == "vol").cloned().unwrap_or_default();
        let right = found["capacityBytes"] == (2u64 << 30) && found["usedBytes"] == 4 && found["inodesUsed"] == 1;
        if right { Ok(()) } else { Err(format!("{volumes:?}")) }
    });

    // An agent that is killed finds what it has; the pods go, and all is given back.
    cluster.server().kill();
    cluster.up();
    cluster.wait_ready();
    cluster.kubectl(&["delete", "pod", "-n", "claims", "first"]).ok();
    assert_eq!(driver.asked(&cluster, "NodeUnstageVolume"), Vec::<String>::new(), "the second pod has it still");
    cluster.kubectl(&["delete", "pod", "-n", "claims", "second"]).ok();
    eventually("the volume to be given back", MINUTE, || {
        let (mounts, unstaged) = (mounts(&cluster), driver.asked(&cluster, "NodeUnstageVolume"));
        if mounts.is_empty() && unstaged.len() == 1 { Ok(()) } else { Err(format!("{mounts:?} {unstaged:?}")) }
    });
    let published = driver.asked(&cluster, "NodeUnpublishVolume");
    assert!(published.len() >= 3, "two pods had one volume and a third was a pod's own: {published:?}");
    let left: Vec<_> = std::fs::read_dir(&driver.data).expect("it is there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "the pod's own volume is gone: {left:?}");
    assert_eq!(read(&driver.data.join("vol/file")), "one\n");
    // A driver that leaves is not on the node any more.
    driver.stop();
    std::fs::remove_file(cluster.data_dir().join("plugins_registry/folders.example.io-reg.sock")).expect("its socket");
    eventually("the driver to be forgotten", MINUTE, || {
        let node = cluster.object(&["csinode", "node-1"])?;
        if node["spec"]["drivers"].as_array().is_none_or(Vec::is_empty) { Ok(()) } else { Err(node.to_string()) }
    });
}

/// The attachment of the volume `vol` to a node, which is there in a moment.
fn attachment(cluster: &Cluster, node: &str) -> Value {
    eventually(&format!("the attachment to {node}"), MINUTE, || {
        let all = cluster.object(&["volumeattachments"])?;
        let found = all["items"].as_array().into_iter().flatten().find(|found| {
            found["spec"]["nodeName"] == node && found["spec"]["source"]["persistentVolumeName"] == "vol"
        });
        found.cloned().ok_or_else(|| all.to_string())
    })
}

/// What an attacher does: it holds the attachment and says that it is attached, or that it is no more.
fn attacher(cluster: &Cluster, attachment: &Value, attached: bool) {
    let name = attachment["metadata"]["name"].as_str().expect("it has a name");
    let held = if attached { r#"["external-attacher/folders-example-io"]"# } else { "[]" };
    let status = r#"{"status": {"attached": true, "attachmentMetadata": {"path": "/dev/there"}}}"#;
    let held = format!(r#"{{"metadata": {{"finalizers": {held}}}}}"#);
    cluster.kubectl(&["patch", "volumeattachment", name, "--type=merge", "-p", &held]).ok();
    if attached {
        cluster
            .kubectl(&["patch", "volumeattachment", name, "--subresource=status", "--type=merge", "-p", status])
            .ok();
    }
}

/// Waits until an attachment is to go (its attacher holds it still), or is gone.
fn wait_leaving(cluster: &Cluster, attachment: &Value) {
    let name = attachment["metadata"]["name"].as_str().expect("it has a name");
    eventually("the attachment to leave", MINUTE, || match cluster.object(&["volumeattachment", name]) {
        Ok(found) if found["metadata"]["deletionTimestamp"].is_string() => Ok(()),
        Ok(found) => Err(format!("{found} {}", cluster.object(&["node", "node-1"])?["status"]["volumesInUse"])),
        Err(error) if error.contains("NotFound") => Ok(()),
        Err(error) => Err(error),
    });
}

fn wait_node(cluster: &Cluster, node: &str, field: &str, wanted: &str) {
    eventually(&format!("{field} of {node} to be {wanted}"), MINUTE, || {
        let says = cluster.object(&["node", node])?["status"][field].clone();
        let says = if says.is_null() { "[]".to_owned() } else { says.to_string() };
        if says == wanted { Ok(()) } else { Err(says) }
    });
}

fn wait_told(cluster: &Cluster, pod: &str, reason: &str, text: &str) {
    eventually(&format!("{reason} of {pod}"), MINUTE, || {
        let events = cluster.kubectl(&["events", "-n", "claims", "--for", &format!("pod/{pod}")]).ok();
        let told = events.lines().any(|line| line.contains(reason) && line.contains(text));
        if told { Ok(()) } else { Err(events) }
    });
}

#[test]
fn a_volume_is_attached_where_its_pods_are_and_taken_away_when_it_is_not_used() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    let Some(mut driver) = Driver::build(&cluster) else { return };
    cluster.namespace("claims");
    std::fs::create_dir(driver.data.join("vol")).expect("a folder can be made");
    driver.start(&mut cluster);
    let secret =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: key, namespace: claims}\nstringData: {key: open}\n---\n";
    apply(&cluster, &[driver_object(true).as_str(), secret, &driven("vol"), &claim("vol")].concat());
    let at = "{name: vol, mountPath: /v}";
    apply(&cluster, &pod("first", &of_claim("vol", ""), at, "", "sleep 3600"));
    let here = attachment(&cluster, "node-1");
    wait_node(&cluster, "node-1", "volumesAttached", "[]");
    attacher(&cluster, &here, true);
    wait_ready(&cluster, "first");
    wait_told(&cluster, "first", "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume \"vol\"");
    let name = format!("kubernetes.io/csi/{}^vol", Driver::NAME);
    wait_node(&cluster, "node-1", "volumesInUse", &format!("[{name:?}]"));
    wait_node(&cluster, "node-1", "volumesAttached", &format!("[{{\"devicePath\":\"\",\"name\":{name:?}}}]"));

    // Only one node may have it: a pod elsewhere waits and is told for whom.
    apply(&cluster, "apiVersion: v1\nkind: Node\nmetadata: {name: node-2}\n");
    let second = pod("second", &of_claim("vol", ""), at, "", "sleep 3600").replace("node-1", "node-2");
    apply(&cluster, &second);
    let why = "Multi-Attach error for volume \"vol\" Volume is already used by pod(s) first";
    wait_told(&cluster, "second", "FailedAttachVolume", why);
    // Controllers that begin anew, with the agent, change nothing.
    cluster.server().kill();
    cluster.up();
    cluster.wait_ready();
    let again = attachment(&cluster, "node-1");
    assert_eq!(again["metadata"]["uid"], here["metadata"]["uid"]);

    // The first one goes; when its node has let go of the volume, it is the other's turn, once the attacher is done.
    cluster.kubectl(&["delete", "pod", "-n", "claims", "first"]).ok();
    wait_leaving(&cluster, &here);
    wait_node(&cluster, "node-1", "volumesInUse", "[]");
    wait_node(&cluster, "node-1", "volumesAttached", "[]");
    attacher(&cluster, &here, false);
    let there = attachment(&cluster, "node-2");
    attacher(&cluster, &there, true);
    wait_node(&cluster, "node-2", "volumesAttached", &format!("[{{\"devicePath\":\"\",\"name\":{name:?}}}]"));

    // A node that uses it and is silent keeps it, until somebody says that it is switched off.
    let in_use = format!(r#"{{"status": {{"volumesInUse": [{name:?}]}}}}"#);
    cluster.kubectl(&["patch", "node", "node-2", "--subresource=status", "--type=merge", "-p", &in_use]).ok();
    cluster.kubectl(&["delete", "pod", "-n", "claims", "second", "--force", "--grace-period=0"]).ok();
    // Who wants it elsewhere is told that it is not to be had though no pod has it: that was thought over after the last one went.
    let third = pod("third", &of_claim("vol", ""), at, "", "sleep 3600");
    apply(&cluster, &third);
    let why = "Volume is already exclusively attached to one node and can't be attached to another";
    wait_told(&cluster, "third", "FailedAttachVolume", why);
    assert!(attachment(&cluster, "node-2")["metadata"]["deletionTimestamp"].is_null(), "it is in use");
    cluster.kubectl(&["delete", "pod", "-n", "claims", "third"]).ok();
    cluster.kubectl(&["taint", "node", "node-2", "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"]).ok();
    wait_leaving(&cluster, &there);
    attacher(&cluster, &there, false);
    eventually("no attachment to be left", MINUTE, || {
        let all = cluster.object(&["volumeattachments"])?;
        if all["items"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(all.to_string()) }
    });
    left::wait_for_nothing(&cluster);
}

#[test]
fn a_volume_that_must_be_attached_is_waited_for() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    let Some(mut driver) = Driver::build(&cluster) else { return };
    cluster.namespace("claims");
    std::fs::create_dir(driver.data.join("vol")).expect("a folder can be made");
    driver.start(&mut cluster);
    let secret =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: key, namespace: claims}\nstringData: {key: shut}\n---\n";
    apply(&cluster, &[driver_object(true).as_str(), secret, &driven("vol"), &claim("vol")].concat());
    apply(&cluster, &pod("waiter", &of_claim("vol", ""), "{name: vol, mountPath: /v}", "", "sleep 3600"));
    wait_event(&cluster, "waiter", "MountVolume.WaitForAttach failed for volume \"vol\"");
    // It is to be attached; an attacher does that, which runs beside a driver.
    let found = attachment(&cluster, "node-1");
    assert_eq!((&found["spec"]["attacher"], &found["spec"]["nodeName"]), (&Driver::NAME.into(), &"node-1".into()));
    attacher(&cluster, &found, true);
    // Then it is the driver's turn, which wants another key.
    wait_event(&cluster, "waiter", "rpc error: code = PermissionDenied desc = the key does not fit");
    let asked = driver.asked(&cluster, "NodeStageVolume");
    assert!(asked.iter().any(|line| line.contains("/dev/there")), "what attaching said is handed on: {asked:?}");
    cluster.kubectl(&["patch", "secret", "-n", "claims", "key", "-p", r#"{"stringData": {"key": "open"}}"#]).ok();
    wait_ready(&cluster, "waiter");
    cluster.kubectl(&["delete", "pod", "-n", "claims", "waiter"]).ok();
}

/// An archive of an image with two layers: `first` has the files a and b, `second` another b over it.
fn two_layers(cluster: &Cluster) -> PathBuf {
    let archive = cluster.scratch().join("layers.tar");
    let script = r#"
        mkdir one one/folder two two/folder layers
        echo first > one/folder/a; echo first > one/folder/b; echo second > two/folder/b
        printf '#!/bin/sh\necho started\n' > one/program; chmod 755 one/program
        for layer in one two; do tar -C $layer -cf layers/$layer.tar .; done
        id() { sha256sum $1 | cut -d' ' -f1; }
        machine=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
        printf '{"architecture":"%s","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%s"]}}' \
            $machine $(id layers/one.tar) $(id layers/two.tar) > config.json
        printf '[{"Config":"config.json","RepoTags":["gantry.local/layers:1"],"Layers":["layers/one.tar","layers/two.tar"]}]' \
            > manifest.json
        tar -cf layers.tar manifest.json config.json layers
    "#;
    let mut bash = Command::new("bash");
    command::run(bash.args(["-euc", script]).current_dir(cluster.scratch()), b"").ok();
    archive
}

#[test]
fn an_image_is_a_volume() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    cluster.namespace("claims");
    let source = |image: &str| format!("{{name: image, image: {{reference: '{image}', pullPolicy: Never}}}}");
    let layers = source("gantry.local/layers:1");
    let at = "{name: image, mountPath: /image}, {name: image, mountPath: /sub, subPath: folder}";
    let script = "cat /image/folder/a /image/folder/b /sub/b; touch /image/no; touch /sub/no; trap exit TERM; \
                  while :; do sleep 0.2; done";
    // Until the image is there, the container says so as it does of its own.
    apply(&cluster, &pod("reader", &layers, at, "", script));
    eventually("the pod to wait for it", MINUTE, || {
        let pod = cluster.object(&["pod", "-n", "claims", "reader"])?;
        let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        let told = waiting["message"].as_str().is_some_and(|message| message.contains("gantry.local/layers:1"));
        if waiting["reason"] == "ErrImageNeverPull" && told { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    let archive = two_layers(&cluster);
    let mut import = cluster.command(&cluster.tools().gantry);
    import.args(["image", "import", "--data-dir"]).arg(cluster.data_dir()).arg(&archive);
    command::run(&mut import, b"").ok();
    wait_ready(&cluster, "reader");
    let log = eventually("the reader's log", MINUTE, || {
        let log = cluster.kubectl(&["logs", "-n", "claims", "reader"]).stdout;
        if log.lines().count() >= 5 { Ok(log) } else { Err(log) }
    });
    // What goes to the one stream may come between what goes to the other.
    let found =
        |log: &str| log.lines().filter(|line| !line.starts_with("touch")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(found(&log), ["first", "second", "second"]);
    assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");

    // It stays what it is while its agent and its container begin anew.
    cluster.server().kill();
    cluster.up();
    cluster.wait_ready();
    // An agent that has just begun does not know its pods at once.
    eventually("the container to be told to end", MINUTE, || {
        let told = cluster.kubectl(&["exec", "-n", "claims", "reader", "--", "kill", "1"]);
        if told.code == 0 { Ok(()) } else { Err(told.to_string()) }
    });
    eventually("the container to begin anew", MINUTE, || {
        let pod = cluster.object(&["pod", "-n", "claims", "reader"])?;
        let container = &pod["status"]["containerStatuses"][0];
        if container["restartCount"] == 1 && container["ready"] == true { Ok(()) } else { Err(container.to_string()) }
    });
    eventually("the log after that", MINUTE, || {
        let log = cluster.kubectl(&["logs", "-n", "claims", "reader"]).stdout;
        if found(&log) == ["first", "second", "second"] { Ok(()) } else { Err(log) }
    });
    // One of a single layer, which is mounted in another way; and one that is not to be had.
    let busybox = source("gantry.local/busybox:1.35");
    apply(&cluster, &pod("single", &busybox, "{name: image, mountPath: /image}", "", "ls /image/bin; sleep 3600"));
    wait_ready(&cluster, "single");
    apply(&cluster, &pod("none", &source("UPPER/x:1"), "{name: image, mountPath: /image}", "", "sleep 3600"));
    eventually("a name that is none to be told of", MINUTE, || {
        let pod = cluster.object(&["pod", "-n", "claims", "none"])?;
        let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        if waiting["reason"] == "InvalidImageName" { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    cluster.kubectl(&["delete", "pod", "-n", "claims", "reader", "single", "none"]).ok();
    left::wait_for_nothing(&cluster);
}

/// A file system in a folder of the machine, as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn at(folder: PathBuf) -> Self {
        std::fs::create_dir(&folder).expect("a folder can be made");
        let options = ["-t", "tmpfs", "-o", "nosuid,size=1m", "none"];
        command::run(Command::new("mount").args(options).arg(&folder), b"").ok();
        Self(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        command::run(Command::new("umount").arg("--lazy").arg(&self.0), b"");
    }
}

#[test]
fn what_is_mounted_in_a_read_only_volume_is_read_only_too_where_that_is_asked_for() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.namespace("claims");
    let host = folder(&cluster, "host");
    let inner = Mounted::at(host.join("inner"));
    let volumes = format!("{{name: host, hostPath: {{path: {}}}}}", host.display());
    let mounts = "{name: host, mountPath: /plain, readOnly: true}, \
                  {name: host, mountPath: /all, readOnly: true, recursiveReadOnly: Enabled}, \
                  {name: host, mountPath: /any, readOnly: true, recursiveReadOnly: IfPossible}, \
                  {name: host, mountPath: /written}";
    let script = "for at in plain all any written; do touch /$at/inner/$at /$at/$at 2>/dev/null; done; \
                  while ! rm /written/stop 2>/dev/null; do sleep 0.1; done";
    apply(&cluster, &pod("looker", &volumes, mounts, "", script));
    wait_ready(&cluster, "looker");
    let written = || {
        let files = [&host, &inner.0].map(|folder| std::fs::read_dir(folder).expect("it is there").flatten());
        let mut names: Vec<_> = files.into_iter().flatten().map(|entry| entry.path()).collect();
        names.sort();
        names
    };
    // In the volume that is merely read-only, what is mounted in it is not.
    let expected = [inner.0.clone(), inner.0.join("plain"), inner.0.join("written"), host.join("written")];
    let wait_written = || {
        eventually("files to be written", MINUTE, || match written() {
            names if names == expected => Ok(()),
            names => Err(format!("{names:?}")),
        });
    };
    wait_written();
    let command = ["exec", "-n", "claims", "looker", "--", "grep", " /all/inner ", "/proc/mounts"];
    let listed = cluster.kubectl(&command).ok();
    assert!(listed.contains(" ro,nosuid,"), "it keeps its other options: {listed}");
    let status = |path: &str| {
        let pod = cluster.object(&["pod", "-n", "claims", "looker"]).expect("the pod is there");
        pod["status"]["containerStatuses"][0].pointer(path).cloned().unwrap_or_default()
    };
    let mode = |index: usize| status(&format!("/volumeMounts/{index}/recursiveReadOnly"));
    assert_eq!([0, 1, 2, 3].map(mode), ["Disabled".into(), "Enabled".into(), "Enabled".into(), Value::Null]);
    let node = cluster.object(&["node", "node-1"]).expect("the node is there");
    assert_eq!(node["status"]["runtimeHandlers"][0]["features"]["recursiveReadOnlyMounts"], true, "{node}");

    // A container that begins anew finds the same, and nothing stays when the pod has gone.
    for name in [inner.0.join("plain"), host.join("written")] {
        std::fs::remove_file(name).expect("it is there");
    }
    std::fs::write(host.join("stop"), "").expect("a file can be written");
    eventually("the container to begin anew", MINUTE, || match status("/restartCount") {
        count if count == 1 => Ok(()),
        count => Err(count.to_string()),
    });
    wait_written();
    cluster.kubectl(&["delete", "-n", "claims", "pod/looker", "--now"]).ok();
    left::wait_for_nothing(&cluster);
}
