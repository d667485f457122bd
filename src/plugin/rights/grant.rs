//! A grant: one ClusterRole and its ClusterRoleBinding for each pair of role and receiver.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::subject::Subject;
use super::verbs::VERBS;
use crate::api::{GROUP, Role};

/// Length limit of a grant's name.
const MOST: usize = 200;

/// The two objects of a grant, which have the same name. `None`: the object does not exist, or is to be deleted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Grant {
    pub role: Option<ClusterRole>,
    pub binding: Option<ClusterRoleBinding>,
}

/// The name of the objects. A pair of role and receiver has the same name each time.
///
/// A role has no colon and no empty component, so the first `::` ends the role. Characters that an object's name
/// cannot have are replaced. A hash of the whole then distinguishes two receivers.
pub(super) fn name(role: &Role, to: &Subject) -> String {
    let (kind, receiver) = to.kind_and_name();
    let receiver = if to.namespace().is_some() { receiver.replace('/', ":") } else { receiver };
    let whole = format!("reservoir:{}::{kind}:{receiver}", role.as_str().replace('/', ":"));
    let may = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    if whole.len() <= MOST && whole.chars().all(may) {
        return whole;
    }
    // FNV-1a gives the same hash in every version of the plug-in.
    let hash = whole.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let plain = whole.chars().take(MOST - 17).map(|c| if may(c) { c } else { '-' });
    format!("{}~{hash:016x}", plain.collect::<String>())
}

impl Grant {
    /// The verbs of a grant, in the order of [`VERBS`].
    pub fn verbs(&self) -> Vec<&'static str> {
        let rules = self.role.iter().flat_map(|role| role.rules.iter().flatten());
        let verbs: Vec<&String> = rules.flat_map(|rule| &rule.verbs).collect();
        VERBS.iter().copied().filter(|verb| verbs.iter().any(|there| there == verb)).collect()
    }

    /// The objects that give `to` exactly these verbs, made from the existing objects. Fails if somebody has
    /// edited these objects: the edit would be lost.
    pub fn with_verbs(&self, role: &Role, to: &Subject, verbs: &[&str]) -> Result<Self, String> {
        let name = name(role, to);
        let rule = |verbs: Vec<String>| PolicyRule {
            api_groups: Some(vec![GROUP.into()]),
            resources: Some(vec!["volumeroles".into()]),
            resource_names: Some(vec![role.as_str().into()]),
            verbs,
            ..Default::default()
        };
        let binds = RoleRef {
            api_group: Some("rbac.authorization.k8s.io".into()),
            kind: "ClusterRole".into(),
            name: name.clone(),
        };
        let subjects = Some(vec![to.in_binding()]);
        let as_made = |there: &ClusterRole| {
            let rules = there.rules.as_deref().unwrap_or_default();
            rules.len() <= 1 && rules.iter().all(|seen| *seen == rule(seen.verbs.clone()))
        };
        if self.role.as_ref().is_some_and(|there| !as_made(there)) {
            return Err(changed_by_hand("ClusterRole", &name));
        }
        if self.binding.as_ref().is_some_and(|there| there.role_ref != binds || there.subjects != subjects) {
            return Err(changed_by_hand("ClusterRoleBinding", &name));
        }
        if verbs.is_empty() {
            return Ok(Self::default());
        }
        let metadata = || ObjectMeta {
            name: Some(name.clone()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                "kubectl-reservoir".to_owned(),
            )])),
            ..Default::default()
        };
        let mut role =
            self.role.clone().unwrap_or_else(|| ClusterRole { metadata: metadata(), ..Default::default() });
        let verbs = VERBS.iter().filter(|verb| verbs.contains(verb)).map(|verb| (*verb).to_owned());
        role.rules = Some(vec![rule(verbs.collect())]);
        let made = || ClusterRoleBinding { metadata: metadata(), role_ref: binds, subjects };
        Ok(Self { role: Some(role), binding: Some(self.binding.clone().unwrap_or_else(made)) })
    }
}

fn changed_by_hand(kind: &str, name: &str) -> String {
    format!(
        "{kind} {name} was changed by hand, so this command leaves the grant alone: kubectl edit {} '{name}'",
        kind.to_lowercase()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> Role {
        Role::parse(name).unwrap()
    }

    fn user(name: &str) -> Subject {
        Subject::User { name: name.into() }
    }

    #[test]
    fn a1_names_of_grants_are_valid_and_never_shared() {
        let account = Subject::ServiceAccount { namespace: "team".into(), name: "web".into() };
        assert_eq!(name(&role("eng/ml"), &user("jane")), "reservoir:eng:ml::user:jane");
        assert_eq!(name(&role("eng"), &account), "reservoir:eng::serviceaccount:team:web");
        let long = format!("{}/{}/{}", "a".repeat(63), "b".repeat(63), "c".repeat(63));
        let mut names = std::collections::BTreeSet::new();
        for role in [
            role("eng"),
            role("eng/ml"),
            role("eng.ml"),
            role("eng-ml"),
            role(&long),
            role(&format!("{long}/d")),
        ] {
            for to in [
                "jane",
                "https://issuer#jane",
                "https:--issuer-jane",
                "a b",
                "a%b",
                "é",
                "ml::user:jane",
                "/",
            ] {
                let name = name(&role, &user(to));
                assert!(
                    name.len() <= MOST && !name.contains(['/', '%', ' ', '#']) && name.is_ascii(),
                    "{name}"
                );
                assert!(names.insert(name.clone()), "{name} twice");
            }
        }
    }

    /// A1: verbs add up, a grant without a verb has no object, and a repeated command changes nothing.
    #[test]
    fn a1_verbs_are_added_and_taken_from_what_is_there() {
        let (role, jane) = (role("eng"), user("jane"));
        let made = Grant::default().with_verbs(&role, &jane, &["use", "subscribe"]).unwrap();
        assert_eq!(made.verbs(), ["subscribe", "use"]);
        assert_eq!(made.with_verbs(&role, &jane, &made.verbs()).unwrap(), made);
        let mut stored = made.clone();
        stored.role.as_mut().unwrap().metadata.resource_version = Some("7".into());
        let more = stored.with_verbs(&role, &jane, &["subscribe", "use", "create"]).unwrap();
        assert_eq!(more.verbs(), ["create", "subscribe", "use"]);
        assert_eq!(more.role.unwrap().metadata.resource_version.as_deref(), Some("7"), "a compare-and-swap");
        assert_eq!(stored.with_verbs(&role, &jane, &[]).unwrap(), Grant::default());
    }

    #[test]
    fn a1_a_grant_that_was_changed_by_hand_is_left_alone() {
        let (role, jane) = (role("eng"), user("jane"));
        let made = Grant::default().with_verbs(&role, &jane, &["use"]).unwrap();
        let mut wider = made.clone();
        wider.role.as_mut().unwrap().rules.as_mut().unwrap()[0].resource_names = None;
        let mut shared = made.clone();
        shared.binding.as_mut().unwrap().subjects.as_mut().unwrap().push(user("joe").in_binding());
        for (changed, kind) in [(wider, "clusterrole 'res"), (shared, "clusterrolebinding 'res")] {
            let error = changed.with_verbs(&role, &jane, &[]).unwrap_err();
            assert!(error.contains(&format!("kubectl edit {kind}")), "{error}");
        }
    }
}
