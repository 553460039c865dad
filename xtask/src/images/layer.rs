//! One image layer: the files of Debian packages and their dependencies, merged.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::{Content, Recipe};
use crate::host;

/// Counts the changes of what this file does to every image: part of an archive's name.
pub const CONVENTIONS: &str = "2";

/// The busybox commands that every image gets as links.
const APPLETS: &str = "ash awk basename cat chmod chown cp cut date dd df dirname du echo env expr false find grep head \
    hostname id ip kill ln ls mkdir mkfifo mktemp mv nc printf ps pwd readlink rm rmdir sed seq sh sleep sort stat sync \
    tail tar tee test timeout touch tr true uname uniq vi wc wget which whoami xargs yes";

/// Packages that are there only for set-up scripts, which are not run: their names, or the start of them.
const SETUP_ONLY: &[&str] =
    &["adduser_", "debconf_", "dpkg_", "iproute2_", "libdb5.3_", "libpam", "libperl", "passwd_", "perl", "tar_"];

/// Files of packages that no container needs.
const LEFT_OUT: &[&str] = &[
    "usr/lib/x86_64-linux-gnu/gconv/",
    "usr/lib/aarch64-linux-gnu/gconv/",
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bash-completion/",
];

const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
    redis:x:101:101::/var/lib/redis:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUPS: &str = "root:x:0:\nwww-data:x:33:\nredis:x:101:\nnogroup:x:65534:\n";

/// Downloads the packages and all that they depend on, as for a system with nothing installed.
pub fn download(dir: &Path, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let scratch = tempfile::tempdir_in(dir)?;
    let archives = dir.join("packages").join(packages.join("+"));
    fs::create_dir_all(archives.join("partial"))?;
    let status = scratch.path().join("status");
    fs::write(&status, "")?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-q").arg("-o").arg(format!("Dir::State::status={}", status.display()));
        command.arg("-o").arg(format!("Dir::Cache::archives={}", archives.display()));
        command
            .args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "-y", "--no-install-recommends"])
            .args(args);
        host::output(&mut command)
    };
    let install: Vec<&str> = ["--download-only", "install"].into_iter().chain(packages.iter().copied()).collect();
    if apt(&install).is_err() {
        // Old package lists name versions that are gone.
        host::run(host::privileged("apt-get").args(["-q", "update"]))?;
        apt(&install)?;
    }
    let mut files: Vec<PathBuf> = fs::read_dir(&archives)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let named = name.split('_').next().is_some_and(|package| packages.contains(&package));
        name.ends_with(".deb") && (named || !SETUP_ONLY.iter().any(|start| name.starts_with(start)))
    });
    files.sort();
    Ok(files)
}

/// One file of a layer.
enum Node {
    Directory { mode: u32 },
    File { mode: u32, owner: (u64, u64), data: Vec<u8> },
    Link { target: String },
}

/// The uncompressed layer of packages' files, with the links and accounts that every image gets. The same packages give
/// the same bytes.
pub fn make(packages: &[PathBuf], image: &Recipe) -> Result<Vec<u8>> {
    let mut tree: BTreeMap<String, Node> = BTreeMap::new();
    for package in packages {
        add_package(&mut tree, package).with_context(|| format!("cannot read {}", package.display()))?;
    }
    for dir in [
        "dev",
        "etc",
        "proc",
        "root",
        "run",
        "sys",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/sbin",
        "var",
        "var/lib",
        "var/log",
        "var/log/nginx",
        "var/lib/nginx",
    ] {
        tree.entry(dir.into()).or_insert(Node::Directory { mode: 0o755 });
    }
    tree.insert("tmp".into(), Node::Directory { mode: 0o1777 });
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("var/run", "/run")]
    {
        tree.insert(link.into(), Node::Link { target: target.into() });
    }
    for applet in APPLETS.split_whitespace() {
        tree.entry(format!("usr/bin/{applet}")).or_insert(Node::Link { target: "busybox".into() });
    }
    let (users, groups) = image.accounts;
    for (path, text) in [("etc/passwd", format!("{USERS}{users}")), ("etc/group", format!("{GROUPS}{groups}"))] {
        tree.insert(path.into(), Node::File { mode: 0o644, owner: (0, 0), data: text.into() });
    }
    for extra in &image.files {
        let node = match &extra.content {
            Content::Copy { from, mode } => {
                let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                Node::File { mode: *mode, owner: (0, 0), data }
            }
            Content::Link { target } => Node::Link { target: (*target).into() },
            Content::Text(text) => Node::File { mode: 0o644, owner: (0, 0), data: (*text).into() },
            Content::Directory(mode) => Node::Directory { mode: *mode },
        };
        tree.insert(extra.path.into(), node);
    }
    write_tar(&tree)
}

/// Adds the files of a package, under `/usr` where Debian's merged layout has them.
fn add_package(tree: &mut BTreeMap<String, Node>, package: &Path) -> Result<()> {
    let mut child = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("dpkg-deb has no output")?;
    let mut archive = tar::Archive::new(stdout);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8(entry.path_bytes().into_owned())?;
        let path = merged(path.trim_start_matches("./").trim_end_matches('/'));
        if path.is_empty() || LEFT_OUT.iter().any(|prefix| format!("{path}/").starts_with(prefix)) {
            continue;
        }
        let header = entry.header();
        let mode = header.mode()? & 0o7777;
        let owner = (header.uid()?, header.gid()?);
        let target = header.link_name()?.map(|target| target.to_string_lossy().into_owned());
        let node = match header.entry_type() {
            tar::EntryType::Directory => Node::Directory { mode },
            tar::EntryType::Symlink => Node::Link { target: target.context("a link without a target")? },
            tar::EntryType::Link => {
                let target = merged(target.context("a link without a target")?.trim_start_matches("./"));
                Node::Link { target: format!("/{target}") }
            }
            _ => {
                let mut data = Vec::new();
                entry.read_to_end(&mut data)?;
                Node::File { mode, owner, data }
            }
        };
        tree.insert(path, node);
    }
    anyhow::ensure!(child.wait()?.success(), "dpkg-deb failed");
    Ok(())
}

/// Where a package's path lies when `/bin`, `/sbin` and `/lib*` are links into `/usr`.
fn merged(path: &str) -> String {
    let top = path.split('/').next().unwrap_or_default();
    if matches!(top, "bin" | "sbin" | "lib" | "lib64") { format!("usr/{path}") } else { path.to_owned() }
}

fn write_tar(tree: &BTreeMap<String, Node>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, node) in tree {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_size(0);
        match node {
            Node::Directory { mode } => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                set_owner(&mut header, (0, 0));
                builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
            }
            Node::Link { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                set_owner(&mut header, (0, 0));
                builder.append_link(&mut header, path, target)?;
            }
            Node::File { mode, owner, data } => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                set_owner(&mut header, *owner);
                header.set_size(data.len() as u64);
                builder.append_data(&mut header, path, data.as_slice())?;
            }
        }
    }
    Ok(builder.into_inner()?)
}

fn set_owner(header: &mut tar::Header, (uid, gid): (u64, u64)) {
    header.set_uid(uid);
    header.set_gid(gid);
}
