//! [`Line`]: the sessions of a key in order of time.
//!
//! **Invariant:** there is at least one.

use std::collections::VecDeque;

/// The sessions of a key in order of time; most keys have one.
pub(super) enum Line {
    One(u32),
    /// Two and more. The oldest go first, and new ones come at the end or not far from it.
    Many(VecDeque<u32>),
}

impl Line {
    pub(super) fn len(&self) -> usize {
        match self {
            Line::One(_) => 1,
            Line::Many(ids) => ids.len(),
        }
    }

    pub(super) fn at(&self, place: usize) -> u32 {
        match self {
            Line::One(id) => *id,
            Line::Many(ids) => ids[place],
        }
    }

    /// The place of the first session of which `is` holds, given that it holds of all after it: looked for from the end on
    /// in growing steps.
    pub(super) fn first_that(&self, is: impl Fn(u32) -> bool) -> usize {
        let (mut low, mut high, mut step) = (0, self.len(), 1);
        while high > 0 {
            let place = high.saturating_sub(step);
            if !is(self.at(place)) {
                low = place + 1;
                break;
            }
            (high, step) = (place, step * 2);
        }
        while low < high {
            let middle = low.midpoint(high);
            if is(self.at(middle)) { high = middle } else { low = middle + 1 }
        }
        high
    }

    pub(super) fn insert(&mut self, place: usize, id: u32) {
        match self {
            Line::One(one) => {
                let ids = if place == 0 { [id, *one] } else { [*one, id] };
                *self = Line::Many(VecDeque::from(ids));
            }
            Line::Many(ids) => ids.insert(place, id),
        }
    }

    /// Takes sessions out of a line that has others too; all of them are at `from` or after it.
    pub(super) fn remove_all(&mut self, gone: &[u32], from: usize) {
        let Line::Many(ids) = self else { return };
        for id in gone {
            if let Some(place) = (from..ids.len()).find(|place| ids[*place] == *id) {
                ids.remove(place);
            }
        }
        if let (1, Some(id)) = (ids.len(), ids.front()) {
            *self = Line::One(*id);
        }
    }
}
