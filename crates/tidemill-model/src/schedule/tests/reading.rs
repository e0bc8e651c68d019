//! What can be written, how it is shown, and what is said about the rest.

use super::*;

#[test]
fn what_is_shown_reads_back_as_the_same() {
    for (text, zone, shown) in [
        ("@Hourly", "", "@hourly"),
        ("@midnight", "", "@daily"),
        ("@annually", "UTC", "@yearly in UTC"),
        (" @weekly ", "europe/paris", "@weekly in Europe/Paris"),
        ("@monthly in asia/tokyo", "", "@monthly in Asia/Tokyo"),
        ("@monthly in asia/tokyo", "Asia/Tokyo", "@monthly in Asia/Tokyo"),
        ("every hour", "", "every 1 hour"),
        ("EVERY 15min", "", "every 15 minutes"),
        ("every 90 s", "", "every 90 seconds"),
        ("every 24 hours", "", "every 1 day"),
        ("every day", "America/New_York", "every 1 day in America/New_York"),
        ("every 7 days", "", "every 1 week"),
        ("every 336 h", "", "every 2 weeks"),
        ("every 10 days", "", "every 10 days"),
        ("every 6 hours", "UTC", "every 6 hours in UTC"),
        ("0  3 * *  mon-fri", "", "0 3 * * MON-FRI"),
        ("*/5 0-6 l jan,feb +5L", "", "*/5 0-6 L JAN,FEB +5L"),
        ("0 0 ? * 1#2", "", "0 0 ? * 1#2"),
    ] {
        let read = schedule(text, zone);
        assert_eq!(read.to_string(), shown);
        assert_eq!(schedule(shown, ""), read, "{shown}");
        let of = Grid::of(&read);
        assert_eq!(grid(&of.to_string(), ""), of, "{of}");
        assert_eq!(Some(of.to_string().as_str()), shown.strip_prefix("every ").or(Some(shown)));
    }
    assert_eq!(schedule("@daily", "europe/paris").zone(), Some("Europe/Paris"));
    assert_eq!(schedule("@daily", "").zone(), None);
}

#[test]
fn one_rule_written_in_several_ways_is_one_grid() {
    for same in [
        ["@hourly", "1 hour", "0 * * * *"],
        ["@daily", "1 day", "0 0 * * *"],
        ["15 minutes", "every 15 minutes", "*/15 * * * *"],
        ["@yearly", "@annually", "@yearly in UTC"],
        ["6 hours", "0 0,6,12,18 * * *", "0 */6 * * *"],
        ["1 minute", "60 s", "* * * * *"],
        ["@weekly", "1 week", "7 days"],
    ] {
        for text in same {
            assert_eq!(grid(text, ""), grid(same[0], ""), "{text}");
        }
    }
    assert_eq!(grid("@daily", "Europe/Paris"), grid("0 0 * * *", "Europe/Paris"));
    assert_eq!(grid("@daily", "Europe/Paris"), grid("1 day", "Europe/Paris"));
    assert_ne!(grid("@daily", "Europe/Paris"), grid("@daily", "Europe/Berlin"));
    assert_ne!(grid("@daily", ""), grid("0 6 * * *", ""));
    assert_ne!(grid("1 hour", ""), grid("30 * * * *", ""));
}

