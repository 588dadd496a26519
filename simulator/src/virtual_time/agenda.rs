//! The agenda: what is due when, in order of time, and of entry where times are equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use picker_core::time::Instant;

/// Things that are due, the earliest first.
#[derive(Debug)]
pub struct Agenda<T> {
    heap: BinaryHeap<Reverse<Item<T>>>,
    added: u64,
}

#[derive(Debug)]
struct Item<T> {
    at: Instant,
    sequence: u64,
    due: T,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            added: 0,
        }
    }
}

impl<T> Agenda<T> {
    /// Adds what is due at `at`.
    pub fn add(&mut self, at: Instant, due: T) {
        let sequence = self.added;
        self.added += 1;
        self.heap.push(Reverse(Item { at, sequence, due }));
    }
}

/// Takes the earliest out; ends when nothing is due any more.
impl<T> Iterator for Agenda<T> {
    type Item = (Instant, T);

    fn next(&mut self) -> Option<Self::Item> {
        self.heap.pop().map(|Reverse(item)| (item.at, item.due))
    }
}

impl<T> PartialEq for Item<T> {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl<T> Eq for Item<T> {}

impl<T> PartialOrd for Item<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Item<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_one_time_comes_in_the_order_of_entry() {
        let mut agenda = Agenda::default();
        for (at, name) in [(5, "c"), (1, "a"), (5, "d"), (2, "b"), (5, "e")] {
            agenda.add(Instant::from_millis(at), name);
        }
        let names: Vec<_> = agenda.map(|(_, name)| name).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
    }
}
