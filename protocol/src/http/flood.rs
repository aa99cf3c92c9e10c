//! The floodgate: how many frames without use a connection of HTTP/2 may send.
//!
//! It follows frame headers (RFC 9113 4.1) without reading what they carry, and counts those that
//! cost more to serve than to send: resets, pings, settings, priorities, empty data, continued
//! headers (the floods of CVE-2019-9512 and its kin, CVE-2023-44487, CVE-2024-27316).

use crate::{clock::Tick, limits};

/// What was too many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flood {
    /// Streams opened and reset.
    #[error("more than {} RST_STREAM frames in {} s", limits::H2_RESETS, limits::H2_WINDOW.as_secs())]
    Resets,
    /// Pings and other frames that are answered or kept, without any work between them.
    #[error("more than {} PING, SETTINGS, PRIORITY or empty frames in {} s", limits::H2_IDLE_FRAMES, limits::H2_WINDOW.as_secs())]
    Idle,
    /// A header block in too many pieces.
    #[error("a header block in more than {} CONTINUATION frames", limits::H2_CONTINUATIONS)]
    Continuations,
}

/// Follows one connection, from behind the preface on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Floodgate {
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    have: usize,
    /// Bytes of the frame's payload that are still to come.
    payload: usize,
    continued: u32,
    since: Tick,
    resets: u32,
    idle: u32,
}

const HEAD: usize = 9;

impl Floodgate {
    /// Bytes that the frame whose head came last still has to bring.
    pub fn owed(&self) -> usize {
        self.payload
    }

    /// Looks at the next bytes that came. With a flood comes how many of them there are up to the
    /// end of the head of the frame that was too many.
    pub fn take(&mut self, now: Tick, bytes: &[u8]) -> Result<(), (Flood, usize)> {
        let all = bytes.len();
        let mut bytes = bytes;
        let window = crate::clock::millis(limits::H2_WINDOW);
        if now.0.saturating_sub(self.since.0) >= window {
            (self.since, self.resets, self.idle) = (now, 0, 0);
        }
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len());
                self.payload -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let wanted = (HEAD - self.have).min(bytes.len());
            let (head, rest) = bytes.split_at(wanted);
            if let Some(place) = self.head.get_mut(self.have..self.have + wanted) {
                place.copy_from_slice(head);
            }
            self.have += wanted;
            bytes = rest;
            if self.have == HEAD {
                self.have = 0;
                self.frame().map_err(|flood| (flood, all - bytes.len()))?;
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(), Flood> {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.payload = usize::try_from(length).unwrap_or(usize::MAX);
        let ends = flags & END_STREAM != 0;
        match kind {
            CONTINUATION => {
                self.continued = self.continued.saturating_add(1);
                if self.continued > limits::H2_CONTINUATIONS {
                    return Err(Flood::Continuations);
                }
            }
            HEADERS => {
                self.continued = 0;
                // A request is work: it pays for a ping.
                self.idle = self.idle.saturating_sub(1);
            }
            DATA if length > 0 || ends => self.idle = self.idle.saturating_sub(1),
            RST_STREAM => {
                self.resets = self.resets.saturating_add(1);
                if self.resets > limits::H2_RESETS {
                    return Err(Flood::Resets);
                }
            }
            DATA | PRIORITY | SETTINGS | PING => {
                self.idle = self.idle.saturating_add(1);
                if self.idle > limits::H2_IDLE_FRAMES {
                    return Err(Flood::Idle);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn after(frames: &[Vec<u8>], times: u32) -> Result<(), Flood> {
        let mut gate = Floodgate::default();
        let mut take = |f: &Vec<u8>| gate.take(Tick(1), f).map_err(|(flood, _)| flood);
        (0..times).try_for_each(|_| frames.iter().try_for_each(&mut take))
    }

    #[test]
    fn each_flood_is_stopped_at_its_bound() {
        let request = frame(HEADERS, 5, b"x");
        let reset = frame(RST_STREAM, 0, &[0; 4]);
        let rapid = [request.clone(), reset];
        assert_eq!(after(&rapid, limits::H2_RESETS), Ok(()));
        assert_eq!(after(&rapid, limits::H2_RESETS + 1), Err(Flood::Resets));
        for kind in [PING, SETTINGS, PRIORITY, DATA] {
            let one = [frame(kind, 0, b"")];
            assert_eq!(after(&one, limits::H2_IDLE_FRAMES), Ok(()));
            assert_eq!(after(&one, limits::H2_IDLE_FRAMES + 1), Err(Flood::Idle));
        }
        let continued = [frame(CONTINUATION, 0, b"x")];
        assert_eq!(after(&continued, limits::H2_CONTINUATIONS + 1), Err(Flood::Continuations));
        assert_eq!(after(&[request, frame(CONTINUATION, 4, b"x")], 10_000), Ok(()));
    }

    #[test]
    fn pings_among_work_and_old_resets_are_no_flood() {
        let working = [frame(PING, 0, &[0; 8]), frame(DATA, 0, b"data")];
        assert_eq!(after(&working, 1_000_000 / 100), Ok(()));
        let mut gate = Floodgate::default();
        for second in 0..1_000 {
            for _ in 0..10 {
                let reset = frame(RST_STREAM, 0, &[0; 4]);
                assert_eq!(gate.take(Tick(second * 1_000), &reset), Ok(()));
            }
        }
    }

    proptest! {
        #[test]
        fn frames_are_found_however_they_are_cut(
            frames in proptest::collection::vec((0u8..12, any::<u8>(), 0usize..40), 0..60),
            cuts in proptest::collection::vec(1usize..30, 1..40),
        ) {
            let bytes: Vec<u8> =
                frames.iter().flat_map(|(kind, flags, n)| frame(*kind, *flags, &vec![9; *n])).collect();
            let mut whole = Floodgate::default();
            let at_once = whole.take(Tick(1), &bytes).map_err(|(flood, _)| flood);
            let mut gate = Floodgate::default();
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            let mut piecewise = Ok(());
            while !rest.is_empty() && piecewise.is_ok() {
                let (piece, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                piecewise = gate.take(Tick(1), piece).map_err(|(flood, _)| flood);
                rest = more;
            }
            prop_assert_eq!(at_once, piecewise);
        }
    }
}
