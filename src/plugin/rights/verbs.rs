//! The verbs on roles.

use crate::plugin::kind::did_you_mean;

/// Every verb.
pub(in crate::plugin) const VERBS: &[&str] =
    &["reserve", "unreserve", "create", "destroy", "resize", "recover", "subscribe", "use", "use-readonly"];

/// Parses a verb. The error has the most similar verb.
pub(in crate::plugin) fn parse_verb(text: &str) -> Result<&'static str, String> {
    let known = VERBS.iter().copied().find(|verb| *verb == text);
    known.ok_or_else(|| {
        let nearest = did_you_mean(text, VERBS.iter().copied());
        format!("`{text}` is no verb on roles{nearest}; the verbs are {}", VERBS.join(", "))
    })
}
