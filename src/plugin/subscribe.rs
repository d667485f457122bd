//! The command `subscribe`.

use anyhow::bail;
use kube::api::Api;
use kube::{Client, ResourceExt};
use serde_json::json;

use super::cli::{DryRun, Write};
use super::kind;
use super::manifests::subscription_manifest;
use super::snapshot::Snapshot;
use super::wait::{Until, wait_until};
use super::write::{api_of, create_object, print_result};
use crate::api::{Capability, RoleSubscription};
use crate::plan::advice;

pub(super) async fn subscribe(
    client: &Client,
    roles: &[String],
    name: Option<&str>,
    namespace: &str,
    write: &Write,
) -> anyhow::Result<()> {
    let manifest = subscription_manifest(roles, name, namespace);
    if write.dry_run != Some(DryRun::Client) {
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
        let api = Api::<RoleSubscription>::namespaced(client.clone(), namespace);
        // Without the right to read it, the API server's answer to the CREATE is all that there is.
        if let Ok(Some(there)) = api.get_opt(name).await {
            return match exists(&there, roles) {
                Some(lacks) => bail!(lacks),
                None => {
                    let api = api_of(client, &kind::SUBSCRIPTION, Some(namespace));
                    let there = serde_json::from_value(json!(there))?;
                    print_result(&kind::SUBSCRIPTION, &there, "unchanged", write)?;
                    wait_until(&api, &kind::SUBSCRIPTION, &there, write, &Until::Condition("Ready")).await
                }
            };
        }
        let snapshot = Snapshot::read(client, Some(namespace), namespace).await?;
        roles.iter().for_each(|role| snapshot.note_unknown_role(role));
    }
    create_object(client, &kind::SUBSCRIPTION, manifest, write).await
}

/// The roles and the capability that an existing subscription lacks, with a command that adds them. `None`: it lacks none.
fn exists(there: &RoleSubscription, roles: &[String]) -> Option<String> {
    let (name, namespace) = (there.name_any(), there.namespace().unwrap_or_default());
    let new: Vec<&String> = roles.iter().filter(|role| !there.spec.roles.contains(role)).collect();
    let mut lacks: Vec<String> = new.iter().map(|role| format!("role {role}")).collect();
    if !there.spec.capabilities.contains(&Capability::SharedResources) {
        lacks.push("the capability SHARED_RESOURCES, which shared volumes need".to_owned());
    }
    if lacks.is_empty() {
        return None;
    }
    let all: Vec<&String> = there.spec.roles.iter().chain(new).collect();
    let patch = json!({"spec": {"roles": all, "capabilities": ["SHARED_RESOURCES"]}});
    let extend = advice::extend_subscription(&name, &namespace, patch);
    Some(format!(
        "RoleSubscription {name} of namespace {namespace} exists without {}: {extend}",
        lacks.join(" and ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::subscription;

    #[test]
    fn o3_an_existing_subscription_is_told_what_it_lacks() {
        let says = |capable, roles: &[&str]| {
            let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
            exists(&subscription("team", &["eng"], capable), &roles)
        };
        assert_eq!(says(true, &["eng"]), None);
        assert_eq!(
            says(false, &["eng", "ops"]).unwrap(),
            "RoleSubscription sub of namespace team exists without role ops and the capability SHARED_RESOURCES, which \
             shared volumes need: kubectl patch rolesubscription sub -n team --type=merge -p \
             '{\"spec\":{\"capabilities\":[\"SHARED_RESOURCES\"],\"roles\":[\"eng\",\"ops\"]}}'"
        );
        assert!(
            says(false, &["eng"]).unwrap().contains("exists without the capability SHARED_RESOURCES, which")
        );
    }
}
