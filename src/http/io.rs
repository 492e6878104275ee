//! One HTTP client for trackers and web seeds: sends a GET, follows redirects, keeps connections for the next one.
//!
//! Read first: `http/mod.rs`; what bytes travel over is in `io/link`. A [`Client`] lives as long as a burst of requests to one server: it holds
//! at most two connections, one buffer for the reply and one for the request. A [`Stream`] holds none: what comes
//! goes where its reader says.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use smol::future::FutureExt;
use smol::{Async, Timer};

use self::link::{Link, Refused};
use super::{
    Decoder, Denied, MAX_REDIRECTS, NO_TLS, Purpose, Receiver, ReplyHead, Scheme, TLS, Url, UrlError,
    encode_get,
};
use crate::net::Family;
use crate::net::io::{ResolveError, Resolver};

mod link;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "io/without_tls.rs"]
mod tls;
#[cfg(feature = "tls")]
mod trust;

/// A server that is up takes a connection within this time, two mesh hops of packet loss included.
const CONNECT: Duration = Duration::from_secs(10);

/// Addresses of one server that are tried: with more, a dead server would take minutes. Where both families will do
/// it is one of each.
const MAX_TRIED: usize = 2;

/// Bytes of a body that is read for what it says of a failure, or only to keep the connection.
const MAX_ASIDE: usize = 16 * 1024;

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
    purpose: Purpose,
    kept: Vec<Connection>,
    request: Vec<u8>,
    receiver: Receiver,
    watchdog: Option<Watchdog>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Where.
    pub url: &'a Url,
    /// Who redirected us there, where that was on an earlier occasion.
    pub from: Option<IpAddr>,
    /// Added to the URL's own query.
    pub query: &'a [u8],
    /// Which bytes of it; `None` is all.
    pub range: Option<Range<u64>>,
    /// Over which family; `None` is either.
    pub family: Option<Family>,
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

/// What came of asking for content.
pub enum Opened<'a> {
    /// It is on its way: the status is 200 or 206.
    Content(Box<Stream>),
    /// Another status.
    Other(Response<'a>),
}

/// A body that is on its way. Dropped before its end it takes the connection with it.
pub struct Stream {
    connection: Connection,
    decoder: Decoder,
    /// What came of the body together with the head, and how much of it was read.
    early: (Box<[u8]>, usize),
    /// The socket had nothing more when it was last read.
    drained: bool,
    /// Bytes came that belong to no reply.
    overrun: bool,
    redirected: Option<(Url, IpAddr)>,
    watchdog: Option<Watchdog>,
}

/// What came of [`Stream::read`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Some bytes; there may be more.
    Some,
    /// Nothing now: time for [`Stream::ready`].
    Nothing,
    /// The last of the body.
    End,
    /// The reader wants no more.
    Stopped,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// A redirect leads to what is no URL for us.
    Url(UrlError),
    /// We do not go there.
    Denied(Denied),
    /// It is an `https` URL, and we have no TLS.
    NoTls,
    /// There is no TLS with the server, for this reason.
    Tls(Box<str>),
    /// The name has no addresses now.
    Resolve(ResolveError),
    /// The name has no address of that family, or none at all.
    NoAddress(Option<Family>),
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
    link: Link,
    remote: IpAddr,
    /// Where the URLs lead that may go over it.
    origin: Box<str>,
}

/// A timer that is left alone between the requests of a burst and only set again when it goes off too early:
/// each setting of a timer would cost a system call and wake the reactor.
struct Watchdog {
    timer: Timer,
    at: Instant,
}

/// A connection over which a reply has begun, and where redirects have led.
struct Reached {
    connection: Connection,
    redirected: Option<(Url, IpAddr)>,
}

impl Client {
    /// Connected to nobody; for announces.
    pub fn new() -> Client {
        Client {
            purpose: Purpose::Announce,
            kept: Vec::new(),
            request: Vec::new(),
            receiver: Receiver::new(0),
            watchdog: None,
        }
    }

