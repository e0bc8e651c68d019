//! [`Index`]: which sessions each key has, and which runs belong to which session.
//!
//! **Invariant:** the sessions of a key are at least the gap apart, and each knows the one before it in time; a key without
//! one is not here.

use std::collections::BTreeMap;

use datafusion::common::HashMap;

const NONE: u32 = u32::MAX;

/// A session, or one that was joined to another and is still named by runs.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// Its first time.
    pub(super) first: i64,
    /// Its last time.
    pub(super) last: i64,
    /// The session of the same key before this one in time.
    next: u32,
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

/// What becomes of a run.
pub(super) enum Admitted {
    /// It belongs to this session. Others that it joined to it are in `Index::joined`.
    To(u32),
    /// It is late as a whole.
    Late,
}

/// Sessions by key.
pub(super) struct Index {
    gap: i64,
    keys: HashMap<Box<[u8]>, u32>,
    sessions: Vec<Session>,
    free: Vec<u32>,
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
            free: Vec::new(),
            begins: BTreeMap::new(),
            joined: Vec::new(),
        }
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
        let head = self.keys.get(key).copied().unwrap_or(NONE);
        let mut touched: Option<u32> = None;
        let mut more: Vec<u32> = Vec::new();
        let mut id = head;
        while id != NONE {
            let session = &self.sessions[id as usize];
            let next = session.next;
            let (ends, begun) = (session.last.saturating_add(gap), session.first);
            if ends <= first {
                // The others are still earlier.
                break;
            }
            if begun < last.saturating_add(gap) {
                if session.closed || ends <= watermark {
                    // Its bounds are known for one more gap.
                    if ends.saturating_add(gap) > watermark {
                        return Admitted::Late;
                    }
                } else if touched.is_some() {
                    more.push(id);
                } else {
                    touched = Some(id);
                }
            }
            id = next;
        }
        let Some(into) = touched else {
            if last.saturating_add(gap) <= watermark {
                return Admitted::Late;
            }
            return Admitted::To(self.add(key, (first, last), false));
        };
        for other in more {
            self.unlink(key, other);
            let (from, to) = (self.sessions[other as usize].first, self.sessions[other as usize].last);
            self.sessions[other as usize].joined = into;
            self.joined.push(other);
            self.ends_beginning(from);
            self.extend(into, from, to);
        }
        self.extend(into, first, last);
        Admitted::To(into)
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
        // Rows come about in order, so the place is mostly the front.
        let (mut before, mut next) = (NONE, self.keys.get(key).copied().unwrap_or(NONE));
        while next != NONE && self.sessions[next as usize].first > first {
            (before, next) = (next, self.sessions[next as usize].next);
        }
        let session = Session { first, last, next, joined: NONE, runs: 0, closed, dirty: !closed, row: NONE };
        let id = match self.free.pop() {
            Some(id) => {
                self.sessions[id as usize] = session;
                id
            }
            None => {
                self.sessions.push(session);
                (self.sessions.len() - 1) as u32
            }
        };
        if before != NONE {
            self.sessions[before as usize].next = id;
        } else if let Some(head) = self.keys.get_mut(key) {
            *head = id;
        } else {
            self.keys.insert(key.into(), id);
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
            self.free.push(id);
        }
    }

    /// Forgets a session.
    pub(super) fn remove(&mut self, key: &[u8], id: u32) {
        self.unlink(key, id);
        self.free.push(id);
    }

    fn unlink(&mut self, key: &[u8], id: u32) {
        let next = self.sessions[id as usize].next;
        let Some(head) = self.keys.get_mut(key) else { return };
        if *head != id {
            let mut at = *head;
            while at != NONE && self.sessions[at as usize].next != id {
                at = self.sessions[at as usize].next;
            }
            if at != NONE {
                self.sessions[at as usize].next = next;
            }
        } else if next != NONE {
            *head = next;
        } else {
            self.keys.remove(key);
        }
    }
}
