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
    "a size is a whole positive number of bytes below 8Ei, or a quantity such as 512Mi or 10Gi";

/// A [`Size`] is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with an optional suffix.
    #[error("`{0}` is not a size; write a number of bytes or a quantity such as 10Gi")]
    NotAQuantity(String),
    /// Zero, negative or a fraction of a byte.
    #[error("`{0}` is not a whole positive number of bytes")]
    NotPositive(String),
    /// 2^63 - 1 bytes or more. Kubernetes uses that number for every larger quantity.
    #[error("`{0}` is larger than the 8Ei - 2 bytes that a size may have")]
    TooLarge(String),
}

/// Suffixes of fractions, with their number of decimal places.
const PARTS: [(&str, u32); 3] = [("m", 3), ("u", 6), ("n", 9)];

const SUFFIXES: [(&str, u128); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

impl Size {
    /// Returns the size of `bytes`, written in the largest binary unit up to Gi that divides the number.
    pub fn from_bytes(bytes: u64) -> Self {
        let written = ["Gi", "Mi", "Ki"].iter().zip([30, 20, 10]).find_map(|(unit, shift)| {
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

    /// Parses the size as a whole positive number of bytes, below 2^63 - 1.
    pub fn bytes(&self) -> Result<u64, SizeError> {
        match self.parse()? {
            (1.., true) if self.0.starts_with('+') => Err(SizeError::NotAQuantity(self.0.clone())),
            (bytes @ 1.., true) => Ok(bytes),
            _ => Err(SizeError::NotPositive(self.0.clone())),
        }
    }

    /// Parses the size as a positive number of bytes, and rounds up, as Kubernetes does with the requests of a
    /// PersistentVolumeClaim.
    pub fn bytes_rounded_up(&self) -> Result<u64, SizeError> {
        match self.parse()? {
            (0, true) => Err(SizeError::NotPositive(self.0.clone())),
            (bytes, whole) => Ok(bytes + u64::from(!whole)),
        }
    }

    /// Parses the size as bytes where zero is valid, such as free and used bytes. An unreadable size counts
    /// as zero.
    pub fn bytes_or_zero(&self) -> u64 {
        self.parse().map_or(0, |(bytes, whole)| if whole { bytes } else { 0 })
    }

    /// The whole bytes, and true if the size has no further fraction of a byte.
    fn parse(&self) -> Result<(u64, bool), SizeError> {
        let wrong = || SizeError::NotAQuantity(self.0.clone());
        let too_large = || SizeError::TooLarge(self.0.clone());
        if self.0.starts_with('-') {
            return Err(SizeError::NotPositive(self.0.clone()));
        }
        let text = self.0.strip_prefix('+').unwrap_or(&self.0);
        let suffixed =
            SUFFIXES.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit, 0)));
        let part =
            || PARTS.iter().find_map(|(suffix, places)| Some((text.strip_suffix(suffix)?, 1, *places)));
        let (number, unit, places) = suffixed.or_else(part).unwrap_or((text, 1, 0));
        let (number, exponent) = match number.split_once(['e', 'E']) {
            Some((number, exponent)) if unit == 1 && places == 0 => {
                (number, exponent.parse::<u32>().map_err(|_| wrong())?)
            }
            _ => (number, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= 19;
        if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) || exponent > 18 {
            return Err(wrong());
        }
        let number: u128 = format!("{whole}{fraction}").parse().map_err(|_| wrong())?;
        let unit = unit.checked_mul(10u128.pow(exponent)).ok_or_else(too_large)?;
        let total = number.checked_mul(unit).ok_or_else(too_large)?;
        let scale = 10u128.pow(fraction.len() as u32 + places);
        let bytes = u64::try_from(total / scale).ok().filter(|bytes| *bytes < i64::MAX as u64);
        Ok((bytes.ok_or_else(too_large)?, total.is_multiple_of(scale)))
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

    #[test]
    fn quantities_parse_as_bytes() {
        let table = [
            ("1", 1),
            ("1Ki", 1024),
            ("1.5Gi", 3 << 29),
            ("10Gi", 10 << 30),
            ("1500M", 1_500_000_000),
            ("2e3", 2_000),
            ("7Ei", 7 << 60),
        ];
        for (text, bytes) in table {
            assert_eq!(Size::written(text).bytes(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_size_is_refused_with_the_cause() {
        for text in ["", "Gi", "ten", "1 Gi", "1Gi ", "0x10", "1..2", "1GiB", "१Gi", "1\u{0}", "NaN"] {
            assert!(matches!(Size::written(text).bytes(), Err(SizeError::NotAQuantity(_))), "{text}");
        }
        for text in ["0", "-1", "-5Gi", "0.1", "0Gi"] {
            assert!(matches!(Size::written(text).bytes(), Err(SizeError::NotPositive(_))), "{text}");
        }
        for text in ["+32Mi", "32m", "33554432500m"] {
            assert!(Size::written(text).bytes().is_err(), "{text}");
        }
        for text in ["8Ei", "9223372036854775807", "9223372036854775808", "999999999999999999E", "9e18E"] {
            assert!(Size::written(text).bytes().is_err(), "{text}");
        }
    }

    /// F1.
    #[test]
    fn f1_a_request_is_rounded_up_to_bytes() {
        for (text, bytes) in [
            ("+32Mi", Ok(32 << 20)),
            ("33554432.5", Ok(33_554_433)),
            ("33554432500m", Ok(33_554_433)),
            ("0.1", Ok(1)),
            ("1n", Ok(1)),
            ("1.5Gi", Ok(3 << 29)),
            ("12E", Err("larger than")),
            ("9223372036854775807", Err("larger than")),
            ("0", Err("positive")),
            ("-1", Err("positive")),
        ] {
            let found = Size::written(text).bytes_rounded_up();
            match bytes {
                Ok(bytes) => assert_eq!(found, Ok(bytes), "{text}"),
                Err(why) => assert!(found.unwrap_err().to_string().contains(why), "{text}"),
            }
        }
    }

    proptest! {
        #[test]
        fn a_written_size_reads_back_as_the_same_bytes(bytes in 1u64..i64::MAX as u64) {
            prop_assert_eq!(Size::from_bytes(bytes).bytes(), Ok(bytes));
            prop_assert_eq!(Size::from_bytes(bytes).bytes_rounded_up(), Ok(bytes));
        }

        #[test]
        fn any_text_parses_or_is_refused_without_a_panic(
            text in "[-+]?[0-9]{0,20}(\\.[0-9]{0,20})?([eE][-+]?[0-9]{0,3})?(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?|.*"
        ) {
            if let Ok(bytes) = Size::written(text.clone()).bytes() {
                prop_assert!((1..i64::MAX as u64).contains(&bytes), "{text}");
                prop_assert!(text.is_ascii() && !text.starts_with('-'));
                prop_assert_eq!(Size::from_bytes(bytes).bytes(), Ok(bytes));
            }
        }
    }
}
