//! [`Numbers`]: which numbers of a vector's places are free, so that others can stand there, and when it can be shorter.
//!
//! **Invariant:** the least free number is taken first. What stays for long moves to the front so, and the end of a vector
//! that was long once becomes free.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A vector of fewer places is not worth shortening.
const WORTH_SHORTENING: usize = 64;

/// Free places.
#[derive(Default)]
pub(in crate::stream) struct Numbers {
    free: BinaryHeap<Reverse<u32>>,
    /// How many were freed since shortening was last tried.
    freed: usize,
}

impl Numbers {
    /// A free number, which is taken from now on.
    pub(in crate::stream) fn take(&mut self) -> Option<u32> {
        self.free.pop().map(|Reverse(number)| number)
    }

    /// A number is free again. Answers how many places a vector of `length` may be cut to, when that is worth it.
    pub(in crate::stream) fn put(&mut self, number: u32, length: usize) -> Option<usize> {
        self.free.push(Reverse(number));
        self.freed += 1;
        // Looking costs as much as there are places, so there were as many steps before.
        let due = self.freed >= length && self.free.len() * 4 > length * 3 && length > WORTH_SHORTENING;
        due.then(|| self.shorten(length)).filter(|shorter| *shorter < length)
    }

    /// How many places a vector of `length` may be cut to, when most are free. Asked once an epoch: the numbers that are
    /// freed last, such as at the end of a day, may be too few to make looking for it worth while.
    pub(in crate::stream) fn settle(&mut self, length: usize) -> Option<usize> {
        let due = self.freed > 0 && self.free.len() * 4 > length * 3 && length > WORTH_SHORTENING;
        due.then(|| self.shorten(length)).filter(|shorter| *shorter < length)
    }

    fn shorten(&mut self, length: usize) -> usize {
        self.freed = 0;
        let mut is_free = vec![false; length];
        for Reverse(number) in &self.free {
            is_free[*number as usize] = true;
        }
        let shorter = is_free.iter().rposition(|free| !free).map_or(0, |last| last + 1);
        self.free.retain(|Reverse(number)| (*number as usize) < shorter);
        self.free.shrink_to_fit();
        shorter
    }

    /// How many bytes it takes.
    pub(in crate::stream) fn bytes(&self) -> usize {
        self.free.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_long_once_becomes_short_again_while_some_places_stay_taken() {
        let (mut numbers, mut places) = (Numbers::default(), Vec::<bool>::new());
        let mut taken = std::collections::VecDeque::new();
        let (mut longest, mut now) = (0, 0);
        for round in 0..200_000 {
            // Never fewer than ten are taken, and at first very many.
            let number = numbers.take().unwrap_or(places.len() as u32);
            if number as usize == places.len() {
                places.push(false);
            }
            assert!(!std::mem::replace(&mut places[number as usize], true), "{number} is given out once");
            taken.push_back(number);
            longest = longest.max(places.len());
            let most = if round < 60_000 { 60_000 } else { 10 };
            while taken.len() > most {
                let number = taken.pop_front().expect("one is taken");
                places[number as usize] = false;
                if let Some(shorter) = numbers.put(number, places.len()) {
                    assert!(places[shorter..].iter().all(|taken| !taken));
                    places.truncate(shorter);
                }
            }
            now = places.len();
        }
        assert!(longest >= 60_000 && now < 2 * WORTH_SHORTENING, "{longest} places at most, {now} now");
    }
}
