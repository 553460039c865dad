//! Connecting to etcd. In: endpoints, files with certificates and a password. Out: a client, or which endpoint has what
//! trouble.

use std::path::Path;
use std::time::Duration;

use etcd_client::{Certificate, Channel, Client, ConnectOptions, Error as ClientError, Identity, TlsOptions};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::fault::Fault;
use crate::{Error, EtcdLogin, EtcdOptions, EtcdTls, Source};

/// Pings that find out that a connection is dead; etcd refuses more than one in 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Connects to a cluster of which at least one member answers: the client, and that member's version.
pub(super) async fn connect(endpoints: &[String], options: &EtcdOptions) -> Result<(Client, String), Error> {
    let tls = match &options.tls {
        Some(tls) => Some(tls_options(tls).await?),
        None => None,
    };
    let mut connect_options = ConnectOptions::new()
        .with_connect_timeout(options.request_timeout)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Some(login) = &options.login {
        // Tokens end: with their time, and with the member that gave them.
        connect_options = connect_options.with_user(&login.user, password(login).await?).with_auto_token_refresh(true);
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let addresses: Vec<String> = endpoints
        .iter()
        .map(|endpoint| {
            format!("{scheme}://{}", endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host))
        })
        .collect();
    let balanced = match &tls {
        Some(tls) => connect_options.clone().with_tls(tls.clone()),
        None => connect_options.clone(),
    };
    let first_answer = async {
        let client = Client::connect(&addresses, Some(balanced)).await?;
        let version = client.maintenance_client().status().await?.version().to_owned();
        Ok::<_, ClientError>((client, version))
    };
    let failed: Source = match timeout(options.request_timeout, first_answer).await {
        Ok(Ok(connected)) => return Ok(connected),
        Ok(Err(error)) => match Fault::from(error) {
            Fault::Lost(source) | Fault::Busy(source) => source,
            fault => return Err(fault.of_read()),
        },
        Err(elapsed) => elapsed.into(),
    };
    let trouble = diagnose(&addresses, tls, connect_options, options.request_timeout).await;
    Err(match trouble {
        // etcd closes the connection, and not every time is its reason still read.
        Some(Error::Unavailable(source)) if options.tls.as_ref().is_some_and(|tls| tls.client.is_none()) => {
            Error::Unavailable(format!("{source} (no client certificate is set; etcd may ask for one)").into())
        }
        Some(error) => error,
        None => Error::Unavailable(failed),
    })
}

/// Asks each endpoint on its own what its trouble is, which the balanced connection does not tell. None if there is
/// no trouble any more.
async fn diagnose(
    addresses: &[String],
    tls: Option<TlsOptions>,
    options: ConnectOptions,
    time: Duration,
) -> Option<Error> {
    let probes = addresses.iter().map(|address| {
        let (tls, options) = (tls.clone(), options.clone());
        async move {
            let answer = timeout(time, probe(address, tls, options)).await;
            let fault = match answer {
                Ok(Ok(())) => return None,
                Ok(Err(fault)) => fault,
                Err(_) => Fault::Lost("no answer in time".into()),
            };
            Some((address, fault.of_read()))
        }
    });
    let troubles: Vec<_> = futures::future::join_all(probes).await.into_iter().flatten().collect();
    let mut texts = Vec::new();
    for (address, error) in troubles {
        match error {
            Error::Unavailable(source) => texts.push(format!("{address}: {}", chain(&*source))),
            other => return Some(other),
        }
    }
    (!texts.is_empty()).then(|| Error::Unavailable(texts.join("; ").into()))
}

/// Connects to one endpoint and asks it something.
async fn probe(address: &str, tls: Option<TlsOptions>, options: ConnectOptions) -> Result<(), Fault> {
    let lost = |error: tonic::transport::Error| Fault::Lost(error.into());
    let mut endpoint = Endpoint::from_shared(address.to_owned()).map_err(lost)?;
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).map_err(lost)?;
    }
    let channel = endpoint.connect().await.map_err(lost)?;
    let client = Client::from_channel(Channel::Tonic(channel), Some(options)).await?;
    client.maintenance_client().status().await?;
    Ok(())
}

/// An error and its causes in one line; a cause that says no more than the one before is left out.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

async fn tls_options(tls: &EtcdTls) -> Result<TlsOptions, Error> {
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca_file).await?));
    if let Some((certificate, key)) = &tls.client {
        options = options.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
    }
    Ok(options)
}

async fn password(login: &EtcdLogin) -> Result<String, Error> {
    let bytes = read(&login.password_file).await?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::invalid(format!("the password in {} is not UTF-8 text", login.password_file.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(|source| Error::Io { what: "cannot read", path: path.to_owned(), source })
}
