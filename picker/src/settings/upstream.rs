//! Flags of upstream's picker that have no setting behind them here, so that its charts and command lines start this one.

use clap::error::Error;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// A flag of upstream's, by the name that it has in llm-d's picker (`pkg/epp/server/options.go` and the flags of its log).
struct Flag {
    name: &'static str,
    takes: Takes,
    /// What is true here, whatever the flag says.
    here: &'static str,
    /// The values that ask for just that; any other is answered with a warning.
    held: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// `true`, `false`, or nothing, which is `true`.
    Switch,
    /// Anything.
    Value,
}

use Takes::{Switch, Value};

const fn flag(
    name: &'static str,
    takes: Takes,
    here: &'static str,
    held: &'static [&'static str],
) -> Flag {
    Flag {
        name,
        takes,
        here,
        held,
    }
}

/// Every flag of upstream's that [`Serve`](super::Serve) has no setting for.
const FLAGS: &[Flag] = &[
    flag(
        "allow-experimental-plugins",
        Switch,
        "there are no plugins",
        &["false"],
    ),
    flag(
        "cache-info-metric",
        Value,
        "names of metrics go by the engine that the label llm-d.ai/engine-type of a pod names",
        &["vllm:cache_config_info"],
    ),
    flag(
        "config-file",
        Value,
        "no configuration of plugins is read",
        &[""],
    ),
    flag(
        "config-text",
        Value,
        "no configuration of plugins is read",
        &[""],
    ),
    flag(
        "disable-endpoint-subset-filter",
        Switch,
        "the gateway's subset hint is honoured",
        &["false"],
    ),
    flag(
        "emit-endpoint-scores",
        Switch,
        "the proxy is not told what each endpoint would have cost; `pointsman why` tells it",
        &["false"],
    ),
    flag(
        "enable-cert-reload",
        Switch,
        "the certificate is read again when it changes",
        &["true"],
    ),
    flag(
        "enable-grpc-stream-metrics",
        Switch,
        "streams are counted as `pointsman_in_flight`",
        &["false"],
    ),
    flag(
        "enable-pprof",
        Switch,
        "there are no profiles of Go",
        &["false"],
    ),
    flag(
        "grpc-max-recv-msg-size",
        Value,
        "messages of up to 64 MiB are accepted",
        &["64Mi", "64MiB"],
    ),
    flag(
        "grpc-max-send-msg-size",
        Value,
        "messages of up to 64 MiB are sent",
        &["64Mi", "64MiB"],
    ),
    flag(
        "ha-enable-leader-election",
        Switch,
        "there is no leader: every replica serves, and needs no rights on leases",
        &["false"],
    ),
    flag(
        "health-checking",
        Switch,
        "health checks are answered on the ext_proc ports too, and mirror readiness",
        &["true"],
    ),
    flag(
        "kv-cache-usage-percentage-metric",
        Value,
        "names of metrics go by the engine that the label llm-d.ai/engine-type of a pod names",
        &["vllm:kv_cache_usage_perc"],
    ),
    flag(
        "lora-info-metric",
        Value,
        "names of metrics go by the engine that the label llm-d.ai/engine-type of a pod names",
        &["vllm:lora_requests_info"],
    ),
    flag(
        "metrics-cert-dir",
        Value,
        "metrics are served in plaintext",
        &[""],
    ),
    flag(
        "metrics-client-ca-file",
        Value,
        "metrics are served to whoever can reach the port; let a NetworkPolicy say who can",
        &[""],
    ),
    flag(
        "metrics-endpoint-auth",
        Switch,
        "metrics are served to whoever can reach the port; let a NetworkPolicy say who can",
        &["false"],
    ),
    flag(
        "metrics-staleness-threshold",
        Value,
        "a reading loses weight with its age, and is never cut off",
        &[],
    ),
    flag(
        "pool-group",
        Value,
        "pools are those of the API group inference.networking.k8s.io",
        &["inference.networking.k8s.io"],
    ),
    flag(
        "refresh-prometheus-metrics-interval",
        Value,
        "metrics are as new as the request for them",
        &[],
    ),
    flag(
        "tls-cipher-suites",
        Value,
        "the cipher suites are those of rustls, for TLS 1.2 those with ECDHE and AEAD alone",
        &[""],
    ),
    flag(
        "total-queued-requests-metric",
        Value,
        "names of metrics go by the engine that the label llm-d.ai/engine-type of a pod names",
        &["vllm:num_requests_waiting"],
    ),
    flag(
        "total-running-requests-metric",
        Value,
        "names of metrics go by the engine that the label llm-d.ai/engine-type of a pod names",
        &["vllm:num_requests_running"],
    ),
    flag(
        "tracing",
        Switch,
        "there are no traces; `pointsman why` explains a decision",
        &["false"],
    ),
    flag(
        "v",
        Value,
        "what is logged is said by --log",
        &["0", "1", "2"],
    ),
    flag(
        "zap-devel",
        Switch,
        "the form of the log is said by --log-format",
        &[],
    ),
    flag(
        "zap-stacktrace-level",
        Value,
        "the log has no stack traces",
        &[],
    ),
    flag(
        "zap-time-encoding",
        Value,
        "times in the log are RFC 3339",
        &["rfc3339", "rfc3339nano"],
    ),
];

