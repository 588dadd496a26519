//! The receipts that explain best what the picker does, in words.

use serde_json::Value;

/// How much there is to learn from a decision; `None` if it is of another kind.
type Worth = fn(&Value) -> Option<f64>;

/// One of each kind of decision that a reader learns from, the clearest one.
pub(super) fn worth_reading(decisions: &[Value]) -> Vec<String> {
    let kinds: [(&str, Worth); 3] = [
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
    let best = |(title, worth): (&str, Worth)| {
        let of = |decision| worth(decision).map(|worth| (decision, worth));
        let (decision, _) = decisions
            .iter()
            .filter_map(of)
            .max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(format!("  {title}.\n{}", in_words(decision)))
    };
    kinds.into_iter().filter_map(best).collect()
}

/// How many more requests the chosen one had than the least loaded, where it was chosen for its adapter.
fn stayed_with_adapter(decision: &Value) -> Option<f64> {
    let candidates = decision["candidates"].as_array()?;
    let chosen = candidates.first()?;
    let least = candidates
        .iter()
        .filter_map(|one| one["own"].as_f64())
        .reduce(f64::min)?;
    let more = chosen["own"].as_f64()? - least;
    (chosen["adapter"] == "resident" && more > 0.0).then_some(more)
}

/// How much cheaper it was to load the adapter than to queue where it was.
fn loaded_adapter(decision: &Value) -> Option<f64> {
    let candidates = decision["candidates"].as_array()?;
    let loads = candidates.first()?["adapter"] != "resident";
    let resident = candidates
        .iter()
        .skip(1)
        .find(|one| one["adapter"] == "resident")?;
    let saved = resident["cost_ms"].as_f64()? - candidates[0]["cost_ms"].as_f64()?;
    (loads && saved > 0.0).then_some(saved)
}

/// What the dearest listed candidate would have cost more.
fn by_load(decision: &Value) -> Option<f64> {
    let candidates = decision["candidates"].as_array()?;
    let (chosen, dearest) = (candidates.first()?, candidates.last()?);
    let more = dearest["cost_ms"].as_f64()? - chosen["cost_ms"].as_f64()?;
    (chosen["adapter"] == "no_adapter").then_some(more)
}

/// A receipt as a person would want to read it: the chosen endpoint, the next two, and what it really took.
fn in_words(decision: &Value) -> String {
    let request = &decision["request"];
    let model = request["model"].as_str().unwrap_or("no model");
    let tokens = decision["prompt_tokens"].as_u64().unwrap_or(0);
    let mut text = format!("    request for `{model}`, about {tokens} prompt tokens\n");
    let candidates = decision["candidates"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    for (place, one) in candidates.iter().take(3).enumerate() {
        let mark = if place == 0 { "->" } else { "  " };
        let name = one["name"].as_str().unwrap_or_default();
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let cost = &one["cost"];
        text += &format!(
            "    {mark} {name:<16} {:>6.0} ms = queue {:.0} + adapter {:.0} + decode {:.0}   ({} in flight, adapter {})\n",
            number(&one["cost_ms"]),
            number(&cost["queue_ms"]),
            number(&cost["adapter_ms"]),
            number(&cost["decode_ms"]),
            one["own"],
            one["adapter"]
                .as_str()
                .unwrap_or_default()
                .replace('_', " "),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_clearest_decision_of_a_kind_is_told_in_words() {
        let candidate = |name: &str, own: u64, adapter: &str, cost: f64| {
            json!({"name": name, "own": own, "adapter": adapter, "cost_ms": cost,
                   "cost": {"queue_ms": 20.0, "adapter_ms": 0.0, "decode_ms": cost - 20.0}})
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
