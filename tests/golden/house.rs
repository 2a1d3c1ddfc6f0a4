//! A house for one case: folders, a store, artifacts, the lane in front of the scripted engine; and the handler in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use enginehouse::artifacts::Artifacts;
use enginehouse::clock::Clock;
use enginehouse::config::{Grant, PluginLimits};
use enginehouse::engines::{EngineOptions, Engines};
use enginehouse::media::intake::Intake;
use enginehouse::plugins::sandbox::{Loaded, Permits, Sandbox};
use enginehouse::plugins::{Run, Services};
use enginehouse::store::sqlite::{SqliteSettings, SqliteStore};
use enginehouse::store::{ClaimRequest, NewTask, SharedStore, TypeFilter, holder};
use enginehouse::task::{Failure, Outcome, Output, Status, Task, TaskId};
use enginehouse::tasklog::TaskLog;
use enginehouse_tests::{guests, numbered};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::case::Case;
use crate::edges::{Address, Helper, Ramp, Rows, Web};
use crate::files;

/// Which component serves a type.
const COMPONENTS: [(&str, &str); 5] = [
    ("travel_orchestrator", "travel_orchestrator"),
    ("travel_segment", "travel_segment"),
    ("individual_travel_segment", "travel_segment"),
    ("travel_stitch", "travel_stitch"),
    ("extract_frame", "extract_frame"),
];

/// Longest a busy engine is waited for.
const BUSY_SECONDS: u32 = 1;

/// The project of a task that names none.
const PROJECT: &str = "proj-0001";

/// The sandbox of this process and the components in it: compiled once for all cases.
pub struct Shared {
    sandbox: Arc<Sandbox>,
    loaded: BTreeMap<&'static str, Loaded>,
}

impl Shared {
    pub fn get() -> &'static Self {
        static SHARED: OnceLock<Shared> = OnceLock::new();
        SHARED.get_or_init(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let sandbox = Sandbox::new().expect("the sandbox starts");
            let mut loaded = BTreeMap::new();
            for (_, package) in COMPONENTS {
                let artifact = folder.path().join(format!("{package}.cwasm"));
                if !artifact.exists() {
                    Sandbox::compile_file(&guests::component(package), &artifact).expect("the component compiles");
                    loaded.insert(package, sandbox.load(&artifact).expect("the component loads"));
                }
            }
            Self { sandbox, loaded }
        })
    }
}

/// See the module.
pub struct House {
    pub folder: TempDir,
    pub artifacts: Artifacts,
    pub rows: Arc<Rows>,
    pub engine: Arc<Ramp>,
    pub web: Arc<Web>,
    pub helper: Arc<Helper>,
    /// What stands for what: the recording's words and ours.
    pub words: Words,
    pub task: Task,
    services: Services,
    held: enginehouse::store::ClaimToken,
}

/// Placeholders and ids of a recording, and what they are here.
#[derive(Default)]
pub struct Words {
    /// Placeholder and folder.
    folders: Vec<(&'static str, String)>,
    /// Recorded id and ours.
    ids: Vec<(String, String)>,
}

impl Words {
    /// From the recording to here.
    pub fn ours(&self, value: &Value) -> Value {
        self.each(value, &|text| {
            if let Some((_, own)) = self.ids.iter().find(|(recorded, _)| recorded == text) {
                return own.clone();
            }
            self.folders.iter().fold(text.to_string(), |text, (mark, folder)| text.replace(mark, folder))
        })
    }

    /// From here to the recording. Ids of ours are taken back inside longer texts, too: names of files hold them.
    pub fn recorded(&self, value: &Value) -> Value {
        self.each(value, &|text| {
            let text = self.ids.iter().fold(text.to_string(), |text, (recorded, own)| text.replace(own, recorded));
            self.folders.iter().fold(text, |text, (mark, folder)| text.replace(folder, mark))
        })
    }

    /// From now on an id of ours has this name.
    pub fn name(&mut self, own: TaskId, recorded: String) {
        self.ids.push((recorded, own.to_string()));
    }

