//! What a standard library finds of the world.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

/// Environment, files, sockets: what could be had of them.
pub fn all() -> Value {
    let mut input = String::new();
    let folder = |path| std::fs::read_dir(path).map(Iterator::count).map_err(kind);
    json!({
        "environment": std::env::vars().collect::<Vec<_>>(),
        "arguments": std::env::args().collect::<Vec<_>>(),
        "standard_input": std::io::stdin().read_to_string(&mut input).map_err(kind),
        "read": [
            std::fs::read_to_string("/etc/passwd").map_err(kind),
            std::fs::read_to_string("../../etc/passwd").map_err(kind),
        ],
        "list": [folder("/"), folder(".")],
        "write": std::fs::write("/tmp/offence", "x").map_err(kind),
        "connect": TcpStream::connect("127.0.0.1:80").map(drop).map_err(kind),
        "listen": TcpListener::bind("127.0.0.1:0").map(drop).map_err(kind),
        "udp": UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(b"x", "127.0.0.1:9")).map_err(kind),
        "name": ("localhost", 80).to_socket_addrs().map(Iterator::count).map_err(kind),
    })
}

fn kind(error: std::io::Error) -> String {
    match error.kind() {
        ErrorKind::Other => error.to_string(),
        kind => format!("{kind:?}"),
    }
}

/// The clock now, after a sleep, and after a loop that sleeps until a moment.
pub fn clock() -> Value {
    let start = Instant::now();
    let wall = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis());
    let first = wall();
    std::thread::sleep(Duration::from_secs(3600));
    let slept = start.elapsed().as_millis();
    while start.elapsed() < Duration::from_secs(7200) {
        std::thread::sleep(Duration::from_secs(7));
    }
    json!({ "wall": first, "slept": slept, "later": wall() - first })
}

/// The seed of the standard library's hash maps, three times.
pub fn random() -> Value {
    let one = || RandomState::new().build_hasher().finish();
    json!([one(), one(), one()])
}
