//! From a file to a plugin that could serve: read, hash, validate, keep, compile, load, describe, check. Knows nothing
//! of who is in service, so any number of files go this way at once, and one that takes long holds up no other.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OnceCell, RwLock};

use super::folder::{self, Content};
use super::keep::{self, Description, Keep};
use super::plugin::Component;
use super::{manifest, validate};
use crate::config::Config;
use crate::digest::Digest;
use crate::folders::Stamp;
use crate::plugins::Plugin;
use crate::plugins::sandbox::{Loaded, Sandbox};
use crate::task::Failure;

/// The way and its tools.
pub(super) struct Pipeline {
    pub keep: Keep,
    pub sandbox: Arc<Sandbox>,
    pub config: Arc<Config>,
    /// Every component that is alive somewhere, in service or under a task.
    alive: Mutex<HashMap<Digest, Weak<Component>>>,
    /// Held (shared) while bytes are on their way to becoming a plugin: nothing is cleaned up meanwhile.
    underway: RwLock<()>,
}

/// What became of a file.
pub(super) enum Prepared {
    Ready(Arc<Plugin>),
    /// The reason is a whole sentence that begins with the file's name.
    Refused {
        digest: Option<Digest>,
        reason: String,
    },
    /// It changed meanwhile.
    Unsteady,
}

/// The rest of a sentence about a file that is well-formed and still of no use.
pub(super) fn unusable(failure: &Failure) -> String {
    format!("cannot be taken up: {}", failure.message)
}

/// When the code of a plugin is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Before it comes into service.
    Now,
    /// When it is needed, if it ran here before.
    Later,
}

impl Pipeline {
    pub fn new(keep: Keep, sandbox: Arc<Sandbox>, config: Arc<Config>) -> Self {
        Self { keep, sandbox, config, alive: Mutex::default(), underway: RwLock::default() }
    }

    /// The whole way of one file.
    pub async fn prepare(self: &Arc<Self>, file: &str, path: PathBuf, stamp: Stamp, load: Load) -> Prepared {
        let _underway = self.underway.read().await;
        let refused = |digest, rest: String| Prepared::Refused { digest, reason: format!("`{file}` {rest}") };
        let most_mb = self.config.plugins.file_mb;
        let reading = tokio::task::spawn_blocking(move || match folder::read(&path, stamp, most_mb) {
            Content::Bytes(bytes) => Ok((Digest::of(&bytes), bytes)),
            other => Err(other),
        });
        let (digest, bytes) = match reading.await {
            Ok(Ok(read)) => read,
            Ok(Err(Content::Unfit(rest))) => return refused(None, rest),
            Ok(Err(_)) => return Prepared::Unsteady,
            Err(e) => return refused(None, format!("could not be read: {e}")),
        };
        let made = match self.alive(digest) {
            Some(component) => Ok(component),
            None => self.make(file, digest, bytes).await,
        };
        let plugin = match made {
            Ok(component) => Arc::new(Plugin::of(component, file)),
            Err(rest) => return refused(Some(digest), rest),
        };
        if load == Load::Now
            && let Err(failure) = self.loaded(&plugin).await
        {
            return refused(Some(digest), unusable(&failure));
        }
        Prepared::Ready(plugin)
    }

    /// A plugin from kept bytes: of an earlier start, or of a task that began on it.
    pub async fn kept(self: &Arc<Self>, digest: Digest) -> Result<Arc<Plugin>, Failure> {
        let _underway = self.underway.read().await;
        let file = self.keep.description(digest).map(|d| d.file).unwrap_or_else(|| format!("{}.wasm", digest.hex()));
        if let Some(component) = self.alive(digest) {
            return Ok(Arc::new(Plugin::of(component, &file)));
        }
        let pipeline = self.clone();
        let bytes = tokio::task::spawn_blocking(move || pipeline.keep.read(digest))
            .await
            .map_err(|e| Failure::internal("plugin_store", format!("reading the kept bytes of {digest} failed: {e}")))??
            .ok_or_else(|| keep::missing(digest))?;
        self.make(&file, digest, bytes).await.map(|component| Arc::new(Plugin::of(component, &file))).map_err(|rest| {
            Failure::unavailable("plugin_unusable", format!("the kept plugin `{file}` ({digest}) {rest}"))
        })
    }

