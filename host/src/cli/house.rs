//! Opens a home and wires the rooms together: settings, store, plugins, engines.

use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::artifacts::Artifacts;
use crate::artifacts::download::Downloader;
use crate::assist::Unassisted;
use crate::cli::Global;
use crate::cli::exit::{self, Stop};
use crate::clock::Clock;
use crate::config::{self, Config, Loaded, Start};
use crate::engines::animatic::Animatic;
use crate::engines::comfyui::{Address, ComfyUi, ServerOptions, Times};
use crate::engines::supervisor::{SupervisorOptions, leftovers};
use crate::engines::{Engine, EngineOptions, Engines};
use crate::home::Home;
use crate::media::intake::Intake;
use crate::media::{Media, Tools};
use crate::net::NetPolicy;
use crate::plugins::{PluginOptions, Plugins, Services, Snapshot};
use crate::router::Offers;
use crate::store::sqlite::{SqliteSettings, SqliteStore};
use crate::store::{SharedStore, holder};
use crate::templates::{TemplateOptions, Templates};
use crate::worker::Worker;

/// How long a worker asks for its place again: whoever looks for a worker ([`House::worker_pid`]) has it for a moment.
const LOOKS: Duration = Duration::from_millis(300);
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// A home with its settings read; the rooms are opened as a command needs them.
pub struct House {
    pub home: Home,
    pub config: Arc<Config>,
    pub loaded: Loaded,
    pub clock: Clock,
    /// One for all rooms: its limit on what runs at once holds for them together.
    media: Media,
}

impl House {
    /// Reads the settings. Wrong ones end the command with code 78.
    pub fn open(global: &Global) -> Result<Self, Stop> {
        Self::at(Home::new(&global.home), global)
    }

