//! A ComfyUI to hold the host against: the stand-in, or a real checkout.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use enginehouse_tests::host::{Host, root, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What is run as ComfyUI.
pub struct Place {
    pub real: bool,
    root: PathBuf,
    python: PathBuf,
    args: Vec<String>,
    folder: TempDir,
}

impl Place {
    pub fn standin() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("main.py"), "# The stand-in needs none.\n").expect("a file");
        Self {
            real: false,
            root: folder.path().to_path_buf(),
            python: env!("CARGO_BIN_EXE_comfyui-standin").into(),
            args: Vec::new(),
            folder,
        }
    }

    /// The checkout that the environment names.
    pub fn real() -> Option<Self> {
        let checkout = PathBuf::from(std::env::var_os("COMFYUI_ROOT")?);
        let python = std::env::var_os("COMFYUI_PYTHON").map_or("python3".into(), PathBuf::from);
        let folder = tempfile::tempdir().expect("a folder");
        let nodes = folder.path().join("custom_nodes");
        std::fs::create_dir(&nodes).expect("a folder");
        std::os::unix::fs::symlink(root().join("tests/probe_nodes"), nodes.join("probe_nodes")).expect("a link");
        let paths = folder.path().join("paths.yaml");
        std::fs::write(&paths, format!("tests:\n  custom_nodes: {}\n", nodes.display())).expect("a file");
        let args = ["--cpu", "--disable-api-nodes", "--extra-model-paths-config", paths.to_str().expect("a path")];
        let args = args.map(String::from).to_vec();
        Some(Self { real: true, root: checkout, python, args, folder })
    }

    /// What the stand-in is to do wrong; nothing against a real server.
    pub fn faults(&self, faults: &Value) {
        if !self.real {
            std::fs::write(self.root.join("standin.json"), faults.to_string()).expect("a file");
        }
    }

    /// A host that owns a server of this place.
    pub fn host(&self) -> Host {
        self.host_with("")
    }

    /// The same with more settings for `[engines.comfyui]`.
    pub fn host_with(&self, settings: &str) -> Host {
        let host = Host::new();
        host.configure(&format!(
            "[engines.comfyui]\nroot = {:?}\npython = {:?}\nargs = {:?}\n{settings}",
            self.root, self.python, self.args
        ));
        host
    }

    /// A server that an operator runs, and a host that is told its address.
    pub fn operated(&self) -> (Operated, Host) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let data = self.folder.path().join("operated");
        let folder = |name: &str| {
            let folder = data.join(name);
            std::fs::create_dir_all(&folder).expect("a folder");
            folder
        };
        let log = data.join("server.log");
        let mut command = Command::new(&self.python);
        command.arg(self.root.join("main.py")).args(["--listen", "127.0.0.1", "--port", &port.to_string()]);
        for (flag, name) in [
            ("--input-directory", "input"),
            ("--output-directory", "output"),
            ("--temp-directory", "temp"),
            ("--user-directory", "user"),
        ] {
            command.arg(flag).arg(folder(name));
        }
        command.args(["--database-url", "sqlite:///:memory:", "--disable-auto-launch"]).args(&self.args);
        let out = std::fs::File::create(&log).expect("a log");
        command.stdin(Stdio::null()).stdout(out.try_clone().expect("a handle")).stderr(out);
        let server = Operated { child: command.spawn().expect("the server starts"), port, log };
        wait_for("the server to answer", || server.get("/system_stats").is_some().then_some(()));
        let host = Host::new();
        host.configure(&format!("[engines.comfyui]\nurl = \"http://127.0.0.1:{port}\"\n"));
        (server, host)
    }
}

/// A server that runs beside the host. Killed when the test ends.
pub struct Operated {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Operated {
    /// JSON of a GET; none: no answer, or not a good one.
    pub fn get(&self, path: &str) -> Option<Value> {
        exchange(self.port, &format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n\r\n", self.port))
    }

    /// JSON of a POST.
    pub fn post(&self, path: &str, body: &Value) -> Option<Value> {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n", self.port);
        exchange(
            self.port,
            &format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        )
    }

    /// Submits somebody else's prompt and gives its id.
    pub fn foreign(&self, graph: &Value) -> String {
        let answer = self.post("/prompt", &json!({"prompt": graph, "client_id": "somebody-else"})).expect("an answer");
        answer["prompt_id"].as_str().expect("an id").to_string()
    }

    /// Ids of the prompts that run and that wait.
    pub fn queue(&self) -> (Vec<String>, Vec<String>) {
        let queue = self.get("/queue").unwrap_or_default();
        let ids = |list: &str| {
            let items = queue[list].as_array().cloned().unwrap_or_default();
            items.iter().filter_map(|item| item[1].as_str().map(String::from)).collect()
        };
        (ids("queue_running"), ids("queue_pending"))
    }

    /// How its record says that a prompt ended; waits until there is one.
    pub fn ended(&self, prompt: &str) -> String {
        let record = wait_for("the record of a prompt", || {
            self.get(&format!("/history/{prompt}"))?.get(prompt).filter(|record| record.is_object()).cloned()
        });
        record["status"]["status_str"].as_str().unwrap_or_default().to_string()
    }

    /// How many prompts it was given, by its log.
    pub fn given(&self) -> usize {
        prompts_in(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for Operated {
    fn drop(&mut self) {
        // Gone already is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How many prompts the servers of a host's home were given, by their log.
pub fn given_to_owned(host: &Host) -> usize {
    prompts_in(&std::fs::read_to_string(host.home().join("data/engines/comfyui.log")).unwrap_or_default())
}

fn prompts_in(log: &str) -> usize {
    // What the host notes about a server's end repeats its last line.
    log.lines().filter(|line| line.ends_with("got prompt") && !line.contains("[enginehouse]")).count()
}

/// The process that a host's engine runs in, once it is ready.
pub fn engine_pid(host: &Host) -> u32 {
    wait_for("the engine to be ready", || {
        let engines = host.run(&["engines", "ls", "--json"]).ok().json();
        let engine = engines["engines"].as_array()?.iter().find(|engine| engine["engine"] == "comfyui")?.clone();
        (engine["state"] == "ready").then(|| engine["pid"].as_u64())?.and_then(|pid| u32::try_from(pid).ok())
    })
}

/// Kills a process that a test is entitled to kill.
pub fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a signal");
}

/// Whether a process still runs.
pub fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// One exchange as HTTP/1.0: the answer ends with the connection.
fn exchange(port: u16, request: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.lines().next()?.contains(" 200 ") {
        return None;
    }
    Some(serde_json::from_str(body).unwrap_or(Value::Null))
}