    /// The code of a plugin, loaded now if it was not before; by one caller, however many ask.
    pub async fn loaded(self: &Arc<Self>, plugin: &Plugin) -> Result<Loaded, Failure> {
        let cell: &OnceCell<Loaded> = &plugin.component.loaded;
        cell.get_or_try_init(|| self.load(plugin.digest)).await.cloned()
    }

    /// Removes what belongs to none of these digests and to no plugin that is alive. While a file is on its way nothing is
    /// removed: the next time will do.
    pub fn retain(&self, wanted: &BTreeSet<Digest>) -> usize {
        let Ok(_still) = self.underway.try_write() else { return 0 };
        let mut wanted = wanted.clone();
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|_, component| component.strong_count() > 0);
        wanted.extend(alive.keys());
        self.keep.retain(&wanted)
    }

    /// Validate, keep, compile, load, describe, check. The error is the rest of a sentence.
    async fn make(self: &Arc<Self>, file: &str, digest: Digest, bytes: Vec<u8>) -> Result<Arc<Component>, String> {
        let known = self.keep.description(digest);
        let seen_before = known.is_some();
        let pipeline = self.clone();
        let checking = tokio::task::spawn_blocking(move || {
            if seen_before { validate::check_outside(&bytes) } else { validate::validate(&bytes) }?;
            // A description without bytes: somebody cleaned up by hand.
            if seen_before && pipeline.keep.has(digest) {
                return Ok(());
            }
            pipeline.keep.store(digest, &bytes).map_err(|failure| unusable(&failure))
        });
        checking.await.map_err(|e| format!("could not be validated: {e}"))??;
        let (text, loaded) = match known {
            Some(description) => (description.manifest, None),
            None => {
                let loaded = self.load(digest).await.map_err(|failure| unusable(&failure))?;
                let text = self.sandbox.describe(&loaded).await.map_err(|failure| unusable(&failure))?;
                (text, Some(loaded))
            }
        };
        let checked = manifest::check(&text, &self.config.plugins)?;
        if loaded.is_some() {
            let description = Description { file: file.to_string(), manifest: text };
            self.keep.describe(digest, &description).map_err(|failure| unusable(&failure))?;
        }
        Ok(self.enlist(Component { digest, checked, loaded: OnceCell::new_with(loaded) }))
    }

    /// Maps the native code. An artifact that is sound and yet does not fit this machine is compiled once more.
    async fn load(self: &Arc<Self>, digest: Digest) -> Result<Loaded, Failure> {
        match self.map(digest).await {
            Err(failure) if failure.code == "artifact_unusable" => {
                tracing::warn!(%digest, "a compiled artifact is thrown away and compiled anew: {failure}");
                self.keep.discard(digest);
                self.map(digest).await
            }
            mapped => mapped,
        }
    }

    async fn map(self: &Arc<Self>, digest: Digest) -> Result<Loaded, Failure> {
        let artifact = self.keep.artifact(digest).await?;
        let sandbox = self.sandbox.clone();
        let loading = tokio::task::spawn_blocking(move || sandbox.load(&artifact));
        loading.await.map_err(|e| Failure::internal("plugin_load", format!("loading plugin {digest} failed: {e}")))?
    }

    fn alive(&self, digest: Digest) -> Option<Arc<Component>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).get(&digest)?.upgrade()
    }

    /// One component per digest: when two files of the same bytes came this way at once, the first stands for both.
    fn enlist(&self, component: Component) -> Arc<Component> {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = alive.get(&component.digest).and_then(Weak::upgrade) {
            return first;
        }
        let component = Arc::new(component);
        alive.insert(component.digest, Arc::downgrade(&component));
        component
    }
}