    /// The same for a home that the command chose.
    pub fn at(home: Home, global: &Global) -> Result<Self, Stop> {
        let mut flags = Vec::new();
        for pair in &global.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Stop::new(
                    exit::USAGE,
                    anyhow::anyhow!("`--set {pair}`: expected KEY=VALUE, as in `--set routing.mode=simple`"),
                )
            })?;
            flags.push((key.trim().to_string(), value.to_string()));
        }
        let env = config::process_environment();
        let loaded = Config::of_home(&home, &env, &flags).map_err(|e| Stop::new(exit::CONFIG, e))?;
        let config = Arc::new(loaded.config.clone());
        let media = Media::new(Tools::from(&config.media));
        Ok(Self { home, config, loaded, clock: Clock::system(), media })
    }

    /// The task store; made with the first call.
    pub async fn store(&self) -> Result<SharedStore, Stop> {
        let path = self.home.store();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        let settings = SqliteSettings {
            quarantine_after_deaths: self.config.worker.quarantine_after_deaths,
            busy_timeout_ms: self.config.store.busy_timeout_seconds.saturating_mul(1000),
            readers: self.config.store.readers,
            ..SqliteSettings::default()
        };
        let store = SqliteStore::open(&path, self.clock.clone(), settings)
            .await
            .with_context(|| format!("cannot open the task store {}", path.display()))?;
        Ok(store)
    }

    /// The plugins of the folder, in service.
    pub async fn plugins(&self) -> Result<Arc<Plugins>, Stop> {
        let options = PluginOptions {
            folder: self.home.plugins(),
            data: self.home.plugin_data(),
            compiler: std::env::current_exe().context("cannot find the path of this program")?,
            config: self.config.clone(),
            clock: self.clock.clone(),
        };
        Ok(Plugins::open(options).await?)
    }

    /// What the plugins folder offers: from the running worker's own record, else by reading the folder.
    pub async fn snapshot(&self) -> Result<Snapshot, Stop> {
        if self.worker_pid().is_some()
            && let Some(snapshot) = Snapshot::read(&self.home.plugin_data())?
        {
            return Ok(snapshot);
        }
        Ok(self.plugins().await?.snapshot().as_ref().clone())
    }

    /// The templates of the folder, in service.
    pub async fn templates(&self) -> Arc<Templates> {
        let plugins = &self.config.plugins;
        Templates::open(TemplateOptions {
            folder: self.home.comfyui_templates(),
            kept: self.home.comfyui_templates_kept(),
            quiet: Duration::from_millis(plugins.quiet_milliseconds),
            largest: plugins.file_mb.saturating_mul(1 << 20),
            clock: self.clock.clone(),
        })
        .await
    }

    /// What the folders of the home offer, for the router.
    pub async fn offers(&self) -> Result<Offers, Stop> {
        Ok(self.snapshot().await?.offers().with_templates(self.templates().await.offers()))
    }

    pub fn artifacts(&self) -> Result<Artifacts, Stop> {
        Ok(Artifacts::open(&self.home.data(), &self.home.outputs())?)
    }

    pub fn media(&self) -> Media {
        self.media.clone()
    }

    /// The way in for files.
    pub fn intake(&self) -> Result<Intake, Stop> {
        let c = &self.config.inputs;
        Ok(Intake {
            artifacts: self.artifacts()?,
            downloader: Arc::new(Downloader {
                policy: NetPolicy { allow: c.addresses.clone() },
                bytes: c.download_mb.saturating_mul(1024 * 1024),
                timeout: Duration::from_secs(c.download_seconds),
            }),
            media: self.media(),
            roots: c.folders(self.home.folder()),
        })
    }

    /// Everything a worker needs.
    pub async fn worker(&self) -> Result<Arc<Worker>, Stop> {
        let (artifacts, media) = (self.artifacts()?, self.media());
        let engines = Engines::new(EngineOptions {
            jobs: self.home.jobs(),
            artifacts: artifacts.clone(),
            clock: self.clock.clone(),
            comfyui: self.comfyui(&media),
            wan2gp: self.wan2gp(&media),
            job_limit: Duration::from_secs(self.config.engines.job_limit_seconds),
            cancel_grace: Duration::from_secs(self.config.engines.cancel_grace_seconds),
        });
        let services = Services {
            store: self.store().await?,
            engines,
            assist: Arc::new(Unassisted),
            artifacts,
            media,
            intake: self.intake()?,
            clock: self.clock.clone(),
        };
        Ok(Arc::new(Worker {
            services,
            plugins: self.plugins().await?,
            templates: self.templates().await,
            config: self.config.clone(),
            holder: holder::this_process(),
            logs: self.home.logs(),
            timings: None,
        }))
    }

    fn wan2gp(&self, media: &Media) -> Result<Arc<dyn Engine>, String> {
        match (&self.config.engines.wan2gp.root, self.config.engines.animatic) {
            (Some(root), _) => Err(format!(
                "engines.wan2gp.root is {root}, but this version cannot drive a Wan2GP checkout yet; remove the setting to \
                 render with the animatic stand-in"
            )),
            (None, true) => Ok(Arc::new(Animatic::new(media.clone()))),
            (None, false) => Err("no Wan2GP is configured and the animatic stand-in is switched off \
                                  (engines.animatic = false); set engines.wan2gp.root or engines.animatic = true"
                .into()),
        }
    }

    fn comfyui(&self, media: &Media) -> Result<Arc<dyn Engine>, String> {
        let c = &self.config.engines.comfyui;
        let seconds = Duration::from_secs;
        let times = Times {
            request: seconds(c.request_seconds),
            transfer: seconds(c.transfer_seconds),
            unreachable: seconds(c.unreachable_seconds),
            inactive: seconds(c.inactive_seconds),
            cancel_grace: seconds(c.cancel_grace_seconds),
            ..Times::default()
        };
        let deaths = self.config.worker.quarantine_after_deaths;
        if let Some(root) = &c.root {
            let server = ServerOptions {
                root: std::path::absolute(root).map_err(|e| format!("engines.comfyui.root is {root}: {e}"))?,
                python: c.python.as_ref().map(PathBuf::from),
                args: c.args.clone(),
                port: c.port,
                folder: self.home.engines().join("comfyui"),
                times,
            };
            let mut supervisor = SupervisorOptions::new(self.home.engines(), self.clock.clone());
            supervisor.limits.start = Some(seconds(c.start_seconds)).filter(|limit| !limit.is_zero());
            supervisor.limits.interrupt_grace = seconds(c.stop_seconds);
            return Ok(Arc::new(ComfyUi::owned(server, supervisor, c.start == Start::Eager, deaths)));
        }
        if let Some(url) = &c.url {
            let url = url.parse().map_err(|e| format!("engines.comfyui.url is {url}, which is no address: {e}"))?;
            let headers = c.headers.iter().map(|(name, source)| match source.read() {
                Ok(value) => Ok((name.clone(), value)),
                Err(why) => Err(format!("the header `{name}` (engines.comfyui.headers) cannot be read: {why}")),
            });
            let address = Address { url, headers: headers.collect::<Result<_, _>>()? };
            return Ok(Arc::new(ComfyUi::elsewhere(address, times, self.clock.clone(), deaths)));
        }
        if self.config.engines.animatic {
            return Ok(Arc::new(Animatic::for_workflows(media.clone())));
        }
        Err("no ComfyUI is configured and the animatic stand-in is switched off (engines.animatic = false); set \
             engines.comfyui.root to the folder of a checkout, engines.comfyui.url to the address of a server, or \
             engines.animatic = true"
            .into())
    }

    /// Takes the place of this home's worker; it is free again when the value is dropped, however the process ends. When
    /// somebody has it, that ends the command with code 69.
    pub async fn take_worker_lock(&self) -> Result<WorkerLock, Stop> {
        self.try_worker_lock().await?.ok_or_else(|| {
            let pid = self.worker_pid().map_or(String::new(), |pid| format!(" (pid {pid})"));
            Stop::new(
                exit::UNAVAILABLE,
                anyhow::anyhow!(
                    "a worker{pid} already works in {}; stop it first, or use another --home",
                    self.home.folder().display()
                ),
            )
        })
    }

    /// The same; none: somebody has it.
    pub async fn try_worker_lock(&self) -> Result<Option<WorkerLock>, Stop> {
        let path = self.home.worker_lock();
        std::fs::create_dir_all(self.home.data())
            .with_context(|| format!("cannot make the folder {}", self.home.data().display()))?;
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut waited = Duration::ZERO;
        while let Err(e) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != Errno::WOULDBLOCK {
                return Err(anyhow::Error::new(e).context(format!("cannot lock {}", path.display())).into());
            }
            if waited >= LOOKS {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            waited += LOOK_PAUSE;
        }
        // Whoever had the place before is gone; what it left running must not hold the GPU.
        let engines = self.home.engines();
        let ended = tokio::task::spawn_blocking(move || leftovers::end(&engines)).await;
        if let Ok(processes @ 1..) = ended {
            tracing::warn!(processes, "ended engine processes that an earlier worker of this home left running");
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        file.flush()?;
        Ok(Some(WorkerLock { _file: file }))
    }

    /// Pid of the worker that runs in this home, if one does.
    pub fn worker_pid(&self) -> Option<String> {
        let mut file = std::fs::File::open(self.home.worker_lock()).ok()?;
        // A shared lock is refused exactly while a worker holds its exclusive one.
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK) {
            return None;
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid).ok()?;
        Some(pid.trim().to_string())
    }
}

/// The place of a home's worker.
pub struct WorkerLock {
    _file: std::fs::File,
}
