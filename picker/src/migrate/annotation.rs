//! Annotations of Ingresses: what each becomes, and why some become nothing.

use std::collections::BTreeMap;

use super::notice::Notices;

/// What nginx's annotations have in front of their names.
const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// The annotations of an Ingress that decide what its rules become.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    /// Whether paths are regular expressions.
    pub(super) regex: bool,
    /// What a path is replaced by.
    pub(super) rewrite: Option<String>,
    /// The part of requests that a canary gets, of how many.
    pub(super) canary: Option<Canary>,
}

/// Which requests a canary gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Canary {
    /// So many of so many.
    Weight(u32, u32),
    /// Those with a header of this value.
    Header(String, String),
    /// It cannot be said in a route.
    Unknown,
}

/// Annotations without a successor, by how their names begin, and why.
const DROPPED: &[(&str, &str)] = &[
    (
        "load-balance",
        "the picker chooses the server, by load and by what it has loaded",
    ),
    (
        "upstream-hash-by",
        "the picker chooses the server, by load and by what it has loaded",
    ),
    (
        "affinity",
        "the picker keeps requests where their adapter is, and spreads the rest by load",
    ),
    (
        "session-cookie",
        "the picker keeps requests where their adapter is, and spreads the rest by load",
    ),
    (
        "service-upstream",
        "gateways send requests to the pods of a pool",
    ),
    (
        "proxy-buffering",
        "gateways pass streamed responses on as they come",
    ),
    (
        "proxy-request-buffering",
        "the picker decides how much of a body is held: --body-limit",
    ),
];

/// Annotations that have to be seen to by hand, by how their names begin, and how.
const LEFT: &[(&str, &str)] = &[
    (
        "proxy-read-timeout",
        "the time between two reads has no field in an HTTPRoute; set the gateway's idle timeout, or timeouts.request of the rule, above the longest answer",
    ),
    (
        "proxy-send-timeout",
        "there is no such field in an HTTPRoute; set the gateway's timeouts",
    ),
    (
        "proxy-connect-timeout",
        "there is no such field in an HTTPRoute; set the gateway's connect timeout",
    ),
    (
        "proxy-body-size",
        "set the gateway's limit of request bodies, and --body-limit of the picker to what has to be read for a pick",
    ),
    (
        "ssl-redirect",
        "give the Gateway a listener on port 80 with an HTTPRoute whose filter is RequestRedirect to https",
    ),
    (
        "force-ssl-redirect",
        "give the Gateway a listener on port 80 with an HTTPRoute whose filter is RequestRedirect to https",
    ),
    (
        "backend-protocol",
        "gateways speak plain HTTP to pools, HTTP/2 with appProtocol kubernetes.io/h2c of the pool",
    ),
    (
        "auth-",
        "ACCESS CONTROL: without it everybody gets in; set the gateway's authentication before you move traffic",
    ),
    (
        "whitelist-source-range",
        "ACCESS CONTROL: without it everybody gets in; set the gateway's policy for addresses before you move traffic",
    ),
    (
        "denylist-source-range",
        "ACCESS CONTROL: without it everybody gets in; set the gateway's policy for addresses before you move traffic",
    ),
    (
        "limit-",
        "set the gateway's rate limits; the picker refuses nobody by rate",
    ),
    (
        "enable-cors",
        "use a CORS filter of the HTTPRoute, where the gateway has it",
    ),
    (
        "cors-",
        "use a CORS filter of the HTTPRoute, where the gateway has it",
    ),
    (
        "configuration-snippet",
        "nginx's own language has no counterpart; say by filters what it does",
    ),
    (
        "server-snippet",
        "nginx's own language has no counterpart; say by filters what it does",
    ),
];

