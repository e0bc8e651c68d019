//! [`Index`]: which sessions each key has, and which runs belong to which session.
//!
//! **Invariant:** the sessions of a key are at least the gap apart and stand in order of time; a key without one is not
//! here. Finding the place of a run takes the logarithm of how many there are, wherever it lies: lanes read at their own
//! pace, and what one brings may lie far behind what another has brought.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashTable;

use super::key::Key;
use super::line::{Line, Stand};
use crate::stream::state::{Numbers, hash_of};

/// No session, and no number.
pub(super) const NONE: u32 = u32::MAX;
/// Marks the number of a line of several sessions in the table of keys; without it there is the number of the only one.
const SEVERAL: u32 = 1 << 31;

/// A session, or one that was joined to another and is still named by runs.
pub(super) struct Session {
    /// Its first time.
    pub(super) first: i64,
    /// Its last time.
    pub(super) last: i64,
    /// The session that this one was joined to.
    joined: u32,
    /// How many runs name it.
    runs: u32,
    /// It was given out as final.
    pub(super) closed: bool,
    /// Rows came since it was last looked at.
    pub(super) dirty: bool,
    /// A row that has its keys, while groups are being made.
    pub(super) row: u32,
    /// Its number among those that groups are being made of.
    pub(super) group: u32,
    key: Key,
}

impl Session {
    fn new(key: &[u8], (first, last): (i64, i64), closed: bool) -> Session {
        Session { first, last, joined: NONE, runs: 0, closed, dirty: !closed, row: NONE, group: NONE, key: key.into() }
    }
}

/// What becomes of a run.
pub(super) enum Admitted {
    /// It belongs to this session. Others that it joined to it are in `Index::joined`.
    To(u32),
    /// It is late as a whole; what it touches, if it touches a final session, from its first time to its end.
    Late(Option<(i64, i64)>),
}

/// Sessions by key.
pub(super) struct Index {
    gap: i64,
    /// For each key its session, or the line of its sessions.
    keys: HashTable<u32>,
    lines: Vec<VecDeque<Stand>>,
    free_lines: Vec<u32>,
    sessions: Vec<Session>,
    free: Numbers,
    begins: Begins,
    /// Sessions that were joined to others since this was emptied.
    pub(super) joined: Vec<u32>,
}

/// The sessions of a key, taken out to be changed, and where they were.
struct Taken {
    hash: u64,
    /// `None` when the key has none.
    entry: Option<u32>,
    line: Option<Line>,
}

/// A session of the entry of a key, by which the key is known.
fn head(entry: u32, lines: &[VecDeque<Stand>]) -> usize {
    let line = (entry & SEVERAL != 0).then(|| lines.get((entry & !SEVERAL) as usize)?.front()).flatten();
    line.map_or(entry, |stand| stand.id) as usize
}

impl Index {
    pub(super) fn new(gap: i64) -> Index {
        Index {
            gap,
            keys: HashTable::new(),
            lines: Vec::new(),
            free_lines: Vec::new(),
            sessions: Vec::new(),
            free: Numbers::default(),
            begins: Begins::new(gap),
            joined: Vec::new(),
        }
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let lines: usize = self.lines.iter().map(|line| line.capacity() * size_of::<Stand>()).sum();
        self.sessions.capacity() * size_of::<Session>()
            + self.keys.allocation_size()
            + self.lines.capacity() * size_of::<VecDeque<Stand>>()
            + lines
            + self.free.bytes()
    }

    /// Takes the sessions of a key out; they have to be put back.
    fn take(&mut self, key: &[u8]) -> Taken {
        let hash = hash_of(key);
        let (sessions, lines) = (&self.sessions, &self.lines);
        let entry = self.keys.find(hash, |entry| sessions[head(*entry, lines)].key.bytes() == key).copied();
        let line = entry.map(|entry| match entry & SEVERAL != 0 {
            true => Line::Many(std::mem::take(&mut self.lines[(entry & !SEVERAL) as usize])),
            false => Line::One(Stand { first: self.sessions[entry as usize].first, id: entry }),
        });
        Taken { hash, entry, line }
    }

