//! The receivers of a verb on a role, by all ClusterRoleBindings.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role as NamespacedRole, RoleBinding,
};
use kube::ResourceExt;
use serde::Serialize;

use super::grant::{self, Grant};
use super::subject::Subject;
use super::verbs::VERBS;
use crate::api::{AccessMode, GROUP, Role, VolumeClaim};
use crate::plan::{advice, quota};
use crate::plugin::paint::table;

/// Every ClusterRole and ClusterRoleBinding.
pub(super) struct Rbac {
    pub roles: Vec<ClusterRole>,
    pub bindings: Vec<ClusterRoleBinding>,
}

/// A grant of a verb.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Holder {
    pub subject: Subject,
    /// The verb of the rule, which may be `*`; `use` stands for `use-readonly`, too (A2).
    pub verb: String,
    /// The role of the rule: the role itself, an ancestor, or `*` for every role.
    pub role: String,
    pub cluster_role: String,
    pub cluster_role_binding: String,
}

/// The Roles and RoleBindings of all namespaces. VolumeRoles are of the whole cluster, so none of these gives a right on one.
#[derive(Default)]
pub(super) struct Local {
    pub roles: Vec<NamespacedRole>,
    pub bindings: Vec<RoleBinding>,
}

impl Rbac {
    /// A sentence for each RoleBinding that names a verb on a role, and so gives nothing. A rule for all kinds, such as that of
    /// cluster-admin, is meant for other kinds.
    pub fn without_effect(&self, local: &Local, verb: &str, role: &str) -> Vec<String> {
        let mut sentences = Vec::new();
        for binding in &local.bindings {
            let (namespace, to) = (binding.namespace().unwrap_or_default(), &binding.role_ref);
            let own = local
                .roles
                .iter()
                .filter(|there| to.kind == "Role" && there.namespace().as_ref() == Some(&namespace));
            let own = own
                .filter(|there| there.name_any() == to.name)
                .flat_map(|there| there.rules.iter().flatten());
            let all =
                self.roles.iter().filter(|there| to.kind == "ClusterRole" && there.name_any() == to.name);
            let all = all.flat_map(|there| there.rules.iter().flatten());
            let names_it = |rule: &&PolicyRule| {
                let kinds = rule.resources.iter().flatten();
                gives(rule, verb, role).is_some() && kinds.into_iter().any(|kind| kind == "volumeroles")
            };
            let Some((verb, role)) = own.chain(all).find(names_it).and_then(|rule| gives(rule, verb, role))
            else {
                continue;
            };
            let verb = if verb == "*" { VERBS.join(",") } else { verb };
            for subject in binding.subjects.iter().flatten().filter_map(Subject::of) {
                let step = match role.as_str() {
                    "*" => String::new(),
                    role => format!("; have an administrator run: {}", advice::grant(role, &verb, &subject)),
                };
                sentences.push(format!(
                    "RoleBinding {namespace}/{} gives {subject} nothing: roles are of the whole cluster, and only a \
                     ClusterRoleBinding gives verbs on them{step}",
                    binding.name_any()
                ));
            }
        }
        sentences
    }

    /// All grants of a verb on a role.
    pub fn holders(&self, verb: &str, role: &str) -> Vec<Holder> {
        let mut holders = Vec::new();
        for binding in &self.bindings {
            let bound = self.roles.iter().find(|there| there.name_any() == binding.role_ref.name);
            for rule in bound.iter().flat_map(|bound| bound.rules.iter().flatten()) {
                let Some((verb, role)) = gives(rule, verb, role) else { continue };
                let subjects = binding.subjects.iter().flatten().filter_map(Subject::of);
                holders.extend(subjects.map(|subject| Holder {
                    subject,
                    verb: verb.clone(),
                    role: role.clone(),
                    cluster_role: binding.role_ref.name.clone(),
                    cluster_role_binding: binding.name_any(),
                }));
            }
        }
        holders.sort();
        holders.dedup();
        holders
    }

