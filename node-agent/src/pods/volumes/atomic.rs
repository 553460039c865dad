//! Writes a volume's files so that a reader sees either all of the old or all of the new ones.
//!
//! The files lie in a folder named after the moment; `..data` is a link to that folder, and each top-level name is a link
//! through `..data`. Swapping `..data` swaps everything at once, which is how Kubernetes does it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::payload::Payload;
use super::sys;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `dir` hold exactly `payload`, owned by `group` if there is one. Does nothing if it does already.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, now: Timestamp) -> io::Result<()> {
    if is_current(dir, payload) {
        return Ok(());
    }
    let old = std::fs::read_link(dir.join(DATA)).ok();
    let version = format!("..{}", now.strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let version_dir = dir.join(&version);
    std::fs::create_dir(&version_dir)?;
    sys::set_mode(&version_dir, 0o755)?;
    for (path, file) in payload {
        let target = version_dir.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, &file.data)?;
        // With a group the file must be readable by it, as the pod's user need not be its owner.
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        sys::set_mode(&target, mode)?;
        sys::set_group(&target, group)?;
    }
    let link = dir.join(DATA_NEW);
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sys::symlink_dir(Path::new(&version), &link)?;
    std::fs::rename(&link, dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old.filter(|old| *old != Path::new(&version)) {
        std::fs::remove_dir_all(dir.join(old))?;
    }
    Ok(())
}

fn top_level(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted = top_level(payload);
    for name in &wanted {
        let link = dir.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            sys::symlink_file(&Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            std::fs::remove_file(dir.join(name.as_ref()))?;
        }
    }
    Ok(())
}

fn is_current(dir: &Path, payload: &Payload) -> bool {
    let Ok(version) = std::fs::read_link(dir.join(DATA)) else { return false };
    let mut found = BTreeMap::new();
    if collect(&dir.join(version), "", &mut found).is_err() || found.len() != payload.len() {
        return false;
    }
    // A crash between the swap and the links leaves a name without its link.
    top_level(payload).iter().all(|name| std::fs::symlink_metadata(dir.join(name)).is_ok())
        && payload.iter().all(|(path, file)| found.get(path).is_some_and(|data| *data == file.data))
}

fn collect(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), found)?;
        } else {
            found.insert(name, std::fs::read(entry.path())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.as_bytes().to_vec(), mode: 0o644 };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    #[test]
    fn swaps_all_files_at_once_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("d/x", "2")]), None, at(1)).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(dir.path().join("d/x")).unwrap(), "2");
        let first = std::fs::read_link(dir.path().join(DATA)).unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("d/x", "2")]), None, at(2)).unwrap();
        assert_eq!(std::fs::read_link(dir.path().join(DATA)).unwrap(), first, "unchanged files are not written");
        write(dir.path(), &payload(&[("a", "9"), ("b", "3")]), None, at(3)).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "9");
        assert_eq!(std::fs::read_to_string(dir.path().join("b")).unwrap(), "3");
        assert!(!dir.path().join("d").exists());
        assert!(!dir.path().join(first).exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
