//! The commands as a user runs them: what they print, what they make, how they end.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::Need::Program;
use common::daemon::Home;
use common::peer::RawPeer;
use common::torrent::Torrent;
use common::{Folder, PATIENCE, able, meshseed, run, wait, wait_value};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

#[test]
fn share_seeds_a_folder_until_it_is_interrupted() {
    let folder = Folder::new();
    let content = Torrent::multi("shared", &[("a", 70_000), ("b c", 3)], 16 * 1024);
    content.write_data(folder.path());
    let [out, errors] = ["out", "errors"].map(|name| folder.path().join(name));
    let socket = folder.path().join("none.sock");
    let mut share = Killed(
        command(&["share", "--listen", "127.0.0.1:0", "--control"])
            .arg(socket)
            .arg(folder.path().join("shared"))
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap(),
    );
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let magnet = wait("the magnet link", PATIENCE, || {
        text(&out).lines().find(|line| line.contains("urn:btih:")).map(String::from)
    });
    let address = wait("where it listens", PATIENCE, || {
        text(&errors).lines().find_map(|line| line.split("listening on ").nth(1)?.trim().parse().ok())
    });
    let info_hash = bytes(&magnet.split("urn:btih:").nth(1).unwrap()[..40]);
    let block = wait("a block is served", PATIENCE, || {
        let mut peer = RawPeer::connect(address, &info_hash).ok()?;
        peer.unchoked().ok()?;
        peer.block(0, 0, 16 * 1024).ok()
    });
    assert_eq!(block, content.content()[..16 * 1024]);
    kill(Pid::from_raw(share.0.id().cast_signed()), Signal::SIGINT).unwrap();
    assert!(share.0.wait().unwrap().success());
    assert_eq!(
        fs::read_dir(folder.path().join("shared")).unwrap().count(),
        2,
        "nothing was put beside the content"
    );
}

#[test]
fn share_reads_the_content_once() {
    let folder = Folder::new();
    let content = Torrent::multi("read once", &[("a", 5_000_000), ("empty", 0), ("z", 3_000_000)], 16 * 1024);
    content.write_data(folder.path());
    let errors = folder.path().join("errors");
    let share = Killed(
        command(&["share", "--listen", "127.0.0.1:0", "--control"])
            .arg(folder.path().join("none.sock"))
            .arg(folder.path().join("read once"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap(),
    );
    wait("it is seeded", PATIENCE, || {
        fs::read_to_string(&errors).unwrap().contains("is complete and seeded").then_some(())
    });
    let counters = fs::read_to_string(format!("/proc/{}/io", share.0.id())).unwrap();
    let read: u64 =
        counters.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).expect("bytes read");
    assert!((8_000_000..9_000_000).contains(&read), "{read} bytes read for 8 MB of content");
}

#[test]
fn share_hands_over_to_the_running_daemon() {
    let home = Home::new();
    let daemon = home.start();
    let elsewhere = Folder::new();
    let content = Torrent::single("handed over", 100_000, 16 * 1024);
    content.write_data(elsewhere.path());
    let path = elsewhere.path().join("handed over");
    let done = output(command(&["share", "--control"]).arg(&home.control).arg(&path));
    assert!(done.status.success(), "{done:?}");
    assert!(stdout(&done).starts_with("magnet:?"), "{done:?}");
    let list = wait("the daemon has it", PATIENCE, || {
        let list = daemon.ask("list", Value::Null);
        (list["torrents"][0]["state"] == "seeding").then_some(list)
    });
    assert_eq!(list["torrents"][0]["data"], json!(path));
    assert_eq!(list["torrents"][0]["file"], json!(home.torrents.join("handed over.torrent")));
}

#[test]
fn what_create_makes_is_seeded_and_others_read_it_alike() {
    let home = Home::new();
    let content = Torrent::multi("made", &[("a", 70_000), ("b/c", 50_000)], 32 * 1024);
    content.write_data(&home.data);
    let file = home.torrents.join("made.torrent");
    let announce = "http://tracker.mesh:6969/announce";
    let words = ["create", "--piece-size", "32k", "--no-date", "--announce", announce, "-o"];
    run(command(&words).arg(&file).arg(home.data.join("made")));
    let shown: Value = serde_json::from_str(&run(command(&["show", "--json"]).arg(&file))).unwrap();
    assert_eq!(shown["info_hash"], json!(content.hex()), "the same content gives the same info-hash");
    assert_eq!(shown["size"], 120_000);
    assert_eq!(shown["trackers"], json!([[announce]]));
    home.set("trackers", "enabled", false);
    let daemon = home.start();
    daemon.wait_seeding(&content);
    daemon.assert_serves(&content);
    let link = run(command(&["magnet"]).arg(&file));
    assert!(link.contains(&format!("urn:btih:{}", content.hex())), "{link}");
    // Once it is in a file that is what it is, and no broken .torrent.
    let kept = home.torrents.with_file_name("made.magnet");
    fs::write(&kept, &link).unwrap();
    assert_eq!(run(command(&["magnet"]).arg(&kept)), link);
    let refused = output(command(&["check"]).arg(&kept));
    let reason = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && reason.contains("a magnet link"), "{reason}");
    if able(&[Program("aria2c")]) {
        let theirs = run(Command::new("aria2c").arg("--show-files").arg(&file));
        assert!(theirs.contains(&content.hex()), "{theirs}");
    }
}

