//! [`Line`]: the sessions of a key in order of time.
//!
//! **Invariant:** there is at least one, and each stands with its first time: a place is found in the line's own memory,
//! without a look at the sessions, which lie anywhere.

use std::collections::VecDeque;

/// A session and its first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stand {
    pub(super) first: i64,
    pub(super) id: u32,
}

/// The sessions of a key in order of time; most keys have one.
pub(super) enum Line {
    One(Stand),
    /// Two and more. The oldest go first, and new ones come at the end or not far from it.
    Many(VecDeque<Stand>),
}

impl Line {
    pub(super) fn len(&self) -> usize {
        match self {
            Line::One(_) => 1,
            Line::Many(stands) => stands.len(),
        }
    }

    #[inline]
    pub(super) fn at(&self, place: usize) -> Stand {
        match self {
            Line::One(stand) => *stand,
            Line::Many(stands) => stands[place],
        }
    }

    /// The place of the earliest session that begins at a time or after it, or the place after all: looked for from the
    /// end on in growing steps.
    pub(super) fn from(&self, time: i64) -> usize {
        let Line::Many(stands) = self else { return usize::from(self.at(0).first < time) };
        let (mut low, mut high, mut step) = (0, stands.len(), 1);
        while high > 0 {
            let place = high.saturating_sub(step);
            if stands[place].first < time {
                low = place + 1;
                break;
            }
            (high, step) = (place, step * 2);
        }
        while low < high {
            let middle = low.midpoint(high);
            if stands[middle].first >= time { high = middle } else { low = middle + 1 }
        }
        high
    }

    pub(super) fn insert(&mut self, place: usize, stand: Stand) {
        match self {
            Line::One(one) => {
                let stands = if place == 0 { [stand, *one] } else { [*one, stand] };
                *self = Line::Many(VecDeque::from(stands));
            }
            Line::Many(stands) => stands.insert(place, stand),
        }
    }

    /// The place of a session that is at `from` or after it.
    pub(super) fn place_of(&self, stand: Stand, from: usize) -> usize {
        let places = from..self.len();
        places.clone().find(|place| self.at(*place) == stand).unwrap_or(places.start)
    }

    /// The session at a place begins earlier than it did, and still after the one before it.
    pub(super) fn begins(&mut self, place: usize, first: i64) {
        match self {
            Line::One(stand) => stand.first = first,
            Line::Many(stands) => stands[place].first = first,
        }
    }

    /// Takes sessions out of a line that has others too; all of them are at `from` or after it.
    pub(super) fn remove_all(&mut self, gone: &[u32], from: usize) {
        let Line::Many(stands) = self else { return };
        for id in gone {
            if let Some(place) = (from..stands.len()).find(|place| stands[*place].id == *id) {
                stands.remove(place);
            }
        }
        if let (1, Some(stand)) = (stands.len(), stands.front()) {
            *self = Line::One(*stand);
        }
    }
}
