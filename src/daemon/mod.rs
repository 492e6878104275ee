//! The daemon: prepares the process, then runs the jobs that the session hands out and sleeps until the next is due.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

mod control;
mod dht;
mod directories;
pub mod executor;
pub mod house;
mod links;
mod listeners;
mod start;
mod ubus;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::config::Config;
use crate::lpd::io::Links;
use crate::net::Family;
use crate::net::io::Resolver;
use crate::net::io::udp::Udp;
use crate::session::{Event, Happened, Job, Session, Settings, Totals};
use crate::sorted::SortedMap;
use crate::status::Status;
use crate::status::io::Control;
use crate::storage::Trouble;
use crate::storage::io::{Done, Files, Job as StorageJob, Storage};
use crate::torrent::{State, Torrent, TorrentKey};
use crate::tracker::client::{Request, Scrape};
use crate::tracker::host::HostId;
use crate::tracker::io::{Announcer, Burst, PATIENCE, Params};
use crate::watch::Watch;
use crate::watch::io::Hints;
use directories::Read;
use executor::Task;
pub use house::House;
use listeners::Listeners;
use start::{StartError, drop_privileges, low_bits, peer_id, raise_file_limit, random, settings, signals};
use ubus::OnBus;

/// After being told to stop we are gone by then, whatever a tracker does.
const STOP_TIME: Duration = Duration::from_millis(4500);
/// A connection to a tracker is kept this long after its last announce.
const LINGER: Duration = Duration::from_secs(2);
/// A tracker has this long to hear that we stop.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How often a user at a terminal is told how it goes.
const REPORT: Duration = Duration::from_secs(1);

/// What may go wrong that concerns no single torrent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// There is no control socket.
    Control,
    /// Nobody can reach us where the configuration says.
    Listen,
    /// Records are not written.
    Records,
    /// The configuration that is used is an old one.
    Configuration,
}

/// Reads the configuration again.
pub type Reload = Box<dyn Fn() -> Result<Config, String>>;

/// The daemon's own state, beside what the tasks share.
pub struct Daemon {
    /// What the tasks share.
    pub house: Rc<House>,
    config: RefCell<Config>,
    watch: RefCell<Watch>,
    announcer: Rc<Announcer>,
    resolver: Rc<Resolver>,
    /// Connections to trackers that may be needed again at once.
    bursts: RefCell<SortedMap<HostId, (Burst, Instant)>>,
    /// Proves to trackers that we are the same, whatever our address.
    key: u32,
    reload: Reload,
    started: Instant,
    listeners: Listeners,
    /// The last thing that went wrong and is not over, for the status.
    last_error: RefCell<Option<(Fault, String)>>,
    stopping: Cell<bool>,
    /// A look at the watched directories is under way, and another one is wanted after it.
    scanning: Cell<bool>,
    scan_again: Cell<bool>,
    /// Files of it that are still to be read.
    loading: Cell<usize>,
    hints: Option<Hints>,
    /// Where neighbours are told and heard.
    links: Links,
    /// Resolves the static peers.
    finding: RefCell<Option<Task>>,
    /// What the DHT begins with.
    begin: dht::Begin,
    /// Torrents were read or checked since memory was last given back.
    churned: Cell<bool>,
    /// The data root of the torrent that was added last.
    last_root: RefCell<Option<Arc<Path>>>,
    /// OpenWrt's bus.
    on_bus: OnBus,
}

/// Tells somebody how it goes: once we listen, and each second from then on where `again` is set.
pub struct Report {
    /// Told the status.
    pub tell: Box<dyn FnMut(&Status)>,
    /// More than once.
    pub again: bool,
}

