//! Any body, cut into frames anywhere: it is read the same, and another model's name put into it changes nothing else.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use picker_core::request::{Body, Request, Scan, Splice};

const PATHS: [&str; 7] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/inference/v1/generate",
    "/other",
];

#[derive(Arbitrary, Debug)]
struct Sent {
    path: u8,
    body: Vec<u8>,
    /// The lengths of its frames; the rest is one more.
    frames: Vec<u8>,
    model: String,
}

fuzz_target!(|sent: Sent| {
    let path = PATHS[usize::from(sent.path) % PATHS.len()];
    let frames = frames(&sent);
    let mut scan = Scan::new(path);
    for frame in &frames {
        scan.feed(frame);
    }
    let request = scan.request();
    assert_eq!(request, Request::scan(path, &sent.body), "the cuts do not matter");
    let Some(span) = scan.model_span() else {
        return;
    };
    let mut splice = Splice::new(span.clone(), &sent.model);
    let mut spliced = Vec::new();
    for frame in &frames {
        match splice.pass(frame) {
            Some(changed) => spliced.extend(changed),
            None => spliced.extend(*frame),
        }
    }
    let (start, end) = (span.start as usize, span.end as usize);
    assert!(spliced.starts_with(&sent.body[..start]));
    assert!(spliced.ends_with(&sent.body[end..]));
    if request.body == Body::Read && (1..100).contains(&sent.model.len()) {
        let after = Request::scan(path, &spliced);
        assert_eq!(after.model.as_deref(), Some(&*sent.model));
        assert_eq!((after.body, after.streamed), (Body::Read, request.streamed));
    }
});

fn frames(sent: &Sent) -> Vec<&[u8]> {
    let mut rest = sent.body.as_slice();
    let mut frames = Vec::new();
    for &length in &sent.frames {
        let (frame, after) = rest.split_at(usize::from(length).min(rest.len()));
        frames.push(frame);
        rest = after;
    }
    frames.push(rest);
    frames
}
