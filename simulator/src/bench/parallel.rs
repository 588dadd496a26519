//! Many independent runs on all processors, with the results in the order of the runs.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};

/// What `run` makes of each of `items`, in their order, whatever the number of `threads`; a progress bar on standard error counts
/// them under the name `bar`.
pub(super) fn map<T: Sync, R: Send>(
    items: &[T],
    threads: Option<usize>,
    bar: Option<&'static str>,
    run: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.unwrap_or(processors).clamp(1, items.len().max(1));
    let bar = bar.map_or_else(ProgressBar::hidden, |name| {
        let style = ProgressStyle::with_template(
            "{elapsed_precise} {bar:40} {pos}/{len} {msg}, {eta} left",
        );
        let bar = ProgressBar::new(items.len() as u64).with_message(name);
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let work = || {
        while let Some((place, item)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            items.get(place).map(|item| (place, item))
        } {
            let result = run(item);
            bar.inc(1);
            // A thread that panicked ends the whole: its result is missing.
            if let Ok(mut results) = results.lock() {
                results.push((place, result));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    bar.finish_and_clear();
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_their_items_on_any_number_of_threads() {
        let items: Vec<u64> = (0..100).collect();
        let expected: Vec<u64> = items.iter().map(|item| item * item).collect();
        for threads in [None, Some(0), Some(1), Some(3), Some(500)] {
            assert_eq!(map(&items, threads, None, |item| item * item), expected);
        }
        assert_eq!(map(&[], Some(2), None, |_: &u64| 1), [0; 0]);
    }
}
