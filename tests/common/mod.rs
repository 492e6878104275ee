//! What the tests of real processes share: one file for each part of the world they touch.
//!
//! Nothing here uses the crate: messages, torrents and announces are written anew, so that a mistake in a codec is
//! not made twice and cancelled out. Nothing here relies on luck with time: a test waits for a condition, with a
//! bound that only a broken program reaches.
#![allow(dead_code, reason = "each test binary uses its part of this")]

pub mod adb;
pub mod authority;
pub mod bus;
pub mod daemon;
pub mod disk;
pub mod machine;
pub mod metadata;
pub mod nginx;
pub mod peer;
pub mod seed;
pub mod torrent;
pub mod tracker;
pub mod webserver;
pub mod world;

use std::fmt::Debug;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a condition may take before the test gives up: far above what it takes on a loaded machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    Root,
    Program(&'static str),
    Python(&'static str),
    /// FAT, in the kernel of this machine or in one of our own.
    Fat,
    /// A kernel that remembers connections, as routers do.
    Conntrack,
    /// The released binary, whose path `tests/run` gives: budgets are never taken from a debug build.
    Release,
    /// The project's shared folder of real torrents and their data.
    Shared,
}

impl Need {
    fn met(self) -> bool {
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::Program(name) => on_path(name),
            Self::Python(module) => quiet(Command::new(python()).args(["-c", &format!("import {module}")])),
            Self::Fat => machine::kernel_knows("vfat") || (on_path(machine::LINUX) && on_path("insmod")),
            Self::Conntrack => Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists(),
            Self::Release => std::env::var_os("MESHSEED").is_some(),
            Self::Shared => shared().is_some(),
        }
    }
}

/// Whether this test can run here. Where it cannot it is named on stderr as skipped, and in CI it fails.
pub fn able(needs: &[Need]) -> bool {
    let Some(need) = needs.iter().find(|need| !need.met()) else { return true };
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} needs {need:?}: nothing is skipped in CI");
    // Not `eprintln!`: the harness swallows that of a test which passes.
    std::io::stderr()
        .write_all(format!("skipped: {test}: needs {need:?}\n").as_bytes())
        .expect("stderr is open");
    false
}

/// The program under test: the release that `tests/run` built, or cargo's own build of this profile.
pub fn meshseed() -> PathBuf {
    std::env::var_os("MESHSEED").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_meshseed")), PathBuf::from)
}

/// The Python that has the foreign client's module: a virtual environment made by `tests/run`.
pub fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    std::env::var_os("MESHSEED_PYTHON").map_or(venv, PathBuf::from)
}

/// The folder with real torrents of other projects, beside the checkout.
pub fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let folder = std::env::var_os("MESHSEED_SHARED").map_or(beside, PathBuf::from);
    folder.join("data/torrents/manifest.tsv").exists().then(|| folder.canonicalize().expect("it exists"))
}

/// Polls `condition` until it holds, and panics after `bound` with `what` was waited for.
pub fn wait<T>(what: &str, bound: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Polls a measurement until it is as wanted; the panic says what it was last.
pub fn wait_value<T: Debug>(
    what: &str,
    bound: Duration,
    mut measure: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let start = Instant::now();
    loop {
        let value = measure();
        if wanted(&value) {
            return value;
        }
        assert!(start.elapsed() < bound, "waited {bound:?} in vain: {what}; last seen: {value:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command that must succeed; what it wrote goes into the panic when it does not.
pub fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{command:?}: {}: {text}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

/// A process that is ended with the test.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The SHA-256 of a file, by another program than ours.
pub fn sha256(path: &Path) -> String {
    let text = run(Command::new("sha256sum").arg("--").arg(path));
    text.trim_start_matches('\\')[..64].to_owned()
}

/// A folder of its own for one test, removed afterwards unless the test failed.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(unique("meshseed-test"));
        std::fs::create_dir_all(&path).expect("the temporary folder takes a new one");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for a look: {}", self.0.display());
        } else {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
}

/// A name that no other test of this or another process has.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}-{}", std::process::id(), number())
}

/// Counts up within this process.
pub fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn on_path(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| Path::new(folder).join(name).exists())
}

fn quiet(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