/// Runs until told to stop.
pub fn run(config: Config, reload: Reload, report: Option<Report>) -> Result<(), StartError> {
    crate::sys::keep_little_memory();
    let signals = signals().map_err(|error| StartError(format!("signals: {error}")))?;
    raise_file_limit(&config);
    let bound = listeners::bind(&config.listen, &crate::net::io::interfaces().unwrap_or_default())?;
    let control = match Control::bind(&config.control) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let path = config.control.display();
            return Err(StartError(format!(
                "{path}: {error}; two daemons need a control socket and a state each"
            )));
        }
        control => control,
    };
    // Now, for a port below 1024 too.
    let udp = Rc::new(Udp::new());
    let addresses = listeners::addresses_of(&bound);
    udp.open(&addresses);
    drop_privileges(config.user.as_deref())?;
    let now = Instant::now();
    let port = addresses.first().map_or(0, SocketAddr::port);
    let seed = random()?;
    let mut session = Session::new(settings(&config, port, peer_id(seed)), config.rescan, seed, now);
    // Our id tells most of the seed.
    session.set_secret(random()?);
    let files = Files::new(config.limits.open_files as usize);
    let storage = Storage::start(config.state.clone())
        .map_err(|error| StartError(format!("storage thread: {error}")))?;
    let house = Rc::new(House::new(session, files, storage, udp.clone()));
    let hints = Hints::new().inspect_err(|error| {
        log::warn!("inotify: {error}; changes are found by the regular scan");
    });
    let resolver = Rc::new(Resolver::new());
    let daemon = Rc::new(Daemon {
        house: house.clone(),
        watch: RefCell::new(Watch::new()),
        announcer: Announcer::new(resolver.clone(), udp.clone(), random()?),
        resolver,
        bursts: RefCell::default(),
        key: low_bits(random()?),
        reload,
        started: now,
        listeners: Listeners::default(),
        last_error: RefCell::default(),
        stopping: Cell::new(false),
        scanning: Cell::new(false),
        scan_again: Cell::new(false),
        loading: Cell::new(0),
        hints: hints.ok(),
        links: Links::default(),
        finding: RefCell::default(),
        begin: dht::Begin::default(),
        churned: Cell::new(false),
        last_root: RefCell::default(),
        on_bus: OnBus::new(),
        config: RefCell::new(config),
    });
    daemon.set_disk();
    daemon.listen(bound);
    match control {
        Ok(control) => {
            let daemon = daemon.clone();
            house.spawn(async move { control.serve(&|method| daemon.answer(method)).await });
        }
        Err(error) => {
            let path = daemon.config.borrow().control.display().to_string();
            let what = format!("control socket {path}: {error}; 'meshseed status' cannot ask us");
            daemon.trouble(Fault::Control, what);
        }
    }
    if let Some(report) = report {
        house.spawn(daemon.clone().report(report));
    }
    house.spawn(daemon.clone().heed(signals));
    house.spawn(daemon.clone().follow_storage());
    house.spawn(daemon.clone().follow_directories());
    house.spawn(daemon.clone().follow_network());
    house.spawn(daemon.clone().follow_bus());
    daemon.seek_static_peers();
    house.session.borrow_mut().rescan_now(now);
    async_io::block_on(house.executor.run(daemon.clone().work()));
    // Tasks hold what they use, and some delete files when they end.
    house.executor.clear();
    let session = daemon.house.session.borrow();
    log::info!(
        "stopped after {} s: {} bytes sent, {} received, {} torrents",
        daemon.started.elapsed().as_secs(),
        session.uploaded(),
        session.downloaded(),
        session.torrents().len(),
    );
    Ok(())
}

