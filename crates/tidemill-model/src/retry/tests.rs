//! Retries as tables of failures and verdicts.

use super::*;

const SECOND: i64 = 1_000_000;

fn policy() -> RetryPolicy {
    RetryPolicy {
        count: 5,
        delay: Duration::from_secs(10),
        factor: 2.0,
        max_delay: None,
        jitter: Jitter::None,
        limit: None,
        on: RetryOn::default(),
    }
}

/// The wait in microseconds after so many failures, all of them at the beginning.
fn wait(policy: &RetryPolicy, failed: u32, seed: &str) -> Option<i64> {
    match policy.after(failed, Timestamp(0), Timestamp(0), Kind::Unavailable, seed) {
        Verdict::Retry { at } => Some(at.0),
        Verdict::GiveUp(_) => None,
    }
}

#[test]
fn waits_grow_up_to_the_longest_until_no_attempt_is_left() {
    let capped = RetryPolicy { max_delay: Some(Duration::from_secs(60)), ..policy() };
    let even = RetryPolicy { factor: 1.0, ..policy() };
    for (failed, grown, short, same) in [
        (1, Some(10), Some(10), Some(10)),
        (2, Some(20), Some(20), Some(10)),
        (3, Some(40), Some(40), Some(10)),
        (4, Some(80), Some(60), Some(10)),
        (5, Some(160), Some(60), Some(10)),
        (6, None, None, None),
        (u32::MAX, None, None, None),
    ] {
        let seconds = |policy: &RetryPolicy| wait(policy, failed, "p").map(|wait| wait / SECOND);
        assert_eq!((seconds(&policy()), seconds(&capped), seconds(&even)), (grown, short, same), "{failed}");
    }
    assert_eq!(wait(&RetryPolicy { count: 0, ..policy() }, 1, "p"), None);
}

#[test]
fn the_kind_decides_first() {
    let all = RetryPolicy { on: RetryOn::ALL, ..policy() };
    for (kind, by_default, by_all) in [
        (Kind::Unavailable, true, true),
        (Kind::Internal, true, true),
        (Kind::Data, false, true),
        (Kind::Config, false, false),
        (Kind::Plan, false, false),
        (Kind::Fenced, false, false),
        (Kind::Corrupt, false, false),
    ] {
        let retried = |policy: &RetryPolicy| {
            matches!(policy.after(1, Timestamp(0), Timestamp(0), kind, "p"), Verdict::Retry { .. })
        };
        assert_eq!((retried(&policy()), retried(&all)), (by_default, by_all), "{kind:?}");
    }
    let verdict = policy().after(9, Timestamp(0), Timestamp(0), Kind::Plan, "p");
    assert_eq!(verdict, Verdict::GiveUp("errors of this kind are not retried"));
}

#[test]
fn no_attempt_begins_after_the_limit() {
    let limited = RetryPolicy { limit: Some(Duration::from_secs(60)), ..policy() };
    for (failed, begun, now, at) in [
        (1, 0, 5, Some(15)),
        // Exactly at the limit is within it.
        (2, 0, 40, Some(60)),
        (2, 0, 41, None),
        (2, 100, 140, Some(160)),
        // A clock that went back does not lengthen anything.
        (1, 100, 90, Some(100)),
    ] {
        let verdict = limited.after(failed, Timestamp(begun * SECOND), Timestamp(now * SECOND), Kind::Internal, "p");
        let expected = at.map_or(Verdict::GiveUp("the next attempt would begin after the limit"), |at| {
            Verdict::Retry { at: Timestamp(at * SECOND) }
        });
        assert_eq!(verdict, expected, "{failed} {begun} {now}");
    }
}

