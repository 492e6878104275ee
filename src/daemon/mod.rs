//! The daemon: prepares the process, then runs the jobs that the session hands out and sleeps until the next is due.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

pub mod control;
pub mod house;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::config::{Config, SaveAs};
use crate::ident::Ident;
use crate::net::Prefix;
use crate::net::io::{Interface, Resolver, on_link};
use crate::session::{Event, Happened, Job, Session, Settings, Totals};
use crate::status::Status;
use crate::status::io::Control;
use crate::storage::io::{Done, Files, Job as StorageJob, Loaded, Place, Storage};
use crate::tracker::client::Request;
use crate::tracker::host::HostId;
use crate::tracker::io::{Announcer, Burst, PATIENCE, Params};
use crate::watch::io::Hints;
use crate::watch::{Change, Watch};
pub use house::House;

/// After being told to stop we are gone by then, whatever a tracker does.
const STOP_TIME: Duration = Duration::from_millis(4500);
/// A connection to a tracker is kept this long after its last announce.
const LINGER: Duration = Duration::from_secs(2);
/// A tracker has this long to hear that we stop.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// A file that was half-written is looked at again after this long.
const HALF_WRITTEN: Duration = Duration::from_secs(2);
/// How often a user at a terminal is told how it goes.
const REPORT: Duration = Duration::from_secs(1);
/// Descriptors beside content files and peers: listeners, log, inotify, control clients, trackers.
const SPARE_FILES: u64 = 64;

/// Why the daemon could not start.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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
    /// Connections to trackers that may be needed again at once.
    bursts: RefCell<BTreeMap<HostId, Burst>>,
    /// Proves to trackers that we are the same, whatever our address.
    key: u32,
    reload: Reload,
    started: Instant,
    /// Where peers reach us.
    listening: Vec<SocketAddr>,
    /// The last thing that went wrong, for the status.
    last_error: RefCell<String>,
    stopping: Cell<bool>,
    /// A look at the watched directories is under way, and another one is wanted after it.
    scanning: Cell<bool>,
    scan_again: Cell<bool>,
    /// Files of it that are still to be read.
    loading: Cell<usize>,
    hints: Option<Hints>,
}

