//! `gantry get`: the server's own columns, or the objects themselves.

use std::process::ExitCode;

use anyhow::{Result, bail};
use futures::TryStreamExt;
use http::Method;
use serde_json::Value;

use super::output::{self, Format};
use super::session::{JSON, Resource, Session};
use super::{NamespaceFlag, apply, manifests};

/// Asks for columns, and takes objects from a server that has none.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// `gantry get`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// `TYPE[,TYPE…] [NAME…]` or `TYPE/NAME…`
    #[arg(value_name = "RESOURCE")]
    words: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceFlag,
    #[command(flatten)]
    manifests: manifests::Flags,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects with these labels, for example `app=web,tier!=test`
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects with these fields, for example `status.phase=Running`
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// Go on showing changes
    #[arg(long, short = 'w')]
    watch: bool,
    /// wide, yaml, json, name or jsonpath=TEMPLATE
    #[arg(long, short = 'o', default_value = "", hide_default_value = true, value_name = "FORMAT")]
    output: Format,
    /// No line of column names
    #[arg(long)]
    no_headers: bool,
    /// An object that is not there is no error
    #[arg(long)]
    ignore_not_found: bool,
}

/// The rows collected for one resource, under their header.
type Printed<'a> = (&'a Resource, Vec<String>, Vec<Vec<String>>);

/// What is asked for of one resource: all that selectors choose, or one object.
struct Query {
    resource: Resource,
    name: Option<String>,
    namespace: Option<String>,
}

/// Shows what was asked for.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let queries = queries(session, args).await?;
    if args.watch {
        return watch(session, args, &queries).await;
    }
    if matches!(args.output, Format::Table | Format::Wide) {
        tables(session, args, &queries).await
    } else {
        objects(session, args, &queries).await
    }
}

