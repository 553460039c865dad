//! `gantry exec`: runs a command in a container, with this terminal as the command's own when asked to.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::NamespaceFlag;
use super::output::name;
use super::session::Session;

/// `gantry exec`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A pod, or `TYPE/NAME` of something that has pods
    #[arg(value_name = "POD")]
    target: String,
    #[command(flatten)]
    namespace: NamespaceFlag,
    /// The container
    #[arg(long, short = 'c', value_name = "NAME")]
    container: Option<String>,
    /// Hand standard input on
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Give the command a terminal
    #[arg(long, short = 't')]
    tty: bool,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the command; its exit code becomes this one's.
pub async fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    use std::io::IsTerminal;
    let namespace = session.namespace(&args.namespace);
    let pod = session.pod_of(&args.target, &namespace).await?;
    let interactive = args.tty && args.stdin && std::io::stdin().is_terminal();
    if args.tty && args.stdin && !interactive {
        tell!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let params = AttachParams {
        container: args.container.clone(),
        stdin: args.stdin,
        stdout: true,
        stderr: !interactive,
        tty: interactive,
        ..Default::default()
    };
    let pods: Api<Pod> = Api::namespaced(session.client.clone(), &namespace);
    let mut process = pods.exec(name(&pod), args.command.clone(), &params).await?;
    let status = process.take_status().context("the server sent no status")?;

    let _raw = if interactive { Some(terminal::Raw::enter()?) } else { None };
    let mut outputs = Vec::new();
    if let Some(mut stdout) = process.stdout() {
        outputs
            .push(tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::stdout()).await.map(drop) }));
    }
    if let Some(mut stderr) = process.stderr() {
        outputs
            .push(tokio::spawn(async move { tokio::io::copy(&mut stderr, &mut tokio::io::stderr()).await.map(drop) }));
    }
    if interactive && let Some(sizes) = process.terminal_size() {
        tokio::spawn(terminal::send_sizes(sizes));
    }
    // Not waited for: the command may end without having read its input.
    if let Some(mut stdin) = process.stdin() {
        let mut input = read_input();
        tokio::spawn(async move {
            while let Some(bytes) = input.recv().await {
                if stdin.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            let _ = stdin.shutdown().await;
        });
    }
    for output in outputs {
        output.await.context("reading the output failed")??;
    }
    let status = status.await;
    drop(_raw);
    exit_code(status)
}

/// Standard input, chunk by chunk. It is read on a thread of its own that nothing waits for: a read that blocks in the
/// executor's pool would keep the process alive after the command has ended.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    // Chunks of 16 KiB: a few in flight keep the connection busy, and a slow command slows the reading.
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    if sender.blocking_send(buffer[..read].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

fn exit_code(status: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>) -> Result<ExitCode> {
    let Some(status) = status else { bail!("the connection ended before the command did") };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let message = status.message.unwrap_or_default();
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes
        .iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_deref()?.parse::<i32>().ok());
    match code {
        Some(code) => {
            tell!("command terminated with exit code {code}");
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        None => bail!("{message}"),
    }
}

#[cfg(unix)]
mod terminal {
    //! The terminal handed to the remote command: no line editing or echo here, and its size told whenever it changes.

    use anyhow::Result;
    use futures::SinkExt;
    use futures::channel::mpsc::Sender;
    use kube::api::TerminalSize;
    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

    /// The terminal in raw mode until dropped.
    pub struct Raw(Termios);

    impl Raw {
        pub fn enter() -> Result<Self> {
            let before = tcgetattr(std::io::stdin())?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
            Ok(Self(before))
        }
    }

    impl Drop for Raw {
        fn drop(&mut self) {
            // A terminal that is gone needs no restoring.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
        }
    }

    /// Sends the size now and after every change until the command ends.
    pub async fn send_sizes(mut sizes: Sender<TerminalSize>) {
        let Ok(mut changes) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change()) else {
            return;
        };
        loop {
            if let Ok(size) = tcgetwinsize(std::io::stdin())
                && sizes.send(TerminalSize { height: size.ws_row, width: size.ws_col }).await.is_err()
            {
                return;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    }
}

#[cfg(not(unix))]
mod terminal {
    //! Terminals of other systems are not taken over; `-t` is refused there.

    use anyhow::{Result, bail};
    use futures::channel::mpsc::Sender;
    use kube::api::TerminalSize;

    pub struct Raw;

    impl Raw {
        pub fn enter() -> Result<Self> {
            bail!("-t is not supported on this system; leave it out")
        }
    }

    pub async fn send_sizes(_sizes: Sender<TerminalSize>) {}
}
