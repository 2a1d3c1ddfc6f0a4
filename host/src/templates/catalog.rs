//! The templates folder: a file that is dropped in serves its type, one that is replaced serves the next task, one that is
//! deleted is retired.
//!
//! A file is read once it has been quiet. One that does not load leaves the version before it in service, loudly, also over a
//! restart: the worker keeps a copy of what serves ([`TemplateOptions::kept`]) for exactly that. Other processes of a home read
//! the same folder and the same copies and write nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Requires, Template};
use crate::clock::Clock;
use crate::digest::Digest;
use crate::folders::{self, Content, FolderEvents, RESCAN, Settling, Stamp, pause};

/// How often the first look reads a file again that seems to be just written, one quiet time apart.
const PATIENCE: u32 = 5;

/// Where templates are and when they are read.
#[derive(Clone, Debug)]
pub struct TemplateOptions {
    /// Where operators put files.
    pub folder: PathBuf,
    /// Copies of what serves.
    pub kept: PathBuf,
    /// A file is read once it has not changed for so long.
    pub quiet: Duration,
    /// Largest file that is read, in bytes.
    pub largest: u64,
    pub clock: Clock,
}

/// The templates of a home.
pub struct Templates {
    options: TemplateOptions,
    view: RwLock<View>,
    /// The state in which each file was taken up last. Held by the one watcher for as long as it watches.
    seen: tokio::sync::Mutex<BTreeMap<String, Stamp>>,
}

/// What serves now, and which files do not.
#[derive(Clone, Default)]
struct View {
    /// By file name.
    serving: BTreeMap<String, Arc<Template>>,
    /// Reasons by file name.
    rejected: BTreeMap<String, String>,
}

/// State of the folder, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    pub serving: Vec<Served>,
    /// Files that could not be taken into service, each with one sentence.
    pub rejected: Vec<Rejected>,
}

/// A template in service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    pub task_type: String,
    pub file: String,
    pub digest: Digest,
    pub title: Option<String>,
    pub description: Option<String>,
    pub licence: Option<String>,
    pub requires: Requires,
    pub warnings: Vec<String>,
}

/// A file that is not in service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    pub file: String,
    pub reason: String,
    /// The version that stays in service in its place, if there is one.
    pub still_serving: Option<Digest>,
}

/// What reading one file led to.
enum Read {
    Template(Arc<Template>),
    Rejected(String),
    /// It changes just now.
    Unsteady,
}

impl Templates {
    /// Reads the folder once. A folder that is not there has no templates. Writes nothing: `route` and `templates ls` use it
    /// too.
    pub async fn open(options: TemplateOptions) -> Arc<Self> {
        let templates = Self { options, view: RwLock::default(), seen: tokio::sync::Mutex::default() };
        match templates.list().await {
            Ok(files) => {
                let mut seen = templates.seen.lock().await;
                for (file, stamp) in files {
                    if let Some(stamp) = templates.first(&file, stamp).await {
                        seen.insert(file, stamp);
                    }
                }
            }
            Err(e) => templates.unreadable(&e),
        }
        Arc::new(templates)
    }

