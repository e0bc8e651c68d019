//! Local clocks that jump: times that do not exist, and times that exist twice.

use super::*;

/// How long the cells within the period are, in minutes.
fn lengths(text: &str, zone: &str, start: &str, end: &str) -> Vec<i64> {
    let minutes = |cell: Interval| (cell.end.0 - cell.start.0) / 60_000_000;
    grid(text, zone).cells(interval(start, end)).map(minutes).collect()
}

#[test]
fn days_have_23_and_25_hours() {
    for (zone, spring, autumn, shift) in [
        ("Europe/Paris", ("2026-03-28T23:00", "2026-03-29T22:00"), ("2026-10-24T22:00", "2026-10-25T23:00"), 60),
        ("America/New_York", ("2026-03-08T05:00", "2026-03-09T04:00"), ("2026-11-01T04:00", "2026-11-02T05:00"), 60),
        ("Australia/Lord_Howe", ("2026-10-03T13:30", "2026-10-04T13:00"), ("2026-04-04T13:00", "2026-04-05T13:30"), 30),
    ] {
        for text in ["@daily", "1 day", "0 0 * * *"] {
            assert_eq!(lengths(text, zone, spring.0, spring.1), [24 * 60 - shift], "{text} {zone}");
            assert_eq!(lengths(text, zone, autumn.0, autumn.1), [24 * 60 + shift], "{text} {zone}");
        }
        let year = lengths("@daily", zone, "2026-01-01", "2027-01-01");
        assert_eq!(year.len(), 364);
        assert_eq!(year.iter().filter(|minutes| **minutes != 24 * 60).count(), 2);
    }
}

