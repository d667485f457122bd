//! The copies of a volume on a node.

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::write::{Error, list};
use crate::api::{LABEL_COPY_OF, SharedPersistentVolume};

/// The copies of a sealed volume on the node of that name, by a live read (E3). On the volume's own node there are some only if
/// that was asked for.
pub async fn copies_on(
    node: &str,
    volume: Option<&SharedPersistentVolume>,
    client: &Client,
) -> Result<Vec<SharedPersistentVolume>, Error> {
    let Some((of, status)) = volume.and_then(|of| Some((of, of.status.as_ref()?))) else { return Ok(vec![]) };
    let is_here = status.node_name.as_deref() == Some(node);
    let has_other = of.spec.copies.as_ref().is_some_and(|copies| copies.own_node);
    if status.digest.is_none() || is_here && !has_other {
        return Ok(vec![]);
    }
    let of_volume = format!("{LABEL_COPY_OF}={}", of.uid().unwrap_or_default());
    let here = ListParams::default().labels(&of_volume).fields(&format!("status.nodeName={node}"));
    let mut copies: Vec<SharedPersistentVolume> = list(&Api::all(client.clone()), &here).await?;
    copies.retain(|copy| {
        copy.spec.copy_of.as_ref().is_some_and(|is| Some(&is.uid) == of.metadata.uid.as_ref())
    });
    Ok(copies)
}
