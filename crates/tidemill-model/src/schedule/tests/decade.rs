//! Laws that hold for every schedule and grid, over the years 2026 to 2036.

use super::*;

const FROM: &str = "2026-01-01";
const TO: &str = "2036-01-01";

fn each(mut check: impl FnMut(&str, &str)) {
    for text in EVERYWHERE {
        for zone in ZONES {
            check(text, zone);
        }
    }
    for text in UTC_ALONE {
        check(text, "");
    }
}

/// Ten years, or one of those that fire each half minute.
fn period(text: &str) -> Interval {
    interval(FROM, if text.contains("second") { "2027-01-01" } else { TO })
}

#[test]
fn cells_tile_time() {
    each(|text, zone| {
        let (grid, schedule, within) =
            (grid(text.trim_start_matches("every "), zone), schedule(text, zone), period(text));
        assert_eq!(Grid::of(&schedule), grid, "{text} {zone}");
        let mut count = 0;
        let mut last: Option<Interval> = None;
        for cell in grid.cells(within) {
            assert!(cell.start < cell.end && within.start <= cell.start && cell.end <= within.end, "{cell}");
            if let Some(last) = last {
                assert_eq!(last.end, cell.start, "{text} {zone}: neither gap nor overlap");
            } else {
                let before = schedule.last_at_or_before(Timestamp(within.start.0 - 1));
                assert_eq!(schedule.last_at_or_before(cell.start), Some(cell.start));
                assert!(cell.start == within.start || before == schedule.last_at_or_before(within.start), "{text}");
            }
            last = Some(cell);
            count += 1;
        }
        assert_eq!(grid.count(within), count, "{text} {zone}");
        let last = last.expect("some cells");
        assert!(schedule.next_after(last.end) > Some(within.end), "{text} {zone}: one more cell fits");
        let first = grid.cells(within).next().expect("some cells");
        assert!(grid.aligned(Interval { start: first.start, end: last.end }), "{text} {zone}");
    });
}

#[test]
fn the_cell_of_an_instant_is_the_one_listed() {
    each(|text, zone| {
        let (grid, schedule) = (grid(text.trim_start_matches("every "), zone), schedule(text, zone));
        let step = (grid.count(period(text)) / 500).max(1) as usize;
        for (at, cell) in grid.cells(period(text)).enumerate().step_by(step) {
            let middle = Timestamp(cell.start.0 + (cell.end.0 - cell.start.0) / 2);
            for inside in [cell.start, Timestamp(cell.start.0 + 1), middle, Timestamp(cell.end.0 - 1)] {
                assert_eq!(grid.cell_containing(inside), Some(cell), "{text} {zone} {at}: {inside}");
                assert_eq!(schedule.next_after(inside), Some(cell.end), "{text} {zone}: {inside}");
                assert_eq!(schedule.last_at_or_before(inside), Some(cell.start), "{text} {zone}: {inside}");
            }
            assert_eq!(schedule.last_at_or_before(cell.end), Some(cell.end), "{text} {zone}");
            assert!(schedule.next_after(cell.end) > Some(cell.end), "{text} {zone}");
            assert!(grid.aligned(cell), "{text} {zone}: {cell}");
            assert!(!grid.aligned(Interval { start: cell.start, end: Timestamp(cell.end.0 - 1) }));
            assert!(!grid.aligned(Interval { start: middle, end: cell.end }));
            assert!(!grid.aligned(Interval { start: cell.end, end: cell.end }));
        }
    });
}

#[test]
fn only_whole_cells_are_listed() {
    let daily = grid("@daily", "Europe/Paris");
    let of =
        |start: &str, end: &str| daily.cells(interval(start, end)).map(|cell| cell.to_string()).collect::<Vec<_>>();
    assert_eq!(of("2026-01-01T23:00", "2026-01-02T23:00"), ["2026-01-01T23:00:00Z/2026-01-02T23:00:00Z"]);
    assert_eq!(of("2026-01-01T23:00:00.000001", "2026-01-03T22:59"), Vec::<String>::new());
    assert_eq!(of("2026-01-01", "2026-01-03"), ["2026-01-01T23:00:00Z/2026-01-02T23:00:00Z"]);
    assert_eq!(daily.cells(interval("2026-01-03", "2026-01-01")).count(), 0);
    let hourly = grid("1 hour", "");
    for (start, end, count) in [
        ("2026-01-01", "2026-01-02", 24),
        ("2026-01-01T00:30", "2026-01-02", 23),
        ("2026-01-01T00:30", "2026-01-01T01:30", 0),
        ("2026-01-01T00:30", "2026-01-01T01:00", 0),
        ("2026-01-02", "2026-01-01", 0),
    ] {
        assert_eq!(hourly.count(interval(start, end)), count, "{start} {end}");
        assert_eq!(hourly.cells(interval(start, end)).count() as u64, count, "{start} {end}");
    }
}

#[test]
fn time_ends_without_a_panic() {
    each(|text, zone| {
        let (grid, schedule) = (grid(text.trim_start_matches("every "), zone), schedule(text, zone));
        for at in [i64::MIN, i64::MIN + 1, -62_135_596_800_000_001, 253_370_764_800_000_000, i64::MAX - 1, i64::MAX] {
            let at = Timestamp(at);
            assert!(schedule.next_after(at).is_none_or(|next| next > at), "{text} {zone}");
            assert!(schedule.last_at_or_before(at).is_none_or(|last| last <= at), "{text} {zone}");
            assert!(grid.cell_containing(at).is_none_or(|cell| cell.contains(at)), "{text} {zone}");
        }
        let all = Interval { start: Timestamp(i64::MIN), end: Timestamp(i64::MAX) };
        assert!(grid.cells(all).next().is_some(), "{text} {zone}");
        let end = Interval { start: Timestamp(i64::MAX - 1_000_000), end: Timestamp(i64::MAX) };
        assert_eq!((grid.cells(end).count(), grid.count(end)), (0, 0), "{text} {zone}");
    });
}

#[test]
fn before_the_epoch_cells_are_floored() {
    let cell = grid("1 hour", "").cell_containing(Timestamp(-1)).expect("a cell");
    assert_eq!(cell, interval("1969-12-31T23", "1970-01-01"));
    let cell = grid("@monthly", "").cell_containing(Timestamp(-1)).expect("a cell");
    assert_eq!(cell, interval("1969-12-01", "1970-01-01"));
}
