//! Numbers as people read them: exact with comma groups, durations and rates with three digits.

use std::time::Duration;

use tidemill_model::Timestamp;

/// `1204118` as `1,204,118`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 epoch`, `1,204 epochs`.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// A rate: `412`, `41.2 k`, `1.20 M`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e6 => format!("{:.2} M", r / 1e6),
        r if r >= 1e4 => format!("{:.1} k", r / 1e3),
        r => format!("{r:.0}"),
    }
}

/// A size: `412 B`, `1.5 KiB`, `212 MiB`, `1.4 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut size, mut unit) = (n as f64 / 1024.0, 0);
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    if size < 10.0 { format!("{size:.1} {}", units[unit]) } else { format!("{size:.0} {}", units[unit]) }
}

/// A duration in two units at most: `41 ms`, `1.8 s`, `2 m 04 s`, `2 h 04 m`.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match span.as_millis() {
        0..=999 => format!("{} ms", span.as_millis()),
        1_000..=9_999 => format!("{:.1} s", span.as_secs_f64()),
        10_000..=59_999 => format!("{seconds} s"),
        60_000..=3_599_999 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A path as it can be pasted into a shell.
pub(crate) fn shell(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-~+,:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// An instant to the second: `2026-11-20 02:00:00`.
pub(crate) fn instant(at: Timestamp) -> String {
    let text = at.to_string();
    let text = text.trim_end_matches('Z').replacen('T', " ", 1);
    text.split('.').next().unwrap_or(&text).to_owned()
}

/// An exact sum in cents with comma groups: `148,261,807.35`.
pub(crate) fn cents(cents: i128) -> String {
    let magnitude = cents.unsigned_abs();
    let whole = u64::try_from(magnitude / 100).unwrap_or(u64::MAX);
    format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, grouped(whole), magnitude % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_read_them() {
        assert_eq!(grouped(1_204_118), "1,204,118");
        assert_eq!(grouped(999), "999");
        assert_eq!(cents(14_826_180_735), "148,261,807.35");
        assert_eq!(cents(-5), "-0.05");
        assert_eq!(duration(Duration::from_secs(124)), "2 m 04 s");
        assert_eq!(duration(Duration::from_millis(1_840)), "1.8 s");
        assert_eq!(rate(41_234.0), "41.2 k");
    }
}
