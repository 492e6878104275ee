//! The init script as procd runs it: what users write into /etc/config/meshseed reaches the daemon as they meant it, and
//! what is wrong is told by the name they gave it and stops nothing. Under busybox's shell, with the released daemon.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes and files; a test may panic"
)]

mod common;

#[path = "init/router.rs"]
mod router;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice::from_ref;

use common::Need::{Program, Root};
use common::{able, run};
use meshseed::config::{Config, Disk, RequireMount};
use meshseed::status::METHODS;
use router::{Fate, Router, SCRIPT, quoted, sections};
use serde_json::{Value, json};

const TOML: &str = include_str!("../config/meshseed.toml");
const UCI: &str = include_str!("../config/meshseed.uci");

/// Texts of all kinds, of which each option takes one or another: TOML, and what a user writes in UCI.
const VALUES: [(&str, &str); 13] = [
    (
        r#""/mnt/a \"disk\" of 'mine', 100 % \\u0041 $HOME `id`""#,
        r#"/mnt/a "disk" of 'mine', 100 % \u0041 $HOME `id`"#,
    ),
    (r#""/mnt/größer  and\n\tlonger""#, "/mnt/größer  and\n\tlonger"),
    ("\"10.0.0.7:6881\"", "10.0.0.7:6881"),
    ("\"[fe80::1%br-lan]:1\"", "[fe80::1%br-lan]:1"),
    ("\"10.0.0.7\"", "10.0.0.7"),
    ("\"fd00::7\"", "fd00::7"),
    ("\"http://tracker.mesh/a?key='b'&c=$d\"", "http://tracker.mesh/a?key='b'&c=$d"),
    ("\"7000-7009\"", "7000-7009"),
    ("\"1.5M\"", "1.5M"),
    ("\"both\"", "both"),
    ("\"stderr\"", "stderr"),
    ("\"debug\"", "debug"),
    ("false", "0"),
];

/// Another value than the default for each key of the daemon but `user`: the key, TOML, UCI.
fn other_values() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut values = Vec::new();
    for line in TOML.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
        }
        let Some((key, default)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let key = format!("{section}{key}");
        let takes = |toml: &str| {
            Config::parse(&format!("{key} = {toml}")).is_ok_and(|config| config != Config::default())
        };
        let option = key.rsplit('.').next().unwrap().replace('-', "_");
        let (toml, uci) = match default.as_bytes()[0] {
            _ if key == "user" => continue,
            b'[' => {
                let two: Vec<_> =
                    VALUES.iter().filter(|(toml, _)| takes(&format!("[{toml}]"))).take(2).collect();
                let toml: Vec<&str> = two.iter().map(|(toml, _)| *toml).collect();
                let uci = two.iter().map(|(_, uci)| format!("list {option} {}\n", quoted(uci))).collect();
                (format!("[{}]", toml.join(", ")), uci)
            }
            b'0'..=b'9' => {
                let more = default.parse::<u32>().unwrap() + 1;
                (more.to_string(), format!("option {option} '{more}'\n"))
            }
            b't' | b'f' => {
                let on = default == "false";
                (on.to_string(), format!("option {option} '{}'\n", u8::from(on)))
            }
            _ => {
                let found = VALUES.iter().find(|(toml, _)| takes(toml));
                let (toml, uci) =
                    found.unwrap_or_else(|| panic!("a value for {key} is missing in this test"));
                ((*toml).to_owned(), format!("option {option} {}\n", quoted(uci)))
            }
        };
        assert!(takes(&toml), "{key} = {toml}");
        values.push((key, toml, uci));
    }
    values
}

#[test]
fn every_key_of_the_daemon_has_an_option_whose_value_arrives_as_it_was_meant() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let values = other_values();
    assert!(values.len() > 38);
    let mut router = Router::new();
    let (mut toml, mut uci) = (String::new(), String::new());
    for (key, value, option) in &values {
        toml += &format!("{key} = {value}\n");
        let section = key.split_once('.').map_or("meshseed", |(section, _)| section);
        let name = if section == "meshseed" { "main" } else { section };
        uci += &format!("config {section} '{name}'\n{option}");
    }
    let ran = router.reload(&uci);
    assert_eq!((ran.fate, ran.log), (Fate::Started, vec![]));
    assert_eq!(router.config(), Config::parse(&toml).unwrap());
}

