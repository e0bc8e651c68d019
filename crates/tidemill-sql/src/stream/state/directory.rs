//! [`Directory`]: which group of a log has a key.
//!
//! A group has the keys whose hashes begin with the same bits. One that has grown large is divided into four, by two
//! more bits; the others stay as they are.
//!
//! **Invariant:** every hash has one group; a group of `depth` bits stands at all places that begin with its own.

use std::ops::{Index, IndexMut};

use tidemill_model::Result;

use super::group::Group;

/// A group is divided when it has more keys than this: writing so many takes a few hundredths of a second.
pub(super) const MOST_KEYS: usize = if cfg!(test) { 16 << 10 } else { 128 << 10 };
/// How many bits may tell groups apart: more groups would make the manifest long.
const MOST_BITS: u32 = 8;

/// The groups of a log.
pub(super) struct Directory {
    groups: Vec<Group>,
    /// The number of the group of each beginning of a hash.
    places: Vec<u16>,
    /// How many bits a beginning has.
    bits: u32,
}

impl Default for Directory {
    fn default() -> Directory {
        Directory { groups: vec![Group::default()], places: vec![0], bits: 0 }
    }
}

/// The beginning of a hash. Tables probe by the lower bits and compare the upper ones, so those of the middle are taken.
fn beginning(hash: u64, bits: u32) -> usize {
    ((hash >> 40) as usize % (1 << MOST_BITS)) >> (MOST_BITS - bits)
}

impl Directory {
    /// Groups that all have so many bits.
    pub(super) fn of_depth(depth: u32) -> Directory {
        let bits = depth.min(MOST_BITS);
        let groups: Vec<Group> = (0..1 << bits).map(|number| Group::at((bits, number))).collect();
        Directory { places: (0..groups.len() as u16).collect(), groups, bits }
    }

    /// The groups of these places, and empty ones for what is left; `None` when two of them overlap.
    pub(super) fn with(places: &[(u32, usize)]) -> Option<Directory> {
        let mut of: Vec<Option<(u32, usize)>> = vec![None; 1 << MOST_BITS];
        for (depth, number) in places {
            let width = 1 << MOST_BITS.checked_sub(*depth)?;
            for place in of.get_mut(number * width..(number + 1) * width)? {
                if place.is_some_and(|other| other != (*depth, *number)) {
                    return None;
                }
                *place = Some((*depth, *number));
            }
        }
        let bits = places.iter().map(|(depth, _)| *depth).max().unwrap_or(0);
        let mut directory = Directory { groups: Vec::new(), places: Vec::new(), bits };
        for at in 0..1 << bits {
            let place = of[at << (MOST_BITS - bits)].unwrap_or((bits, at));
            if directory.groups.last().is_none_or(|last| last.place != place) {
                directory.groups.push(Group::at(place));
            }
            directory.places.push((directory.groups.len() - 1) as u16);
        }
        Some(directory)
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.groups.iter_mut()
    }

    /// The number of the group that has the keys of this hash.
    pub(super) fn number_of(&self, hash: u64) -> usize {
        if self.bits == 0 { 0 } else { usize::from(self.places[beginning(hash, self.bits)]) }
    }

    /// The group that has the keys of this hash.
    pub(super) fn of(&mut self, hash: u64) -> &mut Group {
        let number = self.number_of(hash);
        &mut self.groups[number]
    }

    /// The group of this place.
    pub(super) fn at(&mut self, place: (u32, usize)) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.place == place)
    }

    /// Divides what is large and is to be stored as a whole anyhow, and of the others the largest.
    pub(super) fn divide_large(&mut self, obsolete: &mut Vec<String>) -> Result<()> {
        self.divide_fresh()?;
        let large = (0..self.groups.len()).filter(|number| self.is_large(*number));
        if let Some(number) = large.max_by_key(|number| self.groups[*number].len()) {
            self.groups[number].call_up_all()?;
            obsolete.extend(self.groups[number].chunks.drain(..).map(|chunk| chunk.name));
            self.divide(number);
            // Of what was very large the parts are large still.
            self.divide_fresh()?;
        }
        Ok(())
    }

    /// Divides what is large and nowhere stored. As it grows, so that what is called up for it is little more than what made
    /// it large.
    pub(super) fn divide_fresh(&mut self) -> Result<()> {
        let mut number = 0;
        while number < self.groups.len() {
            if self.groups[number].chunks.is_empty() && self.is_large(number) {
                self.groups[number].call_up_all()?;
                self.divide(number);
            } else {
                number += 1;
            }
        }
        Ok(())
    }

    fn is_large(&self, number: usize) -> bool {
        let group = &self.groups[number];
        group.len() > MOST_KEYS && group.place.0 + 2 <= MOST_BITS
    }

    fn divide(&mut self, number: usize) {
        let (depth, place) = self.groups[number].place;
        while self.bits < depth + 2 {
            self.places = self.places.iter().flat_map(|number| [*number; 4]).collect();
            self.bits += 2;
        }
        let whole = std::mem::take(&mut self.groups[number]);
        let [first, others @ ..] = whole.divided(beginning);
        let width = 1 << (self.bits - depth - 2);
        self.groups[number] = first;
        for (part, group) in (1..).zip(others) {
            let from = (place * 4 + part) * width;
            let number = self.groups.len() as u16;
            self.groups.push(group);
            self.places[from..from + width].fill(number);
        }
    }
}

impl Index<usize> for Directory {
    type Output = Group;

    fn index(&self, number: usize) -> &Group {
        &self.groups[number]
    }
}

impl IndexMut<usize> for Directory {
    fn index_mut(&mut self, number: usize) -> &mut Group {
        &mut self.groups[number]
    }
}
