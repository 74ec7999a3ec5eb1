//! The service of a task driver, which an agent calls.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time;
use tokio_stream::wrappers::{BroadcastStream, IntervalStream};
use tonic::{Code, Request, Response, Status, Streaming};

use qhost_engine::{Context, Termination, Until, Vm};
use qhost_model::printable;
use qhost_policy::Operation;

use crate::{
    NAME,
    ends::{result_of, state_of},
    error::{in_a_line, of_engine, refused},
    events::timestamp,
    exec, fingerprint, limits,
    plugin::Plugin,
    proto::driver::{
        CapabilitiesRequest, CapabilitiesResponse, CreateNetworkRequest, CreateNetworkResponse,
        DestroyNetworkRequest, DestroyNetworkResponse, DestroyTaskRequest, DestroyTaskResponse,
        DriverCapabilities, DriverTaskEvent, ExecTaskRequest, ExecTaskResponse,
        ExecTaskStreamingRequest, ExecTaskStreamingResponse, FingerprintRequest,
        FingerprintResponse, InitRequest, InitResponse, InspectTaskRequest, InspectTaskResponse,
        RecoverTaskRequest, RecoverTaskResponse, ShutdownRequest, ShutdownResponse,
        SignalTaskRequest, SignalTaskResponse, StartTaskRequest, StartTaskResponse,
        StopTaskRequest, StopTaskResponse, TaskConfigSchemaRequest, TaskConfigSchemaResponse,
        TaskDriverStatus, TaskEventsRequest, TaskStatsRequest, TaskStatsResponse, TaskStatus,
        WaitTaskRequest, WaitTaskResponse,
        driver_capabilities::{FsIsolation, MountConfigs},
        driver_server,
        network_isolation_spec::NetworkIsolationMode,
    },
    schema,
    start::start,
    task::{self, DriverState},
    tasks::Task,
    usage,
};

