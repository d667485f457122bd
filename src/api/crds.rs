//! The CustomResourceDefinitions, generated from the kinds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::*;

/// Every CustomResourceDefinition, as `crds/` and the chart hold them.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        NodeDisk::crd(),
        DiskReservation::crd(),
        SharedPersistentVolume::crd(),
        VolumeClaim::crd(),
        RoleSubscription::crd(),
        VolumeOffer::crd(),
        VolumeRole::crd(),
    ];
    for crd in &mut crds {
        // Helm keeps what carries this annotation when the chart goes: uninstalling deletes no data (X7).
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        if crd.spec.names.kind == "VolumeOffer" {
            // An offer's status is written together with the offer, in one request.
            crd.spec.versions.iter_mut().for_each(|version| version.subresources = None);
        }
    }
    crds
}

/// File name of a definition below `crds/`.
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.spec.names.plural)
}