#[test]
fn the_configuration_as_it_is_installed_is_the_daemons_own_but_for_what_is_other_on_a_router() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    let ran = router.reload(UCI);
    assert_eq!((ran.fate, &ran.log[..]), (Fate::Started, &[][..]));
    let expected = Config {
        torrents: vec!["/etc/torrents".into()],
        data: None,
        state: Some(router.path("var/run/meshseed/state")),
        control: router.path("var/run/meshseed/control.sock"),
        disk: Disk { require_mount: RequireMount::Always, ..Disk::default() },
        ..Config::default()
    };
    assert_eq!(router.config(), expected);

    // Nothing of it has to be there.
    let ran = router.reload("config meshseed 'main'\n\tlist torrents '/etc/torrents'\n");
    assert_eq!(
        (ran.fate, router.config()),
        (Fate::Hup, expected),
        "the file is another, what it means is not"
    );
}

#[test]
fn the_installed_configuration_explains_every_option_at_its_default() {
    let explained: String = UCI.lines().map(|line| line.replacen("\t#", "\t", 1) + "\n").collect();
    // Sentences begin with "# "; what remains without the # is options.
    let explained: String = explained
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("\t "))
        .map(|line| format!("{line}\n"))
        .collect();
    let known: BTreeSet<String> = sections(&explained)
        .unwrap()
        .iter()
        .flat_map(|section| {
            let place = format!("{}.", section.kind).replace("meshseed.", "");
            section.options.iter().map(move |(_, name, _)| format!("{place}{}", name.replace('_', "-")))
        })
        .collect();
    let of_the_script = ["enabled", "jail", "mdns", "zones"].map(str::to_owned);
    let keys: BTreeSet<String> =
        other_values().into_iter().map(|(key, ..)| key).chain(of_the_script).collect();
    assert_eq!(known, keys);
}

#[test]
fn directories_may_be_called_anything() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let names = [
        "/mnt/two  spaces ",
        "/mnt/'single' \"double\" `back` $(touch /tmp/owned) ${HOME} \\ \\\\ \\n",
        "/mnt/line\nand\rtab\t.",
        "/mnt/größe/ファイル",
        "/mnt/*?[a]#;&|<>!~",
        "/mnt/=[x]\n[limits]\npeers = 3",
    ];
    let mut router = Router::new();
    let lists: String = names.iter().map(|name| format!("\tlist torrents {}\n", quoted(name))).collect();
    for data in names {
        let ran = router.reload(&format!("config meshseed 'main'\n{lists}\toption data {}\n", quoted(data)));
        assert_eq!(ran.log, [""; 0]);
        let config = router.config();
        assert_eq!(config.torrents, names.map(PathBuf::from));
        assert_eq!(config.data, Some(data.into()));
        assert_eq!(config.state, Some(PathBuf::from(data).join(".meshseed")));
    }
    assert!(!PathBuf::from("/tmp/owned").exists());
}

#[test]
fn an_option_where_a_list_is_expected_is_its_only_entry_and_an_empty_entry_is_none() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    let ran = router.reload(
        "config meshseed 'main'\n\toption torrents '/mnt/a b'\n\
         config dht 'dht'\n\tlist bootstrap ''\n\
         config trackers 'trackers'\n\toption also 'http://t/announce'\n",
    );
    assert_eq!((ran.fate, &ran.log[..]), (Fate::Started, &[][..]));
    let config = router.config();
    assert_eq!(config.torrents, [PathBuf::from("/mnt/a b")]);
    assert_eq!(config.dht.bootstrap, [""; 0]);
    assert_eq!(config.trackers.also, ["http://t/announce"]);
}

