//! Starts that were accepted, each a file of the state folder's `operations`: after a service was killed, the next one goes on with its
//! starts, and a request that is sent again with its `Idempotency-Key` begins nothing new. A job may have secrets: a start's file is
//! readable by the service alone, and has the job only until the start is done.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use qhost_engine::{JobFile, Order};
use qhost_model::launch::Grace;
use qhost_sys::state;

use crate::{caller::Caller, idempotency::Idempotency, problem::Problem};

const FOLDER: &str = "operations";
const ENDING: &str = ".json";
const LOCK: &str = "lock";

/// A start that was accepted.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StartRecord {
    /// The operation's id.
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) caller: Caller,
    #[serde(alias = "repeats")]
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) began_at: Timestamp,
    task: Option<String>,
    #[serde(default)]
    grace: Option<Grace>,
    #[serde(default)]
    ready_check: bool,
    /// The job in Base64, since it may be text of any encoding; none once the start is done.
    job: Option<String>,
    /// The start's result; none while the start goes on.
    pub(crate) done: Option<Done>,
}

/// The result of a start.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) vm: Option<String>,
    pub(crate) decision: Option<String>,
    pub(crate) ended_at: Timestamp,
}

impl StartRecord {
    pub(crate) fn new(
        id: String,
        order: &Order,
        caller: &Caller,
        idempotency: Option<Idempotency>,
    ) -> Self {
        Self {
            id,
            tenant: order.tenant.clone(),
            caller: caller.clone(),
            idempotency,
            began_at: Timestamp::now(),
            task: order.task.clone(),
            grace: order.grace,
            ready_check: order.ready_check,
            job: Some(BASE64_STANDARD.encode(&order.job.bytes)),
            done: None,
        }
    }

    /// The order that the start was made from; none if the start is done, or its file is damaged.
    pub(crate) fn order(&self) -> Option<Order> {
        let bytes = BASE64_STANDARD.decode(self.job.as_ref()?).ok()?;
        let mut order = Order::new(JobFile::of_body(bytes), self.tenant.clone());
        order.task = self.task.clone();
        order.grace = self.grace;
        order.ready_check = self.ready_check;
        order.actor = Some(self.caller.actor());
        order.operation = Some(self.id.clone());
        Some(order)
    }

    /// Gives the start as done, without its job, which is not needed any more.
    pub(crate) fn ended(self, done: Done) -> Self {
        Self { job: None, done: Some(done), ..self }
    }
}

/// The files of starts that were accepted.
#[derive(Debug, Clone)]
pub(crate) struct StartRecords(PathBuf);

impl StartRecords {
    pub(crate) fn of(state: &Path) -> Self {
        Self(state.join(FOLDER))
    }

    fn path(&self, id: &str) -> PathBuf {
        self.0.join(format!("{id}{ENDING}"))
    }

    /// Takes the lock that only one service of a state folder can hold; gives none if another service has it.
    pub(crate) fn hold(&self) -> io::Result<Option<File>> {
        state::create_private(&self.0)?;
        state::try_lock_named(&self.0.join(LOCK))
    }

    /// Writes a start down, so that it outlasts a power cut.
    pub(crate) async fn keep(&self, accepted: &StartRecord) -> Result<(), Problem> {
        let (path, kept) = (self.path(&accepted.id), accepted.clone());
        let written =
            spawn_blocking(move || state::write_whole(&path, &serde_json::to_vec(&kept)?));
        let written = written.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        if let Err(error) = written {
            tracing::error!(%error, operation = accepted.id, "cannot write down a start that was asked for");
            // The file may have been written, and only not synced.
            self.forget(&accepted.id).await;
            return Err(Problem::unwritable("the start"));
        }
        Ok(())
    }

    /// Removes a start's file, which need not be there.
    pub(crate) async fn forget(&self, id: &str) {
        let path = self.path(id);
        let removed = spawn_blocking(move || state::remove(&path)).await;
        if let Err(error) = removed.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            tracing::error!(%error, operation = id, "cannot remove the file of a start; its job, perhaps with secrets, stays on the disk");
        }
    }

    /// The starts that are written down, the earliest first.
    pub(crate) fn list(&self) -> Vec<StartRecord> {
        let Ok(entries) = fs::read_dir(&self.0) else { return vec![] };
        let mut list = vec![];
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.ends_with(ENDING) {
                // A service was killed while it wrote this file.
                if name != LOCK && state::remove(&path).is_err() {
                    tracing::warn!(path = %path.display(), "cannot remove a half-written file");
                }
                continue;
            }
            let read = state::read(&path);
            let read = read.and_then(|bytes| Ok(serde_json::from_slice::<StartRecord>(&bytes)?));
            match read {
                Ok(accepted) if self.path(&accepted.id) == path => list.push(accepted),
                // The file may be a later version's, or readable the next time.
                Ok(_) => {
                    tracing::error!(path = %path.display(), "this file has another start's name")
                }
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "cannot read a start that was accepted");
                }
            }
        }
        list.sort_by_key(|accepted| accepted.began_at);
        list
    }
}