#[test]
fn nothing_overflows() {
    for jitter in [Jitter::None, Jitter::Full, Jitter::Deterministic] {
        for (delay, factor) in
            [(Duration::from_secs(3600), 10.0), (Duration::MAX, 1.0), (Duration::MAX, f64::MAX), (Duration::ZERO, 10.0)]
        {
            for max_delay in [None, Some(Duration::MAX), Some(Duration::from_secs(600))] {
                let policy =
                    RetryPolicy { count: u32::MAX, delay, factor, max_delay, jitter, limit: None, on: RetryOn::ALL };
                for failed in [0, 1, 2, 40, 1_000, u32::MAX] {
                    for now in [Timestamp(0), Timestamp(i64::MAX), Timestamp(i64::MIN)] {
                        let verdict = policy.after(failed, now, now, Kind::Data, "p");
                        let Verdict::Retry { at } = verdict else { panic!("{verdict:?}") };
                        assert!(at >= now);
                    }
                }
            }
        }
    }
    let steep = RetryPolicy { count: 40, factor: 10.0, ..policy() };
    assert_eq!(wait(&steep, 40, "p"), Some(i64::MAX));
    let none = RetryPolicy { delay: Duration::ZERO, factor: f64::INFINITY, ..policy() };
    assert_eq!(wait(&none, 3, "p"), Some(0));
}

#[test]
fn jitter_is_the_same_each_time_and_another_for_each_seed() {
    let spread = RetryPolicy { jitter: Jitter::Deterministic, ..policy() };
    let full = RetryPolicy { jitter: Jitter::Full, ..policy() };
    // Literals, so that a change of the hash or the formula is noticed.
    assert_eq!(wait(&spread, 1, "orders"), Some(11_857_174));
    assert_eq!(wait(&full, 1, "orders"), Some(7_736_489));
    let mut below_half = 0;
    for n in 0..1_000 {
        let seed = format!("pipeline_{n}");
        let (spread, full) = (wait(&spread, 2, &seed).expect("retried"), wait(&full, 2, &seed).expect("retried"));
        assert!((20 * SECOND..=30 * SECOND).contains(&spread), "{seed}: {spread}");
        assert!((0..=20 * SECOND).contains(&full), "{seed}: {full}");
        below_half += usize::from(full < 10 * SECOND);
    }
    assert!((400..600).contains(&below_half), "{below_half} of 1000 in the lower half");
    assert_ne!(wait(&spread, 1, "a"), wait(&spread, 1, "b"));
}

#[test]
fn kinds_are_read_and_shown() {
    for (text, shown) in [
        ("unavailable", "unavailable"),
        (" Internal ,unavailable", "unavailable, internal"),
        ("data", "data"),
        ("all", "unavailable, data, internal"),
        ("unavailable, data, internal", "unavailable, data, internal"),
    ] {
        let on = RetryOn::parse(text).expect(text);
        assert_eq!(on.to_string(), shown);
        assert_eq!(RetryOn::parse(&on.to_string()).expect("reads"), on);
    }
    assert_eq!(RetryOn::default().to_string(), "unavailable, internal");
    for (text, message, label) in [
        (
            "fenced",
            "errors of kind `fenced` cannot be retried: another run owns the work, and one more attempt would take it away from that run",
            "",
        ),
        ("data, config", "errors of kind `config` cannot be retried: the project stays wrong until it is changed", ""),
        ("plan", "errors of kind `plan` cannot be retried: the SQL stays wrong until it is changed", ""),
        ("corrupt", "errors of kind `corrupt` cannot be retried: the bytes stored stay what they are", ""),
        ("unavailble", "`unavailble` is no kind of error", "did you mean `unavailable`?"),
        ("", "`` is no kind of error", ""),
        ("data,", "`` is no kind of error", ""),
    ] {
        let error = RetryOn::parse(text).expect_err(text);
        assert_eq!((error.code(), error.message(), error.caret_label()), ("C067", message, label));
    }
}

#[test]
fn jitters_are_read_and_shown() {
    for jitter in [Jitter::None, Jitter::Full, Jitter::Deterministic] {
        assert_eq!(Jitter::parse(&jitter.to_string()).expect("reads"), jitter);
    }
    let error = Jitter::parse("ful").expect_err("refused");
    assert_eq!(error.caret_label(), "did you mean `full`?");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    assert!(policy().check().is_ok());
    for factor in [0.5, -1.0, f64::NAN, f64::INFINITY] {
        let error = RetryPolicy { factor, ..policy() }.check().expect_err("refused");
        assert_eq!(error.code(), "C067");
    }
    let short = RetryPolicy { max_delay: Some(Duration::from_secs(5)), ..policy() };
    let error = short.check().expect_err("refused");
    assert_eq!(error.message(), "the longest wait, 5 seconds, is shorter than the first, 10 seconds");
}
