//! The files of a prompt: outputs fetched into the job's folder, inputs brought to the server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::client::{Client, Collected, Folders, Run};
use super::http::{Trouble, Upload};
use super::problems::{Code, PromptFailure};
use super::record::Item;

/// Pauses before a transfer that broke off is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(1500)];

impl Client {
    /// Fetches what a record names.
    pub(super) async fn collect(&self, items: Vec<Item>, run: &Run<'_>) -> Result<Vec<Collected>, PromptFailure> {
        let mut collected = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = run.folder.join(format!("{index:05}"));
            let there = match &self.folders {
                Some(folders) => take(folders, &item, &path).await,
                None => self.fetch(&item, &path).await?,
            };
            if !there {
                return Err(lost(&item));
            }
            let Item { name, subfolder, kind, node, .. } = item;
            collected.push(Collected { name, subfolder, kind, node, path });
        }
        Ok(collected)
    }

    async fn fetch(&self, item: &Item, to: &Path) -> Result<bool, PromptFailure> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let trouble = match self.http.fetch(item, to, self.times.transfer).await {
                Ok(there) => return Ok(there),
                Err(Trouble::Odd(words)) => {
                    return Err(PromptFailure::new(
                        Code::OutputLost,
                        format!("ComfyUI has {}, but {words}", item.name),
                    )
                    .at(&item.node));
                }
                Err(trouble) => trouble,
            };
            let Some(pause) = pauses.next() else {
                return Err(PromptFailure::new(
                    Code::EngineCrashed,
                    format!("ComfyUI ran the prompt, but did not give its output {}: {}", item.name, trouble.words()),
                ));
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Brings a file to where the server's nodes find it; the name that the graph has to use. `subfolder` is the job's own.
    pub(super) async fn bring(&self, file: &Path, name: &str, subfolder: &str) -> Result<String, PromptFailure> {
        if let Some(folders) = &self.folders {
            let folder = folders.input.join(subfolder);
            let (from, to) = (file.to_path_buf(), folder.join(name));
            let copied = blocking(move || {
                std::fs::create_dir_all(&folder)?;
                // A copy, for what nodes do to their inputs must not reach the artifacts.
                std::fs::copy(&from, &to)
            });
            return match copied.await {
                Ok(_) => Ok(format!("{subfolder}/{name}")),
                Err(e) => Err(PromptFailure::new(
                    Code::InputMissing,
                    format!("Cannot copy {name} into ComfyUI's input folder: {e}. Check the disk."),
                )),
            };
        }
        let mut pauses = PAUSES.into_iter();
        loop {
            let trouble = match self.http.upload(file, name, subfolder, self.times.transfer).await {
                Ok(name) => return Ok(name),
                Err(Upload::TooLarge(bytes)) => {
                    return Err(PromptFailure::new(
                        Code::InputTooLarge,
                        format!(
                            "ComfyUI takes no upload of {} MB ({name}); start it with a larger --max-upload-size.",
                            bytes / 1_000_000
                        ),
                    ));
                }
                Err(Upload::File(words)) => return Err(PromptFailure::new(Code::InputMissing, words)),
                Err(Upload::Trouble(Trouble::Odd(words))) => {
                    return Err(PromptFailure::new(
                        Code::InputMissing,
                        format!("ComfyUI did not take {name}: {words}"),
                    ));
                }
                Err(Upload::Trouble(trouble)) => trouble,
            };
            let Some(pause) = pauses.next() else {
                return Err(PromptFailure::new(
                    Code::EngineCrashed,
                    format!("ComfyUI did not take the input {name}: {}", trouble.words()),
                ));
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// Takes an output from the server's own folder. False: it is not there, or empty.
async fn take(folders: &Folders, item: &Item, to: &Path) -> bool {
    let root = if item.folder == "temp" { folders.temp.clone() } else { folders.output.clone() };
    let from = root.join(&item.subfolder).join(&item.name);
    let to = to.to_path_buf();
    let name = item.name.clone();
    let taken = blocking(move || {
        inside(&root, &from)?;
        if std::fs::metadata(&from)?.len() == 0 {
            return Ok(false);
        }
        // Nobody else wants it: its folder is the job's own.
        if std::fs::rename(&from, &to).is_err() {
            std::fs::copy(&from, &to)?;
            std::fs::remove_file(&from)?;
        }
        Ok(true)
    });
    taken.await.unwrap_or_else(|e| {
        tracing::debug!(name, error = %e, "an output of ComfyUI could not be taken");
        false
    })
}

/// Follows links: what a record names must lie below the folder.
fn inside(root: &Path, file: &Path) -> io::Result<()> {
    let (root, file): (PathBuf, PathBuf) = (root.canonicalize()?, file.canonicalize()?);
    if file.starts_with(&root) && file.is_file() {
        return Ok(());
    }
    Err(io::Error::other("it lies outside the server's folder"))
}

fn lost(item: &Item) -> PromptFailure {
    let place = if item.subfolder.is_empty() { item.name.clone() } else { format!("{}/{}", item.subfolder, item.name) };
    PromptFailure::new(
        Code::OutputLost,
        format!(
            "ComfyUI says that node {} left {place}, but the file is not there or is empty. The result may have come from its \
             cache, and the file was moved since.",
            item.node
        ),
    )
    .at(&item.node)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
