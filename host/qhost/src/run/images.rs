//! `qhost image …`: an operator's work on the store.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use qhost_engine::{Engine, ImageUses};
use qhost_image::{
    CheckOutcome, Collect, Fetcher, ImageError, Inspected, Store, Stored, Unfinished,
};
use qhost_model::{digest::Sha256, job, printable};

use super::{RunError, context, engine, named_are_there, show};
use crate::{
    cli::{
        GcArgs, ImageCommand, ImportImageArgs, InspectImageArgs, ListArgs, PullImageArgs,
        RemoveImageArgs, Shared, VerifyImageArgs,
    },
    exit::Exit,
    outcome::IMAGE_ALLOW,
};

pub(super) async fn image(shared: &Shared, command: &ImageCommand) -> Exit {
    let done = async {
        let engine = engine(shared)?;
        let images = Images { store: engine.images(), engine, shared };
        match command {
            ImageCommand::Pull(args) => images.pull(args).await,
            ImageCommand::Import(args) => images.import(args).await,
            ImageCommand::Ls(args) => images.list(args),
            ImageCommand::Inspect(args) => images.inspect(args),
            ImageCommand::Verify(args) => images.verify(args).await,
            ImageCommand::Rm(args) => images.remove(args),
            ImageCommand::Gc(args) => images.collect(args),
            ImageCommand::Path(args) => images.path(&args.image),
        }
    };
    match done.await {
        Ok(exit) => exit,
        Err(error) => show::failure(shared, &error),
    }
}

struct Images<'a> {
    store: Store,
    engine: Engine,
    shared: &'a Shared,
}

