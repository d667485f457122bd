//! The commands `grant`, `revoke` and `who-can`: RBAC verbs on roles (A1).

mod commands;
mod grant;
mod holders;
mod subject;

pub(super) use commands::{grant, revoke, who_can};

use super::item::did_you_mean;

/// The verbs on roles.
pub(super) const VERBS: &[&str] =
    &["reserve", "unreserve", "create", "destroy", "resize", "recover", "subscribe", "use", "use-readonly"];

/// Parses a verb. The error has the most similar one.
pub(super) fn parse_verb(text: &str) -> Result<&'static str, String> {
    let known = VERBS.iter().copied().find(|verb| *verb == text);
    known.ok_or_else(|| {
        let nearest = did_you_mean(text, VERBS.iter().copied());
        format!("`{text}` is no verb on roles{nearest}; the verbs are {}", VERBS.join(", "))
    })
}
