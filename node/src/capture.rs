//! Capture: the rule by which the kernel sends what is dialled at virtual addresses to one
//! listener. `table inet skein` belongs to all agents of a network namespace, a chain in it to one.
//!
//! In:    a range, a listener's port, the owner's name.
//! Out:   that agent's chain, put in whole or not at all, and taken out again.
//! Never: touches a table but its own, a chain of another agent that runs, or what other hands put
//!        into the table: the table goes when nothing is left in it.
//!
//! A chain that an agent left behind when it was killed is replaced by the next one of its range.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as LocalAddr, UnixListener},
    },
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use skein_protocol::limits;

use crate::proxy::virtual_address::VirtualRange;

/// Why there is no redirect. The text says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoRedirect {
    /// `nft` is not there, or may not.
    #[error(
        "{0}: it needs the program `nft` (package nftables) and CAP_NET_ADMIN \
         (`AmbientCapabilities=CAP_NET_ADMIN` in the agent's unit)"
    )]
    Nft(String),
    /// Nothing can listen for what it redirects.
    #[error("no listener for it: {0}")]
    Listener(String),
    /// Another agent has the range, and gets what is dialled in it.
    #[error(
        "{range} is redirected for the agent {owner}, which runs: give this one another range by \
         meshConfig.virtualAddresses"
    )]
    Held {
        /// Which range.
        range: String,
        /// Whose.
        owner: String,
    },
}

/// The chain of this agent, while it stands. Dropped, it is taken out.
#[derive(Debug)]
pub struct Redirect {
    chain: Chain,
    standing: bool,
}

/// What the chain says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Chain {
    range: VirtualRange,
    port: u16,
    owner: String,
}

impl Redirect {
    /// Sends what this host's programs dial in `range` to `port` of 127.0.0.1, all TCP ports.
    /// Blocks for some milliseconds.
    pub fn put(range: VirtualRange, port: u16, owner: &str) -> Result<Self, NoRedirect> {
        let chain = Chain { range, port, owner: owner.to_owned() };
        let _lock = Lock::take();
        chain.free()?;
        nft(&["-f", "-"], &chain.rules()).map_err(NoRedirect::Nft)?;
        Ok(Self { chain, standing: true })
    }

    /// Puts the chain in again where it is gone: a firewall that is loaded anew takes it out.
    /// True if it was gone. Blocks for some milliseconds.
    pub fn look(&self) -> Result<bool, NoRedirect> {
        if self.chain.held().is_some_and(|held| held.port == self.chain.port) {
            return Ok(false);
        }
        let _lock = Lock::take();
        self.chain.free()?;
        nft(&["-f", "-"], &self.chain.rules()).map_err(NoRedirect::Nft)?;
        Ok(true)
    }

    /// Takes out the chain of this range if `owner` left it behind. Blocks for some milliseconds.
    pub fn clear(range: VirtualRange, owner: &str) {
        let chain = Chain { range, port: 0, owner: owner.to_owned() };
        if let Some(held) = chain.held().filter(|held| held.owner == owner) {
            drop(Self { chain: Chain { port: held.port, ..chain }, standing: true });
        }
    }

    /// Takes the chain out, and the table with the last chain. Blocks for some milliseconds.
    pub fn take_out(&mut self) {
        if !std::mem::take(&mut self.standing) {
            return;
        }
        let lock = Lock::take();
        // Somebody else's by now, or flushed with the firewall: nothing of ours is there.
        if self.chain.held().is_none_or(|held| held.port != self.chain.port) {
            return;
        }
        let name = self.chain.name();
        let out = format!("flush chain {TABLE} {name}\ndelete chain {TABLE} {name}\n");
        if let Err(error) = nft(&["-f", "-"], &out) {
            tracing::warn!(error, "the redirect of virtual addresses was not taken out");
        }
        // Without the lock another agent may be about to put its chain in.
        let empty = |text: String| is_empty(&text);
        if lock.is_some() && nft(&["list", "table", "inet", "skein"], "").is_ok_and(empty) {
            let _ = nft(&["delete", "table", "inet", "skein"], "");
        }
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        self.take_out();
    }
}

/// What a chain of some agent says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    port: u16,
    owner: String,
}

impl Chain {
    /// By the range, so that whoever has a range replaces what is left of it.
    fn name(&self) -> String {
        let range = self.range.to_string();
        let word = |c: char| if c.is_ascii_digit() { c } else { '_' };
        format!("agent_{}", range.chars().map(word).collect::<String>())
    }

    /// One transaction: the chain is there with its rule, or nothing was changed.
    fn rules(&self) -> String {
        let Self { range, port, owner } = self;
        let name = self.name();
        format!(
            "add table {TABLE}\n\
             add chain {TABLE} {name} {{ type nat hook output priority -100; policy accept; }}\n\
             flush chain {TABLE} {name}\n\
             add rule {TABLE} {name} ip daddr {range} meta l4proto tcp redirect to :{port} \
             comment \"skein {owner}\"\n"
        )
    }

    /// The chain of this range that there is.
    fn held(&self) -> Option<Held> {
        let text = nft(&["list", "chain", "inet", "skein", &self.name()], "").ok()?;
        held(&text)
    }

