//! Files behind URLs: size limits before and while downloading, private networks refused, cut-off files detected.
//!
//! An attempt is repeated when the server could not be reached, answered 5xx, or broke off in the middle: two more
//! times, after growing pauses, within the one time limit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use reqwest::{Client, StatusCode};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use url::Url;

use super::names;
use crate::net::{NetPolicy, innermost, refusal, shown};
use crate::task::{Failure, FailureClass};

/// Pauses before the second and the third attempt.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_millis(1500)];

/// Whoever brings the file behind an address.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// Fetches a file into a folder; its name there is of no meaning. Codes: `download_failed` (names the address without
    /// its query), `private_address`, `too_large`, `truncated`.
    async fn fetch(&self, url: &Url, folder: &Path) -> Result<Downloaded, Failure>;
}

/// Fetches files over the network. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Downloader {
    pub policy: NetPolicy,
    /// Bytes of one file.
    pub bytes: u64,
    /// For the whole transfer.
    pub timeout: Duration,
}

/// A file that was fetched.
#[derive(Clone, Debug)]
pub struct Downloaded {
    pub path: PathBuf,
    /// Last part of the URL's path, percent-decoded.
    pub name: String,
    /// The server said how long the file is, and so long it is. Otherwise a connection that ended early went unnoticed.
    pub length_known: bool,
}

#[async_trait]
impl Fetch for Downloader {
    async fn fetch(&self, url: &Url, folder: &Path) -> Result<Downloaded, Failure> {
        self.policy.check_url(url).map_err(|failure| refused(url, failure))?;
        let client = self.policy.client().map_err(|failure| refused(url, failure))?;
        let (path, length_known) =
            tokio::time::timeout(self.timeout, self.attempts(&client, url, folder)).await.map_err(|_| {
                failed(
                    url,
                    &format!("it was not complete after {} s (`inputs.download_seconds`)", self.timeout.as_secs_f64()),
                )
                .retryable()
            })??;
        Ok(Downloaded { path, name: name(url), length_known })
    }
}

impl Downloader {
    async fn attempts(&self, client: &Client, url: &Url, folder: &Path) -> Result<(PathBuf, bool), Failure> {
        for pause in PAUSES {
            match self.attempt(client, url, folder).await {
                Err(Attempt::Again(failure)) => {
                    tracing::debug!(url = %shown(url), error = %failure, "a download is tried again");
                    tokio::time::sleep(pause).await;
                }
                Err(Attempt::Over(failure)) => return Err(failure),
                Ok(file) => return Ok(file),
            }
        }
        self.attempt(client, url, folder).await.map_err(|end| match end {
            Attempt::Again(failure) | Attempt::Over(failure) => failure,
        })
    }

    async fn attempt(&self, client: &Client, url: &Url, folder: &Path) -> Result<(PathBuf, bool), Attempt> {
        let response = client.get(url.clone()).send().await.map_err(|e| not_sent(url, &e))?;
        let status = response.status();
        if !status.is_success() {
            let failure = failed(url, &format!("the server answered {status}"));
            return Err(match status {
                _ if status.is_server_error() => Attempt::Again(failure.retryable()),
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Attempt::Over(failure.retryable()),
                _ => Attempt::Over(failure),
            });
        }
        let announced = response.content_length();
        if announced.is_some_and(|announced| announced > self.bytes) {
            return Err(Attempt::Over(self.too_large(url)));
        }
        // Removed when this attempt ends in any other way than well, being dropped at the time-out included.
        let aside = tempfile::Builder::new().prefix("download-").tempfile_in(folder);
        let aside = aside.map_err(|e| Attempt::Over(not_written(url, folder, &e)))?;
        let file = aside.reopen().map_err(|e| Attempt::Over(not_written(url, folder, &e)))?;
        let mut file = tokio::fs::File::from_std(file);
        let mut received: u64 = 0;
        let mut body = response.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|e| Attempt::Again(truncated(url, received, announced, &innermost(&e))))?;
            received = received.saturating_add(piece.len() as u64);
            if received > self.bytes {
                return Err(Attempt::Over(self.too_large(url)));
            }
            file.write_all(&piece).await.map_err(|e| Attempt::Over(not_written(url, folder, &e)))?;
        }
        file.flush().await.map_err(|e| Attempt::Over(not_written(url, folder, &e)))?;
        if announced.is_some_and(|announced| announced != received) {
            return Err(Attempt::Again(truncated(url, received, announced, "the connection ended")));
        }
        let path = keep(aside).map_err(|e| Attempt::Over(not_written(url, folder, &e)))?;
        Ok((path, announced.is_some()))
    }

    fn too_large(&self, url: &Url) -> Failure {
        Failure::denied(
            "too_large",
            format!(
                "The file {} is larger than the {} bytes that a download may have (`inputs.download_mb`).",
                shown(url),
                self.bytes
            ),
        )
    }
}

