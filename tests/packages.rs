//! The packages of `openwrt/package` and the feed of `openwrt/index`, taken apart by other programs than made them.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes and files; a test may panic"
)]

mod common;
#[path = "packages/feed.rs"]
mod feed;
#[path = "packages/makefile.rs"]
mod makefile;
#[path = "packages/scripts.rs"]
mod scripts;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Need::Program;
use common::adb::{Archive, Value};
use common::{Folder, able, meshseed, run};
use sha2::{Digest, Sha256, Sha512};

/// SOURCE_DATE_EPOCH of the packages.
const EPOCH: u64 = 1_700_000_000;
/// What ends a package's version here; the default is the Makefile's.
const RELEASE: &str = "7";
const TOOLS: [common::Need; 2] = [Program("python3"), Program("openssl")];

/// Installed path, where it comes from (the program has no place of its own), mode.
const FILES: [(&str, &str, u32); 6] = [
    ("/etc/config/meshseed", "config/meshseed.uci", 0o600),
    ("/etc/init.d/meshseed", "init/meshseed.init", 0o755),
    ("/lib/upgrade/keep.d/meshseed", "openwrt/files/keep", 0o644),
    ("/usr/bin/meshseed", "", 0o755),
    ("/usr/share/acl.d/meshseed.json", "openwrt/files/acl.json", 0o644),
    ("/usr/share/rpcd/acl.d/meshseed.json", "openwrt/files/rpcd-acl.json", 0o644),
];

#[test]
fn an_ipk_is_what_openwrt_builds_field_by_field() {
    if !able(&TOOLS) {
        return;
    }
    for arch in ["mipsel_24kc", "aarch64_cortex-a53"] {
        let dist = Folder::new();
        let path = package(dist.path(), arch, &[]).ipk;
        assert_eq!(path, dist.path().join(format!("{arch}/meshseed_{}_{arch}.ipk", version())));
        let data = unpacked(&path, dist.path());

        let control = fs::read_to_string(dist.path().join("control/control")).unwrap();
        let size = data.len();
        assert_eq!(
            control,
            format!(
                "Package: meshseed\n\
                 Version: {}\n\
                 Depends: libc, ca-bundle\n\
                 Source: feeds/meshseed/openwrt\n\
                 SourceName: meshseed\n\
                 License: MIT OR Apache-2.0\n\
                 LicenseFiles: LICENSE-MIT LICENSE-APACHE\n\
                 Section: net\n\
                 Require-User: meshseed=6881:meshseed=6881\n\
                 SourceDateEpoch: {EPOCH}\n\
                 URL: https://github.com/meshseed/meshseed\n\
                 Maintainer: the meshseed developers\n\
                 Architecture: {arch}\n\
                 Installed-Size: {size}\n\
                 Description:  A headless BitTorrent seeding daemon for mesh routers: drop .torrent\n \
                 files into a directory, and their data is served.\n",
                version()
            )
        );
        assert_eq!(
            fs::read_to_string(dist.path().join("control/conffiles")).unwrap(),
            "/etc/config/meshseed\n"
        );
        for (path, origin, _) in FILES {
            let installed = fs::read(dist.path().join(format!("data{path}"))).unwrap();
            assert!(installed == original(origin), "{path}");
        }
        assert_eq!(
            listed(&dist.path().join("data.tar")),
            [
                "drwxr-xr-x 0/0 ./",
                "drwxr-xr-x 0/0 ./etc/",
                "drwxr-xr-x 0/0 ./etc/config/",
                "-rw------- 0/0 ./etc/config/meshseed",
                "drwxr-xr-x 0/0 ./etc/init.d/",
                "-rwxr-xr-x 0/0 ./etc/init.d/meshseed",
                "drwxr-xr-x 0/0 ./lib/",
                "drwxr-xr-x 0/0 ./lib/upgrade/",
                "drwxr-xr-x 0/0 ./lib/upgrade/keep.d/",
                "-rw-r--r-- 0/0 ./lib/upgrade/keep.d/meshseed",
                "drwxr-xr-x 0/0 ./usr/",
                "drwxr-xr-x 0/0 ./usr/bin/",
                "-rwxr-xr-x 0/0 ./usr/bin/meshseed",
                "drwxr-xr-x 0/0 ./usr/share/",
                "drwxr-xr-x 0/0 ./usr/share/acl.d/",
                "-rw-r--r-- 0/0 ./usr/share/acl.d/meshseed.json",
                "drwxr-xr-x 0/0 ./usr/share/rpcd/",
                "drwxr-xr-x 0/0 ./usr/share/rpcd/acl.d/",
                "-rw-r--r-- 0/0 ./usr/share/rpcd/acl.d/meshseed.json",
            ]
        );
        assert_eq!(
            listed(&dist.path().join("control.tar")),
            [
                "drwxr-xr-x 0/0 ./",
                "-rw-r--r-- 0/0 ./conffiles",
                "-rw-r--r-- 0/0 ./control",
                "-rwxr-xr-x 0/0 ./postinst",
                "-rwxr-xr-x 0/0 ./postinst-pkg",
                "-rwxr-xr-x 0/0 ./prerm",
            ]
        );
    }
}