#[test]
fn yes_and_no_are_written_as_uci_has_them() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    for (words, on) in
        [(["1", "on", "true", "yes", "enabled"], true), (["0", "off", "false", "no", "disabled"], false)]
    {
        for word in words {
            router.reload(&format!(
                "config meshseed 'main'\nconfig dht 'dht'\n\toption router '{word}'\n\
                 config disk 'disk'\n\toption require_mount '{word}'\n"
            ));
            let config = router.config();
            assert_eq!(config.dht.router, on, "{word}");
            let require = if on { RequireMount::Always } else { RequireMount::Never };
            assert_eq!(config.disk.require_mount, require, "{word}");
        }
    }
    router.reload("config disk 'disk'\n\toption require_mount 'auto'\n");
    assert_eq!(router.config().disk.require_mount, RequireMount::Auto);
}

#[test]
fn what_is_wrong_is_told_by_the_options_name_and_what_would_be_right() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    for (uci, line) in [
        (
            "config limits 'limits'\n\toption peers_per_torrent 'many'\n",
            "meshseed.limits.peers_per_torrent: expected a whole number from 1 to 65535, not a text",
        ),
        (
            "config limits 'limits'\n\toption peer_per_torrent '3'\n",
            "meshseed.limits.peer_per_torrent: unknown key; did you mean \"peers_per_torrent\"?",
        ),
        (
            "config limits 'limits'\n\tlist uploads '3'\n",
            "meshseed.limits.uploads: expected a whole number from 1 to 65535, not a list",
        ),
        (
            "config meshseed 'main'\n\toption free_floor '1G'\n",
            "meshseed.main.free_floor: unknown key here; it stands in [disk]",
        ),
        (
            "config log 'log'\n\toption data '/mnt'\n",
            "meshseed.log.data: unknown key here; it stands in main",
        ),
        (
            "config meshseed 'main'\n\toption data 'mnt'\n",
            "meshseed.main.data: \"mnt\" is not an absolute path: begin it with /",
        ),
        (
            "config meshseed 'main'\n\tlist trackers 'x'\n",
            "meshseed.main.trackers: this is a section, begun by a line [trackers]",
        ),
        (
            "config meshseed 'main'\n\toption dht '0'\nconfig dht 'dht'\n\toption enabled '1'\n",
            "meshseed.main.dht: this is a section, begun by a line config dht 'dht'",
        ),
        (
            "config dht 'dht'\n\toption enabled '1'\nconfig dht\n\toption enabled '0'\n",
            "meshseed.dht.enabled: is set twice",
        ),
        (
            "config dht 'dht'\n\toption enabled 'maybe'\n",
            "meshseed.dht.enabled: expected true or false, not a text",
        ),
        (
            "config disk 'disk'\n\toption require_mount 'maybe'\n",
            "meshseed.disk.require_mount: \"maybe\" is not \"auto\", or true or false",
        ),
        (
            "config limit 'limit'\n\toption peers '3'\n",
            "meshseed.limit: unknown section; did you mean [limits]?",
        ),
        ("config limit 'limit'\n", "meshseed.limit: unknown section; did you mean [limits]?"),
        ("config we.ird\n\toption peers '3'\n", "meshseed.we.ird: no section is called so"),
        (
            "config meshseed 'main'\n\toption enabled 'maybe'\n",
            "meshseed.main.enabled: \"maybe\" is not 1 or 0",
        ),
        (
            "config meshseed 'main'\n\toption user 'root'\n",
            "meshseed.main.user: not an option here: the daemon runs as the user meshseed",
        ),
        (
            "config meshseed 'main'\n\toption zones 'lan wan'\n",
            "meshseed.main.zones: \"lan wan\" is not the name of a firewall zone; each has its own line such as list zones 'lan'",
        ),
        (
            "config meshseed 'main'\n\tlist zones 'wan'\nconfig listen 'listen'\n\toption port '0'\n",
            "meshseed.listen.port: a port that the system chooses can be neither opened nor announced; name one",
        ),
        ("config meshseed 'main'\n\toption jail '1'\n", "meshseed.main.jail: needs the package procd-ujail"),
        (
            "config dht 'dht'\n\toption enabled '1'\n\toptoin router '1'\n",
            "/etc/config/meshseed: Parse error (invalid command) at line 3, byte 0",
        ),
        (
            "config meshseed 'main'\n\toption data '/mnt/usb\n",
            "/etc/config/meshseed: Parse error (EOF with unterminated ') at line 3, byte 0",
        ),
    ] {
        let ran = router.reload(uci);
        let told = format!("{line} (not started; once this is right: service meshseed start)");
        assert_eq!((ran.fate, &ran.log[..]), (Fate::Left, &[told][..]), "{uci}");
    }
    let ran = router.reload("config proxy 'proxy'\n\toption read_only '1'\n");
    assert!(
        ran.log[0].starts_with("meshseed.proxy: unknown key or section; known are torrents, "),
        "{:?}",
        ran.log
    );
    let ran =
        router.reload("config meshseed 'main'\n\toption jial '1'\n\tlist zones ''\n\tlist zones 'a b'\n");
    assert_eq!(ran.log.len(), 2, "two of the script's own: {:?}", ran.log);
}

