//! Names of models as small numbers, so that a pick compares numbers and not text.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A model's name in one pool. Given to another name once nobody speaks of the first any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(u32);

/// The names of a pool's models.
#[derive(Clone, Debug, Default)]
pub struct Names {
    by_name: BTreeMap<Arc<str>, ModelId>,
    /// By id; `None` where an id is free.
    names: Vec<Option<Arc<str>>>,
    free: Vec<ModelId>,
}

impl Names {
    /// The id of `name`, a new one if it has none.
    pub fn intern(&mut self, name: &Arc<str>) -> ModelId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.names.push(None);
            ModelId(u32::try_from(self.names.len() - 1).unwrap_or(u32::MAX))
        });
        self.names[id.0 as usize] = Some(name.clone());
        self.by_name.insert(name.clone(), id);
        id
    }

    /// The id of `name`, if it has one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<ModelId> {
        self.by_name.get(name).copied()
    }

    /// The name of `id`.
    #[must_use]
    pub fn name(&self, id: ModelId) -> Option<&Arc<str>> {
        self.names.get(id.0 as usize)?.as_ref()
    }

    /// Forgets every name that is not `live`.
    pub fn sweep(&mut self, live: &IdSet) {
        let free = &mut self.free;
        let names = &mut self.names;
        self.by_name.retain(|_, &mut id| {
            let stays = live.contains(id);
            if !stays {
                names[id.0 as usize] = None;
                free.push(id);
            }
            stays
        });
    }

    /// Names that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// A set of ids, a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSet(Vec<u64>);

impl IdSet {
    /// Adds `id`.
    pub fn insert(&mut self, id: ModelId) {
        let (word, bit) = place(id);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    /// Whether `id` is in it.
    #[must_use]
    pub fn contains(&self, id: ModelId) -> bool {
        let (word, bit) = place(id);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Takes all out, and keeps the memory.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// How many are in it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Adds all of `other`.
    pub fn unite(&mut self, other: &Self) {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (bits, more) in self.0.iter_mut().zip(&other.0) {
            *bits |= more;
        }
    }

    /// Whether it has one that `other` has not.
    #[must_use]
    pub fn exceeds(&self, other: &Self) -> bool {
        let others = other.0.iter().copied().chain(std::iter::repeat(0));
        self.0
            .iter()
            .zip(others)
            .any(|(bits, other)| bits & !other != 0)
    }
}

fn place(id: ModelId) -> (usize, u64) {
    (id.0 as usize / 64, 1 << (id.0 % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_until_nobody_speaks_of_it() {
        let mut names = Names::default();
        let [a, b] = ["a", "b"].map(|name| names.intern(&name.into()));
        assert_eq!(names.intern(&"a".into()), a);
        let mut live = IdSet::default();
        live.insert(b);
        names.sweep(&live);
        assert_eq!(
            (names.get("a"), names.get("b"), names.len()),
            (None, Some(b), 1)
        );
        assert_eq!(names.intern(&"c".into()), a, "its number is free again");
        assert_eq!(names.name(a).map(|name| &**name), Some("c"));
    }

    #[test]
    fn sets_hold_what_was_put_in_and_nothing_else() {
        let mut names = Names::default();
        let ids: Vec<ModelId> = (0..200)
            .map(|number| names.intern(&number.to_string().into()))
            .collect();
        let (mut odd, mut few) = (IdSet::default(), IdSet::default());
        ids.iter().skip(1).step_by(2).for_each(|&id| odd.insert(id));
        few.insert(ids[3]);
        for (number, &id) in ids.iter().enumerate() {
            assert_eq!(odd.contains(id), number % 2 == 1);
        }
        assert!(odd.exceeds(&few) && !few.exceeds(&odd) && !odd.exceeds(&odd));
        few.insert(ids[0]);
        assert!(few.exceeds(&odd));
        few.unite(&odd);
        assert!(few.contains(ids[199]) && few.contains(ids[0]));
    }
}
