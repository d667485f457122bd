//! Reservoir on a real kube-apiserver, etcd and kube-controller-manager, with real agents that keep real volumes.
//!
//! Needs root: the agents make loop devices and mounts.

mod access;
mod adopt;
mod advice;
mod agent_rights;
mod ask;
mod authorisation;
mod bad_input;
mod chart;
mod chart_rights;
mod claims;
mod copies;
mod cordon;
mod csi_sanity;
mod disks;
mod docs;
mod doctor;
mod faults;
mod guards;
mod kept;
mod leaving;
mod lifecycle;
mod lost_data;
mod lost_events;
mod metrics;
mod nearly_full;
mod nodes;
mod plugin;
mod principals;
mod pvc_provisioner;
mod quiet;
mod quota;
mod races;
mod readers;
mod reservations;
mod restored;
mod rights;
mod sealed;
mod sharing;
mod support;
mod undelete;
mod volumes;
mod waits;
mod whole_disks;
mod writes;
