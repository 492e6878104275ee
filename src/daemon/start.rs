//! What is prepared before the first packet: settings, signals, descriptors, privileges, our id.
#![expect(clippy::disallowed_types, reason = "I/O shell")]

use std::fmt;
use std::io::{self, Read};

use async_io::Async;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid};

use crate::config::Config;
use crate::dht::Options;
use crate::net::Prefix;
use crate::net::io::{Interface, on_link};
use crate::session::Settings;

/// Descriptors beside content files and peers: listeners, log, inotify, control clients, trackers.
const SPARE_FILES: u64 = 64;

/// Why the daemon could not start.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the session works with, of the configuration.
pub fn settings(config: &Config, port: u16, peer_id: [u8; 20]) -> Settings {
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
        download: limits.download,
        local_download: limits.local_download,
        local: local_prefixes(config, &crate::net::io::interfaces().unwrap_or_default()),
        dials_per_second: limits.dials_per_second,
        memory: limits.memory,
        trackers: config.trackers.enabled,
        web_seeds: config.webseeds.enabled,
        superseed: config.seed.superseed,
        pex: config.pex.enabled,
        also: config.trackers.also.clone(),
        // Names are resolved once there is a loop to do it.
        static_peers: Vec::new(),
        dht: config
            .dht
            .enabled
            .then_some(Options { read_only: config.dht.read_only, router: config.dht.router }),
    }
}

/// The prefixes of `local`, `on-link` being those of our own interfaces.
pub fn local_prefixes(config: &Config, interfaces: &[Interface]) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = Vec::new();
    for entry in &config.limits.local {
        match entry.parse() {
            Ok(prefix) => prefixes.push(prefix),
            Err(_) => prefixes.extend(on_link(interfaces)),
        }
    }
    prefixes
}

/// The signals that we read; set before any thread starts, so that no other takes them.
pub fn signals() -> io::Result<Async<SignalFd>> {
    let mut set = SigSet::empty();
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGINT]
        .into_iter()
        .for_each(|signal| set.add(signal));
    set.thread_block()?;
    let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    Async::new_nonblocking(fd)
}

/// Descriptors for the peers and files of the configuration, as far as the system allows.
pub fn raise_file_limit(config: &Config) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = u64::from(config.limits.peers) + u64::from(config.limits.open_files) + SPARE_FILES;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(wanted as _), hard);
    }
}

/// Becomes the configured user, and in any case gives up the ways to become another.
pub fn drop_privileges(user: Option<&str>) -> Result<(), StartError> {
    use nix::unistd::{setgid, setgroups, setuid};
    if let Some(name) = user {
        let (uid, gid) =
            user_ids(name).ok_or_else(|| StartError(format!("there is no user '{name}' in /etc/passwd")))?;
        if Uid::effective() != uid {
            setgroups(&[gid])
                .and_then(|()| setgid(gid))
                .and_then(|()| setuid(uid))
                .map_err(io::Error::from)
                .map_err(|error| StartError(format!("cannot become user '{name}': {error}")))?;
        }
    }
    nix::sys::prctl::set_no_new_privs()
        .map_err(io::Error::from)
        .map_err(|error| StartError(format!("PR_SET_NO_NEW_PRIVS: {error}")))
}

/// User and group of a name or number in `/etc/passwd`: musl reads no other file, and asking it is 7 KB of C.
fn user_ids(user: &str) -> Option<(Uid, Gid)> {
    let number: Option<u32> = user.parse().ok();
    let users = std::fs::read("/etc/passwd").ok()?;
    String::from_utf8_lossy(&users).lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (_, uid, gid) = (fields.next(), fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        number.map_or(name == user, |number| number == uid).then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
    })
}

/// Sixty-four bits that nobody can guess.
pub fn random() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| StartError(format!("/dev/urandom: {error}")))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Our id: who we are by BEP 20's convention, then twelve letters and digits of this run.
pub fn peer_id(mut seed: u64) -> [u8; 20] {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let mut id = *b"-MS0100-000000000000";
    for byte in &mut id[8..] {
        *byte = ALPHABET[(seed & 31) as usize];
        seed >>= 5;
    }
    id
}

/// The low half of a number.
pub fn low_bits(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_and_by_number() {
        let root = Some((Uid::from_raw(0), Gid::from_raw(0)));
        assert_eq!([user_ids("root"), user_ids("0")], [root, root]);
        assert_eq!([user_ids("no such user"), user_ids("4294967294"), user_ids("")], [None; 3]);
    }
}
