//! What the standard library does with lists, in less code.
//!
//! Its functions are made anew for every type, and for speed with long lists: `collect` holds an iterator's code twice,
//! `retain` a closure's, a sort is 400 bytes, `VecDeque::remove` a thousand. There are hundreds of such places, and
//! what they deal with is short. Holds nothing.

use std::collections::VecDeque;
use std::time::Instant;

/// Iterators whose length is not known beforehand.
pub trait Gather: Iterator + Sized {
    /// All that comes. Of an iterator that knows its length, `collect` is as short.
    fn gather(self) -> Vec<Self::Item> {
        let mut list = Vec::new();
        self.for_each(|item| list.push(item));
        list
    }
}

impl<I: Iterator> Gather for I {}

/// Lists of which some go.
pub trait Keep<T> {
    /// Keeps those of which `keeps` is true, in their order.
    fn keep(&mut self, keeps: impl FnMut(&T) -> bool);
}

impl<T> Keep<T> for Vec<T> {
    fn keep(&mut self, mut keeps: impl FnMut(&T) -> bool) {
        let mut kept = 0;
        for at in 0..self.len() {
            if keeps(&self[at]) {
                self.swap(kept, at);
                kept += 1;
            }
        }
        self.truncate(kept);
    }
}

impl<T> Keep<T> for VecDeque<T> {
    fn keep(&mut self, mut keeps: impl FnMut(&T) -> bool) {
        for _ in 0..self.len() {
            if let Some(item) = self.pop_front()
                && keeps(&item)
            {
                self.push_back(item);
            }
        }
    }
}

/// Takes one out of a queue; the sooner it is due, the quicker.
pub fn take<T>(queue: &mut VecDeque<T>, at: usize) -> Option<T> {
    for at in (1..=at).rev() {
        queue.swap(at - 1, at);
    }
    queue.pop_front()
}

/// The first of some times, as far as there are any.
pub fn soonest(times: &[Option<Instant>]) -> Option<Instant> {
    times.iter().flatten().min().copied()
}

/// Sorts; in what order equals are is left open.
pub fn sort<T: Ord>(list: &mut [T]) {
    sort_by(list, |one, other| one < other);
}

/// Sorts by keys.
pub fn sort_by_key<T, K: Ord>(list: &mut [T], key: impl Fn(&T) -> K) {
    sort_by(list, |one, other| key(one) < key(other));
}

/// Sorts by what comes before what.
pub fn sort_by<T>(list: &mut [T], before: impl Fn(&T, &T) -> bool) {
    let len = list.len();
    heapsort(&mut Sorting(list, before), len);
}

/// A list as the sort sees it.
trait Sort {
    fn is_before(&self, one: usize, other: usize) -> bool;
    fn swap(&mut self, one: usize, other: usize);
}

struct Sorting<'a, T, F>(&'a mut [T], F);

impl<T, F: Fn(&T, &T) -> bool> Sort for Sorting<'_, T, F> {
    fn is_before(&self, one: usize, other: usize) -> bool {
        (self.1)(&self.0[one], &self.0[other])
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.0.swap(one, other);
    }
}

/// The one sort of all types: builds a heap, the last first, and takes the last from it until it is empty.
fn heapsort(list: &mut dyn Sort, len: usize) {
    for step in (0..len + len / 2).rev() {
        let (mut at, end) = match step.checked_sub(len) {
            Some(at) => (at, len),
            None => {
                list.swap(0, step);
                (0, step)
            }
        };
        while let Some(mut child) = Some(2 * at + 1).filter(|child| *child < end) {
            if child + 1 < end && list.is_before(child, child + 1) {
                child += 1;
            }
            if !list.is_before(at, child) {
                break;
            }
            list.swap(at, child);
            at = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn lists_come_out_as_the_standard_librarys_do() {
        let mut random = Random::new(3);
        for len in 0..200 {
            let list: Vec<usize> = (0..len).map(|_| random.below(len + 1)).collect();
            let odd = |number: &usize| number % 2 == 1;
            assert_eq!(
                list.iter().copied().filter(odd).gather(),
                list.iter().copied().filter(odd).collect::<Vec<_>>()
            );

            let (mut ours, mut theirs) = (list.clone(), list.clone());
            ours.keep(odd);
            theirs.retain(odd);
            assert_eq!(ours, theirs);

            let (mut ours, mut theirs) = (VecDeque::from(list.clone()), VecDeque::from(list.clone()));
            ours.rotate_left(ours.len() / 3);
            theirs.rotate_left(theirs.len() / 3);
            assert_eq!(take(&mut ours, theirs.len() / 2), theirs.remove(theirs.len() / 2));
            assert_eq!(take(&mut ours, 0), theirs.pop_front());
            ours.keep(odd);
            theirs.retain(odd);
            assert_eq!(ours, theirs);

            let (mut ours, mut theirs) = (list.clone(), list);
            sort(&mut ours);
            theirs.sort_unstable();
            assert_eq!(ours, theirs);
            sort_by_key(&mut ours, |number| (number % 3, usize::MAX - number));
            theirs.sort_unstable_by_key(|number| (number % 3, usize::MAX - number));
            assert_eq!(ours, theirs);
        }
    }
}