    /// Puts the sessions of a key back, `None` when there are none left.
    fn put_back(&mut self, key: &[u8], hash: u64, before: Option<u32>, line: Option<Line>) {
        let known = before.filter(|entry| entry & SEVERAL != 0);
        let entry = match line {
            None => None,
            Some(Line::One(stand)) => Some(stand.id),
            Some(Line::Many(stands)) => {
                let number = match known.map(|entry| entry & !SEVERAL).or_else(|| self.free_lines.pop()) {
                    Some(number) => {
                        self.lines[number as usize] = stands;
                        number
                    }
                    None => {
                        self.lines.push(stands);
                        (self.lines.len() - 1) as u32
                    }
                };
                Some(number | SEVERAL)
            }
        };
        if let Some(number) = known.filter(|_| entry.is_none_or(|entry| entry & SEVERAL == 0)) {
            self.free_lines.push(number & !SEVERAL);
        }
        let (sessions, lines) = (&self.sessions, &self.lines);
        match (before, entry) {
            (Some(before), Some(entry)) if before == entry => {}
            (Some(before), Some(entry)) => {
                if let Some(place) = self.keys.find_mut(hash, |other| *other == before) {
                    *place = entry;
                }
            }
            (Some(before), None) => {
                if let Ok(place) = self.keys.find_entry(hash, |other| *other == before) {
                    place.remove();
                }
            }
            (None, Some(entry)) => {
                let hash_of_entry = |entry: &u32| hash_of(sessions[head(*entry, lines)].key.bytes());
                self.keys.insert_unique(hash, entry, hash_of_entry);
            }
            (None, None) => {}
        }
        debug_assert!(
            entry.is_none_or(|entry| self.sessions[head(entry, &self.lines)].key.bytes() == key),
            "sessions stand by their own key"
        );
    }

    pub(super) fn session(&mut self, id: u32) -> &mut Session {
        &mut self.sessions[id as usize]
    }

    /// The session that a run belongs to now.
    pub(super) fn root(&self, mut id: u32) -> u32 {
        while self.sessions[id as usize].joined != NONE {
            id = self.sessions[id as usize].joined;
        }
        id
    }

    /// Finds the session of a run `[first, last]`, given the watermark.
    pub(super) fn admit(&mut self, key: &[u8], run: (i64, i64), watermark: i64) -> Admitted {
        let Taken { hash, entry, line } = self.take(key);
        let Some(mut line) = line else {
            if run.1.saturating_add(self.gap) <= watermark {
                return Admitted::Late(None);
            }
            let id = self.fresh(Session::new(key, run, false));
            self.begins.add(run.0);
            self.put_back(key, hash, None, Some(Line::One(Stand { first: run.0, id })));
            return Admitted::To(id);
        };
        let admitted = self.admit_to(key, &mut line, run, watermark);
        self.put_back(key, hash, entry, Some(line));
        admitted
    }

    /// The same, among the sessions of its key.
    fn admit_to(&mut self, key: &[u8], line: &mut Line, (first, last): (i64, i64), watermark: i64) -> Admitted {
        let gap = self.gap;
        let mut touched: Option<Stand> = None;
        let mut more: Vec<u32> = Vec::new();
        let mut place = line.from(last.saturating_add(gap));
        while place > 0 {
            let stand = line.at(place - 1);
            let session = &self.sessions[stand.id as usize];
            let ends = session.last.saturating_add(gap);
            if ends <= first {
                // The others are still earlier.
                break;
            }
            place -= 1;
            if session.closed || ends <= watermark {
                // Its bounds are known for one more gap.
                if ends.saturating_add(gap) > watermark {
                    return Admitted::Late(Some((session.first, ends)));
                }
            } else if touched.is_some() {
                more.push(stand.id);
            } else {
                touched = Some(stand);
            }
        }
        let Some(into) = touched else {
            if last.saturating_add(gap) <= watermark {
                return Admitted::Late(None);
            }
            let place = line.from(first.saturating_add(1));
            let id = self.fresh(Session::new(key, (first, last), false));
            line.insert(place, Stand { first, id });
            self.begins.add(first);
            return Admitted::To(id);
        };
        let begins = more.iter().map(|id| self.sessions[*id as usize].first).fold(first, i64::min);
        if begins < into.first {
            line.remove_all(&more, place);
            line.begins(line.place_of(into, place), begins);
        }
        for other in more {
            let (from, to) = (self.sessions[other as usize].first, self.sessions[other as usize].last);
            self.sessions[other as usize].joined = into.id;
            self.joined.push(other);
            self.begins.remove(from);
            self.extend(into.id, from, to);
        }
        self.extend(into.id, first, last);
        Admitted::To(into.id)
    }

