//! The state of an engine as a file, `NAME.json`: for `engines ls` beside a running worker, and for the next host, which
//! ends what this one left. Written whole or not at all, at each change. A crash of the machine may lose it: no process of
//! it is left then either.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::EngineStatus;
use super::processes::Process;
use crate::clock::Timestamp;
use crate::task::Holder;

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The process that wrote it.
    pub host: Holder,
    pub written: Timestamp,
    pub status: EngineStatus,
    /// The guard, from its start until nothing is left of it.
    pub guard: Option<Process>,
    /// The engine.
    pub engine: Option<Process>,
    /// What all processes of this start carry in their environment.
    pub mark: Option<String>,
}

impl Record {
    /// The file of an engine.
    pub fn path(folder: &Path, name: &str) -> PathBuf {
        folder.join(format!("{name}.json"))
    }

    /// What the last host wrote. None: no host ever did.
    pub fn read(folder: &Path, name: &str) -> io::Result<Option<Self>> {
        match std::fs::read(Self::path(folder, name)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Replaces the file.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let path = Self::path(folder, &self.status.name);
        // One host writes, one file at a time: a fixed name aside leaves nothing behind when the host dies.
        let aside = path.with_extension("json.new");
        std::fs::write(&aside, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&aside, &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::holder;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path(), "e").unwrap(), None);
        let record = Record {
            host: holder::this_process(),
            written: Timestamp(1000),
            status: EngineStatus::new("e", "E".into()),
            guard: Some(Process { pid: 5, started: 77 }),
            engine: None,
            mark: Some("m".into()),
        };
        record.write(folder.path()).unwrap();
        assert_eq!(Record::read(folder.path(), "e").unwrap(), Some(record));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
