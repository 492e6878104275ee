//! Maps and sets as one sorted vector: small code where the standard library's trees are five kilobytes a kind.
//!
//! A lookup is a binary search; an insertion or removal moves what lies behind, some microseconds in a thousand entries
//! and nothing for keys that only grow. Holds the entries alone. Omitted: what nobody here needs of the trees.

use crate::list::Keep;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::{Bound, Index, RangeBounds};

/// Values by their keys, in the keys' order.
#[derive(Clone, Debug)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

/// Keys in their order.
#[derive(Clone, Debug)]
pub struct SortedSet<K>(SortedMap<K, ()>);

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> SortedMap<K, V> {
        SortedMap::new()
    }
}

impl<K, V> SortedMap<K, V> {
    /// An empty one.
    pub const fn new() -> SortedMap<K, V> {
        SortedMap(Vec::new())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all, and gives the memory back.
    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + ExactSizeIterator + Clone {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// All, in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator + Clone {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values, in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator + Clone {
        self.0.iter().map(|(_, value)| value)
    }

    /// The values, in the order of their keys.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// Keeps those of which `keeps` is true.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &V) -> bool) {
        self.0.keep(|(key, value)| keeps(key, value));
    }

    /// Takes out those of which `goes` is true.
    pub fn extract(&mut self, mut goes: impl FnMut(&K, &mut V) -> bool) -> Vec<(K, V)> {
        self.0.extract_if(.., |(key, value)| goes(key, value)).collect()
    }

    /// Takes the first out.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// Where a key is, or belongs. By itself, as what is put there and taken out: types of one layout share them.
    #[inline(never)]
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        // The standard library's search compares at two places, and never stops early.
        let (mut from, mut to) = (0, self.0.len());
        while from < to {
            let at = from.midpoint(to);
            match self.0[at].0.borrow().cmp(key) {
                Ordering::Less => from = at + 1,
                Ordering::Equal => return Ok(at),
                Ordering::Greater => to = at,
            }
        }
        Err(from)
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    /// The value of a key.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| &mut self.0[at].1)
    }

    /// Whether it has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    #[inline(never)]
    fn put(&mut self, at: usize, entry: (K, V)) {
        self.0.insert(at, entry);
    }

    /// Gives a key a value in place of the one that it had.
    pub fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.put(at, (key, value)),
        }
    }

    /// The value of a key, which is made if it has none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let at = self.find(&key).unwrap_or_else(|at| {
            self.put(at, (key, make()));
            at
        });
        &mut self.0[at].1
    }

    /// Takes a key out; the value that it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    /// Those whose keys lie in a range.
    pub fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        within(&self.0, range).iter().map(|(key, value)| (key, value))
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SortedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("a key that is there")
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<K> Default for SortedSet<K> {
    fn default() -> SortedSet<K> {
        SortedSet::new()
    }
}

impl<K> SortedSet<K> {
    /// An empty one.
    pub const fn new() -> SortedSet<K> {
        SortedSet(SortedMap::new())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all, and gives the memory back.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator + Clone {
        self.0.keys()
    }

    /// The first.
    pub fn first(&self) -> Option<&K> {
        self.iter().next()
    }

    /// Takes the first out.
    pub fn pop_first(&mut self) -> Option<K> {
        self.0.pop_first().map(|(key, ())| key)
    }

    /// Keeps those of which `keeps` is true.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K) -> bool) {
        self.0.retain(|key, ()| keeps(key));
    }
}

impl<K: Ord> SortedSet<K> {
    /// The key in it that equals this one.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
    {
        self.0.find(key).ok().map(|at| &self.0.0[at].0)
    }

    /// Whether it is in it.
    pub fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Puts a key in; `false` if it was there.
    pub fn insert(&mut self, key: K) -> bool {
        let found = self.0.find(&key);
        if let Err(at) = found {
            self.0.put(at, (key, ()));
        }
        found.is_err()
    }

    /// Takes a key out; `false` if it was not there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.remove(key).is_some()
    }

    /// Those in a range.
    pub fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.0.range(range).map(|(key, ())| key)
    }
}

/// The entries whose keys lie in a range.
fn within<K: Ord, V>(sorted: &[(K, V)], range: impl RangeBounds<K>) -> &[(K, V)] {
    let from = match range.start_bound() {
        Bound::Included(from) => sorted.partition_point(|(key, _)| key < from),
        Bound::Excluded(from) => sorted.partition_point(|(key, _)| key <= from),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(to) => sorted.partition_point(|(key, _)| key <= to),
        Bound::Excluded(to) => sorted.partition_point(|(key, _)| key < to),
        Bound::Unbounded => sorted.len(),
    };
    sorted.get(from..to).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::random::Random;

    #[test]
    fn a_map_says_what_a_tree_would() {
        let mut random = Random::new(1);
        let (mut map, mut tree) = (SortedMap::new(), BTreeMap::new());
        for n in 0..2000 {
            let key = random.below(60);
            match random.below(5) {
                0 => assert_eq!(map.remove(&key), tree.remove(&key)),
                1 => assert_eq!(map.get_or_insert_with(key, || n), tree.entry(key).or_insert(n)),
                2 => assert_eq!(
                    (map.get(&key), map.contains_key(&key)),
                    (tree.get(&key), tree.contains_key(&key))
                ),
                3 if n % 50 == 0 => assert_eq!(map.pop_first(), tree.pop_first()),
                _ => {
                    map.insert(key, n);
                    tree.insert(key, n);
                }
            }
            let to = random.below(60).max(key);
            assert!(map.range(key..to).eq(tree.range(key..to)));
            assert!(map.range(key..=to).rev().eq(tree.range(key..=to).rev()));
            assert!(map.range(key..).chain(map.range(..key)).eq(tree.range(key..).chain(tree.range(..key))));
            assert!(map.iter().eq(&tree) && map.len() == tree.len());
        }
        map.values_mut().for_each(|value| *value %= 3);
        let gone = map.extract(|_, value| *value == 1);
        assert!(!gone.is_empty() && gone.is_sorted() && map.values().all(|value| *value != 1));
        map.retain(|_, value| *value == 0);
        assert!(map.keys().is_sorted() && map.values().all(|value| *value == 0));
    }

    #[test]
    fn a_set_says_what_a_tree_would() {
        let mut random = Random::new(2);
        let (mut set, mut tree) = (SortedSet::new(), BTreeSet::new());
        for _ in 0..2000 {
            let key = random.below(60);
            if random.below(2) == 0 {
                assert_eq!(set.insert(key), tree.insert(key));
            } else {
                assert_eq!(set.remove(&key), tree.remove(&key));
            }
            assert!(set.iter().eq(&tree) && set.first() == tree.first());
            assert_eq!((set.get(&key), set.contains(&key)), (tree.get(&key), tree.contains(&key)));
            assert!(set.range(key..).eq(tree.range(key..)));
        }
        assert_eq!((set.pop_first(), set.len()), (tree.pop_first(), tree.len()));
    }
}
