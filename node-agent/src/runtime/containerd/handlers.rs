//! By what else than runc the agent's own containerd can run pods: what is on the machine is offered under the name that
//! RuntimeClasses use for it.

use std::path::{Path, PathBuf};

/// A runtime that pods can be run by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handler {
    /// What a RuntimeClass calls it.
    pub name: &'static str,
    /// Which shim containerd starts for it.
    pub runtime_type: &'static str,
    /// The program that runc's shim runs in place of runc.
    pub binary: Option<PathBuf>,
}

/// runc's shim.
const RUNC_SHIM: &str = "io.containerd.runc.v2";

/// Name, program that is looked for, shim. With runc's shim the program stands in for runc; else it is the shim.
const KNOWN: [(&str, &str, &str); 6] = [
    ("crun", "crun", RUNC_SHIM),
    ("youki", "youki", RUNC_SHIM),
    ("nvidia", "nvidia-container-runtime", RUNC_SHIM),
    ("runsc", "containerd-shim-runsc-v1", "io.containerd.runsc.v1"),
    ("kata", "containerd-shim-kata-v2", "io.containerd.kata.v2"),
    ("wasmtime", "containerd-shim-wasmtime-v1", "io.containerd.wasmtime.v1"),
];

/// Those whose programs `find` finds.
pub(super) fn offered(find: impl Fn(&str) -> Option<PathBuf>) -> Vec<Handler> {
    let offer = |(name, program, runtime_type): (&'static str, &str, &'static str)| {
        let found = find(program)?;
        Some(Handler { name, runtime_type, binary: (runtime_type == RUNC_SHIM).then_some(found) })
    };
    KNOWN.into_iter().filter_map(offer).collect()
}

/// All runtimes, as containerd's configuration has them below `plugin`.
pub(super) fn render(plugin: &str, offered: &[Handler], quote: impl Fn(&Path) -> String) -> String {
    let mut text = "default_runtime_name = \"runc\"\n".to_owned();
    let runc = Handler { name: "runc", runtime_type: RUNC_SHIM, binary: None };
    for handler in std::iter::once(&runc).chain(offered) {
        let Handler { name, runtime_type, binary } = handler;
        let table = format!("{plugin}.containerd.runtimes.{name}");
        text += &format!("\n[{table}]\nruntime_type = \"{runtime_type}\"\n");
        if *runtime_type == RUNC_SHIM {
            text += &format!("\n[{table}.options]\nSystemdCgroup = false\n");
        }
        if let Some(binary) = binary {
            text += &format!("BinaryName = {}\n", quote(binary));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_machine_is_offered_beside_runc() {
        let bin = |program: &str| PathBuf::from(format!("/opt/{program}"));
        let found = offered(|program| ["crun", "containerd-shim-kata-v2"].contains(&program).then(|| bin(program)));
        assert_eq!(
            found,
            [
                Handler { name: "crun", runtime_type: RUNC_SHIM, binary: Some(bin("crun")) },
                Handler { name: "kata", runtime_type: "io.containerd.kata.v2", binary: None },
            ]
        );
        let text = render("plugins.cri", &found, |path| format!("\"{}\"", path.display()));
        assert!(text.starts_with("default_runtime_name = \"runc\"\n"));
        assert!(text.contains("[plugins.cri.containerd.runtimes.runc.options]\nSystemdCgroup = false\n\n"), "{text}");
        assert!(text.contains("runtimes.crun.options]\nSystemdCgroup = false\nBinaryName = \"/opt/crun\"\n"), "{text}");
        assert!(text.ends_with("[plugins.cri.containerd.runtimes.kata]\nruntime_type = \"io.containerd.kata.v2\"\n"));
    }
}
