//! kubectl's verbs in every version at hand, with the output that Kubernetes gives.

use gantry_integration_tests::kubectl::{self, Kubectl};
use gantry_integration_tests::shared::Shared;

static CLUSTER: Shared = Shared::new();

fn each_version(name: &str, scenario: impl Fn(&Kubectl<'_>)) {
    let Some(cluster) = CLUSTER.get() else { return };
    kubectl::each_version(&cluster, name, scenario);
}

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {key: one}\n";

#[test]
fn apply_diff_patch_replace() {
    each_version("change", |kubectl| {
        assert_eq!(kubectl.with(&["apply", "-f", "-"], CONFIG).ok(), "configmap/c created\n");
        assert_eq!(kubectl.with(&["apply", "-f", "-"], CONFIG).ok(), "configmap/c unchanged\n");
        assert_eq!(kubectl.with(&["diff", "-f", "-"], CONFIG).ok(), "");
        let other = CONFIG.replace("one", "two");
        let diff = kubectl.with(&["diff", "-f", "-"], &other);
        assert_eq!(diff.code, 1, "{diff}");
        assert!(diff.stdout.contains("-  key: one") && diff.stdout.contains("+  key: two"), "{diff}");
        assert_eq!(kubectl.with(&["apply", "-f", "-"], &other).ok(), "configmap/c configured\n");
        let get = ["get", "cm", "c", "-o", "jsonpath={.data}"];
        for (kind, patch, expected) in [
            ("merge", r#"{"data":{"a":"1"}}"#, r#"{"a":"1","key":"two"}"#),
            ("strategic", r#"{"data":{"b":"2"}}"#, r#"{"a":"1","b":"2","key":"two"}"#),
            ("json", r#"[{"op":"remove","path":"/data/a"}]"#, r#"{"b":"2","key":"two"}"#),
        ] {
            kubectl.prints(&["patch", "cm", "c", "--type", kind, "-p", patch], "configmap/c patched");
            kubectl.prints(&get, expected);
        }
        kubectl.prints(&["patch", "cm", "c", "--type", "merge", "-p", "{}"], "configmap/c patched (no change)");
        assert_eq!(kubectl.with(&["replace", "-f", "-"], CONFIG).ok(), "configmap/c replaced\n");
        kubectl.prints(&get, r#"{"key":"one"}"#);
        kubectl.prints(&["label", "cm", "c", "tier=front"], "configmap/c labeled");
        kubectl.prints(&["label", "cm", "c", "tier=front"], "configmap/c not labeled");
        let taken = kubectl.run(&["label", "cm", "c", "tier=back"]).fails_with(1);
        assert!(taken.contains("'tier' already has a value (front), and --overwrite is false"), "{taken}");
        kubectl.prints(&["label", "cm", "c", "tier-"], "configmap/c unlabeled");
        // Older ones say "annotate".
        let annotated = kubectl.run(&["annotate", "cm", "c", "note=x"]).ok();
        assert!(annotated.starts_with("configmap/c annotate"), "{annotated}");
        // Since 1.34 the namespace is told as well.
        let deleted = kubectl.run(&["delete", "cm", "c"]).ok();
        assert!(deleted.starts_with("configmap \"c\" deleted"), "{deleted}");
    });
}

#[test]
fn generators_and_set() {
    each_version("make", |kubectl| {
        for (args, expected) in [
            (vec!["create", "configmap", "c", "--from-literal=a=1"], "configmap/c created"),
            (vec!["create", "secret", "generic", "s", "--from-literal=a=1"], "secret/s created"),
            (vec!["create", "serviceaccount", "sa"], "serviceaccount/sa created"),
            (vec!["create", "quota", "q", "--hard=pods=10"], "resourcequota/q created"),
            (vec!["create", "role", "r", "--verb=get", "--resource=pods"], "role.rbac.authorization.k8s.io/r created"),
            (
                vec!["create", "rolebinding", "rb", "--role=r", "--user=jane"],
                "rolebinding.rbac.authorization.k8s.io/rb created",
            ),
            (vec!["create", "job", "j", "--image=example/none"], "job.batch/j created"),
            (
                vec!["create", "cronjob", "cj", "--image=example/none", "--schedule=0 0 1 1 *"],
                "cronjob.batch/cj created",
            ),
            (vec!["create", "ingress", "i", "--rule=example.com/*=svc:80"], "ingress.networking.k8s.io/i created"),
            (
                vec!["create", "poddisruptionbudget", "b", "--selector=app=d", "--min-available=1"],
                "poddisruptionbudget.policy/b created",
            ),
            (vec!["create", "service", "clusterip", "svc", "--tcp=80:8080"], "service/svc created"),
            (vec!["create", "deployment", "d", "--image=example/none", "--replicas=0"], "deployment.apps/d created"),
            (vec!["expose", "deployment", "d", "--port=80"], "service/d exposed"),
            (
                vec!["autoscale", "deployment", "d", "--min=1", "--max=3", "--cpu-percent=80"],
                "horizontalpodautoscaler.autoscaling/d autoscaled",
            ),
            (vec!["run", "p", "--image=example/none", "--dry-run=server"], "pod/p created (server dry run)"),
            (vec!["set", "image", "deployment/d", "none=example/other"], "deployment.apps/d image updated"),
            (vec!["set", "env", "deployment/d", "A=1"], "deployment.apps/d env updated"),
            (
                vec!["set", "resources", "deployment/d", "--limits=cpu=1"],
                "deployment.apps/d resource requirements updated",
            ),
            (vec!["set", "serviceaccount", "deployment/d", "sa"], "deployment.apps/d serviceaccount updated"),
            (vec!["set", "selector", "service/svc", "app=x"], "service/svc selector updated"),
            (vec!["scale", "deployment/d", "--replicas=0"], "deployment.apps/d scaled"),
        ] {
            // Newer ones say that --cpu-percent has a new name, on standard error.
            kubectl.prints(&args, expected);
        }
        let scaled = ["get", "deployment", "d", "-o", "jsonpath={.spec.replicas}"];
        kubectl.prints(&scaled, "0");
        kubectl.run(&["patch", "deployment", "d", "-p", r#"{"spec":{"paused":true,"replicas":1}}"#]).ok();
        kubectl.prints(&["edit", "deployment", "d"], "deployment.apps/d edited");
        kubectl.prints(&scaled, "7");
        kubectl
            .prints(&["wait", "--for=jsonpath={.spec.replicas}=7", "deployment/d"], "deployment.apps/d condition met");
        kubectl.prints(&["wait", "--for=delete", "pod/nobody"], "");
        let quota = kubectl.run(&["get", "quota,role,cronjob,ingress,pdb", "-o", "name"]).ok();
        assert_eq!(
            quota,
            "resourcequota/q\nrole.rbac.authorization.k8s.io/r\ncronjob.batch/cj\ningress.networking.k8s.io/i\npoddisruptionbudget.policy/b\n"
        );
    });
}

#[test]
fn questions_about_the_server_and_access() {
    each_version("ask", |kubectl| {
        kubectl.prints(&["auth", "can-i", "create", "pods"], "yes");
        let no = kubectl.run(&["auth", "can-i", "create", "pods", "--as=jane"]);
        assert_eq!((no.code, no.stdout.trim_end()), (1, "no"), "{no}");
        let explained = kubectl.run(&["explain", "deployment.spec.strategy"]).ok();
        assert!(explained.contains("rollingUpdate") && explained.contains("DeploymentStrategy"), "{explained}");
        let explained = kubectl.run(&["explain", "validatingadmissionpolicy.spec.validations"]).ok();
        assert!(explained.contains("messageExpression"), "{explained}");
        let services = kubectl.run(&["get", "apiservices"]).ok();
        assert!(services.contains("v1.apps ") && services.contains("Local"), "{services}");
        let resources = kubectl.run(&["api-resources", "--api-group=admissionregistration.k8s.io", "-o", "name"]).ok();
        assert!(resources.contains("validatingadmissionpolicies.admissionregistration.k8s.io"), "{resources}");
        let events = kubectl.run(&["events"]);
        assert!(events.code == 0 && events.stderr.contains("No events found in"), "{events}");
        let folder = kubectl.folder();
        std::fs::write(folder.join("c.yaml"), CONFIG).expect("a file");
        std::fs::write(folder.join("kustomization.yaml"), "resources: [c.yaml]\nnamePrefix: k-\n").expect("a file");
        kubectl.prints(&["apply", "-k", folder.to_str().expect("a UTF-8 path")], "configmap/k-c created");
    });
}

#[test]
fn a_policy_refuses_and_warns_in_kubectl() {
    each_version("policy", |kubectl| {
        let namespace = &kubectl.namespace;
        let policy = format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata: {{name: {namespace}}}\nspec:\n  matchConstraints:\n    resourceRules: [{{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [configmaps]}}]\n  validations:\n  - {{expression: \"object.data.key == 'two'\", message: only two}}\n---\napiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: {namespace}}}\nspec:\n  policyName: {namespace}\n  validationActions: [Deny]\n  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}\n"
        );
        kubectl.with(&["apply", "-f", "-"], &policy).ok();
        let refused = kubectl.with(&["create", "-f", "-"], CONFIG).fails_with(1);
        let expected = format!(
            "The configmaps \"c\" is invalid: : ValidatingAdmissionPolicy '{namespace}' with binding '{namespace}' denied request: only two"
        );
        assert!(refused.contains(&expected), "kubectl 1.{}: {refused}", kubectl.minor);
        assert_eq!(kubectl.with(&["create", "-f", "-"], &CONFIG.replace("one", "two")).ok(), "configmap/c created\n");
        let policies = kubectl.run(&["get", "validatingadmissionpolicy", namespace, "-o", "name"]).ok();
        assert_eq!(policies, format!("validatingadmissionpolicy.admissionregistration.k8s.io/{namespace}\n"));
    });
}

/// A request for a certificate, as `openssl req` makes one.
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIY01JR0RBZ0VBTUNFeEVEQU9CZ05WQkFvTUIyVjRZVzF3YkdVeERUQUxCZ05WQkFNTUJHcGhibVV3V1RBVApCZ2NxaGtqT1BRSUJCZ2dxaGtqT1BRTUJCd05DQUFRS2FySU1NZGhUWE5ZWEZqc3FSa3JucU9Ucm4xOTRpT2VCCm5zU091UmlQYU1oS0dtNE1QR1hOaGVCRFBrWUZEeU13a2xhVmpZeEQvTFZ6VlVzL2NjQllvQUF3Q2dZSUtvWkkKemowRUF3SURTQUF3UlFJaEFKamxJWldvSXFDVmZrR053dWIxaWhHeXJPQVpEYVZHM0xqUU9FM3JnSmppQWlCTgpGSW02R2xTR2FMM2pYNmlSZk1aUTl0QWtkczZQcXczODNybE1sUzZ2dlE9PQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

#[test]
fn certificates_and_roles() {
    each_version("trust", |kubectl| {
        let namespace = &kubectl.namespace;
        for (name, verb, told, state) in
            [("yes", "approve", "approved", "Approved"), ("no", "deny", "denied", "Denied")]
        {
            let name = format!("{name}-{namespace}");
            let request = format!(
                "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec: {{request: {REQUEST}, signerName: example.com/test, usages: [client auth]}}\n"
            );
            kubectl.with(&["create", "-f", "-"], &request).ok();
            let row = kubectl.run(&["get", "csr", &name]).ok();
            let header: Vec<&str> = row.lines().next().unwrap_or_default().split_whitespace().collect();
            assert_eq!(header, ["NAME", "AGE", "SIGNERNAME", "REQUESTOR", "REQUESTEDDURATION", "CONDITION"], "{row}");
            assert!(row.contains("example.com/test") && row.trim_end().ends_with("Pending"), "{row}");
            let line = format!("certificatesigningrequest.certificates.k8s.io/{name} {told}");
            kubectl.prints(&["certificate", verb, &name], &line);
            kubectl.prints(&["certificate", verb, &name], &line);
            let row = kubectl.run(&["get", "csr", &name]).ok();
            assert!(row.trim_end().ends_with(state), "{row}");
            let other = if verb == "approve" { "deny" } else { "approve" };
            let refused = format!("certificate signing request \"{name}\" is already {state}");
            kubectl.refuses(&["certificate", other, &name], &refused);
            kubectl.run(&["delete", "csr", &name]).ok();
        }
        // This verb asks for the object where its own text says that it is, and for no other namespace.
        let role = |verbs: &str| {
            format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: r, namespace: {namespace}}}\nrules: [{{apiGroups: [''], resources: [pods], verbs: [{verbs}]}}]\n"
            )
        };
        let made = kubectl.with(&["auth", "reconcile", "-f", "-"], &role("get"));
        assert_eq!(made.stdout, "role.rbac.authorization.k8s.io/r reconciled\n", "{made}");
        assert!(made.stderr.contains("reconciliation required create"), "{made}");
        let more = kubectl.with(&["auth", "reconcile", "-f", "-"], &role("get, list"));
        assert!(more.code == 0 && more.stderr.contains("missing rules added"), "{more}");
        kubectl.prints(&["get", "role", "r", "-o", "jsonpath={.rules[*].verbs}"], r#"["get"] ["list"]"#);
        let same = kubectl.with(&["auth", "reconcile", "-f", "-"], &role("get, list"));
        assert_eq!((same.code, same.stderr.as_str()), (0, ""), "{same}");

        // Before 1.28 it asks for a version of the API that Kubernetes 1.35 serves no more.
        if kubectl.minor >= 28 {
            let expected = ["ATTRIBUTE", "Username", "Groups", "[system:masters system:authenticated]"];
            kubectl.tells(&["auth", "whoami"], &expected);
        }
        kubectl.tells(&["auth", "can-i", "--list"], &["Resources", "Non-Resource URLs", "Verbs", "*.*"]);
        let no = kubectl.run(&["auth", "can-i", "delete", "nodes", "--as=jane", "-q"]);
        assert_eq!((no.code, no.stdout.as_str()), (1, ""), "{no}");
    });
}

#[test]
fn what_the_server_is() {
    each_version("server", |kubectl| {
        let version = kubectl.run(&["version", "-o", "json"]).ok();
        let version: serde_json::Value = serde_json::from_str(&version).expect("JSON");
        assert_eq!(version["serverVersion"]["major"], "1");
        assert_eq!(version["serverVersion"]["minor"], "35");
        let client = kubectl.run(&["version", "--client"]).ok();
        assert!(client.contains("Client Version: ") && client.contains(&format!("v1.{}.", kubectl.minor)), "{client}");
        let info = kubectl.run(&["cluster-info"]).ok();
        assert!(info.contains("Kubernetes control plane") && info.contains("is running at"), "{info}");
        let folder = kubectl.folder().join("dump");
        let dump = ["cluster-info", "dump", "--output-directory", folder.to_str().expect("UTF-8"), "--namespaces"];
        let dumped = kubectl.run(&[&dump[..], &[&kubectl.namespace]].concat()).ok();
        assert!(dumped.starts_with("Cluster info dumped to "), "{dumped}");
        let nodes = std::fs::read_to_string(folder.join("nodes.json")).expect("the dump has nodes");
        assert!(nodes.contains("\"node-1\""), "{nodes}");
        assert!(folder.join(&kubectl.namespace).join("pods.json").exists());

        let resources = kubectl.run(&["api-resources", "--no-headers", "--namespaced=true", "--verbs=list"]).ok();
        let row = |name: &str| {
            let found = resources.lines().find(|line| line.starts_with(&format!("{name} ")));
            found.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(row("deployments").as_deref(), Some("deployments deploy apps/v1 true Deployment"));
        assert_eq!(row("pods").as_deref(), Some("pods po v1 true Pod"));
        assert_eq!(row("nodes"), None, "{resources}");
        let wide = kubectl.run(&["api-resources", "-o", "wide", "--api-group=apps", "--no-headers"]).ok();
        assert!(
            wide.lines().any(|line| line.starts_with("deployments ") && line.trim_end().ends_with(" all")),
            "{wide}"
        );
        kubectl.tells(&["api-versions"], &["apps/v1\n", "\nv1\n"]);
        kubectl.tells(
            &["explain", "configmap", "--recursive"],
            &[
                "KIND:       ConfigMap",
                "VERSION:    v1",
                "  binaryData\t<map[string]string>",
                "    ownerReferences\t<[]OwnerReference>",
                "      uid\t<string> -required-",
            ],
        );
        kubectl.tells(&["explain", "cronjob.spec.jobTemplate", "--recursive"], &["GROUP:      batch", "backoffLimit"]);
        kubectl.tells(&["explain", "hpa", "--api-version=autoscaling/v2"], &["KIND:       HorizontalPodAutoscaler"]);
        kubectl.refuses(&["explain", "nothing"], "the server doesn't have a resource type \"nothing\"");
        kubectl.refuses(&["top", "nodes"], "Metrics API not available");
        kubectl.refuses(&["top", "pods"], "Metrics API not available");
    });
}

#[test]
fn waiting_replacing_and_events() {
    each_version("await", |kubectl| {
        // Nobody runs this one: it asks for a machine that there is not.
        let pod = |text: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{nodeSelector: {{kind: none}}, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: example/none, args: [{text}]}}]}}\n"
            )
        };
        kubectl.with(&["create", "-f", "-"], &pod("one")).ok();
        let refused = kubectl.with(&["replace", "-f", "-"], &pod("two")).fails_with(1);
        assert!(refused.contains("pod updates may not change fields other than"), "{refused}");
        let replaced = kubectl.with(&["replace", "--force", "-f", "-"], &pod("two")).ok();
        assert!(replaced.starts_with("pod \"p\" deleted") && replaced.ends_with("pod/p replaced\n"), "{replaced}");
        kubectl.prints(&["get", "pod", "p", "-o", "jsonpath={.spec.containers[0].args}"], r#"["two"]"#);
        kubectl
            .prints(&["wait", "pod/p", "--for=condition=PodScheduled=False", "--timeout=60s"], "pod/p condition met");
        kubectl.refuses(
            &["wait", "pod/p", "--for=condition=Ready", "--timeout=1s"],
            "timed out waiting for the condition on pods/p",
        );
        kubectl.refuses(&["wait", "pod/q", "--for=condition=Ready"], "pods \"q\" not found");
        let events = || kubectl.run(&["events", "--for", "pod/p"]).ok();
        let seen = gantry_integration_tests::eventually("an event", std::time::Duration::from_secs(60), || {
            let told = events();
            if told.contains("FailedScheduling") { Ok(told) } else { Err(told) }
        });
        let header: Vec<&str> = seen.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(header, ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], "{seen}");
        assert!(seen.contains("Warning") && seen.contains("Pod/p"), "{seen}");
        kubectl.tells(&["events", "--types=Normal"], &["No events found in"]);
        kubectl.tells(&["describe", "pod", "p"], &["Node-Selectors:", "kind=none", "FailedScheduling", "Status:"]);
        // Older ones say "annotate".
        kubectl.tells(&["annotate", "pod", "p", "note=x", "--overwrite"], &["pod/p annotate"]);
        kubectl.tells(&["annotate", "pod", "--all", "note-"], &["pod/p annotate"]);
        // The watch is known to stand when it has told what was there.
        let watching = kubectl.start(&["get", "pods", "-w", "-o", "name"]);
        watching.line("pod/p");
        kubectl.prints(&["delete", "pods", "--all", "--wait=false", "-o", "name"], "pod/p");
        watching.line("pod/p");
        kubectl.run(&["wait", "--for=delete", "pod/p", "--timeout=60s"]).ok();
    });
}

#[test]
fn kustomize_and_pruning() {
    each_version("sets", |kubectl| {
        let folder = kubectl.folder();
        let write = |file: &str, text: &str| std::fs::write(folder.join(file), text).expect("a file");
        write("c.yaml", CONFIG);
        write(
            "kustomization.yaml",
            "resources: [c.yaml]\nnamePrefix: k-\nlabels: [{pairs: {set: k}}]\npatches: [{patch: '[{\"op\": \"replace\", \"path\": \"/data/key\", \"value\": \"patched\"}]', target: {kind: ConfigMap}}]\nconfigMapGenerator: [{name: made, literals: [a=1]}]\n",
        );
        let path = folder.to_str().expect("UTF-8");
        let built = kubectl.run(&["kustomize", path]).ok();
        assert!(built.contains("key: patched") && built.contains("name: k-made-"), "{built}");
        let applied = kubectl.run(&["apply", "-k", path]).ok();
        assert!(applied.contains("configmap/k-c created") && applied.contains("configmap/k-made-"), "{applied}");
        kubectl.prints(&["diff", "-k", path], "");
        // What is no longer said goes.
        write("kustomization.yaml", "resources: [c.yaml]\nnamePrefix: k-\nlabels: [{pairs: {set: k}}]\n");
        let prune = ["apply", "-k", path, "--prune", "-l", "set=k", "--prune-allowlist=core/v1/ConfigMap"];
        let pruned = kubectl.run(&prune).ok();
        assert!(pruned.contains("configmap/k-c configured") && pruned.contains("pruned"), "{pruned}");
        kubectl.prints(&["get", "cm", "-l", "set=k", "-o", "name"], "configmap/k-c");
        kubectl.tells(&["delete", "-k", path], &["configmap \"k-c\" deleted"]);
    });
}

#[test]
fn apply_as_others_do() {
    each_version("share", |kubectl| {
        let apply = |manager: &str, text: &str, more: &[&str]| {
            let manager = format!("--field-manager={manager}");
            let args = [&["apply", "--server-side", &manager, "-f", "-"], more].concat();
            kubectl.with(&args, &CONFIG.replace("one", text))
        };
        assert_eq!(apply("first", "one", &[]).ok(), "configmap/c serverside-applied\n");
        let refused = apply("second", "two", &[]).fails_with(1);
        assert!(refused.contains("Apply failed with 1 conflict: conflict with \"first\": .data.key"), "{refused}");
        assert_eq!(apply("second", "two", &["--force-conflicts"]).ok(), "configmap/c serverside-applied\n");
        let managers =
            ["get", "cm", "c", "-o", "jsonpath={.metadata.managedFields[*].manager}", "--show-managed-fields"];
        kubectl.prints(&managers, "second");
        // One that was applied by the client is taken over.
        kubectl.run(&["delete", "cm", "c"]).ok();
        kubectl.with(&["apply", "-f", "-"], CONFIG).ok();
        assert_eq!(apply("kubectl", "two", &[]).ok(), "configmap/c serverside-applied\n");
        kubectl.prints(&["get", "cm", "c", "-o", "jsonpath={.data.key}"], "two");
        kubectl.tells(&["apply", "view-last-applied", "cm/c"], &["key: two"]);
        let dry = kubectl.with(&["apply", "--dry-run=server", "-f", "-"], &CONFIG.replace("one", "three")).ok();
        assert_eq!(dry, "configmap/c configured (server dry run)\n");
        let unknown =
            kubectl.with(&["apply", "-f", "-"], &CONFIG.replace("\ndata:", "\ncolour: red\ndata:")).fails_with(1);
        assert!(unknown.contains("strict decoding error: unknown field \"colour\""), "{unknown}");
    });
}
