//! The daemon as a user has it: a process with its folders, its configuration and its control socket.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::peer::RawPeer;
use super::torrent::Torrent;
use super::world::Namespace;
use super::{Folder, PATIENCE, meshseed, number, wait, wait_value};

/// The folders and settings of a daemon. They outlive the process, so it can be started again.
#[derive(Debug)]
pub struct Home {
    pub folder: Folder,
    pub torrents: PathBuf,
    pub data: PathBuf,
    pub state: PathBuf,
    pub control: PathBuf,
    pub config: PathBuf,
    /// The first port it tries.
    pub port: u16,
    log: PathBuf,
    /// Section ("" for the top), key, value in TOML.
    settings: RefCell<Vec<(String, String, String)>>,
    namespace: Option<String>,
}

impl Home {
    /// On the loopback interface, looking at its folders every second.
    pub fn new() -> Self {
        let folder = Folder::new();
        let [torrents, data, state] = ["torrents", "data", "state"].map(|name| folder.path().join(name));
        for path in [&torrents, &data, &state] {
            std::fs::create_dir(path).expect("the folder is ours");
        }
        let [control, config, log] =
            ["control.sock", "config.toml", "log"].map(|name| folder.path().join(name));
        // Ranges of ports that do not overlap, for tests that run side by side.
        let port = 20_000 + (std::process::id() * 400 + number() * 10) % 40_000;
        let port = u16::try_from(port).expect("below 60000");
        let settings = RefCell::default();
        let home =
            Self { folder, torrents, data, state, control, config, port, log, settings, namespace: None };
        home.set("", "torrents", json!([home.torrents]));
        home.set("", "data", json!(home.data));
        home.set("", "state", json!(home.state));
        home.set("", "control", json!(home.control));
        home.set("", "rescan", 1);
        home.set("listen", "port", json!(format!("{port}-{}", port + 9)));
        home.set("listen", "addresses", json!(["127.0.0.1"]));
        // Nothing of a test asks the Internet.
        home.set("dht", "bootstrap", json!([]));
        home.set("log", "to", json!("stderr"));
        home
    }

    /// In a namespace, on its addresses of both families.
    pub fn inside(space: &Namespace) -> Self {
        let mut home = Self::new();
        home.namespace = Some(space.name.clone());
        home.set("listen", "port", json!("6881"));
        home.set("listen", "addresses", json!([space.address, space.address6]));
        home
    }

    /// Sets a key of the configuration; a JSON string, number, boolean or list is TOML as well.
    pub fn set(&self, section: &str, key: &str, value: impl ToString) {
        let mut settings = self.settings.borrow_mut();
        settings.retain(|(known_section, known_key, _)| known_section != section || known_key != key);
        settings.push((section.into(), key.into(), value.to_string()));
    }

    /// Writes the configuration file.
    pub fn configure(&self) {
        let mut text = String::new();
        let settings = self.settings.borrow();
        let mut sections: Vec<&str> = settings.iter().map(|(section, ..)| section.as_str()).collect();
        sections.sort_unstable();
        sections.dedup();
        for section in sections {
            if !section.is_empty() {
                text += &format!("[{section}]\n");
            }
            for (_, key, value) in settings.iter().filter(|(known, ..)| known == section) {
                text += &format!("{key} = {value}\n");
            }
        }
        std::fs::write(&self.config, text).expect("the folder is ours");
    }

    /// The command line of the daemon, with what runs before it: `prefix` is a program that replaces itself.
    pub fn command(&self, prefix: &[&str]) -> Command {
        self.configure();
        let mut words: Vec<PathBuf> = Vec::new();
        if let Some(name) = &self.namespace {
            words.extend(["ip", "netns", "exec", name].map(PathBuf::from));
        }
        words.extend(prefix.iter().map(PathBuf::from));
        words.extend([meshseed(), "daemon".into(), "-c".into(), self.config.clone()]);
        let mut command = Command::new(&words[0]);
        let log =
            std::fs::File::options().create(true).append(true).open(&self.log).expect("the folder is ours");
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    /// Starts the daemon and waits until it answers on its control socket.
    pub fn start(&self) -> Daemon<'_> {
        self.start_by(&[])
    }

    /// The same, with a program in front that replaces itself (`prlimit`, `unshare` …).
    pub fn start_by(&self, prefix: &[&str]) -> Daemon<'_> {
        let mut daemon = self.spawn(prefix);
        wait("the daemon answers on its control socket", PATIENCE, || {
            if let Ok(Some(status)) = daemon.child.try_wait() {
                panic!("the daemon ended: {status}: {}", self.log());
            }
            daemon.try_ask("status", Value::Null)
        });
        daemon
    }

    /// Starts the daemon and waits for nothing.
    pub fn spawn(&self, prefix: &[&str]) -> Daemon<'_> {
        Daemon { child: self.command(prefix).spawn().expect("the daemon's binary exists"), home: self }
    }

    /// Everything logged so far, by all processes that ran here.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the records on disk name this torrent.
    pub fn wait_recorded(&self, torrent: &Torrent) {
        wait("the record is on disk", Duration::from_secs(150), || {
            let records = std::fs::read(self.state.join("resume")).ok()?;
            records.windows(20).any(|window| window == torrent.info_hash).then_some(())
        });
    }
}