/// Runs until told to stop; `report` is called every second with the status.
pub fn run(config: Config, reload: Reload, report: Option<fn(&Status)>) -> Result<(), StartError> {
    let signals = signals().map_err(|error| StartError(format!("signals: {error}")))?;
    raise_file_limit(&config);
    let listeners = listen(&config)?;
    let listening: Vec<SocketAddr> =
        listeners.iter().filter_map(|listener| listener.get_ref().local_addr().ok()).collect();
    let control = match Control::bind(&config.control) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let path = config.control.display();
            return Err(StartError(format!(
                "{path}: {error}; two daemons need a control socket and a state each"
            )));
        }
        control => control,
    };
    drop_privileges(config.user.as_deref())?;
    let now = Instant::now();
    let port = listening.first().map_or(0, SocketAddr::port);
    let seed = random();
    let session = Session::new(settings(&config, port, peer_id(seed)), config.rescan, seed, now);
    let files = Files::new(config.limits.open_files as usize);
    let storage = Storage::start(config.state.clone())
        .map_err(|error| StartError(format!("storage thread: {error}")))?;
    let house = Rc::new(House::new(session, files, storage));
    let hints = Hints::new().inspect_err(|error| {
        log::warn!("inotify: {error}; changes are found by the regular scan");
    });
    let daemon = Rc::new(Daemon {
        house: house.clone(),
        watch: RefCell::new(Watch::new()),
        announcer: Announcer::new(Rc::new(Resolver::new()), seed),
        bursts: RefCell::default(),
        key: low_bits(seed.rotate_right(17)),
        reload,
        started: now,
        listening,
        last_error: RefCell::default(),
        stopping: Cell::new(false),
        scanning: Cell::new(false),
        scan_again: Cell::new(false),
        loading: Cell::new(0),
        hints: hints.ok(),
        config: RefCell::new(config),
    });
    for addr in &daemon.listening {
        log::info!("listening on {addr}");
    }
    for listener in listeners {
        house.spawn(crate::peer::io::listen(house.clone(), listener));
    }
    match control {
        Ok(control) => {
            let daemon = daemon.clone();
            house.spawn(async move { control.serve(|method| daemon.answer(method)).await });
        }
        Err(error) => {
            let path = daemon.config.borrow().control.display().to_string();
            daemon.trouble(format!("control socket {path}: {error}; 'meshseed status' cannot ask us"));
        }
    }
    if let Some(report) = report {
        house.spawn(daemon.clone().report(report));
    }
    house.spawn(daemon.clone().heed(signals));
    house.spawn(daemon.clone().follow_storage());
    house.spawn(daemon.clone().follow_directories());
    house.session.borrow_mut().rescan_now(now);
    async_io::block_on(house.executor().run(daemon.clone().work()));
    // Tasks hold what they use, and some delete files when they end.
    house.end_tasks();
    let session = daemon.house.session.borrow();
    log::info!(
        "stopped after {} s: {} bytes sent, {} torrents",
        daemon.started.elapsed().as_secs(),
        session.uploaded(),
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
                self.house.spawn(self.clone().announce(request, totals));
            }
            Job::Dial(key, addr) => self.house.spawn(crate::peer::io::dial(self.house.clone(), key, addr)),
            Job::Rescan => self.scan(),
            Job::Event(event) => tell(&event),
        }
    }

    /// Announces to a host for as long as there is something for it, over the same connection. That is kept a little
    /// longer: torrents that are checked one after the other share it too.
    async fn announce(self: Rc<Daemon>, request: Request, totals: Totals) {
        let host = request.host;
        let mut burst = self.bursts.borrow_mut().remove(&host).unwrap_or_else(|| self.announcer.burst());
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
        self.bursts.borrow_mut().insert(host, burst);
        Timer::after(LINGER).await;
        // If it was used since, this closes it early at worst.
        self.bursts.borrow_mut().remove(&host);
    }

    fn announce_params(&self, totals: Totals) -> Params {
        let session = self.house.session.borrow();
        let settings = session.settings();
        Params {
            peer_id: settings.peer_id,
            port: settings.port,
            key: self.key,
            uploaded: totals.uploaded,
            downloaded: 0,
            left: totals.left,
            v4: self.listening.iter().any(|addr| addr.is_ipv4() || addr.ip().is_unspecified()),
            v6: self.listening.iter().any(SocketAddr::is_ipv6),
            patience: if self.stopping.get() { STOP_PATIENCE } else { PATIENCE },
        }
    }

    /// Looks at the watched directories; at once, or when the look under way has ended.
    fn scan(&self) {
        if self.scanning.replace(true) {
            self.scan_again.set(true);
            return;
        }
        let roots: Arc<[_]> = self.config.borrow().torrents.clone().into();
        let known = self.watch.borrow().fingerprint();
        self.refresh_links();
        let mut session = self.house.session.borrow_mut();
        session.submit(StorageJob::Scan { roots, known });
        session.set_clock(control::clock(), Instant::now());
    }

    /// Which prefixes are on our links changes as interfaces come and go.
    fn refresh_links(&self) {
        let interfaces = crate::net::io::interfaces().unwrap_or_default();
        let local = local_prefixes(&self.config.borrow(), &interfaces);
        let port = self.listening.first().map_or(0, SocketAddr::port);
        let own = interfaces.iter().map(|interface| SocketAddr::new(interface.address, port)).collect();
        self.house.session.borrow_mut().set_local(local, own);
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
                    let mut session = self.house.session.borrow_mut();
                    self.loaded(&mut session, path, ident, result, now);
                }
                Done::Read { key, peer, file, result } => {
                    let result = result.map(|opened| {
                        if let Some(opened) = opened {
                            self.house.files.borrow_mut().insert(key, file, opened, now);
                        }
                        None
                    });
                    self.house.session.borrow_mut().stored(Done::Read { key, peer, file, result }, now);
                }
                Done::Flushed(result) => {
                    if let Err(error) = &result {
                        *self.last_error.borrow_mut() = format!("records are not saved: {error}");
                    }
                    self.house.session.borrow_mut().stored(Done::Flushed(result), now);
                }
                done => self.house.session.borrow_mut().stored(done, now),
            }
            self.house.kick();
        }
    }
}

impl Daemon {
    /// Files of a scan to be read, lowest path first; with none to read the round is over.
    fn load(&self, paths: Vec<Arc<Path>>, now: Instant) {
        let mut session = self.house.session.borrow_mut();
        self.loading.set(self.loading.get() + paths.len());
        for path in paths {
            session.submit(StorageJob::Load { path });
        }
        if self.loading.get() == 0 {
            self.settle(&mut session, now);
        }
    }

