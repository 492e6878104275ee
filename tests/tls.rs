//! HTTPS trackers and web seeds: real servers with certificates of all kinds, and what a user is told of bad ones.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

#[cfg(feature = "tls")]
mod with {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::json;

    use crate::common::Need::{Program, Root};
    use crate::common::authority::{Authority, EARLY, EXPIRED, Key, VALID};
    use crate::common::daemon::{Daemon, Home};
    use crate::common::nginx::Nginx;
    use crate::common::torrent::Torrent;
    use crate::common::tracker::{Answer, Tracker};
    use crate::common::{Folder, PATIENCE, able, wait_value};

    const HERE: &str = "DNS:localhost,IP:127.0.0.1";

    /// Starts it with the certificates of this file for all that it trusts.
    fn trusting<'home>(home: &'home Home, file: &Path) -> Daemon<'home> {
        home.start_by(&["env", &format!("SSL_CERT_FILE={}", file.display())])
    }

    #[test]
    fn a_torrent_is_fetched_from_web_servers_with_old_and_new_tls() {
        if !able(&[Program("nginx"), Program("openssl")]) {
            return;
        }
        let authority = Authority::new();
        // Slow enough that records come in parts.
        let kinds = [
            (Key::Rsa, "ssl_protocols TLSv1.2; limit_rate 2m;", "TLSv1.2"),
            (Key::Curve, "ssl_protocols TLSv1.3; keepalive_requests 5;", "TLSv1.3"),
        ];
        for (key, more, protocol) in kinds {
            let torrent =
                Torrent::multi("files", &[("a/b c", 5_000_000), ("ü", 70_001), ("d", 3_000_000)], 32_768);
            let folder = Folder::new();
            torrent.write_data(folder.path());
            let certificate = authority.server(HERE, VALID, key);
            let site = format!("{certificate} root {}; {more}", folder.path().display());
            let nginx = Nginx::start(&[("ssl", &site)]);
            let port = nginx.addresses[0].port();
            for host in ["127.0.0.1", "localhost"] {
                let torrent = torrent.clone().web_seeds(&[format!("https://{host}:{port}/")]);
                let home = Home::new();
                home.set("", "layout", json!("name"));
                torrent.drop_into(&home.torrents);
                let daemon = trusting(&home, &authority.certificate);
                daemon.wait_seeding(&torrent);
                torrent.assert_lies_in(&home.data);
            }
            assert!(nginx.log().lines().all(|line| line.contains(protocol)), "{}", nginx.log());
        }
    }

    #[test]
    fn a_mesh_puts_its_authority_beside_those_of_the_system() {
        if !able(&[Root, Program("nginx"), Program("openssl"), Program("unshare")]) {
            return;
        }
        let (authority, stranger) = (Authority::new(), Authority::new());
        let torrent = Torrent::single("image", 600_000, 65_536);
        let folder = Folder::new();
        torrent.write_data(folder.path());
        let certificate = authority.server(HERE, VALID, Key::Curve);
        let nginx = Nginx::start(&[("ssl", &format!("{certificate} root {};", folder.path().display()))]);
        let torrent = torrent.web_seeds(&[format!("https://localhost:{}/", nginx.addresses[0].port())]);
        // One file for each authority, as OpenWrt has them, some of them broken.
        let system = Folder::new();
        std::fs::write(system.path().join("broken.crt"), "-----BEGIN CERTIFICATE-----\nx\n").unwrap();
        std::fs::copy(&stranger.certificate, system.path().join("stranger.crt")).unwrap();
        std::fs::copy(&authority.certificate, system.path().join("mesh.crt")).unwrap();
        let mount = format!("mount --bind {} /etc/ssl/certs && exec \"$@\"", system.path().display());
        let home = Home::new();
        home.set("", "layout", json!("name"));
        torrent.drop_into(&home.torrents);
        let daemon =
            home.start_by(&["env", "-u", "SSL_CERT_FILE", "unshare", "--mount", "sh", "-c", &mount, "sh"]);
        daemon.wait_seeding(&torrent);
        torrent.assert_lies_in(&home.data);
    }

    #[test]
    fn torrents_are_announced_to_a_tracker_behind_tls_over_one_connection() {
        if !able(&[Program("nginx"), Program("openssl")]) {
            return;
        }
        let authority = Authority::new();
        let tracker = Tracker::start([127, 0, 0, 1].into(), |_| Answer::Peers(1800, Vec::new()));
        let site = authority.server(HERE, VALID, Key::Curve)
            + &format!("location / {{ proxy_pass http://{}; }}", tracker.address);
        let nginx = Nginx::start(&[("ssl", &site)]);
        let url = format!("https://localhost:{}/announce", nginx.addresses[0].port());
        let home = Home::new();
        let torrents: Vec<Torrent> =
            (0..12).map(|n| Torrent::single(&format!("file {n}"), 20_000, 16_384).announce(&url)).collect();
        for torrent in &torrents {
            torrent.drop_into(&home.torrents);
            torrent.write_data(&home.data);
        }
        let daemon = trusting(&home, &authority.certificate);
        for torrent in &torrents {
            tracker.wait_event(&torrent.info_hash, "started");
            daemon.wait_seeding(torrent);
        }
        daemon.terminate();
        for torrent in &torrents {
            tracker.wait_event(&torrent.info_hash, "stopped");
        }
        let log = nginx.log();
        let connections: BTreeSet<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(log.lines().count() >= 24 && connections.len() <= 4, "{log}");
    }

    /// Each server is asked as a tracker and as a web seed, and each time the user is told the same.
    #[test]
    fn a_server_that_does_not_prove_who_it_is_is_refused_with_a_reason() {
        if !able(&[Program("nginx"), Program("openssl")]) {
            return;
        }
        let (authority, other) = (Authority::new(), Authority::new());
        let sites = [
            ("ssl", authority.server("DNS:elsewhere.example", VALID, Key::Curve), "is for another name"),
            (
                "ssl",
                authority.server(HERE, EXPIRED, Key::Curve),
                "certificate expired on 2023-03-04; by this machine's clock it is 20",
            ),
            ("ssl", authority.server(HERE, EARLY, Key::Curve), "certificate is valid from 2048-01-02 on"),
            ("ssl", other.server(HERE, VALID, Key::Curve), "signed by nobody whom this machine trusts"),
            ("", String::new(), "does not speak TLS on this port"),
        ];
        let served: Vec<(&str, &str)> = sites.iter().map(|(how, site, _)| (*how, site.as_str())).collect();
        let nginx = Nginx::start(&served);
        let home = Home::new();
        let expected = |n: usize| {
            let url = format!("https://localhost:{}/", nginx.addresses[n].port());
            (url.clone(), format!("{url}announce"), sites[n].2)
        };
        let cases: Vec<_> = (0..sites.len()).map(expected).collect();
        let seeds: Vec<String> = cases.iter().map(|(seed, ..)| seed.clone()).collect();
        let trackers: Vec<&String> = cases.iter().map(|(_, tracker, _)| tracker).collect();
        home.set("trackers", "also", json!(trackers));
        let torrent = Torrent::single("image", 600_000, 65_536).web_seeds(&seeds);
        torrent.drop_into(&home.torrents);
        let daemon = trusting(&home, &authority.certificate);
        for (seed, tracker, why) in &cases {
            for (list, url) in [("web_seeds", seed), ("trackers", tracker)] {
                let message = || {
                    let said = daemon.torrent(&torrent);
                    let entries = said[list].as_array().cloned().unwrap_or_default();
                    let entry = entries.into_iter().find(|entry| entry["url"] == url.as_str());
                    entry.map_or_else(String::new, |entry| entry["message"].to_string())
                };
                wait_value(&format!("{url}: {why}"), PATIENCE, message, |message| message.contains(why));
            }
        }
    }

    #[test]
    fn a_machine_without_certificates_says_so() {
        if !able(&[Program("nginx"), Program("openssl")]) {
            return;
        }
        let nginx = Nginx::start(&[("ssl", &Authority::new().server(HERE, VALID, Key::Curve))]);
        let url = format!("https://localhost:{}/", nginx.addresses[0].port());
        let torrent = Torrent::single("image", 600_000, 65_536).web_seeds(&[url]);
        let home = Home::new();
        torrent.drop_into(&home.torrents);
        let daemon = trusting(&home, Path::new("/dev/null"));
        let message = || daemon.torrent(&torrent)["web_seeds"][0]["message"].to_string();
        let why = "/dev/null, which SSL_CERT_FILE names, has no certificates";
        wait_value(why, PATIENCE, message, |message| message.contains(why));
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use std::process::Command;

    use crate::common::daemon::Home;
    use crate::common::torrent::Torrent;
    use crate::common::{PATIENCE, meshseed, run, wait_value};

    #[test]
    fn a_build_without_tls_says_so() {
        assert!(run(Command::new(meshseed()).arg("--version")).contains(" (no TLS"));
        let why = "https:// needs TLS, which this build of meshseed is without";
        let url = "https://h.example/";
        let torrent = Torrent::single("image", 600_000, 65_536).announce(url).web_seeds(&[url.to_owned()]);
        let home = Home::new();
        torrent.drop_into(&home.torrents);
        let daemon = home.start();
        for list in ["trackers", "web_seeds"] {
            let message = || daemon.torrent(&torrent)[list][0]["message"].to_string();
            wait_value(list, PATIENCE, message, |message| message.contains(why));
        }
    }
}
