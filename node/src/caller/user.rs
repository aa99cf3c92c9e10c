//! Users by name, as the host knows them: /etc/passwd, and whatever directory stands behind it.

use nix::unistd::User;

/// The number of a user; `None` where this host has none of that name. May take long: a
/// directory on another host is asked too.
pub fn uid(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_zero_and_nobody_is_called_otherwise() {
        assert_eq!(uid("root"), Some(0));
        assert_eq!(uid("no-such-user-here"), None);
        assert_eq!(uid("a\u{0}b"), None, "what is no name is nobody's");
    }
}
