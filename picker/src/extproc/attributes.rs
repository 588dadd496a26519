//! What the proxy says beside the HTTP message: headers, the subset hint, the endpoint that served.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::google::protobuf::Value;
use envoy_types::pb::google::protobuf::value::Kind;
use picker_core::endpoint::Subset;

/// The header, and the key of dynamic metadata, that says where a request goes.
pub(super) const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The namespace of dynamic metadata that proxies read the destination from.
pub(super) const NAMESPACE: &str = "envoy.lb";
const SERVED: &str = "x-gateway-destination-endpoint-served";
const SUBSET_NAMESPACE: &str = "envoy.lb.subset_hint";
const SUBSET: &str = "x-gateway-destination-endpoint-subset";

/// The value of a header; names come in lower case, values in `raw_value` or, from older proxies, in `value`.
pub(super) fn header<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    let found = headers?
        .headers
        .iter()
        .rev()
        .find(|header| header.key == name)?;
    text(found)
}

fn text(header: &HeaderValue) -> Option<&str> {
    if header.raw_value.is_empty() {
        Some(&header.value)
    } else {
        std::str::from_utf8(&header.raw_value).ok()
    }
}

/// The endpoints to which the proxy limits the choice; `None` if it gives no hint.
///
/// A list, or a string with commas; anything else is an empty hint, which leaves no endpoint.
pub(super) fn subset(metadata: Option<&Metadata>) -> Option<Subset> {
    let value = value(metadata, SUBSET_NAMESPACE, SUBSET)?;
    Some(match value.kind.as_ref() {
        Some(Kind::StringValue(list)) => Subset::parse([list.as_str()]),
        Some(Kind::ListValue(list)) => {
            Subset::parse(
                list.values
                    .iter()
                    .filter_map(|value| match value.kind.as_ref() {
                        Some(Kind::StringValue(token)) => Some(token.as_str()),
                        _ => None,
                    }),
            )
        }
        _ => Subset::default(),
    })
}

/// The endpoint that the proxy says served the request.
pub(super) fn served(metadata: Option<&Metadata>) -> Option<SocketAddr> {
    match value(metadata, NAMESPACE, SERVED)?.kind.as_ref()? {
        Kind::StringValue(address) => address.parse().ok(),
        _ => None,
    }
}

fn value<'a>(metadata: Option<&'a Metadata>, namespace: &str, key: &str) -> Option<&'a Value> {
    metadata?.filter_metadata.get(namespace)?.fields.get(key)
}
