//! One HTTP client for trackers and web seeds: sends a GET, follows redirects, keeps connections for the next one.
//!
//! Read first: `http/mod.rs`. Omits: TLS. A [`Client`] lives as long as a burst of requests to one server: it holds
//! at most two connections, one buffer for the reply and one for the request.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Timer};

use super::{Denied, MAX_REDIRECTS, Receiver, Scheme, Url, UrlError, encode_get};
use crate::net::io::{ResolveError, Resolver};
use crate::net::{Family, class};

/// A server that is up takes a connection within this time, two mesh hops of packet loss included.
const CONNECT: Duration = Duration::from_secs(10);

/// Addresses of one server that are tried: with more, a dead server would take minutes.
const MAX_TRIED: usize = 2;

/// Connections that are kept: that to the server, and that to where it redirects.
const MAX_KEPT: usize = 2;

/// What one exchange may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the decoded body.
    pub body: usize,
    /// Time for all of it, redirects included.
    pub patience: Duration,
}

/// Asks servers, one request after the other.
pub struct Client {
    kept: Vec<Connection>,
    request: Vec<u8>,
    receiver: Receiver,
    watchdog: Option<Watchdog>,
}

/// What a server answered.
#[derive(Debug)]
pub struct Response<'a> {
    /// 200 and so on.
    pub status: u16,
    /// Decoded.
    pub body: &'a [u8],
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// Who answered.
    pub remote: IpAddr,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// A redirect leads to what is no URL for us.
    Url(UrlError),
    /// We do not go there.
    Denied(Denied),
    /// It is an `https` URL.
    Tls,
    /// The name has no addresses now.
    Resolve(ResolveError),
    /// The name has no address of that family.
    NoAddress(Family),
    /// No connection comes about.
    Connect(std::io::Error),
    /// The connection broke.
    Connection(std::io::Error),
    /// The reply is broken or too long.
    Message(super::Error),
    /// The time is over.
    Timeout,
    /// More than [`MAX_REDIRECTS`].
    Redirects,
}

/// A connection over which nothing is under way.
struct Connection {
    stream: Async<TcpStream>,
    remote: IpAddr,
    /// Host and port of the URLs that may go over it.
    authority: Box<str>,
}

/// A timer that is left alone between the requests of a burst and only set again when it goes off too early:
/// each setting of a timer would cost a system call and wake the reactor.
struct Watchdog {
    timer: Timer,
    at: Instant,
}

impl Client {
    /// Connected to nobody.
    pub fn new() -> Client {
        Client { kept: Vec::new(), request: Vec::new(), receiver: Receiver::new(0), watchdog: None }
    }

