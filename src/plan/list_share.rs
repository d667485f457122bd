//! The share of one tenant in a list whose length is limited (A8, A9).
//!
//! A tenant adds an entry while it has fewer entries than are free. So one tenant alone gets half of the list, beside a
//! first one a second gets a quarter, and the last places go to tenants with few entries. Tenants that fill a list
//! together need about ten namespaces or roles for that.

use crate::api::LedgerEntry;
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

/// The owner of an entry in a ledger.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The role.
    pub role: &'a str,
    /// The namespace of the PersistentVolumeClaim of a volume that was made for one.
    pub namespace: Option<&'a str>,
}

impl<'a> Entry<'a> {
    /// The owner of an entry.
    pub fn of(entry: &'a LedgerEntry) -> Self {
        Self { role: &entry.role, namespace: entry.namespace.as_deref() }
    }

    /// The owner of an entry for a role.
    pub fn for_role(role: &'a str) -> Self {
        Self { role, namespace: None }
    }
}

#[derive(PartialEq)]
enum Tenant<'a> {
    Namespace(&'a str),
    Role(&'a str),
}

/// The tenant of an entry in a list of an object of role `of`: the namespace, whose users make PersistentVolumeClaims
/// without a verb, or else the first component beneath `of`, because sub-roles are free to make. `None`: the entry is of
/// the object's own role. A disk has no role, given as `""`.
fn tenant<'a>(of: &str, Entry { role, namespace }: Entry<'a>) -> Option<Tenant<'a>> {
    if let Some(namespace) = namespace {
        return Some(Tenant::Namespace(namespace));
    }
    let beneath = match role.strip_prefix(of) {
        Some("") => return None,
        Some(rest) => rest.strip_prefix('/').unwrap_or(role),
        None => role,
    };
    beneath.split('/').next().map(Tenant::Role)
}

/// Why an entry is not added to a list of an object of role `of`, which has the entries `listed`. The object's own role
/// may take all entries.
pub fn full_for<'a>(
    of: &str,
    entry: Entry<'_>,
    listed: impl ExactSizeIterator<Item = Entry<'a>>,
) -> Option<Full> {
    match tenant(of, entry) {
        None => (listed.len() >= MOST_ENTRIES).then_some(Full::List),
        some => full(some, listed.map(|entry| tenant(of, entry))),
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

    /// Why `object`, which has role `of`, lists no further `entries` of the owner of `entry`.
    pub fn why(self, object: &str, entries: &str, of: &str, entry: Entry<'_>) -> String {
        let (Self::Share(has), Some(tenant)) = (self, tenant(of, entry)) else {
            return format!("{object} lists {MOST_ENTRIES} {entries}, and can list no more");
        };
        let whose = match tenant {
            Tenant::Namespace(namespace) => {
                format!("for PersistentVolumeClaims of namespace {namespace}")
            }
            Tenant::Role(role) if of.is_empty() => format!("of role {role} and its sub-roles"),
            Tenant::Role(role) => format!("of role {of}/{role} and its sub-roles"),
        };
        format!("{object} lists {has} {entries} {whose}, and keeps the rest of its {MOST_ENTRIES} for others")
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
            let found = tenant(of, Entry::for_role(role));
            assert!(found == expected.map(Tenant::Role), "{of} {role}");
        }
        let of_pvc = Entry { role: "eng", namespace: Some("team") };
        assert!(tenant("eng", of_pvc) == Some(Tenant::Namespace("team")), "whatever the role");
    }

    #[test]
    fn a8_an_owner_fills_its_own_list_and_a_sub_role_a_part() {
        let full_for =
            |role, counts: &[_]| full_for("eng", Entry::for_role(role), listed(counts).map(Entry::for_role));
        let counts = [("eng", 600), ("eng/ml", 300)];
        assert_eq!(full_for("eng", &counts), None);
        assert_eq!(full_for("eng/ml/x", &counts), Some(Full::Share(300)));
        assert_eq!(full_for("eng/web", &counts), None);
        assert_eq!(full_for("eng", &[("eng", 1000)]), Some(Full::List));
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
