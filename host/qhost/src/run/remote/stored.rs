//! Images and volumes that another host keeps.

use indicatif::BinaryBytes;
use jiff::Timestamp;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use qhost_engine::{Volume, VolumeName};
use qhost_model::{digest::Sha256, format::Format, job::DEFAULT_TENANT, printable};

use super::{Host, Operation, only_there};
use crate::{
    cli::{
        CopyVolumeArgs, CreateVolumeArgs, ImageCommand, ListArgs, NamedVolume, OneTenant,
        PullImageArgs, RemoveImageArgs, RemoveVolumesArgs, ResizeVolumeArgs, VolumeCommand,
    },
    exit::Exit,
    run::{
        RunError,
        images::{ago, short, whose},
        show, volumes,
    },
};

/// A stored image, as far as the service tells of it.
#[derive(Debug, Serialize, Deserialize)]
struct Image {
    sha256: Sha256,
    format: Format,
    disk_bytes: u64,
    disk_usage: u64,
    source: String,
    fetched_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_at: Option<Timestamp>,
    /// The fields that this version does not know.
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Host<'_> {
    pub(super) async fn image(&self, command: &ImageCommand) -> Result<Exit, RunError> {
        match command {
            ImageCommand::Pull(args) => self.pull(args).await,
            ImageCommand::Ls(args) => self.images(args).await,
            ImageCommand::Rm(args) => self.remove_images(args).await,
            ImageCommand::Import(_) => Err(only_there("image import")),
            ImageCommand::Inspect(_) => Err(only_there("image inspect")),
            ImageCommand::Verify(_) => Err(only_there("image verify")),
            ImageCommand::Gc(_) => Err(only_there("image gc")),
            ImageCommand::Path(_) => Err(only_there("image path")),
        }
    }

    async fn pull(&self, args: &PullImageArgs) -> Result<Exit, RunError> {
        if !args.networks.image_allow.is_empty() {
            return Err(RunError::Usage(
                "the other host fetches images from the networks of its own configuration: leave out --image-allow, or --host and QHOST_HOST".into(),
            ));
        }
        let body = json!({ "sources": args.sources, "checksum": args.checksum });
        let at = self.client.at(&["v1", "images"], &[]);
        let begun: Operation =
            self.client.send(Method::POST, at, Some(body.to_string().into_bytes())).await?;
        self.succeeded_or_given_up(begun).await?;
        let digest = args.checksum.strip_prefix("sha256:").unwrap_or(&args.checksum);
        if self.shared.json {
            show::print(&show::json(&json!({ "fetched": args.checksum })));
        } else {
            show::tell(&format!("{digest}\n"));
        }
        Ok(Exit::Done)
    }

    async fn images(&self, args: &ListArgs) -> Result<Exit, RunError> {
        let images: Vec<Image> =
            self.client.list("images", &[("tenant", args.of.tenant.clone())]).await?;
        if args.quiet {
            let digests = images.iter().map(|one| format!("{}\n", one.sha256));
            show::print(&digests.collect::<String>());
            return Ok(Exit::Done);
        }
        if self.shared.json {
            show::print(&show::json(&json!({ "images": images })));
            return Ok(Exit::Done);
        }
        let header =
            ["DIGEST", "FORMAT", "DISK", "STORED", "TENANT", "FETCHED", "LAST USED", "SOURCE"];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(images.iter().map(|one| {
            [
                short(one.sha256),
                one.format.name().to_owned(),
                BinaryBytes(one.disk_bytes).to_string(),
                BinaryBytes(one.disk_usage).to_string(),
                whose(one.tenant.as_ref()),
                ago(one.fetched_at),
                one.used_at.map_or("-".into(), ago),
                printable::line(&one.source, 120).to_string(),
            ]
        }));
        show::print(&show::table(&rows));
        Ok(Exit::Done)
    }

