//! One task for each web seed that is asked: it sends requests and reads bodies to where they are written from.
//!
//! Read first: `request`. Omits: which bytes, and how fast, which the session says. Holds a connection or two, and no
//! buffer of its own for content.
#![expect(clippy::disallowed_methods, reason = "I/O shell")]

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_io::Timer;
use smol::future::FutureExt;

use super::request::{Part, Source, file_url};
use super::{Ended, Pace, Taken, WebFetch};
use crate::daemon::house::House;
use crate::http::io::{Ask, Client, Error, Opened, Progress, Stream};
use crate::http::{Length, Url};
use crate::net::io::Resolver;
use crate::session::Session;
use crate::storage::intake::Keeper;

/// Time until the head of an answer is there, redirects included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time without a byte after which a connection is dead.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes that a read waits for where so many are sure to come: with fewer each segment would be a wake-up.
const WORTH_READING: u64 = 16 * 1024;
/// Reads before the others have their turn.
const TURN: u32 = 8;

/// Fetches what a web seed is asked for, for as long as the session has more for it.
pub async fn fetch(house: Rc<House>, resolver: Rc<Resolver>, fetch: Box<WebFetch>) {
    let mut client = Client::for_content();
    let mut next = Some(fetch);
    while let Some(fetch) = next {
        let key = fetch.key;
        let work = Fetching { house: &house, resolver: &resolver, fetch: &fetch };
        let how = work.run(&mut client).or(work.given_up()).await;
        log::debug!("{}: bytes {}..{}: {how}", fetch.url, fetch.bytes.start, fetch.bytes.end);
        next = house.session.borrow_mut().web_ended(key, &how, Instant::now());
        house.kick();
    }
}

struct Fetching<'a> {
    house: &'a House,
    resolver: &'a Resolver,
    fetch: &'a WebFetch,
}

/// What is wanted of a body, as it comes in.
struct Inflow<'a> {
    fetch: &'a WebFetch,
    /// Where in the torrent the next byte belongs.
    at: u64,
    /// Bytes to be passed over.
    skip: u64,
    /// Bytes that are wanted.
    left: u64,
    /// More may follow them: it sends all of the file.
    cut: bool,
    /// What ended it early.
    end: Option<Ended>,
}

/// What can be done next.
enum Step {
    /// Another read.
    Read(Progress),
    /// Nothing before there is room for what is read.
    Full,
    /// Nothing before then, for the sake of a limit.
    Later(Instant),
}