    /// The same for content, which may be asked for in other places.
    pub fn for_content() -> Client {
        Client { purpose: Purpose::Content, ..Client::new() }
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
        let ask = Ask { url, from: None, query, range: None, family: Some(family) };
        let deadline = Instant::now() + limits.patience;
        let mut watchdog = self.watchdog.take();
        let whole = async {
            let Reached { connection, .. } = self.follow(resolver, &ask, limits.body).await?;
            let remote = connection.remote;
            self.finish(connection).await?;
            Ok(remote)
        };
        let remote = Watchdog::guard(&mut watchdog, deadline, whole).await;
        self.watchdog = watchdog;
        self.response(remote?)
    }

    /// Asks for content. Its head is awaited for that long; the body is for the caller to read.
    pub async fn open(
        &mut self,
        resolver: &Resolver,
        ask: &Ask<'_>,
        patience: Duration,
    ) -> Result<Opened<'_>, Error> {
        let deadline = Instant::now() + patience;
        let mut watchdog = self.watchdog.take();
        let reached = Watchdog::guard(&mut watchdog, deadline, self.follow(resolver, ask, MAX_ASIDE)).await;
        let Reached { connection, redirected } = match reached {
            Ok(reached) => reached,
            Err(error) => {
                self.watchdog = watchdog;
                return Err(error);
            }
        };
        if self.receiver.head().is_some_and(|head| matches!(head.status, 200 | 206)) {
            let (decoder, early) = self.receiver.into_stream();
            let (drained, overrun) = (false, false);
            let early = (early, 0);
            return Ok(Opened::Content(Box::new(Stream {
                connection,
                decoder,
                early,
                drained,
                overrun,
                redirected,
                watchdog,
            })));
        }
        let remote = connection.remote;
        // The status tells enough where the rest is too long or does not come.
        if let Err(error) = Watchdog::guard(&mut watchdog, deadline, self.finish(connection)).await {
            log::debug!("{}: {error}", ask.url);
        }
        self.watchdog = watchdog;
        self.response(remote).map(Opened::Other)
    }

    /// Takes back the connection of a body that was read to its end.
    pub fn keep(&mut self, stream: Box<Stream>) {
        self.watchdog = self.watchdog.take().or(stream.watchdog);
        let over = stream.overrun || stream.early.1 < stream.early.0.len();
        if stream.decoder.is_whole() && !over && stream.decoder.head().is_some_and(|head| head.keep_alive) {
            self.keep_connection(stream.connection);
        }
    }

    fn keep_connection(&mut self, mut connection: Connection) {
        // What has come of itself would be taken for the answer to the next request.
        if !connection.link.is_empty() {
            return;
        }
        connection.link.expect(1);
        if self.kept.len() == MAX_KEPT {
            self.kept.remove(0);
        }
        self.kept.push(connection);
    }

    fn response(&self, remote: IpAddr) -> Result<Response<'_>, Error> {
        let head = self.receiver.head().ok_or(Error::Message(super::Error::Truncated))?;
        let (status, retry_after) = (head.status, head.retry_after);
        Ok(Response { status, body: self.receiver.body(), retry_after, remote })
    }

    /// Exchanges until a reply is no redirect. Leaves its head in the receiver.
    async fn follow(
        &mut self,
        resolver: &Resolver,
        ask: &Ask<'_>,
        max_body: usize,
    ) -> Result<Reached, Error> {
        let mut redirected: Option<(Url, IpAddr)> = None;
        for _ in 0..=MAX_REDIRECTS {
            let hop = match &redirected {
                None => Cow::Borrowed(ask),
                // The server has seen the query and puts it into the new place where it wants it there.
                Some((url, from)) => Cow::Owned(Ask { url, from: Some(*from), query: b"", ..ask.clone() }),
            };
            let connection = self.exchange(resolver, &hop, max_body).await?;
            let location = self.receiver.head().and_then(|head| match head.status {
                301 | 302 | 303 | 307 | 308 => head.location.as_deref(),
                _ => None,
            });
            let Some(location) = location else { return Ok(Reached { connection, redirected }) };
            let to = hop.url.join(location).map_err(Error::Url)?;
            redirected = Some((to, connection.remote));
            self.finish(connection).await?;
        }
        Err(Error::Redirects)
    }

    /// One request and the head of its reply: over a kept connection where there is one, else over a new one.
    async fn exchange(
        &mut self,
        resolver: &Resolver,
        ask: &Ask<'_>,
        max_body: usize,
    ) -> Result<Connection, Error> {
        let url = ask.url;
        if url.scheme() == Scheme::Https && !TLS {
            return Err(Error::NoTls);
        }
        self.request.clear();
        encode_get(url, ask.query, ask.range.as_ref(), &mut self.request);
        if let Some(kept) = self.kept.iter().position(|kept| *kept.origin == *url.origin()) {
            let mut connection = self.kept.swap_remove(kept);
            url.admits(connection.remote, ask.from, self.purpose).map_err(Error::Denied)?;
            match self.talk(&mut connection, max_body).await {
                // The server had grown tired of waiting, before or while we asked.
                Ok(()) if self.receiver.head().is_some_and(|head| head.status == 408) => {}
                Err(_) if !self.receiver.begun() => {}
                result => return result.map(|()| connection),
            }
        }
        let mut connection = connect(resolver, ask, self.purpose).await?;
        self.talk(&mut connection, max_body).await?;
        Ok(connection)
    }

    /// Sends the request and receives the head of the reply.
    async fn talk(&mut self, connection: &mut Connection, max_body: usize) -> Result<(), Error> {
        self.receiver.reset(max_body);
        let link = &mut connection.link;
        link.write_all(&self.request).await.map_err(Error::Connection)?;
        // The answer takes a round trip at least: reading before would be a call for nothing.
        link.readable().await.map_err(Error::Connection)?;
        loop {
            let n = link.read(self.receiver.space()).await.map_err(Error::Connection)?;
            if n == 0 {
                return self.receiver.closed().map_err(Error::Message);
            }
            if self.receiver.received_head(n).map_err(Error::Message)? {
                return Ok(());
            }
        }
    }

    /// Receives the body behind the head; keeps the connection when it can be used again.
    async fn finish(&mut self, mut connection: Connection) -> Result<(), Error> {
        let mut whole = self.receiver.take_body().map_err(Error::Message)?;
        while !whole {
            let n = connection.link.read(self.receiver.space()).await.map_err(Error::Connection)?;
            if n == 0 {
                return self.receiver.closed().map_err(Error::Message);
            }
            whole = self.receiver.received(n).map_err(Error::Message)?;
        }
        if self.receiver.reusable() {
            self.keep_connection(connection);
        }
        Ok(())
    }
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

