//! Follows the folder: events of the operating system wake it at once, and a slow rescan stands in where there are none
//! (network file systems). Both only say *look*; what is to be done follows from comparing the folder with what was
//! taken up last, so a lost or doubled event changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Catalog;
use super::folder;
use super::prepare::{Load, Prepared, unusable};
use crate::folders::{FolderEvents, RESCAN, Settling, Stamp, pause};
use crate::plugins::Plugin;
use crate::task::Failure;

/// Something that went on beside the watcher has ended.
enum Done {
    /// A file, in the state it had, went its way.
    Prepared(String, Stamp, Prepared),
    /// A plugin in service was loaded, so that no task has to wait for it.
    Loaded(Arc<Plugin>, Result<(), Failure>),
}

/// Until told to stop.
pub(super) async fn watch(catalog: &Catalog, stop: CancellationToken) {
    let mut events = FolderEvents::default();
    let mut seen = catalog.seen.lock().await;
    let mut watcher = Watcher {
        catalog,
        seen: &mut seen,
        settling: Settling::default(),
        preparing: BTreeMap::new(),
        work: load_all(catalog),
    };
    let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
    loop {
        let settling = !watcher.settling.is_empty();
        tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = watcher.work.join_next() => {
                if let Ok(done) = done {
                    watcher.finish(done).await;
                }
                continue;
            }
            // While something settles the timer sets the pace: a file being written wakes with every block.
            () = events.wake.notified(), if !settling => {}
            () = &mut timer => {}
        }
        events.follow(&catalog.folder, "plugins folder");
        watcher.look().await;
        let next = if watcher.settling.is_empty() { RESCAN } else { pause(catalog.quiet) };
        timer.set(tokio::time::sleep(next));
    }
}

/// What is under way.
struct Watcher<'a> {
    catalog: &'a Catalog,
    /// The state in which each file was taken up last.
    seen: &'a mut BTreeMap<String, Stamp>,
    settling: Settling,
    /// Files on their way, in the state they are read in.
    preparing: BTreeMap<String, Stamp>,
    work: JoinSet<Done>,
}

impl Watcher<'_> {
    /// Compares the folder with what was taken up, and starts what is due.
    async fn look(&mut self) {
        let folder = self.catalog.folder.clone();
        let files = match tokio::task::spawn_blocking(move || folder::list(&folder)).await {
            Ok(Ok(files)) => files,
            Ok(Err(e)) => {
                // A folder that cannot be read is no folder without files.
                let folder = self.catalog.folder.display();
                tracing::warn!(%folder, error = %e, "the plugins folder cannot be read: everything stays as it is");
                return;
            }
            Err(_) => return,
        };
        self.follow_renames(&files);
        let mut changed: BTreeMap<_, _> = files
            .iter()
            .filter(|(file, stamp)| self.seen.get(*file) != Some(stamp))
            .map(|(file, stamp)| (file.clone(), Some(*stamp)))
            .collect();
        changed.extend(self.missing(&files).into_iter().map(|file| (file, None)));
        let quiet = self.settling.look(changed);
        let (there, gone): (Vec<_>, Vec<_>) = quiet.into_iter().partition(|(_, state)| state.is_some());
        for (file, state) in there {
            if let Some(stamp) = state {
                self.start(file, stamp);
            }
        }
        gone.iter().for_each(|(file, _)| self.retire(file));
        self.catalog.publish().await;
    }

    /// Files that stand for something and are not there.
    fn missing(&self, files: &BTreeMap<String, Stamp>) -> BTreeSet<String> {
        let roster = self.catalog.roster();
        let known = self.seen.keys().chain(roster.files());
        known.filter(|file| !files.contains_key(*file)).cloned().collect()
    }

    /// Sends a quiet file on its way.
    fn start(&mut self, file: String, stamp: Stamp) {
        self.seen.insert(file.clone(), stamp);
        self.preparing.insert(file.clone(), stamp);
        let (pipeline, path) = (self.catalog.pipeline.clone(), self.catalog.folder.join(&file));
        self.work.spawn(async move {
            let prepared = pipeline.prepare(&file, path, stamp, Load::Now).await;
            Done::Prepared(file, stamp, prepared)
        });
    }

    /// A file is gone for good, unless a copy of it is on its way under another name: then that one is ready first, and
    /// takes its place without a gap.
    fn retire(&mut self, file: &str) {
        if let Some(old) = self.seen.get(file) {
            let arriving = self.settling.states().filter_map(|(_, state)| state);
            if arriving.chain(self.preparing.values().copied()).any(|stamp| stamp.size == old.size) {
                return;
            }
        }
        self.seen.remove(file);
        let now = self.catalog.clock.now();
        self.catalog.roster().remove(file, now);
    }

    /// A file that is missing while the very same file stands under a new name was renamed: nothing is read again, and
    /// its plugin is in service without a gap.
    fn follow_renames(&mut self, files: &BTreeMap<String, Stamp>) {
        for from in self.missing(files) {
            let Some(stamp) = self.seen.get(&from).copied() else { continue };
            let mut roster = self.catalog.roster();
            let new = files.iter().find(|(to, s)| **s == stamp && !self.seen.contains_key(*to) && !roster.knows(to));
            if let Some((to, _)) = new
                && roster.knows(&from)
                && !self.preparing.contains_key(&from)
                && Path::new(&from).extension() == Path::new(to).extension()
            {
                roster.rename(&from, to);
                self.seen.remove(&from);
                self.seen.insert(to.clone(), stamp);
            }
        }
    }

    async fn finish(&mut self, done: Done) {
        match done {
            Done::Prepared(file, stamp, prepared) => {
                if self.preparing.get(&file) == Some(&stamp) {
                    self.preparing.remove(&file);
                }
                if self.seen.get(&file) != Some(&stamp) {
                    // Changed or deleted since: what was prepared is out of date.
                } else if matches!(prepared, Prepared::Unsteady) {
                    self.seen.remove(&file);
                } else {
                    self.catalog.apply(&file, prepared);
                    self.catalog.publish().await;
                }
            }
            Done::Loaded(_, Ok(())) => {}
            Done::Loaded(plugin, Err(failure)) => {
                let reason = format!("`{}` {}", plugin.file, unusable(&failure));
                if self.catalog.in_service(plugin.digest).is_some() {
                    self.catalog.roster().refuse(&plugin.file, Some(plugin.digest), reason);
                    self.catalog.publish().await;
                }
            }
        }
    }
}

/// Plugins known from earlier starts came into service unloaded.
fn load_all(catalog: &Catalog) -> JoinSet<Done> {
    let plugins: Vec<_> = catalog.roster().serving().map(|service| service.plugin.clone()).collect();
    let mut work = JoinSet::new();
    for plugin in plugins {
        let pipeline = catalog.pipeline.clone();
        work.spawn(async move {
            let loaded = pipeline.loaded(&plugin).await.map(drop);
            Done::Loaded(plugin, loaded)
        });
    }
    work
}