    /// Follows the folder until told to stop, and keeps copies of what serves. One caller at a time: a second one waits until
    /// the first has stopped.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = self.seen.lock().await;
        let mut events = FolderEvents::default();
        let mut settling = Settling::default();
        self.keep().await;
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // While something settles the timer sets the pace: a file being written wakes with every block.
                () = events.wake.notified(), if settling.is_empty() => {}
                () = &mut timer => {}
            }
            events.follow(&self.options.folder, "templates folder");
            match self.list().await {
                Ok(files) => self.look(&files, &mut seen, &mut settling).await,
                // A folder that cannot be read is no folder without files.
                Err(e) => self.unreadable(&e),
            }
            timer.set(tokio::time::sleep(if settling.is_empty() { RESCAN } else { pause(self.options.quiet) }));
        }
    }

    /// Task types with a template, and the file's name: what the router wants.
    pub fn offers(&self) -> BTreeMap<String, String> {
        self.with_view(|view| view.serving.values().map(|t| (t.task_type.clone(), t.file.clone())).collect())
    }

    /// The template of a file that is in service.
    pub fn get(&self, file: &str) -> Option<Arc<Template>> {
        self.with_view(|view| view.serving.get(file).cloned())
    }

    /// In service and not, in the order of the files' names.
    pub fn listing(&self) -> Listing {
        self.with_view(|view| Listing {
            serving: view.serving.values().map(|template| served(template)).collect(),
            rejected: view
                .rejected
                .iter()
                .map(|(file, reason)| Rejected {
                    file: file.clone(),
                    reason: reason.clone(),
                    still_serving: view.serving.get(file).map(|template| template.digest),
                })
                .collect(),
        })
    }

    /// The first look at a file. One that was written a moment ago and does not load may be a copy in progress: it is read
    /// again. None: it is gone, or left to the watcher.
    async fn first(&self, file: &str, mut stamp: Stamp) -> Option<Stamp> {
        for _ in 0..PATIENCE {
            let read = self.read(file, stamp).await;
            let young = self.options.clock.now().since(stamp.modified()) < self.options.quiet;
            match read {
                Read::Template(_) => {
                    self.apply(file, read);
                    return Some(stamp);
                }
                Read::Rejected(_) if !young => {
                    self.restore(file).await;
                    self.apply(file, read);
                    return Some(stamp);
                }
                Read::Rejected(_) | Read::Unsteady => tokio::time::sleep(self.options.quiet).await,
            }
            stamp = folders::stamp(&self.options.folder.join(file))?;
        }
        self.restore(file).await;
        let reason = format!("`{file}` is still being written");
        self.apply(file, Read::Rejected(reason));
        None
    }

    /// Compares the folder with what was taken up, and takes up what is due.
    async fn look(&self, files: &BTreeMap<String, Stamp>, seen: &mut BTreeMap<String, Stamp>, settling: &mut Settling) {
        let mut changed: BTreeMap<_, _> = files
            .iter()
            .filter(|(file, stamp)| seen.get(*file) != Some(stamp))
            .map(|(file, stamp)| (file.clone(), Some(*stamp)))
            .collect();
        let known = self.with_view(|view| view.serving.keys().chain(view.rejected.keys()).cloned().collect::<Vec<_>>());
        let missing = seen.keys().cloned().chain(known).filter(|file| !files.contains_key(file));
        changed.extend(missing.map(|file| (file, None)).collect::<Vec<_>>());
        let quiet = settling.look(changed);
        if quiet.is_empty() {
            return;
        }
        for (file, state) in quiet {
            match state {
                None => {
                    seen.remove(&file);
                    self.retire(&file);
                }
                Some(stamp) => match self.read(&file, stamp).await {
                    Read::Unsteady => {
                        seen.remove(&file);
                    }
                    read => {
                        seen.insert(file.clone(), stamp);
                        self.apply(&file, read);
                    }
                },
            }
        }
        self.keep().await;
    }

    async fn list(&self) -> io::Result<BTreeMap<String, Stamp>> {
        let folder = self.options.folder.clone();
        let ours = |name: &str| name.ends_with(".json") && !name.starts_with('.');
        match blocking(move || folders::list(&folder, ours)).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            listed => listed,
        }
    }

    async fn read(&self, file: &str, stamp: Stamp) -> Read {
        if !stamp.regular {
            return Read::Rejected(format!("`{file}` is no regular file: a template is one file"));
        }
        if stamp.size > self.options.largest {
            let (has, may) = (stamp.size.div_ceil(1 << 20), self.options.largest >> 20);
            return Read::Rejected(format!("`{file}` has {has} MB, and {may} MB are the most (`plugins.file_mb`)"));
        }
        let path = self.options.folder.join(file);
        let content = blocking(move || Ok(folders::read(&path, stamp))).await;
        match content {
            Ok(Content::Bytes(bytes)) => match Template::parse(file, &bytes) {
                Ok(template) => Read::Template(Arc::new(template)),
                Err(reason) => Read::Rejected(reason),
            },
            Ok(Content::Unsteady) => Read::Unsteady,
            Ok(Content::Unreadable(e)) | Err(e) => {
                Read::Rejected(format!("`{file}` cannot be read ({e}): the host's user must be allowed to read it"))
            }
        }
    }

    /// Takes the version that served before, if a worker kept one.
    async fn restore(&self, file: &str) {
        let path = self.options.kept.join(file);
        let Ok(bytes) = blocking(move || std::fs::read(path)).await else { return };
        if let Ok(template) = Template::parse(file, &bytes) {
            self.change(|view| {
                view.serving.insert(file.to_string(), Arc::new(template));
            });
        }
    }

    fn apply(&self, file: &str, read: Read) {
        match read {
            Read::Template(template) => {
                tracing::info!(
                    file,
                    task_type = template.task_type,
                    digest = template.digest.short(),
                    "template in service"
                );
                for warning in &template.warnings {
                    tracing::warn!(file, "template: {warning}");
                }
                self.change(|view| {
                    view.rejected.remove(file);
                    view.serving.insert(file.to_string(), template);
                });
            }
            Read::Rejected(reason) => {
                let stays = self.get(file).map(|template| template.digest.short());
                match stays {
                    Some(digest) => tracing::error!(file, "{reason}; version {digest} stays in service"),
                    None => tracing::error!(file, "{reason}; its type has no template"),
                }
                self.change(|view| {
                    view.rejected.insert(file.to_string(), reason);
                });
            }
            Read::Unsteady => {}
        }
    }

    fn retire(&self, file: &str) {
        let retired = self.change(|view| {
            view.rejected.remove(file);
            view.serving.remove(file)
        });
        if let Some(template) = retired {
            tracing::info!(file, task_type = template.task_type, "template retired: its file is gone");
        }
    }

    /// Makes the copies those of what serves now.
    async fn keep(&self) {
        let serving = self.with_view(|view| view.serving.clone());
        let options = self.options.clone();
        let kept = blocking(move || {
            std::fs::create_dir_all(&options.kept)?;
            for (file, template) in &serving {
                let to = options.kept.join(file);
                if std::fs::read(&to).is_ok_and(|bytes| Digest::of(&bytes) == template.digest) {
                    continue;
                }
                // What stands in the folder by now may be another version: that one is kept when it serves.
                let Ok(bytes) = std::fs::read(options.folder.join(file)) else { continue };
                if Digest::of(&bytes) == template.digest {
                    let aside = options.kept.join(format!(".{file}.part"));
                    std::fs::write(&aside, bytes)?;
                    std::fs::rename(&aside, &to)?;
                }
            }
            for entry in std::fs::read_dir(&options.kept)? {
                let entry = entry?;
                if !serving.contains_key(&*entry.file_name().to_string_lossy()) {
                    std::fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        });
        if let Err(e) = kept.await {
            let folder = self.options.kept.display();
            tracing::warn!(%folder, error = %e, "the templates in service could not be copied: a restart may lose one that broke");
        }
    }

    fn unreadable(&self, e: &io::Error) {
        let folder = self.options.folder.display();
        tracing::warn!(%folder, error = %e, "the templates folder cannot be read: everything stays as it is");
    }

    fn with_view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn served(template: &Template) -> Served {
    Served {
        task_type: template.task_type.clone(),
        file: template.file.clone(),
        digest: template.digest,
        title: template.title.clone(),
        description: template.description.clone(),
        licence: template.licence.clone(),
        requires: template.requires.clone(),
        warnings: template.warnings.clone(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::templates::tests::sample;

    /// Far above what anything takes.
    const CEILING: Duration = Duration::from_secs(30);

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            let home = Self(tempfile::tempdir().unwrap());
            std::fs::create_dir(home.0.path().join("templates")).unwrap();
            home
        }

        fn put(&self, file: &str, text: &str) {
            std::fs::write(self.0.path().join("templates").join(file), text).unwrap();
        }

        fn delete(&self, file: &str) {
            std::fs::remove_file(self.0.path().join("templates").join(file)).unwrap();
        }

        async fn open(&self) -> Arc<Templates> {
            Templates::open(TemplateOptions {
                folder: self.0.path().join("templates"),
                kept: self.0.path().join("kept"),
                quiet: Duration::from_millis(30),
                largest: 1 << 20,
                clock: Clock::system(),
            })
            .await
        }
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(CEILING, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
    }

    #[tokio::test]
    async fn files_come_into_service_are_replaced_and_retired_while_the_folder_is_followed() {
        let home = Home::new();
        let templates = home.open().await;
        assert!(templates.offers().is_empty());
        let stop = CancellationToken::new();
        let watching = tokio::spawn(templates.clone().watch(stop.clone()));

        home.put("sample.json", &sample().to_string());
        until("it is dropped in", || templates.offers().contains_key("sample")).await;
        let first = templates.get("sample.json").unwrap().digest;

        let mut second = sample();
        second["enginehouse"]["title"] = json!("Second");
        home.put("sample.json", &second.to_string());
        until("it is replaced", || templates.get("sample.json").unwrap().digest != first).await;
        let second = templates.get("sample.json").unwrap().digest;

        home.put("sample.json", "{ half");
        until("it is broken", || !templates.listing().rejected.is_empty()).await;
        let rejected = &templates.listing().rejected[0];
        assert_eq!(rejected.still_serving, Some(second));
        assert!(rejected.reason.contains("`sample.json` is no template"), "{}", rejected.reason);
        assert_eq!(templates.offers()["sample"], "sample.json");

        stop.cancel();
        watching.await.unwrap();
        // Broken over a restart: what served before still does.
        let templates = home.open().await;
        assert_eq!(templates.get("sample.json").unwrap().digest, second);
        let stop = CancellationToken::new();
        let watching = tokio::spawn(templates.clone().watch(stop.clone()));
        home.delete("sample.json");
        until("it is retired", || templates.offers().is_empty()).await;
        assert_eq!(templates.listing(), Listing::default());
        until("its copy is gone", || !home.0.path().join("kept/sample.json").exists()).await;
        stop.cancel();
        watching.await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_never_worked_is_listed_with_its_reason_and_serves_nothing() {
        let home = Home::new();
        home.put("bad name.json", "{}");
        home.put("bare.json", r#"{"1": {"class_type": "X", "inputs": {}}}"#);
        home.put("notes.txt", "no template");
        let listing = home.open().await.listing();
        assert!(listing.serving.is_empty());
        let files: Vec<_> = listing.rejected.iter().map(|r| (r.file.as_str(), r.still_serving)).collect();
        assert_eq!(files, [("bad name.json", None), ("bare.json", None)]);
    }

    #[tokio::test]
    async fn a_home_without_the_folder_has_no_templates() {
        let home = Home::new();
        std::fs::remove_dir(home.0.path().join("templates")).unwrap();
        assert_eq!(home.open().await.listing(), Listing::default());
    }
}
