//! Who may do what: decided here, once, before any handler runs.
//!
//! The socket's permissions stand for its callers: they may read and write. Over TCP a request
//! must name a host that is really meant (a page in a browser that resolves its own name to
//! 127.0.0.1 is refused: DNS rebinding), loopback may read, and everything else needs the token
//! of `<dir>/http.token`.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use axum::http::{HeaderMap, Method, Uri, header, uri::Authority};
use data_encoding::HEXLOWER;
use rand::{TryRng as _, rngs::SysRng};

use super::{ApiError, ApiErrorKind};

/// Over what a request came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// The agent's socket.
    Socket,
    /// The HTTP port: the caller's address, and the one it reached.
    Tcp {
        /// Whose.
        peer: IpAddr,
        /// Ours.
        local: SocketAddr,
    },
}

/// The secret that allows writes over TCP.
#[derive(Clone)]
pub struct HttpToken {
    text: String,
    path: PathBuf,
}

impl std::fmt::Debug for HttpToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpToken({}, secret)", self.path.display())
    }
}

impl HttpToken {
    /// Reads `<dir>/http.token`, or makes it: 32 random bytes, mode 0640, group `skein` if there
    /// is one.
    pub fn load_or_create(dir: &Path) -> io::Result<Self> {
        let path = dir.join("http.token");
        match read_short(&path) {
            Ok(text) if text.trim().len() >= TOKEN_CHARS_MIN => {
                Ok(Self { text: text.trim().to_owned(), path })
            }
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{}: shorter than {TOKEN_CHARS_MIN} characters; delete it and start the \
                     agent, which makes a new one",
                    path.display()
                ),
            )),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::create(dir, path),
            Err(e) => Err(e),
        }
    }

    fn create(dir: &Path, path: PathBuf) -> io::Result<Self> {
        let mut bytes = [0; 32];
        SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
        let text = HEXLOWER.encode(&bytes);
        let temporary = dir.join(".http.token.new");
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        crate::keys::file::keep_owner(&file, dir)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        super::socket::give_to_group(&temporary);
        file.set_permissions(std::fs::Permissions::from_mode(0o640))?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        Ok(Self { text, path })
    }

    /// Whether `other` is the same text; takes the same time whatever differs.
    fn is(&self, other: &str) -> bool {
        let (mine, theirs) = (self.text.as_bytes(), other.as_bytes());
        aws_lc_rs::constant_time::verify_slices_are_equal(mine, theirs).is_ok()
    }
}

/// Whether a request may go on to its handler.
pub fn check(
    caller: Caller,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    token: Option<&HttpToken>,
) -> Result<(), ApiError> {
    let Caller::Tcp { peer, local } = caller else {
        return Ok(());
    };
    check_host(uri, headers, local)?;
    let reads = method == Method::GET || method == Method::HEAD;
    if reads && peer.is_loopback() {
        return Ok(());
    }
    check_token(headers, token, reads)
}

fn check_host(uri: &Uri, headers: &HeaderMap, local: SocketAddr) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(denied("the request must have exactly one Host header"));
    };
    let named = host.to_str().unwrap_or_default();
    let absolute = uri.authority().map(Authority::as_str);
    for authority in std::iter::once(named).chain(absolute) {
        if !is_meant(authority, local.ip()) {
            let text = format!(
                "host `{authority}` is not this agent: its names are localhost, loopback \
                 addresses and {}",
                local.ip()
            );
            return Err(denied(text).fix("call it by one of these names"));
        }
    }
    Ok(())
}

/// Whether `authority` (`host` or `host:port`) names this agent.
fn is_meant(authority: &str, bound: IpAddr) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip == bound,
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