    fn each(&self, value: &Value, change: &dyn Fn(&str) -> String) -> Value {
        match value {
            Value::String(text) => Value::String(change(text)),
            Value::Array(items) => items.iter().map(|item| self.each(item, change)).collect(),
            Value::Object(members) => {
                members.iter().map(|(name, value)| (name.clone(), self.each(value, change))).collect()
            }
            other => other.clone(),
        }
    }
}

/// Recorded ids may be any text.
fn id(text: &str) -> TaskId {
    text.parse().unwrap_or_else(|_| TaskId(Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())))
}

impl House {
    /// Makes everything that the case finds.
    pub async fn new(case: &Case) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().canonicalize()?;
        let environment = &case.environment;
        let mut words = Words::default();
        for (mark, name) in [("$INPUT_DIR", "input"), ("$OUTPUT_DIR", "output"), ("$WORKER_ROOT", "worker")] {
            std::fs::create_dir_all(root.join(name))?;
            words.folders.push((mark, root.join(name).display().to_string()));
        }
        let input = root.join("input");
        files::make(&input, &environment["files"]).await?;

        let rows = environment["task_rows"].as_array().cloned().unwrap_or_default();
        let above = case.params.get("orchestrator_task_id_ref").and_then(Value::as_str);
        let names = rows.iter().filter_map(|row| row["id"].as_str()).chain(above);
        for name in names {
            words.name(id(name), name.to_string());
        }
        let clock = Clock::system();
        let store: SharedStore =
            SqliteStore::open(&root.join("store.sqlite"), clock.clone(), SqliteSettings::default()).await?;
        let project = match environment.get("project_id") {
            None => Some(PROJECT.to_string()),
            Some(given) => given.as_str().map(String::from),
        };
        let Value::Object(params) = words.ours(&Value::Object(case.params.clone())) else {
            anyhow::bail!("params are an object")
        };
        let own = if case.task_id.is_empty() { id(&case.name) } else { id(&case.task_id) };
        words.name(own, if case.task_id.is_empty() { case.name.clone() } else { case.task_id.clone() });
        let new = NewTask {
            id: Some(own),
            task_type: case.task_type.clone(),
            params,
            project_id: project,
            ..NewTask::default()
        };
        store.submit(new).await?;
        let ask = ClaimRequest {
            holder: holder::this_process(),
            lease: Duration::from_secs(600),
            types: TypeFilter::Any,
            limit: 1,
        };
        let claim = store.claim(ask).await?.into_iter().next().context("the task can be claimed")?;
        let mut task = claim.task;
        task.parent = above.map(id);
        task.depends_on = environment["dependant_on"].as_str().map(id).into_iter().collect();

