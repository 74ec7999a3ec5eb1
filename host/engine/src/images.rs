//! Stored images for the operator: their fetching without a VM, their users, and their removal.

use ipnet::IpNet;

use qhost_image::{Fetcher, ImageError, Stored, VerifiedImage};
use qhost_model::{digest::Sha256, job::ImageRequest, printable};
use qhost_vm::{Allocation, running};

use crate::{
    engine::Engine,
    error::{EngineError, Failure},
    limits,
    observer::Context,
    overlays,
};

/// Images, each with one of its users.
pub struct ImageUses(Vec<(Sha256, String)>);

impl ImageUses {
    /// The users of an image: VMs by their ids, and kept overlays by their tasks.
    pub fn of(&self, sha256: Sha256) -> Vec<String> {
        self.0.iter().filter(|(image, _)| *image == sha256).map(|(_, user)| user.clone()).collect()
    }
}

impl Engine {
    /// Gives the stored image of a request, which is fetched first if it is missing. The networks in `also` are allowed beside the
    /// configuration's.
    ///
    /// # Errors
    /// Fails where the image cannot be fetched, has another digest than asked for, is unsafe, or does not fit the host's quota, or where
    /// the fetch is given up.
    pub async fn fetch_image(
        &self,
        request: &ImageRequest,
        also: &[IpNet],
        context: &Context,
    ) -> Result<VerifiedImage, EngineError> {
        let (mut config, store) = (self.config(), self.images());
        config.image.network.allow.extend(also);
        let fetcher = Fetcher::operator(&config.image, config.host_quota(), context.progress());
        tokio::select! {
            image = store.ensure(request, fetcher) => Ok(image?),
            () = context.cancel.cancelled() => Err(Failure::Cancelled.into()),
        }
    }

    /// The uses of stored images by VMs that have not ended and by kept overlays.
    ///
    /// # Errors
    /// Fails where the overlays cannot be read.
    pub fn image_uses(&self) -> Result<ImageUses, EngineError> {
        Ok(self.uses()?)
    }

    fn uses(&self) -> Result<ImageUses, Failure> {
        let running = running(self.state()).into_iter();
        let running = running.flat_map(|vm| {
            let images = vm.takes.get().map(Allocation::images).unwrap_or_default();
            images.into_iter().map(move |image| (image, vm.id.clone()))
        });
        let kept = overlays::kept_over(self.state())?.into_iter();
        let shown = |whose: String| {
            format!("overlay:{}", printable::line(&whose, limits::SHOWN_NAME_CHARS))
        };
        Ok(ImageUses(running.chain(kept.map(|(image, whose)| (image, shown(whose)))).collect()))
    }

    /// Removes a stored image that nothing uses.
    ///
    /// # Errors
    /// Fails where a VM or an overlay uses the image, or it cannot be removed.
    pub fn remove_image(&self, stored: &Stored) -> Result<(), EngineError> {
        let (sha256, users) = (stored.sha256, self.uses()?.of(stored.sha256));
        let removed = users.is_empty() && self.images().remove(stored).map_err(Failure::Image)?;
        if removed {
            return Ok(());
        }
        Err(ImageError::InUse { sha256, by: users.join(" ") }.into())
    }
}