impl Fetching<'_> {
    /// Ends when the session wants no more.
    async fn given_up(&self) -> Ended {
        poll_fn(|cx| {
            let given_up = self.house.session.borrow_mut().is_web_given_up(self.fetch.key, cx.waker());
            if given_up { Poll::Ready(Ended::Stopped) } else { Poll::Pending }
        })
        .await
    }

    /// Fetches all of it, one part after the other.
    async fn run(&self, client: &mut Client) -> Ended {
        let mut bytes = self.fetch.bytes.clone();
        while let Some(part) = Part::first(self.fetch.kind, &self.fetch.layout, &bytes) {
            let got = match part.source {
                Source::Zeros => self.pad(&part).await,
                Source::File { .. } | Source::Piece { .. } => self.ask(client, &part).await,
            };
            match got {
                Ok(got) => bytes.start += got,
                Err(ended) => return ended,
            }
        }
        Ended::Done
    }

    fn inflow(&self, part: &Part) -> Inflow<'_> {
        Inflow { fetch: self.fetch, at: part.at, skip: 0, left: part.len, cut: false, end: None }
    }

    /// What lies nowhere comes from nowhere.
    async fn pad(&self, part: &Part) -> Result<u64, Ended> {
        let mut inflow = self.inflow(part);
        while inflow.left > 0 && inflow.end.is_none() {
            if !self.put_zeros(&mut inflow) {
                self.house.intake_free().await;
            }
        }
        inflow.end.map_or(Ok(part.len), Err)
    }

    /// Zeros as far as there is room; `false` where there is none.
    fn put_zeros(&self, inflow: &mut Inflow<'_>) -> bool {
        {
            let mut intake = self.house.intake.borrow_mut();
            let Some((space, mut keeper)) = intake.begin() else { return false };
            let n = usize::try_from(inflow.left).map_or(space.len(), |left| left.min(space.len()));
            space[..n].fill(0);
            inflow.take(&mut self.house.session.borrow_mut(), &mut keeper, 0, n);
        }
        self.house.write_out();
        true
    }

    /// One request, and as much of its answer as is wanted: at least a byte.
    async fn ask(&self, client: &mut Client, part: &Part) -> Result<u64, Ended> {
        let mut stream = self.open(client, part).await?;
        let Some(head) = stream.head() else { return Err(Ended::Wrong("no head".into())) };
        let wanted = part.wanted(head)?;
        let until_close = head.length == Length::UntilClose;
        let mut inflow = Inflow { skip: wanted.skip, left: wanted.len, ..self.inflow(part) };
        inflow.cut = matches!(part.source, Source::File { .. }) && head.status == 200;
        // The end of a body by chunks comes after its last byte, and keeps the connection.
        let to_its_end = head.length == Length::Chunked && !inflow.cut;
        let (mut pace, mut reads) = (Pace::default(), 0);
        loop {
            match self.read(&mut stream, &mut inflow, &mut pace)? {
                Step::Full => self.house.intake_free().await,
                Step::Later(at) => {
                    Timer::at(at).await;
                }
                Step::Read(Progress::End | Progress::Stopped) => break,
                Step::Read(_) if inflow.left == 0 && !to_its_end => break,
                Step::Read(Progress::Some) => {
                    reads += 1;
                    if reads % TURN == 0 {
                        smol::future::yield_now().await;
                    }
                }
                Step::Read(Progress::Nothing) => {
                    let since = Instant::now();
                    let sure = (inflow.skip + inflow.left).min(WORTH_READING);
                    stream.ready(u32::try_from(sure).unwrap_or(1), SILENCE).await.map_err(ended)?;
                    if !pace.came(0, since.elapsed()) {
                        return Err(Ended::Unreached("it is too slow".into()));
                    }
                }
            }
        }
        client.keep(stream);
        match inflow.end {
            Some(end) => Err(end),
            None if inflow.left > 0 && until_close => {
                Err(Ended::Unreached("the connection was closed in the middle of the reply".into()))
            }
            None if inflow.left > 0 => Err(Ended::Wrong("fewer bytes than were asked for".into())),
            None => Ok(wanted.len),
        }
    }

    /// One read, as far as there is room, tokens and something to read.
    fn read(&self, stream: &mut Stream, inflow: &mut Inflow<'_>, pace: &mut Pace) -> Result<Step, Ended> {
        let progress = {
            let (now, remote) = (Instant::now(), stream.remote());
            let mut intake = self.house.intake.borrow_mut();
            let Some((space, mut keeper)) = intake.begin() else { return Ok(Step::Full) };
            let mut session = self.house.session.borrow_mut();
            let most = match session.web_allowance(remote, now) {
                Ok(most) => most.min(space.len()),
                Err(at) => return Ok(Step::Later(at)),
            };
            let mut came = 0;
            let progress = stream.read(&mut space[..most], |at, part| {
                came += part.len();
                inflow.take(&mut session, &mut keeper, at, part.len())
            });
            session.web_read(remote, came, now);
            pace.came(came as u64, Duration::ZERO);
            progress
        };
        self.house.write_out();
        progress.map(Step::Read).map_err(ended)
    }

    /// The answer to a request, where the content was found last or else where the .torrent says.
    async fn open(&self, client: &mut Client, part: &Part) -> Result<Box<Stream>, Ended> {
        let fetch = self.fetch;
        let Source::File { file, .. } = part.source else {
            return self.open_at(client, part, &fetch.url, None).await;
        };
        let known = self.house.session.borrow().web_redirect(fetch.torrent, fetch.key, file);
        if let Some((url, from)) = known {
            let opened = self.open_at(client, part, &url, Some(from)).await;
            if opened.is_ok() {
                return opened;
            }
            self.house.session.borrow_mut().web_redirected(fetch.torrent, fetch.key, file, None);
        }
        let url = file_url(&fetch.url, &fetch.name, &fetch.layout, file);
        let url = url.map_err(|_| Ended::Absent(Some(file)))?;
        let stream = self.open_at(client, part, &url, None).await?;
        if let Some(to) = stream.redirected() {
            self.house.session.borrow_mut().web_redirected(fetch.torrent, fetch.key, file, Some(to.clone()));
        }
        Ok(stream)
    }

    async fn open_at(
        &self,
        client: &mut Client,
        part: &Part,
        url: &Url,
        from: Option<IpAddr>,
    ) -> Result<Box<Stream>, Ended> {
        let query = part.query(self.fetch.info_hash);
        let ask = Ask { url, from, query: &query, range: part.range(), family: None };
        match client.open(self.resolver, &ask, PATIENCE).await {
            Ok(Opened::Content(stream)) => Ok(stream),
            Ok(Opened::Other(reply)) => Err(part.refusal(reply.status, reply.retry_after, reply.body)),
            Err(error) => Err(ended(error)),
        }
    }
}

impl Inflow<'_> {
    /// Takes `len` bytes of the body that stand `at` bytes behind the start of the place. `false` when no more is wanted.
    fn take(
        &mut self,
        session: &mut Session,
        keeper: &mut Keeper<'_>,
        mut at: usize,
        mut len: usize,
    ) -> bool {
        let skipped = usize::try_from(self.skip).map_or(len, |skip| skip.min(len));
        self.skip -= skipped as u64;
        (at, len) = (at + skipped, len - skipped);
        while len > 0 {
            if self.left == 0 {
                self.end = (!self.cut).then(|| Ended::Wrong("more bytes than were asked for".into()));
                return false;
            }
            let most = usize::try_from(self.left).map_or(len, |left| left.min(len));
            let taken = match session.web_block(self.fetch.key, self.at, most) {
                Taken::Keep { piece, begin, len } => {
                    keeper.keep(self.fetch.torrent.0, piece, begin, at, len as usize);
                    len
                }
                Taken::Skip(len) => len,
                Taken::Stop => {
                    self.end = Some(Ended::Stopped);
                    return false;
                }
            };
            self.at += u64::from(taken);
            self.left -= u64::from(taken);
            (at, len) = (at + taken as usize, len - taken as usize);
        }
        true
    }
}

/// What an error of the client means for the web seed.
fn ended(error: Error) -> Ended {
    let why = error.to_string().into();
    match error {
        Error::NoTls | Error::Denied(_) => Ended::Useless(why),
        Error::Url(_) | Error::Redirects => Ended::Refused(why),
        Error::Resolve(_) | Error::NoAddress(_) => Ended::Unreached(why),
        _ if error.is_transport() => Ended::Unreached(why),
        _ => Ended::Wrong(why),
    }
}
