//! The service that every plugin of Nomad's has, by which a plugin describes itself.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};

use crate::{
    NAME,
    error::refused,
    plugin::Plugin,
    proto::base::{
        ConfigSchemaRequest, ConfigSchemaResponse, PluginInfoRequest, PluginInfoResponse,
        PluginType, SetConfigRequest, SetConfigResponse, base_plugin_server::BasePlugin,
    },
    settings::Settings,
};

/// The versions of Nomad's plugin API that the plugin speaks.
const API_VERSIONS: [&str; 1] = ["v0.1.0"];

pub(crate) struct Base(pub(crate) Arc<Plugin>);

#[tonic::async_trait]
impl BasePlugin for Base {
    async fn plugin_info(
        &self,
        _: Request<PluginInfoRequest>,
    ) -> Result<Response<PluginInfoResponse>, Status> {
        Ok(Response::new(PluginInfoResponse {
            r#type: PluginType::Driver.into(),
            plugin_api_versions: API_VERSIONS.map(Into::into).into(),
            plugin_version: env!("CARGO_PKG_VERSION").into(),
            name: NAME.into(),
        }))
    }

    async fn config_schema(
        &self,
        _: Request<ConfigSchemaRequest>,
    ) -> Result<Response<ConfigSchemaResponse>, Status> {
        Ok(Response::new(ConfigSchemaResponse { spec: Some(Settings::schema()) }))
    }

    async fn set_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigResponse>, Status> {
        let SetConfigRequest { msgpack_config, plugin_api_version } = request.into_inner();
        let is_spoken = |version: &str| version.is_empty() || API_VERSIONS.contains(&version);
        if !is_spoken(&plugin_api_version) {
            let message = format!("the API version {plugin_api_version}; expected v0.1.0");
            return Err(refused(Code::InvalidArgument, message));
        }
        let settings = Settings::read(&msgpack_config)
            .map_err(|error| refused(Code::InvalidArgument, error.to_string()))?;
        self.0.configure(settings).await;
        Ok(Response::new(SetConfigResponse {}))
    }
}