#[test]
fn a_wrong_change_stops_nothing_and_changes_nothing() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    let right = "config meshseed 'main'\n\tlist zones 'wan'\n\toption mdns '1'\n";
    assert_eq!(router.reload(right).fate, Fate::Started);
    let before = (router.instance().clone(), router.toml());
    // The other changes of such a file wait as well.
    let wrong = "config meshseed 'main'\n\toption layout 'mine'\n\toption data '/mnt'\n\tlist zones 'lan'\n\toption mdns '0'\n";
    for action in ["reload", "start", "restart"] {
        router.configure(wrong);
        let ran = router.run(action);
        let fate = if action == "restart" { Fate::Restarted } else { Fate::Left };
        assert_eq!(ran.fate, fate, "{action}");
        let layout = "meshseed.main.layout: \"mine\" is not one of \"torrent\", \"name\", \"both\", \"auto\"";
        assert_eq!(ran.log, [format!("{layout} (what was set before stays in use)")]);
        assert_eq!((router.instance(), router.toml()), (&before.0, before.1.clone()), "{action}");
        assert_eq!(ran.of("trigger"), ["config meshseed"], "and the next edit is heard of");
    }
    assert_eq!(fs::read_dir(router.path("var/etc")).unwrap().count(), 1, "nothing is left over");
    assert_eq!(router.reload(&wrong.replace("mine", "both")).fate, Fate::Restarted, "state moves with data");
}

#[test]
fn a_file_that_cannot_be_written_or_judged_does_not_take_the_place_of_the_one_in_use() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    router.program = router.path("program");
    let program = router.program.clone();
    symlink(common::meshseed(), &program).unwrap();
    assert_eq!(router.reload("config meshseed 'main'\n").fate, Fate::Started);
    let before = router.toml();

    // /var is in memory, which may be full.
    symlink("/dev/full", router.path("var/etc/meshseed.toml.new")).unwrap();
    let ran = router.reload("config meshseed 'main'\n\toption rescan '90'\n");
    assert_eq!((ran.fate, router.toml()), (Fate::Left, before.clone()));
    let told = "No space left on device (what was set before stays in use)";
    assert!(ran.log[0].ends_with(told), "{:?}", ran.log);

    // Where it is short the judge may be killed, and says nothing.
    fs::remove_file(&program).unwrap();
    symlink("/bin/false", &program).unwrap();
    let ran = router.run("reload");
    assert_eq!((ran.fate, router.toml()), (Fate::Left, before));
    let told = "ended before it had looked at it (what was set before stays in use)";
    assert_eq!(ran.log, [format!("{} {told}", program.display())]);

    fs::remove_file(&program).unwrap();
    symlink(common::meshseed(), &program).unwrap();
    assert_eq!(router.run("reload").fate, Fate::Hup);
}

#[test]
fn a_first_start_with_a_wrong_value_waits_for_the_right_one() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    router.configure("config meshseed 'main'\n\toption rescan 'often'\n");
    let ran = router.run("start");
    assert_eq!((ran.fate, ran.log.len()), (Fate::Left, 1));
    assert_eq!(ran.of("trigger"), ["config meshseed"]);
    assert_eq!(router.reload("config meshseed 'main'\n\toption rescan '90'\n").fate, Fate::Started);
}