    fn extend(&mut self, id: u32, first: i64, last: i64) {
        let session = &mut self.sessions[id as usize];
        let before = session.first;
        (session.first, session.last) = (before.min(first), session.last.max(last));
        session.dirty = true;
        if first < before {
            self.begins.remove(before);
            self.begins.add(first);
        }
    }

    /// A time that no open session begins before.
    pub(super) fn earliest_open(&self) -> Option<i64> {
        self.begins.earliest()
    }

    /// The session was given out as final.
    pub(super) fn close(&mut self, id: u32) {
        let session = self.session(id);
        session.closed = true;
        let first = session.first;
        self.begins.remove(first);
    }

    /// A session that was final before this process began.
    pub(super) fn add_closed(&mut self, key: &[u8], bounds: (i64, i64)) -> u32 {
        let Taken { hash, entry, line } = self.take(key);
        let id = self.fresh(Session::new(key, bounds, true));
        let stand = Stand { first: bounds.0, id };
        let line = match line {
            None => Line::One(stand),
            Some(mut line) => {
                line.insert(line.from(stand.first.saturating_add(1)), stand);
                line
            }
        };
        self.put_back(key, hash, entry, Some(line));
        id
    }

    /// Puts a session where there is room, and answers where that is.
    fn fresh(&mut self, session: Session) -> u32 {
        match self.free.take() {
            Some(id) => {
                self.sessions[id as usize] = session;
                id
            }
            None => {
                self.sessions.push(session);
                (self.sessions.len() - 1) as u32
            }
        }
    }

    /// A run names this session.
    pub(super) fn name(&mut self, id: u32) {
        self.sessions[id as usize].runs += 1;
    }

    /// A run names it no more; a session that was joined to another goes with its last run.
    pub(super) fn unname(&mut self, id: u32) {
        let session = self.session(id);
        session.runs -= 1;
        if session.runs == 0 && session.joined != NONE {
            self.give_back(id);
        }
    }

    /// Gives memory back that most sessions have left, at the end of an epoch.
    pub(super) fn settle(&mut self) {
        if let Some(shorter) = self.free.settle(self.sessions.len()) {
            self.shorten(shorter);
        }
    }

    fn shorten(&mut self, shorter: usize) {
        self.sessions.truncate(shorter);
        self.sessions.shrink_to_fit();
        let (sessions, lines) = (&self.sessions, &self.lines);
        self.keys.shrink_to_fit(|entry| hash_of(sessions[head(*entry, lines)].key.bytes()));
        if self.free_lines.len() == self.lines.len() {
            (self.lines, self.free_lines) = (Vec::new(), Vec::new());
        }
    }

    /// The number is another session's from now on, or nobody's.
    fn give_back(&mut self, id: u32) {
        if let Some(shorter) = self.free.put(id, self.sessions.len()) {
            self.shorten(shorter);
        }
    }

    /// Forgets a session.
    pub(super) fn remove(&mut self, id: u32) {
        let key = std::mem::replace(&mut self.sessions[id as usize].key, Key::from(&[][..]));
        let first = self.sessions[id as usize].first;
        let hash = hash_of(key.bytes());
        let lines = &self.lines;
        let of = |entry: &u32| match entry & SEVERAL != 0 {
            true => lines.get((entry & !SEVERAL) as usize).is_some_and(|line| line.iter().any(|stand| stand.id == id)),
            false => *entry == id,
        };
        if let Some(entry) = self.keys.find(hash, of).copied() {
            let line = match entry & SEVERAL != 0 {
                false => None,
                true => {
                    let mut line = Line::Many(std::mem::take(&mut self.lines[(entry & !SEVERAL) as usize]));
                    line.remove_all(&[id], line.from(first));
                    Some(line)
                }
            };
            self.put_back(key.bytes(), hash, Some(entry), line);
        }
        self.give_back(id);
    }
}

