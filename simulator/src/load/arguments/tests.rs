//! Specifications of the options.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    arguments: Arguments,
}

fn plan(line: &str) -> Result<LoadPlan, String> {
    let words = ["load", "--url", "http://a"].into_iter();
    let command = Command::try_parse_from(words.chain(line.split_whitespace()))
        .map_err(|error| error.to_string())?;
    command.arguments.plan().map_err(|error| error.to_string())
}

#[test]
fn without_options_it_is_ten_small_requests_a_second() {
    let plan = plan("").expect("valid");
    assert_eq!((plan.rate, plan.concurrency), (10.0, None));
    assert_eq!(
        plan.workload,
        Workload {
            zipf_exponent: 1.0,
            ..Workload::uniform(200, 40, 0)
        }
    );
}

#[test]
fn options_make_the_workload() {
    let plan = plan(
        "--arrivals gamma:4 --prompt-tokens 100..300 --output-tokens lognormal:40,1 --adapters 3 --zipf 0.5 \
         --shared-prefixes 2:50 --turns 3 --think-ms 10 --priorities a=1,b=3 --slo-ttft-ms 100",
    )
    .expect("valid");
    let workload = plan.workload;
    assert_eq!(workload.gaps, Gaps::Gamma(4.0));
    assert_eq!(workload.kinds[0].prompt_tokens, Span::uniform(100, 300));
    assert_eq!((workload.adapters, workload.zipf_exponent), (3, 0.5));
    assert_eq!(plan.adapter_names.len(), 3);
    let prefixes = workload.prefixes.expect("given");
    assert_eq!((prefixes.groups, prefixes.tokens), (2, 50));
    let sessions = workload.sessions.expect("given");
    assert_eq!(
        (sessions.turns, sessions.think_ms),
        (Span::exactly(3), Span::exactly(10))
    );
    assert_eq!(workload.priorities[1].objective, "b");
    assert_eq!(plan.slo.ttft_ms, Some(100.0));
}

#[test]
fn a_trace_has_its_own_rate_unless_another_is_asked_for() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/data/traces/AzureLLMInferenceTrace_code_2023.csv.gz"
    );
    let recorded = plan(&format!("--trace {file}")).expect("valid");
    assert!((recorded.rate - 2.57).abs() < 0.01, "{}", recorded.rate);
    let asked = plan(&format!("--trace {file} --rate 20")).expect("valid");
    assert_eq!(asked.rate, 20.0);
    let missing = plan("--trace nowhere.csv").expect_err("no such file");
    assert!(missing.starts_with("nowhere.csv: "), "{missing}");
}

#[test]
fn what_does_not_fit_is_named() {
    for (line, names) in [
        ("--concurrency 4 --rate 3", "cannot be used with"),
        ("--arrivals gamma", "such as gamma:4"),
        ("--workload nope", "choose one of lora"),
        ("--shared-prefixes 0:5", "such as 8:500"),
        ("--priorities a", "such as critical=0.3"),
        ("--prompt-tokens 0", "such as 512"),
        ("--think-ms 5", "--turns"),
    ] {
        let error = plan(line).expect_err(line);
        assert!(error.contains(names), "{error}");
    }
}

#[test]
fn durations_have_units() {
    for (text, millis) in [
        ("30", 30_000),
        ("1.5s", 1500),
        ("2m", 120_000),
        ("250ms", 250),
    ] {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "s", "-1", "3h", "1e999"] {
        let error = duration(text).expect_err("no duration");
        assert!(error.contains("give seconds"), "{text}");
    }
}

#[test]
fn headers_need_a_colon() {
    assert_eq!(
        header("Host: a.example:80"),
        Ok(("Host".into(), "a.example:80".into()))
    );
    assert!(header("host").is_err());
}
