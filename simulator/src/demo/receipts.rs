//! The receipts that explain best what the picker does, in words.

use serde_json::Value;

/// How much there is to learn from a decision, and the places of the candidates that show it beside the chosen one;
/// `None` if it is of another kind.
type Lesson = fn(&[Value]) -> Option<(f64, Vec<usize>)>;

/// One of each kind of decision that a reader learns from, the clearest one.
pub(super) fn worth_reading(decisions: &[Value]) -> Vec<String> {
    let kinds: [(&str, Lesson); 3] = [
        (
            "An adapter that is resident is worth more than a shorter queue",
            stayed_with_adapter,
        ),
        (
            "A queue that is long enough is worth loading the adapter elsewhere",
            loaded_adapter,
        ),
        (
            "Among servers without adapters, prompts ahead and sequences running decide",
            by_load,
        ),
    ];
    let best = |(title, lesson): (&str, Lesson)| {
        let of = |decision| Some((decision, lesson(candidates(decision))?));
        let (decision, (_, beside)) = decisions
            .iter()
            .filter_map(of)
            .max_by(|(_, (one, _)), (_, (other, _))| one.total_cmp(other))?;
        Some(format!("  {title}.\n{}", in_words(decision, &beside)))
    };
    kinds.into_iter().filter_map(best).collect()
}

fn candidates(decision: &Value) -> &[Value] {
    decision["candidates"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// How many more requests the chosen one had than the least loaded, where it was chosen for its adapter.
fn stayed_with_adapter(candidates: &[Value]) -> Option<(f64, Vec<usize>)> {
    let chosen = candidates
        .first()
        .filter(|one| one["adapter"] == "resident")?;
    let elsewhere = |(_, one): &(usize, &Value)| one["adapter"] != "resident";
    let in_flight = |one: &Value| one["own"].as_f64().unwrap_or(f64::INFINITY);
    let (place, idlest) = candidates
        .iter()
        .enumerate()
        .filter(elsewhere)
        .min_by(|(_, one), (_, other)| in_flight(one).total_cmp(&in_flight(other)))?;
    let more = in_flight(chosen) - in_flight(idlest);
    (more > 0.0).then_some((more, vec![place]))
}

/// How much cheaper it was to load the adapter than to queue where it was.
fn loaded_adapter(candidates: &[Value]) -> Option<(f64, Vec<usize>)> {
    let chosen = candidates
        .first()
        .filter(|one| one["adapter"] != "resident")?;
    let place = candidates
        .iter()
        .position(|one| one["adapter"] == "resident")?;
    let saved = candidates[place]["cost_ms"].as_f64()? - chosen["cost_ms"].as_f64()?;
    (saved > 0.0).then_some((saved, vec![place]))
}

/// What the dearest listed candidate would have cost more.
fn by_load(candidates: &[Value]) -> Option<(f64, Vec<usize>)> {
    let chosen = candidates
        .first()
        .filter(|one| one["adapter"] == "no_adapter")?;
    let last = candidates.len() - 1;
    let more = candidates[last]["cost_ms"].as_f64()? - chosen["cost_ms"].as_f64()?;
    (more > 0.0).then_some((more, vec![1, last]))
}

/// A receipt as a person would want to read it: the chosen endpoint, those beside it, and what it really took.
fn in_words(decision: &Value, beside: &[usize]) -> String {
    let request = &decision["request"];
    let model = request["model"].as_str().unwrap_or("no model");
    let tokens = decision["prompt_tokens"].as_u64().unwrap_or(0);
    let mut text = format!("    request for `{model}`, about {tokens} prompt tokens\n");
    let candidates = candidates(decision);
    let rows = [0].into_iter().chain(beside.iter().copied());
    for (place, one) in rows.filter_map(|place| Some((place, candidates.get(place)?))) {
        let mark = if place == 0 { "->" } else { "  " };
        let name = one["name"].as_str().unwrap_or_default();
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let cost = &one["cost"];
        text += &format!(
            "    {mark} {name:<16} {:>6.0} ms = first token {:.0} + adapter {:.0} + decode {:.0} + harm {:.0}   ({} in flight, {})\n",
            number(&one["cost_ms"]),
            ["admit_ms", "ahead_ms", "prompt_ms"]
                .map(|term| number(&cost[term]))
                .iter()
                .sum::<f64>(),
            number(&cost["adapter_ms"]),
            number(&cost["decode_ms"]),
            number(&cost["harm_ms"]),
            one["own"],
            adapter_in_words(one),
        );
    }
    let (expected, took) = (
        &decision["expected_ttft_ms"],
        &decision["outcome"]["ttft_ms"],
    );
    if let (Some(expected), Some(took)) = (expected.as_f64(), took.as_f64()) {
        text += &format!("       first token: {expected:.0} ms expected, {took:.0} ms taken\n");
    }
    text.trim_end().to_owned()
}

fn adapter_in_words(candidate: &Value) -> &'static str {
    match candidate["adapter"].as_str() {
        Some("resident") => "adapter resident",
        Some("load") => "adapter to be loaded",
        Some("evict") => "adapter to be loaded for another",
        Some("wait") => "no adapter slot free",
        _ => "no adapter",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_clearest_decision_of_a_kind_is_told_in_words() {
        let candidate = |name: &str, own: u64, adapter: &str, cost: f64| {
            json!({"name": name, "own": own, "adapter": adapter, "cost_ms": cost,
                   "cost": {"prompt_ms": 20.0, "adapter_ms": 0.0, "decode_ms": cost - 20.0}})
        };
        let decision = |own| {
            json!({"request": {"model": "a"}, "prompt_tokens": 9, "expected_ttft_ms": 35.0,
                   "outcome": {"ttft_ms": 41.0},
                   "candidates": [candidate("s-0", own, "resident", 100.0), candidate("s-1", 1, "load", 400.0)]})
        };
        let told = worth_reading(&[decision(2), decision(5)]);
        assert_eq!(told.len(), 1);
        assert!(
            told[0].contains("(5 in flight, adapter resident)"),
            "{}",
            told[0]
        );
        assert!(
            told[0].contains("35 ms expected, 41 ms taken"),
            "{}",
            told[0]
        );
    }
}
