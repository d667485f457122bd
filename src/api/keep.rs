//! `keepFor`: the time for which the data of a destroyed volume is kept (X8).

use jiff::SignedDuration;

/// The rule of [`parse`] in CEL.
pub(super) const RULE: &str = "self.matches('^([0-9]{1,4}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$') && self.size() > 0 && duration(self) <= duration('8784h')";
/// The API server's message for a violation of [`RULE`].
pub(super) const MESSAGE: &str = "keepFor is a duration of at most 8784h, such as 72h or 1h30m";

/// The longest time, a leap year.
const LONGEST: SignedDuration = SignedDuration::from_hours(8784);

/// The time that the text says; `None` for any other text.
///
/// ```
/// use reservoir::api::keep;
///
/// assert_eq!(keep::parse("1h30m").unwrap().as_mins(), 90);
/// assert!(["", "3 days", "-1h", "9000h"].iter().all(|wrong| keep::parse(wrong).is_none()));
/// ```
pub fn parse(text: &str) -> Option<SignedDuration> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || "hms".contains(c));
    let parsed: SignedDuration = text.parse().ok().filter(|_| plain)?;
    (!parsed.is_negative() && parsed <= LONGEST).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// X8: no text keeps data for longer than a leap year, or for a time that is not written in it.
    #[test]
    fn fuzz_times_to_keep() {
        crate::fuzz::fuzz("times-to-keep", &[b"72h", b"1h30m5s", b"8784h", b"PT1H", b"1.5h"], |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let kept = parse(&text);
            assert!(kept.is_none_or(|kept| !kept.is_negative() && kept <= LONGEST && !text.contains('-')));
            kept.map(|kept| (text.len(), kept.as_secs().checked_ilog2()))
        });
    }
}
