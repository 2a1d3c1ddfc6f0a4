//! The folder of a job: `data/jobs/TASK/ATTEMPT-SEQ/`.
//!
//! | entry | what |
//! |---|---|
//! | `request.json` | what was asked for: engine, digest of the request's canonical JSON, the request |
//! | `preview.jpg` | the newest picture of a job that runs |
//! | `output/` | where the engine works; emptied before every run, gone once the job is finished |
//! | `result.json` | `{"ok": JobResult}` or `{"err": Failure}`; while it stands here the job is *finished* |
//!
//! `result.json` appears in one step and only after everything it speaks of is on the disk: its outputs are in the
//! artifacts and synced, then it is written aside, synced, renamed, and the folder synced. Whoever finds it may trust it;
//! whoever does not find it may assume that nothing of the job has been announced.
//!
//! **Which failures are durable.** Those that are a verdict on the request: classes `invalid-input`, `engine` and
//! `out-of-memory`, not worth a new attempt (`retry` false). Asked again, the engine would say the same again. Every other
//! failure tells of circumstances — the job was cancelled, the engine died with its host, a disk is full, a defect in the
//! host — and must not be inherited by whoever submits the same key later: the job runs again then. (A new attempt of a
//! task has new keys anyway.)

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{JobKey, JobResult, KEY_REUSED, Request};
use crate::digest::Digest;
use crate::task::{EngineKind, Failure, FailureClass, TaskId};

/// How a job ended.
pub(super) type Ended = Result<JobResult, Failure>;

/// What `request.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    engine: EngineKind,
    digest: Digest,
    request: Request,
}

/// What `result.json` holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Standing {
    Ok(JobResult),
    Err(Failure),
}

/// The folder of one job. All functions block: call them where blocking is allowed.
#[derive(Clone, Debug)]
pub(super) struct JobFolder {
    folder: PathBuf,
    key: JobKey,
}

impl JobFolder {
    pub fn new(jobs: &Path, key: JobKey) -> Self {
        Self { folder: task_folder(jobs, key.task).join(format!("{}-{}", key.attempt, key.seq)), key }
    }

    /// Where the newest preview picture of the job lies.
    pub fn preview(&self) -> PathBuf {
        self.folder.join("preview.jpg")
    }

    /// How the job ended, if it is finished.
    pub fn result(&self) -> Result<Option<Ended>, Failure> {
        let path = self.folder.join("result.json");
        let Some(standing) = read_json::<Standing>(&path).map_err(|e| self.broken("read the result", &e))? else {
            return Ok(None);
        };
        Ok(Some(match standing {
            Standing::Ok(result) => Ok(result),
            Standing::Err(failure) => Err(failure),
        }))
    }

    /// Checks that the key has not been used for another request (`effect_key_reused`).
    pub fn check(&self, request: &Request) -> Result<(), Failure> {
        // A request that cannot be read was cut off by a crash: nothing ran for it yet.
        let asked = read_json::<Asked>(&self.folder.join("request.json")).unwrap_or(None);
        match asked {
            Some(asked) if asked.digest != digest(request) => Err(Failure::internal(
                KEY_REUSED,
                format!(
                    "Engine job {} was submitted again with another request for {}: the same call of the same attempt must \
                     ask for the same. The handler is not deterministic, or two calls share a number.",
                    self.key,
                    request.engine(),
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Records what is asked for. True: the same was asked for before.
    pub fn record(&self, request: &Request) -> Result<bool, Failure> {
        if matches!(read_json::<Asked>(&self.folder.join("request.json")), Ok(Some(asked)) if asked.digest == digest(request))
        {
            return Ok(true);
        }
        let asked = Asked { engine: request.engine(), digest: digest(request), request: request.clone() };
        fs::create_dir_all(&self.folder)
            .and_then(|()| write_json(&self.folder, "request.json", &asked))
            .map_err(|e| self.broken("record the request", &e))
            .map(|()| false)
    }

    /// Forgets that the job was ever asked for. Nothing may run for it.
    pub fn discard(&self) -> Result<(), Failure> {
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.broken("remove the job's folder", &e)),
            _ => Ok(()),
        }
    }

    /// Gives an empty folder to the engine: whatever an earlier run left is gone.
    pub fn begin(&self) -> Result<PathBuf, Failure> {
        let output = self.folder.join("output");
        let made = match fs::remove_dir_all(&output) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => fs::create_dir_all(&output),
        };
        made.map_err(|e| self.broken("empty the job's folder", &e))?;
        Ok(output)
    }

    /// Makes the end of a job durable, if it is one that must be (module head), and clears what the engine left.
    pub fn conclude(&self, ended: &Ended, files: &[PathBuf]) -> Result<(), Failure> {
        let durable = match ended {
            Ok(_) => true,
            Err(failure) => is_verdict(failure),
        };
        if durable {
            let standing = match ended {
                Ok(result) => Standing::Ok(result.clone()),
                Err(failure) => Standing::Err(failure.clone()),
            };
            files
                .iter()
                .try_for_each(|path| fs::File::open(path)?.sync_all())
                .and_then(|()| write_json(&self.folder, "result.json", &standing))
                .map_err(|e| self.broken("keep the result", &e))?;
        }
        // Nobody looks at a preview of what is there.
        fs::remove_file(self.preview()).ok();
        if let Err(e) = fs::remove_dir_all(self.folder.join("output")) {
            tracing::debug!(job = %self.key, error = %e, "what the engine left could not be removed");
        }
        Ok(())
    }

    fn broken(&self, what: &str, error: &io::Error) -> Failure {
        Failure::internal(
            "job_folder",
            format!(
                "Could not {what} of engine job {} in {}: {error}. Check the disk and its permissions.",
                self.key,
                self.folder.display()
            ),
        )
        .retryable()
    }
}

/// Whether a failure is a verdict on the request, which running the job again would only repeat.
pub(super) fn is_verdict(failure: &Failure) -> bool {
    !failure.retry
        && matches!(failure.class, FailureClass::InvalidInput | FailureClass::Engine | FailureClass::OutOfMemory)
}

/// Digest of a request's canonical JSON: members sorted by name, no blanks.
pub(super) fn digest(request: &Request) -> Digest {
    let value = serde_json::to_value(request).unwrap_or(Value::Null);
    Digest::of(sorted(value).to_string().as_bytes())
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(members.into_iter().collect::<Map<_, _>>())
        }
        plain => plain,
    }
}

