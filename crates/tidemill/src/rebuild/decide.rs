//! [`decide`]: what becomes of a table or view when its pipeline's results are computed anew; a pure function.
//!
//! **Invariant:** a target is written anew only where the new rows take the place of the old ones, or where there are
//! none. Everything else is refused, with what to do instead.

/// Why results are computed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Their query changed.
    Changed,
    /// The user asked for this target, over all rows.
    Asked,
    /// The user asked for this target, over rows from some instant on; whether what is older may go.
    AskedFrom { whole: bool },
    /// The user asked for other targets.
    NotAsked,
}

/// How a target is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It is a materialized view.
    View,
    /// Rows are added.
    Append,
    /// Rows replace those of their key; whether new ones win over whatever is stored.
    Upsert { overwrites: bool },
    /// By interval.
    Replace,
}

/// What is known of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) written: Written,
    /// Whether some operator that leads to it cannot be kept.
    pub(super) changed: bool,
    /// Whether some operator that leads to it keeps state.
    pub(super) stateful: bool,
    /// Whether it surely holds no rows of this pipeline.
    pub(super) unwritten: bool,
}

/// What becomes of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is untouched, and goes on from the offsets on record.
    Keep,
    /// Its result is computed anew; what else there is to know.
    Anew(Option<&'static str>),
    /// It cannot be; why not, and what to do instead.
    Refused(&'static str, &'static str),
}

const KEYS_STAY: &str = "rows replace those of their key; keys that the new result does not have stay";
const OLDER_GOES: &str = "it will hold nothing of the rows before";
const ELSEWHERE: &str = "write to a new table: change the INSERT's target, or put it into a pipeline of its own";
const BESIDE: &str = "give the rows to a new table beside it: add INSERT INTO new_table with the same SELECT to the pipeline, then replay with --only new_table";

pub(super) fn decide(facts: Facts, why: Why) -> Action {
    let Facts { written, changed, stateful, unwritten } = facts;
    match (why, written) {
        (Why::Changed, _) if !changed => Action::Keep,
        (Why::NotAsked, _) => Action::Keep,
        (Why::AskedFrom { whole: false }, _) if stateful => Action::Refused(
            "windows and groups with rows before that instant would be computed from a part of their rows",
            "replay from earliest; or say --whole if the result shall be that of the replayed rows alone",
        ),
        (Why::AskedFrom { .. }, Written::View) => Action::Anew(Some(OLDER_GOES)),
        (Why::Changed | Why::Asked, Written::View) => Action::Anew(None),
        (_, Written::Upsert { overwrites: true }) => Action::Anew(Some(KEYS_STAY)),
        (Why::Changed | Why::Asked, Written::Append | Written::Upsert { .. }) if unwritten => Action::Anew(None),
        (Why::AskedFrom { .. }, Written::Append | Written::Upsert { .. }) if unwritten => {
            Action::Anew(Some(OLDER_GOES))
        }
        (Why::Changed, Written::Append) => {
            Action::Refused("rows that it was given stay there, so those of both queries would be mixed", ELSEWHERE)
        }
        (_, Written::Append) => Action::Refused("rows are only added there, so all would be there twice", BESIDE),
        (_, Written::Upsert { overwrites: false }) => {
            Action::Refused("what it holds cannot be replaced by what is computed anew", ELSEWHERE)
        }
        (_, Written::Replace) => Action::Refused(
            "it is written by interval",
            "run the interval again: tidemill run P --interval START/PERIOD",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Is {
        Kept,
        Anew,
        Noted,
        Refused,
    }

    #[test]
    fn table() {
        let view = Facts { written: Written::View, changed: true, stateful: true, unwritten: false };
        let append = Facts { written: Written::Append, ..view };
        let upsert = Facts { written: Written::Upsert { overwrites: true }, ..view };
        let printed = Facts { written: Written::Upsert { overwrites: false }, ..view };
        let same = |facts| Facts { changed: false, ..facts };
        let fresh = |facts| Facts { unwritten: true, ..facts };
        let rows = |facts| Facts { stateful: false, changed: false, ..facts };
        let (part, whole) = (Why::AskedFrom { whole: false }, Why::AskedFrom { whole: true });
        let cases = [
            (view, Why::Changed, Is::Anew),
            (same(view), Why::Changed, Is::Kept),
            (same(append), Why::Changed, Is::Kept),
            (append, Why::Changed, Is::Refused),
            (fresh(append), Why::Changed, Is::Anew),
            (upsert, Why::Changed, Is::Noted),
            (printed, Why::Changed, Is::Refused),
            (fresh(printed), Why::Changed, Is::Anew),
            (same(view), Why::Asked, Is::Anew),
            (same(append), Why::Asked, Is::Refused),
            (fresh(same(append)), Why::Asked, Is::Anew),
            (fresh(append), Why::Asked, Is::Anew),
            (fresh(rows(append)), part, Is::Noted),
            (fresh(same(append)), part, Is::Refused),
            (same(upsert), Why::Asked, Is::Noted),
            (same(printed), Why::Asked, Is::Refused),
            (same(view), Why::NotAsked, Is::Kept),
            (same(append), Why::NotAsked, Is::Kept),
            (same(view), part, Is::Refused),
            (same(upsert), part, Is::Refused),
            (rows(upsert), part, Is::Noted),
            (rows(view), part, Is::Noted),
            (same(view), whole, Is::Noted),
            (same(upsert), whole, Is::Noted),
            (rows(append), whole, Is::Refused),
        ];
        for (facts, why, expected) in cases {
            let found = match decide(facts, why) {
                Action::Keep => Is::Kept,
                Action::Anew(None) => Is::Anew,
                Action::Anew(Some(_)) => Is::Noted,
                Action::Refused(..) => Is::Refused,
            };
            assert_eq!(found, expected, "{facts:?} {why:?}");
        }
    }
}
