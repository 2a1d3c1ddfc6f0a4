//! From file to service: a file in the plugins folder becomes a plugin in service, and its deletion a retirement.
//!
//! - `folder.rs`: the files.
//! - `validate.rs`: what a parser can tell before anything is compiled.
//! - `keep.rs`: the host's own copies: bytes by digest, compiled artifacts, manifests.
//! - `manifest.rs`: what a plugin says of itself, checked; schemas and grants.
//! - `plugin.rs`: what stands behind a plugin: code and schemas.
//! - `prepare.rs`: all of these in order: a file becomes a plugin that could serve.
//! - `roster.rs`: who does serve, by rules without I/O.
//! - `record.rs`: memory across starts, and the state for other processes.
//! - `watch.rs`: follows the folder.
//!
//! Whatever happens to a file harms no other and leaves in service what the file had in service before.

mod folder;
mod keep;
mod manifest;
mod plugin;
mod prepare;
mod record;
mod roster;
mod validate;
pub(in crate::plugins) use self::validate::validate as check_component;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;

use self::keep::{Compiler, Keep};
pub(in crate::plugins) use self::plugin::Component;
use self::prepare::{Load, Pipeline, Prepared};
use self::record::{History, Past, Record};
use self::roster::{Roster, Service};
use crate::clock::Clock;
use crate::digest::Digest;
use crate::folders::{self, Stamp};
use crate::plugins::sandbox::{Loaded, Permits, Sandbox};
use crate::plugins::{Manifest, Plugin, PluginOptions, Serving, Snapshot};
use crate::router::Offers;
use crate::task::Failure;

/// Files that are read and checked at once when the folder is first scanned.
const FILES_AT_ONCE: usize = 16;

/// How often the first scan looks again at a file that is being written, one quiet time apart, before it leaves it to the
/// watcher.
const PATIENCE: u32 = 5;

/// The plugins of one home.
pub(in crate::plugins) struct Catalog {
    folder: PathBuf,
    quiet: Duration,
    clock: Clock,
    pipeline: Arc<Pipeline>,
    record: Arc<Record>,
    roster: Mutex<Roster>,
    view: RwLock<View>,
    /// Another process owned the record when this one last had something to write.
    unwritten: AtomicBool,
    /// The state in which each file was taken up last. Held by the one watcher for as long as it watches.
    seen: tokio::sync::Mutex<BTreeMap<String, Stamp>>,
}

/// What is in service, as others see it. Replaced as a whole.
#[derive(Default)]
struct View {
    plugins: Vec<Arc<Plugin>>,
    snapshot: Arc<Snapshot>,
    offers: Arc<Offers>,
    history: History,
    /// False before the first scan is done.
    published: bool,
}

/// What became of a file at the first look.
struct First {
    file: String,
    stamp: Stamp,
    prepared: Prepared,
}

impl First {
    /// A file that is not quiet yet is left to the watcher.
    fn settled(&self) -> Option<(String, Stamp)> {
        (!matches!(self.prepared, Prepared::Unsteady)).then(|| (self.file.clone(), self.stamp))
    }
}

impl Catalog {
    /// Goes on from the last start, then takes up what lies in the folder now.
    pub async fn open(options: PluginOptions, sandbox: Arc<Sandbox>) -> Result<Self, Failure> {
        let PluginOptions { folder, data, compiler, config, clock } = options;
        let unusable = |e: std::io::Error| {
            let folder = folder.display();
            Failure::unavailable("plugins_folder", format!("the plugins folder {folder} cannot be read: {e}"))
        };
        std::fs::create_dir_all(&folder).map_err(unusable)?;
        let compiler = Compiler {
            program: compiler,
            arguments: vec!["compile-component".into()],
            limit: Duration::from_secs(config.plugins.compile_seconds),
            at_once: config.plugins.compilers,
        };
        let keep = Keep::open(&data, compiler, sandbox.compatibility())?;
        let record = Arc::new(Record::new(data));
        let files = folder::list(&folder).map_err(unusable)?;
        let history = record.history();
        let catalog = Self {
            folder,
            quiet: Duration::from_millis(config.plugins.quiet_milliseconds),
            clock,
            pipeline: Arc::new(Pipeline::new(keep, sandbox, config)),
            record,
            roster: Mutex::new(Roster::with_retired(history.retired)),
            view: RwLock::default(),
            unwritten: AtomicBool::new(false),
            seen: tokio::sync::Mutex::default(),
        };
        let prepared = catalog.prepare_all(files).await;
        catalog.restore(history.serving, &prepared).await;
        catalog.seen.lock().await.extend(prepared.iter().filter_map(First::settled));
        prepared.into_iter().for_each(|first| catalog.apply(&first.file, first.prepared));
        catalog.publish().await;
        Ok(catalog)
    }

