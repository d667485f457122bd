//! Role names: paths of components (R3).

/// A role name that follows R3: components joined by `/`, none of them empty, `.`, `..`, `*` or beginning
/// with `-`, without white space, and at most eight of them. A component starts with an ASCII letter, a digit or `_`, goes on with these,
/// `-` and `.`, and has at most 63 characters; the whole has at most 253.
///
/// ```
/// use reservoir::api::Role;
///
/// let (eng, ml) = (Role::parse("eng")?, Role::parse("eng/ml")?);
/// assert!(eng.covers(&ml));
/// assert!(!ml.covers(&eng), "what is reserved for a sub-role is for it alone");
/// assert!(Role::parse("eng/../ml").is_err());
/// # Ok::<(), reservoir::api::RoleError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(String);

/// Why a text is not a role name.
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
/// What the API server says when [`RULE`] does not hold.
pub(super) const MESSAGE: &str = "a role is one or more components of letters, digits, `-`, `_`, `.` joined by `/`, such as eng/ml; no component is empty or starts with `-` or `.`, and there are at most eight";

impl Role {
    /// Reads a role name.
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

    /// Whether what is reserved for `self` may be used by `other`: the same role or a sub-role, never the reverse.
    pub fn covers(&self, other: &Role) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// [`Role::covers`] for names as they are written; what is no role name covers nothing and is covered by nothing.
    pub fn name_covers(owner: &str, role: &str) -> bool {
        Self::parse(owner).is_ok_and(|owner| Self::parse(role).is_ok_and(|role| owner.covers(&role)))
    }

    /// The name.
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

    #[test]
    fn r3_names() {
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
    fn r3_a_sub_role_may_use_its_ancestors_disk_and_never_the_reverse() {
        let role = |name| Role::parse(name).unwrap();
        assert!(role("eng").covers(&role("eng")));
        assert!(role("eng").covers(&role("eng/ml")));
        assert!(!role("eng/ml").covers(&role("eng")));
        assert!(!role("eng").covers(&role("engx")));
    }

    proptest! {
        #[test]
        fn r3_what_parses_is_a_path_of_plain_components(text in "([a-zA-Z0-9_.*/ -]|\\PC){0,40}") {
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
