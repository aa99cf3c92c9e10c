//! The agent's log: lines on standard error, shaped for journald when it is there.
//!
//! Under systemd (`JOURNAL_STREAM` is set) a line has no time and no colour, and starts with the
//! `<N>` of its priority (sd-daemon(3)); elsewhere it starts with the time. The filter can be
//! changed while the agent runs (`skein log-level`).

use std::{fmt, io::IsTerminal};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Registry,
    filter::{ParseError, Targets},
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

/// The log could not be set up, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter's text is none.
    #[error(
        "log filter `{0}` is not understood: {1}; for example `info` or `skein_node::proxy=debug`"
    )]
    Filter(String, String),
    /// Something else in this process has set up a log.
    #[error("the log is already set up: {0}")]
    Twice(#[from] TryInitError),
    /// The log is gone.
    #[error("the log has ended: {0}")]
    Gone(String),
}

/// Changes the filter of a running log.
#[derive(Clone, Debug)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

impl LogHandle {
    /// Sets the filter.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse(filter)?;
        self.0.reload(filter).map_err(|e| LogError::Gone(e.to_string()))
    }

    /// The filter.
    pub fn get(&self) -> Result<String, LogError> {
        self.0.with_current(ToString::to_string).map_err(|e| LogError::Gone(e.to_string()))
    }
}

/// Sets up the log of this process. `filter` is `info`, `debug`, or levels of modules as
/// `tracing` spells them.
pub fn init(filter: &str) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colour && !journal)
        .event_format(Lines { journal });
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(LogHandle(handle))
}

/// Levels by module. Filters by field would bring a regular expression engine into every agent.
fn parse(filter: &str) -> Result<Targets, LogError> {
    filter.parse().map_err(|e: ParseError| LogError::Filter(filter.to_owned(), e.to_string()))
}

struct Lines {
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.journal {
            return Format::<Full>::default().format_event(context, writer, event);
        }
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        Format::<Full>::default()
            .without_time()
            .with_level(false)
            .format_event(context, writer, event)
    }
}

/// syslog(3) priorities.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_changed_while_running_and_nonsense_is_refused() {
        let handle = init("info").unwrap();
        assert_eq!(handle.get().unwrap(), "info");
        handle.set("warn,skein_node::proxy=debug").unwrap();
        assert!(handle.get().unwrap().contains("skein_node::proxy=debug"));
        let refused = handle.set("skein=loudest").unwrap_err().to_string();
        assert!(refused.contains("skein=loudest"), "{refused}");
        assert!(init("info").is_err());
    }
}
