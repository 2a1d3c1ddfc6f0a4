//! The catalog's memory across starts, and its state for other processes: two small JSON files in the plugins' data
//! folder, each written whole or not at all.
//!
//! - `history.json`: which version of which plugin each file had in service, and what is retired. A start goes on from
//!   it, so that a file that went bad while the host was down leaves its previous version in service too.
//! - `serving.json`: the [`Snapshot`].
//!
//! Several processes may read a home at the same time (`route` beside a running worker): one of them owns the files and
//! writes them, by a lock that ends with its process.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::keep::write_atomically;
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::plugins::{Manifest, Retired, Snapshot};
use crate::router::{OfferedPlugin, Offers, RetiredPlugin};
use crate::task::Failure;

const HISTORY: &str = "history.json";
const SERVING: &str = "serving.json";
const LOCK: &str = "catalog.lock";

/// What the next start goes on from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct History {
    pub serving: Vec<Past>,
    pub retired: Vec<Past>,
}

/// A plugin that is or was in service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Past {
    pub name: String,
    pub version: String,
    pub digest: Digest,
    pub file: String,
    /// In the history's `retired`: those that no plugin serves now.
    pub task_types: Vec<String>,
    /// When it came into service, or was retired.
    pub since: Timestamp,
    /// The version before it, kept for going back.
    pub previous: Option<Digest>,
}

impl Past {
    pub fn new(manifest: &Manifest, digest: Digest, file: &str, since: Timestamp, previous: Option<Digest>) -> Self {
        Self {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            digest,
            file: file.to_string(),
            task_types: manifest.task_types.keys().cloned().collect(),
            since,
            previous,
        }
    }
}

/// The two files and who may write them.
pub(super) struct Record {
    data: PathBuf,
    /// Held by the process that writes, for as long as it lives.
    lock: Mutex<Option<File>>,
}

impl Record {
    pub fn new(data: PathBuf) -> Self {
        Self { data, lock: Mutex::new(None) }
    }

    /// What the last process knew. A history that cannot be read is no reason not to serve: it is reported, and begun anew.
    pub fn history(&self) -> History {
        let path = self.data.join(HISTORY);
        let read = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| e.to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(History::default()),
            Err(e) => Err(e.to_string()),
        };
        read.unwrap_or_else(|error| {
            tracing::warn!(
                path = %path.display(), error,
                "the history of plugins cannot be read and begins anew: what was retired before is forgotten"
            );
            History::default()
        })
    }

    /// Writes both files, if no other process owns them. Says whether it did.
    pub fn write(&self, history: &History, snapshot: &Snapshot) -> io::Result<bool> {
        if !self.owned()? {
            return Ok(false);
        }
        write_atomically(&self.data.join(HISTORY), &serde_json::to_vec_pretty(history)?)?;
        write_atomically(&self.data.join(SERVING), &serde_json::to_vec_pretty(snapshot)?)?;
        Ok(true)
    }

    fn owned(&self) -> io::Result<bool> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            let file = File::options().create(true).truncate(false).write(true).open(self.data.join(LOCK))?;
            match file.try_lock() {
                Ok(()) => *lock = Some(file),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(e)) => return Err(e),
            }
        }
        Ok(lock.is_some())
    }
}

impl Snapshot {
    /// The state that the process in charge of a home last wrote; `data` is the plugins' data folder
    /// ([`crate::home::Home::plugin_data`]). None: no process was ever in charge.
    pub fn read(data: &Path) -> Result<Option<Self>, Failure> {
        let path = data.join(SERVING);
        let unreadable = |error: String| {
            Failure::internal(
                "plugin_store",
                format!("the state of the plugins in {} cannot be read ({error}): restart the worker", path.display()),
            )
        };
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(e.to_string())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unreadable(e.to_string())),
        }
    }

    /// The same, as the router wants it.
    pub fn offers(&self) -> Offers {
        let mut offers = Offers::default();
        for plugin in &self.serving {
            for task_type in &plugin.task_types {
                let offered = OfferedPlugin {
                    name: plugin.name.clone(),
                    version: plugin.version.clone(),
                    digest: plugin.digest,
                    file: plugin.file.clone(),
                };
                offers.plugins.insert(task_type.clone(), offered);
            }
        }
        for Retired { name, digest, file, task_types, .. } in &self.retired {
            for task_type in task_types {
                let retired = RetiredPlugin { name: name.clone(), file: file.clone(), digest: *digest };
                offers.retired.insert(task_type.clone(), retired);
            }
        }
        offers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_writes_and_the_next_one_takes_over_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert!(Snapshot::read(data).unwrap().is_none());
        let (first, second) = (Record::new(data.into()), Record::new(data.into()));
        let history = History { serving: Vec::new(), retired: vec![past("old")] };
        assert!(first.write(&history, &Snapshot::default()).unwrap());
        assert!(!second.write(&History::default(), &Snapshot::default()).unwrap());
        assert_eq!(second.history(), history);
        drop(first);
        assert!(second.write(&History::default(), &Snapshot::default()).unwrap());
        assert_eq!(second.history(), History::default());
        assert!(Snapshot::read(data).unwrap().is_some());
    }

    #[test]
    fn a_damaged_history_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(HISTORY), "{ half").unwrap();
        assert_eq!(Record::new(folder.path().into()).history(), History::default());
    }

    fn past(name: &str) -> Past {
        Past {
            name: name.into(),
            version: "1".into(),
            digest: Digest::of(name.as_bytes()),
            file: format!("{name}.wasm"),
            task_types: vec![name.into()],
            since: Timestamp(0),
            previous: None,
        }
    }
}