async fn queries(session: &Session, args: &Args) -> Result<Vec<Query>> {
    let scope =
        |resource: &Resource| (resource.namespaced && !args.all_namespaces).then(|| session.namespace(&args.namespace));
    let query = |resource: Resource, name: Option<String>| Query { namespace: scope(&resource), resource, name };
    let mut queries = Vec::new();
    for object in args.manifests.objects()? {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let resource = session.resource_of(text("apiVersion"), text("kind")).await?;
        let own = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let mut one = query(resource, Some(output::name(&object).to_owned()));
        one.namespace = one.namespace.map(|default| own.unwrap_or(default));
        queries.push(one);
    }
    let Some(first) = args.words.first() else {
        if queries.is_empty() {
            bail!("you must specify the type of resource to get, for example `gantry get pods`");
        }
        return Ok(queries);
    };
    if first.contains('/') {
        for word in &args.words {
            let Some((kind, name)) = word.split_once('/') else {
                bail!(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form"
                );
            };
            queries.push(query(session.resource(kind).await?, Some(name.to_owned())));
        }
    } else {
        let mut resources = Vec::new();
        for word in first.split(',') {
            let members = session.category(word).await?;
            if members.is_empty() { resources.push(session.resource(word).await?) } else { resources.extend(members) }
        }
        let names = &args.words[1..];
        if args.all_namespaces && !names.is_empty() {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        for resource in resources {
            if names.is_empty() {
                queries.push(query(resource, None));
            } else {
                queries.extend(names.iter().map(|name| query(resource.clone(), Some(name.clone()))));
            }
        }
    }
    Ok(queries)
}

impl Args {
    fn selectors(&self) -> Vec<(&str, &str)> {
        let labels = self.selector.as_deref().map(|selector| ("labelSelector", selector));
        let fields = self.field_selector.as_deref().map(|selector| ("fieldSelector", selector));
        labels.into_iter().chain(fields).collect()
    }
}

async fn fetch(session: &Session, args: &Args, query: &Query, accept: &str) -> Result<Option<Value>> {
    let collection = query.resource.path(query.namespace.as_deref());
    let answer = match &query.name {
        Some(name) => session.request_as(Method::GET, &format!("{collection}/{name}"), &[], None, accept).await,
        None => session.request_as(Method::GET, &collection, &args.selectors(), None, accept).await,
    };
    match answer {
        Err(error) if args.ignore_not_found && apply::is_not_found(&error) => Ok(None),
        answer => answer.map(Some),
    }
}

async fn tables(session: &Session, args: &Args, queries: &[Query]) -> Result<ExitCode> {
    let several = queries.windows(2).any(|pair| pair[0].resource != pair[1].resource);
    let wide = args.output == Format::Wide;
    let mut code = ExitCode::SUCCESS;
    let mut found = false;
    let mut printed: Option<Printed<'_>> = None;
    for query in queries {
        let table = match fetch(session, args, query, TABLE).await {
            Ok(Some(table)) => table,
            Ok(None) => continue,
            Err(error) => match super::server_error(&error) {
                // With several names, the others are still shown.
                Some(text) if queries.len() > 1 => {
                    tell!("{text}");
                    code = ExitCode::FAILURE;
                    continue;
                }
                _ => return Err(error),
            },
        };
        let prefix = several.then(|| query.resource.display());
        let (header, rows) =
            output::table_rows(&table, wide, args.all_namespaces && query.resource.namespaced, prefix.as_deref());
        if rows.is_empty() {
            continue;
        }
        match &mut printed {
            Some((resource, _, all)) if **resource == query.resource => all.extend(rows),
            _ => {
                if let Some((_, header, rows)) = printed.take() {
                    print_table(session, args, header, rows)?;
                    session.out.line("")?;
                }
                printed = Some((&query.resource, header, rows));
            }
        }
        found = true;
    }
    if let Some((_, header, rows)) = printed {
        print_table(session, args, header, rows)?;
    }
    if !found && queries.iter().all(|query| query.name.is_none()) {
        match queries.first().and_then(|query| query.namespace.as_deref()) {
            Some(namespace) => tell!("No resources found in {namespace} namespace."),
            None => tell!("No resources found"),
        }
    }
    Ok(code)
}

fn print_table(session: &Session, args: &Args, header: Vec<String>, mut rows: Vec<Vec<String>>) -> Result<()> {
    if !args.no_headers {
        rows.insert(0, header);
    }
    session.out.text(&output::columns(&rows))
}

async fn objects(session: &Session, args: &Args, queries: &[Query]) -> Result<ExitCode> {
    let mut found = Vec::new();
    let mut displays = Vec::new();
    for query in queries {
        let Some(mut answer) = fetch(session, args, query, JSON).await? else { continue };
        let items = match (&query.name, answer.get_mut("items").map(Value::take)) {
            (None, Some(Value::Array(items))) => items,
            (None, _) => Vec::new(),
            _ => vec![answer],
        };
        for mut item in items {
            item["apiVersion"] = query.resource.api_version().into();
            item["kind"] = query.resource.kind.clone().into();
            displays.push((query.resource.kind.clone(), query.resource.display()));
            found.push(item);
        }
    }
    let single = queries.len() == 1 && queries[0].name.is_some();
    if single && found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let display = |object: &Value| {
        let kind = object["kind"].as_str().unwrap_or_default();
        displays.iter().find(|(known, _)| known == kind).map(|(_, display)| display.clone()).unwrap_or_default()
    };
    session.out.text(&output::objects(&args.output, found, single, display)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows what is there, then changes as they come.
async fn watch(session: &Session, args: &Args, queries: &[Query]) -> Result<ExitCode> {
    let [query] = queries else { bail!("you may only specify a single resource type to watch") };
    let is_table = matches!(args.output, Format::Table | Format::Wide);
    let accept = if is_table { TABLE } else { JSON };
    let mut printer = WatchPrinter { session, args, query, widths: Vec::new() };
    let Some(present) = fetch(session, args, query, accept).await? else { return Ok(ExitCode::SUCCESS) };
    let version = present["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    match (present["items"].as_array(), is_table) {
        (Some(items), false) => items.iter().try_for_each(|item| printer.print(item))?,
        _ => printer.print(&present)?,
    }

    let selector = query.name.as_ref().map(|name| format!("metadata.name={name}"));
    let mut parameters = args.selectors();
    parameters.push(("resourceVersion", &version));
    parameters.extend(selector.as_deref().map(|selector| ("fieldSelector", selector)));
    let events = session.watch(&query.resource, query.namespace.as_deref(), &parameters, accept).await?;
    let mut events = Box::pin(events);
    while let Some(event) = events.try_next().await? {
        match event["type"].as_str() {
            Some("ERROR") => bail!("{}", event["object"]["message"].as_str().unwrap_or("the watch failed")),
            Some("BOOKMARK") => {}
            _ => printer.print(&event["object"])?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct WatchPrinter<'a> {
    session: &'a Session,
    args: &'a Args,
    query: &'a Query,
    /// Widths of the columns. They only ever grow, so that lines printed later stand below earlier ones.
    widths: Vec<usize>,
}

impl WatchPrinter<'_> {
    fn print(&mut self, object: &Value) -> Result<()> {
        if !matches!(self.args.output, Format::Table | Format::Wide) {
            let mut object = object.clone();
            object["apiVersion"] = self.query.resource.api_version().into();
            object["kind"] = self.query.resource.kind.clone().into();
            let display = |_: &Value| self.query.resource.display();
            return self.session.out.text(&output::objects(&self.args.output, vec![object], true, display)?);
        }
        let namespace = self.args.all_namespaces && self.query.resource.namespaced;
        let (header, mut rows) = output::table_rows(object, self.args.output == Format::Wide, namespace, None);
        if self.widths.is_empty() && !rows.is_empty() && !self.args.no_headers {
            rows.insert(0, header);
        }
        for row in &rows {
            self.widths.resize(row.len().max(self.widths.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &mut rows {
            let last = row.len().saturating_sub(1);
            for (cell, width) in row.iter_mut().zip(&self.widths).take(last) {
                *cell = format!("{cell:width$}");
            }
            self.session.out.line(row.join("   "))?;
        }
        Ok(())
    }
}
