//! The stated rule, minute by minute: each local time that `croner` says matches, through the clock of `jiff`.

use std::collections::BTreeSet;

use croner::Cron;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

use super::*;

/// What fires at local times from one to the other, by the rule as it is stated.
fn expected(cron: &str, zone: &TimeZone, from: DateTime, to: DateTime) -> BTreeSet<i64> {
    let parsed: Cron = cron.parse().expect("a cron");
    let follows_clock = cron.split(' ').nth(1).is_some_and(|hour| hour.contains(['*', '/']));
    let mut fires = BTreeSet::new();
    let mut local = from;
    while local < to {
        let utc = local.to_zoned(TimeZone::UTC).expect("a time");
        if parsed.is_time_matching(&utc).expect("matches") {
            let seconds = utc.timestamp().as_second();
            let on = |offset: jiff::tz::Offset| seconds - i64::from(offset.seconds());
            match zone.to_ambiguous_timestamp(local).offset() {
                AmbiguousOffset::Unambiguous { offset } => {
                    fires.insert(on(offset));
                }
                AmbiguousOffset::Fold { before, after } => {
                    fires.insert(on(before));
                    if follows_clock {
                        fires.insert(on(after));
                    }
                }
                AmbiguousOffset::Gap { before, .. } if !follows_clock => {
                    // On the clock from before the jump this time lies after it, by less than a day.
                    let after = jiff::Timestamp::from_second(on(before) + 1).expect("an instant");
                    let jump = zone.preceding(after).next().expect("a jump");
                    fires.insert(jump.timestamp().as_second());
                }
                AmbiguousOffset::Gap { .. } => {}
            }
        }
        local = local.checked_add(jiff::Span::new().minutes(1)).expect("a time");
    }
    fires
}

#[test]
fn fires_are_those_of_the_rule() {
    let known = TimeZoneDatabase::bundled();
    let crons = EVERYWHERE.iter().filter(|text| text.starts_with(|c: char| c.is_ascii_digit() || c == '*'));
    let crons: Vec<&str> =
        crons.copied().chain(["0 * * * *", "*/30 0,1,2 * * *", "0 0 * 3,10 0", "59 23 31 12 *"]).collect();
    for (zone, jumps) in [
        ("Europe/Paris", [(2026, 3, 29), (2026, 10, 25)]),
        ("America/New_York", [(2026, 3, 8), (2026, 11, 1)]),
        ("Australia/Lord_Howe", [(2026, 10, 4), (2026, 4, 5)]),
        ("America/Santiago", [(2026, 9, 6), (2026, 4, 5)]),
        ("America/Havana", [(2026, 3, 8), (2026, 11, 1)]),
        ("Africa/Cairo", [(2026, 4, 24), (2026, 10, 30)]),
        ("Africa/Casablanca", [(2026, 2, 15), (2026, 3, 22)]),
        ("Pacific/Apia", [(2011, 12, 30), (2011, 4, 2)]),
        ("Asia/Kolkata", [(2026, 1, 31), (2028, 2, 29)]),
        // Its clock kept 44 minutes and 30 seconds until 1972.
        ("Africa/Monrovia", [(1972, 1, 7), (1971, 2, 28)]),
    ] {
        let clock = known.get(zone).expect("a zone");
        for (year, month, day) in jumps {
            let middle = jiff::civil::date(year, month, day).at(12, 0, 0, 0);
            let days = |n: i64| middle.checked_add(jiff::Span::new().days(n)).expect("a time");
            let instant = |local: DateTime| local.to_zoned(clock.clone()).expect("a time").timestamp().as_second();
            for cron in &crons {
                let mut expected = expected(cron, &clock, days(-6), days(6));
                let (from, to) = (instant(days(-4)), instant(days(4)));
                expected.retain(|fire| (from..to).contains(fire));
                let schedule = schedule(cron, zone);
                let mut found = BTreeSet::new();
                let mut last = Timestamp(from * 1_000_000 - 1);
                while let Some(next) = schedule.next_after(last).filter(|next| next.0 < to * 1_000_000) {
                    assert!(next > last, "{cron} {zone}");
                    assert_eq!(schedule.last_at_or_before(next), Some(next), "{cron} {zone}");
                    assert_eq!(
                        schedule.last_at_or_before(Timestamp(next.0 - 1)),
                        found.last().map_or_else(
                            || schedule.last_at_or_before(Timestamp(from * 1_000_000 - 1)),
                            |last| Some(Timestamp(last * 1_000_000)),
                        )
                    );
                    found.insert(next.0 / 1_000_000);
                    last = next;
                }
                assert_eq!(found, expected, "{cron} in {zone} around {middle}");
            }
        }
    }
}

#[test]
fn without_jumps_croner_finds_the_same() {
    let known = TimeZoneDatabase::bundled();
    for zone in ["UTC", "Asia/Tokyo", "Asia/Kolkata"] {
        let clock = known.get(zone).expect("a zone");
        for cron in EVERYWHERE.iter().filter(|text| text.starts_with(|c: char| c.is_ascii_digit())) {
            let (parsed, schedule) = (cron.parse::<Cron>().expect("a cron"), schedule(cron, zone));
            let mut theirs =
                jiff::Timestamp::from_second(at("2026-01-01").0 / 1_000_000).expect("a time").to_zoned(clock.clone());
            let mut ours = at("2026-01-01");
            for _ in 0..60 {
                theirs = parsed.find_next_occurrence(&theirs, false).expect("fires");
                ours = schedule.next_after(ours).expect("fires");
                assert_eq!(ours.0, theirs.timestamp().as_microsecond(), "{cron} {zone}");
            }
        }
    }
}