/// Reads the annotations of an Ingress, and notes what becomes of those that rules do not depend on.
pub(super) fn read(
    title: &str,
    annotations: &BTreeMap<String, String>,
    notices: &mut Notices,
) -> Annotations {
    let mut read = Annotations::default();
    let is_canary = annotations
        .get(&format!("{NGINX}canary"))
        .map(String::as_str)
        == Some("true");
    if is_canary {
        read.canary = Some(canary(annotations));
    }
    for (name, value) in annotations {
        let field = format!("metadata.annotations[{name}]");
        let Some(bare) = name.strip_prefix(NGINX) else {
            foreign(title, name, &field, notices);
            continue;
        };
        match bare {
            "use-regex" => {
                read.regex = value == "true";
                notices.converted(
                    title,
                    &field,
                    "paths become matches of type RegularExpression",
                );
            }
            "rewrite-target" => read.rewrite = Some(value.clone()),
            _ if bare.starts_with("canary") => canary_notice(title, bare, &field, &read, notices),
            "backend-protocol" if value == "HTTP" => {}
            "ssl-redirect" | "force-ssl-redirect" if value == "false" => {}
            _ => {
                let begins = |(begin, _): &&(&str, &str)| bare.starts_with(begin);
                match (DROPPED.iter().find(begins), LEFT.iter().find(begins)) {
                    (Some((_, why)), _) => notices.dropped(title, &field, *why),
                    (_, Some((_, why))) => notices.left(title, &field, *why),
                    _ => notices.left(title, &field, "this annotation is not known here"),
                }
            }
        }
    }
    read
}

fn canary(annotations: &BTreeMap<String, String>) -> Canary {
    let value = |name: &str| annotations.get(&format!("{NGINX}{name}"));
    let number = |name: &str| value(name).and_then(|it| it.parse::<u32>().ok());
    if let Some(header) = value("canary-by-header") {
        let wanted = value("canary-by-header-value").map_or("always", String::as_str);
        return Canary::Header(header.clone(), wanted.to_owned());
    }
    match number("canary-weight") {
        Some(weight) => {
            let total = number("canary-weight-total").unwrap_or(100);
            Canary::Weight(weight.min(total), total)
        }
        None => Canary::Unknown,
    }
}

fn canary_notice(title: &str, bare: &str, field: &str, read: &Annotations, notices: &mut Notices) {
    match (bare, &read.canary) {
        ("canary", Some(Canary::Unknown)) => notices.left(
            title,
            field,
            "a canary by nothing but cookies cannot be said in a route; use a header or a weight",
        ),
        ("canary", Some(_)) => {
            notices.converted(
                title,
                field,
                "a part of the rules of the Ingress that it is the canary of",
            );
        }
        ("canary-by-cookie" | "canary-by-header-pattern", _) => {
            notices.left(title, field, "use a match of type Exact on a header");
        }
        ("canary-weight", Some(Canary::Header(..))) => {
            notices.left(
                title,
                field,
                "the canary is taken by its header; add its weight to the other rule by hand",
            );
        }
        _ => {}
    }
}

/// Annotations of others than nginx.
fn foreign(title: &str, name: &str, field: &str, notices: &mut Notices) {
    let prefix = name.split_once('/').map_or("", |(prefix, _)| prefix);
    match prefix {
        "kubectl.kubernetes.io" | "meta.helm.sh" | "argocd.argoproj.io" => {}
        "cert-manager.io" | "acme.cert-manager.io" => {
            notices.left(
                title,
                field,
                "cert-manager takes it on the Gateway, for its listeners",
            );
        }
        "external-dns.alpha.kubernetes.io" => {
            notices.left(
                title,
                field,
                "external-dns takes it on the Gateway or the HTTPRoute",
            );
        }
        "kubernetes.io" => {
            notices.dropped(title, field, "the Gateway's class says who serves it");
        }
        _ if prefix.contains("traefik")
            || prefix.contains("konghq")
            || prefix.contains("haproxy") =>
        {
            notices.left(
                title,
                field,
                "it is for that controller alone; see what the gateway has for it",
            );
        }
        _ => notices.left(title, field, "this annotation is not known here"),
    }
}
