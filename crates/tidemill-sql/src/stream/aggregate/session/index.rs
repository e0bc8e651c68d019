//! [`Index`]: which sessions each key has, and which runs belong to which session.
//!
//! **Invariant:** the sessions of a key are at least the gap apart and stand in order of time; a key without one is not
//! here. Finding the place of a run takes the logarithm of how many there are, wherever it lies: lanes read at their own
//! pace, and what one brings may lie far behind what another has brought.

use std::collections::BTreeMap;

use datafusion::common::HashMap;

use super::key::Key;
use super::line::{Line, Stand};
use crate::stream::state::Numbers;

const NONE: u32 = u32::MAX;

/// A session, or one that was joined to another and is still named by runs.
#[derive(Debug, Clone)]
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
}

impl Session {
    fn new((first, last): (i64, i64), closed: bool) -> Session {
        Session { first, last, joined: NONE, runs: 0, closed, dirty: !closed, row: NONE }
    }
}

/// Puts a session where there is room, and answers where that is.
fn fresh(sessions: &mut Vec<Session>, free: &mut Numbers, session: Session) -> u32 {
    match free.take() {
        Some(id) => {
            sessions[id as usize] = session;
            id
        }
        None => {
            sessions.push(session);
            (sessions.len() - 1) as u32
        }
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
    keys: HashMap<Key, Line>,
    sessions: Vec<Session>,
    free: Numbers,
    /// How many open sessions begin in each stretch of one gap.
    begins: BTreeMap<i64, u32>,
    /// Sessions that were joined to others since this was emptied.
    pub(super) joined: Vec<u32>,
}

impl Index {
    pub(super) fn new(gap: i64) -> Index {
        Index {
            gap,
            keys: HashMap::default(),
            sessions: Vec::new(),
            free: Numbers::default(),
            begins: BTreeMap::new(),
            joined: Vec::new(),
        }
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.sessions.capacity() * size_of::<Session>()
            + self.keys.capacity() * (size_of::<Key>() + size_of::<Line>() + 1)
            + self.free.bytes()
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
    pub(super) fn admit(&mut self, key: &[u8], (first, last): (i64, i64), watermark: i64) -> Admitted {
        let gap = self.gap;
        let is_late = last.saturating_add(gap) <= watermark;
        let Some(line) = self.keys.get_mut(key) else {
            return if is_late { Admitted::Late(None) } else { Admitted::To(self.add(key, (first, last), false)) };
        };
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
            if is_late {
                return Admitted::Late(None);
            }
            let place = line.from(first.saturating_add(1));
            let id = fresh(&mut self.sessions, &mut self.free, Session::new((first, last), false));
            line.insert(place, Stand { first, id });
            self.begin(first);
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
            self.ends_beginning(from);
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
            self.ends_beginning(before);
            self.begin(first);
        }
    }

    fn begin(&mut self, first: i64) {
        *self.begins.entry(first.div_euclid(self.gap)).or_insert(0) += 1;
    }

    fn ends_beginning(&mut self, first: i64) {
        let stretch = first.div_euclid(self.gap);
        if let Some(count) = self.begins.get_mut(&stretch) {
            *count -= 1;
            if *count == 0 {
                self.begins.remove(&stretch);
            }
        }
    }

    /// A time that no open session begins before.
    pub(super) fn earliest_open(&self) -> Option<i64> {
        self.begins.first_key_value().map(|(stretch, _)| stretch.saturating_mul(self.gap))
    }

    /// The session was given out as final.
    pub(super) fn close(&mut self, id: u32) {
        let session = self.session(id);
        session.closed = true;
        let first = session.first;
        self.ends_beginning(first);
    }

    /// A session that was final before this process began.
    pub(super) fn add_closed(&mut self, key: &[u8], bounds: (i64, i64)) -> u32 {
        self.add(key, bounds, true)
    }

    fn add(&mut self, key: &[u8], (first, last): (i64, i64), closed: bool) -> u32 {
        if !closed {
            self.begin(first);
        }
        let id = fresh(&mut self.sessions, &mut self.free, Session::new((first, last), closed));
        let stand = Stand { first, id };
        match self.keys.get_mut(key) {
            Some(line) => line.insert(line.from(first.saturating_add(1)), stand),
            None => {
                self.keys.insert(key.into(), Line::One(stand));
            }
        }
        id
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
        self.keys.shrink_to_fit();
    }

    /// The number is another session's from now on, or nobody's.
    fn give_back(&mut self, id: u32) {
        if let Some(shorter) = self.free.put(id, self.sessions.len()) {
            self.shorten(shorter);
        }
    }

    /// Forgets a session.
    pub(super) fn remove(&mut self, key: &[u8], id: u32) {
        if let Some(line) = self.keys.get_mut(key) {
            if matches!(line, Line::One(one) if one.id == id) {
                self.keys.remove(key);
            } else {
                line.remove_all(&[id], line.from(self.sessions[id as usize].first));
            }
        }
        self.give_back(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The open sessions of a key, in order.
    fn bounds(index: &Index, key: &[u8]) -> Vec<(i64, i64)> {
        let Some(line) = index.keys.get(key) else { return Vec::new() };
        let sessions = (0..line.len()).map(|place| &index.sessions[line.at(place).id as usize]);
        sessions.map(|session| (session.first, session.last)).collect()
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
            assert_eq!(bounds(&index, b"k"), expected, "round {round}");
            let ids: Vec<u32> = (0..expected.len()).map(|place| index.keys[&b"k"[..]].at(place).id).collect();
            for (at, id) in ids.iter().enumerate() {
                index.remove(b"k", *id);
                assert_eq!(bounds(&index, b"k"), expected[at + 1..], "round {round}");
            }
            assert!(index.keys.is_empty());
        }
    }
}