#[test]
fn an_ipk_has_the_bytes_of_gnu_tar() {
    if !able(&TOOLS) {
        return;
    }
    let dist = Folder::new();
    let path = package(dist.path(), "mips_24kc", &[]).ipk;
    unpacked(&path, dist.path());
    let again = |what: &str, content: &[&str]| {
        let out = dist.path().join("again.tar");
        run(Command::new("tar")
            .args(["--format=gnu", "--numeric-owner", "--owner=0", "--group=0", "--sort=name"])
            .arg(format!("--mtime=@{EPOCH}"))
            .arg("-cpf")
            .arg(&out)
            .arg("-C")
            .arg(dist.path().join(what))
            .args(content));
        fs::read(out).unwrap()
    };
    for what in ["data", "control"] {
        let made = fs::read(dist.path().join(format!("{what}.tar"))).unwrap();
        assert!(made == again(what, &["."]), "{what}.tar.gz");
    }
    let outer = ["./debian-binary", "./data.tar.gz", "./control.tar.gz"];
    assert!(again("outer", &outer) == gunzip(&path), "the package itself");
}

#[test]
fn an_apk_is_read_back_by_another_reader_field_by_field() {
    if !able(&TOOLS) {
        return;
    }
    for arch in ["mipsel_24kc", "aarch64_cortex-a53"] {
        let dist = Folder::new();
        let path = package(dist.path(), arch, &[]).apk;
        assert_eq!(path, dist.path().join(format!("{arch}/meshseed-{}.apk", version())));
        let archive = Archive::read(&path);
        assert_eq!(archive.schema, *b"pckg");
        assert!(archive.signatures.is_empty(), "no key was given");
        let root = archive.root();

        let info = root.field(1);
        let texts = [1, 2, 4, 5, 6, 7, 8, 9].map(|number| info.field(number).text());
        assert_eq!(
            texts,
            [
                "meshseed",
                &version(),
                "A headless BitTorrent seeding daemon for mesh routers: \
                 drop .torrent files into a directory, and their data is served.",
                arch,
                "MIT OR Apache-2.0",
                "feeds/meshseed/openwrt",
                "the meshseed developers",
                "https://github.com/meshseed/meshseed",
            ]
        );
        assert_eq!(names(info.field(15)), ["ca-bundle", "libc"]);
        assert_eq!(info.field(14).number(), 100, "the default variant");
        let rest = [10, 11, 13, 16, 17, 18].map(|number| info.field(number).clone());
        assert_eq!(
            rest,
            [const { Value::Null }; 6],
            "no commit, time, size, provides, replaces or install-if"
        );
        assert_eq!(info.items().len(), 15);
        assert_eq!(root.items().len(), 3, "no triggers");

        let files = installed(&archive);
        let mut expected: BTreeMap<String, (u64, Vec<u8>)> = FILES
            .iter()
            .map(|(path, origin, mode)| ((*path).to_owned(), (u64::from(*mode), original(origin))))
            .collect();
        let users = "/lib/apk/packages/meshseed.rusers".to_owned();
        expected.insert(users, (0o644, b"meshseed=6881:meshseed=6881\n".to_vec()));
        let mut list: Vec<_> = expected.keys().map(|path| format!("{path}\n")).collect();
        list.sort_unstable();
        let digest = hex(&Sha256::digest(&expected["/etc/config/meshseed"].1));
        for (extension, content) in [
            ("list", list.concat()),
            ("conffiles", "/etc/config/meshseed\n".to_owned()),
            ("conffiles_static", format!("/etc/config/meshseed {digest}\n")),
        ] {
            let path = format!("/lib/apk/packages/meshseed.{extension}");
            expected.insert(path, (0o644, content.into_bytes()));
        }
        assert!(files == expected, "{:?}", files.keys());
        let size: usize = files.values().map(|(_, content)| content.len()).sum();
        assert_eq!(info.field(12).number(), size as u64);

        // A package's own name is its hash, taken with zeros in that place.
        let id = info.field(3).bytes();
        assert_eq!(id.len(), 20);
        let at = archive.adb.windows(20).position(|window| window == id).unwrap();
        let mut zeroed = archive.adb.clone();
        zeroed[at..at + 20].fill(0);
        assert_eq!(id, &Sha256::digest(zeroed)[..20]);
    }
}