    /// The present objects of the grant to `to`.
    pub fn grant(&self, role: &Role, to: &Subject) -> Grant {
        let name = grant::name(role, to);
        Grant {
            role: self.roles.iter().find(|there| there.name_any() == name).cloned(),
            binding: self.bindings.iter().find(|there| there.name_any() == name).cloned(),
        }
    }

    /// Replaces the grant of this name.
    pub fn replace(&mut self, name: &str, grant: &Grant) {
        self.roles.retain(|there| there.name_any() != name);
        self.bindings.retain(|there| there.name_any() != name);
        self.roles.extend(grant.role.clone());
        self.bindings.extend(grant.binding.clone());
    }

    /// Everybody who has a verb on a role.
    pub fn receivers(&self, role: &Role) -> BTreeSet<String> {
        let holders = VERBS.iter().flat_map(|verb| self.holders(verb, role.as_str()));
        holders.map(|holder| holder.subject.to_string()).collect()
    }

    /// The claims of a role and its sub-roles that a subject could not make.
    pub fn claims_without_right<'a>(
        &self,
        claims: &'a [VolumeClaim],
        role: &Role,
        subject: &Subject,
    ) -> Vec<&'a VolumeClaim> {
        let verb = |mode| if mode == AccessMode::ReadOnly { "use-readonly" } else { "use" };
        let lacks = |claim: &&VolumeClaim| {
            Role::name_covers(role.as_str(), &claim.spec.role)
                && self.right_of(subject, verb(claim.spec.mode), &claim.spec.role).is_none()
        };
        claims.iter().filter(lacks).collect()
    }

    /// A grant by which a subject has a verb on a role: its own, or one of a group that certainly has the subject.
    pub fn right_of(&self, subject: &Subject, verb: &str, role: &str) -> Option<Holder> {
        self.holders(verb, role).into_iter().find(|holder| subject.is_in(&holder.subject))
    }
}

/// The verb and the role in a rule that gives `verb` on `role`; `None` if the rule does not give the verb.
fn gives(rule: &PolicyRule, verb: &str, role: &str) -> Option<(String, String)> {
    let has = |list: &[String], wanted: &str| list.iter().any(|item| item == wanted || item == "*");
    let listed = |list: &Option<Vec<String>>, wanted| has(list.as_deref().unwrap_or_default(), wanted);
    if !listed(&rule.api_groups, GROUP) || !listed(&rule.resources, "volumeroles") {
        return None;
    }
    let verbs = if verb == "use-readonly" { &["use", verb][..] } else { &[verb] };
    let named =
        verbs.iter().copied().chain(["*"]).find(|verb| rule.verbs.iter().any(|there| there == verb))?;
    let names = rule.resource_names.as_deref().unwrap_or_default();
    let role = match names {
        [] => "*",
        _ => quota::lineage(role).find(|of| names.iter().any(|name| name == of))?,
    };
    Some((named.to_owned(), role.to_owned()))
}

