//! `enginehouse bench comfyui`: what the host's client adds to a prompt. The same graph (one small picture, saved; nothing to
//! compute) is run by a minimal client that trusts every message, and by the host's, in turns, against one server. Outputs
//! are fetched by both. Told beside: the whole way through the lane, with results that survive a crash.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::StreamExt;
use futures::stream;
use serde_json::{Map, Value, json};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::artifacts::Artifacts;
use crate::cli::Global;
use crate::cli::exit::Done;
use crate::clock::{Clock, Stopwatch};
use crate::engines::comfyui::{Address, Bare, Client, ComfyUi, Prompt, Run, Times};
use crate::engines::{EngineOptions, Engines, JobKey, NewJob, Report, Request, WorkflowTerms};
use crate::task::TaskId;

#[derive(clap::Args)]
pub struct Args {
    /// Prompts of each measurement, one after the other; and twice as many with several in flight
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    prompts: u32,
    /// How often each measurement is taken; the medians count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// A stand-in server to start (default: `comfyui-standin` beside this program)
    #[arg(long, value_name = "PROGRAM")]
    server: Option<PathBuf>,
    /// A server that runs already, instead
    #[arg(long, value_name = "URL", conflicts_with = "server")]
    url: Option<url::Url>,
}

/// Prompts in flight of the second measurement.
const IN_FLIGHT: usize = 32;
/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

pub async fn run(_: &Global, args: &Args) -> Done {
    let folder = tempfile::tempdir().context("cannot make a folder for the bench")?;
    let (_server, url) = match &args.url {
        Some(url) => (None, url.clone()),
        None => {
            let (child, url) = start(args.server.as_deref(), folder.path()).await?;
            (Some(child), url)
        }
    };
    let address = Address { url, headers: Vec::new() };
    let bench = Bench {
        raw: Bare::connect(&address).await.map_err(|why| anyhow!("the server does not answer: {why}"))?,
        host: Client::new(&address, Times::default(), None)?,
        engines: Engines::new(EngineOptions {
            jobs: folder.path().join("jobs"),
            artifacts: Artifacts::open(&folder.path().join("data"), &folder.path().join("outputs"))?,
            clock: Clock::system(),
            comfyui: Ok(Arc::new(ComfyUi::elsewhere(address, Times::default(), Clock::system(), 2))),
            wan2gp: Err("the bench has none".into()),
            job_limit: START,
            cancel_grace: START,
        }),
        folder: folder.path().to_path_buf(),
        count: AtomicU64::new(0),
        task: TaskId::random(),
    };
    bench.all(Way::Raw, 20, 1).await?;
    bench.all(Way::Host, 20, 1).await?;

    let one = args.prompts as usize;
    let mut raw = Figures::default();
    let mut host = Figures::default();
    for _ in 0..args.rounds {
        for (way, figures) in [(Way::Raw, &mut raw), (Way::Host, &mut host)] {
            let (times, _) = bench.all(way, one, 1).await?;
            figures.one.extend(times);
            let (times, whole) = bench.all(way, one * 2, IN_FLIGHT).await?;
            figures.per_s.push(times.len() as f64 / whole.as_secs_f64());
        }
    }
    let (times, _) = bench.all(Way::Lane, one, 1).await?;
    let lane = Figures { one: times, per_s: Vec::new() };
    eprintln!(
        "{} rounds of {one} prompts one after the other and {} with {IN_FLIGHT} in flight; through the lane, with durable \
         results: p50 {:.2} ms, p99 {:.2} ms",
        args.rounds,
        one * 2,
        lane.at(0.5),
        lane.at(0.99),
    );
    println!("{}", json!({ "raw": raw.json(), "host": host.json() }));
    Ok(ExitCode::SUCCESS)
}

/// Who runs the prompt.
#[derive(Clone, Copy)]
enum Way {
    Raw,
    Host,
    Lane,
}

struct Bench {
    raw: Bare,
    host: Client,
    engines: Arc<Engines>,
    folder: PathBuf,
    count: AtomicU64,
    task: TaskId,
}

impl Bench {
    /// Runs prompts with so many in flight; the time of each, and of all.
    async fn all(&self, way: Way, prompts: usize, in_flight: usize) -> anyhow::Result<(Vec<Duration>, Duration)> {
        let watch = Stopwatch::start();
        let times: Vec<anyhow::Result<Duration>> =
            stream::iter(0..prompts).map(|_| self.one(way)).buffer_unordered(in_flight).collect().await;
        Ok((times.into_iter().collect::<anyhow::Result<_>>()?, watch.elapsed()))
    }