fn task_folder(jobs: &Path, task: TaskId) -> PathBuf {
    jobs.join(task.to_string())
}

/// None: there is no such file.
fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The file is there whole or not at all, and stays there when the power fails after this returned.
fn write_json(folder: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let aside = folder.join(format!(".{name}.new"));
    let mut file = fs::File::create(&aside)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_all()?;
    fs::rename(&aside, folder.join(name))?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(settings: &str) -> Request {
        Request::Generation { settings: serde_json::from_str(settings).unwrap(), model_overrides: Map::new() }
    }

    fn folder(jobs: &Path) -> JobFolder {
        JobFolder::new(jobs, JobKey { task: TaskId::random(), attempt: 1, seq: 7 })
    }

    #[test]
    fn the_order_of_members_does_not_make_another_request() {
        let one = request(r#"{"a": {"x": 1, "y": [2, {"p": 0, "q": 1}]}, "b": "t"}"#);
        let two = request(r#"{"b": "t", "a": {"y": [2, {"q": 1, "p": 0}], "x": 1}}"#);
        assert_eq!(digest(&one), digest(&two));
        assert_ne!(digest(&one), digest(&request(r#"{"b": "t", "a": {"y": [{"q": 1, "p": 0}, 2], "x": 1}}"#)));
    }

    #[test]
    fn a_key_belongs_to_one_request() {
        let jobs = tempfile::tempdir().unwrap();
        let folder = folder(jobs.path());
        folder.check(&request("{}")).unwrap();
        folder.record(&request("{}")).unwrap();
        folder.check(&request("{}")).unwrap();
        let failure = folder.check(&request(r#"{"seed": 1}"#)).unwrap_err();
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Internal, "effect_key_reused"));
    }

    #[test]
    fn verdicts_are_durable_and_circumstances_are_not() {
        let jobs = tempfile::tempdir().unwrap();
        let folder = folder(jobs.path());
        folder.record(&request("{}")).unwrap();
        for failure in [
            Failure::cancelled("stopped"),
            Failure::internal("panic", "x"),
            Failure::unavailable("engine_unavailable", "x"),
            Failure::new(FailureClass::Dependency, "x", "x"),
            Failure::new(FailureClass::Engine, "engine_crashed", "x").retryable(),
        ] {
            folder.begin().unwrap();
            folder.conclude(&Err(failure), &[]).unwrap();
            assert_eq!(folder.result().unwrap(), None);
        }
        let refusal = Failure::invalid("invalid_settings", "`resolution`");
        folder.conclude(&Err(refusal.clone()), &[]).unwrap();
        assert_eq!(folder.result().unwrap(), Some(Err(refusal)));
    }

    #[test]
    fn an_engine_begins_in_an_empty_folder_every_time() {
        let jobs = tempfile::tempdir().unwrap();
        let folder = folder(jobs.path());
        folder.record(&request("{}")).unwrap();
        let output = folder.begin().unwrap();
        fs::write(output.join("half.mp4"), "x").unwrap();
        assert_eq!(fs::read_dir(folder.begin().unwrap()).unwrap().count(), 0);
        let result = JobResult { outputs: Vec::new(), seconds: 1.5 };
        folder.conclude(&Ok(result.clone()), &[]).unwrap();
        assert!(!output.exists());
        assert_eq!(folder.result().unwrap(), Some(Ok(result)));
        let text = fs::read_to_string(output.with_file_name("result.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"ok": {"outputs": [], "seconds": 1.5}}));
    }

    #[test]
    fn a_result_that_cannot_be_kept_is_not_announced() {
        let jobs = tempfile::tempdir().unwrap();
        let folder = folder(jobs.path());
        folder.record(&request("{}")).unwrap();
        let ended = Ok(JobResult { outputs: Vec::new(), seconds: 0.0 });
        let failure = folder.conclude(&ended, &[jobs.path().join("gone.mp4")]).unwrap_err();
        assert_eq!(failure.code, "job_folder");
        assert_eq!(folder.result().unwrap(), None);
    }
}