#[test]
fn a_reload_signals_what_is_new_and_nothing_else() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    let config = |more: &str| format!("config meshseed 'main'\n{more}");
    assert_eq!(router.reload(&config("")).fate, Fate::Started);
    assert_eq!(router.run("reload").fate, Fate::Left);
    assert_eq!(router.reload(&config("\toption rescan '90'\n")).fate, Fate::Hup);
    assert_eq!(router.run("reload").fate, Fate::Left);
    // What a running daemon cannot change.
    assert_eq!(router.reload(&config("\toption data '/mnt/usb'\n")).fate, Fate::Restarted);
    assert_eq!(router.run("reload").fate, Fate::Left);
    assert_eq!(
        router.reload(&config("\toption data '/mnt/usb'\n\toption state '/srv/s'\n")).fate,
        Fate::Restarted
    );
    assert_eq!(router.config().state, Some("/srv/s".into()));
    assert_eq!(router.reload(&config("\toption control '/run/c'\n")).fate, Fate::Restarted);
    assert_eq!(router.run("stop").fate, Fate::Stopped);
    assert_eq!(router.run("reload").fate, Fate::Started);
}

#[test]
fn disabled_is_stopped_whatever_else_is_written() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    router.reload("config meshseed 'main'\n");
    let off = "config meshseed 'main'\n\toption enabled '0'\n\toption rescan 'often'\n\toption jail '1'\n";
    let ran = router.reload(off);
    assert_eq!((ran.fate, ran.log.len()), (Fate::Stopped, 0));
    assert_eq!(ran.of("trigger"), ["config meshseed"]);
    assert_eq!(router.reload(off).fate, Fate::Left);
    assert_eq!(router.reload("config meshseed 'main'\n").fate, Fate::Started);
}

#[test]
fn networks_are_listened_on_by_the_devices_that_they_have_at_the_time() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    router.network("lan", Some("br-lan"));
    router.network("mesh", Some("wlan0-1"));
    let config = "config listen 'listen'\n\tlist interfaces 'lan'\n\tlist interfaces 'mesh'\n\
                  config lpd 'lpd'\n\tlist interfaces 'lan'\n\tlist interfaces 'br-guest'\n";
    let ran = router.reload(config);
    assert_eq!((ran.fate, &ran.log[..]), (Fate::Started, &[][..]));
    assert_eq!(router.config().listen.interfaces, ["br-lan", "wlan0-1"]);
    assert_eq!(router.config().lpd.interfaces, ["br-lan", "br-guest"], "a device may be named as well");
    assert_eq!(ran.of("trigger"), ["config meshseed", "interface lan", "interface mesh"]);
    assert_eq!(router.run("reload").fate, Fate::Left);

    router.network("mesh", Some("wlan1"));
    assert_eq!(router.run("reload").fate, Fate::Hup);
    assert_eq!(router.config().listen.interfaces, ["br-lan", "wlan1"]);
    for network in ["lan", "mesh"] {
        router.network(network, None);
    }
    assert_eq!(router.run("reload").fate, Fate::Hup);
    assert_eq!(
        router.config().listen.interfaces,
        ["lan", "mesh"],
        "no device, which is not the same as every device"
    );
}

#[test]
fn procd_is_told_how_the_daemon_runs() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    router.configure("config meshseed 'main'\n");
    let ran = router.run("start");
    let toml = router.path("var/etc/meshseed.toml").display().to_string();
    let daemon = common::meshseed().display().to_string();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
    let instance = router.instance();
    assert_eq!(
        instance.parameters,
        [
            ("command", words(&[&daemon, "daemon", "-c", &toml])),
            ("file", words(&[&toml])),
            ("user", words(&["meshseed"])),
            ("group", words(&["meshseed"])),
            ("respawn", words(&["3600", "5", "0"])),
            ("term_timeout", words(&["10"])),
            ("stderr", words(&["1"])),
            ("reload_signal", words(&["1"])),
        ]
        .map(|(name, values)| (name.to_owned(), values))
    );
    assert_eq!((&instance.jail, &instance.data), (&None, &Value::Null));
    assert_eq!(ran.of("changed"), [""; 0], "the firewall has nothing to do with it");
    let mode = fs::metadata(&toml).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640, "trackers' URLs may hold keys");
    assert_eq!(ran.of("chgrp"), [format!("meshseed {toml}.new")]);
}