    /// A .torrent has been read.
    fn loaded(
        &self,
        session: &mut Session,
        path: Arc<Path>,
        ident: Ident,
        result: Result<Box<Loaded>, String>,
        now: Instant,
    ) {
        self.loading.set(self.loading.get().saturating_sub(1));
        let named = result.as_ref().map(|loaded| loaded.summary.info_hash).map_err(String::clone);
        let changes = self.watch.borrow_mut().loaded(&path, ident, named);
        let mut loaded = result.ok();
        for change in changes {
            match &change {
                Change::Added { .. } => {
                    if let Some(loaded) = loaded.take() {
                        self.insert(session, *loaded, path.clone(), ident, now);
                    }
                }
                Change::Restarted { info_hash, .. } => {
                    session.remove(*info_hash, now);
                    if let Some(loaded) = loaded.take() {
                        self.insert(session, *loaded, path.clone(), ident, now);
                    }
                }
                Change::Moved { info_hash, .. } => {
                    let tiers = loaded.take().map(|loaded| loaded.summary.trackers).unwrap_or_default();
                    session.moved(*info_hash, path.clone(), ident, tiers, now);
                }
                _ => {}
            }
            report(&change);
        }
        if self.loading.get() == 0 {
            self.settle(session, now);
        }
    }

    /// All files of a round are read: what no file names any more is dropped.
    fn settle(&self, session: &mut Session, now: Instant) {
        let (changes, again) = self.watch.borrow_mut().settle();
        for change in &changes {
            if let Change::Removed { info_hash, .. } = change {
                session.remove(*info_hash, now);
            }
            report(change);
        }
        if !again.is_empty() {
            self.loading.set(again.len());
            again.into_iter().for_each(|path| session.submit(StorageJob::Load { path }));
            return;
        }
        self.scanning.set(false);
        if self.scan_again.take() {
            session.rescan_now(now);
        } else if self.watch.borrow().looks_again() {
            session.rescan_by(now + HALF_WRITTEN);
        }
    }

    fn insert(&self, session: &mut Session, loaded: Loaded, torrent: Arc<Path>, ident: Ident, now: Instant) {
        let place = place(&self.config.borrow(), &loaded, torrent, ident);
        session.insert(loaded.summary, place, now);
    }

    /// inotify hastens the scan; without it the regular scan finds everything a little later.
    async fn follow_directories(self: Rc<Daemon>) {
        let Some(hints) = &self.hints else { return };
        loop {
            hints.changed().await;
            self.house.session.borrow_mut().rescan_now(Instant::now());
            self.house.kick();
        }
    }

