//! Every real .torrent of the shared fixtures gets the verdict, the info-hashes and the figures of its manifest.
//!
//! The fixtures lie outside the project: `MESHSEED_SHARED`, or `../shared` beside the checkout. In CI they must be there.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "reads fixtures; a panic is how a test fails"
)]

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use meshseed::metainfo::survey::Survey;
use meshseed::metainfo::survey::lint::lint;
use meshseed::metainfo::{self, Error, magnet::Magnet};

fn fixtures() -> Option<PathBuf> {
    let shared = std::env::var_os("MESHSEED_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let torrents = shared.join("data/torrents");
    if torrents.join("manifest.tsv").is_file() {
        return Some(torrents);
    }
    assert!(std::env::var_os("CI").is_none(), "CI runs without {}", torrents.display());
    // Not by eprintln, which the test harness keeps to itself.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: tests/torrents.rs: no {} (set MESHSEED_SHARED)",
        torrents.display()
    );
    None
}

fn manifest(folder: &std::path::Path) -> Vec<HashMap<String, String>> {
    let text = std::fs::read_to_string(folder.join("manifest.tsv")).unwrap();
    let mut lines = text.lines().map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
    let head = lines.next().unwrap();
    lines.map(|row| head.iter().cloned().zip(row).collect()).collect()
}

#[test]
fn every_row_of_the_manifest_gets_its_verdict() {
    let Some(folder) = fixtures() else { return };
    let rows = manifest(&folder);
    assert!(rows.len() >= 60, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let file = &row["file"];
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let parsed = metainfo::parse(&bytes);
        let surveyed = Survey::read(&bytes);
        assert_eq!(surveyed.is_ok(), row["verdict"] == "valid", "{file}: {:?}", surveyed.err());
        if let Ok(survey) = &surveyed {
            let hashes = [
                ("infohash_v1", survey.info_hash().map(|hash| hash.to_string())),
                ("infohash_v2", survey.metainfo.info_hash_v2.map(|hash| metainfo::hex(&hash))),
                ("piece_count", Some(survey.metainfo.lengths.piece_count().to_string())),
            ];
            for (key, value) in hashes {
                assert_eq!(value.unwrap_or_default(), row[key], "{file}: {key}");
            }
            assert!(!matches!(survey.tree, Some(Err(_))), "{file}: {:?}", survey.tree);
            assert!(!lint(survey, None).iter().any(|line| line.contains("half")), "{file}");
        }
        let v2_only = row["infohash_v1"].is_empty() && !row["infohash_v2"].is_empty();
        match (row["verdict"].as_str(), parsed) {
            ("valid", Err(Error::V2Only)) if v2_only => {}
            ("valid", Ok(torrent)) if !v2_only => {
                let found = [
                    ("infohash_v1", torrent.info_hash.to_string()),
                    (
                        "infohash_v2",
                        torrent.info_hash_v2.map(|hash| metainfo::hex(&hash)).unwrap_or_default(),
                    ),
                    ("name", torrent.name.clone()),
                    ("total_size", torrent.lengths.total().to_string()),
                    ("piece_length", torrent.lengths.piece_length().to_string()),
                    ("piece_count", torrent.lengths.piece_count().to_string()),
                    ("num_files", torrent.files.len().to_string()),
                ];
                for (key, value) in found {
                    if row[key] != value {
                        wrong.push(format!("{file}: {key} is {value}, the manifest has {}", row[key]));
                    }
                }
                let link = Magnet::from(&torrent).to_string();
                assert_eq!(link.parse::<Magnet>().unwrap().info_hash, torrent.info_hash, "{link}");
            }
            // Two files on one path, and a key twice: refused, as Transmission has it.
            ("conflict", Err(Error::Key(key, _))) if key == "info.files" => {}
            ("conflict", Err(Error::Bencode(error))) if error.to_string().contains("`pieces`") => {}
            // A magnet link that was saved as a .torrent has no `info`: refused, as libtorrent has it.
            ("project-choice", Err(Error::Magnet)) => {}
            ("invalid", Err(_)) => {}
            (verdict, Ok(_)) => wrong.push(format!("{file}: taken, the manifest has {verdict}")),
            (verdict, Err(error)) => {
                wrong.push(format!("{file}: refused ({error}), the manifest has {verdict}"))
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn refusals_name_their_key() {
    let Some(folder) = fixtures() else { return };
    for (file, key) in [
        ("transmission/dup-pieces-key.torrent", "`pieces`"),
        ("transmission/dup-files.torrent", "`info.files`"),
        ("transmission/missing-pieces-key.torrent", "`info.pieces`"),
        ("transmission/empty-pieces-key.torrent", "`info.pieces`"),
        ("transmission/invalid-pieces-length.torrent", "`info.pieces`"),
        ("transmission/too-few-pieces.torrent", "`info.pieces`"),
        ("transmission/too-many-pieces.torrent", "`info.pieces`"),
        ("webtorrent-fixtures/corrupt.torrent", "`info.name`"),
        ("transmission/gimp-2.10.32-1-arm64.dmg.torrent", "`info`"),
        ("transmission/bittorrent-v2-test.torrent", "v2-only"),
    ] {
        let error = metainfo::parse(&std::fs::read(folder.join(file)).unwrap()).unwrap_err().to_string();
        assert!(error.contains(key), "{file}: {error}");
    }
}

#[test]
fn real_files_cut_short_or_flipped_are_refused_without_a_panic() {
    let Some(folder) = fixtures() else { return };
    for row in manifest(&folder) {
        let bytes = std::fs::read(folder.join(&row["file"])).unwrap();
        if bytes.len() > 40_000 {
            continue; // hashing them again and again says nothing new
        }
        for end in (0..bytes.trim_ascii_end().len()).step_by(bytes.len() / 50 + 1) {
            assert!(metainfo::parse(&bytes[..end]).is_err(), "{}: {end}", row["file"]);
            assert!(Survey::read(&bytes[..end]).is_err(), "{}: {end}", row["file"]);
        }
        for at in (0..bytes.len()).step_by(bytes.len() / 200 + 1) {
            let mut bytes = bytes.clone();
            for flip in [1, 4, 0x80, 0xff] {
                bytes[at] ^= flip;
                let _ = metainfo::parse(&bytes);
                let _ = Survey::read(&bytes).map(|survey| lint(&survey, None));
                bytes[at] ^= flip;
            }
        }
    }
}
