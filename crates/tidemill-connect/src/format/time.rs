//! Instants and days as text: [`instant`] reads ISO 8601 straight from bytes, [`Clockface`] writes it.
//!
//! **Invariant:** instants are microseconds UTC within the years 0001 to 9999; what lies finer is floored, what lies
//! outside is refused.

use super::number::{digits, load};

/// Microseconds of a day.
pub(crate) const DAY: i64 = 86_400_000_000;
/// 0001-01-01T00:00:00Z.
pub(crate) const FIRST: i64 = -62_135_596_800_000_000;
/// The last microsecond of the year 9999.
pub(crate) const LAST: i64 = 253_402_300_799_999_999;

/// The date that was read last: neighbouring records are mostly of the same day.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Today {
    text: [u64; 2],
    midnight: i64,
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar, by Hinnant's algorithm.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date that lies so many days after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let part = (5 * day_of_year + 2) / 153;
    let month = if part < 10 { part + 3 } else { part - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * part + 2) / 5 + 1)
}

/// The two digits at `at`.
#[inline]
fn pair(bytes: &[u8], at: usize) -> Option<i64> {
    let tens = bytes.get(at)?.wrapping_sub(b'0');
    let ones = bytes.get(at + 1)?.wrapping_sub(b'0');
    (tens <= 9 && ones <= 9).then(|| i64::from(tens) * 10 + i64::from(ones))
}

/// The day at `at`, written `2026-01-31` in ten bytes, as days since 1970-01-01.
pub(crate) fn date(bytes: &[u8], at: usize) -> Option<i32> {
    let (year, month, day) =
        (pair(bytes, at)? * 100 + pair(bytes, at + 2)?, pair(bytes, at + 5)?, pair(bytes, at + 8)?);
    let dashes = bytes.get(at + 4) == Some(&b'-') && bytes.get(at + 7) == Some(&b'-');
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    let valid = dashes && year >= 1 && (1..=length).contains(&day);
    if valid { i32::try_from(days(year, month, day)).ok() } else { None }
}

/// The instant at `at` in microseconds, and where it ends: a date, then perhaps `T` or a space and the time of day
/// with 0 to 9 digits of fraction, then perhaps `Z` or `±hh:mm`; without one it is UTC.
#[inline]
pub(crate) fn instant(bytes: &[u8], at: usize, today: &mut Today) -> Option<(i64, usize)> {
    let text = [load(bytes, at), load(bytes, at + 8) & 0xFFFF];
    if text != today.text || text == [0, 0] {
        let midnight = i64::from(date(bytes, at)?) * DAY;
        *today = Today { text, midnight };
    }
    if !matches!(bytes.get(at + 10), Some(b'T' | b' ')) {
        return Some((today.midnight, at + 10));
    }
    let clock = bytes.get(at + 11..)?.first_chunk::<5>()?;
    let (hour, minute) = (pair(clock, 0)?, pair(clock, 3)?);
    if hour > 23 || minute > 59 || clock[2] != b':' {
        return None;
    }
    let mut micros = today.midnight + (hour * 3600 + minute * 60) * 1_000_000;
    let mut end = at + 16;
    if bytes.get(end) == Some(&b':') {
        let second = pair(bytes, end + 1)?;
        if second > 59 {
            return None;
        }
        micros += second * 1_000_000;
        end += 3;
        if bytes.get(end) == Some(&b'.') {
            let (fraction, count) = digits(bytes, end + 1);
            /// Microseconds of one unit of the last digit, where there are up to six.
            const UNITS: [u64; 7] = [0, 100_000, 10_000, 1_000, 100, 10, 1];
            micros += match count {
                1..=6 => fraction * UNITS[count],
                7 => fraction / 10,
                8 => fraction / 100,
                9 => fraction / 1000,
                _ => return None,
            } as i64;
            end += 1 + count;
        }
    }
    match bytes.get(end) {
        Some(b'Z') => Some((micros, end + 1)),
        Some(sign @ (b'+' | b'-')) => {
            let (hours, minutes) = (pair(bytes, end + 1)?, pair(bytes, end + 4)?);
            if hours > 23 || minutes > 59 || bytes.get(end + 3) != Some(&b':') {
                return None;
            }
            let offset = (hours * 60 + minutes) * 60_000_000;
            let utc = if *sign == b'+' { micros - offset } else { micros + offset };
            (FIRST..=LAST).contains(&utc).then_some((utc, end + 6))
        }
        _ => Some((micros, end)),
    }
}

/// Two digits for each number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

#[inline]
fn put_pair(text: &mut [u8], at: usize, value: u64) {
    let pair = PAIRS[(value % 100) as usize];
    if let Some(to) = text.get_mut(at..at + 2) {
        to.copy_from_slice(&pair);
    }
}

/// Writes instants; it remembers the date that it wrote last.
#[derive(Debug, Clone)]
pub(crate) struct Clockface {
    midnight: i64,
    /// `2026-01-31T00:00:00.000000Z` and room, so that a copy has a constant length.
    text: [u8; 32],
}

impl Default for Clockface {
    fn default() -> Self {
        Clockface { midnight: 0, text: *b"1970-01-01T00:00:00.000000Z     " }
    }
}

