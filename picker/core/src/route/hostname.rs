//! Hostnames of listeners and routes: which hosts each stands for, and which of two is the more specific.

use std::sync::Arc;

/// The hosts that a listener or route is for.
///
/// A wildcard such as `*.example.com` is a suffix match: it stands for `a.example.com` and `a.b.example.com`, and not
/// for `example.com`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hostname {
    /// Every host.
    Any,
    /// The hosts that end in this, which begins with a dot, and have something before it.
    Suffix(Arc<str>),
    /// This host alone.
    Exact(Arc<str>),
}

impl Hostname {
    /// Reads the hostname of a listener or route; absent or empty is every host.
    pub(crate) fn of(name: Option<&str>) -> Self {
        let name = name.unwrap_or_default().to_ascii_lowercase();
        match name.strip_prefix('*') {
            _ if name.is_empty() => Self::Any,
            Some(suffix) if suffix.starts_with('.') => Self::Suffix(suffix.into()),
            _ => Self::Exact(name.into()),
        }
    }

    /// Whether it stands for `host`, which is in lower case and without a port.
    pub(crate) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Exact(name) => **name == *host,
        }
    }

    /// Whether there is a host that both stand for.
    pub(crate) fn intersects(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Exact(name), other) | (other, Self::Exact(name)) => other.matches(name),
            (Self::Suffix(one), Self::Suffix(other)) => {
                one.ends_with(&**other) || other.ends_with(&**one)
            }
        }
    }

    /// Whether every host that it stands for is one that the other, wider one stands for too.
    pub(crate) fn is_narrower_than(&self, other: &Self) -> bool {
        self != other
            && match (self, other) {
                (_, Self::Any) => true,
                (Self::Exact(name), other) => other.matches(name),
                (Self::Suffix(one), Self::Suffix(other)) => one.ends_with(&**other),
                (Self::Any | Self::Suffix(_), _) => false,
            }
    }

    /// The text under which an index keeps it: empty for every host, with a leading dot for a suffix.
    pub(crate) fn index_key(&self) -> Arc<str> {
        match self {
            Self::Any => "".into(),
            Self::Suffix(text) | Self::Exact(text) => text.clone(),
        }
    }
}

/// The keys under which an index keeps the wildcards that stand for `host`, the narrowest first, and every host last.
pub(crate) fn wide_keys(host: &str) -> impl Iterator<Item = &str> {
    let suffixes = host.match_indices('.').filter(|&(at, _dot)| at > 0);
    suffixes.map(|(at, _dot)| &host[at..]).chain([""])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Hostname {
        Hostname::of(Some(text))
    }

    #[test]
    fn a_wildcard_stands_for_any_number_of_labels_but_not_for_none() {
        let wildcard = name("*.Example.com");
        assert!(wildcard.matches("a.example.com") && wildcard.matches("a.b.example.com"));
        assert!(!wildcard.matches("example.com") && !wildcard.matches(".example.com"));
        assert!(!wildcard.matches("aexample.com"));
    }

    #[test]
    fn two_hostnames_meet_when_some_host_is_in_both() {
        assert!(name("*.com").intersects(&name("*.example.com")));
        assert!(name("*.example.com").intersects(&name("a.b.example.com")));
        assert!(!name("*.example.com").intersects(&name("example.com")));
        assert!(!name("*.b.com").intersects(&name("*.ab.com")));
        assert!(Hostname::of(None).intersects(&name("a")));
    }

    #[test]
    fn the_narrower_of_two_is_the_one_inside_the_other() {
        assert!(name("a.example.com").is_narrower_than(&name("*.example.com")));
        assert!(name("*.example.com").is_narrower_than(&name("*.com")));
        assert!(name("*.com").is_narrower_than(&Hostname::Any));
        assert!(!name("*.com").is_narrower_than(&name("*.com")));
        assert!(!name("*.com").is_narrower_than(&name("*.example.com")));
    }

    #[test]
    fn wildcards_are_looked_up_from_the_narrowest_to_every_host() {
        let keys: Vec<_> = wide_keys("a.b.c").collect();
        assert_eq!(keys, [".b.c", ".c", ""]);
        assert_eq!(wide_keys(".b").collect::<Vec<_>>(), [""]);
    }
}
