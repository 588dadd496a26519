//! The head of an HTTP request, as far as routes look at it.

use std::borrow::Cow;

/// The first line and headers of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    /// `:authority`, or the Host header.
    pub authority: &'a str,
    /// `:method`.
    pub method: &'a str,
    /// `:path`, with the query.
    pub path: &'a str,
    /// Names, in lower case, and values, as often as they were sent; pseudo-headers do no harm.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Where in the gateway the picker is called, which decides what it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// Before a route's filters: the picker sees host, path and headers as the client sent them.
    ///
    /// So it is in Envoy and what is built on it: `ext_proc` is a filter before the router, and the router applies the
    /// route's rewrites and header changes last of all (`source/common/router/router.cc`, `finalizeRequestHeaders`).
    #[default]
    BeforeFilters,
    /// After a route's filters: the picker sees host, path and headers as the model server will.
    ///
    /// A proxy that applies a route's filters before it calls the picker shows it this.
    AfterFilters,
}

/// A head, taken apart once for all conditions.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) host: Cow<'a, str>,
    pub(super) port: Option<u16>,
    pub(super) path: &'a str,
    pub(super) method: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a [(&'a str, &'a str)],
}

impl<'a> Parts<'a> {
    pub(super) fn of(head: &Head<'a>) -> Self {
        let (host, port) = split_port(head.authority);
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        let target = head.path.split('#').next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            host,
            port,
            path,
            method: head.method,
            query,
            headers: head.headers,
        }
    }

    /// The value of a header; several of the same name are joined by commas, as RFC 9110 (5.3) has it.
    pub(super) fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut values = self.headers.iter().filter(|(other, _)| *other == name);
        let (_, first) = values.next()?;
        let mut joined = Cow::Borrowed(*first);
        for (_, value) in values {
            let text = joined.to_mut();
            text.push(',');
            text.push_str(value);
        }
        Some(joined)
    }

    /// The first value of a query parameter, as it stands in the request: nothing is decoded, as in Envoy.
    pub(super) fn parameter(&self, name: &str) -> Option<&'a str> {
        self.query.split('&').find_map(|pair| {
            let (other, value) = pair.split_once('=').unwrap_or((pair, ""));
            (other == name && !pair.is_empty()).then_some(value)
        })
    }
}

fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        // An IPv6 address without a port ends in its bracket.
        Some((_, port)) if port.ends_with(']') => (authority, None),
        Some((host, port)) => (host, port.parse().ok()),
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(authority: &'static str, path: &'static str) -> Parts<'static> {
        Parts::of(&Head {
            authority,
            path,
            ..Head::default()
        })
    }

    #[test]
    fn the_port_is_not_part_of_the_host() {
        for (authority, host, port) in [
            ("Chat.Example.com:8080", "chat.example.com", Some(8080)),
            ("chat.example.com", "chat.example.com", None),
            ("[::1]:80", "[::1]", Some(80)),
            ("[::1]", "[::1]", None),
            ("", "", None),
        ] {
            let parts = parts(authority, "/");
            assert_eq!((&*parts.host, parts.port), (host, port), "{authority}");
        }
    }

    #[test]
    fn the_query_is_not_part_of_the_path() {
        let parts = parts("", "/v1/models?a=1&b&a=2#top");
        assert_eq!(parts.path, "/v1/models");
        assert_eq!(parts.parameter("a"), Some("1"));
        assert_eq!(parts.parameter("b"), Some(""));
        assert_eq!(parts.parameter("c"), None);
    }
}
