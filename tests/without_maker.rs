//! A build without the maker: what it refuses, and that it seeds all the same.
#![cfg(not(feature = "maker"))]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::process::Command;

use common::daemon::Home;
use common::torrent::Torrent;
use common::{meshseed, run};

#[test]
fn what_is_left_out_is_refused_with_the_way_out_and_told_by_help_and_version() {
    for words in
        [&["create", "x"][..], &["create", "--all", "x"], &["share", "--help"], &["show"], &["check"]]
    {
        let done = Command::new(meshseed()).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!((done.status.code(), said.lines().count(), done.stdout.len()), (Some(2), 1, 0), "{said}");
        assert!(said.starts_with(&format!("meshseed: {} is left out of this build", words[0])), "{said}");
        let way_out = "the package `meshseed` (the whole one) has it, or run it on another computer and drop the .torrent \
            file into the watched directory here\n";
        assert!(said.ends_with(way_out), "{said}");
    }
    let told = |word: &str| run(Command::new(meshseed()).arg(word));
    let help = told("--help");
    let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let commands: Vec<String> = help.lines().filter(|line| line.starts_with("  ")).map(first).collect();
    assert_eq!(commands, ["daemon", "magnet", "status", "pause,", "tell"], "{help}");
    let lacks = if cfg!(feature = "tls") { " (no maker)\n" } else { " (no TLS, no maker)\n" };
    assert!(told("--version").ends_with(lacks));
}

#[test]
fn a_torrent_that_is_dropped_is_seeded_and_has_a_magnet_link() {
    let home = Home::new();
    let daemon = home.start();
    let torrent = Torrent::multi("dropped", &[("a", 70_000), ("b/c", 3)], 16 * 1024);
    torrent.add_to(&home);
    daemon.wait_seeding(&torrent);
    daemon.assert_serves(&torrent);
    let link = run(Command::new(meshseed()).arg("magnet").arg(home.torrents.join("dropped.torrent")));
    assert_eq!(link, format!("magnet:?xt=urn:btih:{}&dn=dropped\n", torrent.hex()));
}