pub(crate) struct Driver(pub(crate) Arc<Plugin>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Driver {
    /// Ends a stream when the plugin leaves.
    fn until_left<T: Send + 'static>(
        &self,
        answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<Answers<T>> {
        let leave = self.0.leave().clone();
        Response::new(Box::pin(answers.take_until(leave.cancelled_owned())))
    }

    /// Asks the policies whether the agent may do an operation, and gives the VM under the present configuration.
    async fn permit(
        &self,
        task: &Task,
        operation: Operation,
        request: Option<&'static str>,
    ) -> Result<Vm, Status> {
        // An engine that was opened without the configuration has no policies to ask.
        let vm = self.0.configured_engine()?.handle(&task.started()?.record().await);
        let actor = task::actor(&task.config.alloc_id, &vm.record().await.tenant);
        let permitted = vm.permit(operation, actor.clone(), &Context::default()).await;
        permitted.map_err(|error| of_engine(&error))?;
        if let Some(request) = request {
            vm.note_request(request, &actor).await;
        }
        Ok(vm)
    }
}

/// Reads a duration of the protocol, at most [`limits::LONGEST`]; gives none where it is absent or negative.
fn duration(given: Option<prost_types::Duration>) -> Option<Duration> {
    let given = given.and_then(|given| Duration::try_from(given).ok());
    given.map(|given| given.min(limits::LONGEST))
}

#[tonic::async_trait]
impl driver_server::Driver for Driver {
    type FingerprintStream = Answers<FingerprintResponse>;
    type TaskStatsStream = Answers<TaskStatsResponse>;
    type TaskEventsStream = Answers<DriverTaskEvent>;
    type ExecTaskStreamingStream = Answers<ExecTaskStreamingResponse>;

    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        Ok(Response::new(InitResponse {}))
    }

    async fn shutdown(
        &self,
        _: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        Ok(Response::new(ShutdownResponse {}))
    }

    async fn task_config_schema(
        &self,
        _: Request<TaskConfigSchemaRequest>,
    ) -> Result<Response<TaskConfigSchemaResponse>, Status> {
        Ok(Response::new(TaskConfigSchemaResponse {
            spec: Some(schema::of_task(self.0.settings().defaults.keys())),
        }))
    }

    async fn capabilities(
        &self,
        _: Request<CapabilitiesRequest>,
    ) -> Result<Response<CapabilitiesResponse>, Status> {
        let capabilities = DriverCapabilities {
            send_signals: true,
            exec: true,
            // The agent's own environment is not meant for a guest.
            fs_isolation: FsIsolation::Image.into(),
            network_isolation_modes: vec![NetworkIsolationMode::Host.into()],
            must_create_network: false,
            mount_configs: MountConfigs::NoMounts.into(),
        };
        Ok(Response::new(CapabilitiesResponse { capabilities: Some(capabilities) }))
    }

    async fn fingerprint(
        &self,
        _: Request<FingerprintRequest>,
    ) -> Result<Response<Self::FingerprintStream>, Status> {
        let plugin = Arc::clone(&self.0);
        let looks = IntervalStream::new(time::interval(limits::FINGERPRINT));
        let found = looks.then(move |_| {
            let plugin = Arc::clone(&plugin);
            async move { fingerprint::look(&plugin).await }
        });
        // Nomad takes each answer for a change, so that only changes are sent.
        let changes = found.scan(None, |last: &mut Option<FingerprintResponse>, found| {
            let is_news = last.as_ref() != Some(&found);
            *last = Some(found.clone());
            std::future::ready(Some(is_news.then_some(Ok(found))))
        });
        Ok(self.until_left(changes.filter_map(std::future::ready)))
    }

    async fn recover_task(
        &self,
        request: Request<RecoverTaskRequest>,
    ) -> Result<Response<RecoverTaskResponse>, Status> {
        let handle = request.into_inner().handle;
        let missing = |what| refused(Code::InvalidArgument, format!("the request has no {what}"));
        let handle = handle.ok_or_else(|| missing("handle"))?;
        let config = handle.config.ok_or_else(|| missing("handle.config"))?;
        if config.id.is_empty() {
            return Err(missing("handle.config.id"));
        }
        let state = DriverState::read(&handle.driver_state)?;
        let engine = self.0.engine()?;
        let gone = |error| refused(Code::NotFound, in_a_line(&error));
        let vm = engine.latest_vm(&state.vm).await.map_err(gone)?;
        if vm.id() != state.vm {
            return Err(refused(Code::NotFound, format!("there is no VM {} any more", state.vm)));
        }
        self.0.tasks.of(&config, self.0.leave()).set_vm(vm);
        Ok(Response::new(RecoverTaskResponse {}))
    }

    async fn start_task(
        &self,
        request: Request<StartTaskRequest>,
    ) -> Result<Response<StartTaskResponse>, Status> {
        let missing = |what| refused(Code::InvalidArgument, format!("the request has no {what}"));
        let config = request.into_inner().task.ok_or_else(|| missing("task"))?;
        if config.id.is_empty() {
            return Err(missing("task.id"));
        }
        // Where the call is dropped, the start is given up in order.
        let (plugin, given_up) = (Arc::clone(&self.0), self.0.leave().child_token());
        let guard = given_up.clone().drop_guard();
        let starting = tokio::spawn(async move { start(&plugin, &config, &given_up).await });
        let started = starting.await;
        guard.disarm();
        let handle =
            started.map_err(|panicked| refused(Code::Internal, panicked.to_string()))??;
        Ok(Response::new(StartTaskResponse {
            handle: Some(handle),
            ..StartTaskResponse::default()
        }))
    }

    async fn wait_task(
        &self,
        request: Request<WaitTaskRequest>,
    ) -> Result<Response<WaitTaskResponse>, Status> {
        let task = self.0.tasks.known(&request.into_inner().task_id)?;
        let context = Context { cancel: self.0.leave().child_token(), ..Context::default() };
        let ended = task.started()?.wait(Until::End, &context).await;
        let record = ended.map_err(|error| of_engine(&error))?;
        Ok(Response::new(result_of(&record)))
    }

    async fn stop_task(
        &self,
        request: Request<StopTaskRequest>,
    ) -> Result<Response<StopTaskResponse>, Status> {
        let StopTaskRequest { task_id, timeout, signal } = request.into_inner();
        let ending = if signal == "SIGKILL" {
            Termination::Kill
        } else {
            Termination::Stop(duration(timeout))
        };
        // A task that does not exist counts as stopped, since Nomad would ask five times more.
        let Some(task) = self.0.tasks.get(&task_id) else {
            self.0.end_left_over(&task_id, ending).await?;
            return Ok(Response::new(StopTaskResponse {}));
        };
        task.cancel.cancel();
        let _started = task.starting.lock().await;
        let Some(vm) = task.vm() else { return Ok(Response::new(StopTaskResponse {})) };
        let actor = task::actor(&task.config.alloc_id, &vm.record().await.tenant);
        vm.note_request(if ending == Termination::Kill { "kill" } else { "stop" }, &actor).await;
        let ended = vm.end(ending, &Context::default()).await;
        ended.map_err(|error| of_engine(&error))?;
        Ok(Response::new(StopTaskResponse {}))
    }

    async fn destroy_task(
        &self,
        request: Request<DestroyTaskRequest>,
    ) -> Result<Response<DestroyTaskResponse>, Status> {
        let DestroyTaskRequest { task_id, force } = request.into_inner();
        if force
            && self.0.tasks.get(&task_id).is_none()
            && self.0.end_left_over(&task_id, Termination::Kill).await?
        {
            return Ok(Response::new(DestroyTaskResponse {}));
        }
        let task = self.0.tasks.known(&task_id)?;
        let goes_on = task.going_on().await.is_some();
        if goes_on && !force {
            let message = "the task runs; stop it first, or destroy it with force";
            return Err(refused(Code::FailedPrecondition, message));
        }
        task.cancel.cancel();
        let _started = task.starting.lock().await;
        if let Some(vm) = task.going_on().await {
            let actor = task::actor(&task.config.alloc_id, &vm.record().await.tenant);
            vm.note_request("kill", &actor).await;
            let ended = vm.end(Termination::Kill, &Context::default()).await;
            ended.map_err(|error| of_engine(&error))?;
        }
        self.0.tasks.forget(&task);
        Ok(Response::new(DestroyTaskResponse {}))
    }

    async fn inspect_task(
        &self,
        request: Request<InspectTaskRequest>,
    ) -> Result<Response<InspectTaskResponse>, Status> {
        let task = self.0.tasks.known(&request.into_inner().task_id)?;
        let record = match task.vm() {
            Some(vm) => Some(vm.record().await),
            None => None,
        };
        let status = record.as_ref().map(|record| &record.status);
        let ended = status.and_then(|status| status.ended.as_ref());
        let attributes = match task.vm() {
            Some(vm) => usage::attributes(vm).await,
            None => HashMap::new(),
        };
        let status = TaskStatus {
            id: task.config.id.clone(),
            name: task.config.name.clone(),
            state: state_of(record.as_ref()).into(),
            started_at: status.and_then(|status| status.started_at).map(timestamp),
            completed_at: ended.map(|ended| timestamp(ended.ended_at)),
            result: record.as_ref().filter(|_| ended.is_some()).and_then(|it| result_of(it).result),
        };
        Ok(Response::new(InspectTaskResponse {
            task: Some(status),
            driver: Some(TaskDriverStatus { attributes }),
            network_override: None,
        }))
    }

    async fn task_stats(
        &self,
        request: Request<TaskStatsRequest>,
    ) -> Result<Response<Self::TaskStatsStream>, Status> {
        let TaskStatsRequest { task_id, collection_interval } = request.into_inner();
        let task = self.0.tasks.known(&task_id)?;
        let vm = task.started()?.clone();
        let every = duration(collection_interval).unwrap_or_default().max(limits::STATS_LEAST);
        let looks = usage::Looks::new(task.config.id.clone(), vm, every);
        let answers = stream::unfold(looks, |mut looks| async move {
            let next = looks.next().await?;
            Some((Ok(TaskStatsResponse { stats: Some(next) }), looks))
        });
        Ok(self.until_left(answers))
    }

    async fn task_events(
        &self,
        _: Request<TaskEventsRequest>,
    ) -> Result<Response<Self::TaskEventsStream>, Status> {
        // A client that does not keep up misses the oldest events.
        let events = BroadcastStream::new(self.0.subscribe());
        let events = events.filter_map(|event| std::future::ready(event.ok().map(Ok)));
        Ok(self.until_left(events))
    }

    async fn signal_task(
        &self,
        request: Request<SignalTaskRequest>,
    ) -> Result<Response<SignalTaskResponse>, Status> {
        let SignalTaskRequest { task_id, signal } = request.into_inner();
        let task = self.0.tasks.known(&task_id)?;
        // No signal starts an ended task again, so that such a task is refused.
        task.started()?.goes_on().await.map_err(|error| of_engine(&error))?;
        let context = Context::default();
        let done = match signal.as_str() {
            "SIGTERM" | "SIGINT" | "SIGPWR" => {
                let vm = self.permit(&task, Operation::Stop, Some("stop")).await?;
                vm.ask_to_end(Termination::Stop(None), &context).await;
                Ok(())
            }
            "SIGKILL" => {
                let vm = self.permit(&task, Operation::Stop, Some("kill")).await?;
                vm.ask_to_end(Termination::Kill, &context).await;
                Ok(())
            }
            "SIGHUP" => {
                let vm = self.permit(&task, Operation::Restart, Some("restart")).await?;
                vm.restart_running(None, &context).await.map(drop)
            }
            "SIGSTOP" | "SIGTSTP" => {
                self.permit(&task, Operation::Pause, Some("pause")).await?.pause().await
            }
            "SIGCONT" => self.permit(&task, Operation::Pause, Some("resume")).await?.resume().await,
            other => {
                let other = printable::line(other, limits::NAME_CHARS);
                let message = format!(
                    "the signal {other} means nothing to a VM; SIGTERM presses its power button, SIGHUP restarts it, SIGSTOP and SIGCONT pause and resume it, SIGKILL kills it"
                );
                return Err(refused(Code::InvalidArgument, message));
            }
        };
        done.map_err(|error| of_engine(&error))?;
        self.0.events.of(&task.config).tell(&format!("{signal} was sent"), &[("signal", &signal)]);
        Ok(Response::new(SignalTaskResponse {}))
    }

    async fn exec_task(
        &self,
        request: Request<ExecTaskRequest>,
    ) -> Result<Response<ExecTaskResponse>, Status> {
        let ExecTaskRequest { task_id, command, timeout } = request.into_inner();
        let task = self.0.tasks.known(&task_id)?;
        // No request is recorded: an agent's script checks come every few seconds, and would push out what happened to
        // the VM.
        let vm = self.permit(&task, Operation::Exec(command.clone()), None).await?;
        let timeout = duration(timeout).filter(|timeout| !timeout.is_zero());
        let answer =
            exec::run(&vm, command, vec![], timeout.unwrap_or(limits::EXEC_STREAMING)).await?;
        Ok(Response::new(answer))
    }

    async fn exec_task_streaming(
        &self,
        request: Request<Streaming<ExecTaskStreamingRequest>>,
    ) -> Result<Response<Self::ExecTaskStreamingStream>, Status> {
        let mut asked = request.into_inner();
        let setup = exec::setup(&mut asked).await?;
        let task = self.0.tasks.known(&setup.task_id)?;
        let vm = self.permit(&task, Operation::Exec(setup.command.clone()), Some("exec")).await?;
        Ok(self.until_left(exec::stream(vm, setup.command, asked)))
    }

    async fn create_network(
        &self,
        _: Request<CreateNetworkRequest>,
    ) -> Result<Response<CreateNetworkResponse>, Status> {
        Err(refused(Code::Unimplemented, format!("the driver {NAME} makes no networks")))
    }

    async fn destroy_network(
        &self,
        _: Request<DestroyNetworkRequest>,
    ) -> Result<Response<DestroyNetworkResponse>, Status> {
        Err(refused(Code::Unimplemented, format!("the driver {NAME} makes no networks")))
    }
}
