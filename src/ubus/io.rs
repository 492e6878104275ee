//! The shell of the bus: connects, reads and writes, in one task, and sleeps between.
//!
//! Without a bus nothing is kept but this task, and no timer runs: who looks at other things now and then calls
//! [`Bus::look`]. Holds one socket.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Instant;

use async_io::{Async, Timer};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::blob::Status;
use super::{Call, Client, Object, Todo};
use crate::status::Value;

/// Where the bus is: since OpenWrt 21.02, and before.
pub const PLACES: [&str; 2] = ["/var/run/ubus/ubus.sock", "/var/run/ubus.sock"];

/// Bytes of one read: some calls.
const READ: usize = 4096;

/// The bus, as the daemon has it.
pub struct Bus {
    client: RefCell<Client>,
    object: Object,
    /// Something is to be looked at before sleeping.
    news: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Bus {
    /// With this object of ours on it.
    pub fn new(object: Object) -> Bus {
        let client = RefCell::new(Client::new(object, Instant::now()));
        Bus { client, object, news: Cell::new(false), waker: Cell::default() }
    }

    /// Looks for the bus again where it was not found.
    pub fn look(&self) {
        self.client.borrow_mut().look(Instant::now());
        self.wake();
    }

    /// Begins anew, as its place may be another.
    pub fn renew(&self) {
        self.client.replace(Client::new(self.object, Instant::now()));
        self.wake();
    }

    /// Tells whoever listens on it.
    pub fn tell(&self, event: &str, data: Value) {
        self.client.borrow_mut().tell(event, data);
        self.wake();
    }

    /// Follows it for ever, wherever it is at the time.
    pub async fn follow(
        &self,
        places: impl Fn() -> Vec<PathBuf>,
        answer: impl Fn(&Call) -> Result<Vec<u8>, Status>,
    ) {
        let mut stream = None;
        loop {
            let todo = self.client.borrow_mut().poll(Instant::now());
            match todo {
                Some(Todo::Connect) => {
                    stream = places().iter().find_map(|place| open(place).ok());
                    let (mut client, now) = (self.client.borrow_mut(), Instant::now());
                    if stream.is_some() { client.connected(now) } else { client.lost(now) }
                }
                Some(Todo::Close(reason)) => {
                    log::debug!("ubus: {reason}");
                    stream = None;
                }
                Some(Todo::Answer(call)) => {
                    let result = answer(&call);
                    self.client.borrow_mut().answer(&call, result);
                }
                None => match stream.as_ref().map_or(Ok(false), |stream| self.transfer(stream)) {
                    // Others have their turn.
                    Ok(true) => smol::future::yield_now().await,
                    Ok(false) => self.sleep(stream.as_ref()).await,
                    Err(error) => {
                        log::debug!("ubus: {error}");
                        stream = None;
                        self.client.borrow_mut().lost(Instant::now());
                    }
                },
            }
        }
    }

    /// Writes what it takes and reads once; whether anything was done.
    fn transfer(&self, stream: &Async<UnixStream>) -> io::Result<bool> {
        let (mut client, mut socket) = (self.client.borrow_mut(), stream.get_ref());
        let would_block = |error: io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
        let mut done = false;
        if !client.out().is_empty()
            && let Some(len) = socket.write(client.out()).map_or_else(would_block, |len| Ok(Some(len)))?
        {
            client.sent(len);
            done = true;
        }
        let mut chunk = [0; READ];
        if client.wants_input()
            && let Some(len) = socket.read(&mut chunk).map_or_else(would_block, |len| Ok(Some(len)))?
        {
            if len == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "it went away"));
            }
            client.handle(&chunk[..len]);
            done = true;
        }
        Ok(done)
    }

    /// Until something can be done.
    async fn sleep(&self, stream: Option<&Async<UnixStream>>) {
        let mut timer = self.client.borrow().deadline().map_or_else(Timer::never, Timer::at);
        poll_fn(|cx| {
            if self.news.take() {
                return Poll::Ready(());
            }
            self.waker.set(Some(cx.waker().clone()));
            let client = self.client.borrow();
            let open = |stream: &Async<UnixStream>| {
                (client.wants_input() && stream.poll_readable(cx).is_ready())
                    || (!client.out().is_empty() && stream.poll_writable(cx).is_ready())
            };
            if stream.is_some_and(open) { Poll::Ready(()) } else { Pin::new(&mut timer).poll(cx).map(drop) }
        })
        .await;
    }

    fn wake(&self) {
        self.news.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Connects without waiting: a bus that has no time now is no bus.
fn open(place: &Path) -> io::Result<Async<UnixStream>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(place)?)?;
    Async::new(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use smol::future::FutureExt;

    use super::*;

    #[test]
    fn the_first_place_where_somebody_listens_is_taken() {
        let folder = std::env::temp_dir().join(format!("meshseed-bus-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [absent, left, there] = ["absent", "left", "there"].map(|name| folder.join(name));
        // Its bus was killed.
        drop(UnixListener::bind(&left).unwrap());
        let listener = Async::new(UnixListener::bind(&there).unwrap()).unwrap();
        let bus = Bus::new(Object { path: "test", methods: &[] });
        let follow = async {
            let places = || vec![absent.clone(), left.clone(), there.clone()];
            bus.follow(places, |_| Err(Status::NotFound)).await;
            false
        };
        assert!(smol::block_on(follow.or(async { listener.accept().await.is_ok() })));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
