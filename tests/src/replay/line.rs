//! A port that can be closed and opened again, and connections that can be cut: how a server dies as its clients see it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A port of this machine, held also while nobody listens on it.
pub struct Port {
    pub address: SocketAddr,
    /// Bound, not listening: connections are refused, and nobody else gets the port.
    kept: Option<TcpSocket>,
    open: Option<(JoinHandle<()>, CancellationToken)>,
}

/// One connection, as a handler can cut it.
#[derive(Clone, Debug)]
pub struct Connection(CancellationToken);

impl Port {
    /// # Errors
    /// When no port is free.
    pub fn hold() -> std::io::Result<Self> {
        let socket = bound(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { address: socket.local_addr()?, kept: Some(socket), open: None })
    }

    /// Listens, and answers with `router`.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub fn open(&mut self, router: Router) -> std::io::Result<()> {
        let Some(socket) = self.kept.take() else { return Ok(()) };
        let all = CancellationToken::new();
        let line = Line { listener: socket.listen(1024)?, all: all.clone() };
        let serve = axum::serve(line, router.into_make_service_with_connect_info::<Connection>());
        let task = tokio::spawn(async move {
            serve.await.ok();
        });
        self.open = Some((task, all));
        Ok(())
    }

    /// Refuses connections from now on and cuts the ones there are, without a farewell.
    ///
    /// # Errors
    /// When the port cannot be kept.
    pub async fn close(&mut self) -> std::io::Result<()> {
        let Some((task, all)) = self.open.take() else { return Ok(()) };
        task.abort();
        task.await.ok();
        self.kept = Some(bound(self.address)?);
        all.cancel();
        Ok(())
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some((task, all)) = self.open.take() {
            task.abort();
            all.cancel();
        }
    }
}

impl Connection {
    /// Ends it without an answer.
    pub fn cut(&self) {
        self.0.cancel();
    }
}

fn bound(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// A listener whose connections can be cut.
struct Line {
    listener: TcpListener,
    all: CancellationToken,
}

/// One end of such a connection.
struct Severable {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    token: CancellationToken,
}

impl Listener for Line {
    type Io = Severable;
    type Addr = Connection;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, _) = Listener::accept(&mut self.listener).await;
        stream.set_nodelay(true).ok();
        let token = self.all.child_token();
        let cut = Box::pin(token.clone().cancelled_owned());
        (Severable { stream, cut, token: token.clone() }, Connection(token))
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(Connection(self.all.clone()))
    }
}

impl Connected<IncomingStream<'_, Line>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Line>) -> Self {
        stream.remote_addr().clone()
    }
}

impl Severable {
    fn severed(&self) -> std::io::Result<()> {
        if self.token.is_cancelled() { Err(std::io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Severable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if !self.token.is_cancelled() && self.cut.as_mut().poll(cx).is_pending() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        Poll::Ready(self.severed())
    }
}

impl AsyncWrite for Severable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.severed()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.severed()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