impl Stream {
    /// The reply's head.
    pub fn head(&self) -> Option<&ReplyHead> {
        self.decoder.head()
    }

    /// Who sends it.
    pub fn remote(&self) -> IpAddr {
        self.connection.remote
    }

    /// Where redirects have led, and who led us there.
    pub fn redirected(&self) -> Option<&(Url, IpAddr)> {
        self.redirected.as_ref()
    }

    /// Waits until there is something to read, or that many bytes if it can be helped: on a slow link each segment would
    /// be a wake-up. They must be sure to come.
    pub async fn ready(&mut self, bytes: u32, patience: Duration) -> Result<(), Error> {
        if !self.drained {
            return Ok(());
        }
        self.connection.link.expect(bytes.max(1));
        let link = &self.connection.link;
        let readable = async { link.readable().await.map_err(Error::Connection) };
        Watchdog::guard(&mut self.watchdog, Instant::now() + patience, readable).await?;
        self.drained = false;
        Ok(())
    }

    /// One read into `place`, which is not empty. `take` is given the parts of the body as they lie in it, with where
    /// that is, until it says that it wants no more.
    pub fn read(
        &mut self,
        place: &mut [u8],
        mut take: impl FnMut(usize, &[u8]) -> bool,
    ) -> Result<Progress, Error> {
        let (early, at) = &mut self.early;
        let n = if *at < early.len() {
            let n = (early.len() - *at).min(place.len());
            place[..n].copy_from_slice(&early[*at..*at + n]);
            *at += n;
            n
        } else {
            match self.connection.link.try_read(place) {
                Ok(0) => return self.decoder.closed().map(|()| Progress::End).map_err(Error::Message),
                Ok(n) => {
                    self.drained = self.connection.link.is_drained(n, place.len());
                    n
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.drained = true;
                    return Ok(Progress::Nothing);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Progress::Nothing),
                Err(error) => return Err(Error::Connection(error)),
            }
        };
        let mut input = &place[..n];
        while let Some(part) = self.decoder.decode(&mut input).map_err(Error::Message)? {
            if !take(n - input.len() - part.len(), part) {
                return Ok(Progress::Stopped);
            }
        }
        self.overrun |= !input.is_empty();
        Ok(if self.decoder.is_whole() { Progress::End } else { Progress::Some })
    }
}