#[test]
fn check_finds_what_is_wrong() {
    let folder = Folder::new();
    let content = Torrent::single("checked", 100_000, 16 * 1024);
    content.write_data(folder.path());
    content.drop_into(folder.path());
    let check = || output(command(&["check"]).arg(folder.path().join("checked.torrent")));
    assert_eq!(check().status.code(), Some(0));
    let mut damaged = content.content();
    damaged[50_000] ^= 1;
    fs::write(folder.path().join("checked"), damaged).unwrap();
    assert_eq!(check().status.code(), Some(1));
    fs::remove_file(folder.path().join("checked")).unwrap();
    let absent = check();
    assert_eq!(absent.status.code(), Some(1));
    assert!(!absent.stderr.is_empty(), "it says why");
}

#[test]
fn status_tells_what_the_daemon_does() {
    let home = Home::new();
    let torrent = Torrent::single("told about", 50_000, 16 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let ask = |words: &[&str]| run(command(&["status", "--control"]).arg(&home.control).args(words));
    let table = ask(&[]);
    assert!(table.contains("told about") && table.contains("seeding"), "{table}");
    let one = ask(&[&torrent.hex()]);
    assert!(one.contains(&home.torrents.join("told about.torrent").display().to_string()), "{one}");
    let all: Value = serde_json::from_str(&ask(&["--json"])).unwrap();
    assert_eq!(all["torrents"]["seeding"], 1);
    let answers = home.folder.path().join("answers");
    let mut watching = Killed(
        command(&["status", "--watch", "--control"])
            .arg(&home.control)
            .stdout(fs::File::create(&answers).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let told = || fs::read_to_string(&answers).unwrap().matches("told about").count();
    wait("it is told again and again", PATIENCE, || (told() > 2).then_some(()));
    drop(daemon);
    let ended = wait("with the daemon the watch ends", PATIENCE, || watching.0.try_wait().unwrap());
    assert_eq!(ended.code(), Some(1));
    let nobody = output(command(&["status", "--control"]).arg(&home.control));
    assert_eq!(nobody.status.code(), Some(1));
    assert!(!nobody.stderr.is_empty(), "it says why");
}

#[test]
fn status_tells_how_far_a_download_is_and_how_long_it_takes() {
    let (home, mirror) = (Home::new(), Home::new());
    let torrent = Torrent::single("on its way", 4_000_000, 64 * 1024);
    torrent.add_to(&home);
    let seed = home.start();
    seed.wait_seeding(&torrent);
    mirror.set("", "peers", json!([seed.address().to_string()]));
    let limit = |rate: &str| {
        ["download", "local-download"].iter().for_each(|key| mirror.set("limits", key, json!(rate)));
    };
    limit("50k");
    torrent.drop_into(&mirror.torrents);
    let daemon = mirror.start();
    let comes = |said: &Value| said["state"] == "downloading" && said["eta"].as_u64().is_some();
    let said = wait_value("it comes", PATIENCE, || daemon.torrent(&torrent), comes);
    let whole = daemon.ask("status", Value::Null);
    let ask = |words: &[&str]| run(command(&["status", "--control"]).arg(&mirror.control).args(words));
    let (table, one) = (ask(&[]), ask(&[&torrent.hex()]));
    assert!(said["down_rate"].as_u64() > Some(0), "{said}");
    assert!(said["have"].as_u64() < Some(4_000_000) && said["down_total"].as_u64() > Some(0), "{said}");
    assert_eq!(
        (&whole["torrents"]["downloading"], &whole["progress"]["size"]),
        (&json!(1), &json!(4_000_000)),
        "{whole}"
    );
    assert!(table.contains("LEFT") && table.contains("downloading") && table.contains(" kB/s"), "{table}");
    assert!(one.contains("downloading, ") && one.contains(" left\n"), "{one}");
    limit("0");
    mirror.configure();
    daemon.signal(Signal::SIGHUP);
    let said = daemon.wait_seeding(&torrent);
    assert_eq!((&said["eta"], said["completed"].is_u64()), (&Value::Null, true), "{said}");
    assert!(!ask(&[]).contains("LEFT"));
    assert_eq!(fs::read(mirror.data.join("on its way")).unwrap(), torrent.content());
}

#[test]
fn the_control_socket_refuses_what_it_does_not_know() {
    let home = Home::new();
    let daemon = home.start();
    for line in [
        "rubbish",
        "{}",
        r#"{"method": "dance"}"#,
        r#"{"method": "torrent"}"#,
        r#"{"method": "list", "params": {"limit": -1}}"#,
    ] {
        let answer: Value = serde_json::from_str(&daemon.ask_raw(line).unwrap()).unwrap();
        assert!(answer["error"].is_string(), "{line}: {answer}");
    }
    // A line without an end is not read for ever.
    assert!(daemon.ask_raw(&"x".repeat(1 << 20)).is_none_or(|answer| !answer.contains("result")));
    daemon.ask("status", Value::Null);
}

#[test]
fn a_pause_outlives_a_restart() {
    let home = Home::new();
    let torrent = Torrent::single("paused", 50_000, 16 * 1024);
    torrent.add_to(&home);
    let daemon = home.start();
    daemon.wait_seeding(&torrent);
    let tell = |word: &str| run(command(&[word, &torrent.hex(), "--control"]).arg(&home.control));
    tell("pause");
    daemon.wait_state(&torrent, &["paused"]);
    assert!(RawPeer::connect(daemon.address(), &torrent.info_hash).is_err());
    assert!(daemon.terminate().0.success());
    let daemon = home.start();
    daemon.wait_state(&torrent, &["paused"]);
    tell("resume");
    daemon.wait_seeding(&torrent);
    daemon.assert_serves(&torrent);
    let unknown = "ab".repeat(20);
    let done = output(command(&["verify", &unknown, "-c"]).arg(&home.config));
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains(&unknown), "it says which: {done:?}");
}

#[test]
fn wrong_words_end_with_two_and_a_wrong_configuration_is_explained() {
    for words in
        [["dance"].as_slice(), &["pause"], &["create"], &["show", "--dance", "x"], &["daemon", "--dance"]]
    {
        let done = output(&mut command(words));
        assert_eq!(done.status.code(), Some(2), "{words:?}: {done:?}");
        assert!(!done.stderr.is_empty(), "{words:?}");
    }
    assert!(output(&mut command(&["--version"])).status.success());
    assert!(stdout(&output(&mut command(&["--help"]))).contains("share"));
    let folder = Folder::new();
    let file = folder.path().join("config.toml");
    for (text, wrong) in [("\n\ndatta = \"x\"\n", "datta"), ("\n\nrescan = \"often\"\n", "rescan")] {
        fs::write(&file, text).unwrap();
        let done = output(command(&["daemon", "--check", "-c"]).arg(&file));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success());
        assert!(said.contains(wrong) && said.contains('3'), "key and line: {said}");
    }
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/meshseed.toml");
    assert!(output(command(&["daemon", "--check", "-c"]).arg(default)).status.success());
}

/// Ended with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(meshseed());
    command.args(words).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program is there")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn bytes(hex: &str) -> [u8; 20] {
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("a hexadecimal digit"))
}