    /// Asks for `url` with `query` added to it, over IPv4 or IPv6. A future that is dropped takes its connection
    /// with it, so the next request starts clean.
    pub async fn get(
        &mut self,
        resolver: &Resolver,
        url: &Url,
        query: &[u8],
        family: Family,
        limits: Limits,
    ) -> Result<Response<'_>, Error> {
        let deadline = Instant::now() + limits.patience;
        let mut watchdog = match self.watchdog.take() {
            Some(watchdog) if watchdog.at <= deadline => watchdog,
            _ => Watchdog { timer: Timer::at(deadline), at: deadline },
        };
        let followed = self
            .follow(resolver, url, query, family, limits.body)
            .or(async {
                watchdog.wait(deadline).await;
                Err(Error::Timeout)
            })
            .await;
        // One that has gone off never does so again.
        self.watchdog = (!matches!(followed, Err(Error::Timeout))).then_some(watchdog);
        let remote = followed?;
        let head = self.receiver.head().ok_or(Error::Message(super::Error::Truncated))?;
        let (status, retry_after) = (head.status, head.retry_after);
        Ok(Response { status, body: self.receiver.body(), retry_after, remote })
    }

    /// Exchanges until a reply is no redirect. Leaves it in the receiver and says who sent it.
    async fn follow(
        &mut self,
        resolver: &Resolver,
        url: &Url,
        query: &[u8],
        family: Family,
        max_body: usize,
    ) -> Result<IpAddr, Error> {
        let mut url = Cow::Borrowed(url);
        let mut query = query;
        let mut from = None;
        for _ in 0..=MAX_REDIRECTS {
            let remote = self.exchange(resolver, &url, query, family, from, max_body).await?;
            let location = self.receiver.head().and_then(|head| match head.status {
                301 | 302 | 303 | 307 | 308 => head.location.as_deref(),
                _ => None,
            });
            let Some(location) = location else { return Ok(remote) };
            url = Cow::Owned(url.join(location).map_err(Error::Url)?);
            // The server has seen the query and puts it into the new place where it wants it there.
            query = b"";
            from = Some(remote);
        }
        Err(Error::Redirects)
    }

    /// One request and its reply: over a kept connection where there is one, else over a new one.
    async fn exchange(
        &mut self,
        resolver: &Resolver,
        url: &Url,
        query: &[u8],
        family: Family,
        from: Option<IpAddr>,
        max_body: usize,
    ) -> Result<IpAddr, Error> {
        if url.scheme() == Scheme::Https {
            return Err(Error::Tls);
        }
        self.request.clear();
        encode_get(url, query, &mut self.request);
        if let Some(kept) = self.kept.iter().position(|kept| *kept.authority == *url.authority()) {
            let connection = self.kept.swap_remove(kept);
            url.admits(connection.remote, from).map_err(Error::Denied)?;
            let remote = connection.remote;
            match self.talk(connection, max_body).await {
                // The server had grown tired of waiting, before or while we asked.
                Ok(()) if self.receiver.head().is_some_and(|head| head.status == 408) => {}
                Err(_) if !self.receiver.begun() => {}
                result => return result.map(|()| remote),
            }
        }
        let connection = connect(resolver, url, family, from).await?;
        let remote = connection.remote;
        self.talk(connection, max_body).await?;
        Ok(remote)
    }

    /// Sends the request and receives the reply; keeps the connection when it can be used again.
    async fn talk(&mut self, connection: Connection, max_body: usize) -> Result<(), Error> {
        self.receiver.reset(max_body);
        let mut stream = &connection.stream;
        stream.write_all(&self.request).await.map_err(Error::Connection)?;
        // The answer takes a round trip at least: reading before would be a call for nothing.
        connection.stream.readable().await.map_err(Error::Connection)?;
        loop {
            let n = stream.read(self.receiver.space()).await.map_err(Error::Connection)?;
            if n == 0 {
                return self.receiver.closed().map_err(Error::Message);
            }
            if self.receiver.received(n).map_err(Error::Message)? {
                break;
            }
        }
        if self.receiver.reusable() {
            if self.kept.len() == MAX_KEPT {
                self.kept.remove(0);
            }
            self.kept.push(connection);
        }
        Ok(())
    }
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

impl Watchdog {
    async fn wait(&mut self, deadline: Instant) {
        loop {
            (&mut self.timer).await;
            if Instant::now() >= deadline {
                return;
            }
            self.timer.set_at(deadline);
            self.at = deadline;
        }
    }
}

impl Error {
    /// Whether the server as a whole could not be reached, so that asking it for something else is no use now.
    pub fn is_transport(&self) -> bool {
        matches!(self, Error::Connect(_) | Error::Connection(_) | Error::Timeout)
            || matches!(self, Error::Message(super::Error::Closed | super::Error::Truncated))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Url(error) => write!(f, "redirected: {error}"),
            Error::Denied(error) => write!(f, "{error}"),
            Error::Tls => write!(f, "https:// is not supported yet"),
            Error::Resolve(error) => write!(f, "name not resolved: {error}"),
            Error::NoAddress(family) => write!(f, "the name has no {family} address"),
            Error::Connect(error) => write!(f, "no connection: {error}"),
            Error::Connection(error) => write!(f, "the connection broke: {error}"),
            Error::Message(error) => write!(f, "{error}"),
            Error::Timeout => write!(f, "no answer in time"),
            Error::Redirects => write!(f, "redirected more than {MAX_REDIRECTS} times"),
        }
    }
}

impl std::error::Error for Error {}

/// A connection to the first address that takes one.
async fn connect(
    resolver: &Resolver,
    url: &Url,
    family: Family,
    from: Option<IpAddr>,
) -> Result<Connection, Error> {
    let addresses = resolver.resolve(url.host()).await.map_err(Error::Resolve)?;
    let mut error = Error::NoAddress(family);
    let mut tried = 0;
    for remote in addresses.iter().copied().filter(|address| Family::of(*address) == family) {
        if let Err(denied) = url.admits(remote, from) {
            log::debug!("{url}: {remote} ({:?}): {denied}", class(remote));
            error = if tried == 0 { Error::Denied(denied) } else { error };
            continue;
        }
        if tried == MAX_TRIED {
            break;
        }
        tried += 1;
        let dialled = Async::<TcpStream>::connect(SocketAddr::new(remote, url.port()))
            .or(async {
                Timer::after(CONNECT).await;
                Err(std::io::ErrorKind::TimedOut.into())
            })
            .await;
        match dialled {
            Ok(stream) => return Ok(Connection { stream, remote, authority: url.authority().into() }),
            Err(failed) => error = Error::Connect(failed),
        }
    }
    Err(error)
}
