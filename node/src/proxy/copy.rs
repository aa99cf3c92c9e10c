//! Copying: both directions of a connection, each to its own end.
//!
//! An end of file goes on as one, and the other direction stays open. A reset on either side ends
//! both directions on both sides as a reset: nothing cut short looks whole. What cannot be written
//! is not read: a slow reader holds one buffer per direction, no more.

use std::{
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use skein_protocol::{
    limits,
    route::CloseReason,
    wire::stream::{RESET_BY_APPLICATION, RESET_DENIED, RESET_DRAINED, RESET_IDLE},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, sleep_until},
};

use crate::link::mux::{RecvHalf, Reset, SendHalf, StreamPair};

/// How a connection ended, and what it moved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Copied {
    pub(super) reason: CloseReason,
    pub(super) detail: String,
    pub(super) up: u64,
    pub(super) down: u64,
}

/// Copies between the caller and the service until both directions have ended, one side resets,
/// nothing moves for `idle` (at the latest after twice as long), or `cut` says why to cut it.
pub(super) async fn copy(
    caller: StreamPair,
    service: StreamPair,
    cut: impl Future<Output = (CloseReason, String)>,
    idle: Duration,
) -> Copied {
    let (mut caller_send, mut caller_recv) = caller;
    let (mut service_send, mut service_recv) = service;
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let (reason, detail) = {
        let upward = pin!(pump(&mut *caller_recv, &mut *service_send, &up));
        let downward = pin!(pump(&mut *service_recv, &mut *caller_send, &down));
        let moved = || up.load(Ordering::Relaxed) + down.load(Ordering::Relaxed);
        tokio::select! {
            biased;
            ended = cut => ended,
            reason = both(upward, downward) => (reason, String::new()),
            () = idle_for(idle, moved) => (CloseReason::IdleTimeout, String::new()),
        }
    };
    if reason != CloseReason::Done {
        let code = code(reason);
        caller_send.reset(code);
        service_send.reset(code);
        caller_recv.stop(code);
        service_recv.stop(code);
    }
    Copied { reason, detail, up: up.into_inner(), down: down.into_inner() }
}

/// Waits for both directions; the first fault ends both. The order is drawn anew each time: a
/// busy direction spends the task's whole budget, and would starve the one polled after it.
async fn both(
    mut upward: Pin<&mut impl Future<Output = Result<(), Fault>>>,
    mut downward: Pin<&mut impl Future<Output = Result<(), Fault>>>,
) -> CloseReason {
    let (mut up_open, mut down_open) = (true, true);
    while up_open || down_open {
        tokio::select! {
            ended = &mut upward, if up_open => match ended {
                Ok(()) => up_open = false,
                Err(Fault::Read(error)) => return broken(&error, CloseReason::ClientReset),
                Err(Fault::Write(error)) => return broken(&error, CloseReason::EndpointReset),
            },
            ended = &mut downward, if down_open => match ended {
                Ok(()) => down_open = false,
                Err(Fault::Read(error)) => return broken(&error, CloseReason::EndpointReset),
                Err(Fault::Write(error)) => return broken(&error, CloseReason::ClientReset),
            },
        }
    }
    CloseReason::Done
}

enum Fault {
    Read(io::Error),
    Write(io::Error),
}

/// The far agent may say why it reset.
pub(super) fn broken(error: &io::Error, reset: CloseReason) -> CloseReason {
    let said = error.get_ref().and_then(|inner| inner.downcast_ref::<Reset>());
    match said {
        Some(Reset(RESET_DENIED)) => return CloseReason::Denied,
        Some(Reset(RESET_DRAINED)) => return CloseReason::DrainDeadline,
        Some(Reset(RESET_IDLE)) => return CloseReason::IdleTimeout,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => reset,
        _ => CloseReason::LinkLost,
    }
}

pub(super) fn code(reason: CloseReason) -> u32 {
    match reason {
        CloseReason::IdleTimeout => RESET_IDLE,
        CloseReason::DrainDeadline => RESET_DRAINED,
        CloseReason::Denied => RESET_DENIED,
        _ => RESET_BY_APPLICATION,
    }
}

pub(super) async fn idle_for(idle: Duration, moved: impl Fn() -> u64) {
    let mut seen = moved();
    loop {
        sleep_until(Instant::now() + idle).await;
        let now = moved();
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// One direction, to its end of file.
async fn pump(
    from: &mut dyn RecvHalf,
    into: &mut dyn SendHalf,
    moved: &AtomicU64,
) -> Result<(), Fault> {
    let mut buffer = vec![0; limits::BUFFER_START];
    let mut since_idle = 0u64;
    loop {
        let read = if buffer.len() > limits::BUFFER_START {
            tokio::select! {
                biased;
                read = from.read(&mut buffer) => read,
                () = sleep(limits::BUFFER_SHRINK_AFTER) => {
                    buffer = vec![0; limits::BUFFER_START];
                    since_idle = 0;
                    continue;
                }
            }
        } else {
            from.read(&mut buffer).await
        };
        let count = read.map_err(Fault::Read)?;
        if count == 0 {
            return into.shutdown().await.map_err(Fault::Write);
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        into.write_all(bytes).await.map_err(Fault::Write)?;
        into.flush().await.map_err(Fault::Write)?;
        let count = u64::try_from(count).unwrap_or(0);
        moved.fetch_add(count, Ordering::Relaxed);
        since_idle = since_idle.saturating_add(count);
        let wanted = buffer_size(since_idle);
        if wanted > buffer.len() {
            buffer = vec![0; wanted];
        }
    }
}

fn buffer_size(moved: u64) -> usize {
    if moved >= limits::BUFFER_LARGE_AFTER {
        limits::BUFFER_LARGE
    } else if moved >= limits::BUFFER_MIDDLE_AFTER {
        limits::BUFFER_MIDDLE
    } else {
        limits::BUFFER_START
    }
}
