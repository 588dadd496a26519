//! `pointsman why`: receipts of decisions, fetched from a running picker and told in words.

use std::fmt::Write;

use reqwest::Url;
use serde_json::Value;
use thiserror::Error;

use crate::settings::Why;

/// Why a receipt could not be told.
#[derive(Debug, Error)]
pub enum WhyError {
    /// The address of the picker is none.
    #[error("--admin: `{0}` is no address; write HOST:PORT, as the picker's log says it")]
    Address(String),
    /// The picker does not answer.
    #[error("no picker answers at {0}: {1}; give its metrics port by --admin")]
    Unreachable(String, reqwest::Error),
    /// The picker knows no such request, or does not say.
    #[error("{}", .0.trim_end())]
    Refused(String),
}

/// Asks the picker about a request, or about its last decisions, and tells the receipts in lines for people.
///
/// # Errors
/// [`WhyError`].
pub async fn tell(why: &Why) -> Result<String, WhyError> {
    let wrong = || WhyError::Address(why.admin.clone());
    let mut url = Url::parse(&format!("http://{}", why.admin)).map_err(|_| wrong())?;
    // As a segment of its own, since an id may hold anything that a client thought of.
    let mut path = url.path_segments_mut().map_err(|()| wrong())?;
    path.extend(["debug", "decisions"]).extend(&why.request_id);
    drop(path);
    if let Some(last) = why.last {
        url.set_query(Some(&format!("limit={last}")));
    }
    let unreachable = |error| WhyError::Unreachable(why.admin.clone(), error);
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .map_err(unreachable)?;
    let answer = client.get(url).send().await.map_err(unreachable)?;
    let known = answer.status().is_success();
    let text = answer.text().await.map_err(unreachable)?;
    if !known {
        return Err(WhyError::Refused(text));
    }
    let answer: Value = serde_json::from_str(&text).map_err(|_| WhyError::Refused(text))?;
    let receipts = match &answer["decisions"] {
        Value::Array(receipts) => receipts.as_slice(),
        _ => std::slice::from_ref(&answer),
    };
    let told: Vec<String> = receipts.iter().map(in_words).collect();
    Ok(told.join("\n"))
}