fn check_token(
    headers: &HeaderMap,
    token: Option<&HttpToken>,
    reads: bool,
) -> Result<(), ApiError> {
    let Some(token) = token else {
        return Err(denied("this port takes no writes; use the agent's socket"));
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match given {
        Some(given) if token.is(given.trim()) => Ok(()),
        Some(_) => Err(denied("the bearer token is not this agent's").fix(token.how())),
        None if reads => Err(denied("reads from outside need the agent's token").fix(token.how())),
        None => Err(denied("writes over HTTP need the agent's token").fix(token.how())),
    }
}

impl HttpToken {
    fn how(&self) -> String {
        format!(
            "send `Authorization: Bearer <content of {}>`, or use the agent's socket",
            self.path.display()
        )
    }
}

fn denied(text: impl Into<String>) -> ApiError {
    ApiError::new(ApiErrorKind::Denied, text)
}

fn read_short(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(TOKEN_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// 16 random bytes in hexadecimal: what nobody guesses.
const TOKEN_CHARS_MIN: usize = 32;
const TOKEN_FILE_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(dir: &Path) -> HttpToken {
        HttpToken::load_or_create(dir).unwrap()
    }

    fn ask(host: &str, method: Method, peer: &str, bearer: Option<&str>) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let token = token(dir.path());
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(text) = bearer {
            let text = text.replace("RIGHT", &token.text);
            headers.insert(header::AUTHORIZATION, text.parse().unwrap());
        }
        let caller =
            Caller::Tcp { peer: peer.parse().unwrap(), local: "10.1.2.3:7401".parse().unwrap() };
        let uri = Uri::from_static("/v1/status");
        check(caller, &method, &uri, &headers, Some(&token)).map_err(|e| e.text)
    }

    #[test]
    fn only_names_of_this_agent_are_answered() {
        for good in [
            "localhost",
            "LOCALHOST:7401",
            "127.0.0.1:7401",
            "127.0.0.12",
            "[::1]:7401",
            "10.1.2.3:7401",
        ] {
            assert_eq!(ask(good, Method::GET, "127.0.0.1", None), Ok(()), "{good}");
        }
        for bad in [
            "evil.example:7401",
            "localhost.evil.example",
            "10.1.2.4",
            "127.0.0.1.evil.example",
            "evil@127.0.0.1.x",
            "",
            "0.0.0.0",
        ] {
            assert!(ask(bad, Method::GET, "127.0.0.1", None).is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_reads_are_open_and_everything_else_needs_the_token() {
        let host = "localhost";
        assert!(ask(host, Method::GET, "127.0.0.1", None).is_ok());
        assert!(ask(host, Method::GET, "10.9.9.9", None).is_err());
        assert!(ask(host, Method::GET, "10.9.9.9", Some("Bearer RIGHT")).is_ok());
        assert!(ask(host, Method::POST, "127.0.0.1", None).is_err());
        assert!(ask(host, Method::POST, "127.0.0.1", Some("Bearer wrong")).is_err());
        assert!(ask(host, Method::POST, "127.0.0.1", Some("RIGHT")).is_err());
        assert!(ask(host, Method::POST, "127.0.0.1", Some("Bearer RIGHT")).is_ok());
        assert!(ask(host, Method::DELETE, "127.0.0.1", None).is_err());
    }

    #[test]
    fn a_request_with_two_hosts_or_another_absolute_one_is_refused() {
        let local: SocketAddr = "127.0.0.1:7401".parse().unwrap();
        let mut headers = HeaderMap::new();
        let plain = Uri::from_static("/v1/status");
        assert!(check_host(&plain, &headers, local).is_err());
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert!(check_host(&plain, &headers, local).is_ok());
        let absolute = Uri::from_static("http://evil.example/v1/status");
        assert!(check_host(&absolute, &headers, local).is_err());
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert!(check_host(&plain, &headers, local).is_err());
    }

    #[test]
    fn the_token_is_made_once_and_only_its_group_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = token(dir.path());
        assert_eq!(first.text.len(), 64);
        assert_eq!(token(dir.path()).text, first.text);
        let mode = std::fs::metadata(&first.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        std::fs::write(&first.path, "short").unwrap();
        assert!(HttpToken::load_or_create(dir.path()).is_err());
    }
}
