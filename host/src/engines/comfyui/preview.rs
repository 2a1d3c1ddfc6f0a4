//! The newest preview of a job, kept as a JPEG beside it.

use std::io;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use tokio::task::spawn_blocking;

use super::events::Picture;

/// Writes the picture in the background; a preview that cannot be kept costs nobody anything.
pub(super) fn keep(picture: Picture, path: &Path) {
    let path = path.to_path_buf();
    spawn_blocking(move || {
        if let Err(e) = write(&picture, &path) {
            tracing::debug!(error = %e, path = %path.display(), "a preview was not kept");
        }
    });
}

fn write(picture: &Picture, path: &Path) -> io::Result<()> {
    let jpeg = if picture.jpeg {
        picture.bytes.to_vec()
    } else {
        let mut jpeg = io::Cursor::new(Vec::new());
        let decoded = image::load_from_memory(&picture.bytes).map_err(io::Error::other)?;
        decoded.to_rgb8().write_to(&mut jpeg, ImageFormat::Jpeg).map_err(io::Error::other)?;
        jpeg.into_inner()
    };
    // Whoever looks at it meanwhile sees the old one or the new one.
    let mut aside = PathBuf::from(path);
    aside.set_extension("new");
    std::fs::write(&aside, jpeg)?;
    std::fs::rename(&aside, path)
}