impl Watchdog {
    /// Lets `work` run until `deadline` at most.
    async fn guard<T>(
        slot: &mut Option<Watchdog>,
        deadline: Instant,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut watchdog = match slot.take() {
            Some(watchdog) if watchdog.at <= deadline => watchdog,
            _ => Watchdog { timer: Timer::at(deadline), at: deadline },
        };
        let result = work
            .or(async {
                watchdog.wait(deadline).await;
                Err(Error::Timeout)
            })
            .await;
        // One that has gone off never does so again.
        *slot = (!matches!(result, Err(Error::Timeout))).then_some(watchdog);
        result
    }

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
        matches!(self, Error::Connect(_) | Error::Connection(_) | Error::Tls(_) | Error::Timeout)
            || matches!(self, Error::Message(super::Error::Closed | super::Error::Truncated))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Url(error) => write!(f, "redirected: {error}"),
            Error::Denied(error) => write!(f, "{error}"),
            Error::NoTls => write!(f, "{NO_TLS}"),
            Error::Tls(reason) => write!(f, "{reason}"),
            Error::Resolve(error) => write!(f, "name not resolved: {error}"),
            Error::NoAddress(Some(family)) => write!(f, "the name has no {family} address"),
            Error::NoAddress(None) => write!(f, "the name has no address"),
            Error::Connect(error) => write!(f, "no connection: {error}"),
            Error::Connection(error) => write!(f, "the connection broke: {error}"),
            Error::Message(error) => write!(f, "{error}"),
            Error::Timeout => write!(f, "no answer in time"),
            Error::Redirects => write!(f, "redirected more than {MAX_REDIRECTS} times"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused {
            Refused::Said(reason) => Error::Tls(reason),
            Refused::Broken(error) => Error::Connection(error),
        }
    }
}

/// A connection to the first address that takes one.
async fn connect(resolver: &Resolver, ask: &Ask<'_>, purpose: Purpose) -> Result<Connection, Error> {
    let url = ask.url;
    let addresses = resolver.resolve(url.host()).await.map_err(Error::Resolve)?;
    let mut error = Error::NoAddress(ask.family);
    let mut tried = [0; 2];
    for remote in addresses.iter().copied() {
        let family = Family::of(remote);
        let tried = &mut tried[usize::from(family == Family::V6)];
        let most = if ask.family.is_some() { MAX_TRIED } else { MAX_TRIED / 2 };
        if ask.family.is_some_and(|only| only != family) || *tried == most {
            continue;
        }
        if let Err(denied) = url.admits(remote, ask.from, purpose) {
            log::debug!("{url}: {remote}: {denied}");
            if matches!(error, Error::NoAddress(_)) {
                error = Error::Denied(denied);
            }
            continue;
        }
        *tried += 1;
        let dialled = Async::<TcpStream>::connect(SocketAddr::new(remote, url.port()))
            .or(async {
                Timer::after(CONNECT).await;
                Err(ErrorKind::TimedOut.into())
            })
            .await;
        match dialled {
            Ok(socket) => {
                let link = match url.scheme() {
                    // `udp://` never comes here: only trackers' clients take it, and send it elsewhere.
                    Scheme::Http | Scheme::Udp => Link::plain(socket),
                    Scheme::Https => Link::secure(socket, url.host(), SystemTime::now()).await?,
                };
                return Ok(Connection { link, remote, origin: url.origin().into() });
            }
            Err(failed) => error = Error::Connect(failed),
        }
    }
    Err(error)
}