/// A receipt as a person would want to read it.
fn in_words(receipt: &Value) -> String {
    let mut text = format!("{}\n\n", request(receipt));
    if let Some(line) = ambiguity(receipt) {
        push(&mut text, &line);
    }
    let candidates = list(&receipt["candidates"]);
    for (place, one) in candidates.iter().enumerate() {
        let chosen = place == 0 && receipt["overloaded"] != true;
        push(&mut text, &candidate(one, chosen));
    }
    let hidden = number(&receipt["candidate_count"]) - candidates.len() as f64;
    if hidden > 0.0 {
        push(&mut text, &format!("     and {hidden:.0} dearer ones"));
    }
    text.push('\n');
    push(&mut text, &choice(receipt));
    for line in exclusions(receipt) {
        push(&mut text, &line);
    }
    push(&mut text, &outcome(receipt));
    text
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// What was asked.
fn request(receipt: &Value) -> String {
    let request = &receipt["request"];
    let mut text = format!(
        "Request {} to pool {}: ",
        word(&receipt["request_id"]),
        word(&receipt["pool"])
    );
    let api = match request["api"].as_str() {
        Some("chat") => "a chat completion",
        Some("completions") => "a completion",
        Some("responses") => "a response",
        Some("embeddings") => "an embedding",
        Some("messages") => "a message",
        Some("generate") => "a generation from token ids",
        _ => "of an API that is picked by load alone",
    };
    text.push_str(api);
    match request["body"].as_str() {
        Some("unreadable") => text.push_str(", its body is no JSON object"),
        Some("beginning") => text.push_str(", its body is over --body-limit and was read in part"),
        Some("absent") => text.push_str(", of which only the headers are known"),
        _ => {}
    }
    if let Some(model) = request["model"].as_str() {
        let _infallible = write!(text, ", model `{model}`");
    }
    let (prompt, output) = (
        number(&receipt["prompt_tokens"]),
        number(&receipt["output_tokens"]),
    );
    let _infallible = write!(
        text,
        ", about {prompt:.0} prompt tokens, {output:.0} to generate"
    );
    let sequences = number(&request["sequences"]);
    if sequences > 1.0 {
        let _infallible = write!(text, " in {sequences:.0} sequences");
    }
    if request["streamed"] == true {
        text.push_str(", streamed");
    }
    text.push_str(&rewrite(&receipt["rewrite"]));
    let priority = number(&receipt["standing"]["priority"]);
    if priority != 0.0 {
        let _infallible = write!(text, ", of priority {priority:.0}");
    }
    if receipt["unserved"] == true {
        text.push_str("; no endpoint is known to serve that model");
    }
    text.push('.');
    text
}

/// The pools that it could have been for as well.
fn ambiguity(receipt: &Value) -> Option<String> {
    let others: Vec<&str> = list(&receipt["or"]).iter().map(word).collect();
    (!others.is_empty()).then(|| {
        format!(
            "By the routes it could have been for {} as well; the first by name was taken. A Service of its own for each \
             pool tells them apart.\n",
            others.join(", ")
        )
    })
}

/// Which model it got in the place of the one that it asked for.
fn rewrite(rewrite: &Value) -> String {
    let (asked, model) = (word(&rewrite["asked"]), word(&rewrite["model"]));
    let by = match rewrite["arm"]["rewrite"]["name"].as_str() {
        Some(name) => format!("InferenceModelRewrite {name}"),
        None => "its own header".to_owned(),
    };
    match rewrite["naming"].as_str() {
        Some("put_back") => format!("; it asked for `{asked}`, by {by}, and sees that name"),
        Some("stays") => format!(
            "; it asked for `{asked}`, by {by}, and sees the server's name, as the response passes elsewhere"
        ),
        Some("not_put") => format!(
            "; {by} wants `{model}`, which its body, as far as it was shown, gives no place for"
        ),
        _ => String::new(),
    }
}

/// One candidate, with every term of its cost that is not zero.
fn candidate(one: &Value, chosen: bool) -> String {
    let mark = if chosen { "->" } else { "  " };
    let terms = [
        "admit", "ahead", "prompt", "adapter", "decode", "harm", "risk", "share",
    ]
    .into_iter()
    .filter_map(|term| {
        let ms = number(&one["cost"][format!("{term}_ms")]);
        (ms > 0.0).then(|| format!("{term} {ms:.0}"))
    });
    let terms: Vec<String> = terms.collect();
    let adapter = match one["adapter"].as_str() {
        Some("resident") => ", adapter resident",
        Some("load") => ", adapter to be loaded",
        Some("evict") => ", adapter to be loaded in place of another",
        Some("wait") => ", every adapter slot busy",
        _ => "",
    };
    format!(
        "  {mark} {:<24} {:<21} {:>7.0} ms = {:<56} {:.0} of ours, {:.1} of others{adapter}",
        word(&one["name"]),
        word(&one["address"]),
        number(&one["cost_ms"]),
        terms.join(" + "),
        number(&one["own"]),
        number(&one["foreign"]),
    )
}

/// Why the first of the candidates.
fn choice(receipt: &Value) -> String {
    let ties = number(&receipt["ties"]);
    let margin = receipt["margin_ms"].as_f64();
    match (number(&receipt["candidate_count"]), margin) {
        (0.0, _) => "Nobody could be chosen.".to_owned(),
        _ if receipt["overloaded"] == true => {
            "Refused: its priority is below 0, and every endpoint that could take it is saturated.".to_owned()
        }
        _ if receipt["probe"] == true => {
            "Chosen to see whether it works again: it is suspect, and nothing but a request can tell.".to_owned()
        }
        (_, _) if ties > 1.0 => {
            format!("Chosen by chance among {ties:.0} whose costs are as good as equal.")
        }
        (_, Some(margin)) => {
            format!("Chosen for costing the least, {margin:.0} ms less than the next.")
        }
        (_, None) => "Chosen as the only candidate.".to_owned(),
    }
}

/// Who was left out.
fn exclusions(receipt: &Value) -> Vec<String> {
    let listed = list(&receipt["exclusions"]);
    let mut lines: Vec<String> = listed
        .iter()
        .map(|one| {
            let suspect = one["reason"]["suspect"].as_str();
            let reason = match (one["reason"].as_str(), suspect) {
                (Some("outside_subset"), _) => "outside the gateway's subset hint",
                (Some("model_not_served"), _) => "does not serve the model, others do",
                (_, Some("refused")) => "suspect: it refused a connection",
                (_, Some("silent")) => "suspect: it did not answer readings",
                (_, Some("unreachable")) => "suspect: a request sent there found nobody",
                (_, Some("hung")) => "suspect: it has work and shows no sign of doing it",
                (_, Some("failing")) => "suspect: requests fail there, one after another",
                _ => "for a reason that this program does not know",
            };
            format!(
                "Left out: {} {}, {reason}.",
                word(&one["name"]),
                word(&one["address"])
            )
        })
        .collect();
    let hidden = number(&receipt["exclusion_count"]) - listed.len() as f64;
    if hidden > 0.0 {
        lines.push(format!("Left out: {hidden:.0} more."));
    }
    lines
}

/// What became of it, beside what was expected.
fn outcome(receipt: &Value) -> String {
    let outcome = &receipt["outcome"];
    let expected = receipt["expected_ttft_ms"].as_f64();
    let first = match (expected, outcome["ttft_ms"].as_f64()) {
        (Some(expected), Some(taken)) => {
            format!("First token: {expected:.0} ms expected, {taken:.0} ms taken. ")
        }
        (Some(expected), None) => format!("First token: {expected:.0} ms expected, none seen. "),
        (None, _) => String::new(),
    };
    let end = match outcome["end"].as_str() {
        Some("completed") => "Completed",
        Some("failed") => "Failed",
        Some("abandoned") => "Abandoned by the client or the proxy",
        Some("presumed") => "Not followed; presumed over",
        _ if receipt["overloaded"] == true => return "Answered with 429.".to_owned(),
        _ if number(&receipt["candidate_count"]) == 0.0 => return "Answered with 503.".to_owned(),
        _ => return format!("{first}Still in flight."),
    };
    let mut text = format!(
        "{first}{end} after {:.0} ms",
        number(&outcome["duration_ms"])
    );
    if let Some(expected) = outcome["expected_duration_ms"].as_f64() {
        let _infallible = write!(text, " ({expected:.0} expected)");
    }
    if let Some(status) = outcome["status"].as_u64() {
        let _infallible = write!(text, " with status {status}");
    }
    if let Some(generated) = outcome["generated"].as_u64() {
        let _infallible = write!(text, ", {generated} tokens");
    }
    if let Some(served) = outcome["served"].as_str() {
        let _infallible = write!(text, ", served by {served} instead");
    }
    text + "."
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(receipt: &Value, expected: &str) {
        let told = in_words(receipt);
        let lines: Vec<&str> = told.lines().map(str::trim_end).collect();
        let expected: Vec<&str> = expected.trim_matches('\n').lines().collect();
        assert_eq!(lines, expected, "\n{told}");
    }

    #[test]
    fn a_receipt_tells_candidates_terms_exclusions_and_what_it_took() {
        let candidate = |name, address, own, adapter, adapter_ms, cost_ms| {
            json!({"name": name, "address": address, "own": own, "foreign": 0.5, "adapter": adapter, "cost_ms": cost_ms,
                   "cost": {"admit_ms": 0.0, "ahead_ms": 10.0, "prompt_ms": 20.0, "adapter_ms": adapter_ms, "decode_ms": 470.0, "harm_ms": 0.0, "risk_ms": 0.0}})
        };
        let receipt = json!({
            "request_id": "r1", "pool": "ai/chat",
            "request": {"api": "completions", "body": "read", "model": "a", "sequences": 2, "streamed": true},
            "prompt_tokens": 193, "output_tokens": 40, "candidate_count": 9, "ties": 1, "margin_ms": 300.0,
            "candidates": [
                candidate("ai/vllm-0", "10.0.0.1:8000", 6, "resident", 0.0, 500.0),
                candidate("ai/vllm-1", "10.0.0.2:8000", 0, "load", 300.0, 800.0),
            ],
            "exclusions": [{"name": "ai/vllm-2", "address": "10.0.0.3:8000", "reason": {"suspect": "refused"}}],
            "exclusion_count": 2, "expected_ttft_ms": 45.2,
            "outcome": {"end": "completed", "status": 200, "ttft_ms": 61.0, "duration_ms": 1900.0, "generated": 40},
        });
        check(
            &receipt,
            "
Request r1 to pool ai/chat: a completion, model `a`, about 193 prompt tokens, 40 to generate in 2 sequences, streamed.

  -> ai/vllm-0                10.0.0.1:8000             500 ms = ahead 10 + prompt 20 + decode 470                        6 of ours, 0.5 of others, adapter resident
     ai/vllm-1                10.0.0.2:8000             800 ms = ahead 10 + prompt 20 + adapter 300 + decode 470          0 of ours, 0.5 of others, adapter to be loaded
     and 7 dearer ones

Chosen for costing the least, 300 ms less than the next.
Left out: ai/vllm-2 10.0.0.3:8000, suspect: it refused a connection.
Left out: 1 more.
First token: 45 ms expected, 61 ms taken. Completed after 1900 ms with status 200, 40 tokens.
",
        );
    }

    #[test]
    fn a_receipt_tells_which_pools_it_could_have_been_as_well() {
        let receipt = json!({"or": ["ai/code", "ai/draw"]});
        assert_eq!(
            ambiguity(&receipt).as_deref(),
            Some(
                "By the routes it could have been for ai/code, ai/draw as well; the first by name was taken. \
                 A Service of its own for each pool tells them apart.\n"
            )
        );
        assert_eq!(ambiguity(&json!({})), None);
    }

    #[test]
    fn a_refusal_tells_that_nobody_could_be_chosen() {
        let receipt = json!({
            "request_id": "r2", "pool": "ai/chat", "request": {"api": "other", "body": "absent"},
            "prompt_tokens": 0, "output_tokens": 256, "candidate_count": 0, "candidates": [],
            "exclusions": [{"name": "ai/vllm-0", "address": "10.0.0.1:8000", "reason": "outside_subset"}],
            "exclusion_count": 1, "outcome": null,
        });
        check(
            &receipt,
            "
Request r2 to pool ai/chat: of an API that is picked by load alone, of which only the headers are known, about 0 prompt tokens, 256 to generate.


Nobody could be chosen.
Left out: ai/vllm-0 10.0.0.1:8000, outside the gateway's subset hint.
Answered with 503.
",
        );
    }
}