    pub async fn watch(&self, stop: tokio_util::sync::CancellationToken) {
        watch::watch(self, stop).await;
    }

    pub fn offers(&self) -> Arc<Offers> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).offers.clone()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).snapshot.clone()
    }

    /// In service, or made ready from the kept bytes.
    pub async fn get(&self, digest: Digest) -> Result<Arc<Plugin>, Failure> {
        match self.in_service(digest) {
            Some(plugin) => Ok(plugin),
            None => self.pipeline.kept(digest).await,
        }
    }

    /// The code of a plugin.
    pub async fn loaded(&self, plugin: &Plugin) -> Result<Loaded, Failure> {
        let about = |mut failure: Failure| {
            failure.message = format!("plugin `{}` ({}): {}", plugin.manifest.name, plugin.file, failure.message);
            failure
        };
        self.pipeline.loaded(plugin).await.map_err(about)
    }

    /// What a start of this plugin may do: what its manifest asks for and the operator grants.
    pub fn permits(&self, plugin: &Plugin) -> Permits {
        let config = &self.pipeline.config.plugins;
        let Manifest { name, version, capabilities, .. } = &plugin.manifest;
        let granted = manifest::granted(config, name);
        Permits {
            plugin: name.clone(),
            version: version.clone(),
            wanted: capabilities.iter().cloned().collect(),
            capabilities: capabilities.iter().filter(|c| granted.contains(*c)).cloned().collect(),
            grant: manifest::grant(config, name),
            settings: config.settings.get(name).cloned().unwrap_or_default(),
            limits: config.limits.clone(),
        }
    }

    /// Removes kept bytes that are neither in service, nor the version before one in service, nor wanted.
    pub fn collect(&self, wanted: &BTreeSet<Digest>) -> usize {
        let mut wanted = wanted.clone();
        for service in self.roster().serving() {
            wanted.insert(service.plugin.digest);
            wanted.extend(service.previous);
        }
        self.pipeline.retain(&wanted)
    }

    /// The first look at the folder: files are prepared together, and given in the order of their names.
    async fn prepare_all(&self, files: BTreeMap<String, Stamp>) -> Vec<First> {
        let ways = files.into_iter().map(|(file, stamp)| async move {
            let (stamp, prepared) = self.prepare_first(&file, stamp).await?;
            Some(First { file, stamp, prepared })
        });
        let done: Vec<_> = futures::stream::iter(ways).buffered(FILES_AT_ONCE).collect().await;
        done.into_iter().flatten().collect()
    }

    /// What the files had in service when the host last ran; files that are gone since are retired. What lies in them
    /// now is offered afterwards, as if it had changed while the host ran.
    async fn restore(&self, serving: Vec<Past>, files: &[First]) {
        for past in serving {
            let Some(first) = files.iter().find(|first| first.file == past.file) else {
                let now = self.clock.now();
                self.roster().restore_retired(&past, now);
                continue;
            };
            let plugin = match &first.prepared {
                Prepared::Ready(same) if same.digest == past.digest => Ok(same.clone()),
                _ => self.pipeline.kept(past.digest).await.map(|plugin| Arc::new(plugin.in_file(&past.file))),
            };
            match plugin {
                Ok(plugin) => {
                    self.roster().restore(Service { plugin, since: past.since, previous: past.previous });
                }
                Err(failure) => tracing::warn!(
                    plugin = past.name,
                    file = past.file,
                    "the version that was in service when the host last ran cannot be taken up again: {failure}"
                ),
            }
        }
    }

    /// A file that did not change lately is quiet already; another one is looked at again. None: it is gone.
    async fn prepare_first(&self, file: &str, mut stamp: Stamp) -> Option<(Stamp, Prepared)> {
        let path = self.folder.join(file);
        for _ in 0..PATIENCE {
            if self.clock.now().since(stamp.modified()) < self.quiet {
                tokio::time::sleep(self.quiet).await;
                let again = folders::stamp(&path)?;
                if again != stamp {
                    stamp = again;
                    continue;
                }
            }
            match self.pipeline.prepare(file, path.clone(), stamp, Load::Later).await {
                Prepared::Unsteady => stamp = folders::stamp(&path)?,
                prepared => return Some((stamp, prepared)),
            }
        }
        Some((stamp, Prepared::Unsteady))
    }

    /// Takes what became of a file into the roster.
    fn apply(&self, file: &str, prepared: Prepared) {
        let now = self.clock.now();
        match prepared {
            Prepared::Ready(plugin) => self.roster().offer(plugin, now),
            Prepared::Refused { digest, reason } => self.roster().refuse(file, digest, reason),
            Prepared::Unsteady => {
                let quiet = self.quiet.as_millis();
                let reason =
                    format!("`{file}` is still being written: it is taken up once it is unchanged for {quiet} ms");
                self.roster().refuse(file, None, reason);
            }
        }
    }

    /// Lets everybody see what the roster says now: others, and the next start, through the record; then this process, so
    /// that whatever was seen in service is remembered.
    async fn publish(&self) {
        let (plugins, snapshot, history) = {
            let roster = self.roster();
            let plugins = roster.serving().map(|service| service.plugin.clone()).collect();
            (plugins, self.snapshot_of(&roster), roster.history())
        };
        let unwritten = self.unwritten.load(Ordering::Relaxed);
        if !unwritten && self.shown(&snapshot, &history) {
            return;
        }
        let offers = Arc::new(snapshot.offers());
        let view = View { plugins, snapshot: Arc::new(snapshot), offers, history, published: true };
        let (record, history, snapshot) = (self.record.clone(), view.history.clone(), view.snapshot.clone());
        let done = match tokio::task::spawn_blocking(move || record.write(&history, &snapshot)).await {
            Ok(Ok(done)) => done,
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "the state of the plugins could not be written down; it is tried again");
                false
            }
            Err(_) => false,
        };
        self.unwritten.store(!done, Ordering::Relaxed);
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Nothing new. The first time nothing was shown yet, whatever it says.
    fn shown(&self, snapshot: &Snapshot, history: &History) -> bool {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.published && *view.snapshot == *snapshot && view.history == *history
    }

    fn snapshot_of(&self, roster: &Roster) -> Snapshot {
        let mut serving: Vec<_> = roster.serving().map(|service| self.serving(service)).collect();
        serving.sort_by(|a, b| a.name.cmp(&b.name));
        Snapshot { serving, rejected: roster.rejected(), retired: roster.retired() }
    }

    fn serving(&self, service: &Service) -> Serving {
        let Plugin { manifest, digest, file, .. } = &*service.plugin;
        let granted = manifest::granted(&self.pipeline.config.plugins, &manifest.name);
        Serving {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            summary: manifest.summary.clone(),
            digest: *digest,
            file: file.clone(),
            task_types: manifest.task_types.keys().cloned().collect(),
            capabilities: manifest.capabilities.clone(),
            denied: manifest.capabilities.iter().filter(|c| !granted.contains(*c)).cloned().collect(),
            since: service.since,
        }
    }

    fn in_service(&self, digest: Digest) -> Option<Arc<Plugin>> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.plugins.iter().find(|plugin| plugin.digest == digest).cloned()
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
