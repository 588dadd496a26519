//! Another model's name in a body, and nothing else changed.

use picker_core::request::Splice;

use crate::frames::{CHAT, scan_of};

/// The body with another model's name in it, spliced frame by frame.
pub(crate) fn spliced<'a>(
    frames: impl IntoIterator<Item = &'a [u8]> + Clone,
    model: &str,
) -> Vec<u8> {
    let scan = scan_of(CHAT, frames.clone());
    let span = scan.model_span().expect("the body names a model");
    let mut splice = Splice::new(span.clone(), model);
    let mut at = 0;
    let mut body = Vec::new();
    for frame in frames {
        let end = at + frame.len() as u64;
        let passed = splice.pass(frame);
        let concerned = at < span.end && end > span.start && !frame.is_empty();
        assert_eq!(
            passed.is_some(),
            concerned,
            "only the frames concerned are touched"
        );
        body.extend(passed.as_deref().unwrap_or(frame));
        at = end;
    }
    body
}

#[test]
fn a_spliced_name_changes_nothing_else_wherever_frames_are_cut() {
    let before = r#"{ "b" : 1.0, "a":12345678901234567890, "model" : "#;
    let after = r#" , "messages":[{"content":"\"model\":\"old\" <&>"}], "z":1e2}"#;
    let body = format!(r#"{before}"old"{after}"#);
    for (model, name) in [
        ("new", r#""new""#),
        ("", r#""""#),
        ("a \"quoted\"\nname é", r#""a \"quoted\"\nname é""#),
    ] {
        let expected = format!("{before}{name}{after}");
        assert_eq!(spliced([body.as_bytes()], model), expected.as_bytes());
        assert_eq!(
            spliced(body.as_bytes().chunks(1), model),
            expected.as_bytes()
        );
        for first in 0..=body.len() {
            for second in (first..=body.len()).step_by(7) {
                let frames = [&body[..first], &body[first..second], &body[second..]];
                let frames = frames.map(str::as_bytes);
                assert_eq!(
                    spliced(frames, model),
                    expected.as_bytes(),
                    "cut at {first}, {second}"
                );
            }
        }
    }
}

#[test]
fn a_body_without_a_name_has_no_place_for_one() {
    for body in [
        r#"{"x":"model"}"#,
        r#"{"model":null}"#,
        r#"{"x":{"model":"a"}}"#,
        "{\"model\":\"a\"]",
        "",
    ] {
        assert_eq!(
            scan_of(CHAT, [body.as_bytes()]).model_span(),
            None,
            "{body}"
        );
    }
}
