//! The tenant's share of the CPUs that a command uses, if there are several tenants.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::Notify, time};

use qhost_cage::TenantShare;
use qhost_engine::{Engine, Observation, Observer};
use qhost_image::{Progress, Step};

use crate::limits;

/// A tenant's share; none if the decision will say that there is no such tenant, or if there is only one.
pub(super) fn of(engine: &Engine, tenant: &str) -> TenantShare {
    let config = engine.config();
    if config.has_tenant(tenant) {
        TenantShare::of(&config.cage, tenant)
    } else {
        TenantShare::none()
    }
}

/// A start that goes before what runs, from its turn on for [`limits::START`], or until it fetches or compiles, which takes long.
pub(super) struct Starting {
    share: TenantShare,
    has_left: AtomicBool,
    entered: Notify,
    told: Arc<dyn Observer>,
}

impl Starting {
    /// Passes on observations to an observer.
    pub(super) fn new(share: TenantShare, told: Arc<dyn Observer>) -> Arc<Self> {
        let (has_left, entered) = (AtomicBool::new(false), Notify::new());
        let starting = Arc::new(Self { share, has_left, entered, told });
        let late = Arc::clone(&starting);
        tokio::spawn(async move {
            late.entered.notified().await;
            time::sleep(limits::START).await;
            late.leave();
        });
        starting
    }

    fn enter(&self) {
        // A start that has fetched meanwhile has taken long already.
        if self.has_left.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.share.enter_starts() {
            tracing::warn!(%error, "this start goes before none");
        }
        self.entered.notify_one();
    }

    fn leave(&self) {
        if self.has_left.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.share.leave_starts() {
            tracing::warn!(%error, "this goes on in the cgroup of starts");
        }
    }
}

impl Observer for Starting {
    fn observe(&self, observation: Observation<'_>) {
        match observation {
            Observation::Turn => self.enter(),
            Observation::Fingerprinting | Observation::Compiling { .. } => self.leave(),
            Observation::Waiting { .. }
            | Observation::Understood { .. }
            | Observation::Decided { .. }
            | Observation::Allowed(_)
            | Observation::Admitted { .. }
            | Observation::Verified(_)
            | Observation::Launched { .. }
            | Observation::Status(_)
            | Observation::Stopping(_)
            | Observation::Silent { .. } => {}
        }
        self.told.observe(observation);
    }
}

impl Progress for Starting {
    fn waiting(&self) {
        self.leave();
        self.told.waiting();
    }

    fn begins(&self, doing: Step, total: Option<u64>) {
        self.leave();
        self.told.begins(doing, total);
    }

    fn done(&self, bytes: u64) {
        self.told.done(bytes);
    }

    fn retrying(&self, why: &str) {
        self.told.retrying(why);
    }
}