#[test]
fn lengths_are_aligned_at_the_epoch_and_weeks_at_monday() {
    for (text, after, first) in [
        ("every 90 minutes", "1969-12-31T23:59:59", "1970-01-01T00:00"),
        ("every 2 days", "1970-01-01", "1970-01-03T00:00"),
        ("every 1 week", "1970-01-01", "1970-01-05T00:00"),
        ("every 2 weeks", "1970-01-05", "1970-01-19T00:00"),
        ("every 168 hours", "1970-01-01", "1970-01-05T00:00"),
        ("every 10 days", "1970-01-01", "1970-01-11T00:00"),
        ("@weekly", "2026-01-01", "2026-01-05T00:00"),
        ("0 0 * * 0", "2026-01-01", "2026-01-04T00:00"),
        ("@quarterly", "2026-01-01", "2026-04-01T00:00"),
        ("@yearly", "2026-01-01", "2027-01-01T00:00"),
        ("0 0 1 * 1", "2026-01-02", "2026-01-05T00:00"),
        ("0 0 1 * +1", "2026-01-02", "2026-06-01T00:00"),
        ("0 0 29 2 *", "2096-03-01", "2104-02-29T00:00"),
        ("0 0 29 2 +1", "2072-03-01", "2112-02-29T00:00"),
    ] {
        assert_eq!(fires(&schedule(text, ""), after, 1), [first], "{text}");
    }
    assert_eq!(fires(&schedule("every 2 days", "Europe/Paris"), "1970-01-01", 1), ["1970-01-02T23:00"]);
    assert_eq!(fires(&schedule("every 2 weeks", "Asia/Tokyo"), "1970-01-05", 1), ["1970-01-18T15:00"]);
}

#[test]
fn the_calendar_of_crons() {
    let month_ends = fires(&schedule("0 0 L * *", ""), "2028-01-01", 4);
    assert_eq!(month_ends, ["2028-01-31T00:00", "2028-02-29T00:00", "2028-03-31T00:00", "2028-04-30T00:00"]);
    let last_fridays = fires(&schedule("0 9 * * 5L", ""), "2026-01-01", 3);
    assert_eq!(last_fridays, ["2026-01-30T09:00", "2026-02-27T09:00", "2026-03-27T09:00"]);
    let second_mondays = fires(&schedule("0 0 * * MON#2", ""), "2026-01-01", 2);
    assert_eq!(second_mondays, ["2026-01-12T00:00", "2026-02-09T00:00"]);
    let leap_days = fires(&schedule("0 0 29 2 *", "Asia/Kolkata"), "2026-01-01", 2);
    assert_eq!(leap_days, ["2028-02-28T18:30", "2032-02-28T18:30"]);
    let working = fires(&schedule("0 3 * * 1-5", ""), "2026-01-01T12", 3);
    assert_eq!(working, ["2026-01-02T03:00", "2026-01-05T03:00", "2026-01-06T03:00"]);
}