/// How an attempt ended that did not end well.
enum Attempt {
    /// Another one may do better.
    Again(Failure),
    Over(Failure),
}

/// The file name in a URL, safe for people and programs; `download` when there is none.
fn name(url: &Url) -> String {
    let last = url.path_segments().and_then(|mut parts| parts.rfind(|part| !part.is_empty())).unwrap_or("download");
    names::sanitised(&percent_decode_str(last).decode_utf8_lossy())
}

fn keep(aside: NamedTempFile) -> std::io::Result<PathBuf> {
    aside.into_temp_path().keep().map_err(|e| e.error)
}

fn not_sent(url: &Url, error: &reqwest::Error) -> Attempt {
    match refusal(error) {
        Some(failure) => Attempt::Over(refused(url, failure)),
        // A connection that was refused or broke before an answer came.
        None if !error.is_builder() && !error.is_redirect() => {
            Attempt::Again(failed(url, &innermost(error)).retryable())
        }
        None => Attempt::Over(failed(url, &innermost(error))),
    }
}

/// Our own refusal of an address: a private one keeps its code, everything else is a failed download.
fn refused(url: &Url, failure: Failure) -> Failure {
    let message = format!("The file {} could not be downloaded: {}", shown(url), failure.message);
    let code = if failure.code == "private_address" { failure.code } else { "download_failed".into() };
    Failure { code, message, ..failure }
}

fn failed(url: &Url, why: &str) -> Failure {
    let message = format!("The file {} could not be downloaded: {}.", shown(url), why.trim_end_matches('.'));
    Failure::new(FailureClass::Dependency, "download_failed", message)
}

fn truncated(url: &Url, received: u64, announced: Option<u64>, why: &str) -> Failure {
    let of = announced.map_or(String::new(), |announced| format!(" of {announced}"));
    let message = format!("The download of {} broke off after {received}{of} bytes: {why}.", shown(url));
    Failure::new(FailureClass::Dependency, "truncated", message).retryable()
}

