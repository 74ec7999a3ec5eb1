//! An agent of Nomad's, as far as a task driver sees one: it starts the plugin, makes calls in an agent's order, and encodes
//! configurations as an agent does.

mod encoding;
mod task;
pub mod tls;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    runtime::Runtime,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use qhost_nomad::proto::{
    base::{
        ConfigSchemaRequest, PluginInfoRequest, PluginInfoResponse, SetConfigRequest,
        base_plugin_client::BasePluginClient,
    },
    driver::{
        CapabilitiesRequest, DestroyTaskRequest, DriverTaskEvent, ExecTaskRequest,
        ExecTaskResponse, ExecTaskStreamingIoOperation, ExecTaskStreamingRequest, ExitResult,
        FingerprintRequest, FingerprintResponse, InspectTaskRequest, InspectTaskResponse,
        RecoverTaskRequest, SignalTaskRequest, StartTaskRequest, StopTaskRequest, TaskConfig,
        TaskConfigSchemaRequest, TaskEventsRequest, TaskHandle, TaskStats, TaskStatsRequest,
        WaitTaskRequest, WaitTaskResponse, driver_client::DriverClient,
        exec_task_streaming_request::Setup,
    },
    google::rpc,
    hclspec::Spec,
    plugin::{
        ConnInfo, Empty, grpc_broker_client::GrpcBrokerClient,
        grpc_controller_client::GrpcControllerClient, grpc_stdio_client::GrpcStdioClient,
    },
    structs::RecoverableError,
};

use crate::{Qhost, wait_for};

pub use encoding::packed;
pub use task::Task;

const COOKIE: &str = "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255";

/// A plugin process, as an agent has it.
pub struct Plugin {
    runtime: Runtime,
    process: Process,
    socket: PathBuf,
    /// The certificates of the connection; absent where it has no TLS.
    pub tls: Option<Arc<tls::Pair>>,
    channel: Channel,
    events: Arc<Mutex<Vec<DriverTaskEvent>>>,
    fingerprints: Arc<Mutex<Vec<FingerprintResponse>>>,
}

