//! Names of roles: paths of components (R3).

/// A valid role name (R3): one to eight components, joined by `/`, of at most 253 characters together.
///
/// A component has 1 to 63 characters: ASCII letters, digits, `_`, `-` and `.`. It begins with a letter, a
/// digit or `_`.
///
/// ```
/// use reservoir::api::Role;
///
/// let (eng, ml) = (Role::parse("eng")?, Role::parse("eng/ml")?);
/// assert!(eng.covers(&ml));
/// assert!(!ml.covers(&eng), "the reservation of a sub-role is for the sub-role alone");
/// assert!(Role::parse("eng/../ml").is_err());
/// # Ok::<(), reservoir::api::RoleError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(String);

/// A text is not a role name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a role name; write components of letters, digits, `-`, `_`, `.` joined by `/`, such as eng/ml"
)]
pub struct RoleError(String);

/// The same rule as [`Role::parse`] in CEL, for the CRDs' schemas.
pub(super) const RULE: &str =
    "self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}){0,7}$')";
/// [`RULE`] for a list of roles.
pub(super) const LIST_RULE: &str = "self.all(role, role.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}){0,7}$'))";
/// The API server's message for a violation of [`RULE`].
pub(super) const MESSAGE: &str = "a role is one or more components of letters, digits, `-`, `_`, `.` joined by `/`, such as eng/ml; no component is empty or starts with `-` or `.`, and there are at most eight";

impl Role {
    /// Parses a role name.
    pub fn parse(text: &str) -> Result<Self, RoleError> {
        let component = |part: &str| {
            (1..=63).contains(&part.len())
                && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if text.len() <= 253 && text.split('/').count() <= 8 && text.split('/').all(component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RoleError(text.to_owned()))
        }
    }

    /// Returns true if `other` may use reservations of `self`: `other` is the same role or a sub-role, never
    /// an ancestor.
    pub fn covers(&self, other: &Role) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// [`Role::covers`] for unparsed names. An invalid name covers nothing, and nothing covers it.
    pub fn name_covers(owner: &str, role: &str) -> bool {
        Self::parse(owner).is_ok_and(|owner| Self::parse(role).is_ok_and(|role| owner.covers(&role)))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// R3: no text makes a role that is another path, and one covers itself and what lies beneath.
    #[test]
    fn fuzz_roles() {
        crate::fuzz::fuzz("roles", &[b"eng/ml", b"a/../b", b"*", b"-a/b", b"x_1/.y"], |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let parsed = Role::parse(&text);
            if let Ok(role) = &parsed {
                assert!(role.as_str() == text && role.covers(role) && !text.contains(['*', '\n', ' ']));
                assert!(
                    text.split('/').all(|part| !["", ".", ".."].contains(&part) && !part.starts_with('-'))
                );
            }
            parsed.map(|role| role.as_str().len()).map_err(crate::fuzz::words)
        });
    }

    #[test]
    fn r3_valid_names_parse_and_others_are_refused() {
        for good in ["eng", "Eng/ML", "a/b/c", "x_1", "0", "eng/ml.v2"] {
            assert!(Role::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(254);
        for bad in
            ["", "*", ".", "..", "a//b", "/a", "a/", "-a", "a/-b", "a b", "a/..", "a/*", "a\n", "é", &long]
        {
            assert!(Role::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn r3_a_role_covers_its_sub_roles_and_never_its_ancestors() {
        let role = |name| Role::parse(name).unwrap();
        assert!(role("eng").covers(&role("eng")));
        assert!(role("eng").covers(&role("eng/ml")));
        assert!(!role("eng/ml").covers(&role("eng")));
        assert!(!role("eng").covers(&role("engx")));
    }

    proptest! {
        #[test]
        fn r3_a_parsed_role_is_a_path_of_plain_components(text in "([a-zA-Z0-9_.*/ -]|\\PC){0,40}") {
            if let Ok(role) = Role::parse(&text) {
                prop_assert_eq!(role.as_str(), &text);
                for part in text.split('/') {
                    prop_assert!(!part.is_empty() && !part.starts_with(['-', '.', '*']));
                    prop_assert!(!part.contains(char::is_whitespace));
                }
                prop_assert!(role.covers(&role));
                let below = Role::parse(&format!("{text}/a"));
                prop_assert!(!below.is_ok_and(|below| below.covers(&role)), "{}", text);
            }
        }
    }
}
