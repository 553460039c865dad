//! A registry of images for tests: it hands out what lies in a folder in the OCI image layout, under any name, to whoever knows the
//! password if there is one. `registry ADDRESS FOLDER [BASE64 OF USER:PASSWORD]`
#![allow(clippy::print_stdout, reason = "it writes down what it was asked")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// What it hands out, and to whom.
#[derive(Clone)]
struct Registry {
    layout: PathBuf,
    password: Option<String>,
}

/// An answer: the status, headers, and a body.
type Answer = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(layout)) = (arguments.next(), arguments.next()) else {
        return Err(std::io::Error::other("registry ADDRESS FOLDER [BASE64 OF USER:PASSWORD]"));
    };
    let registry = Registry { layout: layout.into(), password: arguments.next() };
    for stream in TcpListener::bind(address)?.incoming() {
        let (registry, stream) = (registry.clone(), stream?);
        // Who goes away in the midst of an answer does not want it.
        std::thread::spawn(move || _ = registry.serve(stream));
    }
    Ok(())
}

impl Registry {
    /// Answers one request; the next one comes by another connection.
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut authorization = None;
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            if name.eq_ignore_ascii_case("authorization") {
                authorization = value.strip_prefix("Basic ").map(str::to_owned);
            }
        }
        let (status, headers, body) = match self.password.is_none() || self.password == authorization {
            true => self.answer(path),
            false => ("401 Unauthorized", vec![("WWW-Authenticate", "Basic realm=\"images\"".to_owned())], Vec::new()),
        };
        println!("{method} {path}: {status}");
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
        for (name, value) in headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        stream.write_all(b"\r\n")?;
        if method == "GET" { stream.write_all(&body) } else { Ok(()) }
    }

    fn answer(&self, path: &str) -> Answer {
        let path = path.split('?').next().unwrap_or_default();
        let missing = || ("404 Not Found", Vec::new(), Vec::new());
        if let Some((_, digest)) = path.rsplit_once("/blobs/") {
            let body = self.blob(digest);
            let kind = ("Content-Type", "application/octet-stream".to_owned());
            return body.map_or_else(missing, |body| ("200 OK", vec![kind], body));
        }
        let Some((_, reference)) = path.rsplit_once("/manifests/") else { return ("200 OK", Vec::new(), Vec::new()) };
        let index = std::fs::read(self.layout.join("index.json")).unwrap_or_default();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
        // There is one image, whatever it is called.
        let found = &index["manifests"][0];
        let (Some(digest), Some(kind)) = (found["digest"].as_str(), found["mediaType"].as_str()) else {
            return missing();
        };
        if reference.contains(':') && reference != digest || reference == "none" {
            return missing();
        }
        let headers = vec![("Content-Type", kind.to_owned()), ("Docker-Content-Digest", digest.to_owned())];
        self.blob(digest).map_or_else(missing, |body| ("200 OK", headers, body))
    }

    fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let name = digest.strip_prefix("sha256:").filter(|name| name.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        std::fs::read(Path::new(&self.layout).join("blobs/sha256").join(name)).ok()
    }
}
