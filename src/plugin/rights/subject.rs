//! The receiver of a grant.

use std::fmt;

use k8s_openapi::api::rbac::v1;
use serde::Serialize;

use crate::plugin::kind::did_you_mean;

/// A user, a group or a service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind")]
pub(super) enum Subject {
    User { name: String },
    Group { name: String },
    ServiceAccount { namespace: String, name: String },
}

const KINDS: [&str; 3] = ["user", "group", "serviceaccount"];

impl Subject {
    /// Parses kind and name. A service account without a namespace is in `namespace`.
    pub fn parse(kind: &str, name: &str, namespace: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Err(format!("a {kind} has a name"));
        }
        let owned = name.to_owned();
        match kind.to_lowercase().as_str() {
            "user" => Ok(Self::user(owned)),
            "group" => Ok(Self::Group { name: owned }),
            "serviceaccount" | "sa" => {
                let (namespace, name) = name.split_once(['/', ':']).unwrap_or((namespace, name));
                Ok(Self::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            other => Err(format!(
                "`{kind}` is no receiver of rights{}; write user, group or serviceaccount, then the name",
                did_you_mean(other, KINDS)
            )),
        }
    }

    /// Kubernetes gives each service account a user name.
    fn user(name: String) -> Self {
        match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
            Some((namespace, name)) => {
                Self::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
            }
            None => Self::User { name },
        }
    }

    /// The receiver in a ClusterRoleBinding; `None` for other kinds of subject.
    pub fn of(subject: &v1::Subject) -> Option<Self> {
        let name = subject.name.clone();
        match subject.kind.as_str() {
            "User" => Some(Self::user(name)),
            "Group" => Some(Self::Group { name }),
            "ServiceAccount" => Some(Self::ServiceAccount { namespace: subject.namespace.clone()?, name }),
            _ => None,
        }
    }

    /// Kind and name: `user` and `jane`, `serviceaccount` and `team/web`.
    pub fn kind_and_name(&self) -> (&'static str, String) {
        match self {
            Self::User { name } => (KINDS[0], name.clone()),
            Self::Group { name } => (KINDS[1], name.clone()),
            Self::ServiceAccount { namespace, name } => (KINDS[2], format!("{namespace}/{name}")),
        }
    }

    /// The name and the groups that Kubernetes knows of the receiver. Those of a user are the authenticator's.
    pub fn as_user(&self) -> (Option<String>, Vec<String>) {
        let all = "system:authenticated".to_owned();
        match self {
            Self::User { name } => (Some(name.clone()), vec![all]),
            Self::Group { name } => (None, vec![name.clone()]),
            Self::ServiceAccount { namespace, name } => {
                let of = format!("system:serviceaccounts:{namespace}");
                let user = format!("system:serviceaccount:{namespace}:{name}");
                (Some(user), vec!["system:serviceaccounts".to_owned(), of, all])
            }
        }
    }

    /// The receiver in the form of a ClusterRoleBinding.
    pub fn in_binding(&self) -> v1::Subject {
        let group = Some("rbac.authorization.k8s.io".to_owned());
        let (api_group, kind, name, namespace) = match self {
            Self::User { name } => (group, "User", name, None),
            Self::Group { name } => (group, "Group", name, None),
            Self::ServiceAccount { namespace, name } => {
                (None, "ServiceAccount", name, Some(namespace.clone()))
            }
        };
        v1::Subject { api_group, kind: kind.to_owned(), name: name.clone(), namespace }
    }

    /// True if a grant to `other` is a grant to this subject, too. The groups of a user are not known here.
    pub fn is_in(&self, other: &Self) -> bool {
        let Self::Group { name: group } = other else { return self == other };
        let all = ["system:authenticated", "system:serviceaccounts"];
        match self {
            Self::User { .. } => group == all[0],
            Self::Group { name } => {
                name == group || name.starts_with("system:serviceaccounts:") && all.contains(&group.as_str())
            }
            Self::ServiceAccount { namespace, .. } => {
                all.contains(&group.as_str()) || *group == format!("system:serviceaccounts:{namespace}")
            }
        }
    }

