//! A folder of packages, served as a feed.

use std::fs;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::common::adb::Archive;
use crate::common::{Folder, able, run, sha256};
use crate::{TOOLS, ec_key, ed25519_key, gunzip, package, repository, unpacked, verify, version};

#[test]
fn opkg_finds_every_package_of_a_folder_and_its_hash() {
    if !able(&TOOLS) {
        return;
    }
    let dist = Folder::new();
    let key = ed25519_key(dist.path());
    let made = [&[][..], &["--nossl"]].map(|flags| package(dist.path(), "mipsel_24kc", flags).ipk);
    let folder = dist.path().join("mipsel_24kc");
    index(&folder, &["--key", key.to_str().unwrap()]);

    let list = fs::read_to_string(folder.join("Packages")).unwrap();
    let mut expected: Vec<_> = made
        .iter()
        .map(|path| {
            unpacked(path, dist.path());
            let control = fs::read_to_string(dist.path().join("control/control")).unwrap();
            let (head, description) = control.split_once("Description:").unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let size = fs::metadata(path).unwrap().len();
            let hash = sha256(path);
            format!("{head}Filename: {name}\nSize: {size}\nSHA256sum: {hash}\nDescription:{description}\n")
        })
        .collect();
    expected.reverse(); // "-" sorts before "_"
    assert_eq!(list, expected.concat());
    assert_eq!(gunzip(&folder.join("Packages.gz")), list.as_bytes());

    // usign's format: "Ed", eight bytes of name, and the key or the signature.
    let [public, signature] = ["feed.pub", "Packages.sig"].map(|name| decoded(&folder.join(name)));
    assert_eq!((public.len(), signature.len()), (2 + 8 + 32, 2 + 8 + 64));
    assert_eq!((&public[..2], &public[..10]), (&b"Ed"[..], &signature[..10]));
    let name: String = public[2..10].iter().map(|byte| format!("{byte:02x}")).collect();
    let comment = fs::read_to_string(folder.join("Packages.sig")).unwrap();
    assert!(comment.starts_with(&format!("untrusted comment: signed by key {name}\n")));
    // The bytes before an Ed25519 key in a public key of RFC 8410.
    let der = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", &public[10..]].concat();
    let [der_file, signature_file] = ["public.der", "signature"].map(|name| dist.path().join(name));
    fs::write(&der_file, der).unwrap();
    fs::write(&signature_file, &signature[10..]).unwrap();
    run(Command::new("openssl")
        .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey"])
        .arg(der_file)
        .arg("-sigfile")
        .arg(signature_file)
        .arg("-in")
        .arg(folder.join("Packages")));
}

#[test]
fn apk_finds_every_package_of_a_folder_in_order_and_its_hash() {
    if !able(&TOOLS) {
        return;
    }
    let dist = Folder::new();
    let key = ec_key(dist.path());
    let mut expected = Vec::new();
    for flags in [&["--release", "9"][..], &["--release", "10"], &["--nossl"]] {
        let path = package(dist.path(), "mipsel_24kc", flags).apk;
        let archive = Archive::read(&path);
        expected.push((
            archive.root().field(1).clone(),
            Sha256::digest(&archive.adb),
            fs::metadata(path).unwrap().len(),
        ));
    }
    let folder = dist.path().join("mipsel_24kc");
    index(&folder, &["--key", key.to_str().unwrap()]);

    let archive = Archive::read(&folder.join("packages.adb"));
    assert_eq!(archive.schema, *b"indx");
    assert!(archive.data.is_empty());
    verify(&archive, &folder.join("ec.pub.pem"), dist.path());
    let root = archive.root();
    assert_eq!((root.items().len(), root.field(2).items().len()), (2, 3));
    for (found, (info, hash, size)) in root.field(2).items().iter().zip(&expected) {
        assert_eq!(found.field(3).bytes(), &hash[..]);
        assert_eq!(found.field(13).number(), *size);
        for field in (1..=21).filter(|field| ![3, 13].contains(field)) {
            assert_eq!(found.field(field), info.field(field), "field {field}");
        }
    }
    let version = version();
    assert_eq!(root.field(2).items()[2].field(2).text(), version);
}

#[test]
fn a_feed_without_a_key_is_unsigned_and_one_without_packages_is_an_error() {
    if !able(&TOOLS) {
        return;
    }
    let dist = Folder::new();
    package(dist.path(), "x86_64", &[]);
    let folder = dist.path().join("x86_64");
    index(&folder, &[]);
    assert!(!folder.join("Packages.sig").exists());
    assert!(Archive::read(&folder.join("packages.adb")).signatures.is_empty());

    let empty = Command::new(repository("openwrt/index")).arg(Folder::new().path()).output().unwrap();
    assert!(!empty.status.success());
    assert!(String::from_utf8_lossy(&empty.stderr).ends_with(": no packages\n"));
}

fn index(folder: &Path, more: &[&str]) {
    run(Command::new(repository("openwrt/index")).arg(folder).args(more));
}

/// The second line of a file of usign.
fn decoded(path: &Path) -> Vec<u8> {
    let text = fs::read_to_string(path).unwrap();
    let (_, line) = text.split_once('\n').unwrap();
    let encoded = path.with_extension("base64");
    fs::write(&encoded, line).unwrap();
    let out = Command::new("base64").arg("-d").arg(encoded).output().unwrap();
    assert!(out.status.success());
    out.stdout
}