    async fn one(&self, way: Way) -> anyhow::Result<Duration> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let graph = graph(number);
        let folder = self.folder.join("fetched").join(number.to_string());
        std::fs::create_dir_all(&folder).context("cannot make a folder for outputs")?;
        let report: Report = Arc::new(|_, _| ());
        let watch = Stopwatch::start();
        let outputs = match way {
            Way::Raw => {
                self.raw.run(&graph, &folder).await.map_err(|why| anyhow!("the minimal client failed: {why}"))?
            }
            Way::Host => {
                let id = Uuid::new_v4();
                let prompt = Prompt { id, graph, terms: WorkflowTerms::default(), seek: false };
                let (cancel, gone) = (CancellationToken::new(), CancellationToken::new());
                let run = Run { folder: &folder, preview: None, report: &report, cancel: &cancel, gone: &gone };
                let outputs = self.host.run(&prompt, &run).await;
                outputs.map_err(|failure| anyhow!("the host's client failed: {}", failure.message))?.len()
            }
            Way::Lane => {
                let key = JobKey { task: self.task, attempt: 1, seq: number };
                let request = Request::Workflow { workflow: graph, terms: WorkflowTerms::default() };
                let (created_at, log) = (Clock::system().now(), Arc::new(|_: &str, _: &str| ()));
                let job = NewJob { key, request, label: None, priority: 0, created_at, report, log };
                self.engines.submit(job).await?;
                self.engines.wait(key, None).await?.outputs.len()
            }
        };
        let time = watch.elapsed();
        if outputs != 1 {
            return Err(anyhow!("{outputs} outputs came where one was expected"));
        }
        Ok(time)
    }
}

/// A small picture, saved; every one another, so that no cache answers.
fn graph(number: u64) -> Map<String, Value> {
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": number % 0xff_ffff}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": format!("bench/{number}/p")}},
    });
    graph.as_object().cloned().unwrap_or_default()
}

#[derive(Default)]
struct Figures {
    one: Vec<Duration>,
    per_s: Vec<f64>,
}

impl Figures {
    /// Milliseconds.
    fn at(&self, q: f64) -> f64 {
        let mut times = self.one.clone();
        times.sort_unstable();
        // A position in the list: q is below 1.
        times.get((times.len() as f64 * q) as usize).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }

    fn json(&self) -> Value {
        let mut per_s = self.per_s.clone();
        per_s.sort_by(f64::total_cmp);
        let middle = per_s.get(per_s.len() / 2).copied().unwrap_or(0.0);
        let rounded = |ms: f64| (ms * 100.0).round() / 100.0;
        json!({ "p50_ms": rounded(self.at(0.5)), "p99_ms": rounded(self.at(0.99)), "per_s_32": middle.round() })
    }
}

/// Starts a stand-in; it is killed when the value is dropped.
async fn start(program: Option<&Path>, folder: &Path) -> anyhow::Result<(Child, url::Url)> {
    let program = match program {
        Some(program) => program.to_path_buf(),
        None => {
            std::env::current_exe().context("cannot find the path of this program")?.with_file_name("comfyui-standin")
        }
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("there is no free port")?;
    let port = listener.local_addr()?.port();
    drop(listener);
    let mut command = Command::new(&program);
    let main = folder.join("main.py");
    std::fs::write(&main, "")?;
    command.arg(main).args(["--listen", "127.0.0.1", "--port", &port.to_string()]);
    for name in ["input", "output", "temp", "user"] {
        let folder = folder.join("server").join(name);
        std::fs::create_dir_all(&folder)?;
        command.arg(format!("--{name}-directory")).arg(folder);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().with_context(|| {
        format!(
            "cannot start {}; build it (`cargo build --release -p enginehouse-tests --bin comfyui-standin`), name one with \
             --server, or a server that runs with --url",
            program.display()
        )
    })?;
    let url: url::Url = format!("http://127.0.0.1:{port}/").parse()?;
    let watch = Stopwatch::start();
    let client = Client::new(&Address { url: url.clone(), headers: Vec::new() }, Times::default(), None)?;
    while let Err(why) = client.system().await {
        if watch.elapsed() > START {
            return Err(anyhow!("{} did not answer within {} s: {why}", program.display(), START.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((child, url))
}
