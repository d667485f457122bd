//! Sizes in bytes, in the form of Kubernetes quantities.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// A number of bytes as a Kubernetes quantity (`512Mi`, `10Gi`, `1500M`, `1073741824`).
///
/// A `Size` keeps the written text, and [`Size::bytes`] parses it. So an object with an unreadable size can
/// still be read, reported and refused. The schema refuses such objects at apply time.
///
/// ```
/// use reservoir::api::Size;
///
/// assert_eq!(Size::written("1.5Gi").bytes(), Ok(1_610_612_736));
/// assert_eq!(Size::from_bytes(1_610_612_736).as_str(), "1536Mi");
///
/// let wrong = Size::written("1GiB").bytes().unwrap_err();
/// assert_eq!(wrong.to_string(), "`1GiB` is not a size; write a number of bytes or a quantity such as 10Gi");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Size(String);

/// A CEL expression that is true if a field is a quantity. The API server expands a quantity before each
/// comparison, and evaluates every rule. A quantity such as `1e99999999` would occupy the API server for
/// minutes, so its form is refused.
macro_rules! is_quantity {
    ($field:literal) => {
        concat!("!string(", $field, ").matches('[eE][+-]?[0-9]{3}') && isQuantity(string(", $field, "))")
    };
}
pub(super) use is_quantity;

/// The rule of [`Size::bytes`] in CEL, for the CRDs' schemas.
pub(super) const RULE: &str = concat!(
    "type(self) == int ? int(self) > 0 : ",
    is_quantity!("self"),
    " && quantity(string(self)).isGreaterThan(quantity('0')) && quantity(string(self)).isLessThan(quantity('8Ei'))"
);
/// The API server's message for a violation of [`RULE`].
pub(super) const MESSAGE: &str =
    "a size is a positive quantity below 8Ei, such as 512Mi, 10Gi or a number of bytes";

/// The least size of a reservation, in CEL. Values without a size are refused by [`RULE`].
pub(super) const LEAST_RULE: &str = concat!(
    "type(self) == int ? int(self) >= 1048576 : !(",
    is_quantity!("self"),
    ") || quantity(string(self)).compareTo(quantity('1Mi')) >= 0"
);
/// The API server's message for a violation of [`LEAST_RULE`].
pub(super) const LEAST_MESSAGE: &str =
    "a reservation has at least 1Mi: each takes a place in the ledgers of its disk and role";

/// A [`Size`] is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a quantity, or one with more digits than the API server stores.
    #[error("`{0}` is not a size; write a number of bytes or a quantity such as 10Gi")]
    NotAQuantity(String),
    /// Zero or negative.
    #[error("`{0}` is not a positive number of bytes")]
    NotPositive(String),
    /// 2^63 - 1 bytes or more. Kubernetes uses that number for every larger quantity.
    #[error("`{0}` is larger than the 8Ei - 2 bytes that a size may have")]
    TooLarge(String),
}

/// The largest number of digits. A quantity of the API server has 28 at most; and any power of two below 8Ei times
/// 10^37 is within the loop of [`Size::bytes`].
const MOST_DIGITS: usize = 37;

