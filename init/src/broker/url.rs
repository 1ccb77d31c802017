//! `https://HOST[:PORT]`, and nothing else a URL can be.

use alloc::string::String;

use rustls_pki_types::ServerName;

/// Where the broker is and who it must prove to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// `HOST[:PORT]`, the value of the `Host` field (RFC 9110 section 7.2).
    pub(super) authority: String,
    /// A DNS name or an IPv4 address.
    pub(super) host: String,
    /// [`Self::host`] as certificates name it.
    pub(super) name: ServerName<'static>,
    pub(super) port: u16,
}

impl Url {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let authority = url.strip_prefix("https://")?;
        let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
        // The characters of names and IPv4 addresses: no user, path or bracket.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if !host.bytes().all(allowed) || port.starts_with(['0', '+']) {
            return None;
        }
        Some(Self {
            authority: authority.into(),
            host: host.into(),
            name: ServerName::try_from(String::from(host)).ok()?,
            port: port.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn accepts_names_and_addresses() {
        for (url, host, port, authority) in [
            (
                "https://kbs.example.org",
                "kbs.example.org",
                443,
                "kbs.example.org",
            ),
            (
                "https://kbs.example.org:8443",
                "kbs.example.org",
                8443,
                "kbs.example.org:8443",
            ),
            ("https://10.0.2.2:8443", "10.0.2.2", 8443, "10.0.2.2:8443"),
        ] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.authority, authority);
        }
    }

    #[test]
    fn rejects_anything_else() {
        for url in [
            "",
            "http://kbs.example.org",
            "HTTPS://kbs.example.org",
            "https://",
            "https://:443",
            "https://kbs.example.org/",
            "https://kbs.example.org/path",
            "https://kbs.example.org?query",
            "https://user@kbs.example.org",
            "https://kbs.example.org:",
            "https://kbs.example.org:0",
            "https://kbs.example.org:08443",
            "https://kbs.example.org:+443",
            "https://kbs.example.org:65536",
            "https://kbs.example.org:1:2",
            "https://[::1]:8443",
            "https://kbs..example.org",
            "https://-kbs.example.org",
            "https://kbs.example.org\r\nHost: x",
        ] {
            assert_eq!(Url::parse(url), None, "{url:?}");
        }
    }
}
