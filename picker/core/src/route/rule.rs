//! One match of one rule, compiled: its conditions, and its place in the order of precedence.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::literal::Extractor;

use super::head::Parts;
use super::object::{
    GrpcMatch, GrpcMethodMatch, HttpMatch, Metadata, NameMatch, PathMatch, PathMatchKind,
    ValueMatchKind,
};

/// The most memory that one regular expression may take when compiled; a larger one matches nothing.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// The place of a match in the order of precedence, among those of routes with the same hostname; least is first.
///
/// The order is that of `HTTPRouteRule.matches` and `GRPCRouteRule.matches` in the Gateway API. Where the API leaves it
/// to the implementation, a regular expression stands after an exact path and before a prefix, longer ones first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    path: PathClass,
    /// Characters of the path, or of a call's service.
    length: Reverse<usize>,
    /// Characters of a call's method.
    method_length: Reverse<usize>,
    any_method: bool,
    headers: Reverse<usize>,
    parameters: Reverse<usize>,
    /// What decides between routes.
    pub(crate) age: Age,
    rule: usize,
    index: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathClass {
    Exact,
    Regex,
    Prefix,
}

/// What decides between routes that match equally well: the older one, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age {
    created: Option<Arc<str>>,
    namespace: Arc<str>,
    name: Arc<str>,
}

/// The conditions of a match, all of which a request has to meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) path: PathCondition,
    pub(crate) method: Option<Arc<str>>,
    pub(crate) headers: Vec<Condition>,
    pub(crate) parameters: Vec<Condition>,
}

/// A condition on a header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// In lower case, if it is a header's.
    pub(crate) name: Arc<str>,
    pub(crate) value: Text,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathCondition {
    /// The whole path.
    Exact(Arc<str>),
    /// The first elements; without a slash at the end, so that every path has the empty one.
    Prefix(Arc<str>),
    /// The whole path.
    Pattern(Pattern),
    /// A call's service and method.
    Call {
        service: Option<Text>,
        method: Option<Text>,
    },
}

/// What a text is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    /// Byte by byte.
    Exact(Arc<str>),
    /// The whole of it.
    Pattern(Pattern),
}

/// A regular expression, which has to match the whole of a text.
#[derive(Clone)]
pub(crate) struct Pattern {
    source: Arc<str>,
    compiled: Regex,
}

/// A match that can never be met, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// A regular expression that cannot be read, or is too large.
    Pattern(Arc<str>, String),
    /// A kind of comparison that is not known.
    Kind,
}

impl Conditions {
    /// The conditions of a match of an HTTPRoute.
    pub(crate) fn of_http(wanted: &HttpMatch) -> Result<Self, Unusable> {
        Ok(Self {
            path: PathCondition::of(wanted.path.as_ref().unwrap_or(&PathMatch::default()))?,
            method: wanted.method.clone(),
            headers: conditions(&wanted.headers, |name| name.to_ascii_lowercase().into())?,
            parameters: conditions(&wanted.query_params, Arc::clone)?,
        })
    }

    /// The conditions of a match of a GRPCRoute.
    pub(crate) fn of_grpc(wanted: &GrpcMatch) -> Result<Self, Unusable> {
        let path = match &wanted.method {
            None => PathCondition::Call {
                service: None,
                method: None,
            },
            Some(call) => PathCondition::of_call(call)?,
        };
        Ok(Self {
            path,
            method: None,
            headers: conditions(&wanted.headers, |name| name.to_ascii_lowercase().into())?,
            parameters: Vec::new(),
        })
    }

    pub(super) fn met_by(&self, parts: &Parts<'_>) -> bool {
        self.method
            .as_ref()
            .is_none_or(|method| **method == *parts.method)
            && self.path.met_by(parts.path)
            && self.headers.iter().all(|header| {
                let value = parts.header(&header.name);
                value.is_some_and(|value| header.value.matches(&value))
            })
            && self.parameters.iter().all(|parameter| {
                let value = parts.parameter(&parameter.name);
                value.is_some_and(|value| parameter.value.matches(value))
            })
    }
}

/// Of several conditions on one name the first counts, and the others are ignored.
fn conditions(
    wanted: &[NameMatch],
    name_of: impl Fn(&Arc<str>) -> Arc<str>,
) -> Result<Vec<Condition>, Unusable> {
    let mut conditions: Vec<Condition> = Vec::with_capacity(wanted.len());
    for one in wanted {
        let name = name_of(&one.name);
        if conditions.iter().all(|other| other.name != name) {
            let value = Text::of(one.kind, &one.value)?;
            conditions.push(Condition { name, value });
        }
    }
    Ok(conditions)
}

// === impl PathCondition ===

