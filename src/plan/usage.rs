//! The users of a shared volume, namespace by namespace (Q4).

use std::collections::BTreeMap;

use crate::api::{ClaimBinding, NamespaceUse, PodRef};

/// The bound claims of a volume and the pods that use the volume, counted by namespace, in the order of the names.
pub fn by_namespace(claims: &[ClaimBinding], pods: &[PodRef]) -> Vec<NamespaceUse> {
    let mut found: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    claims.iter().for_each(|claim| found.entry(&claim.namespace).or_default().0 += 1);
    pods.iter().for_each(|pod| found.entry(&pod.namespace).or_default().1 += 1);
    let entry = |(namespace, (claims, pods)): (&str, _)| NamespaceUse {
        namespace: namespace.to_owned(),
        claims,
        pods,
    };
    found.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    #[test]
    fn q4_each_namespace_is_listed_with_its_claims_and_pods() {
        let claims = [bound_by("b", "x", "1"), bound_by("a", "x", "2"), bound_by("b", "y", "3")];
        let pods = [pod("b", "p"), pod("b", "q"), pod("c", "r")];
        let listed: Vec<_> =
            by_namespace(&claims, &pods).into_iter().map(|n| (n.namespace, n.claims, n.pods)).collect();
        assert_eq!(listed, [("a".into(), 1, 0), ("b".into(), 2, 2), ("c".into(), 0, 1)]);
        assert_eq!(by_namespace(&[], &[]), []);
    }
}