    /// Whether this agent may have the range: nobody else's listener is behind the chain.
    fn free(&self) -> Result<(), NoRedirect> {
        let Some(Held { port, owner }) = self.held() else { return Ok(()) };
        let runs = || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err();
        if owner != self.owner && runs() {
            return Err(NoRedirect::Held { range: self.range.to_string(), owner });
        }
        Ok(())
    }
}

/// What `nft list chain` shows of a chain of ours.
fn held(text: &str) -> Option<Held> {
    let rule = text.lines().find(|line| line.contains(" redirect to :"))?;
    let (_, rest) = rule.split_once(" redirect to :")?;
    let (port, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let owner = rest.split('"').nth(1).and_then(|comment| comment.strip_prefix("skein "));
    Some(Held { port: port.trim().parse().ok()?, owner: owner.unwrap_or_default().to_owned() })
}

/// Whether `nft list table` shows a table with nothing in it.
fn is_empty(text: &str) -> bool {
    let inner = |line: &&str| !line.is_empty() && !line.starts_with("table ") && *line != "}";
    text.lines().map(str::trim).filter(inner).count() == 0
}

/// Agents of one network namespace change the table one after the other: between looking whether
/// it is empty and removing it, no other may put its chain in. An abstract socket belongs to the
/// namespace, and the kernel gives it back when its holder ends.
struct Lock {
    _held: UnixListener,
}

impl Lock {
    /// `None` when it was not free for [`limits::NFT_LOCK_WAIT`]: a name that anybody may take
    /// must not keep agents from starting.
    fn take() -> Option<Self> {
        let until = Instant::now() + limits::NFT_LOCK_WAIT;
        loop {
            let name = LocalAddr::from_abstract_name(b"skein/nft").ok()?;
            match UnixListener::bind_addr(&name) {
                Ok(held) => return Some(Self { _held: held }),
                Err(_) if Instant::now() < until => sleep(LOOK_EVERY),
                Err(_) => return None,
            }
        }
    }
}

/// Runs `nft`, with `input` on its standard input. Its output, or what it said is wrong.
fn nft(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new("nft");
    command.args(arguments).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("`nft` cannot be run: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It says itself what it made of what it got.
        let _ = stdin.write_all(input.as_bytes());
    }
    if !ends(&mut child) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("`nft` did not end within {} s", limits::NFT_TIMEOUT.as_secs()));
    }
    let output = child.wait_with_output().map_err(|error| format!("`nft`: {error}"))?;
    let text = |bytes: &[u8]| {
        let mut text = String::new();
        let mut bytes = bytes.take(limits::NFT_OUTPUT_BYTES);
        let _ = bytes.read_to_string(&mut text);
        text
    };
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => {
            let said = text(&output.stderr);
            Err(format!("`nft` refused: {}", said.lines().next().unwrap_or("it did not say why")))
        }
    }
}

/// Whether it ends in time. What it says in that time fits into its pipes.
fn ends(child: &mut Child) -> bool {
    let until = Instant::now() + limits::NFT_TIMEOUT;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => sleep(RUN_EVERY),
            Ok(Some(_)) => return true,
            Err(_) => return false,
        }
    }
    false
}

const TABLE: &str = "inet skein";
const LOOK_EVERY: Duration = Duration::from_millis(20);
const RUN_EVERY: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Chain {
        let range = "127.139.0.0/16".parse().unwrap();
        Chain { range, port: 40_001, owner: "abcdefghij".to_owned() }
    }

    #[test]
    fn a_chain_is_named_by_its_range_and_put_in_as_one_text() {
        assert_eq!(chain().name(), "agent_127_139_0_0_16");
        let rules = chain().rules();
        assert!(rules.starts_with("add table inet skein\n"), "{rules}");
        assert!(rules.contains("ip daddr 127.139.0.0/16 meta l4proto tcp redirect to :40001"));
        assert!(!rules.contains("delete"), "{rules}");
    }

    #[test]
    fn whose_a_chain_is_can_be_read_from_it() {
        let text = "table inet skein {\n\tchain agent_127_139_0_0_16 {\n\
                    \t\ttype nat hook output priority dstnat; policy accept;\n\
                    \t\tip daddr 127.139.0.0/16 meta l4proto tcp redirect to :40001 comment \
                    \"skein abcdefghij\"\n\t}\n}\n";
        let found = Held { port: 40_001, owner: "abcdefghij".to_owned() };
        assert_eq!(held(text), Some(found));
        assert_eq!(held("table inet skein {\n}\n"), None);
        let bare = "ip daddr 127.139.0.0/16 tcp dport 1-65535 redirect to :80";
        assert_eq!(held(bare).map(|held| held.owner), Some(String::new()));
    }

    #[test]
    fn a_table_with_anything_in_it_is_not_empty() {
        assert!(is_empty("table inet skein {\n}\n"));
        assert!(!is_empty("table inet skein {\n\tchain other {\n\t}\n}\n"));
        assert!(!is_empty("table inet skein {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n}\n"));
    }
}
