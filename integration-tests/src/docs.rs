//! The commands that a page of `docs/` tells its reader to type, so that a test types them.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder in the workspace").to_path_buf()
}

/// The shell commands of a page, by section.
pub struct Page {
    name: String,
    blocks: Vec<(String, String)>,
}

impl Page {
    /// Reads `docs/NAME`.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(root().join("docs").join(name)).expect("the page is there");
        // A block is (is it commands, its text).
        let (mut section, mut block, mut blocks) = (String::new(), None::<(bool, String)>, Vec::new());
        for line in text.lines() {
            match &mut block {
                Some((is_shell, text)) if line == "```" => {
                    if *is_shell {
                        blocks.push((section.clone(), std::mem::take(text)));
                    }
                    block = None;
                }
                Some((_, text)) => {
                    text.push_str(line);
                    text.push('\n');
                }
                None if line.starts_with("```") => block = Some((line == "```sh", String::new())),
                None => {
                    if let Some(title) = line.strip_prefix('#') {
                        section = title.trim_start_matches('#').trim().to_owned();
                    }
                }
            }
        }
        Self { name: name.to_owned(), blocks }
    }

    /// The commands of a section, in the order in which they stand there.
    ///
    /// # Panics
    /// When the section has none.
    #[track_caller]
    pub fn section(&self, title: &str) -> Vec<&str> {
        let found: Vec<&str> =
            self.blocks.iter().filter(|(section, _)| section == title).map(|(_, text)| text.as_str()).collect();
        assert!(!found.is_empty(), "{} has no commands in a section {title:?}", self.name);
        found
    }

    /// The sections that have commands, each once.
    pub fn sections(&self) -> Vec<&str> {
        let mut titles: Vec<&str> = self.blocks.iter().map(|(section, _)| section.as_str()).collect();
        titles.dedup();
        titles
    }
}
