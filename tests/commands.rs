//! The commands as a user runs them: what they print, what they make, how they end.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::Need::{Program, Python, Root};
use common::daemon::Home;
use common::peer::RawPeer;
use common::torrent::{Torrent, dictionary, integer, string};
use common::{Folder, PATIENCE, able, meshseed, python, run, wait, wait_value};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

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
fn share_ends_with_its_terminal() {
    if !able(&[Program("script")]) {
        return;
    }
    let folder = Folder::new();
    let [content, temporary, typescript] =
        ["content", "tmp", "typescript"].map(|name| folder.path().join(name));
    fs::write(&content, "shared").unwrap();
    fs::create_dir(&temporary).unwrap();
    let line = format!(
        "exec '{}' share --listen 127.0.0.1:0 --control /none '{}'",
        meshseed().display(),
        content.display()
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--flush", "--command", &line]).arg(&typescript).env("TMPDIR", &temporary);
    let mut terminal = Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    wait("the magnet link", PATIENCE, || {
        fs::read_to_string(&typescript).ok().filter(|text| text.contains("urn:btih:"))
    });
    let own = || {
        fs::read_dir(&temporary).unwrap().next().map(|item| item.unwrap().file_name().into_string().unwrap())
    };
    let process = own().and_then(|name| name.split('-').nth(1)?.parse().ok()).unwrap();
    terminal.0.kill().unwrap();
    let end = Instant::now() + PATIENCE;
    while own().is_some() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = kill(Pid::from_raw(process), Signal::SIGKILL);
    assert!(own().is_none(), "it is gone with all that was its own: {left:?}");
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
fn check_misses_empty_files_too() {
    let folder = Folder::new();
    let content = folder.path().join("content");
    fs::create_dir(&content).unwrap();
    let empty = content.join("empty");
    fs::write(content.join("a"), vec![7; 40_000]).unwrap();
    for format in ["v1", "hybrid", "v2", "merkle"] {
        fs::write(&empty, "").unwrap();
        let file = folder.path().join(format!("{format}.torrent"));
        run(command(&["create", "-q", "--format", format, "-o"]).args([&file, &content]));
        let check = || {
            let done = output(command(&["check"]).args([&file, &content]));
            (done.status.code(), stdout(&done).lines().skip(1).collect::<String>())
        };
        assert_eq!(check(), (Some(0), String::new()), "{format}");
        fs::write(&empty, "no more").unwrap();
        let long = format!("  {}: is right, and has 7 bytes more than it should", empty.display());
        assert_eq!(check(), (Some(1), long), "{format}");
        fs::remove_file(&empty).unwrap();
        assert_eq!(check(), (Some(1), format!("  {}: is not there", empty.display())), "{format}");
    }
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
    let done = output(&mut command(&["dance"]));
    let said = "meshseed: there is no command 'dance' (see: meshseed --help)\n";
    assert_eq!(String::from_utf8_lossy(&done.stderr), said);
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

#[test]
fn share_is_seeded_at_once_and_the_daemon_reads_nothing_that_share_has_read() {
    let home = Home::new();
    let daemon = home.start();
    let elsewhere = Folder::new();
    let content = Torrent::multi("large", &[("a", 6_000_000), ("b", 2_000_000), ("empty", 0)], 16 * 1024);
    content.write_data(elsewhere.path());
    let data = elsewhere.path().join("large");
    let share = |options: &[&str]| {
        let done = output(command(&["share", "--control"]).arg(&home.control).args(options).arg(&data));
        assert!(done.status.success(), "{done:?}");
        (stdout(&done), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (magnet, said) =
        share(&["--piece-size", "16k", "-a", "http://t.mesh/announce", "-w", "http://w.mesh/"]);
    assert!(said.contains("the running daemon seeds it"), "{said}");
    assert_eq!(daemon.torrent(&content)["state"], "seeding", "as soon as the command has ended");
    for part in [
        format!("urn:btih:{}", content.hex()),
        format!("x.pe={}", daemon.address()),
        "tr=http%3A%2F%2Ft.mesh%2Fannounce".to_owned(),
        "ws=http%3A%2F%2Fw.mesh%2F".to_owned(),
    ] {
        assert!(magnet.contains(&part), "{part}: {magnet}");
    }
    let read = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
    let read: u64 = read.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap();
    assert!(read < 2_000_000, "{read} bytes read by the daemon, 8 MB are shared");
    daemon.assert_serves(&content);
    // The same content in another format is another torrent, and takes the name of neither.
    let (magnet, said) = share(&["--format", "hybrid"]);
    assert!(magnet.contains("urn:btih:") && magnet.contains("urn:btmh:1220"), "{magnet}");
    assert!(said.contains("large.torrent") && said.contains("the running daemon seeds it"), "{said}");
    drop(daemon);
    let daemon = home.start();
    let list = wait("it is seeded again", PATIENCE, || {
        let list = daemon.ask("list", Value::Null);
        (list["torrents"][0]["state"] == "seeding").then_some(list)
    });
    assert_eq!((&list["total"], &list["torrents"][0]["data"]), (&json!(1), &json!(data)));
}

#[test]
fn share_leaves_another_torrent_of_the_same_name_alone() {
    let home = Home::new();
    let daemon = home.start();
    let contents = ["one", "two"].map(|place| {
        let content = Torrent::multi("twin", &[(place, 50_000)], 16 * 1024);
        content.write_data(&home.folder.path().join(place));
        let path = home.folder.path().join(place).join("twin");
        run(command(&["share", "-q", "--piece-size", "16k", "--control"]).arg(&home.control).arg(path));
        content
    });
    contents.iter().for_each(|content| drop(daemon.wait_seeding(content)));
    let mut names: Vec<_> =
        fs::read_dir(&home.torrents).unwrap().map(|item| item.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["twin-2.torrent", "twin-2.where", "twin.torrent", "twin.where"]);
}

#[test]
fn share_takes_no_name_that_belongs_to_another() {
    let home = Home::new();
    let daemon = home.start();
    // A link of this name would take the sidecar for its own, and of the pipe nothing ever comes.
    fs::write(home.torrents.join("one.where"), "/elsewhere\n").unwrap();
    run(Command::new("mkfifo").arg(home.torrents.join("one-2.torrent")));
    fs::write(home.torrents.join("one-3.magnet"), format!("magnet:?xt=urn:btih:{}", "ab".repeat(20)))
        .unwrap();
    let content = Torrent::single("one", 50_000, 16 * 1024);
    content.write_data(home.folder.path());
    let path = home.folder.path().join("one");
    run(command(&["share", "-q", "--piece-size", "16k", "--control"]).arg(&home.control).arg(&path));
    daemon.wait_seeding(&content);
    assert!(home.torrents.join("one-4.torrent").exists());
    assert_eq!(fs::read_to_string(home.torrents.join("one.where")).unwrap(), "/elsewhere\n");
    // All dots is a hidden name whatever of it is left.
    let dots = Torrent::multi("...", &[("f", 50_000)], 16 * 1024);
    dots.write_data(home.folder.path());
    let path = home.folder.path().join("...");
    run(command(&["share", "-q", "--piece-size", "16k", "--control"]).arg(&home.control).arg(&path));
    daemon.wait_seeding(&dots);
}

#[test]
fn share_says_what_can_not_be_before_anything_is_read() {
    let home = Home::new();
    let _daemon = home.start();
    let large = |name: &str| {
        // A hole that takes hours to hash.
        let path = home.folder.path().join(name);
        fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
        path
    };
    let refused = |words: &[&str], path: &Path| {
        let done = output(command(&["share", "--control"]).arg(&home.control).args(words).arg(path));
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let forged = large("x\nhashed 00");
    assert!(refused(&[], &forged).contains("line break"));
    let (path, absent) = (large("y"), home.folder.path().join("absent"));
    let absent = absent.to_str().unwrap();
    assert!(refused(&["--into", absent], &path).contains(&format!("{absent}: No such file")));
    assert_eq!(fs::read_dir(&home.torrents).unwrap().count(), 0);
}

#[test]
fn a_hybrid_is_shared_and_fetched_and_what_has_no_v1_is_refused_with_the_reason() {
    let (giver, taker) = (Home::new(), Home::new());
    let content = Torrent::multi("half", &[("a", 70_000), ("b/c", 50_000), ("d", 0)], 32 * 1024);
    content.write_data(&giver.data);
    let path = giver.data.join("half");
    let daemon = giver.start();
    run(command(&["share", "-q", "--format", "hybrid", "--control"]).arg(&giver.control).arg(&path));
    let list = wait("it is seeded", PATIENCE, || {
        let list = daemon.ask("list", Value::Null);
        (list["torrents"][0]["state"] == "seeding").then_some(list)
    });
    fs::copy(giver.torrents.join("half.torrent"), taker.torrents.join("half.torrent")).unwrap();
    taker.set("", "peers", json!([format!("127.0.0.1:{}", giver.port)]));
    let other = taker.start();
    wait("all of it is there", PATIENCE, || {
        let torrents = other.ask("list", Value::Null);
        (torrents["torrents"][0]["state"] == "seeding").then_some(())
    });
    assert_eq!(other.ask("list", Value::Null)["torrents"][0]["info_hash"], list["torrents"][0]["info_hash"]);
    run(command(&["check", "-q"]).arg(giver.torrents.join("half.torrent")).arg(&taker.data));
    assert_eq!(fs::read_dir(taker.data.join("half")).unwrap().count(), 3, "no padding is written");
    if able(&[Python("libtorrent")]) {
        let script = "import sys, time, libtorrent as lt
session = lt.session({'enable_lsd': False, 'enable_dht': False, 'enable_outgoing_utp': False})
params = lt.load_torrent_file(sys.argv[1])
params.save_path = sys.argv[2]
torrent = session.add_torrent(params)
while not torrent.status().is_seeding:
    torrent.connect_peer(('127.0.0.1', int(sys.argv[3])))
    time.sleep(0.2)";
        let out = Folder::new();
        let mut client = Command::new(python());
        client.args(["-W", "ignore", "-c", script]);
        client.arg(giver.torrents.join("half.torrent")).arg(out.path()).arg(giver.port.to_string());
        let mut client = Killed(client.stdin(Stdio::null()).spawn().unwrap());
        wait("libtorrent has all of it", PATIENCE, || client.0.try_wait().unwrap());
        assert_eq!(fs::read(out.path().join("half/a")).unwrap(), fs::read(path.join("a")).unwrap());
    }
    for (format, reason) in [("v2", "v2-only"), ("merkle", "Merkle")] {
        let file = taker.torrents.join(format!("{format}.torrent"));
        run(command(&["create", "-q", "--format", format, "-o"]).arg(&file).arg(&path));
        other.wait_refused(&format!("{format}.torrent"));
        let refused = other.ask("refused", Value::Null).to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn share_warns_of_what_the_daemon_s_user_may_not_read() {
    if !able(&[Root]) {
        return;
    }
    let home = Home::new();
    home.set("", "user", json!("nobody"));
    run(Command::new("chown").args(["-R", "nobody"]).arg(home.folder.path()));
    let _daemon = home.start();
    let elsewhere = Folder::new();
    Torrent::multi("for few", &[("open", 50_000), ("closed", 1000)], 16 * 1024).write_data(elsewhere.path());
    let data = elsewhere.path().join("for few");
    let warned = |mode: u32, path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let done = output(command(&["share", "--control"]).arg(&home.control).arg(&data));
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stderr).contains(&format!("may not read {}", path.display()))
    };
    assert!(warned(0o600, &data.join("closed")) && !warned(0o644, &data.join("closed")));
    assert!(warned(0o700, elsewhere.path()) && !warned(0o755, elsewhere.path()));
}

#[test]
fn every_format_is_shown_checked_and_linked_as_libtorrent_has_it() {
    if !able(&[Python("libtorrent")]) {
        return;
    }
    let folder = Folder::new();
    let content = Torrent::multi("set", &[("a", 100_000), ("sub/b", 40_000), ("sub/c", 16_384)], 32 * 1024);
    content.write_data(folder.path());
    let good = content.contents();
    for format in ["v1", "hybrid", "v2"] {
        let file = folder.path().join(format!("{format}.torrent"));
        let [v1, v2] = by_libtorrent(&folder.path().join("set"), format, &file);
        let link = run(command(&["magnet"]).arg(&file));
        let shown = show(&file);
        assert_eq!((&shown["info_hash"], &shown["info_hash_v2"]), (&v1, &v2), "{shown}");
        assert_eq!(shown["format"], format);
        for (hash, kind) in [(&v1, "btih:"), (&v2, "btmh:1220")] {
            let named = format!("urn:{kind}{}", hash.as_str().unwrap_or_default());
            assert_eq!(link.contains(&named), hash.is_string(), "{kind}: {link}");
        }
        let warns = shown["warnings"].to_string().contains("does not serve it");
        assert_eq!(warns, format == "v2", "{shown}");
        let check = |words: &[&str]| {
            let done = output(command(&["check"]).args(words).arg(&file));
            (done.status.code(), stdout(&done))
        };
        for jobs in ["1", "3"] {
            assert_eq!(check(&["--jobs", jobs]).0, Some(0), "{format}: {}", check(&[]).1);
        }
        // One byte of the first file, all of the second, half of the third.
        let place = |at: usize| folder.path().join(&good[at].0);
        let mut damaged = good[0].1.clone();
        damaged[50_000] ^= 1;
        fs::write(place(0), damaged).unwrap();
        fs::remove_file(place(1)).unwrap();
        fs::write(place(2), &good[2].1[..8000]).unwrap();
        let (code, text) = check(&[]);
        assert_eq!(code, Some(1), "{text}");
        for line in ["sub/b: is not there", "sub/c: is cut short, to 7.8 KiB"] {
            assert!(text.contains(line), "{format}: {line}: {text}");
        }
        let told: Value = serde_json::from_str(&check(&["--json"]).1).unwrap();
        let first = &told["files"]
            .as_array()
            .unwrap()
            .iter()
            .find(|file| file["path"].as_str().is_some_and(|path| path.ends_with("/a")));
        let first = first.unwrap_or_else(|| panic!("{told}"));
        assert_eq!((&told["whole"], &first["flaw"]), (&json!(false), &json!("wrong")), "{told}");
        if format != "v1" {
            // There a piece is of one file alone.
            assert_eq!((&first["wrong_pieces"], &first["pieces"]), (&json!(1), &json!(4)), "{told}");
        }
        content.write_data(folder.path());
    }
    // What only one half of a hybrid says is not believed.
    let file = folder.path().join("hybrid.torrent");
    let bytes = fs::read(&file).unwrap();
    let at = bytes.windows(12).position(|window| window == b"piece layers").unwrap();
    for (flip, words) in [(at + 60, "the v2 half is broken"), (at - 30, "warning")] {
        let mut bytes = bytes.clone();
        bytes[flip] ^= 1;
        let torn = folder.path().join("torn.torrent");
        fs::write(&torn, bytes).unwrap();
        let shown = output(command(&["show"]).arg(&torn));
        let checked = output(command(&["check"]).arg(&torn));
        assert_eq!(checked.status.code(), Some(1), "{checked:?}");
        assert!(flip > at || !stdout(&checked).is_empty());
        assert!(flip < at || stdout(&shown).contains(words), "{shown:?}");
        assert!(flip < at || stdout(&checked).contains("the torrent itself is wrong"), "{checked:?}");
    }
}

#[test]
fn a_merkle_torrent_is_checked_against_its_one_hash() {
    let folder = Folder::new();
    let content = Torrent::single("tree", 100_000, 16 * 1024);
    content.write_data(folder.path());
    let mut row: Vec<[u8; 20]> =
        content.content().chunks(16 * 1024).map(|p| Sha1::digest(p).into()).collect();
    row.resize(row.len().next_power_of_two(), [0; 20]);
    while row.len() > 1 {
        row = row.chunks(2).map(|pair| Sha1::digest(pair.concat()).into()).collect();
    }
    let info = dictionary(&[
        ("length", integer(100_000)),
        ("name", string(b"tree")),
        ("piece length", integer(16 * 1024)),
        ("root hash", string(&row[0])),
    ]);
    let file = folder.path().join("tree.torrent");
    fs::write(&file, dictionary(&[("info", info)])).unwrap();
    assert_eq!(show(&file)["format"], "merkle");
    let check = || output(command(&["check"]).arg(&file)).status.code();
    assert_eq!(check(), Some(0));
    let mut damaged = content.content();
    damaged[99_999] ^= 1;
    fs::write(folder.path().join("tree"), damaged).unwrap();
    assert_eq!(check(), Some(1));
    let home = Home::new();
    fs::copy(&file, home.torrents.join("tree.torrent")).unwrap();
    let refused = home.start().wait_refused("tree.torrent");
    assert!(refused.contains("Merkle") && refused.contains("--format v1"), "what to do: {refused}");
}

#[test]
fn check_looks_for_data_where_the_daemon_keeps_it_and_where_it_is_told() {
    let home = Home::new();
    let content = Torrent::multi("named", &[("a", 70_000)], 16 * 1024);
    let file = home.torrents.join("called otherwise.torrent");
    fs::write(&file, content.metainfo()).unwrap();
    content.write_data(&home.data);
    let path = |below: &str| home.data.join(below);
    let check = |words: &[&Path]| output(command(&["check", "-q"]).arg(&file).args(words)).status.code();
    home.configure();
    let config = [Path::new("-c"), &home.config];
    assert_eq!(check(&config), Some(0), "under its own name");
    fs::rename(path("named"), path("called otherwise")).unwrap();
    assert_eq!(check(&config), Some(0), "under that of the .torrent");
    assert_eq!(check(&[&home.data]), Some(0), "in the folder that holds it");
    assert_eq!(check(&[&path("called otherwise")]), Some(0), "itself");
    assert_eq!(check(&[]), Some(1), "not beside the .torrent");
    let sidecar = file.with_extension("where");
    fs::write(sidecar, format!("{}\n", path("called otherwise").display())).unwrap();
    assert_eq!(check(&[]), Some(0), "where the sidecar says");
    // Bytes behind its end are no part of it; whoever compares wants to know of them.
    fs::write(path("called otherwise/a"), [content.content(), b"more".to_vec()].concat()).unwrap();
    assert_eq!(check(&[]), Some(1));
}

#[test]
fn create_all_makes_a_torrent_for_each_entry_and_leaves_alone_what_is_unchanged() {
    let folder = Folder::new();
    let data = folder.path().join("data");
    for (name, size) in [("one/a", 40_000), ("one/sub/b", 5), ("two", 50_000), (".hidden", 1), ("core", 1)] {
        let path = data.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![7; size]).unwrap();
    }
    fs::create_dir(data.join("empty")).unwrap();
    run(Command::new("mkfifo").arg(data.join("pipe")));
    let all = |words: &[&str]| {
        let done = output(command(&["create", "--no-date", "--all"]).arg(&data).args(words));
        (done.status.code(), stdout(&done).lines().last().unwrap_or_default().to_owned(), done)
    };
    let beside = || {
        let names = fs::read_dir(&data).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".torrent")).collect();
        names.sort_unstable();
        names
    };
    let said = |line: &str| (Some(0), line.to_owned());
    let (code, line, done) = all(&[]);
    assert_eq!((code, line), said("2 torrents made, 0 unchanged, 1 empty"), "{done:?}");
    assert_eq!(beside(), ["one.torrent", "two.torrent"]);
    assert!(String::from_utf8_lossy(&done.stderr).contains("pipe: neither a file nor a folder"), "{done:?}");
    for name in beside() {
        assert!(output(command(&["check"]).arg(data.join(name))).status.success());
    }
    let again = || {
        let (code, line, _) = all(&[]);
        (code, line)
    };
    // A torrent that is as old as its content is made once more.
    wait("all are unchanged", PATIENCE, || {
        (again() == said("0 torrents made, 2 unchanged, 1 empty")).then_some(())
    });
    let before = show(&data.join("one.torrent"))["info_hash"].clone();
    fs::write(data.join("one/sub/c"), b"new").unwrap();
    assert_eq!(again(), said("1 torrent made, 1 unchanged, 1 empty"));
    assert_ne!(show(&data.join("one.torrent"))["info_hash"], before);
    let elsewhere = data.join("torrents");
    fs::create_dir(&elsewhere).unwrap();
    let (code, line, _) = all(&["-o", elsewhere.to_str().unwrap()]);
    assert_eq!((code, line), said("2 torrents made, 0 unchanged, 1 empty"), "its output is no entry");
    fs::write(elsewhere.join("two.torrent"), "mine").unwrap();
    let (code, line, done) = all(&["-o", elsewhere.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{done:?}");
    assert!(line.contains("1 failed"), "{line}");
    assert_eq!(fs::read(elsewhere.join("two.torrent")).unwrap(), b"mine");
    // Of a pipe nothing would ever come.
    fs::remove_file(elsewhere.join("two.torrent")).unwrap();
    run(Command::new("mkfifo").arg(elsewhere.join("two.torrent")));
    for force in [&["-f"][..], &[]] {
        let (code, line, done) = all(&[force, &["-o", elsewhere.to_str().unwrap()]].concat());
        assert!(code == Some(1) && line.contains("1 failed"), "{done:?}");
    }
}

#[test]
fn show_tells_what_is_unusual_and_what_it_means() {
    let folder = Folder::new();
    let content = Torrent::multi("odd", &[("a:b", 10), ("A", 10), ("a", 10)], 20_000);
    let content = content.announce("udp://tracker.mesh").web_seeds(&["http://w.mesh/dir".to_owned()]);
    let file = folder.path().join("odd.torrent");
    fs::write(&file, [content.metainfo(), b"\n".to_vec()].concat()).unwrap();
    let text = run(command(&["show"]).arg(&file));
    for words in [
        "no power of two: some clients refuse",
        "strict clients refuse it",
        "Windows and FAT",
        "differs by case alone",
        "has no port",
        "does not end with `/`",
    ] {
        let lines = text.lines().filter(|line| line.starts_with("warning ") && line.contains(words));
        assert_eq!(lines.count(), 1, "{words}: {text}");
    }
    if able(&[Program("mktorrent")]) {
        content.write_data(folder.path());
        let file = folder.path().join("usual.torrent");
        let mut make = Command::new("mktorrent");
        run(make
            .args(["-d", "-a", "http://t.mesh/announce", "-o"])
            .arg(&file)
            .arg(folder.path().join("odd/a")));
        let shown = show(&file);
        assert_eq!((&shown["format"], &shown["warnings"]), (&json!("v1"), &json!([])), "{shown}");
        assert!(output(command(&["check"]).arg(&file).arg(folder.path().join("odd/a"))).status.success());
    }
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

/// What `show` says of a torrent.
fn show(file: &Path) -> Value {
    serde_json::from_str(&run(command(&["show", "--json"]).arg(file))).unwrap()
}

/// Makes a torrent of a folder with libtorrent: its info-hashes, null where the format has none.
fn by_libtorrent(path: &Path, format: &str, file: &Path) -> [Value; 2] {
    let program = "\
import json, libtorrent as lt, os, sys
path, kind, file = sys.argv[1:]
files = lt.file_storage()
lt.add_files(files, path)
flags = {'v1': lt.create_torrent.v1_only, 'v2': lt.create_torrent.v2_only, 'hybrid': 0}[kind]
made = lt.create_torrent(files, 32768, flags=flags)
made.add_tracker('http://t.mesh/announce')
lt.set_piece_hashes(made, os.path.dirname(path))
whole = lt.bencode(made.generate())
open(file, 'wb').write(whole)
hashes = lt.torrent_info(lt.bdecode(whole)).info_hashes()
print(json.dumps([str(hashes.v1) if hashes.has_v1() else None, str(hashes.v2) if hashes.has_v2() else None]))";
    let told = run(Command::new(python()).args(["-W", "ignore", "-c", program]).args([
        path.as_os_str(),
        format.as_ref(),
        file.as_os_str(),
    ]));
    let [v1, v2]: [Value; 2] = serde_json::from_str(&told).unwrap();
    [v1, v2]
}

fn bytes(hex: &str) -> [u8; 20] {
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("a hexadecimal digit"))
}
