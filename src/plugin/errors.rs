//! Errors of the API server as messages for people.

use super::kind::{CLAIM, RESERVATION, SUBSCRIPTION, VOLUME};
use crate::api::GROUP;
use crate::cluster::Error;
use crate::plan::advice;

/// The API server's message with the next step.
pub(super) fn explain_cluster_error(error: &Error) -> anyhow::Error {
    match error {
        Error::Api { source, .. } => explain_api_error(source),
        Error::Conflict(_) => anyhow::anyhow!("{error}: try again"),
    }
}

/// The API server's message, or the cause of its silence with the next step.
pub(super) fn explain_api_error(error: &kube::Error) -> anyhow::Error {
    match error {
        // A 404 for a missing object quotes its name. Without a quotation the API server does not serve the
        // path.
        kube::Error::Api(status) if status.code == 404 && !status.message.contains('"') => anyhow::anyhow!(
            "this cluster does not have Reservoir's kinds: name another cluster with --context, or install the chart: {}",
            advice::install_chart_anew("reservoir", "reservoir-system", "")
        ),
        kube::Error::Api(status) if status.code == 401 => anyhow::anyhow!(
            "the cluster does not accept the credentials of the kubeconfig ({}): log in again, or name another user with --context",
            status.message
        ),
        kube::Error::Api(status) => match right(&status.message) {
            Some(step) => anyhow::anyhow!("{}: {step}", status.message),
            None => anyhow::anyhow!("{}", status.message),
        },
        other => {
            let mut chain = other.to_string();
            let mut source = std::error::Error::source(other);
            while let Some(deeper) = source {
                if !chain.contains(&deeper.to_string()) {
                    chain = format!("{chain}: {deeper}");
                }
                source = deeper.source();
            }
            anyhow::anyhow!("the cluster does not answer ({chain}): check --context and --kubeconfig")
        }
    }
}

/// The step after RBAC's refusal of a write of one of Reservoir's kinds. Its message has user, resource and namespace in
/// quotation marks.
fn right(message: &str) -> Option<String> {
    let (_, refusal) = message.split_once("User \"")?;
    let (user, refusal) = refusal.split_once("\" cannot ")?;
    let (what, place) = refusal.split_once(&format!(" in API group \"{GROUP}\" "))?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:@".contains(c);
    let namespace = place.split('"').nth(1).unwrap_or_default();
    let of = |plurals: [&str; 2]| plurals.iter().any(|plural| what.contains(&format!("\"{plural}\"")));
    match user.chars().all(is_plain) && !what.starts_with("list") {
        true if of([RESERVATION.plural, VOLUME.plural]) => Some(advice::have_operator_bound(user)),
        true if of([CLAIM.plural, SUBSCRIPTION.plural]) && !namespace.is_empty() => {
            Some(advice::have_user_bound(user, namespace))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T4: to a user whose login is over the API server only says "Unauthorized".
    #[test]
    fn t4_a_login_that_is_over_has_a_step() {
        let mut status = kube::core::Status::failure("Unauthorized", "Unauthorized");
        status.code = 401;
        let said = explain_api_error(&kube::Error::Api(status.into())).to_string();
        assert!(said.contains("(Unauthorized): log in again"), "{said}");
    }

    /// T4: Kubernetes' refusal has no next step.
    #[test]
    fn t4_a_missing_right_on_kinds_has_a_step() {
        let step = |kind: &str, place: &str| {
            right(&format!(
                "{kind}.reservoir.dev is forbidden: User \"joe\" cannot create resource \"{kind}\" in API group \
                 \"reservoir.dev\" {place}"
            ))
        };
        let operator = step("diskreservations", "at the cluster scope").unwrap();
        assert!(
            operator.contains("clusterrolebinding joe-operates --clusterrole=reservoir-role-operator"),
            "{operator}"
        );
        let user = step("volumeclaims", "in the namespace \"team\"").unwrap();
        assert!(user.contains("kubectl create rolebinding joe-claims -n team"), "{user}");
        assert_eq!(step("nodedisks", "at the cluster scope"), None);
        assert_eq!(right("the verb create is missing"), None);
    }
}
