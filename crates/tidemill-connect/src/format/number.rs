//! Numbers as text: [`integer`], [`float`] and [`Scale`] read them straight from bytes, eight digits at a step.
//!
//! **Invariant:** a number is read exactly or refused. Doubles are rounded once and correctly; decimals never pass
//! through a double.

/// Powers of ten that a `u64` holds.
const TENS: [u64; 20] = {
    let mut tens = [1; 20];
    let mut i = 1;
    while i < 20 {
        tens[i] = tens[i - 1] * 10;
        i += 1;
    }
    tens
};

/// Powers of ten that a double holds exactly.
const EXACT_TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The eight bytes at `at` as a little-endian word, padded with zero bytes at the end of the input.
#[inline]
pub(crate) fn load(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => load_end(bytes, at),
    }
}

#[cold]
fn load_end(bytes: &[u8], at: usize) -> u64 {
    let mut chunk = [0; 8];
    let rest = bytes.get(at..).unwrap_or_default();
    for (to, from) in chunk.iter_mut().zip(rest) {
        *to = *from;
    }
    u64::from_le_bytes(chunk)
}

/// The value and the count of the digits that a word begins with.
#[inline]
fn word_digits(word: u64) -> (u64, usize) {
    let digits = word ^ 0x3030_3030_3030_3030;
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    let count = others.trailing_zeros() / 8;
    // Right-align the digits, so that zeros stand before them; a count of 0 leaves rubbish that no caller uses.
    let digits = digits.wrapping_shl(64 - 8 * count);
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    (low.wrapping_add(high) >> 32, count as usize)
}

/// The value and the count of the digits at `at`. A count over 19 means that they do not fit; the value is then void.
#[inline]
pub(crate) fn digits(bytes: &[u8], at: usize) -> (u64, usize) {
    let (mut value, mut count) = word_digits(load(bytes, at));
    let mut last = count;
    while last == 8 {
        let (next, more) = word_digits(load(bytes, at + count));
        last = more;
        if more == 0 {
            break;
        }
        count += more;
        if count > 19 {
            return (0, 20);
        }
        value = value.wrapping_mul(TENS[more]).wrapping_add(next);
    }
    (value, count)
}

/// A whole-number type.
pub(crate) trait Whole: Sized {
    /// The number of this sign and magnitude, if the type holds it.
    fn of(negative: bool, magnitude: u64) -> Option<Self>;
}

macro_rules! whole {
    ($($type:ty),*) => { $(impl Whole for $type {
        #[inline]
        fn of(negative: bool, magnitude: u64) -> Option<Self> {
            i64::of(negative, magnitude).and_then(|n| Self::try_from(n).ok())
        }
    })* };
}

whole!(i8, i16, i32, u8, u16, u32);

impl Whole for i64 {
    #[inline]
    fn of(negative: bool, magnitude: u64) -> Option<Self> {
        if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
    }
}

impl Whole for u64 {
    #[inline]
    fn of(negative: bool, magnitude: u64) -> Option<Self> {
        (!negative || magnitude == 0).then_some(magnitude)
    }
}

/// The whole number at `at` and where its digits end; `None` when there is none, it has leading zeros, or the type
/// does not hold it. A fraction or exponent behind it is left for the caller to find.
#[inline]
pub(crate) fn integer<T: Whole>(bytes: &[u8], at: usize) -> Option<(T, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    let start = at + usize::from(negative);
    let (magnitude, count) = digits(bytes, start);
    if count == 0 || (count > 1 && bytes.get(start) == Some(&b'0')) {
        return None;
    }
    if count > 19 {
        let end = start + run(bytes, start);
        let text = std::str::from_utf8(bytes.get(start..end)?).ok()?;
        return Some((T::of(negative, text.parse().ok()?)?, end));
    }
    Some((T::of(negative, magnitude)?, start + count))
}

/// How many digits stand at `at`.
fn run(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit()).count()
}