/// The suffixes that stand for a power of two.
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// The suffixes that stand for a power of ten.
const DECIMAL: [(&str, i32); 9] =
    [("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Size {
    /// Returns the size of `bytes`, written in the largest binary unit that divides the number. So 6.5Gi is `6656Mi`
    /// in each message, column and command, and can be copied from there without a loss.
    pub fn from_bytes(bytes: u64) -> Self {
        let written = BINARY.iter().rev().find_map(|(unit, shift)| {
            (bytes != 0 && bytes.is_multiple_of(1 << shift)).then(|| format!("{}{unit}", bytes >> shift))
        });
        Self(written.unwrap_or_else(|| bytes.to_string()))
    }

    /// Keeps a written text, without parsing it.
    pub fn written(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text of the quantity.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes of a size in whole binary units, as [`Size::from_bytes`] writes it; `None`: the size is written otherwise, or wrong.
    fn whole_units(&self) -> Option<u64> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).take(20).count();
        let (number, unit) = self.0.split_at(digits);
        let shift = match unit {
            "" => 0,
            _ => BINARY.iter().find(|(suffix, _)| *suffix == unit)?.1,
        };
        let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
        (1..i64::MAX as u64).contains(&bytes).then_some(bytes)
    }

    /// Parses the size as a positive number of bytes below 2^63 - 1. A fraction of a byte is rounded up, as Kubernetes
    /// does (F1).
    pub fn bytes(&self) -> Result<u64, SizeError> {
        // Sums over ledgers parse many sizes, and almost all of them are written so.
        if let Some(bytes) = self.whole_units() {
            return Ok(bytes);
        }
        let wrong = || SizeError::NotAQuantity(self.0.clone());
        let too_large = || SizeError::TooLarge(self.0.clone());
        let unsigned = self.0.strip_prefix(['+', '-']).unwrap_or(&self.0);
        let suffixed = |suffix: &str| unsigned.strip_suffix(suffix);
        let binary = BINARY.iter().find_map(|(suffix, power)| Some((suffixed(suffix)?, *power, 0)));
        let decimal = || DECIMAL.iter().find_map(|(suffix, power)| Some((suffixed(suffix)?, 0, *power)));
        let (number, binary, decimal) = binary.or_else(decimal).unwrap_or((unsigned, 0, 0));
        let (number, exponent) = match number.split_once(['e', 'E']) {
            Some((number, exponent)) if (binary, decimal) == (0, 0) => {
                (number, exponent.parse::<i32>().map_err(|_| wrong())?)
            }
            _ => (number, decimal),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) || digits.len() > MOST_DIGITS {
            return Err(wrong());
        }
        let number: u128 = digits.parse().map_err(|_| wrong())?;
        if number == 0 || self.0.starts_with('-') {
            return Err(SizeError::NotPositive(self.0.clone()));
        }
        // The size is number × 2^binary ÷ 10^places.
        let places = fraction.len() as i64 - i64::from(exponent);
        let power = u32::try_from(places.abs()).ok().and_then(|places| 10u128.checked_pow(places));
        let (mut bytes, mut rest, unit) = match (power, places > 0) {
            (Some(power), true) => (number / power, number % power, power),
            (Some(power), false) => (number.checked_mul(power).ok_or_else(too_large)?, 0, 1),
            (None, true) => (0, number, u128::MAX),
            (None, false) => return Err(too_large()),
        };
        for _ in 0..binary {
            rest *= 2;
            bytes = 2 * bytes + u128::from(rest >= unit);
            rest -= if rest >= unit { unit } else { 0 };
            if bytes > u128::from(u64::MAX) {
                return Err(too_large());
            }
        }
        let bytes = u64::try_from(bytes + u128::from(rest > 0)).ok();
        bytes.filter(|bytes| *bytes < i64::MAX as u64).ok_or_else(too_large)
    }

    /// Parses the size as bytes where zero is valid, such as free and used bytes. An unreadable size counts
    /// as zero.
    pub fn bytes_or_zero(&self) -> u64 {
        self.bytes().unwrap_or(0)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Self(text),
            other => Self(other.to_string()),
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A size is a number of bytes, or an error, and a size of bytes is those bytes.
    #[test]
    fn fuzz_sizes() {
        let seeds = ["10Gi", "1.5Gi", "2e3", "1500M", "-1", "0.5", "33554432500m", "+1E", "1e-3"];
        crate::fuzz::fuzz("sizes", &seeds.map(str::as_bytes), |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let read = Size::written(text).bytes();
            if let Ok(bytes) = read {
                assert_eq!(Size::from_bytes(bytes).bytes(), Ok(bytes));
            }
            read.map(u64::checked_ilog2).map_err(crate::fuzz::words)
        });
    }

    /// F1: the outcome of each text in Kubernetes' own parser (k8s.io/apimachinery/pkg/api/resource), rounded up to bytes.
    #[test]
    fn f1_every_quantity_is_read_and_rounded_up() {
        for (text, bytes) in [
            ("1", 1),
            ("1Ki", 1024),
            ("1.5Gi", 3 << 29),
            ("10Gi", 10 << 30),
            ("1500M", 1_500_000_000),
            ("2e3", 2_000),
            ("7Ei", 7 << 60),
            ("+32Mi", 32 << 20),
            ("0.3Gi", 322_122_548),
            ("322122547200m", 322_122_548),
            ("33554432.5", 33_554_433),
            ("33554432000m", 33_554_432),
            ("0.1", 1),
            ("1n", 1),
            ("1000000001n", 2),
            ("2500u", 1),
            ("1.", 1),
            (".5Ki", 512),
            ("1e-3", 1),
            ("1E+3", 1000),
            ("1.5E", 1_500_000_000_000_000_000),
            ("0.0000000001", 1),
            ("1e-99", 1),
            ("7.99999999999999999Ei", 9_223_372_036_854_775_797),
            ("00012Mi", 12 << 20),
        ] {
            assert_eq!(Size::written(text).bytes(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_size_is_refused_with_the_cause() {
        let long = "1".repeat(MOST_DIGITS + 1);
        for text in [
            "", "+", "Gi", "ten", "1 Gi", "1Gi ", "0x10", "1..2", "1GiB", "१Gi", "1\u{0}", "NaN", "1e",
            "1e3m", "1Ke", &long,
        ] {
            assert!(matches!(Size::written(text).bytes(), Err(SizeError::NotAQuantity(_))), "{text}");
        }
        for text in ["0", "-1", "-5Gi", "-0.1", "0Gi", "0e99"] {
            assert!(matches!(Size::written(text).bytes(), Err(SizeError::NotPositive(_))), "{text}");
        }
        for text in [
            "8Ei",
            "9Ei",
            "12E",
            "9223372036854775807",
            "9223372036854775806.5",
            "1e19",
            "1e99",
            "9e18Ei",
            "9e99999999999",
        ] {
            assert!(Size::written(text).bytes().is_err(), "{text}");
        }
        assert!(matches!(Size::written("9Ei").bytes(), Err(SizeError::TooLarge(_))));
    }

    #[test]
    fn a_size_is_written_exactly_and_in_its_largest_unit() {
        for (bytes, text) in
            [(0, "0"), (1 << 20, "1Mi"), (6656 << 20, "6656Mi"), (3 << 40, "3Ti"), (1025, "1025")]
        {
            assert_eq!(Size::from_bytes(bytes).as_str(), text);
        }
    }

    /// A number as people write it: digits with zeros in front, a fraction, and a suffix for a power.
    fn quantity() -> impl Strategy<Value = (u64, u64, usize, &'static str, u32, u32)> {
        let suffixes = BINARY.map(|(suffix, power)| (suffix, power, 0)).to_vec();
        let decimal =
            DECIMAL.iter().filter(|(_, power)| *power > 0).map(|(suffix, power)| (*suffix, 0, *power as u32));
        let suffixes: Vec<_> =
            suffixes.into_iter().chain(decimal).chain([("", 0, 0), ("e7", 0, 7), ("E12", 0, 12)]).collect();
        (0..3000u64, 0..1_000_000u64, 0..3usize, proptest::sample::select(suffixes)).prop_map(
            |(whole, millionths, zeros, (suffix, binary, decimal))| {
                (whole, millionths, zeros, suffix, binary, decimal)
            },
        )
    }

    proptest! {
        /// F1: whole and fraction times the suffix, by plain arithmetic.
        #[test]
        fn f1_a_quantity_is_its_number_times_its_suffix((whole, millionths, zeros, suffix, binary, decimal) in quantity()) {
            let text = format!("{}{whole}.{millionths:06}{suffix}", "0".repeat(zeros));
            let millionths = u128::from(whole) * 1_000_000 + u128::from(millionths);
            let bytes = (millionths * (1 << binary) * 10u128.pow(decimal)).div_ceil(1_000_000);
            match Size::written(&*text).bytes() {
                Ok(found) => prop_assert_eq!(u128::from(found), bytes, "{}", text),
                Err(SizeError::NotPositive(_)) => prop_assert_eq!(bytes, 0, "{}", text),
                Err(SizeError::TooLarge(_)) => prop_assert!(bytes >= i64::MAX as u128, "{}", text),
                Err(other) => prop_assert!(false, "{}: {}", text, other),
            }
        }

        #[test]
        fn a_written_size_reads_back_as_the_same_bytes(bytes in 1u64..i64::MAX as u64) {
            prop_assert_eq!(Size::from_bytes(bytes).bytes(), Ok(bytes));
            for (suffix, places) in [("n", 9), ("u", 6), ("m", 3), ("e-4", 4)] {
                let text = format!("{}{suffix}", u128::from(bytes) * 10u128.pow(places) - 1);
                prop_assert_eq!(Size::written(text).bytes(), Ok(bytes), "rounded up");
            }
        }

        #[test]
        fn any_text_parses_or_is_refused_without_a_panic(
            text in "[-+]?[0-9]{0,40}(\\.[0-9]{0,40})?([eE][-+]?[0-9]{0,12})?(n|u|m|Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?|.*"
        ) {
            if let Ok(bytes) = Size::written(text.clone()).bytes() {
                prop_assert!((1..i64::MAX as u64).contains(&bytes), "{text}");
                prop_assert!(text.is_ascii() && !text.starts_with('-'));
                prop_assert_eq!(Size::from_bytes(bytes).bytes(), Ok(bytes));
            }
        }
    }
}
