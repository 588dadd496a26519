//! What a client is told whose request goes nowhere: each reason in each dialect.

use std::fmt::Write as _;

use picker_core::refusal::{Answer, Dialect, Reason, Refusal};

const REASONS: [Reason; 4] = [
    Reason::NoPool,
    Reason::NoEndpoints,
    Reason::EmptySubset,
    Reason::Overloaded,
];

fn refusal(reason: Reason) -> Refusal {
    Refusal {
        reason,
        message: "the pool \"café\" is 100% full; try later\n".to_owned(),
        retry_after_s: (reason == Reason::Overloaded).then_some(7),
    }
}

/// An answer as it goes over the wire.
fn told(answer: &Answer) -> String {
    let mut text = format!("{}\n", answer.status);
    for (name, value) in &answer.headers {
        let _infallible = writeln!(text, "{name}: {value}");
    }
    let body = String::from_utf8_lossy(&answer.body);
    let _infallible = write!(text, "\n{body}");
    text
}

#[test]
fn every_reason_has_an_answer_in_every_dialect() {
    let mut page = String::new();
    for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Grpc] {
        for reason in REASONS {
            let answer = told(&refusal(reason).answer(dialect));
            let _infallible = writeln!(page, "--- {dialect:?}, {}\n{answer}", reason.as_str());
        }
    }
    insta::assert_snapshot!(page);
}

#[test]
fn a_grpc_status_is_the_same_in_the_headers_and_beside_them() {
    for (reason, code) in REASONS.into_iter().zip([14, 14, 14, 8]) {
        let answer = refusal(reason).answer(Dialect::Grpc);
        assert_eq!(answer.grpc_status, Some(code));
        assert!(answer.headers.contains(&("grpc-status", code.to_string())));
        assert_eq!(refusal(reason).answer(Dialect::OpenAi).grpc_status, None);
    }
}

#[test]
fn a_client_is_never_told_to_wait_over_a_minute_nor_not_at_all() {
    for (asked, said) in [(0, "1"), (1, "1"), (59, "59"), (61, "60"), (u32::MAX, "60")] {
        let refusal = Refusal {
            retry_after_s: Some(asked),
            ..refusal(Reason::NoEndpoints)
        };
        for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Grpc] {
            let headers = refusal.answer(dialect).headers;
            assert!(
                headers.contains(&("retry-after", said.to_owned())),
                "{asked} {dialect:?}"
            );
        }
    }
}

#[test]
fn path_and_content_type_name_the_dialect() {
    let cases = [
        ("/v1/chat/completions", "application/json", Dialect::OpenAi),
        ("/v1/messages", "application/json", Dialect::Anthropic),
        ("/v1/messages/?beta=true", "", Dialect::Anthropic),
        ("/v1/messages/count_tokens", "", Dialect::Anthropic),
        ("/v1/my-messages", "", Dialect::OpenAi),
        ("/search?q=/messages", "", Dialect::OpenAi),
        (
            "/vllm.grpc.engine.VllmEngine/Generate",
            "application/grpc",
            Dialect::Grpc,
        ),
        ("/x", "Application/gRPC+proto; charset=utf-8", Dialect::Grpc),
        ("/x", "application/grpc-web+proto", Dialect::OpenAi),
        ("/x", "application/grp\u{e9}", Dialect::OpenAi),
        ("/x", "application/grpcé", Dialect::OpenAi),
        ("", "", Dialect::OpenAi),
    ];
    for (path, content_type, dialect) in cases {
        assert_eq!(
            Dialect::of(path, content_type),
            dialect,
            "{path} {content_type}"
        );
    }
}