    /// A sentence if the service account, or its namespace, is not there. `namespaces` is empty if the caller may not list them;
    /// `accounts` are the service accounts of the namespace.
    pub fn missing(&self, namespaces: &[String], accounts: Option<&[String]>) -> Option<String> {
        let namespace = self.namespace()?;
        let later = "the grant counts once it is made";
        if !namespaces.is_empty() && !namespaces.iter().any(|name| name == namespace) {
            let near = did_you_mean(namespace, namespaces.iter().map(String::as_str));
            return Some(format!("there is no namespace {namespace}{near}; {later}"));
        }
        let Self::ServiceAccount { name, .. } = self else { return None };
        let near = did_you_mean(name, accounts?.iter().map(String::as_str));
        let is_there = accounts?.contains(name);
        (!is_there).then(|| format!("there is no ServiceAccount {namespace}/{name}{near}; {later}"))
    }

    /// The namespace of a service account, or of the group of all service accounts of a namespace.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::User { .. } => None,
            Self::Group { name } => name.strip_prefix("system:serviceaccounts:"),
            Self::ServiceAccount { namespace, .. } => Some(namespace),
        }
    }
}

/// The form of `--to` and `--from`: `user jane`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.kind_and_name();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@/".contains(c);
        match name.chars().all(plain) {
            true => write!(f, "{kind} {name}"),
            false => write!(f, "{kind} '{}'", name.replace('\'', "'\\''")),
        }
    }
}

/// A user as the receiver of a grant, in the form of `--to`.
pub(in crate::plugin) fn receiver(user: &str) -> String {
    Subject::user(user.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a1_a_subject_parses_and_is_in_its_groups() {
        for (kind, name, shown) in [
            ("user", "jane", "user jane"),
            ("Group", "devs", "group devs"),
            ("serviceaccount", "web", "serviceaccount team/web"),
            ("sa", "ops/web", "serviceaccount ops/web"),
            ("user", "system:serviceaccount:ops:web", "serviceaccount ops/web"),
            ("user", "Jane Doe", "user 'Jane Doe'"),
        ] {
            let subject = Subject::parse(kind, name, "team").unwrap();
            assert_eq!(subject.to_string(), shown);
            assert_eq!(Subject::of(&subject.in_binding()), Some(subject));
        }
        assert!(Subject::parse("usr", "jane", "team").unwrap_err().contains("did you mean user?"));
        assert!(Subject::parse("user", "", "team").is_err());
        let is_in = |kind, name, group: &str| {
            let group = Subject::Group { name: group.into() };
            Subject::parse(kind, name, "team").unwrap().is_in(&group)
        };
        for (kind, name, group, wanted) in [
            ("sa", "web", "system:serviceaccounts:team", true),
            ("sa", "web", "system:serviceaccounts", true),
            ("sa", "web", "system:serviceaccounts:other", false),
            ("user", "jane", "system:authenticated", true),
            ("user", "devs", "devs", false),
            ("group", "devs", "devs", true),
            ("group", "system:serviceaccounts:team", "system:authenticated", true),
        ] {
            assert_eq!(is_in(kind, name, group), wanted, "{kind} {name} in {group}");
        }
    }

    /// T4: a mistyped service account gets a grant that nobody has.
    #[test]
    fn t4_a_receiver_that_is_not_there_is_told() {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (namespaces, accounts) = (all(&["team", "ops"]), all(&["default", "web"]));
        let told = |kind: &str, name: &str| {
            Subject::parse(kind, name, "team").unwrap().missing(&namespaces, Some(&accounts))
        };
        assert_eq!(
            told("sa", "wbe").unwrap(),
            "there is no ServiceAccount team/wbe; did you mean web?; the grant counts once it is made"
        );
        let group = told("group", "system:serviceaccounts:taem").unwrap();
        assert!(group.starts_with("there is no namespace taem; did you mean team?"), "{group}");
        for (kind, name) in
            [("sa", "web"), ("group", "system:serviceaccounts:ops"), ("user", "jane"), ("group", "devs")]
        {
            assert_eq!(told(kind, name), None, "{kind} {name}");
        }
        let unseen = Subject::parse("sa", "wbe", "team").unwrap();
        assert_eq!(unseen.missing(&[], None), None);
    }
}
