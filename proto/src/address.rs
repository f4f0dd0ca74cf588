//! How addresses are written: `host:port`, an IPv6 host in brackets.

/// Host and port of `host:port`; an IPv6 host is written in brackets, which are left out here. `None` where it is
/// written otherwise. What the host is called on the network is not looked at.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = if is_number { port.parse().ok()? } else { return None };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_bare = bare.is_none() && host.contains([':', '[', ']']);
    let host = bare.unwrap_or(host);
    let is_name = !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
    (is_name && !is_bare).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and numbers of hosts are taken as they are; whatever is not exactly a host and a port is refused.
    #[test]
    fn addresses() {
        assert_eq!(split_address("db.example:7101"), Some(("db.example", 7101)));
        assert_eq!(split_address("127.0.0.1:0"), Some(("127.0.0.1", 0)));
        assert_eq!(split_address("[::1]:7101"), Some(("::1", 7101)));
        for bad in [
            "",
            ":",
            "localhost",
            ":80",
            "h:",
            "h:port",
            "h:+1",
            "h:65536",
            "::1:80",
            "[::1:80",
            "[]:80",
            "u@h:1",
            "http://h:1",
            "h/p:1",
            "h:1/p",
            "h h:1",
            "h?:1",
        ] {
            assert_eq!(split_address(bad), None, "{bad}");
        }
    }
}
