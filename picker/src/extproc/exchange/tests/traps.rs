//! The traps of ext_proc and of endpoint picking that are known, each with the transcripts that show it is not stepped into, or
//! the reason why there is none: `picker/tests/transcripts/traps.yaml`.

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize;

use super::transcripts;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trap {
    number: usize,
    trap: String,
    #[serde(default)]
    transcripts: Vec<String>,
    none: Option<String>,
}

#[test]
fn every_trap_has_a_transcript_or_a_reason() {
    let file = transcripts::folder().join("traps.yaml");
    let text = fs::read_to_string(&file).expect("text");
    let traps: Vec<Trap> = serde_saphyr::from_str(&text).expect("a list of traps");
    let names = transcripts::names();
    let all: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(
        all.len(),
        names.len(),
        "two transcripts of one name: {names:?}"
    );
    for (index, trap) in traps.iter().enumerate() {
        assert_eq!(trap.number, index + 1, "{}: numbers run on", trap.trap);
        assert_eq!(
            trap.transcripts.is_empty(),
            trap.none.is_some(),
            "{}: either transcripts or why there is none",
            trap.trap
        );
        for name in &trap.transcripts {
            assert!(
                all.contains(name.as_str()),
                "trap {}: no transcript `{name}`",
                trap.number
            );
        }
    }
    assert_eq!(traps.len(), 69);
}