#[test]
fn a_time_that_does_not_exist_fires_once_after_the_gap() {
    // Paris, 2026-03-29: 02:00 becomes 03:00, which is 01:00 UTC. New York, 2026-03-08: 07:00 UTC.
    // Lord Howe, 2026-10-04: 02:00 becomes 02:30, which is 15:30 UTC of the day before.
    for (text, zone, after, expected) in [
        ("30 2 * * *", "Europe/Paris", "2026-03-28T12", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        ("0 2 * * *", "Europe/Paris", "2026-03-28T12", ["2026-03-29T01:00", "2026-03-30T00:00"]),
        ("59 2 * * *", "Europe/Paris", "2026-03-28T12", ["2026-03-29T01:00", "2026-03-30T00:59"]),
        ("*/10 2 * * *", "Europe/Paris", "2026-03-28T12", ["2026-03-29T01:00", "2026-03-30T00:00"]),
        // With the fire that belongs at 03:00 anyway it is one.
        ("0 2,3 * * *", "Europe/Paris", "2026-03-28T12", ["2026-03-29T01:00", "2026-03-30T00:00"]),
        ("30 1,2 * * *", "Europe/Paris", "2026-03-28T12", ["2026-03-29T00:30", "2026-03-29T01:00"]),
        ("30 2 * * *", "America/New_York", "2026-03-08", ["2026-03-08T07:00", "2026-03-09T06:30"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03", ["2026-10-03T15:30", "2026-10-04T15:15"]),
        ("30 2 * * *", "Australia/Lord_Howe", "2026-10-03", ["2026-10-03T15:30", "2026-10-04T15:30"]),
        // Midnight itself is missing: Santiago, 2026-09-06, 00:00 becomes 01:00, which is 04:00 UTC.
        ("@daily", "America/Santiago", "2026-09-05T12", ["2026-09-06T04:00", "2026-09-07T03:00"]),
        // A whole day is missing: Samoa had no 2011-12-30.
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T22:00", ["2011-12-30T10:00", "2011-12-30T22:00"]),
        ("@daily", "Pacific/Apia", "2011-12-29T00:00", ["2011-12-29T10:00", "2011-12-30T10:00"]),
        // The day named is the one that is missing.
        ("0 12 30 12 *", "Pacific/Apia", "2011-01-01", ["2011-12-30T10:00", "2012-12-29T22:00"]),
    ] {
        assert_eq!(fires(&schedule(text, zone), after, 2), expected, "{text} {zone}");
    }
}

#[test]
fn a_time_that_exists_twice_fires_at_the_earlier() {
    // Paris, 2026-10-25: 03:00 becomes 02:00, which is 01:00 UTC. New York, 2026-11-01: 06:00 UTC.
    // Lord Howe, 2026-04-05: 02:00 becomes 01:30, which is 15:00 UTC of the day before.
    for (text, zone, after, expected) in [
        ("30 2 * * *", "Europe/Paris", "2026-10-24T12", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        ("0 1,2,3 * * *", "Europe/Paris", "2026-10-24T23", ["2026-10-25T00:00", "2026-10-25T02:00"]),
        ("*/30 2 * * *", "Europe/Paris", "2026-10-25T00:00", ["2026-10-25T00:30", "2026-10-26T01:00"]),
        // Asked in the second half of what exists twice.
        ("30 2 * * *", "Europe/Paris", "2026-10-25T01:15", ["2026-10-26T01:30", "2026-10-27T01:30"]),
        ("30 1 * * *", "America/New_York", "2026-11-01", ["2026-11-01T05:30", "2026-11-02T06:30"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04", ["2026-04-04T14:45", "2026-04-05T15:15"]),
        // Midnight itself exists twice: Havana, 2026-11-01, 01:00 becomes 00:00.
        ("@daily", "America/Havana", "2026-11-01", ["2026-11-01T04:00", "2026-11-02T05:00"]),
    ] {
        assert_eq!(fires(&schedule(text, zone), after, 2), expected, "{text} {zone}");
    }
    let paris = schedule("30 2 * * *", "Europe/Paris");
    assert_eq!(paris.last_at_or_before(at("2026-10-25T01:45")), Some(at("2026-10-25T00:30")));
    assert_eq!(paris.last_at_or_before(at("2026-03-29T01:00")), Some(at("2026-03-29T01:00")));
    assert_eq!(paris.last_at_or_before(at("2026-03-29T00:59:59")), Some(at("2026-03-28T01:30")));
}

#[test]
fn every_hour_is_each_real_hour() {
    for (zone, spring, autumn) in [
        ("Europe/Paris", ("2026-03-28T23", "2026-03-29T22"), ("2026-10-24T22", "2026-10-25T23")),
        ("America/New_York", ("2026-03-08T05", "2026-03-09T04"), ("2026-11-01T04", "2026-11-02T05")),
    ] {
        for (text, a_day) in [("@hourly", 1), ("0 * * * *", 1), ("0 0-23 * * *", 1), ("*/15 * * * *", 4)] {
            let lengths = |(start, end)| lengths(text, zone, start, end);
            assert_eq!(lengths(spring), vec![60 / a_day; 23 * a_day as usize], "{text} {zone}");
            assert_eq!(lengths(autumn), vec![60 / a_day; 25 * a_day as usize], "{text} {zone}");
        }
        for text in ["30 * * * *", "30 */1 * * *"] {
            let fires_in = |(start, end): (&str, &str)| {
                let mut fires = fires(&schedule(text, zone), start, 26);
                fires.retain(|fire| fire.as_str() < end);
                fires.len()
            };
            assert_eq!((fires_in(spring), fires_in(autumn)), (23, 25), "{text} {zone}");
        }
    }
    // A step of two hours leaves out the hour that is missing, and fires at both of the hour that is there twice.
    let two = schedule("0 */2 * * *", "Europe/Paris");
    assert_eq!(fires(&two, "2026-03-28T22:59", 2), ["2026-03-28T23:00", "2026-03-29T02:00"]);
    assert_eq!(fires(&two, "2026-10-24T22:01", 3), ["2026-10-25T00:00", "2026-10-25T01:00", "2026-10-25T03:00"]);
    // Where the clock jumps by half an hour, the hour around the jump is longer by what it lost or repeated.
    assert_eq!(lengths("@hourly", "Australia/Lord_Howe", "2026-10-03T14", "2026-10-03T18"), [90, 60, 60]);
    assert_eq!(lengths("@hourly", "Australia/Lord_Howe", "2026-04-04T13", "2026-04-04T17:30"), [60, 90, 60, 60]);
}