/// The end of the JSON number at `at`, or the byte where a digit was expected.
pub(crate) fn grammar(bytes: &[u8], at: usize) -> Result<usize, usize> {
    let mut end = at + usize::from(bytes.get(at) == Some(&b'-'));
    match bytes.get(end) {
        Some(b'0') => end += 1,
        Some(b'1'..=b'9') => end += run(bytes, end),
        _ => return Err(end),
    }
    if bytes.get(end) == Some(&b'.') {
        end += 1;
        let fraction = run(bytes, end);
        if fraction == 0 {
            return Err(end);
        }
        end += fraction;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        end += 1;
        end += usize::from(matches!(bytes.get(end), Some(b'+' | b'-')));
        let exponent = run(bytes, end);
        if exponent == 0 {
            return Err(end);
        }
        end += exponent;
    }
    Ok(end)
}

/// A floating-point type.
pub(crate) trait Float: Sized + std::str::FromStr {
    /// `mantissa / 10^places` if two exact operands give it, so that one division rounds it correctly.
    fn exact(mantissa: u64, places: usize) -> Option<Self>;
    /// Whether it is neither infinite nor NaN.
    fn finite(&self) -> bool;
    /// The same with the other sign.
    fn negated(self) -> Self;
}

impl Float for f64 {
    #[inline]
    fn exact(mantissa: u64, places: usize) -> Option<Self> {
        (mantissa <= 1 << 53).then(|| EXACT_TENS.get(places).map(|ten| mantissa as f64 / ten))?
    }

    fn finite(&self) -> bool {
        self.is_finite()
    }

    #[inline]
    fn negated(self) -> Self {
        -self
    }
}

impl Float for f32 {
    #[inline]
    fn exact(mantissa: u64, places: usize) -> Option<Self> {
        // Ten to the tenth is the last power that a single holds exactly.
        let ten = EXACT_TENS.get(places).filter(|_| places <= 10)?;
        (mantissa <= 1 << 24).then(|| mantissa as f32 / *ten as f32)
    }

    fn finite(&self) -> bool {
        self.is_finite()
    }

    #[inline]
    fn negated(self) -> Self {
        -self
    }
}

/// The number at `at`, correctly rounded, and where it ends; `None` when it is no JSON number or too large.
#[inline]
pub(crate) fn float<T: Float>(bytes: &[u8], at: usize) -> Option<(T, usize)> {
    let negative = bytes.get(at) == Some(&b'-');
    let start = at + usize::from(negative);
    let (whole, count) = digits(bytes, start);
    let mut end = start + count;
    let mut mantissa = whole;
    let mut places = 0;
    if bytes.get(end) == Some(&b'.') {
        let (fraction, length) = digits(bytes, end + 1);
        places = length;
        end += 1 + length;
        if length == 0 || count + length > 19 {
            return slow_float(bytes, at);
        }
        mantissa = whole.wrapping_mul(TENS[length]).wrapping_add(fraction);
    }
    let plain = count != 0
        && count <= 19
        && (count == 1 || bytes.get(start) != Some(&b'0'))
        && !matches!(bytes.get(end), Some(b'e' | b'E'));
    match T::exact(mantissa, places) {
        Some(value) if plain => Some((if negative { value.negated() } else { value }, end)),
        _ => slow_float(bytes, at),
    }
}

fn slow_float<T: Float>(bytes: &[u8], at: usize) -> Option<(T, usize)> {
    let end = grammar(bytes, at).ok()?;
    let value: T = std::str::from_utf8(bytes.get(at..end)?).ok()?.parse().ok()?;
    value.finite().then_some((value, end))
}

/// The shape of a decimal: so many digits, so many of them behind the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Digits behind the point.
    pub(crate) places: u32,
    /// The first magnitude, in units of the last place, that does not fit.
    pub(crate) limit: i128,
    /// Whether digits behind the last place are cut off (towards minus infinity) rather than refused.
    pub(crate) floor: bool,
}

