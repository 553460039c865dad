//! What manifests are asked about, and how answers read.

use gantry_scheduler::review::api::{Leaving, Origin};

use super::*;

fn read(text: &str) -> Vec<Workload> {
    let objects = manifests::parse(text).unwrap();
    objects.iter().filter_map(|object| workload(object).unwrap()).collect()
}

#[test]
fn each_kind_counts_the_pods_that_it_makes() {
    let pods = "template: {metadata: {labels: {app: a}}, spec: {containers: [{name: main, image: i}]}}";
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: one}}\nspec: {{containers: [{{name: main, image: i}}]}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{replicas: 3, selector: {{matchLabels: {{app: a}}}}, {pods}}}\n---\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec: {{selector: {{matchLabels: {{app: a}}}}, {pods}}}\n---\n\
         apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: tick}}\nspec: {{jobTemplate: {{spec: {{parallelism: 5, completions: 2, {pods}}}}}}}\n---\n\
         apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: old}}\nspec: {{replicas: 0, {pods}}}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\n"
    );
    let made = read(&text);
    let told: Vec<_> = made.iter().map(|one| (one.name.as_str(), one.count)).collect();
    assert_eq!(told, [("one", None), ("web", Some(3)), ("db", Some(1)), ("tick", Some(2)), ("old", Some(0))]);
    let web = &made[1];
    let labels = web.template.metadata.as_ref().unwrap().labels.clone();
    assert_eq!(web.selector.as_ref().unwrap().match_labels, labels, "the pods are its own");
    assert_eq!(labels.unwrap().len(), 2);
    assert_eq!(made[4].selector.as_ref().unwrap().match_labels.as_ref().unwrap()["app"], "a");
}

#[test]
fn answers_read_as_tables_and_sentences() {
    let placed = Placement {
        namespace: "shop".into(),
        name: "web-0".into(),
        origin: Origin::Workload,
        node: Some("a".into()),
        score: Some(431_250),
        victims: vec![Leaving { namespace: "shop".into(), name: "batch".into(), priority: -1 }],
        ..Placement::default()
    };
    let refused = Placement {
        namespace: "shop".into(),
        name: "web-1".into(),
        message: Some("0/1 nodes are available: 1 Insufficient cpu.".into()),
        nodes: vec![NodeAnswer { name: "a".into(), score: None, reasons: vec!["Insufficient cpu".into()] }],
        ..Placement::default()
    };
    assert_eq!(sentence(&placed), "pod shop/web-0 would go to a (score 431.2), where shop/batch would have to go");
    assert_eq!(sentence(&refused), "pod shop/web-1 gets no node: 0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(nodes_table(&refused.nodes, true), "a   no   <none>   Insufficient cpu\n");
    let status = Status { placements: vec![placed, refused], ..Status::default() };
    let table = placements_table(&status, false);
    assert_eq!(
        table,
        "NAMESPACE   NAME    NODE     SCORE    VICTIMS      REASON\n\
         shop        web-0   a        431.2    shop/batch   \n\
         shop        web-1   <none>   <none>   <none>       0/1 nodes are available: 1 Insufficient cpu.\n"
    );
}