impl Daemon {
    /// Does what the session hands out, and sleeps until the next is due.
    async fn work(self: Rc<Daemon>) {
        let mut timer = Timer::never();
        let mut set = None;
        let mut stop_by = None;
        loop {
            let now = Instant::now();
            loop {
                let job = self.house.session.borrow_mut().poll(now);
                let Some(job) = job else { break };
                self.perform(job);
            }
            let Some(until) = self.next_look(&mut stop_by, now) else { return };
            if until != set {
                timer = until.map_or_else(Timer::never, Timer::at);
                set = until;
            }
            let mut woken = false;
            poll_fn(|cx| {
                if std::mem::replace(&mut woken, true) {
                    return Poll::Ready(());
                }
                self.house.sleep(until, cx.waker().clone());
                if Pin::new(&mut timer).poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            if until.is_some_and(|until| until <= Instant::now()) {
                set = None;
            }
        }
    }

    /// When to look for jobs again, if nothing comes in; the outer `None` is the end.
    fn next_look(&self, stop_by: &mut Option<Instant>, now: Instant) -> Option<Option<Instant>> {
        let session = self.house.session.borrow();
        let until = session.deadline();
        if !self.stopping.get() {
            return Some(until);
        }
        let by = *stop_by.get_or_insert(now + STOP_TIME);
        if session.is_shut_down() || now >= by {
            return None;
        }
        Some(Some(until.map_or(by, |until| until.min(by))))
    }

    fn perform(self: &Rc<Daemon>, job: Job) {
        match job {
            Job::Storage(job) => {
                if let Err(job) = self.house.storage.try_submit(job) {
                    self.house.session.borrow_mut().postponed(job);
                }
            }
            Job::Announce(request, totals) => {
                let kept = self.bursts.borrow_mut().remove(&request.host);
                let burst = kept.map_or_else(|| self.announcer.burst(), |(burst, _)| burst);
                self.house.spawn(self.clone().announce(burst, request, totals));
            }
            Job::Dial(key, addr) => {
                self.look_at_tracked();
                self.house.spawn(crate::peer::io::dial(self.house.clone(), key, addr));
            }
            Job::Datagram(to, datagram) => {
                self.look_at_tracked();
                if let Err(error) = self.house.udp.send(&datagram, to) {
                    log::debug!("a datagram to {to} is not sent: {error}");
                }
            }
            Job::Bootstrap => self.house.spawn(self.clone().bootstrap()),
            Job::Search(link, datagram) => self.links.send(&self.house, link, &datagram),
            Job::Close(key) => self.house.files.borrow_mut().remove(key.0),
            Job::WebFetch(fetch) => {
                self.house.spawn(crate::webseed::io::fetch(self.house.clone(), self.resolver.clone(), fetch));
            }
            Job::Rescan => self.scan(),
            Job::Reconnect => self.reconnect(),
            Job::Event(event) => {
                tell(&event);
                self.tell_bus(event);
            }
        }
    }

    /// Announces to a host for as long as there is something for it, over the same connection. That is kept a little
    /// longer: torrents that are checked one after the other share it too.
    async fn announce(self: Rc<Daemon>, mut burst: Burst, request: Request, totals: Totals) {
        let host = request.host;
        let mut next = Some((request, totals));
        while let Some((request, totals)) = next {
            let params = self.announce_params(totals);
            let result = burst.announce(&request, &params).await;
            let now = Instant::now();
            let mut session = self.house.session.borrow_mut();
            session.announced(&request, result.as_ref(), now);
            next = session.next_announce(host, now);
            drop(session);
            self.house.kick();
        }
        // One task waits for all of them: a thousand torrents that are checked one by one are as many bursts.
        let first = self.bursts.borrow().is_empty();
        self.bursts.borrow_mut().insert(host, (burst, Instant::now()));
        if first {
            self.house.spawn(self.clone().close_bursts());
        }
    }

    /// Closes connections to trackers that were not used for a while, until there are none.
    async fn close_bursts(self: Rc<Daemon>) {
        while !self.bursts.borrow().is_empty() {
            Timer::after(LINGER).await;
            let mut bursts = self.bursts.borrow_mut();
            let idle = bursts.extract(|_, (_, used)| used.elapsed() >= LINGER);
            drop(bursts);
            for (host, (burst, _)) in idle {
                if let Some(scrape) = self.house.session.borrow_mut().next_scrape(host) {
                    self.house.spawn(self.clone().scrape(scrape, burst));
                }
            }
        }
        self.tidy(&self.house.session.borrow());
    }

    /// Asks a host for counts before its connection is closed.
    async fn scrape(self: Rc<Daemon>, scrape: Scrape, mut burst: Burst) {
        let host = scrape.host;
        let mut next = Some(scrape);
        while let Some(scrape) = next {
            let result = burst.scrape(&scrape, PATIENCE).await;
            if let Err(error) = &result {
                log::debug!("{}: {error}", scrape.url);
            }
            let mut session = self.house.session.borrow_mut();
            let now = Instant::now();
            session.scraped(&scrape, result.as_deref(), now);
            next = session.next_scrape(host);
            // What has become due meanwhile goes over it too.
            if next.is_none()
                && let Some((request, totals)) = session.next_announce(host, now)
            {
                self.house.spawn(self.clone().announce(burst, request, totals));
                break;
            }
        }
        self.house.kick();
    }

    /// Once torrents were read and checked, what that took goes back to the system.
    fn tidy(&self, session: &Session) {
        if !session.is_checking() && self.churned.take() {
            crate::sys::release_memory();
        }
    }

    fn announce_params(&self, totals: Totals) -> Params {
        let session = self.house.session.borrow();
        let settings = session.settings();
        Params {
            peer_id: settings.peer_id,
            port: settings.port,
            key: self.key,
            uploaded: totals.uploaded,
            downloaded: totals.downloaded,
            left: totals.left,
            partial: totals.partial,
            v4: self.listeners.has(Family::V4),
            v6: self.listeners.has(Family::V6),
            patience: if self.stopping.get() { STOP_PATIENCE } else { PATIENCE },
        }
    }

    /// Takes the answers of the storage thread.
    async fn follow_storage(self: Rc<Daemon>) {
        loop {
            let done = self.house.storage.next().await;
            let now = Instant::now();
            self.house.session.borrow_mut().storage_has_room();
            match done {
                Done::Scanned(None) => self.load(Vec::new(), now),
                Done::Scanned(Some(listing)) => {
                    if let Some(hints) = &self.hints {
                        hints.update(&listing.directories);
                    }
                    let load = self.watch.borrow_mut().scanned(*listing);
                    self.load(load, now);
                }
                Done::Loaded { path, ident, result } => {
                    self.churned.set(true);
                    let mut session = self.house.session.borrow_mut();
                    self.loaded(&mut session, path, ident, result.map(Read::Torrent), now);
                }
                Done::Linked { path, ident, result } => {
                    let mut session = self.house.session.borrow_mut();
                    self.loaded(&mut session, path, ident, result.map(Read::Link), now);
                }
                Done::Kept { result: Ok(kept), .. } => {
                    self.churned.set(true);
                    self.kept(&mut self.house.session.borrow_mut(), *kept, now);
                }
                Done::Read { key, peer, file, result } => {
                    let mut session = self.house.session.borrow_mut();
                    // One that has stopped meanwhile may have its disk taken away: what was opened is closed. One that waits
                    // for its check keeps its peers.
                    let stays = |torrent: &Torrent| torrent.serves() || torrent.state == State::Queued;
                    let stays = session.torrent(TorrentKey(key)).is_some_and(stays);
                    let result = result.map(|opened| {
                        if let Some(opened) = opened.filter(|_| stays) {
                            self.house.files.borrow_mut().insert(key, file, opened, now);
                        }
                        None
                    });
                    session.stored(Done::Read { key, peer, file, result }, now);
                }
                Done::Wrote { bytes, outcomes } => {
                    let done = Done::Wrote { bytes: Box::default(), outcomes };
                    self.house.session.borrow_mut().stored(done, now);
                    self.house.written(bytes);
                    self.house.rest_intake();
                }
                Done::Saved { key, result } => {
                    // They were opened while the files changed.
                    self.house.files.borrow_mut().remove(key);
                    self.house.session.borrow_mut().stored(Done::Saved { key, result }, now);
                    self.house.rest_intake();
                }
                Done::Flushed(result) => {
                    match &result {
                        // Logged by the thread, once.
                        Err(error) => self.note(Fault::Records, format!("records are not saved: {error}")),
                        Ok(()) => self.is_over(Fault::Records),
                    }
                    self.house.session.borrow_mut().stored(Done::Flushed(result), now);
                }
                done => {
                    if let Done::Checked { key, result: Err(Trouble::TorrentChanged), .. }
                    | Done::LaidOut { key, result: Err(Trouble::TorrentChanged) } = &done
                    {
                        self.doubt(*key);
                    }
                    self.house.session.borrow_mut().stored(done, now);
                }
            }
            self.house.kick();
        }
    }
}

impl Daemon {
    /// Tells a user at a terminal how it goes.
    async fn report(self: Rc<Daemon>, mut report: Report) {
        (report.tell)(&self.status());
        while report.again {
            Timer::after(REPORT).await;
            (report.tell)(&self.status());
        }
    }

    /// Signals: HUP reads the configuration again, USR1 writes the status to the log, TERM and INT end us.
    async fn heed(self: Rc<Daemon>, signals: Async<SignalFd>) {
        loop {
            let read = signals.read_with(|signals| match signals.read_signal() {
                Ok(Some(info)) => Ok(info),
                Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => Err(error.into()),
            });
            let Ok(info) = read.await else { continue };
            let now = Instant::now();
            match i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                // What is wrong is logged where it is found.
                Some(Signal::SIGHUP) => drop(self.reload(now)),
                Some(Signal::SIGUSR1) => self.log_status(),
                _ => {
                    if !self.stopping.replace(true) {
                        log::info!("stopping");
                        self.house.session.borrow_mut().shut_down(now);
                    }
                }
            }
            self.house.kick();
        }
    }

    /// Reads the configuration again; a bad one changes nothing.
    pub fn reload(self: &Rc<Daemon>, now: Instant) -> Result<(), String> {
        let config = (self.reload)().inspect_err(|error| {
            self.trouble(Fault::Configuration, format!("configuration not read, the old one stays: {error}"));
        })?;
        self.is_over(Fault::Configuration);
        let old = self.config.replace(config);
        let config = self.config.borrow();
        for key in Config::changes_needing_restart(&old, &config) {
            log::warn!("'{key}' has changed: it takes effect at the next start");
        }
        crate::log::init(config.log.to, config.log.level);
        self.house.files.borrow_mut().set_limit(config.limits.open_files as usize);
        self.set_disk();
        let mut session = self.house.session.borrow_mut();
        let (port, id) = (session.settings().port, session.settings().peer_id);
        let static_peers = session.settings().static_peers.clone();
        if (&old.data, old.layout) != (&config.data, config.layout) {
            // Every torrent has another place: all are taken anew, by their records without a check.
            self.forget_all(&mut session, now);
        }
        session.apply(Settings { static_peers, ..settings(&config, port, id) }, config.rescan, now);
        self.seek_static_peers();
        if old.ubus != config.ubus {
            self.on_bus.renew();
        }
        if old.listen != config.listen {
            drop(session);
            self.listen_elsewhere(old);
        }
        log::info!("configuration read again");
        Ok(())
    }

    /// Tells the storage thread what it may write where.
    fn set_disk(&self) {
        let disk = self.config.borrow().disk;
        // Always taken.
        let _ = self.house.storage.try_submit(StorageJob::Disk(disk));
    }

    /// Something that concerns no single torrent went wrong.
    fn trouble(&self, fault: Fault, what: String) {
        log::warn!("{what}");
        self.note(fault, what);
    }

    /// The same where it is logged already.
    fn note(&self, fault: Fault, what: String) {
        *self.last_error.borrow_mut() = Some((fault, what));
    }

    /// That is no more.
    fn is_over(&self, fault: Fault) {
        self.last_error.borrow_mut().take_if(|(last, _)| *last == fault);
    }
}

/// The log line of an event.
fn tell(event: &Event) {
    let name = crate::log::escaped(&event.name);
    let reason = crate::log::escaped(&event.reason);
    match event.action {
        Happened::Added | Happened::Removed => {}
        Happened::Completed => log::info!("\"{name}\" is complete and seeded"),
        Happened::Error => log::warn!("\"{name}\": {reason}"),
        Happened::Recovered if reason.is_empty() => log::info!("\"{name}\" is back"),
        Happened::Recovered => log::info!("\"{name}\" is back: {reason}"),
    }
}
