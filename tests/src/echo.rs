//! The demo's HTTP echo as a service of a host, and curl as its client.

use std::{net::SocketAddr, path::Path, process::Stdio};

use crate::{binary, host::Host, process::Process};

/// The demo's HTTP echo on a port of the host's address; it names its host. It ends when its
/// input ends: the fifo, open for both, never does.
pub fn serve(host: &Host, port: u16, folder: &Path) -> Process {
    let mut command = host.program("sh");
    let fifo = folder.join(format!("{}.fifo", host.name));
    command.args(["-c", "mkfifo \"$0\" && exec \"$@\" <>\"$0\""]).arg(fifo);
    let listen = SocketAddr::new(host.ip, port).to_string();
    command.arg(binary::skein());
    command.args(["demo-http", "--listen", &listen, "--name", &host.name]);
    Process::start(command, &folder.join(format!("{}.service.log", host.name)))
}

/// One call by curl from inside of the host, of which the body is told; else what curl says.
///
/// # Panics
/// There is no curl.
pub async fn curl(host: &Host, url: &str) -> Result<String, String> {
    let mut command = host.program("curl");
    command.args(["-sS", "--max-time", "3", url]).stdin(Stdio::null());
    let output = command.output().await.expect("curl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
