//! Shows Gantry at work: builds it, starts it on a fresh data directory and runs the example shop on it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cleanup, host, images, ledger, setup};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// End after the check instead of running until Ctrl-C
    #[arg(long)]
    once: bool,
    /// The address that the API server listens on
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: String,
}

/// Runs the demo; whatever happens, what it started is taken down at the end.
pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::For::Demo)?;
    let gantry = host::build_gantry(true)?;
    let images = images::ensure_all()?;
    // What an earlier demo left would be in the way of this one.
    if !ledger::read_all().is_empty() {
        cleanup::run()?;
    }
    let data_dir = host::work_dir().join(format!("demo-{}", std::process::id()));
    install_images(&data_dir, &images)?;
    let mut record = ledger::Record { data_dir: data_dir.clone(), ..Default::default() };
    let entry = ledger::write("demo", &record)?;
    let mut server = start(&gantry, args, &data_dir)?;
    record.pid = Some(server.id());
    record.pid_started = ledger::started(server.id());
    ledger::write("demo", &record)?;

    let shown = show(&gantry, &data_dir, &mut server)
        .and_then(|()| if args.once { Ok(()) } else { wait_for_interrupt(&mut server) });
    if shown.is_err() {
        println!("\nThe last lines of {}:", data_dir.join("gantry.log").display());
        let log = fs::read_to_string(data_dir.join("gantry.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        println!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
    }
    println!("Taking the demo down …");
    let down = cleanup::take_down(&record);
    let _ = server.wait();
    down?;
    fs::remove_file(entry)?;
    shown
}

/// Puts the images where the agent imports them at its start.
pub fn install_images(data_dir: &Path, images: &[PathBuf]) -> Result<()> {
    let folder = data_dir.join("images");
    fs::create_dir_all(&folder)?;
    for image in images {
        let name = image.file_name().context("an image archive without a name")?;
        if fs::hard_link(image, folder.join(name)).is_err() {
            fs::copy(image, folder.join(name))?;
        }
    }
    Ok(())
}

fn start(gantry: &Path, args: &Args, data_dir: &Path) -> Result<Child> {
    let log = fs::File::create(data_dir.join("gantry.log"))?;
    let mut command = host::privileged(gantry);
    command.args(["up", "--listen", &args.listen, "--data-dir"]).arg(data_dir);
    command.stdin(Stdio::null()).stderr(log).spawn().context("cannot start gantry")
}

/// Waits for the server, applies the shop, checks and prints its page, and says how to go on.
fn show(gantry: &Path, data_dir: &Path, server: &mut Child) -> Result<()> {
    let kubeconfig = data_dir.join("admin.kubeconfig");
    let client = |args: &[&str]| {
        let mut command = host::privileged(gantry);
        command.arg("--kubeconfig").arg(&kubeconfig).args(args);
        command
    };
    wait_until(Duration::from_secs(60), "the server to be ready", || {
        if let Some(status) = server.try_wait()? {
            bail!("gantry ended: {status}");
        }
        Ok((kubeconfig.exists()
            && host::output(&mut client(&["get", "nodes", "-o", "name"])).is_ok_and(|nodes| !nodes.is_empty()))
        .then_some(()))
    })?;
    let shop = host::root().join("examples").join("shop");
    println!("\n$ gantry apply -f examples/shop --wait");
    host::run(client(&["apply", "--wait", "--timeout", "180s", "-f"]).arg(&shop))?;
    println!("\n$ gantry get pods -n shop -o wide");
    host::run(&mut client(&["get", "pods", "-n", "shop", "-o", "wide"]))?;

    let jsonpath = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
    let pods = String::from_utf8(host::output(&mut client(&[
        "get",
        "pods",
        "-n",
        "shop",
        "-l",
        "app=front",
        "-o",
        jsonpath,
    ]))?)?;
    let pods: Vec<(&str, &str)> = pods.lines().filter_map(|line| line.split_once(' ')).collect();
    anyhow::ensure!(pods.len() == 3, "the shop has {} front pods instead of 3", pods.len());
    let mut last = String::new();
    for (name, ip) in &pods {
        last = wait_until(Duration::from_secs(20), "the page", || {
            Ok(fetch(ip, 8080).ok().filter(|page| page.contains(name)))
        })
        .with_context(|| format!("pod {name} at {ip} does not serve the shop's page"))?;
        anyhow::ensure!(last.contains("Kettle"), "the page of pod {name} lacks the catalogue:\n{last}");
        println!("{name} at {ip} serves the page");
    }
    println!("\n{}\n", last.trim_end());
    println!("Go on with kubectl:\n  export KUBECONFIG={}\n  kubectl get all -n shop", kubeconfig.display());
    println!(
        "  kubectl scale deployment/front -n shop --replicas=5\n  kubectl logs -f deployment/front -n shop -c nginx"
    );
    Ok(())
}

/// The body of `GET /` over plain HTTP.
fn fetch(host: &str, port: u16) -> Result<String> {
    let address = format!("{host}:{port}").parse()?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    anyhow::ensure!(head.contains(" 200 "), "{}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

fn wait_until<T>(patience: Duration, what: &str, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Returns when the server has ended, as it does at Ctrl-C: it shares the terminal. This process outlives it to take the
/// rest down.
fn wait_for_interrupt(server: &mut Child) -> Result<()> {
    println!("\nGantry goes on running; Ctrl-C ends it.");
    // A child that ignores SIGINT would hand that on to what it starts; a handler of our own does not.
    let _signals = interrupts()?;
    let status = server.wait()?;
    anyhow::ensure!(status.success(), "gantry ended: {status}");
    Ok(())
}

/// Returns at Ctrl-C or SIGTERM.
pub fn until_interrupted() -> Result<()> {
    interrupts()?.forever().next();
    Ok(())
}

fn interrupts() -> Result<signal_hook::iterator::Signals> {
    Ok(signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])?)
}
