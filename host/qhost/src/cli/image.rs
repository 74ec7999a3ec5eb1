//! `qhost image …`

use std::{path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;
use clap::{Args, Subcommand};

use super::{OfTenant, candidates, run::ImageNetworks};

/// About stored images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Fetch an image into the store, checked and inspected
    Pull(PullImageArgs),
    /// Put a file of this host into the store, as if it had been fetched from a URL
    Import(ImportImageArgs),
    /// List stored images, the one used last first, and unfinished downloads
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Say what is known of a stored image, or what the rules say of a file
    Inspect(InspectImageArgs),
    /// Hash stored images again; one that is not what it was is put away
    Verify(VerifyImageArgs),
    /// Remove stored images that are not used
    Rm(RemoveImageArgs),
    /// Make room: remove images by age and total size, and what killed runs left
    Gc(GcArgs),
    /// Print the path of a stored image
    Path(ImagePathArgs),
}

/// `qhost image ls` and `qhost overlay ls`
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    /// Whose.
    pub of: OfTenant,
    /// Print only digests or names, one a line
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
}

/// `qhost image pull`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost image pull https://images.example/web.qcow2 --checksum $(cut -d' ' -f1 web.qcow2.sha256)
  qhost image pull https://images.example/web.raw.xz https://mirror.example/web.raw.xz \\
      --checksum 'https://images.example/SHA256SUMS#sha256=…'

No policy is asked: this is for the operator. A broken download is gone on with by the next one.
Exit code 13 when no source delivers, 14 for another checksum, 15 when the image is unsafe.")]
pub struct PullImageArgs {
    /// Where the image is served; further ones are mirrors, tried in order. What gzip, xz or zstd packed is unpacked
    #[arg(value_name = "URL", required = true)]
    pub sources: Vec<String>,
    /// The SHA-256 or SHA-512 of the file as served; or URL#sha256=DIGITS, a list of checksums with its own, and &name=NAME where
    /// the list has another name for the file than the URL
    #[arg(long, value_name = "CHECKSUM")]
    pub checksum: String,
    #[command(flatten)]
    /// Where images may come from.
    pub networks: ImageNetworks,
}

/// `qhost image import`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost image import web.qcow2 --url https://images.example/web.qcow2
  qhost image import debian-12-genericcloud-amd64.qcow2 --checksum sha512:… \\
      --url https://images.example/debian-12-genericcloud-amd64.qcow2

For a host that has no way to the image's server. A job then names the URL and the checksum as on every other host, and nothing
is fetched. The file is checked, unpacked and inspected as one that was fetched. No policy is asked: this is for the operator.
Exit code 14 for another checksum, 15 when the image is unsafe.")]
pub struct ImportImageArgs {
    /// The file, as its server would send it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Where it is served: jobs that name a URL of the same scheme, host and port may have it
    #[arg(long = "url", value_name = "URL", required = true)]
    pub urls: Vec<String>,
    /// What it must hash to, as for pull; absent: whatever it does
    #[arg(long, value_name = "CHECKSUM")]
    pub checksum: Option<String>,
}

/// `qhost image inspect`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost image inspect 47dd0c61
  qhost image inspect ./disk.qcow2      before it is published: exit code 15 when a host would refuse it")]
pub struct InspectImageArgs {
    /// The beginning of a stored image's digest; or a file
    #[arg(value_name = "DIGEST|FILE", add = candidates::images())]
    pub image: String,
}

/// `qhost image verify`
#[derive(Debug, Args)]
#[command(after_help = "Exit code 1 when an image was not what it should be.")]
pub struct VerifyImageArgs {
    /// The beginnings of digests; all images without any
    #[arg(value_name = "DIGEST", add = candidates::images())]
    pub images: Vec<String>,
}

/// `qhost image rm`
#[derive(Debug, Args)]
pub struct RemoveImageArgs {
    /// The beginnings of digests
    #[arg(value_name = "DIGEST", required = true, add = candidates::images())]
    pub images: Vec<String>,
}

/// `qhost image gc`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qhost image gc --older-than 30d
  qhost image gc --max-bytes 200GiB --dry-run

Never an image that a VM uses or that a kept overlay lies over, nor a download that a process is at.
Without options, only what killed runs left goes, and downloads that were not gone on with for a day.")]
pub struct GcArgs {
    /// Remove images that no run has used for so long: 30d, 12h
    #[arg(long, value_name = "AGE")]
    pub older_than: Option<Age>,
    /// Remove unfinished downloads, then the images that are the longest unused, until the rest takes no more than this of the
    /// disk: 200GiB
    #[arg(long, value_name = "SIZE")]
    pub max_bytes: Option<ByteSize>,
    /// Remove all unfinished downloads
    #[arg(long)]
    pub unfinished: bool,
    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `qhost image path`
#[derive(Debug, Args)]
pub struct ImagePathArgs {
    /// The beginning of a stored image's digest
    #[arg(value_name = "DIGEST", add = candidates::images())]
    pub image: String,
}

/// A span of time.
#[derive(Debug, Clone, Copy)]
pub struct Age(pub Duration);

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = |why: String| format!("{why}; expected a span of time: 30d, 12h");
        let span: jiff::Span =
            text.parse().map_err(|error: jiff::Error| expected(error.to_string()))?;
        let days = jiff::SpanRelativeTo::days_are_24_hours();
        let span = span.to_duration(days).map_err(|error| expected(error.to_string()))?;
        Duration::try_from(span).map(Self).map_err(|_| expected("less than no time".into()))
    }
}

impl InspectImageArgs {
    /// The file, if a file is meant.
    pub fn file(&self) -> Option<PathBuf> {
        let path = PathBuf::from(&self.image);
        (self.image.contains('/') || path.is_file()).then_some(path)
    }
}
