//! A rule's filters: what a request that meets the rule looks like after them, and what it looked like before.
//!
//! Only a picker that is called after the filters ([`Sight::AfterFilters`](super::head::Sight)) needs this.

use std::sync::Arc;

use super::head::{Head, Parts};
use super::hostname::Hostname;
use super::object::{Filter, HeaderModifier, UrlRewrite};
use super::rule::{Condition, Conditions, PathCondition, Pattern, Text};

/// What the filters of a rule, and of a backend of it, do to host, path and headers together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    host: Option<Arc<str>>,
    path: Option<NewPath>,
    set: Vec<(Arc<str>, Arc<str>)>,
    add: Vec<(Arc<str>, Arc<str>)>,
    remove: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NewPath {
    Full(Arc<str>),
    /// What stands in the place of the matched prefix, without a slash at the end.
    Prefix(Arc<str>),
}

/// How to tell what a request was before the filters, if it went by one match of one rule.
#[derive(Debug)]
pub(super) struct Undo {
    pub(super) change: Change,
    /// The hosts that the match is for.
    pub(super) hosts: Vec<Hostname>,
    /// The conditions of the match.
    pub(super) conditions: Conditions,
}

/// A head whose texts are its own.
#[derive(Clone, Debug)]
pub(super) struct OwnedHead {
    authority: String,
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl Change {
    /// What these filters do, in order; `None` if they change nothing that a route looks at.
    pub(super) fn of<'f>(filters: impl Iterator<Item = &'f Filter>) -> Option<Self> {
        let mut change = Self::default();
        for filter in filters {
            if let Some(modifier) = &filter.request_header_modifier {
                change.take_headers(modifier);
            }
            if let Some(rewrite) = &filter.url_rewrite {
                change.take_rewrite(rewrite);
            }
        }
        (change != Self::default()).then_some(change)
    }

    fn take_headers(&mut self, modifier: &HeaderModifier) {
        let lower = |name: &str| -> Arc<str> { name.to_ascii_lowercase().into() };
        for header in &modifier.set {
            self.set.push((lower(&header.name), header.value.clone()));
        }
        for header in &modifier.add {
            self.add.push((lower(&header.name), header.value.clone()));
        }
        self.remove
            .extend(modifier.remove.iter().map(|name| lower(name)));
    }

    fn take_rewrite(&mut self, rewrite: &UrlRewrite) {
        if let Some(host) = &rewrite.hostname {
            self.host = Some(host.to_ascii_lowercase().into());
        }
        let Some(path) = &rewrite.path else { return };
        if let Some(full) = &path.replace_full_path {
            self.path = Some(NewPath::Full(full.clone()));
        } else if let Some(prefix) = &path.replace_prefix_match {
            let bare = prefix.strip_suffix('/').unwrap_or(prefix);
            self.path = Some(NewPath::Prefix(bare.into()));
        }
    }

    /// The host of requests after the filters; `host` where they leave it.
    pub(super) fn host_after(&self, host: &Hostname) -> Hostname {
        match &self.host {
            Some(name) => Hostname::Exact(name.clone()),
            None => host.clone(),
        }
    }

    /// What holds of requests after the filters, if `conditions` held before.
    pub(super) fn conditions_after(&self, conditions: &Conditions) -> Conditions {
        let mut after = conditions.clone();
        match (&self.path, &conditions.path) {
            (Some(NewPath::Full(path)), _) => after.path = PathCondition::Exact(path.clone()),
            (Some(NewPath::Prefix(prefix)), PathCondition::Prefix(_)) => {
                after.path = PathCondition::Prefix(prefix.clone());
            }
            _ => {}
        }
        let changed = |name: &Arc<str>| {
            self.remove.contains(name)
                || self
                    .set
                    .iter()
                    .chain(&self.add)
                    .any(|(other, _)| other == name)
        };
        after.headers.retain(|condition| !changed(&condition.name));
        for (name, value) in &self.set {
            after.headers.push(Condition {
                name: name.clone(),
                value: Text::Exact(value.clone()),
            });
        }
        for (name, value) in &self.add {
            let last = format!("(?s:.*,)?{}", regex::escape(value)).into();
            if let Ok(pattern) = Pattern::of(&last) {
                after.headers.push(Condition {
                    name: name.clone(),
                    value: Text::Pattern(pattern),
                });
            }
        }
        after
    }
}

impl Undo {
    /// Requests that the filters turn into the one seen: one for each host of the match.
    ///
    /// What the filters wiped out is taken from the conditions, as far as those tell.
    pub(super) fn heads<'u>(&'u self, seen: &'u Parts<'_>) -> impl Iterator<Item = OwnedHead> + 'u {
        // Where the host stays, it tells which of the hosts it was.
        let hosts = match self.change.host {
            Some(_) => &self.hosts[..],
            None => &self.hosts[..1],
        };
        hosts.iter().map(|host| self.head(seen, host))
    }

    fn head(&self, seen: &Parts<'_>, host: &Hostname) -> OwnedHead {
        let Self {
            change, conditions, ..
        } = self;
        let mut before = OwnedHead::of(seen);
        if change.host.is_some() {
            before.authority = match host {
                Hostname::Any => before.authority,
                Hostname::Suffix(suffix) => format!("any{suffix}"),
                Hostname::Exact(name) => name.to_string(),
            };
        }
        match (&change.path, &conditions.path) {
            (Some(NewPath::Prefix(new)), PathCondition::Prefix(old)) => {
                let rest = seen.path.strip_prefix(&**new).unwrap_or_default();
                before.path = or_root(format!("{old}{rest}"));
            }
            (Some(NewPath::Full(_)), PathCondition::Prefix(path) | PathCondition::Exact(path)) => {
                before.path = or_root(path.to_string());
            }
            _ => {}
        }
        for (name, value) in &change.add {
            before.drop_last(name, value);
        }
        let wiped = change
            .set
            .iter()
            .map(|(name, _)| name)
            .chain(&change.remove);
        for name in wiped {
            before.headers.retain(|(other, _)| *other != **name);
        }
        for condition in &conditions.headers {
            let missing = !before
                .headers
                .iter()
                .any(|(name, _)| *name == *condition.name);
            if let (true, Text::Exact(value)) = (missing, &condition.value) {
                let header = (condition.name.to_string(), value.to_string());
                before.headers.push(header);
            }
        }
        before
    }
}

fn or_root(path: String) -> String {
    if path.is_empty() {
        "/".to_owned()
    } else {
        path
    }
}

impl OwnedHead {
    fn of(parts: &Parts<'_>) -> Self {
        let headers = parts.headers.iter();
        Self {
            authority: parts.host.to_string(),
            method: parts.method.to_owned(),
            path: parts.path.to_owned(),
            query: parts.query.to_owned(),
            headers: headers
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    /// Takes the value that a filter added off the last header of that name.
    fn drop_last(&mut self, name: &str, value: &str) {
        let Some(at) = self.headers.iter().rposition(|(other, _)| other == name) else {
            return;
        };
        let rest = self.headers[at].1.strip_suffix(value).map(str::to_owned);
        match rest
            .as_deref()
            .map(|rest| rest.strip_suffix(',').unwrap_or(rest))
        {
            Some("") => drop(self.headers.remove(at)),
            Some(rest) => self.headers[at].1 = rest.to_owned(),
            None => {}
        }
    }

    /// Looks at it as at a head that came in.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Head<'_>) -> R) -> R {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        look(&Head {
            authority: &self.authority,
            method: &self.method,
            path: &format!("{}?{}", self.path, self.query),
            headers: &headers,
        })
    }
}
