//! The files of the checkpoint: written so that each is there whole or not at all, whenever the power fails.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::plan::{Change, Key, Kind};
use crate::durable::{create, sync_folder};

/// Where files lie until they are whole.
const UNFINISHED: &str = ".tmp";

/// Where something is kept.
pub fn path(root: &Path, key: &Key) -> PathBuf {
    root.join(key.kind.folder()).join(&key.namespace).join(&key.name)
}

/// Makes the folder, for nobody but the agent's user to read, and clears what was not finished.
pub fn prepare(root: &Path) -> io::Result<()> {
    make_folder(root)?;
    restrict(root)?;
    let unfinished = root.join(UNFINISHED);
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make_folder(&unfinished)
}

/// Everything that is kept.
pub fn scan(root: &Path) -> io::Result<Vec<(Key, Vec<u8>)>> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        for namespace in names(&root.join(kind.folder()))? {
            let folder = root.join(kind.folder()).join(&namespace);
            for name in names(&folder)? {
                let bytes = fs::read(folder.join(&name))?;
                found.push((Key::of(kind, &namespace, &name), bytes));
            }
        }
    }
    Ok(found)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Makes the changes. First everything is written beside, then all of it is seen to be on the disk (the first of these takes
/// nearly all the time of it), then each takes its place.
pub fn write(root: &Path, changes: &[Change]) -> io::Result<()> {
    let mut touched = BTreeSet::new();
    let mut written = Vec::new();
    for (index, (key, change)) in changes.iter().enumerate() {
        let Some(bytes) = change else { continue };
        let beside = root.join(UNFINISHED).join(index.to_string());
        let mut file = create(&beside)?;
        file.write_all(bytes)?;
        written.push((key, beside, file));
    }
    for (_, _, file) in &written {
        file.sync_all()?;
    }
    for (key, beside, _) in &written {
        let target = path(root, key);
        if let Some(folder) = target.parent()
            && touched.insert(folder.to_owned())
            && !folder.exists()
        {
            make_folder(folder)?;
            touched.extend(folder.parent().map(Path::to_owned));
            touched.insert(root.to_owned());
        }
        fs::rename(beside, &target)?;
    }
    for (key, _) in changes.iter().filter(|(_, change)| change.is_none()) {
        match fs::remove_file(path(root, key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => touched.extend(path(root, key).parent().map(Path::to_owned)),
        }
    }
    for folder in touched {
        sync_folder(&folder)?;
    }
    Ok(())
}

#[cfg(unix)]
fn make_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

#[cfg(unix)]
fn restrict(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn restrict(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("checkpoint");
        prepare(&root).unwrap();
        let (pod, secret) = (Key::cluster(Kind::Pod, "u"), Key::of(Kind::Secret, "ns", &"s".repeat(253)));
        write(&root, &[(secret.clone(), Some(b"one".to_vec())), (pod.clone(), Some(b"pod".to_vec()))]).unwrap();
        write(&root, &[(secret.clone(), Some(b"two".to_vec())), (pod.clone(), None)]).unwrap();
        // One that was not finished, as after a power cut.
        std::fs::write(root.join(UNFINISHED).join("0"), "half").unwrap();
        prepare(&root).unwrap();
        assert_eq!(scan(&root).unwrap(), [(secret.clone(), b"two".to_vec())]);
        assert!(!root.join(UNFINISHED).join("0").exists());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&root), mode(&path(&root, &secret))), (0o700, 0o600));
        }
        // Removing what is not there is no failure: an agent that was killed in between does it again.
        write(&root, &[(pod, None)]).unwrap();
    }
}
