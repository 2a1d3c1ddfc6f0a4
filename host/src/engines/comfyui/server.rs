//! A server that the host owns: how it is started, and how it says that it is ready.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client::{Client, Folders, Times};
use super::http::{Address, Http, System};
use crate::engines::supervisor::{Launch, Readiness, Supervised};
use crate::templates::graph::class;

/// A server that is ready.
pub(super) struct Live {
    pub client: Client,
    pub system: System,
    /// Fires when its process is gone.
    pub gone: CancellationToken,
    /// Somebody waits for its end and fires the token then.
    pub watched: AtomicBool,
    /// Jobs it has been given.
    pub jobs: AtomicU64,
    /// Node classes that it has described: it has the same ones as long as it runs.
    described: Mutex<Map<String, Value>>,
}

impl Live {
    pub fn new(client: Client, system: System) -> Arc<Self> {
        Arc::new(Self {
            client,
            system,
            gone: CancellationToken::new(),
            watched: AtomicBool::new(false),
            jobs: AtomicU64::new(0),
            described: Mutex::new(Map::new()),
        })
    }

    /// What the server says about the node classes of a workflow; those it does not have are left out.
    pub async fn object_info(&self, workflow: &Map<String, Value>) -> Result<Map<String, Value>, String> {
        let classes: BTreeSet<&str> = workflow.values().filter_map(class).collect();
        let mut info = Map::new();
        let mut unknown = Vec::new();
        {
            let described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
            for name in classes {
                match described.get(name) {
                    Some(known) => drop(info.insert(name.to_string(), known.clone())),
                    None => unknown.push(name),
                }
            }
        }
        if !unknown.is_empty() {
            let found = self.client.object_info(unknown).await?;
            self.described.lock().unwrap_or_else(PoisonError::into_inner).extend(found.clone());
            info.extend(found);
        }
        Ok(info)
    }

    /// Jobs before this one.
    pub fn count(&self) -> u64 {
        self.jobs.fetch_add(1, Ordering::Relaxed)
    }
}

/// How the owned server is started.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The checkout.
    pub root: PathBuf,
    /// None: looked for in the checkout, else `python3`.
    pub python: Option<PathBuf>,
    /// After the host's own.
    pub args: Vec<String>,
    /// 0: a free one.
    pub port: u16,
    /// Where its inputs, outputs and the like lie: `data/engines/comfyui`.
    pub folder: PathBuf,
    pub times: Times,
}

pub(super) struct Server {
    options: ServerOptions,
    /// Of the last start.
    port: Mutex<u16>,
}

impl Server {
    pub fn new(options: ServerOptions) -> Self {
        Self { options, port: Mutex::new(0) }
    }

    pub fn folders(&self) -> Folders {
        let folder = |name: &str| self.options.folder.join(name);
        Folders { input: folder("input"), output: folder("output"), temp: folder("temp") }
    }

    fn python(&self) -> PathBuf {
        let within = |name: &str| Some(self.options.root.join(name).join("bin/python")).filter(|path| path.exists());
        self.options.python.clone().or_else(|| within(".venv")).or_else(|| within("venv")).unwrap_or("python3".into())
    }
}

#[async_trait]
impl Supervised for Server {
    type Ready = Arc<Live>;

    fn name(&self) -> &'static str {
        "comfyui"
    }

    fn title(&self) -> String {
        "ComfyUI".into()
    }

    async fn launch(&self) -> Result<Launch, String> {
        let options = &self.options;
        let main = options.root.join("main.py");
        if !main.is_file() {
            return Err(format!(
                "there is no {}: is engines.comfyui.root the folder of a ComfyUI checkout?",
                main.display()
            ));
        }
        let port = free_port(options.port)?;
        let folders = self.folders();
        let user = options.folder.join("user");
        for folder in [&folders.input, &folders.output, &user] {
            std::fs::create_dir_all(folder).map_err(|e| format!("cannot make the folder {}: {e}", folder.display()))?;
        }
        *self.port.lock().unwrap_or_else(PoisonError::into_inner) = port;
        let mut args: Vec<OsString> = vec![main.into()];
        let mut add = |flag: &str, value: &Path| args.extend([flag.into(), value.into()]);
        // There is no authentication of any kind: nobody else may reach it.
        add("--listen", Path::new("127.0.0.1"));
        add("--port", Path::new(&port.to_string()));
        add("--input-directory", &folders.input);
        add("--output-directory", &folders.output);
        // The server makes a folder `temp` in it.
        add("--temp-directory", &options.folder);
        add("--user-directory", &user);
        add("--database-url", Path::new("sqlite:///:memory:"));
        add("--preview-method", Path::new("auto"));
        args.push("--disable-auto-launch".into());
        args.extend(options.args.iter().map(OsString::from));
        let env = [("PYTHONUNBUFFERED", "1"), ("MPLBACKEND", "Agg")].map(|(name, value)| (name.into(), value.into()));
        Ok(Launch { program: self.python(), args, env: env.to_vec(), folder: options.root.clone() })
    }

    async fn ready(&self) -> Readiness<Arc<Live>> {
        let port = *self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let times = self.options.times;
        let Ok(url) = Url::parse(&format!("http://127.0.0.1:{port}/")) else {
            return Readiness::Failed(format!("{port} makes no address"));
        };
        let address = Address { url, headers: Vec::new() };
        let http = match Http::new(&address, times.connect, times.request) {
            Ok(http) => http,
            Err(failure) => return Readiness::Failed(failure.message),
        };
        // Nothing listens before every node is loaded.
        let Ok(system) = http.system().await else { return Readiness::NotYet };
        match Client::new(&address, times, Some(self.folders())) {
            Ok(client) => Readiness::Ready(Live::new(client, system)),
            Err(failure) => Readiness::Failed(failure.message),
        }
    }
}

/// The port, if nobody has it; a free one for 0. Looked at before the start: the server itself would tell only after all of
/// its own, and meanwhile somebody else's server would answer in its place.
fn free_port(wanted: u16) -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).map_err(|e| match wanted {
        0 => format!("there is no free port on 127.0.0.1: {e}"),
        _ => format!("port {wanted} (engines.comfyui.port) is not free: {e}"),
    })?;
    listener.local_addr().map(|address| address.port()).map_err(|e| format!("there is no free port on 127.0.0.1: {e}"))
}
