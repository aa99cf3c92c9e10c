//! Secrets on the command line: never as an argument, since every user of the host can read
//! arguments (`/proc/PID/cmdline`), and shells keep them.

use std::{
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use skein_protocol::limits;

use super::exit::CliError;

/// Where a secret is read from: `@FILE`, or `-` for standard input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SecretSource {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl FromStr for SecretSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some("") => Err("`@` needs a file's name after it".into()),
            Some(file) => Ok(Self::File(file.into())),
            None if text == "-" => Ok(Self::Stdin),
            // The text itself is not repeated: it may be the secret.
            None => Err("a secret must not stand in an argument list, where every user of this \
                         host can read it: write it to a file of mode 0600 and say --token \
                         @FILE, or pipe it in with --token -, or set SKEIN_TOKEN"
                .into()),
        }
    }
}

impl SecretSource {
    /// Reads the secret: at most one token's length, without surrounding space.
    pub(super) fn read(&self) -> Result<String, CliError> {
        match self {
            Self::File(path) => read_from(std::fs::File::open(path), path),
            Self::Stdin => read_from(Ok(std::io::stdin()), Path::new("-")),
        }
    }
}

/// The token by `--token`, else by the environment's `SKEIN_TOKEN`.
pub(super) fn token(source: Option<&SecretSource>) -> Result<Option<String>, CliError> {
    match source {
        Some(source) => source.read().map(Some),
        None => Ok(std::env::var("SKEIN_TOKEN").ok().filter(|text| !text.is_empty())),
    }
}

fn read_from(from: std::io::Result<impl Read>, name: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let bound = limits::TOKEN_BYTES + 1024;
    let read = from.and_then(|from| from.take(bound as u64).read_to_string(&mut text));
    match read {
        Err(error) => {
            Err(CliError::failed(format!("cannot read the token from {}: {error}", name.display())))
        }
        Ok(_) if text.trim().is_empty() => {
            Err(CliError::failed(format!("{} holds no token", name.display())))
        }
        Ok(_) => Ok(text.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_itself_is_refused_and_not_repeated() {
        let refused = "skein1.abc.def".parse::<SecretSource>().unwrap_err();
        assert!(refused.contains("@FILE") && !refused.contains("abc"), "{refused}");
        assert_eq!("-".parse(), Ok(SecretSource::Stdin));
        assert_eq!("@/x".parse(), Ok(SecretSource::File("/x".into())));
    }

    #[test]
    fn a_file_is_read_without_its_last_newline_and_an_empty_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "skein1.x\n").unwrap();
        assert_eq!(SecretSource::File(path.clone()).read().unwrap(), "skein1.x");
        std::fs::write(&path, "\n").unwrap();
        let refused = SecretSource::File(path).read().unwrap_err();
        assert!(refused.text.contains("holds no token"));
    }
}