#[test]
fn directories_are_made_in_memory_and_for_torrents_but_never_on_a_disk() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    let [home, state, torrents, disk] =
        ["var/run/meshseed", "var/run/meshseed/state", "etc/torrents", "mnt/usb"]
            .map(|path| router.path(path));
    let ran = router.reload("config meshseed 'main'\n");
    assert!(state.is_dir() && torrents.is_dir());
    let owners = [
        format!("meshseed:meshseed {}", home.display()),
        format!("-h meshseed:meshseed {}", state.display()),
        format!("meshseed:meshseed {}", torrents.display()),
    ];
    assert_eq!(ran.of("chown"), owners);
    assert_eq!(router.run("reload").of("chown"), owners, "as sysupgrade makes the directory root's");
    if able(&[Root]) {
        std::os::unix::fs::chown(&torrents, Some(6881), Some(6881)).unwrap();
        assert_eq!(router.run("reload").of("chown"), owners[..2], "that of another keeps its owner");
    }

    let mut router = Router::new();
    let link = router.path("etc/torrents");
    symlink(router.path("mnt/usb/torrents"), &link).unwrap();
    let ran = router.reload("config meshseed 'main'\n");
    assert_eq!(
        (ran.fate, ran.of("chown").len()),
        (Fate::Started, 2),
        "a link to a disk that is not there yet"
    );
    assert!(!router.path("mnt/usb").exists());

    let mut router = Router::new();
    let [home, torrents] = ["var/run/meshseed", "etc/torrents"].map(|path| router.path(path));
    let config = format!(
        "config meshseed 'main'\n\tlist torrents '{disk}/torrents'\n\toption data '{disk}/data/'\n",
        disk = disk.display()
    );
    let ran = router.reload(&config);
    assert_eq!(ran.of("chown"), [format!("meshseed:meshseed {}", home.display())]);
    assert!(!disk.exists() && !torrents.exists() && !home.join("state").exists());
    assert_eq!(router.config().state, Some(disk.join("data/.meshseed")));
}

#[test]
fn zones_that_are_named_let_peers_in() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let rules = |zone: &str, port: &str| {
        [("tcp", port), ("udp", port), ("udp", "6771")].map(|(proto, port)| {
            json!({"type": "rule", "src": zone, "family": "any", "proto": proto, "dest_port": port, "target": "ACCEPT"})
        })
    };
    let mut router = Router::new();
    let config = "config meshseed 'main'\n\tlist zones 'wan'\n\tlist zones 'mesh'\n";
    let ran = router.reload(config);
    assert_eq!(ran.fate, Fate::Started);
    let port = Config::default().listen.port;
    let default = format!("{}-{}", port.start(), port.end());
    let expected: Vec<Value> = rules("wan", &default).into_iter().chain(rules("mesh", &default)).collect();
    assert_eq!(router.instance().data, json!({"firewall": expected}));
    assert_eq!(ran.of("changed"), ["firewall"]);
    assert_eq!(
        router.run("reload").of("changed"),
        [""; 0],
        "the firewall is loaded anew for what is new alone"
    );

    let ran = router.reload(
        "config listen 'listen'\n\toption port '7000'\nconfig meshseed 'main'\n\toption zones 'wan'\n",
    );
    assert_eq!(router.instance().data, json!({"firewall": rules("wan", "7000")}));
    assert_eq!(ran.of("changed"), ["firewall"]);

    assert_eq!(router.run("restart").of("changed"), ["firewall", "firewall"]);
    let ran = router.reload("config meshseed 'main'\n\tlist zones 'wan'\n\toption enabled '0'\n");
    assert_eq!(ran.of("changed"), ["firewall"], "and for what is gone");
    router.reload("config meshseed 'main'\n\tlist zones 'wan'\n");
    assert_eq!(router.run("stop").of("changed"), ["firewall"]);
    assert_eq!(router.reload("config meshseed 'main'\n").of("changed"), [""; 0]);
    assert_eq!(router.instance().data, Value::Null);
}

