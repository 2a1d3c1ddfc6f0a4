//! The listening socket, which can refuse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::{TcpListener, TcpStream};

use super::Server;

/// A listener that closes the next connections at once while the server has refusals left.
pub(super) struct Listener {
    inner: TcpListener,
    server: Arc<Server>,
}

impl Listener {
    pub(super) fn new(inner: TcpListener, server: Arc<Server>) -> Self {
        Self { inner, server }
    }
}

impl axum::serve::Listener for Listener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, from)) => {
                    let refused = self
                        .server
                        .refusals
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                    if refused.is_err() {
                        let _ = stream.set_nodelay(true);
                        return (stream, from);
                    }
                }
                // Out of descriptors, most likely: others may close.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}
