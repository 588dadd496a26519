//! Prometheus text as Python's prometheus_client writes it.

use std::fmt::Write as _;

use crate::engine::histogram::Histogram;

/// A metrics page under construction.
#[derive(Clone, Debug)]
pub(super) struct Page {
    text: String,
    created: String,
}

impl Page {
    /// An empty page of a server that started at `created_unix_seconds`, the value of every `_created` series.
    pub(super) fn new(created_unix_seconds: f64) -> Self {
        Self {
            text: String::with_capacity(64 * 1024),
            created: number(created_unix_seconds),
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// The two lines that open a family.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One series: `labels` is the text between the braces, empty for none.
    pub(super) fn sample(&mut self, name: &str, labels: &str, value: f64) {
        self.raw_sample(name, labels, &number(value));
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, samples: &[(&str, f64)]) {
        self.family(name, help, "gauge");
        for (labels, value) in samples {
            self.sample(name, labels, *value);
        }
    }

    /// A counter and the times at which its series were created.
    pub(super) fn counter(&mut self, base: &str, help: &str, samples: &[(&str, f64)]) {
        let name = format!("{base}_total");
        self.family(&name, help, "counter");
        for (labels, value) in samples {
            self.sample(&name, labels, *value);
        }
        let label_sets: Vec<_> = samples.iter().map(|(labels, _)| *labels).collect();
        self.created(base, help, &label_sets);
    }

    /// A histogram of one series and the time at which it was created. `labels` are those that sort before `le` and those
    /// that sort after it.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: (&str, &str),
        histogram: &Histogram,
    ) {
        self.family(name, help, "histogram");
        self.histogram_series(name, labels, histogram);
        self.created(name, help, &[joined(labels.0, labels.1).as_str()]);
    }

    /// The buckets, count and sum of one series of a histogram.
    pub(super) fn histogram_series(
        &mut self,
        name: &str,
        (before, after): (&str, &str),
        histogram: &Histogram,
    ) {
        let bucket = format!("{name}_bucket");
        for (bound, count) in histogram.cumulative() {
            let bound = format!("le=\"{}\"", number(bound));
            self.sample(
                &bucket,
                &joined(&joined(before, &bound), after),
                count as f64,
            );
        }
        let labels = joined(before, after);
        self.sample(&format!("{name}_count"), &labels, histogram.count() as f64);
        self.sample(&format!("{name}_sum"), &labels, histogram.sum());
    }

    /// The family of creation times of `base`, which is absent as long as `base` has no series.
    pub(super) fn created(&mut self, base: &str, help: &str, label_sets: &[&str]) {
        if label_sets.is_empty() {
            return;
        }
        let name = format!("{base}_created");
        self.family(&name, help, "gauge");
        let created = self.created.clone();
        for labels in label_sets {
            self.raw_sample(&name, labels, &created);
        }
    }

    fn raw_sample(&mut self, name: &str, labels: &str, value: &str) {
        if labels.is_empty() {
            self.push(format_args!("{name} {value}\n"));
        } else {
            self.push(format_args!("{name}{{{labels}}} {value}\n"));
        }
    }

    fn push(&mut self, line: std::fmt::Arguments<'_>) {
        self.text
            .write_fmt(line)
            .expect("a String takes all that is written to it");
    }
}

/// `value` within quotes in a label.
pub(super) fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// `value` as prometheus_client's `floatToGoString` writes it: Python's shortest form, with an exponent from 1e6 up.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    if value.is_nan() {
        return "NaN".into();
    }
    if value != 0.0 && value.abs() < 1e-4 {
        let text = format!("{value:e}");
        return match text.split_once("e-") {
            Some((mantissa, exponent)) => format!("{mantissa}e-{exponent:0>2}"),
            None => text,
        };
    }
    let text = format!("{value}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    if value <= 0.0 || whole.len() <= 6 {
        return format!("{whole}.{fraction}");
    }
    let digits = format!("{}.{}{fraction}", &whole[..1], &whole[1..]);
    let mantissa = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{mantissa}e+0{}", whole.len() - 1)
}

fn joined(before: &str, after: &str) -> String {
    if before.is_empty() || after.is_empty() {
        format!("{before}{after}")
    } else {
        format!("{before},{after}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_python_writes_them() {
        // The first six are values of the recorded page.
        for (value, text) in [
            (15115.0, "15115.0"),
            (4_169_076_736.0, "4.169076736e+09"),
            (1_795_197_297.634_953_3, "1.7951972976349533e+09"),
            (11.049_999_999_999_999, "11.049999999999999"),
            (0.0, "0.0"),
            (f64::INFINITY, "+Inf"),
            (999_999.0, "999999.0"),
            (1_000_000.0, "1e+06"),
            (0.0001, "0.0001"),
            (0.000_012_5, "1.25e-05"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
