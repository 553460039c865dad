//! Which images that are on the node a pod may use only if it shows credentials: the kubelet's policies
//! (`imagePullCredentialsVerificationPolicy`), by their names.

use super::keyring::repository;

/// Which images need credentials to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// None.
    Never,
    /// All that were pulled here.
    #[default]
    NotPreloaded,
    /// All but these.
    NotAllowlisted(Vec<Pattern>),
    /// All.
    Always,
}

/// Names one repository, or all below a registry or path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This repository.
    One(String),
    /// All that begin so; it ends with a slash.
    Below(String),
}

impl Verification {
    /// The names of the policies.
    pub const NAMES: [&str; 4] =
        ["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"];

    /// The policy of this name, with the images of which it asks nothing.
    ///
    /// # Errors
    /// What is wrong with the name or the list, for people.
    pub fn of(name: &str, allowlist: &[String]) -> Result<Self, String> {
        let policy = match name {
            "NeverVerify" => Self::Never,
            "NeverVerifyPreloadedImages" => Self::NotPreloaded,
            "NeverVerifyAllowlistedImages" => {
                Self::NotAllowlisted(allowlist.iter().map(|pattern| Pattern::parse(pattern)).collect::<Result<_, _>>()?)
            }
            "AlwaysVerify" => Self::Always,
            _ => {
                return Err(format!("unknown policy {name:?}: it must be one of {}", Self::NAMES.join(", ")));
            }
        };
        if !allowlist.is_empty() && !matches!(policy, Self::NotAllowlisted(_)) {
            return Err(format!("a list of images is only for NeverVerifyAllowlistedImages, not {name}"));
        }
        Ok(policy)
    }

    /// Whether an image of this repository needs credentials to be shown; and whether it was pulled here, or may have been.
    pub fn asks(&self, repository: &str, was_pulled: bool) -> bool {
        match self {
            Self::Never => false,
            Self::NotPreloaded => was_pulled,
            Self::NotAllowlisted(patterns) => !patterns.iter().any(|pattern| pattern.fits(repository)),
            Self::Always => true,
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} names no images: {why}"));
        let (name, is_below) = match text.strip_suffix("/*") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return wrong("it must be a registry and path without spaces");
        }
        if name.contains('*') {
            return wrong("only a last part may be \"*\"");
        }
        let last = name.rsplit('/').next().unwrap_or(name);
        let has_tag = last.contains(':') && (name.contains('/') || !is_below);
        if name.contains('@') || has_tag {
            return wrong("it must have neither a tag nor a digest");
        }
        Ok(match is_below {
            // A registry alone is no repository, whose name would be written out.
            true if !name.contains('/') => Self::Below(format!("{name}/")),
            true => Self::Below(format!("{}/", repository(name))),
            false => Self::One(repository(name)),
        })
    }

    fn fits(&self, repository: &str) -> bool {
        match self {
            Self::One(name) => name == repository,
            Self::Below(path) => repository.starts_with(path.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_ask_as_their_names_say() {
        let listed = ["r.example/team/*", "r.example:5000/*", "r.example/one", "busybox"].map(String::from);
        let of = |name: &str| Verification::of(name, &[]).unwrap();
        let listed = Verification::of("NeverVerifyAllowlistedImages", &listed).unwrap();
        for (policy, image, pulled, expected) in [
            (&of("NeverVerify"), "r.example/a", true, false),
            (&of("NeverVerifyPreloadedImages"), "r.example/a", true, true),
            (&of("NeverVerifyPreloadedImages"), "r.example/a", false, false),
            (&of("AlwaysVerify"), "r.example/a", false, true),
            (&of("NeverVerifyAllowlistedImages"), "r.example/a", false, true),
            (&listed, "r.example/team/a/b:1", true, false),
            (&listed, "r.example/teams/a", false, true),
            (&listed, "r.example:5000/a", true, false),
            (&listed, "r.example/one:2", true, false),
            (&listed, "r.example/one/more", true, true),
            (&listed, "docker.io/library/busybox", true, false),
        ] {
            assert_eq!(policy.asks(&repository(image), pulled), expected, "{policy:?} {image} {pulled}");
        }
        assert_eq!(Verification::default(), of("NeverVerifyPreloadedImages"));
        assert!(Verification::NAMES.iter().all(|name| Verification::of(name, &[]).is_ok()));
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for (name, allowlist, why) in [
            ("Verify", None, "unknown policy"),
            ("AlwaysVerify", Some("r.example/a"), "only for NeverVerifyAllowlistedImages"),
            ("NeverVerifyAllowlistedImages", Some(""), "without spaces"),
            ("NeverVerifyAllowlistedImages", Some(" r.example/a"), "without spaces"),
            ("NeverVerifyAllowlistedImages", Some("/*"), "without spaces"),
            ("NeverVerifyAllowlistedImages", Some("r.example/*/a"), "last part"),
            ("NeverVerifyAllowlistedImages", Some("r.example/a*"), "last part"),
            ("NeverVerifyAllowlistedImages", Some("r.example/a:1"), "tag"),
            ("NeverVerifyAllowlistedImages", Some("busybox:1"), "tag"),
            ("NeverVerifyAllowlistedImages", Some("r.example/a@sha256:1"), "digest"),
        ] {
            let allowlist: Vec<String> = allowlist.into_iter().map(String::from).collect();
            let error = Verification::of(name, &allowlist).unwrap_err();
            assert!(error.contains(why), "{name} {allowlist:?}: {error}");
        }
    }
}
