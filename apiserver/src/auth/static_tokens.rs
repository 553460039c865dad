//! Bearer tokens of a file, as Kubernetes' `--token-auth-file` reads them.
//!
//! In: lines `token,user,uid,"group,group"`. Out: the identity of a token. The file is read once, at the start.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Identity;

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StaticTokenError {
    /// It cannot be read.
    #[error("cannot read the token file {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// A line does not say what it must.
    #[error("line {line} of the token file {file}: {why}")]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
}

/// The tokens of a file.
#[derive(Default)]
pub struct StaticTokens(HashMap<String, Arc<Identity>>);

impl std::fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Tokens are secrets.
        write!(f, "StaticTokens({})", self.0.len())
    }
}

impl StaticTokens {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or a line lacks a token, a user or the UID's column, or has a token that another line has.
    pub fn read(file: &Path) -> Result<Self, StaticTokenError> {
        let text = std::fs::read_to_string(file).map_err(|error| StaticTokenError::Read(file.to_path_buf(), error))?;
        let mut tokens = HashMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let refuse = |why| StaticTokenError::Line { file: file.to_path_buf(), line: index + 1, why };
            let (token, identity) = parse(line).map_err(refuse)?;
            if tokens.insert(token, Arc::new(identity)).is_some() {
                return Err(refuse("the token is in the file already"));
            }
        }
        Ok(Self(tokens))
    }

    /// Whose token it is, if the file has it.
    pub fn identity(&self, token: &str) -> Option<&Arc<Identity>> {
        self.0.get(token)
    }
}

fn parse(line: &str) -> Result<(String, Identity), &'static str> {
    let mut columns = columns(line)?.into_iter();
    let (Some(token), Some(user), Some(uid)) = (columns.next(), columns.next(), columns.next()) else {
        return Err("a token, a user and a UID are needed, with commas between them");
    };
    if token.is_empty() || user.is_empty() {
        return Err("the token and the user may not be empty");
    }
    let groups = columns.next().unwrap_or_default();
    let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
    Ok((token, Identity { uid, ..Identity::new(user, groups) }))
}

/// The columns of a line; one that holds commas stands in quotes, with its own quotes doubled.
fn columns(line: &str) -> Result<Vec<String>, &'static str> {
    let mut columns = vec![String::new()];
    let mut chars = line.trim().chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        let at_start = columns.last().is_some_and(String::is_empty);
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_none() => quoted = false,
            '"' if !quoted && at_start => quoted = true,
            ',' if !quoted => columns.push(String::new()),
            c if !quoted && at_start && c == ' ' => {}
            c => columns.last_mut().ok_or("")?.push(c),
        }
    }
    if quoted { Err("a quote is not closed") } else { Ok(columns) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AUTHENTICATED, MASTERS};

    fn read(text: &str) -> Result<StaticTokens, StaticTokenError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens.csv");
        std::fs::write(&file, text).unwrap();
        StaticTokens::read(&file)
    }

    #[test]
    fn a_line_names_a_user_and_their_groups() {
        let tokens = read("abc,kim,7\n\ndef, lee,8,\"system:masters, dev\"\nghi,ann,9,ops\n").unwrap();
        let kim = tokens.identity("abc").unwrap();
        assert_eq!((kim.user.as_str(), kim.uid.as_str()), ("kim", "7"));
        assert_eq!(kim.groups, [AUTHENTICATED]);
        let lee = tokens.identity("def").unwrap();
        assert_eq!(lee.user, "lee");
        assert!(lee.is_in(MASTERS) && lee.is_in("dev") && lee.is_in(AUTHENTICATED));
        assert!(tokens.identity("ghi").unwrap().is_in("ops"));
        assert!(tokens.identity("").is_none() && tokens.identity("kim").is_none());
        assert!(!format!("{tokens:?}").contains("abc"));
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line) in [("abc,kim\n", 1), ("abc,kim,1\n,lee,2\n", 2), ("a,b,c,\"d\n", 1), ("a,b,c\na,d,e\n", 2)] {
            let error = read(text).unwrap_err();
            assert!(matches!(error, StaticTokenError::Line { line: at, .. } if at == line), "{text:?}: {error}");
        }
    }
}
