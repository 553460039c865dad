//! A socket by which the machine's administrator speaks to the agent: one question a connection, answered in lines, of which
//! the last is `done`.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Ask, lines};

/// Longest question.
const QUESTION_MAX: u64 = 64;
/// How long somebody may take to ask it.
const QUESTION_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(5);
const BEGIN: &str = "shutdown";
const CANCEL: &str = "cancel";
const DONE: &str = "done";

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is none.
    #[error("no node agent of this data directory runs here ({0})")]
    NoAgent(PathBuf, #[source] io::Error),
    /// The connection broke.
    #[error("the node agent did not answer")]
    Broken(#[source] io::Error),
    /// It ended first.
    #[error("the node agent ended before it was done")]
    Ended,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("control").join("agent.sock")
}

/// Answers until it is dropped.
pub(super) async fn serve(run_dir: &Path, asks: mpsc::Sender<Ask>) {
    let listener = match listen(run_dir) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "nobody can ask for a shutdown of this node");
            return std::future::pending().await;
        }
    };
    loop {
        match listener.accept().await {
            // One at a time: who asks next is answered when the one before has been.
            Ok((stream, _)) => {
                if let Err(error) = answer(stream, &asks).await {
                    warn!(%error, "cannot answer who asked for a shutdown");
                }
            }
            Err(error) => {
                warn!(%error, "cannot take a connection");
                tokio::time::sleep(super::POLL).await;
            }
        }
    }
}

fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::DirBuilderExt;
    let path = path(run_dir);
    if let Some(folder) = path.parent() {
        // Only who owns the folder comes at the socket.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(&path)
}

async fn answer(stream: UnixStream, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut question = String::new();
    let limited = tokio::io::AsyncReadExt::take(reader, QUESTION_MAX);
    let mut reader = BufReader::new(limited);
    let read = tokio::time::timeout(QUESTION_TIME_MAX, reader.read_line(&mut question));
    if read.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
        // Somebody only wanted to know whether there is an agent.
        return Ok(());
    }
    let (sender, mut receiver) = lines();
    let ask = match question.trim() {
        BEGIN => Ask::Begin(sender),
        CANCEL => Ask::Cancel(sender),
        other => return writer.write_all(format!("`{other}` is not understood\n").as_bytes()).await,
    };
    if asks.send(ask).await.is_err() {
        return Ok(());
    }
    while let Some(line) = receiver.recv().await {
        writer.write_all(format!("{line}\n").as_bytes()).await?;
    }
    writer.write_all(format!("{DONE}\n").as_bytes()).await
}

/// Whether an agent answers.
pub async fn is_there(run_dir: &Path) -> io::Result<()> {
    UnixStream::connect(path(run_dir)).await.map(drop)
}

/// Asks the agent of a data directory to let its pods end, or with `cancel`, to go on after all. Returns when it has.
pub async fn ask(run_dir: &Path, cancel: bool, mut show: impl FnMut(&str)) -> Result<(), AskError> {
    let path = path(run_dir);
    let stream = UnixStream::connect(&path).await.map_err(|error| AskError::NoAgent(path, error))?;
    let (reader, mut writer) = stream.into_split();
    let question = if cancel { CANCEL } else { BEGIN };
    writer.write_all(format!("{question}\n").as_bytes()).await.map_err(AskError::Broken)?;
    let mut answer = BufReader::new(reader).lines();
    while let Some(line) = answer.next_line().await.map_err(AskError::Broken)? {
        if line == DONE {
            return Ok(());
        }
        show(&line);
    }
    Err(AskError::Ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_is_told_how_far_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (asks, mut asked) = mpsc::channel(1);
        let run_dir = dir.path().to_owned();
        let server = tokio::spawn(async move { serve(&run_dir, asks).await });
        let node = tokio::spawn(async move {
            let Some(Ask::Begin(lines)) = asked.recv().await else { panic!("a shutdown is asked for") };
            lines.send("ns/p has ended".to_owned()).await.unwrap();
            drop(lines);
            asked
        });
        let mut shown = Vec::new();
        while !path(dir.path()).exists() {
            tokio::task::yield_now().await;
        }
        ask(dir.path(), false, |line| shown.push(line.to_owned())).await.unwrap();
        assert_eq!(shown, ["ns/p has ended"]);
        // An agent that ends in between has not said that it is done.
        let mut asked = node.await.unwrap();
        let dies = tokio::spawn(async move {
            let ask = asked.recv().await;
            server.abort();
            drop(ask);
        });
        assert!(matches!(ask(dir.path(), true, |_| {}).await, Err(AskError::Ended) | Ok(())));
        dies.await.unwrap();
        let nobody = tempfile::tempdir().unwrap();
        assert!(matches!(ask(nobody.path(), false, |_| {}).await, Err(AskError::NoAgent(..))));
    }
}