#[test]
fn umdns_announces_the_port_beside_the_firewalls_rules() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    router.reload("config meshseed 'main'\n\toption mdns '1'\n\tlist zones 'wan'\n");
    let data = &router.instance().data;
    let announced = json!({"bittorrent_6881": {"service": "_bittorrent._tcp.local", "port": "6881"}});
    assert_eq!(data["mdns"], announced);
    assert_eq!(data["firewall"].as_array().unwrap().len(), 3);
}

#[test]
fn a_jail_has_every_directory_that_is_used_and_what_is_no_disk_for_reading_alone() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let mut router = Router::new();
    fs::write(router.path("sbin/ujail"), "").unwrap();
    fs::set_permissions(router.path("sbin/ujail"), fs::Permissions::from_mode(0o755)).unwrap();
    let [disk, torrents, state] = ["mnt/usb", "etc/torrents", "srv/state"].map(|path| router.path(path));
    fs::create_dir_all(&disk).unwrap();
    let config = format!(
        "config meshseed 'main'\n\toption jail '1'\n\tlist torrents '{torrents}'\n\toption data '{disk}'\n\
         \toption control '/run/other/c'\n",
        torrents = torrents.display(),
        disk = disk.display()
    );
    let mounts = [&disk, state.parent().unwrap(), Path::new("/elsewhere")];
    fs::write(router.path("fstab"), mounts.map(|path| format!("{}\n", path.display())).concat()).unwrap();
    router.reload("config meshseed 'main'\n");
    let ran = router.reload(&config);
    assert_eq!((ran.fate, &ran.log[..]), (Fate::Restarted, &[][..]));
    let instance = router.instance();
    assert_eq!(instance.jail.as_deref().unwrap(), ["meshseed", "log", "ubus", "procfs", "ronly"]);
    assert_eq!(instance.parameter("reload_signal"), None, "what is new in a jail needs another jail");
    let of = |instance: &router::Instance, mode: &str| -> Vec<PathBuf> {
        instance.mounts.iter().filter(|(known, _)| known == mode).map(|(_, path)| path.into()).collect()
    };
    let private = [router.path("var/run/meshseed"), "/run/other".into()];
    let system = ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs"].map(PathBuf::from);
    let read: Vec<PathBuf> = [router.path("var/etc/meshseed.toml")].into_iter().chain(system).collect();
    assert_eq!(of(instance, "rw"), private);
    assert_eq!(of(instance, "ro"), [&read[..], &[torrents.clone(), disk.clone()]].concat());
    assert_eq!(ran.of("trigger"), ["config meshseed", &format!("mount {}", disk.display())]);
    assert_eq!(router.run("reload").fate, Fate::Left);

    // The disk is mounted: procd calls restart, and content may be written.
    router.mount(&disk);
    assert_eq!(router.run("restart").fate, Fate::Restarted);
    assert_eq!(of(router.instance(), "rw"), [&private[..], from_ref(&disk)].concat());
    assert_eq!(of(router.instance(), "ro"), [&read[..], from_ref(&torrents)].concat());

    let anywhere = format!(
        "{config}\toption state '{}'\nconfig disk 'disk'\n\toption require_mount '0'\n",
        state.display()
    );
    assert_eq!(router.reload(&anywhere).fate, Fate::Restarted);
    let parent = state.parent().unwrap().to_owned();
    assert_eq!(of(router.instance(), "rw"), [&private[..], &[parent, torrents, disk.clone()]].concat());

    // State is not made below a disk that is away. Where it is already it is kept, and nothing around it opened.
    let own = |more: &str| format!("{config}\toption state '{}'\n{more}", state.display());
    let ran = router.reload(&own(""));
    assert_eq!(of(router.instance(), "rw"), [&private[..], from_ref(&disk)].concat());
    let mounts = mounts.map(|path| format!("mount {}", path.display()));
    assert_eq!(ran.of("trigger")[1..], mounts[..2], "each by itself");
    fs::create_dir_all(&state).unwrap();
    router.reload(&own(""));
    assert_eq!(of(router.instance(), "rw"), [&private[..], &[state.clone(), disk.clone()]].concat());
    router.mount(state.parent().unwrap());
    router.reload(&own(""));
    let parent = state.parent().unwrap().to_owned();
    assert_eq!(of(router.instance(), "rw"), [&private[..], from_ref(&parent)].concat());
    // A slash at the end of data is no other directory.
    router.reload(&config.replace(&format!("{}'", disk.display()), &format!("{}/'", disk.display())));
    assert_eq!(of(router.instance(), "rw"), private);

    let ran = router.reload("config meshseed 'main'\n\toption jail '1'\n\toption data '/mnt/a disk'\n");
    assert!(ran.log[0].starts_with("meshseed.main.jail: a jail has no directory whose path has spaces"));
    let ran = router.reload("config meshseed 'main'\n");
    assert_eq!((ran.fate, &router.instance().jail), (Fate::Restarted, &None));
}

