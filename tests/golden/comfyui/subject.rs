//! Clients that the recordings are played to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use async_trait::async_trait;
use enginehouse::engines::comfyui::{Address, Client, Outcome, Prompt, Run, Times, main_output, prompt_id};
use enginehouse::engines::{Report, WorkflowTerms};
use enginehouse_tests::plain_client::{Ear, Heard, ask};
use enginehouse_tests::replay::Replay;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

/// A kind of client.
pub trait Subject: Send + Sync {
    /// One client of this server, for as many prompts as are asked for.
    fn of(&self, server: &Replay) -> Result<Box<dyn Session>>;
}

/// A client under test.
#[async_trait]
pub trait Session: Send + Sync {
    /// What the readiness poll yields: `version`, `device_type`.
    async fn system(&self) -> Result<Value>;
    /// Runs one prompt to its end.
    async fn run(&self, ask: Ask) -> Result<Ended>;
}

/// What is to be run.
pub struct Ask {
    /// What the prompt's id is made of.
    pub key: String,
    pub graph: Map<String, Value>,
    pub allow_partial: bool,
    pub folder: PathBuf,
    pub report: Report,
    pub cancel: CancellationToken,
}

/// What a client concluded.
pub struct Ended {
    pub outcome: &'static str,
    pub class: Option<String>,
    pub node: Option<String>,
    /// `{name, subfolder, kind, node}`, and where the file lies now.
    pub files: Vec<(Value, PathBuf)>,
    pub main: Option<usize>,
    pub retry: bool,
}

/// The client of the host.
pub struct Host;

impl Subject for Host {
    fn of(&self, server: &Replay) -> Result<Box<dyn Session>> {
        let address = Address { url: Url::parse(&server.url())?, headers: Vec::new() };
        let times = Times {
            connect: Duration::from_secs(5),
            poll: (Duration::from_millis(500), Duration::from_secs(2)),
            unreachable: Duration::from_secs(2),
            // No recording is played with longer silence than a replay's longest gap.
            inactive: Duration::from_secs(15),
            cancel_grace: Duration::from_secs(10),
            ..Times::default()
        };
        let client = Client::new(&address, times, None).map_err(|failure| anyhow!("{failure:?}"))?;
        Ok(Box::new(client))
    }
}

#[async_trait]
impl Session for Client {
    async fn system(&self) -> Result<Value> {
        let mut words = String::new();
        for _ in 0..100 {
            match Client::system(self).await {
                Ok(system) => return Ok(json!({"version": system.version, "device_type": system.device_type})),
                Err(why) => words = why,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the server does not become ready: {words}")
    }

    async fn run(&self, ask: Ask) -> Result<Ended> {
        let terms = WorkflowTerms { allow_partial: ask.allow_partial, ..WorkflowTerms::default() };
        let prompt = Prompt { id: prompt_id(&ask.key), graph: ask.graph, terms, seek: false };
        let gone = CancellationToken::new();
        let run = Run { folder: &ask.folder, preview: None, report: &ask.report, cancel: &ask.cancel, gone: &gone };
        Ok(match Client::run(self, &prompt, &run).await {
            Ok(files) => Ended {
                outcome: "ok",
                class: None,
                node: None,
                main: Some(main_output(files.iter().map(|file| file.kind))),
                files: files
                    .into_iter()
                    .map(|file| {
                        let told = json!({
                            "name": file.name, "subfolder": file.subfolder, "kind": file.kind, "node": file.node,
                        });
                        (told, file.path)
                    })
                    .collect(),
                retry: false,
            },
            Err(failure) => Ended {
                outcome: match failure.outcome {
                    Outcome::Failed => "failed",
                    Outcome::Cancelled => "cancelled",
                    Outcome::Lost => "lost",
                },
                class: Some(failure.code.as_str().into()),
                node: failure.node,
                files: Vec::new(),
                main: None,
                retry: failure.code.retry(),
            },
        })
    }
}

/// A client that believes what its socket says, and only that: how many wrappers of ComfyUI are made.
pub struct SocketAlone;

struct Ears {
    server: SocketAddr,
}

impl Subject for SocketAlone {
    fn of(&self, server: &Replay) -> Result<Box<dyn Session>> {
        Ok(Box::new(Ears { server: server.address }))
    }
}

/// How long it listens to silence.
const PATIENCE: Duration = Duration::from_secs(5);

#[async_trait]
impl Session for Ears {
    async fn system(&self) -> Result<Value> {
        let stats = ask(self.server, "GET", "/system_stats", None).await?.json();
        Ok(json!({"version": stats["system"]["comfyui_version"], "device_type": stats["devices"][0]["type"]}))
    }

    async fn run(&self, job: Ask) -> Result<Ended> {
        let mut ear = Ear::open(self.server, "alone").await?;
        let id = prompt_id(&job.key).to_string();
        let body = json!({"prompt": job.graph, "client_id": "alone", "prompt_id": id});
        let failed = |class: &str, node: Option<&str>| Ended {
            outcome: "failed",
            class: Some(class.into()),
            node: node.map(str::to_string),
            files: Vec::new(),
            main: None,
            retry: false,
        };
        if ask(self.server, "POST", "/prompt", Some(&body)).await?.status != 200 {
            return Ok(failed("bad_workflow", None));
        }
        let mut files = Vec::new();
        loop {
            let frame = match ear.hear(PATIENCE).await {
                Heard::Text(frame) => frame,
                Heard::Binary(_) => continue,
                Heard::Silence | Heard::Broken | Heard::Closed(_) => return Ok(failed("engine_crashed", None)),
            };
            let data = &frame["data"];
            match frame["type"].as_str().unwrap_or_default() {
                "progress" => {
                    let part = data["value"].as_f64().unwrap_or_default() / data["max"].as_f64().unwrap_or(1.0);
                    (job.report)(Some(part as f32 * 0.9), "running".into());
                }
                "executed" => {
                    for item in data["output"]["images"].as_array().into_iter().flatten() {
                        let name = item["filename"].as_str().unwrap_or_default();
                        let told = json!({
                            "name": name, "subfolder": item["subfolder"], "kind": "image", "node": data["node"],
                        });
                        let path = job.folder.join(files.len().to_string());
                        let view = format!(
                            "/view?filename={name}&subfolder={}",
                            item["subfolder"].as_str().unwrap_or_default()
                        );
                        std::fs::write(&path, ask(self.server, "GET", &view, None).await?.body)?;
                        files.push((told, path));
                    }
                }
                "execution_error" => return Ok(failed("node_failed", data["node_id"].as_str())),
                "execution_interrupted" => return Ok(failed("interrupted", data["node_id"].as_str())),
                "execution_success" => {
                    return Ok(Ended { outcome: "ok", class: None, node: None, files, main: Some(0), retry: false });
                }
                _ => {}
            }
        }
    }
}