/// The command by which an agent starts the plugin: a link in its plugin folder, without arguments.
pub fn plugin_command(qhost: &Qhost) -> Command {
    let folder = qhost.folder().join("plugins");
    fs::create_dir_all(&folder).expect("a plugin folder");
    let link = folder.join("qhost");
    if !link.exists() {
        symlink(qhost.program(), &link).expect("a link");
    }
    let mut command = crate::command(link);
    command
        .env("NOMAD_PLUGIN_MAGIC_COOKIE", COOKIE)
        .env("PLUGIN_MIN_PORT", "10000")
        .env("PLUGIN_MAX_PORT", "25000")
        .env("PLUGIN_PROTOCOL_VERSIONS", "2")
        .envs(qhost.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

impl Plugin {
    /// Starts a plugin and connects to it; its logs go into a file of the scratch folder.
    pub fn launch(qhost: &Qhost) -> Self {
        Self::launched(qhost, None)
    }

    /// Starts a plugin as an agent that wants TLS on the socket, and connects to it.
    pub fn launch_with_tls(qhost: &Qhost, agent: tls::Certificate) -> Self {
        Self::launched(qhost, Some(agent))
    }

    fn launched(qhost: &Qhost, agent: Option<tls::Certificate>) -> Self {
        let log = File::options().create(true).append(true).open(qhost.folder().join("plugin.log"));
        let mut command = plugin_command(qhost);
        if let Some(agent) = &agent {
            command.env("PLUGIN_CLIENT_CERT", &agent.pem);
        }
        let mut process = command.stderr(log.expect("a log")).spawn().expect("the plugin starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the plugin's line");
        let parts: Vec<_> = line.trim_end().split('|').collect();
        let ["1", "2", "unix", socket, "grpc", certificate] = parts.as_slice() else {
            panic!("{line:?}")
        };
        assert_eq!(certificate.is_empty(), agent.is_none(), "{line:?}");
        let plugin = (*certificate).to_owned();
        let tls = agent.map(|agent| Arc::new(tls::Pair { agent, plugin }));
        Self::connected(Process(process), Path::new(socket), tls)
    }

    fn connected(process: Process, socket: &Path, tls: Option<Arc<tls::Pair>>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (path, pair) = (socket.to_owned(), tls.clone());
        let connector = tower::service_fn(move |_| {
            let (path, pair) = (path.clone(), pair.clone());
            async move {
                let connection: Box<dyn Connection> = match pair {
                    Some(pair) => Box::new(pair.connect(&path).await?),
                    None => Box::new(UnixStream::connect(path).await?),
                };
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(connection))
            }
        });
        let endpoint = Endpoint::from_static("http://plugin");
        let channel = runtime.block_on(endpoint.connect_with_connector(connector));
        let channel = channel.expect("the plugin's socket");
        let plugin = Self {
            runtime,
            process,
            socket: socket.to_owned(),
            tls,
            channel,
            events: Arc::default(),
            fingerprints: Arc::default(),
        };
        // A client opens both streams at once.
        let (mut broker, mut stdio) = (
            GrpcBrokerClient::new(plugin.channel.clone()),
            GrpcStdioClient::new(plugin.channel.clone()),
        );
        plugin.runtime.block_on(async {
            broker.start_stream(tokio_stream::empty::<ConnInfo>()).await.expect("a broker");
            stdio.stream_stdio(()).await.expect("standard output");
        });
        plugin
    }

    /// Starts the plugin three times, as an agent does that starts; the third process stays.
    pub fn as_agent(qhost: &Qhost, settings: &Value) -> Self {
        let first = Self::launch(qhost);
        let info = first.info();
        assert_eq!((info.name.as_str(), info.r#type), ("qhost", 2));
        let schema = first.config_schema();
        first.leave();
        let second = Self::launch(qhost);
        second.configure(&schema, settings).expect("the plugin's configuration");
        second.configure(&schema, settings).expect("the same again");
        second.leave();
        let third = Self::launch(qhost);
        third.configure(&schema, settings).expect("the plugin's configuration");
        third.listen();
        third
    }

    /// Connects as an agent does that finds the plugin of an earlier agent: without configuring it, and with new streams.
    pub fn attach_again(self) -> Self {
        let Self { process, socket, runtime, channel, tls, .. } = self;
        drop(channel);
        runtime.shutdown_background();
        let plugin = Self::connected(process, &socket, tls);
        plugin.info();
        plugin.listen();
        plugin
    }

    /// Collects the plugin's events and fingerprints from now on.
    fn listen(&self) {
        let (mut driver, events) = (self.driver(), Arc::clone(&self.events));
        let (mut other, fingerprints) = (self.driver(), Arc::clone(&self.fingerprints));
        self.runtime.block_on(async {
            let mut stream =
                driver.task_events(TaskEventsRequest {}).await.expect("events").into_inner();
            tokio::spawn(async move {
                while let Ok(Some(event)) = stream.message().await {
                    events.lock().expect("events").push(event);
                }
            });
            let mut stream =
                other.fingerprint(FingerprintRequest {}).await.expect("fingerprints").into_inner();
            tokio::spawn(async move {
                while let Ok(Some(found)) = stream.message().await {
                    fingerprints.lock().expect("fingerprints").push(found);
                }
            });
        });
    }

    fn driver(&self) -> DriverClient<Channel> {
        DriverClient::new(self.channel.clone())
    }

    /// The plugin's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The plugin's process id.
    pub fn pid(&self) -> String {
        self.process.0.id().to_string()
    }

    /// The plugin's description of itself.
    pub fn info(&self) -> PluginInfoResponse {
        let mut base = BasePluginClient::new(self.channel.clone());
        let info = self.runtime.block_on(base.plugin_info(PluginInfoRequest {}));
        info.expect("the plugin's information").into_inner()
    }

    /// The schema of the plugin's configuration.
    pub fn config_schema(&self) -> Spec {
        let mut base = BasePluginClient::new(self.channel.clone());
        let schema = self.runtime.block_on(base.config_schema(ConfigSchemaRequest {}));
        schema.expect("a schema").into_inner().spec.expect("a schema")
    }

    /// The schema of a task's configuration.
    pub fn task_schema(&self) -> Spec {
        let schema =
            self.runtime.block_on(self.driver().task_config_schema(TaskConfigSchemaRequest {}));
        schema.expect("a schema").into_inner().spec.expect("a schema")
    }

    /// Configures the plugin.
    pub fn configure(&self, schema: &Spec, settings: &Value) -> Result<(), Status> {
        self.configure_by(packed(schema, settings))
    }

    /// Configures the plugin by encoded bytes.
    pub fn configure_by(&self, msgpack_config: Vec<u8>) -> Result<(), Status> {
        let mut base = BasePluginClient::new(self.channel.clone());
        let plugin_api_version = "v0.1.0".into();
        let request = SetConfigRequest { msgpack_config, plugin_api_version };
        self.runtime.block_on(base.set_config(request)).map(drop)
    }

    /// Asks the plugin to leave, which it must do in the two seconds that an agent gives it.
    pub fn leave(mut self) {
        let mut controller = GrpcControllerClient::new(self.channel.clone());
        self.runtime.block_on(controller.shutdown(Empty {})).expect("it leaves");
        let began = std::time::Instant::now();
        let status = self.process.0.wait().expect("the plugin");
        assert!(status.success(), "{status}");
        assert!(
            began.elapsed() < std::time::Duration::from_secs(2),
            "it took {:?}",
            began.elapsed()
        );
        assert!(!self.socket.exists(), "its socket is left");
    }

    /// Kills the plugin.
    pub fn kill(mut self) {
        self.process.0.kill().expect("the plugin runs");
        self.process.0.wait().expect("the plugin");
    }

    /// The fingerprints so far, the latest last.
    pub fn fingerprints(&self) -> Vec<FingerprintResponse> {
        self.fingerprints.lock().expect("fingerprints").clone()
    }

    /// The events so far.
    pub fn events(&self) -> Vec<DriverTaskEvent> {
        self.events.lock().expect("events").clone()
    }

    /// Waits for an event with a text.
    pub fn says(&self, text: &str) {
        wait_for(&format!("the event {text:?}"), || {
            self.events().iter().any(|event| event.message.contains(text)).then_some(())
        });
    }

    /// Starts a task.
    pub fn start(&self, task: &TaskConfig) -> Result<TaskHandle, Status> {
        let mut driver = self.driver();
        self.runtime.block_on(async {
            driver.capabilities(CapabilitiesRequest {}).await?;
            let started = driver.start_task(StartTaskRequest { task: Some(task.clone()) }).await?;
            Ok(started.into_inner().handle.expect("a handle"))
        })
    }

    /// Begins to start a task, and gives the result later.
    pub fn start_later(
        &self,
        task: &TaskConfig,
    ) -> tokio::task::JoinHandle<Result<TaskHandle, Status>> {
        let (mut driver, task) = (self.driver(), Some(task.clone()));
        self.runtime.spawn(async move {
            let started = driver.start_task(StartTaskRequest { task }).await?;
            Ok(started.into_inner().handle.expect("a handle"))
        })
    }

    /// Waits for such a result.
    pub fn done<T>(&self, later: tokio::task::JoinHandle<T>) -> T {
        self.runtime.block_on(later).expect("it did not panic")
    }

    /// Recovers a task of an earlier plugin by the handle that Nomad kept, without the task's configuration, as after a restart of the
    /// agent.
    pub fn recover(&self, handle: &TaskHandle) -> Result<(), Status> {
        let mut handle = handle.clone();
        if let Some(config) = &mut handle.config {
            config.msgpack_driver_config.clear();
        }
        let request = RecoverTaskRequest { task_id: String::new(), handle: Some(handle) };
        self.runtime.block_on(self.driver().recover_task(request)).map(drop)
    }

    /// Waits for a task's end.
    pub fn wait(&self, id: &str) -> Result<WaitTaskResponse, Status> {
        let request = WaitTaskRequest { task_id: id.into() };
        self.runtime.block_on(self.driver().wait_task(request)).map(tonic::Response::into_inner)
    }

    /// Stops a task.
    pub fn stop(&self, id: &str, seconds: i64) -> Result<(), Status> {
        let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = StopTaskRequest { task_id: id.into(), timeout, signal: String::new() };
        self.runtime.block_on(self.driver().stop_task(request)).map(drop)
    }

    /// Destroys a task.
    pub fn destroy(&self, id: &str, force: bool) -> Result<(), Status> {
        let request = DestroyTaskRequest { task_id: id.into(), force };
        self.runtime.block_on(self.driver().destroy_task(request)).map(drop)
    }

    /// Sends a signal to a task.
    pub fn signal(&self, id: &str, signal: &str) -> Result<(), Status> {
        let request = SignalTaskRequest { task_id: id.into(), signal: signal.into() };
        self.runtime.block_on(self.driver().signal_task(request)).map(drop)
    }

    /// Runs a command in a task.
    pub fn exec(&self, id: &str, command: &[&str]) -> Result<ExecTaskResponse, Status> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let timeout = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let request = ExecTaskRequest { task_id: id.into(), command, timeout };
        self.runtime.block_on(self.driver().exec_task(request)).map(tonic::Response::into_inner)
    }

    /// Runs a command in a task as `nomad alloc exec` does, with a standard input.
    pub fn exec_streaming(
        &self,
        id: &str,
        command: &[&str],
        stdin: &[u8],
        tty: bool,
    ) -> Result<ExecTaskResponse, Status> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let setup = Setup { task_id: id.into(), command, tty };
        let input = |data: &[u8], close| ExecTaskStreamingRequest {
            stdin: Some(ExecTaskStreamingIoOperation { data: data.to_vec(), close }),
            ..ExecTaskStreamingRequest::default()
        };
        let asked = [
            ExecTaskStreamingRequest { setup: Some(setup), ..ExecTaskStreamingRequest::default() },
            input(stdin, false),
            input(b"", true),
        ];
        self.runtime.block_on(async {
            let answers = self.driver().exec_task_streaming(tokio_stream::iter(asked)).await?;
            let (mut answers, mut done) = (answers.into_inner(), ExecTaskResponse::default());
            while let Some(answer) = answers.message().await? {
                done.stdout.extend(answer.stdout.into_iter().flat_map(|part| part.data));
                done.stderr.extend(answer.stderr.into_iter().flat_map(|part| part.data));
                done.result = answer.result.or(done.result);
            }
            Ok(done)
        })
    }

    /// Inspects a task.
    pub fn inspect(&self, id: &str) -> Result<InspectTaskResponse, Status> {
        let request = InspectTaskRequest { task_id: id.into() };
        self.runtime.block_on(self.driver().inspect_task(request)).map(tonic::Response::into_inner)
    }

    /// Takes so many samples of what a task uses.
    pub fn stats(&self, id: &str, looks: usize) -> Result<Vec<TaskStats>, Status> {
        let request = TaskStatsRequest { task_id: id.into(), collection_interval: None };
        self.runtime.block_on(async {
            let mut stream = self.driver().task_stats(request).await?.into_inner();
            let mut all = vec![];
            while all.len() < looks {
                all.extend(stream.message().await?.expect("it goes on").stats);
            }
            Ok(all)
        })
    }
}

/// A connection to a plugin.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The plugin's process, which is killed when this is dropped: a plugin whose agent has gone waits for the next agent.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.0.kill().expect("the plugin");
            self.0.wait().expect("the plugin");
        }
    }
}

/// Whether an error says that the task is worth another try, in the first of its details.
pub fn is_recoverable(status: &Status) -> bool {
    use prost::Message as _;
    let details = rpc::Status::decode(status.details()).expect("details");
    let first = details.details.first().expect("a detail");
    assert!(first.type_url.ends_with("shared.structs.RecoverableError"), "{}", first.type_url);
    RecoverableError::decode(first.value.as_slice()).expect("the detail").recoverable
}

/// The exit of a task.
pub fn exit(response: &WaitTaskResponse) -> &ExitResult {
    response.result.as_ref().expect("a result")
}