/// Upstream's flags that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    warnings: Vec<String>,
}

impl Upstream {
    /// What to tell of flags that ask for something else than is done here.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl FromArgMatches for Upstream {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |flag: &Flag| {
            let value = matches.get_one::<String>(flag.name)?;
            let held = flag.held.contains(&value.as_str());
            let (name, here) = (flag.name, flag.here);
            (!held).then(|| format!("--{name}={value} changes nothing: {here}"))
        };
        Ok(Self {
            warnings: FLAGS.iter().filter_map(given).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Upstream {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The flag, which `--help` does not show: it is no choice.
fn argument(flag: &Flag) -> Arg {
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .hide(true)
        .help(flag.here)
        // Given twice, the last one counts, as in upstream's.
        .overrides_with(flag.name)
        .action(ArgAction::Set);
    let argument = if flag.name == "v" {
        argument.short('v')
    } else {
        argument
    };
    match flag.takes {
        Value => argument,
        Switch => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::Arguments;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        upstream: Upstream,
    }

    fn warnings(line: &str) -> Vec<String> {
        let words = ["pointsman"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(words).expect("accepted");
        line.upstream.warnings
    }

    #[test]
    fn what_is_done_anyway_is_accepted_without_a_word() {
        for line in [
            "",
            "--ha-enable-leader-election=false --health-checking --enable-cert-reload=true",
            "--pool-group inference.networking.k8s.io --tracing=false",
            "--total-queued-requests-metric=vllm:num_requests_waiting -v 2",
        ] {
            assert_eq!(warnings(line), [""; 0], "{line}");
        }
    }

    /// The flags that llm-d's picker lists, with a value of each.
    const UPSTREAM: &str = "--allow-experimental-plugins --cache-info-metric=x --cert-path=/certs --config-file=/config/c.yaml \
        --config-text=x --disable-endpoint-subset-filter --drain-timeout=30s --emit-endpoint-scores --enable-cert-reload \
        --enable-grpc-stream-metrics --enable-pprof=false --endpoint-selector=app=vllm --endpoint-target-ports=8000,8001 \
        --grpc-health-port=9003 --grpc-max-recv-msg-size=10MiB --grpc-max-send-msg-size=25MB --grpc-port=9002 \
        --ha-enable-leader-election --health-checking --kv-cache-usage-percentage-metric=x --lora-info-metric=x \
        --metrics-cert-dir=/m --metrics-client-ca-file=/m/ca --metrics-endpoint-auth=false --metrics-port=9090 \
        --metrics-staleness-threshold=2s --pool-group=inference.networking.k8s.io --pool-name=p --pool-namespace=n \
        --refresh-metrics-interval=50ms --refresh-prometheus-metrics-interval=5s --secure-serving=false \
        --tls-cipher-suites=TLS_AES_128_GCM_SHA256 --tls-min-version=VersionTLS12 --total-queued-requests-metric=x \
        --total-running-requests-metric=x --tracing=false --v=2 --zap-devel=false --zap-encoder=json --zap-log-level=info \
        --zap-stacktrace-level=error --zap-time-encoding=rfc3339";

    #[test]
    fn every_flag_of_upstreams_picker_is_accepted() {
        let line = format!("pointsman serve --endpoints=e.yaml {UPSTREAM}");
        let line = Arguments::try_parse_from(line.split_whitespace());
        assert!(line.is_ok(), "{line:?}");
        let conformance = "pointsman serve --endpoints=e.yaml --pool-name p --pool-namespace n --zap-encoder console \
             --grpc-port 9002 --grpc-health-port 9003 -v 4";
        let line = Arguments::try_parse_from(conformance.split_whitespace());
        assert!(line.is_ok(), "{line:?}");
    }

    #[test]
    fn what_is_done_otherwise_is_accepted_with_a_warning_that_says_how() {
        for (line, expected) in [
            (
                "--tracing",
                "--tracing=true changes nothing: there are no traces; `pointsman why` explains a decision",
            ),
            (
                "--enable-cert-reload=false",
                "--enable-cert-reload=false changes nothing: the certificate is read again when it changes",
            ),
            (
                "-v 5",
                "--v=5 changes nothing: what is logged is said by --log",
            ),
            (
                "--v=1 --v=4",
                "--v=4 changes nothing: what is logged is said by --log",
            ),
            (
                "--metrics-endpoint-auth",
                "--metrics-endpoint-auth=true changes nothing: metrics are served to whoever can reach the port; let a \
                 NetworkPolicy say who can",
            ),
        ] {
            assert_eq!(warnings(line), [expected], "{line}");
        }
    }
}