impl Images<'_> {
    async fn pull(&self, args: &PullImageArgs) -> Result<Exit, RunError> {
        let request = job::image_request(&args.sources, &args.checksum).map_err(RunError::Usage)?;
        let mut stop = qhost_sys::stop::Stop::on_signals().map_err(RunError::Runtime)?;
        let shown = Arc::new(show::Shown::progress(self.shared));
        let (context, _cancel) = context(&shown);
        let also = &args.networks.image_allow;
        if !also.is_empty() {
            let networks: Vec<_> = also.iter().map(ToString::to_string).collect();
            shown.say("images", &format!("also from {}, {IMAGE_ALLOW}", networks.join(", ")));
        }
        let image = tokio::select! {
            image = self.engine.fetch_image(&request, also, &context) => image?,
            () = stop.asked(1) => return Err(RunError::Interrupted),
        };
        shown.verified(&image);
        if self.shared.json {
            show::print(&show::json(
                &json!({"image": image, "path": image.path(), "image_allow": also}),
            ))
        } else {
            show::print(&format!("{}\n", image.sha256()))
        }
        Ok(Exit::Done)
    }

    async fn import(&self, args: &ImportImageArgs) -> Result<Exit, RunError> {
        let config = self.engine.config();
        let mut stop = qhost_sys::stop::Stop::on_signals().map_err(RunError::Runtime)?;
        let shown = show::Shown::progress(self.shared);
        let imported = async {
            let checksum = match &args.checksum {
                Some(checksum) => checksum.clone(),
                None => qhost_image::digest_of_file(&args.file, &shown).await?.to_string(),
            };
            let request = job::image_request(&args.urls, &checksum).map_err(RunError::Usage)?;
            let fetcher = Fetcher::operator(&config.image, config.host_quota(), &shown);
            Ok::<_, RunError>(self.store.import(&args.file, &request, fetcher).await?)
        };
        let image = tokio::select! {
            image = imported => image?,
            () = stop.asked(1) => return Err(RunError::Interrupted),
        };
        shown.verified(&image);
        if self.shared.json {
            show::print(&show::json(&json!({"image": image, "path": image.path()})))
        } else {
            show::print(&format!("{}\n", image.sha256()))
        }
        Ok(Exit::Done)
    }

    fn list(&self, args: &ListArgs) -> Result<Exit, RunError> {
        named_are_there(self.shared)?;
        let (mut stored, uses, mut unfinished) =
            (self.store.list()?, self.engine.image_uses()?, self.store.unfinished()?);
        // An image that the operator fetched belongs to no tenant.
        let is_meant = |tenant: Option<&String>| match tenant {
            Some(tenant) => args.of.includes(tenant),
            None => args.of.tenant.is_none(),
        };
        stored.retain(|one| is_meant(one.record.tenant.as_ref()));
        unfinished.retain(|one| is_meant(one.tenant.as_ref()));
        if args.quiet {
            let digests = stored.iter().map(|one| format!("{}\n", one.sha256));
            show::print(&digests.collect::<String>());
            return Ok(Exit::Done);
        }
        if self.shared.json {
            let images: Vec<_> = stored.iter().map(|one| self.shown(one, &uses)).collect();
            show::print(&show::json(&json!({ "images": images, "unfinished": unfinished })));
            return Ok(Exit::Done);
        }
        let header = [
            "DIGEST",
            "FORMAT",
            "DISK",
            "STORED",
            "TENANT",
            "FETCHED",
            "LAST USED",
            "USED BY",
            "SOURCE",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(stored.iter().map(|one| {
            [
                short(one.sha256),
                one.record.inspected.format.name().to_owned(),
                BinaryBytes(one.record.inspected.disk_bytes).to_string(),
                BinaryBytes(one.disk_usage).to_string(),
                whose(one.record.tenant.as_ref()),
                ago(one.record.fetched_at),
                ago(one.used_at),
                listed(&uses.of(one.sha256)),
                printable::line(&one.record.source, 120).to_string(),
            ]
        }));
        show::print(&show::table(&rows));
        if !unfinished.is_empty() {
            show::print(&format!("\n{}", table(&unfinished)));
        }
        Ok(Exit::Done)
    }

    fn inspect(&self, args: &InspectImageArgs) -> Result<Exit, RunError> {
        if let Some(path) = args.file() {
            return self.inspect_file(&path);
        }
        let stored = self.store.named_by(&args.image)?;
        if self.shared.json {
            show::print(&show::json(&self.shown(&stored, &self.engine.image_uses()?)));
            return Ok(Exit::Done);
        }
        let Stored { sha256, record, disk_usage, used_at } = &stored;
        let Inspected { format, bytes, disk_bytes } = record.inspected;
        let packed = if record.content_sha256 == *sha256 {
            String::new()
        } else {
            format!("unpacked   sha256:{}\n", record.content_sha256)
        };
        let guard = if record.fs_verity { "fs-verity" } else { "read-only file" };
        show::tell(&format!(
            "digest     sha256:{sha256}\n{packed}format     {}\ndisk       {} ({disk_bytes} bytes)\n\
             file       {} ({bytes} bytes), {} on disk, {guard}\nsource     {}\norigins    {}\ntenant     {}\n\
             fetched    {}, {}\nlast used  {}, {}\nused by    {}\npath       {}\n",
            format.name(),
            BinaryBytes(disk_bytes),
            BinaryBytes(bytes),
            BinaryBytes(*disk_usage),
            printable::line(&record.source, usize::MAX),
            record.origins.list().join(" "),
            whose(record.tenant.as_ref()),
            record.fetched_at,
            ago(record.fetched_at),
            used_at,
            ago(*used_at),
            listed(&self.engine.image_uses()?.of(*sha256)),
            self.store.path(*sha256).display(),
        ));
        Ok(Exit::Done)
    }

    /// Says what the rules say of a file that is in no store.
    fn inspect_file(&self, path: &Path) -> Result<Exit, RunError> {
        let unreadable =
            |error| RunError::Usage(format!("cannot read {}: {error}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        let most = self.engine.config().image.max_disk_bytes;
        match qhost_image::inspect(&file, most).map_err(unreadable)? {
            Ok(inspected) => {
                let Inspected { format, bytes, disk_bytes } = inspected;
                show::print(&if self.shared.json {
                    show::json(&inspected)
                } else {
                    format!(
                        "format     {}\ndisk       {} ({disk_bytes} bytes)\nfile       {} ({bytes} bytes)\n",
                        format.name(),
                        BinaryBytes(disk_bytes),
                        BinaryBytes(bytes)
                    )
                });
                Ok(Exit::Done)
            }
            Err(refusal) => {
                let path = path.to_owned();
                Err(ImageError::UnsafeFile { path, refusal }.into())
            }
        }
    }

    async fn verify(&self, args: &VerifyImageArgs) -> Result<Exit, RunError> {
        let shown = show::Shown::progress(self.shared);
        let mut checks = vec![];
        for stored in self.chosen(&args.images)? {
            let checked = self.store.verify(&stored, &shown).await?;
            shown.clear();
            if !self.shared.json {
                let word = match &checked {
                    CheckOutcome::Sound => show::good("sound"),
                    CheckOutcome::Busy => "busy ".into(),
                    CheckOutcome::Quarantined { .. } => show::bad("wrong"),
                    CheckOutcome::Unreadable { .. } => show::bad("error"),
                };
                let more = match &checked {
                    CheckOutcome::Sound => String::new(),
                    CheckOutcome::Busy => ": another process is at it".into(),
                    CheckOutcome::Unreadable { reason } => format!(": it cannot be read: {reason}"),
                    CheckOutcome::Quarantined { found, to } => {
                        format!(": it has sha256:{found} now, and was put away as {}", to.display())
                    }
                };
                show::print(&format!("{word}      {}{more}\n", short(stored.sha256)));
            }
            checks.push((stored.sha256, checked));
        }
        let sound = checks
            .iter()
            .all(|(_, checked)| matches!(checked, CheckOutcome::Sound | CheckOutcome::Busy));
        let exit = if sound { Exit::Done } else { Exit::CheckFailed };
        if self.shared.json {
            let images: Vec<_> = checks
                .iter()
                .map(|(sha256, checked)| json!({"sha256": sha256, "check": checked}))
                .collect();
            show::print(&show::json(&json!({"outcome": exit, "images": images})));
        }
        Ok(exit)
    }

    fn remove(&self, args: &RemoveImageArgs) -> Result<Exit, RunError> {
        let mut removed = vec![];
        for stored in self.chosen(&args.images)? {
            self.engine.remove_image(&stored)?;
            if !self.shared.json {
                show::print(&format!("removed    {}\n", short(stored.sha256)));
            }
            removed.push(stored.sha256);
        }
        if self.shared.json {
            show::print(&show::json(&json!({ "removed": removed })));
        }
        Ok(Exit::Done)
    }

    fn collect(&self, args: &GcArgs) -> Result<Exit, RunError> {
        let wanted = Collect {
            older: args.older_than.map(|age| age.0),
            most: args.max_bytes.map(|size| size.as_u64()),
            unfinished: args.unfinished,
            dry_run: args.dry_run,
        };
        let uses = self.engine.image_uses()?;
        let keeps = |sha256| !uses.of(sha256).is_empty();
        let collected = self.store.collect(&wanted, &keeps)?;
        if self.shared.json {
            show::print(&show::json(&collected));
            return Ok(Exit::Done);
        }
        let word = if args.dry_run { "would go  " } else { "removed   " };
        for one in &collected.unfinished {
            let (size, tenant) = (BinaryBytes(one.disk_usage), whose(one.tenant.as_ref()));
            show::print(&format!("{word} {}  unfinished, {size}  {tenant}\n", short(one.sha256)));
        }
        for one in &collected.removed {
            let (used, source) = (ago(one.used_at), printable::line(&one.record.source, 120));
            show::print(&format!("{word} {}  used {used}  {source}\n", short(one.sha256)));
        }
        let (freed, kept) = (BinaryBytes(collected.freed), BinaryBytes(collected.kept));
        let frees = if args.dry_run { "would be freed" } else { "freed" };
        show::print(&format!("{freed} {frees}, {kept} left\n"));
        Ok(Exit::Done)
    }

    fn path(&self, image: &str) -> Result<Exit, RunError> {
        let path = self.store.path(self.store.named_by(image)?.sha256);
        show::print(&if self.shared.json {
            show::json(&json!({ "path": path }))
        } else {
            format!("{}\n", path.display())
        });
        Ok(Exit::Done)
    }

    fn chosen(&self, images: &[String]) -> Result<Vec<Stored>, RunError> {
        match images {
            [] => Ok(self.store.list()?),
            named => {
                Ok(named.iter().map(|one| self.store.named_by(one)).collect::<Result<_, _>>()?)
            }
        }
    }

    /// Shows an image with its users: VMs that run, and tasks that keep an overlay.
    fn shown<'s>(&self, stored: &'s Stored, uses: &ImageUses) -> Shown<'s> {
        let sha256 = stored.sha256;
        Shown { stored, used_by: uses.of(sha256), path: self.store.path(sha256) }
    }
}

