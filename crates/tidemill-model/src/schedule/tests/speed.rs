//! Plans of many cells are quick. The bounds are loose, for machines that are busy; the figures are printed.

use super::*;

/// Milliseconds that listing the cells takes.
#[expect(clippy::disallowed_methods, reason = "a measurement of this machine, which no clock of a test can make")]
fn measured(text: &str, zone: &str, cells: usize) -> f64 {
    let grid = grid(text, zone);
    let begun = std::time::Instant::now();
    let all = interval("2026-01-01", "9000-01-01");
    let sum = grid.cells(all).take(cells).fold(0_i64, |sum, cell| sum ^ cell.end.0);
    let took = begun.elapsed().as_secs_f64() * 1_000.0;
    println!("{cells:>7} cells of {grid}: {took:.2} ms ({sum:x})");
    took
}

#[test]
fn ten_years_of_hours_and_a_hundred_thousand_cells() {
    for (text, zone, cells) in [
        ("@hourly", "", 87_600),
        ("*/5 * * * *", "", 100_000),
        ("@hourly", "Europe/Paris", 87_600),
        ("*/5 * * * *", "Europe/Paris", 100_000),
        ("*/5 9-17 * * 1-5", "Europe/Paris", 100_000),
        ("0 3 * * 1-5", "Europe/Paris", 100_000),
        ("@daily", "Europe/Paris", 100_000),
        ("@monthly", "", 10_000),
        ("0 0 29 2 *", "Europe/Paris", 1_000),
    ] {
        assert!(measured(text, zone, cells) < 1_000.0, "{text} {zone}");
    }
}
