//! Numbers for people: sizes in binary units, shares, times.

use std::fmt;
use std::time::Duration;

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A size in bytes, shown with three digits in the binary unit that fits:
/// "512 B", "2 MiB", "3.25 GiB". Whole multiples of the unit have no decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = u128::from(self.0);
        let mut unit = 1u128;
        for name in UNITS {
            let whole = bytes / unit;
            let decimals: u32 = match whole {
                _ if bytes.is_multiple_of(unit) => 0,
                0..10 => 2,
                10..100 => 1,
                _ => 0,
            };
            let scale = 10u128.pow(decimals);
            let rounded = (bytes * scale + unit / 2) / unit;
            if rounded < 1024 * scale || name == "EiB" {
                let (whole, part) = (rounded / scale, rounded % scale);
                return match decimals {
                    0 => f.pad(&format!("{whole} {name}")),
                    n => f.pad(&format!("{whole}.{part:0n$} {name}", n = n as usize)),
                };
            }
            unit *= 1024;
        }
        Ok(())
    }
}

impl Size {
    /// The size, with the exact bytes behind it if `exact` and they are not said
    /// already.
    pub fn maybe_exact(self, exact: bool) -> String {
        if exact && self.0 >= 1024 {
            format!("{self} ({} bytes)", grouped(self.0))
        } else {
            self.to_string()
        }
    }
}

/// Bytes as people type them: "512", "64M", "2.5G", "40GiB". Units are binary, as in
/// all that this program prints.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = unit.trim_start().to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("{text} is no size; sizes look like 512M, 40G, 2T")),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let scaled = || {
        let scale = 10u128.checked_pow(u32::try_from(part.len()).ok()?)?;
        let number: u128 = format!("{whole}{part}").parse().ok()?;
        let bytes = number.checked_mul(1 << shift)?;
        bytes.is_multiple_of(scale).then(|| u64::try_from(bytes / scale).ok())?
    };
    scaled().ok_or_else(|| format!("{text} is no whole number of bytes"))
}

/// A number with its digits in groups of three: "1,101,284,352".
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `part` of `whole` in percent with one decimal, rounded down so that less than
/// all never reads as all: "68.4 %".
pub fn percent(part: u64, whole: u64) -> String {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", permille / 10, permille % 10)
}

/// A count with its noun: "1 block", "1,100 blocks".
pub fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        n => format!("{} {noun}s", grouped(n)),
    }
}

/// How long something took or will take: "40 ms", "1.9 s", "2 min 5 s", "1 h 12 min".
pub fn duration(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..10 => format!("{:.1} s", time.as_secs_f64()),
        s @ 10..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// Bytes per second, once there is enough of both to tell.
pub fn rate(bytes: u64, seconds: f64) -> Option<u64> {
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    let micros = time.as_micros();
    if bytes == 0 || micros < 1000 {
        return None;
    }
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).ok()
}

/// The seconds that `bytes` take at `rate` bytes per second.
pub fn seconds_for(bytes: u64, rate: u64) -> Option<f64> {
    let millis = u128::from(bytes) * 1000 / u128::from(rate.max(1));
    Some(Duration::from_millis(u64::try_from(millis).ok()?).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_the_unit_that_fits() {
        let table: &[(u64, &str)] = &[
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1025, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 * 1024 + 512, "10.5 KiB"),
            (2 << 20, "2 MiB"),
            ((2 << 20) + 512, "2.00 MiB"),
            (100 << 20 | 1 << 19, "101 MiB"),
            (1_101_284_352, "1.03 GiB"),
            (127 << 30, "127 GiB"),
            // Rounding may carry into the next unit, never to "1024".
            ((1 << 20) - 1, "1.00 MiB"),
            ((1 << 40) - 1, "1.00 TiB"),
            (10 * 1024 - 1, "10.00 KiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(Size(*bytes).to_string(), *text, "{bytes}");
        }
    }

    #[test]
    fn exact_bytes_come_on_request() {
        assert_eq!(Size(2_097_152).maybe_exact(true), "2 MiB (2,097,152 bytes)");
        assert_eq!(Size(2_097_152).maybe_exact(false), "2 MiB");
        assert_eq!(Size(100).maybe_exact(true), "100 B");
    }

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_101_284_352), "1,101,284,352");
    }

    #[test]
    fn shares_never_claim_all_of_it() {
        assert_eq!(percent(0, 0), "0.0 %");
        assert_eq!(percent(684, 1000), "68.4 %");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99.9 %");
        assert_eq!(percent(7, 7), "100.0 %");
    }

    #[test]
    fn times_and_rates() {
        assert_eq!(duration(0.04), "40 ms");
        assert_eq!(duration(9.96), "10.0 s");
        assert_eq!(duration(125.9), "2 min 5 s");
        assert_eq!(duration(4320.0), "1 h 12 min");
        assert_eq!(duration(f64::NAN), "0 ms");
        assert_eq!(rate(1 << 20, 2.0), Some(1 << 19));
        assert_eq!(rate(1 << 20, 0.0), None);
    }

    #[test]
    fn sizes_are_read_as_they_are_printed() {
        for (text, bytes) in [
            ("512", 512),
            ("64M", 64 << 20),
            ("64 MiB", 64 << 20),
            ("2.5g", 5 << 29),
            ("40GB", 40 << 30),
            ("2t", 2 << 40),
            ("0.5k", 512),
            (" 3K ", 3072),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "G",
            "-1",
            "1X",
            "1.3",
            "0.0001K",
            "1e3",
            "1.2.3M",
            "99999999999T",
            "1 2",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
