//! kubectl's verbs in every version at hand, with the output that Kubernetes gives.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use gantry_integration_tests::command::{Outcome, run};
use gantry_integration_tests::shared::Shared;
use gantry_integration_tests::{Cluster, tools};

static CLUSTER: Shared = Shared::new();

/// One version of kubectl in a namespace of its own.
struct Kubectl<'a> {
    cluster: &'a Cluster,
    program: &'a Path,
    minor: u32,
    namespace: String,
}

impl Kubectl<'_> {
    #[track_caller]
    fn with(&self, args: &[&str], input: &str) -> Outcome {
        let mut command = self.cluster.command(self.program);
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig()).args(["-n", &self.namespace]).args(args);
        // An editor that needs nobody: it sets the replicas to seven.
        command.env("KUBE_EDITOR", "sed -i s/replicas:.1/replicas:\\ 7/");
        run(&mut command, input.as_bytes())
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Outcome {
        self.with(args, "")
    }

    /// What a command that succeeds prints.
    #[track_caller]
    fn prints(&self, args: &[&str], expected: &str) {
        let outcome = self.run(args);
        assert_eq!((outcome.code, outcome.stdout.trim_end()), (0, expected), "kubectl 1.{}: {outcome}", self.minor);
    }
}

fn each_version(name: &str, scenario: impl Fn(&Kubectl<'_>)) {
    let Some(cluster) = CLUSTER.get() else { return };
    let cluster: Arc<Cluster> = cluster;
    let mut shown = String::new();
    for (minor, program) in tools::kubectls(cluster.tools()) {
        let namespace = cluster.namespace(&format!("{name}-{minor}"));
        scenario(&Kubectl { cluster: &cluster, program: &program, minor, namespace });
        let _ = write!(shown, " 1.{minor}");
    }
    eprintln!("{name}: kubectl{shown}");
    assert!(!shown.is_empty());
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
        let folder = kubectl.cluster.scratch().join(format!("kustomize-{}", kubectl.minor));
        std::fs::create_dir_all(&folder).expect("a folder");
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
