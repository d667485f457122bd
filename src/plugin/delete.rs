//! The command `delete`.

use anyhow::bail;
use kube::api::Preconditions;
use kube::{Client, ResourceExt};

use super::cli::{DryRun, Write};
use super::errors::explain_api_error;
use super::kind::{POD, PVC};
use super::snapshot::Snapshot;
use super::wait::{Until, wait_until};
use super::why::{self, Target};
use super::write::{api_of, delete_params, print_result};
use crate::plan::advice;

/// Deletes an object. The message of a refusal has the cause.
pub(super) async fn delete_object(
    client: &Client,
    snapshot: &Snapshot,
    target: &Target,
    write: &Write,
) -> anyhow::Result<()> {
    let kind = target.kind;
    if kind == &POD || kind == &PVC || kind.workload {
        bail!("{}: {}", target.title(), advice::delete_with_kubectl(target.argument()));
    }
    let answer = why::why(snapshot, target).map_err(anyhow::Error::msg)?;
    let api = api_of(client, kind, target.namespace.as_deref());
    let Some(object) = api.get_opt(&target.name).await.map_err(|error| explain_api_error(&error))? else {
        bail!("{} is gone", target.title());
    };
    if write.dry_run != Some(DryRun::Client) {
        let params =
            delete_params(write.dry_run, Preconditions { uid: object.uid(), resource_version: None });
        if let Err(error) = api.delete(&target.name, &params).await {
            let error = explain_api_error(&error);
            let lines = answer.holders.iter().map(|holder| format!("\n  {holder}"));
            bail!("{error}{}", lines.collect::<String>());
        }
    }
    let is_ending = object.metadata.deletion_timestamp.is_some();
    print_result(kind, &object, if is_ending { "is being deleted already" } else { "deleted" }, write)?;
    wait_until(&api, kind, &object, write, &Until::Deleted).await
}
