//! When the run of a cell is due.

use std::time::Duration;

use super::*;

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

#[test]
fn a_cell_is_due_at_a_fire_or_after_its_delay() {
    for (text, zone, cell, delay, due) in [
        // The schedule's own grid: the end and the delay.
        ("@hourly", "", ("2026-01-01T10", "2026-01-01T11"), 0, "2026-01-01T11"),
        ("@hourly", "", ("2026-01-01T10", "2026-01-01T11"), 20, "2026-01-01T11:20"),
        ("@hourly", "", ("2026-01-01T10", "2026-01-01T11"), 90, "2026-01-01T12:30"),
        ("@daily", "Europe/Paris", ("2026-03-28T23", "2026-03-29T22"), 15, "2026-03-29T22:15"),
        // Hour cells, looked at each night: all of a day are due at the same fire.
        ("0 3 * * *", "", ("2026-01-01T10", "2026-01-01T11"), 0, "2026-01-02T03"),
        ("0 3 * * *", "", ("2026-01-02T02", "2026-01-02T03"), 0, "2026-01-02T03"),
        ("0 3 * * *", "", ("2026-01-02T02", "2026-01-02T03"), 20, "2026-01-02T03:20"),
        ("0 3 * * *", "", ("2026-01-02T03", "2026-01-02T04"), 20, "2026-01-03T03"),
        ("0 3 * * *", "", ("2026-01-02T01", "2026-01-02T02"), 180, "2026-01-02T05"),
        ("0 3 * * 1-5", "America/New_York", ("2026-01-03T00", "2026-01-03T12"), 0, "2026-01-05T08"),
    ] {
        let cell = interval(cell.0, cell.1);
        let found = schedule(text, zone).due_at(cell, minutes(delay), None, "orders");
        assert_eq!(found, at(due), "{text} {cell} {delay}");
    }
}

#[test]
fn jitter_is_one_constant_for_each_pipeline() {
    let hourly = schedule("@hourly", "");
    let cells = grid("@hourly", "");
    let jitter = Some(minutes(10));
    let late = |cell: Interval, name: &str| hourly.due_at(cell, minutes(5), jitter, name).0 - cell.end.0 - 300_000_000;
    let mut below_half = 0;
    for n in 0..1_000 {
        let name = format!("pipeline_{n}");
        let offsets: Vec<i64> = cells.cells(interval("2026-01-01", "2026-01-02")).map(|c| late(c, &name)).collect();
        assert!(offsets.iter().all(|offset| *offset == offsets[0]), "{name}");
        assert!((0..600_000_000).contains(&offsets[0]), "{name}");
        below_half += usize::from(offsets[0] < 300_000_000);
    }
    assert!((400..600).contains(&below_half), "{below_half} of 1000 in the first half");
    // A literal, so that a change of the hash is noticed: it would move the runs of every pipeline.
    assert_eq!(late(interval("2026-01-01T10", "2026-01-01T11"), "orders"), 51_062_820);
}

#[test]
fn a_due_time_saturates() {
    let cell = Interval { start: Timestamp(i64::MAX - 1), end: Timestamp(i64::MAX) };
    for jitter in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
        for text in ["@hourly", "@monthly", "0 3 * * *"] {
            assert_eq!(schedule(text, "").due_at(cell, Duration::MAX, jitter, "p"), Timestamp(i64::MAX), "{text}");
        }
    }
}
