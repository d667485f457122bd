//! The share of one tenant in a list whose length is limited (A8, A9).
//!
//! A tenant adds an entry while it has fewer entries than are free. So one tenant alone gets half of the list, beside a
//! first one a second gets a quarter, and the last places go to tenants with few entries. Tenants that fill a list
//! together need about ten namespaces or roles for that.

use crate::api::condition::reason;

/// The most entries in the ledgers of one object together, and the most claims of a volume. With the longest names each
/// such object stays below 1 MB, and etcd accepts 1.5 MB (A8).
pub const MOST_ENTRIES: usize = 1000;

/// Why a tenant adds no entry to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The list has [`MOST_ENTRIES`].
    List,
    /// The tenant has that many entries, and no more are free.
    Share(usize),
}

/// Why the tenant adds no entry to a list with entries of these tenants; `None`: the tenant may add one.
pub fn full<T: PartialEq>(tenant: T, listed: impl ExactSizeIterator<Item = T>) -> Option<Full> {
    let (all, free) = (listed.len(), MOST_ENTRIES.saturating_sub(listed.len()));
    if free == 0 {
        return Some(Full::List);
    }
    // Counting is left out where no tenant can have its share.
    let has = if all < free { 0 } else { listed.filter(|of| *of == tenant).count() };
    (has >= free).then_some(Full::Share(has))
}

/// The tenant of an entry for `role` in a list of an object of role `of`: the first component beneath `of`, because
/// sub-roles are free to make. `None`: the entry is of the object's own role. A disk has no role, given as `""`.
fn tenant<'a>(of: &str, role: &'a str) -> Option<&'a str> {
    let beneath = match role.strip_prefix(of) {
        Some("") => return None,
        Some(rest) => rest.strip_prefix('/').unwrap_or(role),
        None => role,
    };
    beneath.split('/').next()
}

/// Why an entry for `role` is not added to a list of an object of role `of`, which has entries for the roles `listed`.
/// The object's own role may take all entries.
pub fn full_for_role<'a>(
    of: &str,
    role: &str,
    listed: impl ExactSizeIterator<Item = &'a str>,
) -> Option<Full> {
    match tenant(of, role) {
        None => (listed.len() >= MOST_ENTRIES).then_some(Full::List),
        some => full(some, listed.map(|role| tenant(of, role))),
    }
}

impl Full {
    /// The reason of a condition; `list` is the one of a full list.
    pub fn reason(self, list: &'static str) -> &'static str {
        match self {
            Self::List => list,
            Self::Share(_) => reason::SHARE_TAKEN,
        }
    }

    /// Why `object`, which has role `of`, lists no further `entries` for `role`.
    pub fn for_role(self, object: &str, entries: &str, of: &str, role: &str) -> String {
        match (self, tenant(of, role)) {
            (Self::Share(has), Some(tenant)) => {
                let root = if of.is_empty() { tenant.to_owned() } else { format!("{of}/{tenant}") };
                format!(
                    "{object} lists {has} {entries} of role {root} and its sub-roles, and keeps the rest of its \
                     {MOST_ENTRIES} for others"
                )
            }
            _ => format!("{object} lists {MOST_ENTRIES} {entries}, and can list no more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(counts: &[(&'static str, usize)]) -> std::vec::IntoIter<&'static str> {
        counts.iter().flat_map(|(of, count)| vec![*of; *count]).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a8_a_tenant_has_at_most_as_many_entries_as_are_left() {
        for (counts, tenant, refused) in [
            (&[][..], "a", None),
            (&[("a", 499)][..], "a", None),
            (&[("a", 500)][..], "a", Some(Full::Share(500))),
            (&[("a", 500)][..], "b", None),
            (&[("a", 500), ("b", 249)][..], "b", None),
            (&[("a", 500), ("b", 250)][..], "b", Some(Full::Share(250))),
            (&[("a", 500), ("b", 499)][..], "c", None),
            (&[("a", 500), ("b", 499), ("c", 1)][..], "d", Some(Full::List)),
            (&[("a", 1000)][..], "a", Some(Full::List)),
            (&[("a", 2000)][..], "b", Some(Full::List)),
        ] {
            assert_eq!(full(tenant, listed(counts)), refused, "{counts:?} {tenant}");
        }
    }

    #[test]
    fn a8_the_tenant_of_an_entry_is_the_first_component_beneath() {
        for (of, role, expected) in [
            ("", "eng", Some("eng")),
            ("", "eng/ml/x", Some("eng")),
            ("eng", "eng", None),
            ("eng", "eng/ml", Some("ml")),
            ("eng", "eng/ml/x", Some("ml")),
            ("eng", "engine", Some("engine")),
            ("eng", "ops/ml", Some("ops")),
        ] {
            assert_eq!(tenant(of, role), expected, "{of} {role}");
        }
    }

    #[test]
    fn a8_an_owner_fills_its_own_list_and_a_sub_role_a_part() {
        let counts = [("eng", 600), ("eng/ml", 300)];
        assert_eq!(full_for_role("eng", "eng", listed(&counts)), None);
        assert_eq!(full_for_role("eng", "eng/ml/x", listed(&counts)), Some(Full::Share(300)));
        assert_eq!(full_for_role("eng", "eng/web", listed(&counts)), None);
        assert_eq!(full_for_role("eng", "eng", listed(&[("eng", 1000)])), Some(Full::List));
    }

    proptest! {
        /// A9. Up to eight tenants that take as many entries as they get leave some for a ninth.
        #[test]
        fn a9_a_few_tenants_never_fill_a_list(order in proptest::collection::vec(0usize..8, 0..3000)) {
            let mut list: Vec<usize> = Vec::new();
            for tenant in order {
                if full(tenant, list.iter().copied()).is_none() {
                    list.push(tenant);
                }
            }
            prop_assert_eq!(full(8, list.into_iter()), None);
        }
    }
}
