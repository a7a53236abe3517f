//! Where things are kept: profiles and the server's database, under the XDG data directory.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use etcetera::BaseStrategy;

const PROFILE_NAME_CHARS_MAX: usize = 64;

/// The name of a profile: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`. It is a directory's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProfileName(String);

/// Not a [`ProfileName`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MalformedProfileName;

impl fmt::Display for MalformedProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a profile name is 1 to 64 of A-Z a-z 0-9 . _ - and does not start with . or -")
    }
}

impl std::error::Error for MalformedProfileName {}

impl FromStr for ProfileName {
    type Err = MalformedProfileName;

    fn from_str(text: &str) -> Result<Self, MalformedProfileName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty()
            || text.len() > PROFILE_NAME_CHARS_MAX
            || text.starts_with(['.', '-'])
            || !text.bytes().all(allowed)
        {
            return Err(MalformedProfileName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory that holds everything.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// This directory.
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The directory given, or else `larder` in the XDG data directory.
    pub(crate) fn resolve(given: Option<PathBuf>) -> Result<Self, etcetera::HomeDirError> {
        match given {
            Some(directory) => Ok(Self(directory)),
            None => Ok(Self(
                etcetera::base_strategy::Xdg::new()?.data_dir().join("larder"),
            )),
        }
    }

    /// The directory of a profile.
    pub(crate) fn profile(&self, name: &ProfileName) -> PathBuf {
        self.0.join("profiles").join(&name.0)
    }

    /// The server's directory, unless another is given.
    pub(crate) fn server(&self) -> PathBuf {
        self.0.join("server")
    }
}

/// Creates a directory that only its owner may enter, and those above it that are missing.
pub(crate) fn create_private(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_name_is_one_harmless_path_component() {
        for good in ["default", "Alice", "a.b_c-9", "9", &"x".repeat(64)] {
            assert_eq!(good.parse::<ProfileName>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".x",
            "-x",
            "a/b",
            "a\\b",
            "é",
            "a b",
            "a\0",
            &"x".repeat(65),
        ] {
            assert_eq!(bad.parse::<ProfileName>(), Err(MalformedProfileName), "{bad:?}");
        }
    }

    #[test]
    fn a_given_home_replaces_the_xdg_directory() {
        let home = Home::resolve(Some("/x".into())).unwrap();
        assert_eq!(
            home.profile(&"bob".parse().unwrap()),
            Path::new("/x/profiles/bob")
        );
        assert_eq!(home.server(), Path::new("/x/server"));
    }
}