/// A running daemon; killed when the test is over.
#[derive(Debug)]
pub struct Daemon<'home> {
    child: Child,
    pub home: &'home Home,
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident: u64,
    pub private_dirty: u64,
}

impl Daemon<'_> {
    /// One question on the control socket; none when it is not answered with a result.
    pub fn try_ask(&self, method: &str, params: Value) -> Option<Value> {
        let mut answer: Value =
            serde_json::from_str(&self.ask_raw(&json!({"method": method, "params": params}).to_string())?)
                .ok()?;
        answer.get_mut("result").map(Value::take)
    }

    pub fn ask(&self, method: &str, params: Value) -> Value {
        self.try_ask(method, params.clone())
            .unwrap_or_else(|| panic!("{method} {params} is answered with a result"))
    }

    /// One line to the control socket and the line it answers.
    pub fn ask_raw(&self, line: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.home.control).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("above zero");
        stream.write_all(format!("{line}\n").as_bytes()).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        Some(answer)
    }

    /// What the daemon says of a torrent; null when it does not know it.
    pub fn torrent(&self, torrent: &Torrent) -> Value {
        self.try_ask("torrent", json!({"info_hash": torrent.hex()})).unwrap_or(Value::Null)
    }

    /// Waits until the torrent is in one of these states, and returns what is said of it then.
    pub fn wait_state(&self, torrent: &Torrent, states: &[&str]) -> Value {
        wait_value(
            &format!("{} is {states:?}", torrent.name),
            PATIENCE,
            || self.torrent(torrent),
            |said| said["state"].as_str().is_some_and(|state| states.contains(&state)),
        )
    }

    /// Waits until it has these bytes of the torrent, and no more are to come.
    pub fn wait_have(&self, torrent: &Torrent, bytes: u64) -> Value {
        let what = format!("{} has {bytes} bytes", torrent.name);
        wait_value(&what, PATIENCE, || self.torrent(torrent), |said| said["have"] == bytes)
    }

    /// Waits until all of the torrent is verified and served.
    pub fn wait_seeding(&self, torrent: &Torrent) -> Value {
        let said = self.wait_state(torrent, &["seeding"]);
        assert_eq!(said["have"], said["size"], "what is seeded is whole");
        said
    }

    /// A peer gets all of it, and it is right.
    pub fn assert_serves(&self, torrent: &Torrent) {
        let mut peer = RawPeer::connect(self.address(), &torrent.info_hash).expect("it shakes hands");
        peer.unchoked().expect("its turn comes");
        assert!(peer.download(torrent, 16).expect("it is served") == torrent.content(), "the data is right");
    }

    pub fn wait_gone(&self, torrent: &Torrent) {
        wait_value(&format!("{} is gone", torrent.name), PATIENCE, || self.torrent(torrent), Value::is_null);
    }

    /// The .torrent files that were not taken, with their reasons, as text.
    pub fn refused(&self) -> String {
        self.ask("refused", Value::Null).to_string()
    }

    /// Waits until a file of this name is among the refused.
    pub fn wait_refused(&self, name: &str) -> String {
        wait_value(
            &format!("{name} is refused"),
            PATIENCE,
            || self.refused(),
            |refused| refused.contains(name),
        )
    }

    /// Where peers connect to: the first address it says it listens on.
    pub fn address(&self) -> SocketAddr {
        let status = self.ask("status", Value::Null);
        let address = status["listen"][0].as_str().unwrap_or_else(|| panic!("no listen address in {status}"));
        address.parse().expect("an address")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("the daemon runs");
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end and waits: how it ended and how long that took.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = wait("the daemon ends", PATIENCE, || self.child.try_wait().expect("it is our child"));
        (status, start.elapsed())
    }

    /// Ends it the hard way.
    pub fn kill(mut self) {
        self.child.kill().expect("the daemon runs");
        self.child.wait().expect("it is our child");
    }

    pub fn memory(&self) -> Memory {
        // Pages of a program that was built a moment ago are dirty until it is on disk; they are none of its memory.
        let program = std::fs::File::open(format!("/proc/{}/exe", self.pid())).expect("the daemon runs");
        program.sync_all().expect("it can be written");
        let text =
            std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).expect("the daemon runs");
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect("the kernel says it");
            line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
        };
        Memory { resident: field("Rss:"), private_dirty: field("Private_Dirty:") }
    }

    /// Processor time used so far by all threads.
    pub fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the daemon runs");
        let fields: Vec<&str> = text.rsplit(')').next().expect("after the name").split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        // The kernel counts here in hundredths of a second whatever its own clock is.
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the daemon runs").count()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.home.log();
            let skipped = log.lines().count().saturating_sub(60);
            eprintln!("the end of the daemon's log:");
            log.lines().skip(skipped).for_each(|line| eprintln!("  {line}"));
        }
    }
}
