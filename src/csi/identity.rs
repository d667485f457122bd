//! The CSI Identity service: the driver's name, version and readiness.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::calls::{Call, Observer};
use super::proto::csi::identity_server::Identity;
use super::proto::csi::plugin_capability::service::Type as ServiceType;
use super::proto::csi::plugin_capability::{Service, Type};
use super::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse,
};
use crate::api::DRIVER;

pub(super) struct IdentityService {
    pub(super) observer: Arc<dyn Observer>,
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        let answer = GetPluginInfoResponse {
            name: DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        Call::query("GetPluginInfo", &self.observer).answer(async { Ok(answer) }).await
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        // A volume is reachable on its own node only. NodeGetInfo names the node.
        let service = Service { r#type: ServiceType::VolumeAccessibilityConstraints.into() };
        let capabilities = vec![PluginCapability { r#type: Some(Type::Service(service)) }];
        Call::query("GetPluginCapabilities", &self.observer)
            .answer(async { Ok(GetPluginCapabilitiesResponse { capabilities }) })
            .await
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Call::query("Probe", &self.observer)
            // The agent serves CSI only once the node's disks are open, so any answer means that it is ready.
            .answer(async { Ok(ProbeResponse { ready: Some(true) }) })
            .await
    }
}
