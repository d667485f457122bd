//! Pods whose mount was refused, since they do not say that they read (M3): for the report to the controller (F2).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::api::PodRef;
use crate::plan::LISTED_PODS;

/// The time after which a refused pod is forgotten. The kubelet tries again every two minutes at least.
const REMEMBERED: Duration = Duration::from_secs(300);

/// The refused pods of each volume, by its name.
#[derive(Default)]
pub(super) struct RefusedReaders(Mutex<BTreeMap<String, Vec<(PodRef, Instant)>>>);

impl RefusedReaders {
    /// Notes a refusal. True if the pod is a new one in the list of the volume.
    pub(super) fn note(&self, volume: &str, pod: PodRef) -> bool {
        let mut volumes = self.volumes();
        let pods = volumes.entry(volume.to_owned()).or_default();
        if let Some((_, at)) = pods.iter_mut().find(|(known, _)| *known == pod) {
            *at = Instant::now();
            return false;
        }
        let has_space = pods.len() < LISTED_PODS;
        if has_space {
            pods.push((pod, Instant::now()));
        }
        has_space
    }

    /// The pods of a volume that were refused in the last minutes.
    pub(super) fn of(&self, volume: &str) -> Vec<PodRef> {
        let mut volumes = self.volumes();
        let Some(pods) = volumes.get_mut(volume) else { return vec![] };
        pods.retain(|(_, at)| at.elapsed() < REMEMBERED);
        let found = pods.iter().map(|(pod, _)| pod.clone()).collect::<Vec<_>>();
        if found.is_empty() {
            volumes.remove(volume);
        }
        found
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<String, Vec<(PodRef, Instant)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::pod;

    /// F2, A8.
    #[test]
    fn f2_a_refused_pod_is_noted_once_and_the_list_is_short() {
        let refused = RefusedReaders::default();
        assert!(refused.note("v", pod("ns", "p")));
        assert!(!refused.note("v", pod("ns", "p")), "no news");
        assert_eq!((refused.of("v"), refused.of("w")), (vec![pod("ns", "p")], vec![]));
        for i in 0..100 {
            refused.note("v", pod("ns", &i.to_string()));
        }
        assert_eq!(refused.of("v").len(), LISTED_PODS);
    }
}
