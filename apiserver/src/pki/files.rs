//! The files that certificates and keys are kept in. In: text and who may read it. Out: files that are replaced in one
//! step and, where secret, never readable by others.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use super::PkiError;

/// The permissions of keys and kubeconfigs.
pub(super) const SECRET: u32 = 0o600;
/// The permissions of certificates.
pub(super) const PUBLIC: u32 = 0o644;

/// Makes a directory for its owner only; takes others' access away from one that is there.
pub(super) fn make_dir(dir: &Path) -> Result<(), PkiError> {
    let failed = |source| PkiError::Io { what: "cannot create", path: dir.to_owned(), source };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(failed)?;
    restrict(dir, 0o700)
}

/// A file's text; none if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Io { what: "cannot read", path: path.to_owned(), source }),
    }
}

/// The same for a secret, from which it takes others' access away if they have any.
pub(super) fn read_secret(path: &Path) -> Result<Option<String>, PkiError> {
    let text = read(path)?;
    if text.is_some() {
        restrict(path, SECRET)?;
    }
    Ok(text)
}

/// Writes a file in one step: a reader, or a crash, finds the old text or the new one.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::Io { what: "cannot write", path: path.to_owned(), source };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let draft = path.with_file_name(name);
    // What a crash left behind.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    write_draft(&draft, text, mode).and_then(|()| fs::rename(&draft, path)).map_err(failed)?;
    sync_dir(path).map_err(failed)
}

fn write_draft(draft: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes the new name last; Windows does so by itself.
fn sync_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix)
        && let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty())
    {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(unix)]
fn restrict(path: &Path, mode: u32) -> Result<(), PkiError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| PkiError::Io { what: "cannot restrict", path: path.to_owned(), source };
    let now = fs::metadata(path).map_err(failed)?.permissions().mode();
    if now & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others could read this; they no longer can");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

/// On Windows a file's access list comes from its directory's.
#[cfg(not(unix))]
fn restrict(_path: &Path, _mode: u32) -> Result<(), PkiError> {
    Ok(())
}