fn not_written(url: &Url, folder: &Path, error: &std::io::Error) -> Failure {
    let message = format!("The file {} could not be written to {}: {error}.", shown(url), folder.display());
    Failure::unavailable("download_failed", message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A server on loopback that answers by path; counts requests.
    struct Server {
        port: u16,
        requests: Arc<AtomicUsize>,
    }

    impl Server {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let requests = Arc::new(AtomicUsize::new(0));
            let counter = requests.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, port, counter.clone()));
                }
            });
            Self { port, requests }
        }

        fn url(&self, path: &str) -> Url {
            format!("http://127.0.0.1:{}{path}", self.port).parse().unwrap()
        }

        fn requests(&self) -> usize {
            self.requests.load(Ordering::SeqCst)
        }
    }

    async fn answer(mut stream: TcpStream, port: u16, requests: Arc<AtomicUsize>) -> Option<()> {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        let request = lines.next_line().await.ok()??;
        while !lines.next_line().await.ok()??.is_empty() {}
        let nth = requests.fetch_add(1, Ordering::SeqCst);
        let path = request.split(' ').nth(1)?.split('?').next()?;
        let ok = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n{body}");
        let found = |to: &str| {
            format!("HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        };
        let status = |line: &str| format!("HTTP/1.1 {line}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let text = match path {
            "/redirect-to-file" => found(&format!("http://127.0.0.1:{port}/file.png")),
            "/redirect-to-private" => found("http://10.0.0.1/secret"),
            "/redirect-to-localhost" => found(&format!("http://localhost:{port}/file.png")),
            "/redirect-for-ever" => found("/redirect-for-ever"),
            "/redirect-to-file-system" => found("file:///etc/passwd"),
            "/cut-off" => ok("Content-Length: 100\r\n", "0123456789"),
            "/cut-off-chunked" => ok("Transfer-Encoding: chunked\r\n", "a\r\n0123456789\r\n"),
            "/cut-off-once" if nth == 0 => ok("Content-Length: 100\r\n", "0123456789"),
            "/large" => ok("Content-Length: 5000\r\n", ""),
            "/missing.png" => status("404 Not Found"),
            "/busy-once" if nth == 0 => status("503 Service Unavailable"),
            "/busy" => status("503 Service Unavailable"),
            "/endless" => {
                write.write_all(ok("", "").as_bytes()).await.ok()?;
                loop {
                    write.write_all(&[b'x'; 512]).await.ok()?;
                }
            }
            "/slow" => {
                write.write_all(ok("Content-Length: 10\r\n", "012").as_bytes()).await.ok()?;
                // Until the other side gives up.
                while lines.next_line().await.ok()?.is_some() {}
                return Some(());
            }
            _ => ok("Content-Length: 7\r\n", "content"),
        };
        write.write_all(text.as_bytes()).await.ok()
    }

    fn downloader(allow: &[&str]) -> Downloader {
        let policy = NetPolicy { allow: allow.iter().map(|entry| entry.to_string()).collect() };
        Downloader { policy, bytes: 1000, timeout: Duration::from_secs(30) }
    }

    /// Fetches into a folder of its own and sees to it that nothing but the result stays.
    async fn fetch(downloader: &Downloader, url: &Url) -> Result<(String, Vec<u8>), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let result = downloader.fetch(url, folder.path()).await;
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, usize::from(result.is_ok()), "partial files of {url}");
        result.map(|file| (file.name, std::fs::read(file.path).unwrap()))
    }

    async fn code(downloader: &Downloader, url: &Url) -> String {
        fetch(downloader, url).await.unwrap_err().code
    }

    #[tokio::test]
    async fn a_file_arrives_whole_under_the_name_of_its_address() {
        let server = Server::start().await;
        let here = downloader(&[&format!("127.0.0.1:{}", server.port)]);
        let (name, bytes) = fetch(&here, &server.url("/a/my%20p%C3%AFc+1.png?token=secret")).await.unwrap();
        assert_eq!((name.as_str(), bytes.as_slice()), ("my_pïc+1.png", b"content".as_slice()));
        assert_eq!(fetch(&here, &server.url("/")).await.unwrap().0, "download");
        assert_eq!(fetch(&here, &server.url("/x/..%2F..%2Fetc%2Fpasswd")).await.unwrap().0, "passwd");
        assert_eq!(fetch(&here, &server.url("/redirect-to-file")).await.unwrap().1, b"content");
    }

    #[tokio::test]
    async fn private_addresses_are_refused_by_address_by_name_and_behind_redirects() {
        let server = Server::start().await;
        let stranger = downloader(&[]);
        assert_eq!(code(&stranger, &server.url("/file.png")).await, "private_address");
        let localhost: Url = format!("http://localhost:{}/file.png", server.port).parse().unwrap();
        let failure = fetch(&stranger, &localhost).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.class), ("private_address", FailureClass::Denied));
        for part in ["`localhost`", "127.0.0.1 (loopback)", "inputs.addresses"] {
            assert!(failure.message.contains(part), "{part} in {}", failure.message);
        }
        assert_eq!(server.requests(), 0, "no connection is made to a refused address");

        let here = downloader(&[&format!("127.0.0.1:{}", server.port)]);
        for path in ["/redirect-to-private", "/redirect-to-localhost"] {
            assert_eq!(code(&here, &server.url(path)).await, "private_address", "{path}");
        }
        assert_eq!(server.requests(), 2, "a refusal is not tried again");
        assert_eq!(code(&here, &"http://10.0.0.1/".parse().unwrap()).await, "private_address");
        let whole_machine = downloader(&["127.0.0.1"]);
        assert_eq!(fetch(&whole_machine, &localhost).await.unwrap().1, b"content");
    }

    #[tokio::test]
    async fn redirects_end_and_stay_on_the_web() {
        let server = Server::start().await;
        let here = downloader(&["127.0.0.1"]);
        assert_eq!(code(&here, &server.url("/redirect-for-ever")).await, "download_failed");
        assert_eq!(server.requests(), 11, "the request and ten redirects");
        assert_eq!(code(&here, &server.url("/redirect-to-file-system")).await, "download_failed");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_noticed_and_fetched_again() {
        let server = Server::start().await;
        let here = downloader(&["127.0.0.1"]);
        for path in ["/cut-off", "/cut-off-chunked"] {
            let failure = fetch(&here, &server.url(path)).await.unwrap_err();
            assert_eq!((failure.code.as_str(), failure.retry), ("truncated", true), "{path}");
            assert!(failure.message.contains("10"), "{}", failure.message);
        }
        assert_eq!(server.requests(), 6, "three attempts each");
        let server = Server::start().await;
        assert_eq!(fetch(&here, &server.url("/cut-off-once")).await.unwrap().1, b"content");
    }

    #[tokio::test]
    async fn too_large_a_file_is_refused_before_and_while_it_comes() {
        let server = Server::start().await;
        let here = downloader(&["127.0.0.1"]);
        for path in ["/large", "/endless"] {
            let failure = fetch(&here, &server.url(path)).await.unwrap_err();
            assert_eq!((failure.code.as_str(), failure.class), ("too_large", FailureClass::Denied), "{path}");
        }
        assert_eq!(server.requests(), 2);
    }

    #[tokio::test]
    async fn an_error_status_names_the_address_without_its_query() {
        let server = Server::start().await;
        let here = downloader(&["127.0.0.1"]);
        let failure = fetch(&here, &server.url("/missing.png?token=secret")).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retry), ("download_failed", false));
        assert!(
            failure.message.contains("/missing.png could") && failure.message.contains("404"),
            "{}",
            failure.message
        );
        assert!(!failure.message.contains("secret"), "{}", failure.message);
        assert_eq!(server.requests(), 1);
    }

    #[tokio::test]
    async fn a_server_in_trouble_is_asked_again() {
        let server = Server::start().await;
        let here = downloader(&["127.0.0.1"]);
        assert_eq!(fetch(&here, &server.url("/busy-once")).await.unwrap().1, b"content");
        let failure = fetch(&here, &server.url("/busy")).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retry), ("download_failed", true));
        assert_eq!(server.requests(), 5);
        // Nobody listens on a port that was just given back.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let failure = fetch(&here, &format!("http://{closed}/").parse().unwrap()).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retry), ("download_failed", true));
        assert!(failure.message.contains("refused"), "{}", failure.message);
    }

    #[tokio::test]
    async fn a_slow_server_ends_at_the_time_limit() {
        let server = Server::start().await;
        let here = Downloader { timeout: Duration::from_millis(300), ..downloader(&["127.0.0.1"]) };
        let failure = fetch(&here, &server.url("/slow")).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retry), ("download_failed", true));
        assert!(failure.message.contains("0.3 s"), "{}", failure.message);
    }

    #[tokio::test]
    async fn other_schemes_are_no_downloads() {
        let failure = fetch(&downloader(&[]), &"ftp://example.org/a".parse().unwrap()).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.class), ("download_failed", FailureClass::InvalidInput));
    }
}
