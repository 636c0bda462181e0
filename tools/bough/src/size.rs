//! Sizes as people write and read them: `100G`, `1.5T`, `512`.
//!
//! The letters K M G T P are powers of 1024, with or without `iB`.

use std::fmt;
use std::str::FromStr;

const LETTERS: [char; 5] = ['K', 'M', 'G', 'T', 'P'];

/// A number of bytes from the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a letter.
    #[error("'{0}' is no size; write bytes, or a number with K, M, G, T or P: 100G")]
    Malformed(String),
    /// More than 64 bits.
    #[error("'{0}' is larger than anything Bough can hold (1P a disk)")]
    TooLarge(String),
    /// Parts of a byte.
    #[error("'{0}' is not a whole number of bytes")]
    Fraction(String),
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let malformed = || SizeError::Malformed(text.to_owned());
        let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(number_end);
        let shift = unit_shift(unit).ok_or_else(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || number.ends_with('.') || fraction.len() > 15 {
            return Err(malformed());
        }
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| malformed())?);
        let too_large = || SizeError::TooLarge(text.to_owned());
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| malformed())?;
        let scaled = digits.checked_mul(1 << shift).ok_or_else(too_large)?;
        if !scaled.is_multiple_of(scale) {
            return Err(SizeError::Fraction(text.to_owned()));
        }
        u64::try_from(scaled / scale).map(Self).map_err(|_| too_large())
    }
}

fn unit_shift(unit: &str) -> Option<u32> {
    let unit = unit.to_ascii_uppercase();
    if unit.is_empty() || unit == "B" {
        return Some(0);
    }
    let (letter, rest) = unit.split_at(unit.char_indices().nth(1).map_or(unit.len(), |(at, _)| at));
    if !matches!(rest, "" | "B" | "IB") {
        return None;
    }
    let index = LETTERS.iter().position(|known| letter.starts_with(*known))?;
    u32::try_from(index).ok().map(|index| 10 * (index + 1))
}

/// Bytes for people: three digits or so and a letter. Never more precise than it looks, and never
/// rounded up to the next letter.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = None;
        let mut divisor = 1_u64;
        for letter in LETTERS {
            if self.0 / divisor < 1024 {
                break;
            }
            divisor *= 1024;
            unit = Some(letter);
        }
        let Some(letter) = unit else { return f.pad(&self.0.to_string()) };
        let whole = self.0 / divisor;
        let tenths = (self.0 % divisor) * 10 / divisor;
        if whole < 100 && tenths > 0 {
            f.pad(&format!("{whole}.{tenths}{letter}"))
        } else {
            f.pad(&format!("{whole}{letter}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<u64, SizeError> {
        text.parse::<Size>().map(|size| size.0)
    }

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("4K"), Ok(4096));
        assert_eq!(bytes("4k"), Ok(4096));
        assert_eq!(bytes("1.5M"), Ok(1536 << 10));
        assert_eq!(bytes("100GiB"), Ok(100 << 30));
        assert_eq!(bytes("2T"), Ok(2 << 40));
        assert_eq!(bytes("1P"), Ok(1 << 50));
    }

    #[test]
    fn what_is_no_size_is_refused_by_name() {
        for text in ["", "G", "-1", "1X", "1.G", ".5G", "1 G", "1e9", "1GG", "0x10", "1.2.3", "١"]
        {
            assert!(matches!(bytes(text), Err(SizeError::Malformed(_))), "{text:?} was accepted");
        }
        assert!(matches!(bytes("99999P"), Err(SizeError::TooLarge(_))));
        assert!(bytes(&"9".repeat(60)).is_err());
        assert!(matches!(bytes("0.3K"), Err(SizeError::Fraction(_))));
    }

    #[test]
    fn sizes_print_short_and_never_rounded_up() {
        let text = |bytes| Size(bytes).to_string();
        assert_eq!(text(0), "0");
        assert_eq!(text(1023), "1023");
        assert_eq!(text(1024), "1K");
        assert_eq!(text(1536), "1.5K");
        assert_eq!(text((1 << 20) - 1), "1023K");
        assert_eq!(text(100 << 30), "100G");
        assert_eq!(text(1 << 50), "1P");
        assert_eq!(text(u64::MAX), "16383P");
    }
}
