//! The text of a server's `/metrics`: the families, help texts, labels and order of vLLM 0.32.0.

mod families;
mod page;
mod traffic;

use super::Engine;
use page::Page;

pub use traffic::{Answered, Traffic};

/// What the page tells of the server besides what its engine and its HTTP side counted.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The first served model name: the `model_name` of every series, also for requests on adapters.
    pub model_name: &'a str,
    /// The adapters' names, by [`AdapterId`](super::AdapterId).
    pub adapter_names: &'a [String],
    /// When the engine's time was zero, in seconds since 1970.
    pub started_unix_seconds: f64,
}

/// The page: Python's process families, vLLM's, those of its HTTP server, and last `sim:adapter_loads_total`, which vLLM does
/// not have.
///
/// The engine's values are those of the end of the last step, as vLLM's are: a request that waits for the step under way to
/// end is not seen, and an idle server's page stands still.
#[must_use]
pub fn text(engine: &Engine, about: &About<'_>, traffic: &Traffic) -> String {
    let mut page = Page::new(about.started_unix_seconds);
    families::write_process(&mut page, about.started_unix_seconds);
    families::write_engine(&mut page, engine, about);
    traffic.write(&mut page);
    page.family(
        "sim:adapter_loads_total",
        "LoRA adapters brought into a slot (of the simulator; vLLM does not export it).",
        "counter",
    );
    page.sample(
        "sim:adapter_loads_total",
        "",
        engine.statistics().adapter_loads as f64,
    );
    page.into_text()
}

#[cfg(test)]
mod tests;
