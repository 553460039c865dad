//! Asks a container something: by a command in it, an HTTP request, a connection or gRPC's health service. Hooks and probes
//! both do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::context::Context;
use crate::runtime::RuntimeError;

mod grpc;
mod http;

/// The kubelet reads no more of an answer.
const OUTPUT_MAX: usize = 10 * 1024;
/// What a probe calls itself.
const USER_AGENT: &str = "kube-probe/1.35";

/// What to ask.
#[derive(Clone, Debug)]
pub enum Question {
    /// Run this.
    Exec(ExecAction),
    /// Get this.
    Http(HTTPGetAction),
    /// Connect there.
    Tcp(TCPSocketAction),
    /// Ask the health service there.
    Grpc(GRPCAction),
}

/// What the answer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is well.
    Good,
    /// It is well, and yet somebody should look at it.
    Odd(String),
    /// It is not, or gave no answer in time.
    Bad(String),
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Target {
    /// The container's id in the runtime.
    pub container_id: String,
    /// The pod's address.
    pub ip: Option<IpAddr>,
    /// The container's spec, for ports by name.
    pub spec: Arc<Container>,
}

/// Asks. The error says why the question could not be put, which tells nothing about the container.
pub async fn ask(context: &Context, target: &Target, question: &Question, timeout: Duration) -> Result<Answer, String> {
    match question {
        Question::Exec(action) => exec(context, target, action, timeout).await,
        Question::Http(action) => http::ask(target, action, timeout).await,
        Question::Tcp(action) => tcp(target, action, timeout).await,
        Question::Grpc(action) => grpc::ask(&host(target, None)?, action, timeout).await,
    }
}

/// Lets a container know something: unlike a probe, a hook that was answered at all has done its work.
pub async fn tell(context: &Context, target: &Target, question: &Question, timeout: Duration) -> Result<(), String> {
    match question {
        Question::Http(action) => http::tell(target, action, timeout).await,
        _ => match ask(context, target, question, timeout).await? {
            Answer::Good | Answer::Odd(_) => Ok(()),
            Answer::Bad(why) => Err(why),
        },
    }
}

async fn exec(context: &Context, target: &Target, action: &ExecAction, timeout: Duration) -> Result<Answer, String> {
    let command = action.command.clone().unwrap_or_default();
    match context.runtime.exec_sync(&target.container_id, &command, timeout).await {
        Ok(output) if output.exit_code == 0 => Ok(Answer::Good),
        Ok(output) => {
            let mut bytes = output.stdout;
            bytes.extend_from_slice(&output.stderr);
            bytes.truncate(OUTPUT_MAX);
            Ok(Answer::Bad(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Err(RuntimeError::DeadlineExceeded(_)) => Ok(Answer::Bad(format!(
            "command timed out: \"{}\" timed out after {}",
            command.join(" "),
            super::backoff::go_duration(timeout)
        ))),
        Err(error) => Err(error.to_string()),
    }
}

fn port(target: &Target, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = target.spec.ports.iter().flatten();
            match ports.find(|port| port.name.as_deref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("couldn't find port: {name}"))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

fn host(target: &Target, named: Option<&str>) -> Result<String, String> {
    match (named.filter(|name| !name.is_empty()), target.ip) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, Some(IpAddr::V6(ip))) => Ok(format!("[{ip}]")),
        (None, Some(ip)) => Ok(ip.to_string()),
        (None, None) => Err("the pod has no address".into()),
    }
}

async fn tcp(target: &Target, action: &TCPSocketAction, timeout: Duration) -> Result<Answer, String> {
    let address = format!("{}:{}", host(target, action.host.as_deref())?, port(target, &action.port)?);
    Ok(match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Answer::Good,
        Ok(Err(error)) => Answer::Bad(format!("dial tcp {address}: connect: {}", plain(&error))),
        Err(_) => Answer::Bad(format!("dial tcp {address}: i/o timeout")),
    })
}

/// As Go words it.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        _ => error.to_string(),
    }
}