    async fn remove_images(&self, args: &RemoveImageArgs) -> Result<Exit, RunError> {
        let images: Vec<Image> = self.client.list("images", &[]).await?;
        let mut removed = vec![];
        for word in &args.images {
            let beginning = word.strip_prefix("sha256:").unwrap_or(word);
            let mut meant =
                images.iter().filter(|one| one.sha256.to_string().starts_with(beginning));
            let sha256 = match (meant.next(), meant.next()) {
                (Some(only), None) => only.sha256,
                (found, _) => {
                    let shown = printable::line(word, 80);
                    let what = if found.is_none() { "no" } else { "more than one" };
                    return Err(RunError::Usage(format!(
                        "{what} stored image's digest begins with {shown}; see qhost image ls"
                    )));
                }
            };
            let at = self.client.at(&["v1", "images", &sha256.to_string()], &[]);
            self.client.bytes(Method::DELETE, at, None).await?;
            if !self.shared.json {
                show::print(&format!("removed    {}\n", short(sha256)));
            }
            removed.push(sha256);
        }
        if self.shared.json {
            show::print(&show::json(&json!({ "removed": removed })));
        }
        Ok(Exit::Done)
    }

    pub(super) async fn volume(&self, command: &VolumeCommand) -> Result<Exit, RunError> {
        match command {
            VolumeCommand::Ls(args) => {
                let query = [("tenant", args.of.tenant.clone())];
                volumes::listed(self.shared, args, &self.client.list("volumes", &query).await?);
            }
            VolumeCommand::Create(args) => self.create_volume(args).await?,
            VolumeCommand::Resize(args) => self.resize_volume(args).await?,
            VolumeCommand::Copy(args) => self.copy_volume(args).await?,
            VolumeCommand::Rm(args) => self.remove_volumes(args).await?,
        }
        Ok(Exit::Done)
    }

    async fn create_volume(
        &self,
        CreateVolumeArgs { name, size, of }: &CreateVolumeArgs,
    ) -> Result<(), RunError> {
        let volume = self.change_volume(Method::PUT, of, name, None, Some(*size)).await?;
        volumes::tell(self.shared, "created", &volume);
        Ok(())
    }

    async fn resize_volume(
        &self,
        ResizeVolumeArgs { name, size, of }: &ResizeVolumeArgs,
    ) -> Result<(), RunError> {
        let volume =
            self.change_volume(Method::POST, of, name, Some("resize"), Some(*size)).await?;
        volumes::tell(self.shared, "resized", &volume);
        Ok(())
    }

    async fn change_volume(
        &self,
        method: Method,
        of: &OneTenant,
        name: &NamedVolume,
        verb: Option<&str>,
        bytes: Option<u64>,
    ) -> Result<Volume, RunError> {
        let VolumeName { tenant, name } = of.volume(name);
        let path: Vec<_> = ["v1", "volumes", &name].into_iter().chain(verb).collect();
        let query = [("tenant", named(tenant)), ("bytes", bytes.map(|bytes| bytes.to_string()))];
        Ok(self.client.send(method, self.client.at(&path, &query), None).await?)
    }

    async fn copy_volume(&self, args: &CopyVolumeArgs) -> Result<(), RunError> {
        let VolumeName { tenant, name } = args.of.volume(&args.from);
        let query = [("tenant", named(tenant.clone())), ("to", Some(args.to.clone()))];
        let at = self.client.at(&["v1", "volumes", &name, "copy"], &query);
        self.succeeded_or_given_up(self.client.send(Method::POST, at, None).await?).await?;
        let all: Vec<Volume> = self.client.list("volumes", &[]).await?;
        let copies = || all.iter().filter(|one| one.of.name == args.to);
        // A tenant sees its own volumes alone; an operator may see copies of several tenants.
        let copy = copies().find(|one| one.of.tenant == tenant).or_else(|| copies().next());
        let gone = || self.client.malformed(format!("the copy {} is not in its list", args.to));
        volumes::tell(self.shared, "copied", copy.ok_or_else(gone)?);
        Ok(())
    }

    async fn remove_volumes(&self, args: &RemoveVolumesArgs) -> Result<(), RunError> {
        let mut removed = vec![];
        let mut failed = None;
        for of in args.names.iter().map(|name| args.of.volume(name)) {
            let query = [("tenant", named(of.tenant.clone()))];
            let at = self.client.at(&["v1", "volumes", &of.name], &query);
            match self.client.bytes(Method::DELETE, at, None).await {
                Ok(_) => removed.push(of),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        volumes::tell_removed(self.shared, &removed);
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Leaves out the default tenant, so that the service takes the token's tenant.
fn named(tenant: String) -> Option<String> {
    Some(tenant).filter(|tenant| tenant != DEFAULT_TENANT)
}
