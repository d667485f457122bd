//! The CustomResourceDefinitions, generated from the kinds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::*;

/// Every CustomResourceDefinition, in the form of `crds/` and of the chart.
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
        // Helm does not delete an object with this annotation: uninstalling the chart deletes no data (X7).
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations.insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
        if crd.spec.names.kind == "VolumeOffer" {
            // Without the subresource, the controller writes an offer with its status in one request.
            crd.spec.versions.iter_mut().for_each(|version| version.subresources = None);
        }
    }
    crds
}

/// File name of a definition in `crds/`.
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.spec.names.plural)
}