#[test]
fn hours_begin_with_the_local_clock() {
    assert_eq!(fires(&schedule("@hourly", "Asia/Kolkata"), "2026-01-01", 2), ["2026-01-01T00:30", "2026-01-01T01:30"]);
    for zone in ["Europe/Paris", "America/New_York", "Asia/Tokyo"] {
        let (local, utc) = (schedule("@hourly", zone), schedule("@hourly", ""));
        assert_eq!(fires(&local, "2026-01-01", 8_800), fires(&utc, "2026-01-01", 8_800), "{zone}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (text, zone, code, said) in [
        ("@houly", "", "C064", "`@houly` is not a schedule (did you mean `@hourly`?)"),
        ("daily", "", "C064", "`daily` is not a schedule (did you mean `@daily`?)"),
        ("15 minutes", "", "C064", "`15 minutes` is not a schedule (did you mean `every 15 minutes`?)"),
        (
            "sometimes",
            "",
            "C064",
            "schedules: @hourly, @daily, @weekly, @monthly, @quarterly, @yearly, every 15 minutes, or a cron",
        ),
        ("", "", "C064", "`` is not a schedule"),
        ("every", "", "C064", "`every` is not a schedule"),
        ("every 0 seconds", "", "C064", "nothing can be due every `0 "),
        ("every 1.5 s", "", "C064", "write whole seconds"),
        ("every 250 ms", "", "C064", "nothing can be due every `250 ms`; write whole seconds, one at least"),
        ("every 3 months", "", "C064", "@quarterly"),
        ("every blue moon", "", "C064", "write a number and a unit"),
        ("every 6 hours", "Europe/Paris", "C064", "cannot be cut into equal pieces"),
        ("every 24 hours", "Europe/Paris", "C064", "write every 1 day"),
        ("every 1.5 days", "Europe/Paris", "C064", "cannot be cut into equal pieces"),
        (
            "0 0 3 * * 1",
            "",
            "C064",
            "`0 0 3 * * 1` has 6 fields, and a cron has five; the fields are minute, hour, day of the month, month, day of the week: 0 3 * * 1-5; there is no field for seconds or years",
        ),
        ("0 3 * *", "", "C064", "has 4 fields"),
        ("60 3 * * *", "", "C064", "`60` is no minute of a cron; allowed: 0-59"),
        ("0 24 * * *", "", "C064", "`24` is no hour of a cron; allowed: 0-23"),
        ("0 0 0 * *", "", "C064", "`0` is no day of the month of a cron"),
        ("0 0 * 13 *", "", "C064", "`13` is no month of a cron; allowed: 1-12 or JAN-DEC"),
        ("0 0 * * 8", "", "C064", "`8` is no day of the week of a cron"),
        ("0 0 * MON *", "", "C064", "`MON` is no month of a cron"),
        ("JAN 0 * * *", "", "C064", "`JAN` is no minute of a cron"),
        ("0 0 * * MONDAY", "", "C064", "`MONDAY` is no day of the week of a cron"),
        ("0 1,,2 * * *", "", "C064", "`1,,2` is no hour of a cron"),
        ("0 */0 * * *", "", "C064", "`*/0` is no hour of a cron"),
        ("0 5-3 * * *", "", "C064", "`5-3` is no hour of a cron"),
        ("0 é * * *", "", "C064", "`é` is no hour of a cron"),
        ("0 0 30 2 *", "", "C064", "`0 0 30 2 *` never fires; no month has such a day"),
        ("0 0 31 2,4,6,9,11 *", "", "C064", "never fires"),
        ("@daily", "Paris", "C066", "there is no time zone `Paris` (did you mean `Europe/Paris`?)"),
        ("@daily", "Europe/Pariss", "C066", "(did you mean `Europe/Paris`?)"),
        ("@daily", "New York", "C066", "(did you mean `America/New_York`?)"),
        ("@daily", "+02:00", "C066", "IANA name"),
        ("@daily in Mars", "", "C066", "there is no time zone `Mars`"),
        ("@daily in Asia/Tokyo", "Europe/Paris", "C066", "name the time zone once"),
    ] {
        let error = Schedule::parse(text, Some(zone).filter(|zone| !zone.is_empty())).expect_err(text);
        assert_eq!(error.code(), code, "{text}: {error}");
        assert!(error.to_string().contains(said), "{text}: {error}");
    }
}

#[test]
fn what_is_no_grid_is_refused() {
    for (text, code, said) in [
        ("@dayly", "C065", "`@dayly` is not a grid (did you mean `@daily`?)"),
        ("hours", "C065", "grids: @hourly"),
        ("0 minutes", "C064", "nothing can be due every `0 "),
        ("1 month", "C064", "@monthly"),
        ("0 25 * * *", "C064", "`25` is no hour of a cron"),
    ] {
        let error = Grid::parse(text, None).expect_err(text);
        assert_eq!(error.code(), code, "{text}: {error}");
        assert!(error.to_string().contains(said), "{text}: {error}");
    }
}

#[test]
fn the_usual_length_of_a_cell() {
    for (text, zone, shown) in [
        ("@hourly", "", "1 hour"),
        ("@hourly", "Australia/Lord_Howe", "1 hour"),
        ("@daily", "Europe/Paris", "1 day"),
        ("@weekly", "", "7 days"),
        ("@weekly", "America/New_York", "7 days"),
        ("@monthly", "", "31 days"),
        ("@yearly", "", "365 days"),
        ("0 3 * * 1-5", "", "1 day"),
        ("*/5 9-17 * * 1-5", "Europe/Paris", "5 minutes"),
        ("0 9,21 * * *", "", "12 hours"),
        ("0 0 29 2 *", "", "1461 days"),
    ] {
        assert_eq!(grid(text, zone).typical().to_string(), shown, "{text}");
    }
}