#[test]
fn sysupgrade_keeps_torrents_and_links_and_no_content() {
    if !able(&[Program("busybox")]) {
        return;
    }
    let router = Router::new();
    let root = router.path("etc/torrents");
    for directory in ["", "films/old", "film one"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let kept =
        ["a b.torrent", "c.magnet", "d.where", "films/e.torrent", "films/old/f.magnet", "film one/g.torrent"];
    for file in kept.iter().chain(&["image.iso", "torrent", "films/film.mkv", "film one/part.torrent.txt"]) {
        fs::write(root.join(file), "").unwrap();
    }
    // As sysupgrade reads the lists: lines that are neither empty nor comments, expanded by the shell.
    let keep =
        include_str!("../openwrt/files/keep").replace("/etc/", &format!("{}/", router.path("etc").display()));
    let list = router.path("keep");
    fs::write(&list, keep).unwrap();
    let script =
        r#"find $(sed -ne '/^[[:space:]]*$/d; /^#/d; p' "$1") \( -type f -o -type l \) 2>/dev/null; true"#;
    let found = run(router.busybox("ash").args(["-c", script, "ash"]).arg(&list));
    let found: BTreeSet<&str> = found
        .lines()
        .map(|line| line.strip_prefix(root.to_str().unwrap()).unwrap().trim_start_matches('/'))
        .collect();
    assert_eq!(found, kept.into());
}

#[test]
fn who_may_look_may_not_act() {
    let acl: Value = serde_json::from_str(include_str!("../openwrt/files/acl.json")).unwrap();
    assert_eq!(acl, json!({"user": "meshseed", "publish": ["meshseed"], "send": ["meshseed.*"]}));
    let acl: Value = serde_json::from_str(include_str!("../openwrt/files/rpcd-acl.json")).unwrap();
    let methods = |scope: &str| -> Vec<String> {
        serde_json::from_value(acl["meshseed"][scope]["ubus"]["meshseed"].clone()).unwrap()
    };
    assert_eq!([methods("read"), methods("write")].concat(), METHODS.map(|(name, _)| name));
    assert_eq!(methods("write"), ["rescan", "reload", "verify", "pause", "resume"]);
    for scope in ["read", "write"] {
        assert_eq!(acl["meshseed"][scope]["uci"], json!(["meshseed"]));
    }
}

#[test]
fn shellcheck_finds_nothing() {
    if !able(&[Program("shellcheck")]) {
        return;
    }
    // Debian 12 has a version that does not know the dialect busybox yet; dash has no more than ash has.
    let dialects = run(Command::new("shellcheck").arg("--help"));
    let dialect = if dialects.contains("busybox") { "busybox" } else { "dash" };
    run(Command::new("shellcheck").args(["--shell", dialect, SCRIPT]));
}
