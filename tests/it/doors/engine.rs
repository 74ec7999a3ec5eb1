//! The engine, called by this process.

use std::{fs, path::PathBuf};

use serde_json::Value;
use tokio::runtime::Runtime;

use qhost_engine::{
    Context, Engine, JobFile, Options, Order, Programs, Termination, Until, Vm, Which,
    config::Config,
};
use qhost_model::kind::Kind;
use qhost_sys::state::StateDir;
use qhost_tests::Qhost;
use qhost_vm::VmRecord;

use super::Door;

pub(super) struct InProcess {
    engine: Engine,
    runtime: Runtime,
}

fn value(record: &VmRecord) -> Value {
    serde_json::to_value(record).unwrap()
}

impl InProcess {
    pub(super) fn new(qhost: &Qhost) -> Self {
        let program = qhost.program().to_owned();
        let supervisor = PathBuf::from(format!("{}-supervisor", program.display()));
        let config = Config::load(Some(&qhost.folder().join("qhost.toml"))).unwrap();
        let engine = Engine::open(Options {
            config,
            state: StateDir::new(&qhost.state()).unwrap(),
            programs: Some(Programs { qhost: program, supervisor }),
        });
        Self { engine: engine.unwrap(), runtime: Runtime::new().unwrap() }
    }

    fn vm(&self, word: &str) -> Result<Vm, Kind> {
        self.runtime.block_on(self.engine.vm(word)).map_err(|error| error.kind())
    }
}

impl Door for InProcess {
    fn start(&self, job: &str, tenant: &str) -> Result<String, Kind> {
        let job = JobFile { name: job.to_owned(), bytes: fs::read(job).unwrap() };
        let networks = vec!["127.0.0.0/8".parse().unwrap()];
        let order = Order { image_networks: networks, ..Order::new(job, tenant) };
        let started = self.runtime.block_on(self.engine.start(order, &Context::default()));
        started.map(|vm| vm.id().to_owned()).map_err(|error| error.kind())
    }

    fn wait(&self, vm: &str, until: Until) -> Value {
        let vm = self.vm(vm).unwrap();
        value(&self.runtime.block_on(vm.wait(until, &Context::default())).unwrap())
    }

    fn end(&self, vm: &str, ending: Termination) -> Value {
        let vm = self.vm(vm).unwrap();
        value(&self.runtime.block_on(vm.end(ending, &Context::default())).unwrap())
    }

    fn pause(&self, vm: &str) {
        self.runtime.block_on(self.vm(vm).unwrap().pause()).unwrap();
    }

    fn resume(&self, vm: &str) {
        self.runtime.block_on(self.vm(vm).unwrap().resume()).unwrap();
    }

    fn restart(&self, vm: &str) -> Value {
        let vm = self.vm(vm).unwrap();
        value(&self.runtime.block_on(vm.restart(None, &Context::default())).unwrap())
    }

    fn remove(&self, vm: &str) -> Result<(), Kind> {
        self.runtime.block_on(self.vm(vm)?.remove()).map_err(|error| error.kind())
    }

    fn look(&self, word: &str) -> Result<Value, Kind> {
        Ok(value(&self.runtime.block_on(self.vm(word)?.record())))
    }

    fn list(&self) -> Vec<Value> {
        self.runtime.block_on(self.engine.vms(Which::All)).iter().map(value).collect()
    }
}
