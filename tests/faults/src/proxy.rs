//! A TCP proxy that fails on demand. It cuts connections, refuses new ones, and holds bytes back in one direction or
//! both, so that a process loses its bus or its database while both run.

use socket2::SockRef;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Most bytes under way in each direction of a connection.
const BUFFER_BYTES: usize = 64 * 1024;
/// Time limit for the server to accept a connection. A local one accepts at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What the proxy does with connections and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// Whether new connections are closed at once.
    pub refuse: bool,
    /// Whether bytes from the client are held back.
    pub stall_requests: bool,
    /// Whether bytes from the server are held back: requests take effect, and their outcome stays unknown.
    pub stall_answers: bool,
}

impl Mode {
    /// Everything passes.
    pub const PASS: Mode = Mode { refuse: false, stall_requests: false, stall_answers: false };
    /// Nothing passes and new connections are refused, as when a cable is pulled.
    pub const AWAY: Mode = Mode { refuse: true, stall_requests: true, stall_answers: true };
    /// Requests arrive, answers do not.
    pub const NO_ANSWERS: Mode = Mode { refuse: false, stall_requests: false, stall_answers: true };
}

/// State that all connections of a proxy follow.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    mode: Mode,
    /// Rises with every cut. A connection that began at a lower number ends.
    cuts: u64,
}

/// A proxy in front of one server. It ends when it is dropped.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens on a free loopback port and passes connections on to `target` (`host:port`).
    ///
    /// # Errors
    /// If no port is available.
    pub async fn start(target: &str) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (state, follow) = watch::channel(State::default());
        let accepting = tokio::spawn(accept(listener, target.into(), follow));
        Ok(Proxy { port, state, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// The address to connect to, `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sets the mode of existing and new connections.
    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    /// Resets every existing connection.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn accept(listener: TcpListener, target: Arc<str>, state: watch::Receiver<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if state.borrow().mode.refuse {
            reset(&client);
            continue;
        }
        tokio::spawn(connection(client, target.clone(), state.clone()));
    }
}

/// Makes closing the stream a reset: the other end notices it at once, and bytes sent last are lost.
fn reset(stream: &TcpStream) {
    // A stream that is broken already needs no reset.
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}

async fn connection(client: TcpStream, target: Arc<str>, mut state: watch::Receiver<State>) {
    let began = state.borrow_and_update().cuts;
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&*target));
    let Ok(Ok(server)) = connecting.await else { return reset(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    reset(&client);
    reset(&server);
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let requests = pump(from_client, to_server, state.clone(), |mode| mode.stall_requests);
    let answers = pump(from_server, to_client, state.clone(), |mode| mode.stall_answers);
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = state.wait_for(|state| state.cuts != began) => {}
    }
}

/// Passes bytes on until either end closes. Holds them back while `stalls` returns true.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    stalls: impl Fn(Mode) -> bool,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let Ok(read) = from.read(&mut buffer).await else { return };
        if read == 0 || state.wait_for(|state| !stalls(state.mode)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const A_WHILE: Duration = Duration::from_millis(200);
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that answers every byte with the next higher one.
    async fn successor() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        if stream.write_u8(byte + 1).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    async fn answer_to(stream: &mut TcpStream, byte: u8) -> Option<u8> {
        stream.write_u8(byte).await.ok()?;
        timeout(A_WHILE, stream.read_u8()).await.ok()?.ok()
    }

    #[tokio::test]
    async fn bytes_held_back_pass_later() {
        let proxy = Proxy::start(&successor().await).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
        assert_eq!(answer_to(&mut stream, 1).await, Some(2));
        for mode in [Mode::AWAY, Mode::NO_ANSWERS, Mode { stall_requests: true, ..Mode::PASS }] {
            proxy.set(mode);
            assert_eq!(answer_to(&mut stream, 10).await, None, "{mode:?}");
            proxy.set(Mode::PASS);
            let late = timeout(PATIENCE, stream.read_u8()).await;
            assert_eq!(late.expect("in time").expect("a byte"), 11, "a delayed byte must still arrive");
        }
    }

    #[tokio::test]
    async fn connections_are_cut_and_new_ones_refused() {
        let proxy = Proxy::start(&successor().await).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connected");
        assert_eq!(answer_to(&mut stream, 1).await, Some(2));
        proxy.cut();
        assert!(timeout(PATIENCE, stream.read_u8()).await.expect("in time").is_err());
        let mut again = TcpStream::connect(proxy.address()).await.expect("connected");
        assert_eq!(answer_to(&mut again, 3).await, Some(4), "a new connection must be accepted after a cut");
        proxy.set(Mode { refuse: true, ..Mode::PASS });
        assert_eq!(
            answer_to(&mut again, 5).await,
            Some(6),
            "an open connection must stay open while new ones are refused"
        );
        let mut refused =
            TcpStream::connect(proxy.address()).await.expect("the connection is accepted by the backlog");
        assert_eq!(answer_to(&mut refused, 7).await, None);
    }
}