impl Scale {
    /// A decimal of `precision` digits, `places` of them behind the point; further digits are refused.
    pub(crate) fn exact(precision: u8, places: u32) -> Scale {
        let limit = 10_i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
        Scale { places, limit, floor: false }
    }

    /// The number at `at` in units of the last place, and where it ends; `None` when it is no JSON number, has more
    /// digits than fit, or would lose some.
    #[inline]
    pub(crate) fn read(self, bytes: &[u8], at: usize) -> Option<(i128, usize)> {
        let negative = bytes.get(at) == Some(&b'-');
        let start = at + usize::from(negative);
        let (whole, count) = digits(bytes, start);
        let (fraction, places, end) = match bytes.get(start + count) {
            Some(b'.') => {
                let (fraction, places) = digits(bytes, start + count + 1);
                (fraction, places, start + count + 1 + places)
            }
            _ => (0, 0, start + count),
        };
        let plain = count != 0
            && count + places <= 19
            && (count == 1 || bytes.get(start) != Some(&b'0'))
            && (places != 0 || bytes.get(start + count) != Some(&b'.'))
            && !matches!(bytes.get(end), Some(b'e' | b'E'));
        if !plain || places as u32 > self.places {
            return self.read_slowly(bytes, at);
        }
        let mantissa = i128::from(whole.wrapping_mul(TENS[places]).wrapping_add(fraction));
        let value = mantissa.checked_mul(10_i128.checked_pow(self.places - places as u32)?)?;
        (value < self.limit).then_some((if negative { -value } else { value }, end))
    }

    /// Any JSON number: more than 19 digits, an exponent, more places than fit.
    fn read_slowly(self, bytes: &[u8], at: usize) -> Option<(i128, usize)> {
        let end = grammar(bytes, at).ok()?;
        let token = bytes.get(at..end)?;
        let (number, exponent) = match token.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(e) => (token.get(..e)?, exponent(token.get(e + 1..)?)),
            None => (token, 0),
        };
        let negative = number.first() == Some(&b'-');
        let point = number.iter().position(|b| *b == b'.');
        let mut digits: Vec<u8> = number.iter().filter(|b| b.is_ascii_digit()).map(|b| b - b'0').collect();
        let mut places = point.map_or(0, |point| number.len() - point - 1) as i64;
        while digits.last() == Some(&0) {
            digits.pop();
            places -= 1;
        }
        let Some(first) = digits.iter().position(|d| *d != 0) else { return Some((0, end)) };
        // How many zeros to append; where negative, how many digits to cut off.
        let shift = i64::from(self.places) - places + exponent;
        let mut cut = false;
        if shift < 0 {
            let keep = usize::try_from(digits.len() as i64 + shift).unwrap_or(0);
            digits.truncate(keep);
            cut = true;
        }
        if cut && !self.floor {
            return None;
        }
        let mut value = 0_i128;
        let zeros = std::iter::repeat_n(&0, usize::try_from(shift.min(64)).unwrap_or(0));
        for digit in digits.iter().skip(first).chain(zeros) {
            value = value.checked_mul(10)?.checked_add(i128::from(*digit))?;
        }
        let value = if negative { -value - i128::from(cut) } else { value };
        (value.checked_abs()? < self.limit).then_some((value, end))
    }
}