/// The grants as a table.
pub(super) fn text(holders: &[Holder], verb: &str, role: &Role) -> String {
    if holders.is_empty() {
        return format!(
            "nobody has the verb {verb} on role {role} or an ancestor: kubectl reservoir grant --help\n"
        );
    }
    let mut rows =
        vec![["SUBJECT", "VERB", "ROLE", "CLUSTERROLE", "CLUSTERROLEBINDING"].map(str::to_owned).to_vec()];
    for Holder { subject, verb, role, cluster_role, cluster_role_binding } in holders {
        let row = [&subject.to_string(), verb, role, cluster_role, cluster_role_binding];
        rows.push(row.map(ToOwned::to_owned).to_vec());
    }
    format!(
        "{}\nMembers of a group have its rights. An authorizer besides RBAC is not asked.\n",
        table(&rows)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rbac(rules: &[(&str, serde_json::Value)]) -> Rbac {
        let parsed = |value| serde_json::from_value(value).unwrap();
        Rbac {
            roles: rules.iter().map(|(name, rule)| parsed(json!({"metadata": {"name": name}, "rules": [rule]}))).collect(),
            bindings: rules
                .iter()
                .map(|(name, _)| {
                    let subject = json!({"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
                    serde_json::from_value(json!({"metadata": {"name": name}, "subjects": [subject],
                        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}}))
                    .unwrap()
                })
                .collect(),
        }
    }

    /// A1, A2: the result is exactly the subjects whom the API server admits.
    #[test]
    fn a1_who_can_finds_ancestors_and_wildcards_and_no_others() {
        let rule = |groups: &str, resources: &str, names: &[&str], verbs: &[&str]| json!({"apiGroups": [groups], "resources": [resources], "resourceNames": names, "verbs": verbs});
        let ours = |names: &[&str], verbs: &[&str]| rule("reservoir.dev", "volumeroles", names, verbs);
        let rbac = rbac(&[
            ("admin", json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})),
            ("ancestor", ours(&["eng"], &["use"])),
            ("exact", ours(&["eng/ml"], &["use"])),
            ("every", ours(&[], &["use"])),
            ("no-sub-role", ours(&["eng/ml/x"], &["use"])),
            ("no-look-alike", ours(&["en", "engine", "eng/", "ml"], &["use"])),
            ("no-verb", ours(&["eng"], &["use-readonly", "subscribe"])),
            ("no-group", rule("", "volumeroles", &[], &["use"])),
            ("no-kind", rule("reservoir.dev", "volumeclaims", &[], &["use"])),
            ("no-part", rule("reservoir.dev", "volumeroles/status", &[], &["use"])),
        ]);
        let found = |verb, role| {
            let of = |h: Holder| format!("{} {} {}", h.cluster_role, h.verb, h.role);
            rbac.holders(verb, role).into_iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(
            found("use", "eng/ml"),
            ["admin * *", "ancestor use eng", "every use *", "exact use eng/ml"]
        );
        let readers = found("use-readonly", "eng");
        assert_eq!(readers, ["admin * *", "ancestor use eng", "every use *", "no-verb use-readonly eng"]);
        let jane = Subject::User { name: "ancestor".into() };
        assert_eq!(rbac.right_of(&jane, "use", "eng/ml").unwrap().role, "eng");
        assert_eq!(rbac.right_of(&jane, "create", "eng/ml"), None);
    }

    /// A1: a RoleBinding looks like a grant, and is none.
    #[test]
    fn a1_a_role_binding_gives_nothing_and_is_told() {
        let parsed = |value| serde_json::from_value(value).unwrap();
        let rule = json!({"apiGroups": ["reservoir.dev"], "resources": ["volumeroles"], "resourceNames": ["eng"], "verbs": ["use"]});
        let every = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        let rbac = rbac(&[("admin", every), ("users", rule.clone())]);
        let binding = |kind: &str, role: &str| {
            serde_json::from_value(json!({"metadata": {"name": format!("b-{role}"), "namespace": "team"},
                "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": "team"}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}}))
            .unwrap()
        };
        let local = Local {
            roles: vec![parsed(json!({"metadata": {"name": "own", "namespace": "team"}, "rules": [rule]}))],
            bindings: vec![
                binding("Role", "own"),
                binding("ClusterRole", "users"),
                binding("ClusterRole", "admin"),
            ],
        };
        let told = rbac.without_effect(&local, "use", "eng/ml");
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(
            told[0],
            "RoleBinding team/b-own gives serviceaccount team/web nothing: roles are of the whole cluster, and only a \
             ClusterRoleBinding gives verbs on them; have an administrator run: kubectl reservoir grant eng --verbs use --to serviceaccount team/web"
        );
        assert!(rbac.without_effect(&local, "create", "eng").is_empty());
    }
}
