//! [`RecordWriter`]: rows as JSON records, fast and without any formatting machinery.
//!
//! **Invariant:** an amount is written with two to four decimals, exactly; a time as `2026-01-01T00:00:00.000Z`.

use tidemill_model::Timestamp;

use super::dimensions::{Customer, Product};
use super::orders::{Fate, Order, OrderRecord, REGIONS, SPELLINGS};

const DAY: i64 = 86_400_000_000;

/// Writes records one behind the other and keeps where each ends.
#[derive(Debug, Default)]
pub(super) struct RecordWriter {
    pub(super) data: Vec<u8>,
    pub(super) ends: Vec<u32>,
    digits: Digits,
    /// The day written last, since neighbours share it: days since 1970 and its text.
    day: Option<(i64, [u8; 10])>,
}

/// The buffer of the number writer, which cannot be copied or shown.
#[derive(Default)]
struct Digits(itoa::Buffer);

impl std::fmt::Debug for Digits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digits")
    }
}

impl RecordWriter {
    /// A writer with room for so many records, so that it need not grow.
    pub(super) fn with_room(records: u64) -> RecordWriter {
        let records = usize::try_from(records).unwrap_or(0);
        let (data, ends) = (Vec::with_capacity(records * 192), Vec::with_capacity(records));
        RecordWriter { data, ends, ..RecordWriter::default() }
    }

    /// Writes an order as its fate wants it.
    pub(super) fn order(&mut self, record: &OrderRecord) {
        let begin = self.data.len();
        self.well_formed(&record.order);
        if let Fate::Malformed(fault) = record.fate {
            self.spoil(begin, fault);
        }
        self.end();
    }

    /// Writes a customer.
    pub(super) fn customer(&mut self, customer: &Customer) {
        self.text(b"{\"customer_id\":");
        self.number(customer.customer_id.cast_signed());
        self.text(b",\"region\":\"");
        self.text(customer.region.as_bytes());
        self.text(b"\",\"tier\":\"");
        self.text(customer.tier.as_bytes());
        self.text(b"\"}");
        self.end();
    }

    /// Writes a product.
    pub(super) fn product(&mut self, product: &Product) {
        self.text(b"{\"product_id\":");
        self.number(product.product_id.cast_signed());
        self.text(b",\"category\":\"cat-");
        self.text(&two(product.category));
        self.text(b"\"}");
        self.end();
    }

    fn well_formed(&mut self, order: &Order) {
        self.text(b"{\"order_id\":");
        match order.order_id {
            Some(id) => self.number(id),
            None => self.text(b"null"),
        }
        self.text(b",\"customer_id\":");
        self.number(order.customer_id);
        self.text(b",\"product_id\":");
        self.number(order.product_id);
        self.text(b",\"amount\":");
        self.amount(order.amount);
        self.text(b",\"currency\":\"");
        self.text(SPELLINGS[order.currency as usize][order.spelling as usize].as_bytes());
        self.text(b"\",\"region\":\"");
        self.text(REGIONS[order.region as usize].as_bytes());
        self.text(b"\",\"created_at\":\"");
        self.time(order.created_at);
        self.text(b"\"}");
    }

    /// Makes the record since `begin` one that is not JSON. There are four ways.
    fn spoil(&mut self, begin: usize, fault: u8) {
        let length = self.data.len() - begin;
        let Some(record) = self.data.get_mut(begin..) else { return };
        let blot = |record: &mut [u8], byte: u8| {
            if let Some(at) = memchr::memchr(byte, record) {
                record[at] = b' ';
            }
        };
        match fault {
            0 => blot(record, b','),
            1 => blot(record, b':'),
            2 => self.data.truncate(begin + length / 2),
            _ => self.data.truncate(begin + length - 1),
        }
    }

    fn amount(&mut self, amount: i64) {
        if amount < 0 {
            self.data.push(b'-');
        }
        let amount = amount.unsigned_abs();
        self.number((amount / 10_000).cast_signed());
        let decimals = amount % 10_000;
        self.data.push(b'.');
        self.text(&two(decimals / 100));
        let rest = two(decimals % 100);
        match rest {
            [b'0', b'0'] => {}
            [first, b'0'] => self.data.push(first),
            both => self.text(&both),
        }
    }

    pub(super) fn time(&mut self, at: Timestamp) {
        let day = at.0.div_euclid(DAY);
        let date = match self.day {
            Some((known, text)) if known == day => text,
            _ => self.day.insert((day, date(day))).1,
        };
        let millis = at.0.rem_euclid(DAY).unsigned_abs() / 1000;
        let (h, m, s, ms) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60, millis % 1000);
        let mut text = *b"T00:00:00.000Z";
        text[1..3].copy_from_slice(&two(h));
        text[4..6].copy_from_slice(&two(m));
        text[7..9].copy_from_slice(&two(s));
        text[10] = b'0' + (ms / 100) as u8;
        text[11..13].copy_from_slice(&two(ms % 100));
        self.text(&date);
        self.text(&text);
    }

    pub(super) fn number(&mut self, number: i64) {
        self.data.extend_from_slice(self.digits.0.format(number).as_bytes());
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        self.data.extend_from_slice(text);
    }

    /// Four digits of a number below 10000.
    pub(super) fn four(&mut self, number: u64) {
        self.text(&two(number / 100));
        self.text(&two(number % 100));
    }

    pub(super) fn end(&mut self) {
        self.ends.push(u32::try_from(self.data.len()).unwrap_or(u32::MAX));
    }
}

/// Two digits of a number below 100.
fn two(number: u64) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

/// Days since 1970 as `2026-01-01` (proleptic Gregorian, by Hinnant's algorithm); years 0 to 9999.
fn date(day: i64) -> [u8; 10] {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = (year_of_era + era * 400 + i64::from(month <= 2)).clamp(0, 9999).unsigned_abs();
    let mut text = *b"0000-00-00";
    text[..2].copy_from_slice(&two(year / 100));
    text[2..4].copy_from_slice(&two(year % 100));
    text[5..7].copy_from_slice(&two(month.unsigned_abs()));
    text[8..].copy_from_slice(&two(day.unsigned_abs()));
    text
}

#[cfg(test)]
mod tests {
    use super::{DAY, RecordWriter};
    use tidemill_model::Timestamp;

    #[test]
    fn amounts_are_exact() {
        let cases =
            [(0, "0.00"), (1, "0.0001"), (12_345_600, "1234.56"), (-10_050, "-1.005"), (99_990_001, "9999.0001")];
        for (amount, text) in cases {
            let mut writer = RecordWriter::default();
            writer.amount(amount);
            assert_eq!(std::str::from_utf8(&writer.data), Ok(text));
        }
    }

    #[test]
    fn times_are_what_the_calendar_says() {
        for day in [-719_162, -1, 0, 59, 11_016, 19_782, 20_454, 47_540, 2_932_866] {
            let at = Timestamp(day * DAY + 3_723_004_000);
            let mut writer = RecordWriter::default();
            writer.time(at);
            let text = String::from_utf8(writer.data).expect("text");
            assert_eq!(Timestamp::parse(&text).expect("a time"), at, "{text}");
        }
    }
}