/// The exponent behind `e`, held within bounds that no decimal reaches.
fn exponent(text: &[u8]) -> i64 {
    let negative = text.first() == Some(&b'-');
    let size =
        text.iter().filter(|b| b.is_ascii_digit()).fold(0_i64, |n, b| (n * 10 + i64::from(b - b'0')).min(1 << 40));
    if negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: PartialEq + std::fmt::Debug>(read: impl Fn(&[u8]) -> Option<(T, usize)>, cases: &[(&str, Option<T>)]) {
        for (text, expected) in cases {
            // With and without bytes behind it: the end of a block takes another path.
            for tail in ["", ",\"next\":12345678901234567890"] {
                let input = format!("{text}{tail}");
                let whole = read(input.as_bytes()).filter(|(_, end)| *end == text.len()).map(|(value, _)| value);
                assert_eq!(&whole, expected, "{text}");
            }
        }
    }

    #[test]
    fn whole_numbers_are_exact_or_refused() {
        check(
            |b| integer::<i64>(b, 0),
            &[
                ("0", Some(0)),
                ("-0", Some(0)),
                ("12345678", Some(12_345_678)),
                ("1234567890123456789", Some(1_234_567_890_123_456_789)),
                ("9223372036854775807", Some(i64::MAX)),
                ("-9223372036854775808", Some(i64::MIN)),
                ("9223372036854775808", None),
                ("-9223372036854775809", None),
                ("99999999999999999999", None),
                ("01", None),
                ("-", None),
                ("+1", None),
                ("1.0", None),
            ],
        );
        check(|b| integer::<i8>(b, 0), &[("127", Some(127)), ("128", None), ("-128", Some(-128)), ("-129", None)]);
        check(
            |b| integer::<u64>(b, 0),
            &[("18446744073709551615", Some(u64::MAX)), ("18446744073709551616", None), ("-1", None), ("-0", Some(0))],
        );
    }

    #[test]
    fn doubles_are_rounded_as_the_standard_library_rounds_them() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let text = match random.u8(0..4) {
                0 => format!("{}", f64::from_bits(random.u64(..))),
                1 => format!("{:e}", f64::from_bits(random.u64(..))),
                2 => format!("{}.{:04}", random.u32(0..100_000), random.u32(0..10_000)),
                _ => format!("{}{}", random.u64(..), random.u64(..)),
            };
            let expected = text.parse::<f64>().ok().filter(|x| x.is_finite()).map(f64::to_bits);
            let expected = expected.filter(|_| grammar(text.as_bytes(), 0) == Ok(text.len()));
            assert_eq!(float::<f64>(text.as_bytes(), 0).map(|(x, _)| x.to_bits()), expected, "{text}");
            let single = text.parse::<f32>().ok().filter(|x| x.is_finite()).map(f32::to_bits);
            let single = single.filter(|_| grammar(text.as_bytes(), 0) == Ok(text.len()));
            assert_eq!(float::<f32>(text.as_bytes(), 0).map(|(x, _)| x.to_bits()), single, "{text}");
        }
        check(
            |b| float::<f64>(b, 0),
            &[("1.", None), (".5", None), ("01.5", None), ("1e999", None), ("-0.5", Some(-0.5))],
        );
    }

    #[test]
    fn decimals_lose_nothing() {
        let scale = Scale::exact(10, 2);
        check(
            |b| scale.read(b, 0),
            &[
                ("1", Some(100)),
                ("-1.5", Some(-150)),
                ("0.01", Some(1)),
                ("1.500000000000000000000000000000000000000000", Some(150)),
                ("1e2", Some(10_000)),
                ("1.25e1", Some(1250)),
                ("125E-2", Some(125)),
                ("0e999999999999999999999", Some(0)),
                ("99999999.99", Some(9_999_999_999)),
                ("100000000", None),
                ("1.005", None),
                ("1e-3", None),
                ("1e99999999999999999999", None),
                ("1.", None),
                ("01", None),
            ],
        );
        let wide = Scale::exact(38, 0);
        check(
            |b| wide.read(b, 0),
            &[("99999999999999999999999999999999999999", Some(10_i128.pow(38) - 1)), ("1e38", None)],
        );
        let floor = Scale { floor: true, ..Scale::exact(18, 3) };
        check(|b| floor.read(b, 0), &[("1.23456", Some(1234)), ("-1.23456", Some(-1235)), ("-1e-9", Some(-1))]);
    }
}
