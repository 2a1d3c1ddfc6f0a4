//! The command line of the real program, as far as a host uses it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::Faults;

/// MiB that `--max-upload-size` stands at when it is not given.
const UPLOAD_LIMIT_MIB: u64 = 100;

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: IpAddr,
    /// 0: a free one.
    pub port: u16,
    pub input: PathBuf,
    pub output: PathBuf,
    /// The parent: the folder itself is `temp` below it.
    pub temp: PathBuf,
    /// Must exist.
    pub user: PathBuf,
    /// Bytes that the body of any request may have.
    pub upload_limit_bytes: u64,
    /// `--cache-none` turns the result cache off.
    pub cache: bool,
    /// `--disable-metadata` keeps the graph out of saved pictures.
    pub metadata: bool,
    /// `--enable-cors-header` turns the origin check off.
    pub origin_check: bool,
    /// What `/system_stats` shows as `argv`.
    pub argv: Vec<String>,
    pub faults: Faults,
    /// Where it is counted how often a fault has struck, for those that strike a number of times over processes.
    pub counts: Option<PathBuf>,
}

/// What a command line means.
#[derive(Debug)]
pub enum Parsed {
    Run(Box<Options>),
    /// Exit code 2 after this text.
    Usage(String),
}

impl Options {
    /// A server on a free port with its folders below `root`, which are made here.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn below(root: &Path) -> std::io::Result<Self> {
        let mut options = Self::defaults(root);
        options.port = 0;
        std::fs::create_dir_all(&options.user)?;
        Ok(options)
    }

    fn defaults(base: &Path) -> Self {
        Self {
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8188,
            input: base.join("input"),
            output: base.join("output"),
            temp: base.to_path_buf(),
            user: base.join("user"),
            upload_limit_bytes: UPLOAD_LIMIT_MIB << 20,
            cache: true,
            metadata: true,
            origin_check: true,
            argv: vec!["main.py".to_string()],
            faults: Faults::default(),
            counts: None,
        }
    }

    /// `script` is the first argument, the path of `main.py`: its folder is the base of all others.
    pub fn parse(script: &Path, arguments: &[String]) -> Parsed {
        let base = script.parent().unwrap_or(Path::new("."));
        let mut options = Self::defaults(base);
        options.argv.extend(arguments.iter().cloned());
        match options.read(arguments) {
            Ok(()) => Parsed::Run(Box::new(options)),
            Err(why) => Parsed::Usage(format!("main.py: error: {why}")),
        }
    }

    fn read(&mut self, arguments: &[String]) -> Result<(), String> {
        let mut rest = arguments.iter().peekable();
        while let Some(flag) = rest.next() {
            let (flag, mut attached) = match flag.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_string())),
                _ => (flag.as_str(), None),
            };
            let mut value = |optional: bool| -> Result<Option<String>, String> {
                if let Some(value) = attached.take() {
                    return Ok(Some(value));
                }
                match rest.next_if(|next| !next.starts_with("--")) {
                    Some(value) => Ok(Some(value.clone())),
                    None if optional => Ok(None),
                    None => Err(format!("argument {flag}: expected one argument")),
                }
            };
            let needed = |value: Option<String>| value.ok_or_else(|| format!("argument {flag}: expected one argument"));
            let folder = |value: Option<String>| needed(value).map(PathBuf::from);
            match flag {
                "--listen" => {
                    let text = value(true)?.unwrap_or_else(|| "0.0.0.0".to_string());
                    let first = text.split(',').next().unwrap_or_default().trim();
                    self.listen =
                        first.parse().map_err(|_| format!("argument --listen: invalid address: '{first}'"))?;
                }
                "--port" => self.port = number(flag, &needed(value(false)?)?)?,
                "--max-upload-size" => {
                    let mib: f64 = number(flag, &needed(value(false)?)?)?;
                    self.upload_limit_bytes = (mib.max(0.0) * f64::from(1 << 20)).round() as u64;
                }
                "--base-directory" => {
                    let base = folder(value(false)?)?;
                    self.input = base.join("input");
                    self.output = base.join("output");
                    self.temp = base.clone();
                    self.user = base.join("user");
                }
                "--input-directory" => self.input = folder(value(false)?)?,
                "--output-directory" => self.output = folder(value(false)?)?,
                "--temp-directory" => self.temp = folder(value(false)?)?,
                "--user-directory" => self.user = existing(flag, folder(value(false)?)?)?,
                "--models-directory" | "--front-end-root" => {
                    existing(flag, folder(value(false)?)?)?;
                }
                "--enable-cors-header" => {
                    value(true)?;
                    self.origin_check = false;
                }
                "--cache-none" => self.cache = false,
                "--disable-metadata" => self.metadata = false,
                "--extra-model-paths-config" | "--whitelist-custom-nodes" | "--cache-ram" | "--verbose" => {
                    while rest.next_if(|next| !next.starts_with("--")).is_some() {}
                }
                "--database-url"
                | "--cuda-device"
                | "--default-device"
                | "--reserve-vram"
                | "--vram-headroom"
                | "--cache-lru"
                | "--preview-method"
                | "--preview-size"
                | "--front-end-version" => {
                    needed(value(false)?)?;
                }
                "--cpu"
                | "--disable-auto-launch"
                | "--disable-api-nodes"
                | "--disable-all-custom-nodes"
                | "--gpu-only"
                | "--highvram"
                | "--normalvram"
                | "--lowvram"
                | "--novram"
                | "--disable-smart-memory"
                | "--cache-classic"
                | "--log-stdout"
                | "--dont-print-server" => {}
                unknown => return Err(format!("unrecognized arguments: {unknown}")),
            }
        }
        Ok(())
    }

    /// The folder of type `temp`.
    pub fn temp_folder(&self) -> PathBuf {
        self.temp.join("temp")
    }

    /// Input and output are made if they are missing; the temp folder is emptied.
    ///
    /// # Errors
    /// When one of them cannot be made.
    pub fn make_folders(&self) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.input)?;
        std::fs::create_dir_all(&self.output)?;
        match std::fs::remove_dir_all(self.temp_folder()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(self.temp_folder())
    }
}

fn number<T: std::str::FromStr>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("argument {flag}: invalid value: '{text}'"))
}

fn existing(flag: &str, folder: PathBuf) -> Result<PathBuf, String> {
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(format!("argument {flag}: {} is not a valid path to a folder", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Parsed {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_string()).collect();
        Options::parse(Path::new("/opt/engine/main.py"), &arguments)
    }

    #[test]
    fn folders_hang_below_the_script_unless_told_otherwise() {
        let Parsed::Run(options) =
            parse(&["--listen", "127.0.0.1", "--port", "4711", "--temp-directory", "/t", "--cpu"])
        else {
            panic!("these are flags of the real program");
        };
        assert_eq!(options.port, 4711);
        assert_eq!(options.input, Path::new("/opt/engine/input"));
        assert_eq!(options.temp_folder(), Path::new("/t/temp"));
    }

    #[test]
    fn an_unknown_flag_and_an_absent_user_folder_are_usage_errors() {
        assert!(matches!(parse(&["--no-such-flag"]), Parsed::Usage(why) if why.contains("--no-such-flag")));
        assert!(matches!(parse(&["--user-directory", "/does/not/exist"]), Parsed::Usage(_)));
        assert!(matches!(parse(&["--port", "many"]), Parsed::Usage(_)));
        assert!(matches!(parse(&["--port"]), Parsed::Usage(_)));
    }
}
