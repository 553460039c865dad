//! The images that the specs run, made of Debian packages and the programs built with the suite.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::suite::Suite;
use crate::host;
use crate::images::{self, Content, Extra, Recipe};

/// Stands for every registry that the specs name.
const REGISTRY: &str = "gantry.local/e2e";

/// Where the suite is told to look for images: its file of registries, by the suite's own keys.
pub fn registries(dir: &Path) -> Result<PathBuf> {
    let keys = [
        "promoterE2eRegistry",
        "buildImageRegistry",
        "gcEtcdRegistry",
        "gcRegistry",
        "sigStorageRegistry",
        "dockerLibraryRegistry",
    ];
    let lines: String = keys.iter().map(|key| format!("{key}: {REGISTRY}\n")).collect();
    let file = dir.join("registries.yaml");
    fs::write(&file, lines)?;
    Ok(file)
}

/// Makes the images that are not there yet and returns their archives.
pub fn ensure(suite: &Suite) -> Result<Vec<PathBuf>> {
    let dir = host::work_dir().join("conformance-images");
    recipes(suite).iter().map(|recipe| images::ensure(&dir, recipe)).collect()
}

/// A shell that hands on every environment variable, also one whose name is no shell name (`data-1`).
const SHELL: Extra = Extra { path: "usr/bin/sh", content: Content::Link { target: "bash" } };
const AGNHOST_TOOLS: &[&str] = &["bash", "busybox-static", "bind9-dnsutils", "curl", "netcat-openbsd", "iproute2"];

fn named(name: &str) -> Recipe {
    Recipe { reference: format!("{REGISTRY}/{name}"), ..Recipe::default() }
}

fn program(suite: &Suite, name: &str, path: &'static str, mode: u32) -> Extra {
    Extra { path, content: Content::Copy { from: suite.dir.join(name), mode } }
}

fn recipes(suite: &Suite) -> Vec<Recipe> {
    let mut all = vec![
        Recipe {
            packages: &["bash", "busybox-static"],
            files: vec![
                SHELL,
                Extra { path: "usr/bin/sysctl", content: Content::Link { target: "busybox" } },
                Extra { path: "usr/bin/hexdump", content: Content::Link { target: "busybox" } },
            ],
            command: &["sh"],
            ..named("busybox:1.37.0-1")
        },
        Recipe {
            packages: &["bash", "busybox-static"],
            files: vec![SHELL],
            command: &["sh"],
            user: "1234",
            ..named("nonroot:1.4")
        },
        Recipe {
            packages: &["busybox-static"],
            files: vec![program(suite, "nnp", "usr/local/bin/nnp", 0o6755)],
            command: &["nnp"],
            ..named("nonewprivs:1.3")
        },
        Recipe {
            packages: &["busybox-static"],
            files: vec![program(suite, "regression-issue-74839", "regression-issue-74839", 0o755)],
            entrypoint: &["/regression-issue-74839"],
            ..named("regression-issue-74839:1.4")
        },
        Recipe {
            packages: &["bash", "busybox-static", "bind9-dnsutils"],
            files: vec![SHELL],
            command: &["sh"],
            ..named("jessie-dnsutils:1.7")
        },
        Recipe {
            packages: &["bash", "busybox-static"],
            files: vec![program(suite, "sample-apiserver", "sample-apiserver", 0o755)],
            entrypoint: &["/sample-apiserver"],
            ..named("sample-apiserver:1.29.2")
        },
        Recipe {
            packages: &["bash", "busybox-static", "etcd-server"],
            files: vec![Extra { path: "usr/local/bin/etcd", content: Content::Link { target: "/usr/bin/etcd" } }],
            command: &["etcd"],
            ..named("etcd:3.6.6-0")
        },
        // An infinite sleep is all that a pause container does.
        Recipe { packages: &["busybox-static"], entrypoint: &["/bin/sleep", "infinity"], ..named("pause:3.10.1") },
        Recipe { packages: &["bash", "busybox-static", "perl-base"], command: &["perl"], ..named("perl:5.26") },
    ];
    all.extend(["2.59", "2.55"].map(|version| agnhost(suite, &format!("agnhost:{version}"), &["pause"])));
    for name in ["kitten:1.7", "nautilus:1.7"] {
        let mut recipe = agnhost(suite, name, &["test-webserver"]);
        let picture = if name.starts_with("kitten") { "kitten.jpg" } else { "nautilus.jpg" };
        let data = if name.starts_with("kitten") {
            "{\"image\": \"kitten.jpg\"}\n"
        } else {
            "{\"image\": \"nautilus.jpg\"}\n"
        };
        recipe.files.push(Extra { path: picture, content: Content::Text("") });
        recipe.files.push(Extra { path: "data.json", content: Content::Text(data) });
        all.push(recipe);
    }
    all.extend(["1.14-4", "1.15-4"].map(|version| nginx(&format!("nginx:{version}"))));
    all
}

fn agnhost(suite: &Suite, name: &str, command: &'static [&'static str]) -> Recipe {
    Recipe {
        packages: AGNHOST_TOOLS,
        files: vec![
            SHELL,
            program(suite, "agnhost", "agnhost", 0o755),
            Extra { path: "agnhost-2", content: Content::Link { target: "agnhost" } },
            Extra { path: "uploads", content: Content::Directory(0o755) },
        ],
        accounts: (
            "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
            "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
        ),
        entrypoint: &["/agnhost"],
        command,
        ..named(name)
    }
}

fn nginx(name: &str) -> Recipe {
    const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head>\
        <body><h1>Welcome to nginx!</h1></body></html>\n";
    const CONFIG: &str = "worker_processes 1;\nerror_log /dev/stderr;\nevents { worker_connections 64; }\n\
        http { access_log /dev/stdout; server { listen 80; root /usr/share/nginx/html; } }\n";
    Recipe {
        packages: &["nginx-light", "busybox-static", "bash"],
        files: vec![
            SHELL,
            Extra { path: "usr/share/nginx/html/index.html", content: Content::Text(PAGE) },
            Extra { path: "etc/nginx/nginx.conf", content: Content::Text(CONFIG) },
        ],
        command: &["nginx", "-g", "daemon off;"],
        ..named(name)
    }
}
