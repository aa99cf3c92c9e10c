//! What goes over the wire: counters of the kernel's packet filter, in this namespace only.
//!
//! Each packet is counted once, where it is sent, with its IP header. Only traffic between
//! members counts as a mesh's; anything else has a counter of its own, which must stay small.

use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{serf, skein};

/// One counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// What was sent so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) skein: Count,
    pub(crate) serf: Count,
    pub(crate) other: Count,
}

/// Begins to count.
pub(crate) async fn begin() -> Result<()> {
    let mesh = |net: [u8; 3], port: u16, name: &str| {
        let [a, b, c] = net;
        let both = format!(
            "ip saddr {a}.{b}.{c}.0/24 ip daddr {a}.{b}.{c}.0/24 meta l4proto {{ tcp, udp }}"
        );
        format!(
            "{both} th dport {port} counter name {name} accept\n\
             {both} th sport {port} counter name {name} accept\n"
        )
    };
    let rules = format!(
        "table inet figures {{
           counter skein {{ }}
           counter serf {{ }}
           counter other {{ }}
           chain sent {{
             type filter hook output priority 0;
             {}{}counter name other
           }}
         }}",
        mesh(skein::NET, skein::PORT, "skein"),
        mesh(serf::NET, serf::PORT, "serf"),
    );
    nft(&["-f", "-"], &rules).await.map(drop)
}

/// The counters of now.
pub(crate) async fn sent() -> Result<Sent> {
    let text = nft(&["-j", "list", "counters"], "").await?;
    let listed: Value = serde_json::from_str(&text)?;
    let all = listed.get("nftables").and_then(Value::as_array);
    let count = |name: &str| -> Result<Count> {
        let counters = all.into_iter().flatten().filter_map(|entry| entry.get("counter"));
        let mut named =
            counters.filter(|counter| counter.get("name").and_then(Value::as_str) == Some(name));
        let found = named.next().with_context(|| format!("no counter {name}"))?;
        let number = |key| found.get(key).and_then(Value::as_u64);
        let numbers = number("packets").zip(number("bytes"));
        let (packets, bytes) = numbers.with_context(|| format!("no numbers in {found}"))?;
        Ok(Count { packets, bytes })
    };
    Ok(Sent { skein: count("skein")?, serf: count("serf")?, other: count("other")? })
}

async fn nft(arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("nft");
    command.args(arguments).kill_on_drop(true).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("no `nft`: apt-get install nftables")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let Output { status, stdout, stderr } = child.wait_with_output().await?;
    if !status.success() {
        bail!("`nft {}`: {}", arguments.join(" "), String::from_utf8_lossy(&stderr));
    }
    Ok(String::from_utf8(stdout)?)
}