        let rows = rows.iter().map(|row| row_task(row, &task, &words)).collect::<Result<Vec<_>>>()?;
        let batch = environment["create_task_fails_after"].as_u64().and_then(|most| usize::try_from(most).ok());
        let rows = Arc::new(Rows { inner: store, rows, batch, removed: Mutex::default(), created: Mutex::default() });
        let artifacts = Artifacts::open(&root.join("data"), &root.join("outputs"))?;
        let engine =
            Arc::new(Ramp { script: environment["engine"].clone(), asked: Mutex::default(), made: Mutex::default() });
        let web = Arc::new(Web { addresses: addresses(&environment["http"], &input)?, asked: Mutex::default() });
        let mute = environment["vlm"]["fail"].as_bool().unwrap_or(false);
        let helper = Arc::new(Helper { mute, artifacts: artifacts.clone(), calls: Mutex::default() });
        let media = numbered::media();
        // Recordings of a stitch have no engine: what is enlarged there stays as it is.
        let wan2gp: Result<Arc<dyn enginehouse::engines::Engine>, String> = match case.task_type.as_str() {
            "travel_stitch" => Err("this case has no engine".into()),
            _ => Ok(engine.clone()),
        };
        let services = Services {
            store: rows.clone(),
            engines: Engines::new(EngineOptions {
                jobs: root.join("jobs"),
                artifacts: artifacts.clone(),
                clock: clock.clone(),
                comfyui: Err("this case has no ComfyUI".into()),
                wan2gp,
                job_limit: Duration::from_secs(600),
                cancel_grace: Duration::from_secs(10),
            }),
            assist: helper.clone(),
            artifacts: artifacts.clone(),
            media: media.clone(),
            intake: Intake {
                artifacts: artifacts.clone(),
                downloader: web.clone(),
                media,
                roots: words.folders.iter().map(|(_, folder)| PathBuf::from(folder)).collect(),
            },
            clock,
        };
        Ok(Self { folder, artifacts, rows, engine, web, helper, words, task, services, held: claim.token })
    }

    /// The handler, to its end.
    pub async fn run(&self, case: &Case, shared: &Shared) -> Result<std::result::Result<Outcome, Failure>> {
        let (_, package) = COMPONENTS
            .iter()
            .find(|(task_type, _)| *task_type == case.task_type)
            .with_context(|| format!("no component serves {}", case.task_type))?;
        let loaded = shared.loaded.get(package).context("every component is loaded")?;
        let all = ["engines", "tasks", "artifacts", "media", "assist"].map(String::from);
        let permits = Permits {
            plugin: (*package).into(),
            version: "0".into(),
            wanted: all.clone().into(),
            capabilities: all.into(),
            grant: Grant::default(),
            settings: self.settings(case),
            limits: PluginLimits::default(),
        };
        let log = TaskLog::new(
            &self.folder.path().join("logs"),
            self.task.id,
            self.task.attempts,
            self.services.clock.clone(),
        );
        let run = Run {
            task: self.task.clone(),
            token: self.held,
            log,
            cancel: CancellationToken::new(),
            waiting: Arc::<AtomicBool>::default(),
        };
        Ok(shared.sandbox.handle(loaded, permits, &self.services, run).await)
    }

    /// The operator's settings of the handler.
    fn settings(&self, case: &Case) -> Map<String, Value> {
        let mut settings = Map::new();
        settings.insert("output_dir".into(), self.words.ours(&json!("$OUTPUT_DIR")));
        settings.insert("working_dir".into(), self.words.ours(&json!("$WORKER_ROOT")));
        let flags = &case.environment["worker_flags"];
        settings.insert("mask_active_frames".into(), json!(flags["mask_active_frames"].as_bool().unwrap_or(true)));
        if case.environment["engine"]["status"] == "busy" {
            settings.insert("engine_limit_seconds".into(), json!(BUSY_SECONDS));
        }
        settings
    }
}

/// A task that exists already.
fn row_task(row: &Value, own: &Task, words: &Words) -> Result<Task> {
    let name = row["id"].as_str().context("a row has an id")?;
    let params = words.ours(&row["params"]);
    let plain = |text: &str| text.to_lowercase().replace(['_', ' '], "");
    let status = match plain(row["status"].as_str().unwrap_or_default()).as_str() {
        "queued" => Status::Queued,
        "inprogress" => Status::InProgress,
        "complete" | "completed" | "done" => Status::Complete,
        "failed" | "error" => Status::Failed,
        "cancelled" | "canceled" => Status::Cancelled,
        // Neither ended well nor badly.
        _ => Status::InProgress,
    };
    // Children of the orchestrator say so; the others stand beside the task, below its own parent.
    let of_own = params["orchestrator_task_id_ref"].as_str() == Some(own.id.to_string().as_str());
    let is_parent = own.parent == Some(id(name));
    let parent = if of_own { Some(own.id) } else { own.parent.filter(|_| !is_parent) };
    let text = words.ours(&row["output_location"]).as_str().unwrap_or_default().to_string();
    Ok(Task {
        id: id(name),
        task_type: row["task_type"].as_str().unwrap_or_default().into(),
        params: params.as_object().cloned().unwrap_or_default(),
        status,
        parent,
        child_key: None,
        depends_on: Vec::new(),
        output: (!text.is_empty()).then_some(Output::Text { text }),
        holder: None,
        lease_until: None,
        ..own.clone()
    })
}

fn addresses(described: &Value, input: &std::path::Path) -> Result<Vec<Address>> {
    let none = Map::new();
    let described = described.as_object().unwrap_or(&none);
    described
        .iter()
        .map(|(address, file)| {
            let name = file.as_str().with_context(|| format!("{address} leads to no file"))?;
            Ok(Address {
                recorded: address.clone(),
                url: address.parse().with_context(|| address.clone())?,
                file: input.join(name.trim_start_matches("$INPUT_DIR/")),
            })
        })
        .collect()
}
