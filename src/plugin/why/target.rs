//! The object that `why` is asked about.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::plugin::item::{CLAIM, Kind, POD, PVC, did_you_mean};
use crate::plugin::snapshot::Snapshot;

/// An object by kind and name. It may not exist.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plugin) struct Target {
    pub kind: &'static Kind,
    pub namespace: Option<String>,
    pub name: String,
}

impl Target {
    /// Parses `KIND/NAME` or `KIND NAME`. An object of a namespaced kind is in `namespace`.
    pub fn parse(object: &[String], namespace: &str) -> anyhow::Result<Self> {
        let (kind, name) = match object {
            [both] => both
                .split_once('/')
                .with_context(|| format!("`{both}`: write KIND/NAME, such as pod/{both}"))?,
            [kind, name] => (kind.as_str(), name.as_str()),
            _ => bail!("write KIND/NAME, such as pod/web-0"),
        };
        let kind = Kind::parse(kind).map_err(anyhow::Error::msg)?;
        Ok(Self { kind, namespace: kind.namespaced.then(|| namespace.to_owned()), name: name.to_owned() })
    }

    /// `VolumeClaim team/data`.
    pub fn title(&self) -> String {
        let namespace = self.namespace.iter().map(|n| format!("{n}/")).collect::<String>();
        format!("{} {namespace}{}", self.kind.name, self.name)
    }

    pub fn find_pod<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Pod> {
        snapshot.pods.iter().find(|p| p.name_any() == self.name && p.namespace() == self.namespace)
    }

    /// The message for an object that does not exist, with the most similar name.
    pub fn not_found(&self, snapshot: &Snapshot) -> String {
        let pods: Vec<String> =
            snapshot.pods.iter().filter(|p| p.namespace() == self.namespace).map(|p| p.name_any()).collect();
        let items = snapshot.items();
        let same_kind = items.iter().filter(|i| i.kind == if self.kind == &PVC { &CLAIM } else { self.kind });
        let here: Vec<&str> = match self.kind == &POD {
            true => pods.iter().map(String::as_str).collect(),
            false => same_kind.filter(|i| i.namespace == self.namespace).map(|i| i.name.as_str()).collect(),
        };
        let elsewhere = items.iter().find(|i| i.kind == self.kind && i.name == self.name);
        let nearest = match elsewhere.and_then(|i| i.namespace.as_ref()) {
            Some(namespace) => format!("; there is one in namespace {namespace}: add -n {namespace}"),
            None => did_you_mean(&self.name, here.iter().copied()),
        };
        if self.kind == &PVC && nearest.is_empty() {
            let namespace = self.namespace.as_deref().unwrap_or("default");
            return format!(
                "Reservoir has made no volume for {} yet; its events have the cause: kubectl describe pvc {} -n {namespace}",
                self.title(),
                self.name
            );
        }
        format!("there is no {}{nearest}", self.title())
    }
}
