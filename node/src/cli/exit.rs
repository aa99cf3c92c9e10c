//! How a command ends: an exit code that scripts may rely on, and an error that says what to do.

use std::fmt;

use crate::api::dto::{ErrorBody, Fault};

/// The exit codes of `skein`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: the command line is wrong.
    Usage,
    /// 3: degraded, or done in part.
    Degraded,
    /// 4: `diff` and `--dry-run`: something would change.
    WouldChange,
    /// 5: `agent`: this host has left its mesh.
    Left,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Degraded => 3,
            Self::WouldChange => 4,
            Self::Left => 5,
        }
    }
}

/// A failure as people read it: what, where and why, then the next command.
#[derive(Debug)]
pub struct CliError {
    /// With which code to exit.
    pub exit: Exit,
    /// What, where, why.
    pub text: String,
    /// What to do next; may be empty.
    pub fix: String,
    /// Faults in documents.
    pub faults: Vec<Fault>,
}

impl CliError {
    /// A failure, exit code 1.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, text: text.into(), fix: String::new(), faults: Vec::new() }
    }

    /// A wrong command line, exit code 2.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::failed(text) }
    }

    /// The same, with what to do next.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            writeln!(f, "{}", fault.rendered.trim_end())?;
        }
        write!(f, "skein: {}", self.text)?;
        if !self.fix.is_empty() {
            write!(f, "\n  next: {}", self.fix)?;
        }
        Ok(())
    }
}

impl From<ErrorBody> for CliError {
    fn from(body: ErrorBody) -> Self {
        Self { exit: Exit::Failed, text: body.text, fix: body.fix, faults: body.faults }
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(error) => Self::failed(told_once(&error)),
        }
    }
}

/// An error and its causes, less those whose words stand in what is said already.
fn told_once(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match (said.is_empty(), said.contains(&cause)) {
            (true, _) => cause,
            (false, true) => said,
            (false, false) => format!("{said}: {cause}"),
        }
    })
}

impl std::error::Error for CliError {}