    /// Tells a user at a terminal how it goes.
    async fn report(self: Rc<Daemon>, report: fn(&Status)) {
        loop {
            Timer::after(REPORT).await;
            report(&self.status());
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
    pub fn reload(&self, now: Instant) -> Result<(), String> {
        let config = (self.reload)().inspect_err(|error| {
            self.trouble(format!("configuration not read, the old one stays: {error}"));
        })?;
        let old = self.config.replace(config);
        let config = self.config.borrow();
        for key in Config::changes_needing_restart(&old, &config) {
            log::warn!("'{key}' has changed: it takes effect at the next start");
        }
        crate::log::init(config.log.to, config.log.level);
        self.house.files.borrow_mut().set_limit(config.limits.open_files as usize);
        let mut session = self.house.session.borrow_mut();
        let (port, id) = (session.settings().port, session.settings().peer_id);
        session.apply(settings(&config, port, id), config.rescan, now);
        log::info!("configuration read again");
        Ok(())
    }

    /// Something that concerns no single torrent went wrong.
    fn trouble(&self, what: String) {
        log::warn!("{what}");
        *self.last_error.borrow_mut() = what;
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
        Happened::Recovered => log::info!("\"{name}\" is back {reason}"),
    }
}

fn report(change: &Change) {
    log::log!(change.level(), "{change}");
}

fn settings(config: &Config, port: u16, peer_id: [u8; 20]) -> Settings {
    let limits = &config.limits;
    Settings {
        peer_id,
        port,
        peers: limits.peers as usize,
        peers_per_torrent: limits.peers_per_torrent as usize,
        uploads: limits.uploads as usize,
        uploads_per_torrent: limits.uploads_per_torrent as usize,
        upload: limits.upload,
        local_upload: limits.local_upload,
        local: local_prefixes(config, &crate::net::io::interfaces().unwrap_or_default()),
        dials_per_second: limits.dials_per_second,
        memory: limits.memory,
        trackers: config.trackers.enabled,
        also: config.trackers.also.clone(),
        static_peers: config.peers.iter().filter_map(|peer| peer.parse().ok()).collect(),
    }
}

/// The prefixes of `local`, `on-link` being those of our own interfaces.
fn local_prefixes(config: &Config, interfaces: &[Interface]) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = Vec::new();
    for entry in &config.limits.local {
        match entry.parse() {
            Ok(prefix) => prefixes.push(prefix),
            Err(_) => prefixes.extend(on_link(interfaces)),
        }
    }
    prefixes
}

/// Where a torrent and its data lie, by the layout of the configuration or the sidecar beside it.
fn place(config: &Config, loaded: &Loaded, torrent: Arc<Path>, ident: Ident) -> Place {
    let summary = &loaded.summary;
    let beside = torrent.parent().unwrap_or(Path::new("/"));
    if let Some(data) = &loaded.sidecar {
        let root = data.parent().unwrap_or(Path::new("/")).into();
        let data = data.as_path().into();
        return Place { torrent, ident, data, other: None, root, kept: false, sidecar: true };
    }
    let root = config.data.as_deref().unwrap_or(beside);
    let data = config.layout.data_path(&torrent, &summary.name, summary.multi_file, config.data.as_deref());
    // Data that other programs left lies under the torrent's own name: it is taken where it is.
    let other =
        Some(root.join(&*summary.name)).filter(|other| config.layout == SaveAs::Auto && *other != data);
    let root = root.into();
    Place {
        torrent,
        ident,
        data: data.into(),
        other: other.map(Into::into),
        root,
        kept: false,
        sidecar: false,
    }
}

/// Listens on the first port of the range that is free on all addresses.
fn listen(config: &Config) -> Result<Vec<Async<TcpListener>>, StartError> {
    let listen = &config.listen;
    let mut last = String::new();
    for port in listen.port.clone() {
        match bind(&listen.addresses, port) {
            Ok(listeners) => return Ok(listeners),
            Err(error) => last = error.to_string(),
        }
    }
    let (first, end) = (listen.port.start(), listen.port.end());
    Err(StartError(format!(
        "cannot listen on any port of {first}-{end}: {last}; set listen.port to one that is free"
    )))
}

fn bind(addresses: &[IpAddr], port: u16) -> io::Result<Vec<Async<TcpListener>>> {
    if !addresses.is_empty() {
        return addresses.iter().map(|&ip| Async::<TcpListener>::bind((ip, port))).collect();
    }
    // One socket takes both families, unless the system keeps them apart or has no IPv6.
    let v6 = Async::<TcpListener>::bind((Ipv6Addr::UNSPECIFIED, port));
    if v6.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
        return v6.map(|v6| vec![v6]);
    }
    let port =
        v6.as_ref().ok().and_then(|v6| v6.get_ref().local_addr().ok()).map_or(port, |addr| addr.port());
    let v4 = Async::<TcpListener>::bind((Ipv4Addr::UNSPECIFIED, port));
    match (v6, v4) {
        (Ok(v6), Ok(v4)) => Ok(vec![v6, v4]),
        (Ok(v6), Err(_)) => Ok(vec![v6]),
        (Err(_), v4) => Ok(vec![v4?]),
    }
}

/// The signals that we read; set before any thread starts, so that no other takes them.
fn signals() -> nix::Result<Async<SignalFd>> {
    let mut set = SigSet::empty();
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGINT]
        .into_iter()
        .for_each(|signal| set.add(signal));
    set.thread_block()?;
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    Async::new_nonblocking(fd).map_err(|_| nix::Error::EIO)
}

/// Descriptors for the peers and files of the configuration, as far as the system allows.
fn raise_file_limit(config: &Config) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = u64::from(config.limits.peers) + u64::from(config.limits.open_files) + SPARE_FILES;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted as _), hard);
    }
}

/// Becomes the configured user, and in any case gives up the ways to become another.
fn drop_privileges(user: Option<&str>) -> Result<(), StartError> {
    use nix::unistd::{Uid, User, setgid, setgroups, setuid};
    if let Some(name) = user {
        let found = match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        };
        let user = found.ok().flatten().ok_or_else(|| StartError(format!("there is no user '{name}'")))?;
        if Uid::effective() != user.uid {
            setgroups(&[user.gid])
                .and_then(|()| setgid(user.gid))
                .and_then(|()| setuid(user.uid))
                .map_err(|error| StartError(format!("cannot become user '{name}': {error}")))?;
        }
    }
    nix::sys::prctl::set_no_new_privs().map_err(|error| StartError(format!("PR_SET_NO_NEW_PRIVS: {error}")))
}

/// Sixty-four bits that nobody can guess, from the keys that the standard library takes from the system.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// Our id: who we are by BEP 20's convention, then twelve letters and digits of this run.
fn peer_id(mut seed: u64) -> [u8; 20] {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let mut id = *b"-MS0100-000000000000";
    for byte in &mut id[8..] {
        *byte = ALPHABET[(seed & 31) as usize];
        seed >>= 5;
    }
    id
}

fn low_bits(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