#[test]
fn a_key_signs_an_apk_and_its_public_half_verifies_it() {
    if !able(&TOOLS) {
        return;
    }
    let dist = Folder::new();
    for (kind, key) in [("EC", ec_key(dist.path())), ("RSA", rsa_key(dist.path()))] {
        let path = package(dist.path(), "x86_64", &["--key", key.to_str().unwrap()]).apk;
        let public = path.with_file_name(key.with_extension("pub.pem").file_name().unwrap());
        let archive = Archive::read(&path);
        verify(&archive, &public, dist.path());
        assert!(!fs::read_to_string(public).unwrap().contains("PRIVATE"), "{kind}");
    }
    let key = ed25519_key(dist.path());
    let refused = command(dist.path(), "x86_64", &["--key", key.to_str().unwrap()]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a package is signed with RSA or EC"));
}

#[test]
fn the_small_variant_stands_for_the_other_and_excludes_it() {
    if !able(&TOOLS) {
        return;
    }
    let dist = Folder::new();
    let made = package(dist.path(), "mipsel_74kc", &["--nossl"]);
    let [ipk, apk] = [&made.ipk, &made.apk].map(|path| path.file_name().unwrap().to_str().unwrap());
    let version = version();
    assert_eq!(ipk, format!("meshseed-nossl_{version}_mipsel_74kc.ipk"));
    assert_eq!(apk, format!("meshseed-nossl-{version}.apk"));

    unpacked(&made.ipk, dist.path());
    let control = fs::read_to_string(dist.path().join("control/control")).unwrap();
    let head = format!(
        "Package: meshseed-nossl\nVersion: {version}\nDepends: libc\nConflicts: meshseed\nProvides: meshseed\nSource: "
    );
    assert!(control.starts_with(&head), "{control}");
    assert!(control.ends_with("\n files into a directory, and their data is served. For little flash:\n without TLS (HTTPS trackers and web seeds) and without the commands\n that make torrents (create, share, show, check).\n"));

    let archive = Archive::read(&made.apk);
    let root = archive.root();
    let info = root.field(1);
    assert_eq!(info.field(1).text(), "meshseed-nossl");
    assert_eq!(*info.field(14), Value::Null);
    assert_eq!(names(info.field(15)), ["libc"]);
    let [provided] = info.field(16).items() else { panic!("one name is provided") };
    // Of exactly this version: apk installs one package that owns a name with a version.
    assert_eq!([provided.field(1).text(), provided.field(2).text()], ["meshseed", &version]);
    assert_eq!(provided.items().len(), 2);
    assert!(installed(&archive).contains_key("/lib/apk/packages/meshseed-nossl.list"));
}

#[test]
fn the_same_program_gives_the_same_bytes() {
    if !able(&TOOLS) {
        return;
    }
    let [first, second] = [Folder::new(), Folder::new()];
    // RSA: an EC signature has a random part.
    let key = rsa_key(first.path());
    let made = [&first, &second]
        .map(|dist| package(dist.path(), "riscv64_riscv64", &["--key", key.to_str().unwrap()]));
    for [one, other] in [[&made[0].ipk, &made[1].ipk], [&made[0].apk, &made[1].apk]] {
        assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{}", one.display());
    }
    let head = fs::read(&made[0].ipk).unwrap();
    assert_eq!(head[..10], *b"\x1f\x8b\x08\0\0\0\0\0\x02\x03", "no name and no time in the gzip header");
}

#[test]
fn every_architecture_has_a_target_of_cross_build() {
    if !able(&TOOLS) {
        return;
    }
    let list = run(Command::new(repository("openwrt/package")).arg("--list"));
    let archs: Vec<_> = list.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(
        archs.iter().map(|(arch, _)| *arch).collect::<Vec<_>>(),
        [
            "mips_24kc",
            "mipsel_24kc",
            "mipsel_74kc",
            "arm_cortex-a7_neon-vfpv4",
            "arm_cortex-a15_neon-vfpv4",
            "arm_cortex-a9_vfpv3-d16",
            "aarch64_cortex-a53",
            "aarch64_cortex-a72",
            "aarch64_generic",
            "x86_64",
            "riscv64_riscv64",
        ]
    );
    for (arch, target) in archs {
        let triple = run(Command::new(repository("cross/build")).args(["--triple", target]));
        let processor = arch.split('_').next().unwrap();
        assert!(
            triple.starts_with(if processor == "x86" { "x86_64" } else { processor }),
            "{arch}: {triple}"
        );
    }
}

#[test]
fn a_program_that_is_not_there_is_named_with_the_build_that_makes_it() {
    if !able(&TOOLS) {
        return;
    }
    let empty = Folder::new();
    let out = Command::new(repository("openwrt/package"))
        .arg("arm_cortex-a9_vfpv3-d16")
        .env("CARGO_TARGET_DIR", empty.path())
        .output()
        .unwrap();
    assert!(!out.status.success());
    let program = empty.path().join("armv7-unknown-linux-musleabihf/release/meshseed");
    let expected = format!("{}: not there; cross/build armv7 makes it\n", program.display());
    assert_eq!(String::from_utf8_lossy(&out.stderr), expected);
}

/// Both packages of one run.
#[derive(Debug)]
struct Made {
    ipk: PathBuf,
    apk: PathBuf,
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What is packed as the program: some of one, since a debug build takes minutes to compress.
fn program() -> Vec<u8> {
    let mut program = fs::read(meshseed()).unwrap();
    program.truncate(1 << 15);
    program
}

fn original(path: &str) -> Vec<u8> {
    if path.is_empty() { program() } else { fs::read(repository(path)).unwrap() }
}

fn version() -> String {
    format!("{}-r{RELEASE}", env!("CARGO_PKG_VERSION"))
}

fn command(dist: &Path, arch: &str, more: &[&str]) -> Command {
    fs::write(dist.join("program"), program()).unwrap();
    let mut command = Command::new(repository("openwrt/package"));
    command
        .args([arch, "--release", RELEASE, "--program"])
        .arg(dist.join("program"))
        .arg("--dist")
        .arg(dist)
        .args(more)
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    command
}

fn package(dist: &Path, arch: &str, more: &[&str]) -> Made {
    let said = run(&mut command(dist, arch, more));
    let mut paths = said.lines().map(|line| {
        let (size, path) = line.trim().split_once(' ').unwrap();
        assert_eq!(size.replace(',', ""), fs::metadata(path).unwrap().len().to_string());
        PathBuf::from(path)
    });
    Made { ipk: paths.next().unwrap(), apk: paths.next().unwrap() }
}

/// Unpacks an .ipk into `outer`, `data` and `control` of a folder, and each tar beside them; the bytes of data.tar.
fn unpacked(ipk: &Path, folder: &Path) -> Vec<u8> {
    let untar = |archive: &Path, to: &str| {
        let to = folder.join(to);
        let _ = fs::remove_dir_all(&to);
        fs::create_dir_all(&to).unwrap();
        run(Command::new("tar").arg("-xpf").arg(archive).arg("--no-same-owner").arg("-C").arg(&to));
        to
    };
    let names = run(Command::new("tar").arg("-tzf").arg(ipk));
    assert_eq!(names, "./debian-binary\n./data.tar.gz\n./control.tar.gz\n");
    let outer = untar(ipk, "outer");
    assert_eq!(fs::read_to_string(outer.join("debian-binary")).unwrap(), "2.0\n");
    let [data, control] = ["data", "control"].map(|name| {
        let tar = gunzip(&outer.join(format!("{name}.tar.gz")));
        let path = folder.join(format!("{name}.tar"));
        fs::write(&path, &tar).unwrap();
        untar(&path, name);
        tar
    });
    assert!(control.len() < data.len());
    data
}

fn gunzip(path: &Path) -> Vec<u8> {
    let out = Command::new("gzip").arg("-dc").arg(path).output().unwrap();
    assert!(out.status.success(), "{}", path.display());
    out.stdout
}

/// Mode, owner and name of a tar's entries in their order; each has the time of the package.
fn listed(tar: &Path) -> Vec<String> {
    let mut command = Command::new("tar");
    command.args(["--utc", "--full-time", "--numeric-owner", "-tvf"]).arg(tar);
    let list = run(&mut command);
    let entry = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [mode, owner, _, "2023-11-14", "22:13:20", name] = words[..] else { panic!("{line}") };
        format!("{mode} {owner} {name}")
    };
    list.lines().map(entry).collect()
}

/// Paths, modes and contents of an .apk's files, after every hash, size, time, owner and order was checked.
fn installed(archive: &Archive) -> BTreeMap<String, (u64, Vec<u8>)> {
    let root = archive.root();
    let folders = root.field(2).items();
    let paths: Vec<_> = folders.iter().map(|folder| folder.field(1).text()).collect();
    assert_eq!(paths[0], "", "the root comes first");
    assert!(paths.is_sorted());
    for path in &paths[1..] {
        assert!(
            paths.contains(&path.rsplit_once('/').map_or("", |(parent, _)| parent)),
            "what {path} lies in"
        );
    }
    let owned = |entry: &Value| {
        let [mode, user, group] = entry.field(2).items() else { panic!("a mode and an owner") };
        assert_eq!([user.text(), group.text()], ["root", "root"]);
        mode.number()
    };
    let mut data = archive.data.iter();
    let mut files = BTreeMap::new();
    for (folder, path) in folders.iter().zip(paths) {
        assert_eq!(owned(folder), 0o755, "{path}");
        let names: Vec<_> = folder.field(3).items().iter().map(|file| file.field(1).text()).collect();
        assert!(names.is_sorted());
        for (number, file) in folder.field(3).items().iter().enumerate() {
            let (of, at, content) = data.next().expect("each file has its data");
            let name = file.field(1).text();
            assert_eq!((folders[of - 1].field(1).text(), at - 1), (path, number), "{name}");
            assert_eq!(file.field(3).number(), content.len() as u64, "{name}");
            assert_eq!(file.field(4).number(), EPOCH, "{name}");
            assert_eq!(file.field(5).bytes(), &Sha256::digest(content)[..], "{name}");
            assert_eq!(file.items().len(), 5, "{name} is no link");
            files.insert(format!("/{path}/{name}"), (owned(file), content.clone()));
        }
    }
    assert!(data.next().is_none());
    files
}

/// The names of dependencies on any version.
fn names(dependencies: &Value) -> Vec<&str> {
    let name = |dependency: &Value| dependency.items().len() == 1;
    assert!(dependencies.items().iter().all(name), "no versions");
    // The values live as long as what they were read from.
    dependencies.items().iter().map(|dependency| dependency.field(1).text()).collect()
}

/// Checks the one signature with openssl: the schema, the signature's head and the hash of the ADB are signed.
fn verify(archive: &Archive, public: &Path, folder: &Path) {
    let [signature] = &archive.signatures[..] else { panic!("one signature") };
    let der = Command::new("openssl")
        .args(["pkey", "-pubin", "-outform", "DER", "-in"])
        .arg(public)
        .output()
        .unwrap();
    assert!(der.status.success());
    assert_eq!(signature[..2], [0, 4], "version 0, SHA-512");
    // A key's name is the hash of its own bytes, which are the end of what openssl wraps them in.
    let named = (0..der.stdout.len()).any(|at| Sha512::digest(&der.stdout[at..])[..16] == signature[2..18]);
    assert!(named, "the key has this name");
    let mut signed = archive.schema.to_vec();
    signed.extend(&signature[..18]);
    signed.extend(Sha512::digest(&archive.adb));
    let [of, what] = ["signature", "signed"].map(|name| folder.join(name));
    fs::write(&of, &signature[18..]).unwrap();
    fs::write(&what, signed).unwrap();
    let said = run(Command::new("openssl")
        .args(["dgst", "-sha512", "-verify"])
        .arg(public)
        .arg("-signature")
        .arg(of)
        .arg(what));
    assert_eq!(said, "Verified OK\n");
}

fn ec_key(folder: &Path) -> PathBuf {
    key(folder, "ec", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"])
}

fn rsa_key(folder: &Path) -> PathBuf {
    key(folder, "rsa", &["RSA"])
}

fn ed25519_key(folder: &Path) -> PathBuf {
    key(folder, "feed", &["ed25519"])
}

fn key(folder: &Path, name: &str, kind: &[&str]) -> PathBuf {
    let path = folder.join(format!("{name}.pem"));
    run(Command::new("openssl").args(["genpkey", "-quiet", "-out"]).arg(&path).arg("-algorithm").args(kind));
    path
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