impl Clockface {
    /// Appends an instant as `2026-01-31T14:30:00Z`, with 3 or 6 digits of fraction where they are not all zero;
    /// `false`, and nothing appended, when it lies outside the years 0001 to 9999.
    #[inline]
    pub(crate) fn instant(&mut self, micros: i64, out: &mut Vec<u8>) -> bool {
        let mut time = micros.wrapping_sub(self.midnight);
        if !(0..DAY).contains(&time) {
            if !(FIRST..=LAST).contains(&micros) {
                return false;
            }
            let days = micros.div_euclid(DAY);
            self.midnight = days * DAY;
            self.date(days);
            time = micros - self.midnight;
        }
        let mut text = self.text;
        let time = time as u64;
        let (seconds, fraction) = (time / 1_000_000, time % 1_000_000);
        put_pair(&mut text, 11, seconds / 3600);
        put_pair(&mut text, 14, seconds / 60 % 60);
        put_pair(&mut text, 17, seconds % 60);
        let length = if fraction == 0 {
            text[19] = b'Z';
            20
        } else {
            text[20] = b'0' + (fraction / 100_000) as u8;
            put_pair(&mut text, 21, fraction / 1000);
            if fraction % 1000 == 0 {
                text[23] = b'Z';
                24
            } else {
                text[23] = b'0' + (fraction / 100 % 10) as u8;
                put_pair(&mut text, 24, fraction);
                27
            }
        };
        out.extend_from_slice(&text);
        out.truncate(out.len() - 32 + length);
        true
    }

    /// Appends a day as `2026-01-31`; `false`, and nothing appended, when it lies outside the years 0001 to 9999.
    pub(crate) fn day(&mut self, days: i32, out: &mut Vec<u8>) -> bool {
        let days = i64::from(days);
        if !(FIRST / DAY..=LAST / DAY).contains(&days) {
            return false;
        }
        self.midnight = days * DAY;
        self.date(days);
        out.extend_from_slice(self.text.get(..10).unwrap_or_default());
        true
    }

    fn date(&mut self, days: i64) {
        let (year, month, day) = civil(days);
        put_pair(&mut self.text, 0, year as u64 / 100);
        put_pair(&mut self.text, 2, year as u64);
        put_pair(&mut self.text, 5, month as u64);
        put_pair(&mut self.text, 8, day as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<i64> {
        let mut today = Today::default();
        let input = format!("{text}\",\"next\":1");
        let read = instant(input.as_bytes(), 0, &mut today).filter(|(_, end)| *end == text.len());
        let at_end = instant(text.as_bytes(), 0, &mut Today::default()).filter(|(_, end)| *end == text.len());
        assert_eq!(read, at_end, "{text}: the end of the input makes a difference");
        read.map(|(micros, _)| micros)
    }

    #[test]
    fn reads_instants() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01 00:00:01", Some(1_000_000)),
            ("1970-01-01", Some(0)),
            ("1970-01-01T00:01", Some(60_000_000)),
            ("1970-01-01T00:00:00.1Z", Some(100_000)),
            ("1970-01-01T00:00:00.123456789Z", Some(123_456)),
            ("1969-12-31T23:59:59.9999999Z", Some(-1)),
            ("1970-01-01T02:00:00+02:00", Some(0)),
            ("1969-12-31T18:30:00-05:30", Some(0)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000)),
            ("0001-01-01T00:00:00Z", Some(FIRST)),
            ("9999-12-31T23:59:59.999999Z", Some(LAST)),
            ("9999-12-31T23:59:59-00:01", None),
            ("0000-12-31T00:00:00Z", None),
            ("2023-02-29T00:00:00Z", None),
            ("1900-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-00-01T00:00:00Z", None),
            ("2026-01-00T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T00:60:00Z", None),
            ("2026-01-01T00:00:60Z", None),
            ("2026-01-01T00:00:00.Z", None),
            ("2026-01-01T00:00:00.1234567890Z", None),
            ("2026-01-01T00:00:00+0200", None),
            ("2026/01/01T00:00:00Z", None),
            ("2026-01-01Z", None),
            ("2026-1-1", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut face = Clockface::default();
        for round in 0..20_000 {
            let micros = match round % 3 {
                0 => random.i64(FIRST..=LAST),
                1 => random.i64(FIRST / 1_000_000..=LAST / 1_000_000) * 1_000_000,
                _ => random.i64(FIRST / 1_000..=LAST / 1_000) * 1_000,
            };
            let mut out = b"x".to_vec();
            assert!(face.instant(micros, &mut out));
            let text = String::from_utf8(out.split_off(1)).expect("ASCII");
            assert_eq!(read(&text), Some(micros), "{text}");
            let expected = jiff_text(micros);
            assert_eq!(text, expected);
            let mut day = Vec::new();
            let days = i32::try_from(micros.div_euclid(DAY)).expect("small");
            assert!(face.day(days, &mut day));
            assert_eq!(date(&day, 0), Some(days));
        }
        assert!(!face.instant(LAST + 1, &mut Vec::new()));
        assert!(!face.instant(FIRST - 1, &mut Vec::new()));
    }

    /// The same text by the model's own writer, which drops zeros one by one where this one drops them by three.
    fn jiff_text(micros: i64) -> String {
        let text = tidemill_model::Timestamp(micros).to_string();
        let Some((head, fraction)) = text.strip_suffix('Z').and_then(|t| t.split_once('.')) else { return text };
        let width = if fraction.len() > 3 { 6 } else { 3 };
        format!("{head}.{fraction:0<width$}Z")
    }
}