/// A stored image, for programs.
#[derive(Serialize)]
struct Shown<'s> {
    #[serde(flatten)]
    stored: &'s Stored,
    used_by: Vec<String>,
    path: PathBuf,
}

fn table(unfinished: &[Unfinished]) -> String {
    let header = ["UNFINISHED", "TENANT", "STORED", "WRITTEN", "BEING FETCHED"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(unfinished.iter().map(|one| {
        [
            short(one.sha256),
            whose(one.tenant.as_ref()),
            BinaryBytes(one.disk_usage).to_string(),
            ago(one.written_at),
            if one.fetching { "yes" } else { "-" }.to_owned(),
        ]
    }));
    show::table(&rows)
}

/// A tenant's name, or `-` for the operator.
pub(super) fn whose(tenant: Option<&String>) -> String {
    tenant.map_or("-".into(), |tenant| printable::line(tenant, 40).to_string())
}

pub(super) fn short(sha256: Sha256) -> String {
    sha256.to_string().chars().take(12).collect()
}

fn listed(users: &[String]) -> String {
    if users.is_empty() { "-".into() } else { users.join(" ") }
}

pub(super) fn ago(time: Timestamp) -> String {
    let since = Timestamp::now().duration_since(time).unsigned_abs();
    format!("{} ago", indicatif::HumanDuration(since))
}
