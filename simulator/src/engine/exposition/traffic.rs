//! What vLLM's HTTP server counts of the requests it answered (prometheus-fastapi-instrumentator).

use crate::engine::histogram::Histogram;

use super::page::{Page, escaped};

const HIGH_RESOLUTION_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
];
const FEW_SECONDS: &[f64] = &[0.1, 0.5, 1.0];

/// Counts of answered requests by handler. `/metrics`, `/health`, `/ping`, `/version` and `/load` are not counted by vLLM.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// By handler, method and status class, in order of appearance.
    requests: Vec<(Route, &'static str, u64)>,
    /// By handler: requests, bytes in, bytes out.
    sizes: Vec<(&'static str, [u64; 3])>,
    all: Histogram,
    /// By handler and method.
    durations: Vec<(Route, Histogram)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    handler: &'static str,
    method: &'static str,
}

/// One answered request.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The path's pattern, such as `/v1/completions`.
    pub handler: &'static str,
    /// The method.
    pub method: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The content length of the request; 0 if it had none.
    pub request_bytes: u64,
    /// The content length of the response; 0 if it had none, as a stream.
    pub response_bytes: u64,
    /// From arrival to the last byte.
    pub seconds: f64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            requests: Vec::new(),
            sizes: Vec::new(),
            all: Histogram::new(HIGH_RESOLUTION_SECONDS),
            durations: Vec::new(),
        }
    }
}

impl Traffic {
    /// Counts one answered request.
    pub fn answered(&mut self, answered: &Answered) {
        let route = Route {
            handler: answered.handler,
            method: answered.method,
        };
        let class = match answered.status {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        match self
            .requests
            .iter_mut()
            .find(|(key, status, _)| (*key, *status) == (route, class))
        {
            Some((.., count)) => *count += 1,
            None => self.requests.push((route, class, 1)),
        }
        let added = [1, answered.request_bytes, answered.response_bytes];
        match self
            .sizes
            .iter_mut()
            .find(|(handler, _)| *handler == route.handler)
        {
            Some((_, sums)) => sums
                .iter_mut()
                .zip(added)
                .for_each(|(sum, more)| *sum += more),
            None => self.sizes.push((route.handler, added)),
        }
        self.all.observe(answered.seconds);
        if !self.durations.iter().any(|(key, _)| *key == route) {
            self.durations.push((route, Histogram::new(FEW_SECONDS)));
        }
        for (_, histogram) in self.durations.iter_mut().filter(|(key, _)| *key == route) {
            histogram.observe(answered.seconds);
        }
    }

    pub(super) fn write(&self, page: &mut Page) {
        let requests: Vec<_> = self
            .requests
            .iter()
            .map(|(route, status, count)| {
                (
                    format!("{},{},status=\"{status}\"", route.handler(), route.method()),
                    *count as f64,
                )
            })
            .collect();
        let requests: Vec<_> = requests
            .iter()
            .map(|(labels, count)| (labels.as_str(), *count))
            .collect();
        page.counter(
            "http_requests",
            "Total number of requests by method, status and handler.",
            &requests,
        );
        self.write_sizes(page, "http_request_size_bytes", REQUEST_SIZE_HELP, 1);
        self.write_sizes(page, "http_response_size_bytes", RESPONSE_SIZE_HELP, 2);
        page.histogram(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ",
            ("", ""),
            &self.all,
        );
        let (name, help) = ("http_request_duration_seconds", DURATION_HELP);
        page.family(name, help, "histogram");
        for (route, histogram) in &self.durations {
            page.histogram_series(name, (&route.handler(), &route.method()), histogram);
        }
        let created: Vec<_> = self
            .durations
            .iter()
            .map(|(route, _)| format!("{},{}", route.handler(), route.method()))
            .collect();
        page.created(
            name,
            help,
            &created.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }

    fn write_sizes(&self, page: &mut Page, name: &str, help: &str, column: usize) {
        page.family(name, help, "summary");
        let labels: Vec<_> = self
            .sizes
            .iter()
            .map(|(handler, _)| format!("handler=\"{}\"", escaped(handler)))
            .collect();
        for ((_, sums), labels) in self.sizes.iter().zip(&labels) {
            page.sample(&format!("{name}_count"), labels, sums[0] as f64);
            page.sample(&format!("{name}_sum"), labels, sums[column] as f64);
        }
        page.created(
            name,
            help,
            &labels.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
}

impl Route {
    fn handler(self) -> String {
        format!("handler=\"{}\"", escaped(self.handler))
    }

    fn method(self) -> String {
        format!("method=\"{}\"", self.method)
    }
}

const REQUEST_SIZE_HELP: &str = "Content length of incoming requests by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ";
const RESPONSE_SIZE_HELP: &str = "Content length of outgoing responses by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. ";
const DURATION_HELP: &str = "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ";
