//! The pool that a gateway's own name for a cluster or route says: the names that gateways give to what leads to a pool.

/// The namespace and name of the pool that `name` speaks of; `None` where it is a name of another kind. Names of routes
/// and their rules say nothing: a route may be called as a pool is, and lead to another.
pub(super) fn pool_of(name: &str) -> Option<(&str, &str)> {
    of_endpoint_picker(name)
        .or_else(|| of_istio(name))
        .or_else(|| plain(name))
}

/// `endpointpicker_NAME_NAMESPACE_original_dst`, as kgateway calls the cluster of a pool, and Envoy AI Gateway with `envoy.clusters.`
/// before it.
fn of_endpoint_picker(name: &str) -> Option<(&str, &str)> {
    let (_, rest) = name.split_once("endpointpicker_")?;
    let mut parts = rest.split('_');
    let (name, namespace) = (parts.next()?, parts.next()?);
    Some((namespace, name))
}

/// `outbound|54321||NAME-ip-HASH.NAMESPACE.svc.cluster.local`: Istio makes a Service for each pool, with eight digits of
/// a hash.
fn of_istio(name: &str) -> Option<(&str, &str)> {
    let host = name.strip_prefix("outbound|")?.rsplit('|').next()?;
    let (service, rest) = host.split_once('.')?;
    let (namespace, _) = rest.split_once('.')?;
    let (pool, hash) = service.rsplit_once("-ip-")?;
    let is_hash = hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some((namespace, pool))
}

/// `NAMESPACE/NAME` and nothing else, as in configurations of one's own.
fn plain(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.split_once('/')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_gateways_make_for_pools_name_them_and_no_others_do() {
        let chat = Some(("ai", "chat"));
        for (name, expected) in [
            ("endpointpicker_chat_ai_original_dst", chat),
            ("envoy.clusters.endpointpicker_chat_ai_ext_proc", chat),
            (
                "outbound|54321||chat-ip-1a2b3c4d.ai.svc.cluster.local",
                chat,
            ),
            ("ai/chat", chat),
            ("outbound|8000||chat.ai.svc.cluster.local", None),
            ("outbound|8000||chat-ip-range.ai.svc.cluster.local", None),
            ("outbound|8000||chat-ip-1a2b3c4d", None),
            ("httproute/ai/chat/rule/0", None),
            ("endpointpicker_chat", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(pool_of(name), expected, "{name}");
        }
    }
}