/// How many open sessions begin in each stretch of one gap.
struct Begins {
    gap: i64,
    counts: BTreeMap<i64, i64>,
    /// The stretch that sessions began in last, and how many more of them there are than `counts` has.
    recent: (i64, i64),
}

impl Begins {
    fn new(gap: i64) -> Begins {
        Begins { gap, counts: BTreeMap::new(), recent: (0, 0) }
    }

    fn count(&mut self, first: i64, by: i64) {
        let stretch = first.div_euclid(self.gap);
        if stretch != self.recent.0 {
            let (before, more) = std::mem::replace(&mut self.recent, (stretch, 0));
            let count = self.counts.remove(&before).unwrap_or(0) + more;
            if count != 0 {
                self.counts.insert(before, count);
            }
        }
        self.recent.1 += by;
    }

    fn add(&mut self, first: i64) {
        self.count(first, 1);
    }

    fn remove(&mut self, first: i64) {
        self.count(first, -1);
    }

    /// A time that none of them begins before.
    fn earliest(&self) -> Option<i64> {
        let (recent, more) = self.recent;
        let there = |(stretch, count): (i64, i64)| (count != 0).then_some(stretch);
        let counted = self.counts.iter().map(|(stretch, count)| (*stretch, *count));
        let known = counted.map(|(stretch, count)| (stretch, if stretch == recent { count + more } else { count }));
        let alone = (!self.counts.contains_key(&recent)).then_some((recent, more)).and_then(there);
        let first = known.into_iter().find_map(there).into_iter().chain(alone).min();
        first.map(|stretch| stretch.saturating_mul(self.gap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The open sessions of a key, in order.
    fn bounds(index: &mut Index, key: &[u8]) -> Vec<(i64, i64)> {
        let sessions = ids(index, key).into_iter().map(|id| &index.sessions[id as usize]);
        sessions.map(|session| (session.first, session.last)).collect()
    }

    fn ids(index: &mut Index, key: &[u8]) -> Vec<u32> {
        let Taken { hash, entry, line } = index.take(key);
        let ids = line.iter().flat_map(|line| (0..line.len()).map(|place| line.at(place).id)).collect();
        index.put_back(key, hash, entry, line);
        ids
    }

    #[test]
    fn runs_in_any_order_make_the_sessions_that_sorting_them_makes() {
        let mut random = fastrand::Rng::with_seed(9);
        for round in 0..400 {
            let mut index = Index::new(10);
            let mut runs: Vec<(i64, i64)> = Vec::new();
            for _ in 0..random.usize(1..60) {
                let first = random.i64(0..1_500);
                let run = (first, first + random.i64(0..12));
                runs.push(run);
                assert!(matches!(index.admit(b"k", run, i64::MIN), Admitted::To(_)));
            }
            runs.sort_unstable();
            let mut expected: Vec<(i64, i64)> = Vec::new();
            for (first, last) in runs {
                match expected.last_mut() {
                    Some(session) if first < session.1 + 10 => session.1 = session.1.max(last),
                    _ => expected.push((first, last)),
                }
            }
            assert_eq!(bounds(&mut index, b"k"), expected, "round {round}");
            let earliest = index.earliest_open().expect("open sessions");
            assert!(earliest <= expected[0].0 && earliest + 10 > expected[0].0, "round {round}");
            for (at, id) in ids(&mut index, b"k").into_iter().enumerate() {
                index.close(id);
                index.remove(id);
                assert_eq!(bounds(&mut index, b"k"), expected[at + 1..], "round {round}");
            }
            assert!(index.keys.is_empty() && index.earliest_open().is_none());
        }
    }
}