impl PathCondition {
    fn of(wanted: &PathMatch) -> Result<Self, Unusable> {
        Ok(match wanted.kind {
            PathMatchKind::Exact => Self::Exact(wanted.value.clone()),
            PathMatchKind::PathPrefix => Self::prefix(&wanted.value),
            PathMatchKind::RegularExpression => Self::Pattern(Pattern::of(&wanted.value)?),
            PathMatchKind::Unknown => return Err(Unusable::Kind),
        })
    }

    pub(super) fn prefix(value: &str) -> Self {
        Self::Prefix(value.strip_suffix('/').unwrap_or(value).into())
    }

    fn of_call(call: &GrpcMethodMatch) -> Result<Self, Unusable> {
        let text = |value: &Option<Arc<str>>| {
            let value = value.as_ref().filter(|value| !value.is_empty());
            value.map(|value| Text::of(call.kind, value)).transpose()
        };
        Ok(Self::Call {
            service: text(&call.service)?,
            method: text(&call.method)?,
        })
    }

    fn met_by(&self, path: &str) -> bool {
        match self {
            Self::Exact(whole) => **whole == *path,
            Self::Prefix(prefix) => path.strip_prefix(&**prefix).is_some_and(|rest| {
                // `OPTIONS *` has no element, and the prefix of the root is for it too.
                prefix.is_empty() || rest.is_empty() || rest.starts_with('/')
            }),
            Self::Pattern(pattern) => pattern.matches(path),
            Self::Call { service, method } => {
                let Some((of, called)) = path.strip_prefix('/').and_then(|it| it.split_once('/'))
                else {
                    return false;
                };
                let fits = |text: &Option<Text>, value| {
                    text.as_ref().is_none_or(|text| text.matches(value))
                };
                fits(service, of) && fits(method, called)
            }
        }
    }
}

// === impl Text, Pattern ===

impl Text {
    fn of(kind: ValueMatchKind, value: &Arc<str>) -> Result<Self, Unusable> {
        Ok(match kind {
            ValueMatchKind::Exact => Self::Exact(value.clone()),
            ValueMatchKind::RegularExpression => Self::Pattern(Pattern::of(value)?),
            ValueMatchKind::Unknown => return Err(Unusable::Kind),
        })
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *value,
            Self::Pattern(pattern) => pattern.matches(value),
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Exact(text) => text.chars().count(),
            Self::Pattern(pattern) => pattern.source.chars().count(),
        }
    }
}

impl Pattern {
    pub(crate) fn of(source: &Arc<str>) -> Result<Self, Unusable> {
        // The group keeps the anchors outside of an alternation.
        let whole = RegexBuilder::new(&format!("^(?:{source})$"))
            .size_limit(REGEX_BYTES_MAX)
            // Without the lazy automaton: its cache is megabytes for each expression and thread, and paths are short.
            .dfa_size_limit(0)
            .build();
        let compiled =
            whole.map_err(|error| Unusable::Pattern(source.clone(), error.to_string()))?;
        Ok(Self {
            source: source.clone(),
            compiled,
        })
    }

    fn matches(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The elements that every path it matches begins with, without a slash at the end.
    pub(crate) fn first_elements(&self) -> Arc<str> {
        let common = regex_syntax::parse(&self.source).ok().and_then(|parsed| {
            let prefixes = Extractor::new().extract(&parsed);
            let common = prefixes.longest_common_prefix()?;
            std::str::from_utf8(common).ok().map(str::to_owned)
        });
        let common = common.unwrap_or_default();
        common.rfind('/').map_or("", |end| &common[..end]).into()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/{}/", self.source)
    }
}

// === impl Rank ===

impl Rank {
    /// The place of a match with these conditions: match `index` of rule `rule` of a route of that age.
    ///
    /// `prefix_length` is the length of a prefix as it is written, a slash at its end included.
    pub(crate) fn of(
        conditions: &Conditions,
        prefix_length: usize,
        age: Age,
        (rule, index): (usize, usize),
    ) -> Self {
        let length = |text: &Option<Text>| text.as_ref().map_or(0, Text::length);
        let (path, length, method_length) = match &conditions.path {
            PathCondition::Exact(path) => (PathClass::Exact, path.chars().count(), 0),
            PathCondition::Pattern(it) => (PathClass::Regex, it.source.chars().count(), 0),
            PathCondition::Prefix(_) => (PathClass::Prefix, prefix_length, 0),
            PathCondition::Call { service, method } => {
                (PathClass::Prefix, length(service), length(method))
            }
        };
        Self {
            path,
            length: Reverse(length),
            method_length: Reverse(method_length),
            any_method: conditions.method.is_none(),
            headers: Reverse(conditions.headers.len()),
            parameters: Reverse(conditions.parameters.len()),
            age,
            rule,
            index,
        }
    }
}

impl Age {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            created: metadata.creation_timestamp.clone(),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
        }
    }
}
