//! What a package's scripts do on the router, run by busybox's shell in a root of its own, where OpenWrt's functions.sh is
//! one that does what base-files does and writes it down.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Need::{Program, Root};
use crate::common::adb::Archive;
use crate::common::{Folder, able, run};
use crate::{TOOLS, installed, package, unpacked};

/// Two root directories below `roots`, one for each package manager, with a package in its database.
#[derive(Debug)]
struct Router {
    folder: Folder,
    name: &'static str,
}

/// The parts of base-files' functions.sh that a package's scripts call, in its order.
const FUNCTIONS: &str = r#"
killall() { echo "killall $*" >> /log; }
services() { grep -s '^/etc/init.d/' "$root/lib/apk/packages/$pkgname.list" "$root/usr/lib/opkg/info/$pkgname.list" | sed 's/.*://'; }
name() { root=$IPKG_INSTROOT; [ -n "$pkgname" ] || pkgname=$(basename "${1%.*}"); }
add_group_and_user() { echo "user $(cat "$root/lib/apk/packages/$pkgname.rusers")" >> /log; }
default_postinst() {
  name "$1"
  if [ -e "$root/usr/lib/opkg/info/$pkgname.list" ]; then
    echo "user $(sed -n 's/^Require-User: //p' "$root/usr/lib/opkg/info/$pkgname.control")" >> /log
  fi
  if [ -f "$root/usr/lib/opkg/info/$pkgname.postinst-pkg" ]; then
    ( . "$root/usr/lib/opkg/info/$pkgname.postinst-pkg" )
  fi
  for service in $(services); do
    if [ -n "$root" ]; then
      echo "rc.common $service enable" >> /log
    else
      [ "$PKG_UPGRADE" = 1 ] || "$service" enable
      "$service" start
    fi
  done
}
default_prerm() {
  name "$1"
  for service in $(services); do
    [ "$PKG_UPGRADE" = 1 ] || "$service" disable
    "$service" stop
  done
}
"#;

const USER: &str = "user meshseed=6881:meshseed=6881\n";

#[test]
fn opkg_makes_the_user_tells_the_bus_and_then_starts_the_daemon() {
    let Some(router) = Router::new(&[]) else { return };
    router.log(
        "postinst configure",
        &[],
        &format!("{USER}killall -HUP ubusd\nmeshseed enable\nmeshseed start\n"),
    );
}

#[test]
fn opkg_stops_the_old_daemon_of_an_upgrade_and_starts_the_new_one() {
    let Some(router) = Router::new(&[]) else { return };
    router.log("prerm upgrade", &["PKG_UPGRADE=1"], "meshseed stop\n");
    router.log(
        "postinst configure",
        &["PKG_UPGRADE=1"],
        &format!("{USER}killall -HUP ubusd\nmeshseed restart\nmeshseed start\n"),
    );
}

#[test]
fn apk_makes_the_user_starts_the_daemon_and_tells_the_bus() {
    let Some(router) = Router::new(&[]) else { return };
    router.log("post-install", &[], &format!("{USER}meshseed enable\nmeshseed start\nkillall -HUP ubusd\n"));
}

#[test]
fn apk_restarts_the_running_daemon_of_an_upgrade_which_it_did_not_stop() {
    let Some(router) = Router::new(&[]) else { return };
    router.log("post-upgrade", &[], &format!("{USER}meshseed start\nkillall -HUP ubusd\nmeshseed restart\n"));
}

#[test]
fn removal_disables_and_stops_the_daemon_and_touches_nothing_else() {
    for flags in [&[][..], &["--nossl"]] {
        let Some(router) = Router::new(flags) else { return };
        for script in ["prerm remove", "pre-deinstall"] {
            router.log(script, &[], "meshseed disable\nmeshseed stop\n");
        }
    }
}

#[test]
fn the_small_variant_is_installed_under_its_own_name() {
    let Some(router) = Router::new(&["--nossl"]) else { return };
    router.log(
        "postinst configure",
        &[],
        &format!("{USER}killall -HUP ubusd\nmeshseed enable\nmeshseed start\n"),
    );
    router.log("post-upgrade", &[], &format!("{USER}meshseed start\nkillall -HUP ubusd\nmeshseed restart\n"));
}

#[test]
fn an_image_that_is_being_built_is_given_the_user_and_the_daemon_and_nothing_runs() {
    let Some(router) = Router::new(&[]) else { return };
    let scripts = ["postinst configure", "post-install", "post-upgrade", "prerm remove", "pre-deinstall"];
    for script in scripts {
        router.log(script, &["IPKG_INSTROOT=/no-openwrt"], "");
    }
    for script in &scripts[..3] {
        router.log(
            script,
            &["IPKG_INSTROOT=/image"],
            &format!("{USER}rc.common /etc/init.d/meshseed enable\n"),
        );
        router.log(script, &["IPKG_NO_SCRIPT=1"], "");
    }
}

#[test]
fn shellcheck_has_nothing_to_say_of_the_scripts() {
    if !able(&[Program("shellcheck")]) {
        return;
    }
    let Some(router) = Router::new(&[]) else { return };
    let scripts = ["postinst", "postinst-pkg", "prerm", "post-install", "post-upgrade", "pre-deinstall"];
    // What is sourced is OpenWrt's.
    run(Command::new("shellcheck").args(["--shell=dash", "--exclude=SC1091"]).args(scripts.map(|name| {
        let (root, path) = router.script(name);
        root.join(&path[1..])
    })));
}

impl Router {
    /// A root for each manager with the package's scripts and lists, busybox, and stubs that write down what is called.
    fn new(flags: &[&str]) -> Option<Self> {
        if !able(&TOOLS) || !able(&[Root, Program("busybox")]) {
            return None;
        }
        let folder = Folder::new();
        let made = package(folder.path(), "mips_24kc", flags);
        let name = if flags.is_empty() { "meshseed" } else { "meshseed-nossl" };
        let router = Self { folder, name };
        for manager in ["opkg", "apk"] {
            furnish(&router.root(manager));
        }

        unpacked(&made.ipk, router.folder.path());
        let info = router.root("opkg").join("usr/lib/opkg/info");
        for entry in fs::read_dir(router.folder.path().join("control")).unwrap() {
            let entry = entry.unwrap();
            keep(&info, &format!("{name}.{}", entry.file_name().display()), &fs::read(entry.path()).unwrap());
        }
        let paths: String = crate::FILES.iter().map(|(path, ..)| format!("{path}\n")).collect();
        keep(&info, &format!("{name}.list"), paths.as_bytes());

        let archive = Archive::read(&made.apk);
        let root = archive.root();
        let scripts = router.root("apk").join("scripts");
        for (field, script) in [(3, "post-install"), (4, "pre-deinstall"), (7, "post-upgrade")] {
            keep(&scripts, script, root.field(3).field(field).bytes());
        }
        let present = root.field(3).items().iter().filter(|script| !script.bytes().is_empty()).count();
        assert_eq!(present, 3, "no other scripts");
        for (path, (_, content)) in installed(&archive) {
            if let Some(list) = path.strip_prefix("/lib/apk/packages/") {
                keep(&router.root("apk").join("lib/apk/packages"), list, &content);
            }
        }
        for (manager, lists) in [("opkg", "usr/lib/opkg/info"), ("apk", "lib/apk/packages")] {
            let root = router.root(manager);
            run(Command::new("cp")
                .arg("-r")
                .arg("--parents")
                .args([lists, "lib/functions.sh", "image"])
                .current_dir(root));
        }
        Some(router)
    }

    fn root(&self, manager: &str) -> PathBuf {
        self.folder.path().join("roots").join(manager)
    }

    /// The root that a script of the package belongs to, and its path there.
    fn script(&self, name: &str) -> (PathBuf, String) {
        if name.starts_with("pre-") || name.starts_with("post-") {
            (self.root("apk"), format!("/scripts/{name}"))
        } else {
            (self.root("opkg"), format!("/usr/lib/opkg/info/{}.{name}", self.name))
        }
    }

    /// Runs a script with its arguments in an environment, and compares what was called.
    #[track_caller]
    fn log(&self, script: &str, environment: &[&str], expected: &str) {
        let (name, argument) = script.split_once(' ').unwrap_or((script, "1.0"));
        let (root, path) = self.script(name);
        fs::write(root.join("log"), "").unwrap();
        let said = run(Command::new("chroot")
            .arg(&root)
            .args(["/bin/busybox", "env", "-i", "PATH=/bin"])
            .args(environment)
            .args(["/bin/sh", &path, argument]));
        assert_eq!(said, "", "{script} says nothing");
        assert_eq!(fs::read_to_string(root.join("log")).unwrap(), expected, "{script} {environment:?}");
    }
}

/// Busybox with its libraries, functions.sh, and stubs of what scripts call.
fn furnish(root: &Path) {
    for folder in ["bin", "dev", "lib", "etc/init.d", "image"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let busybox = run(Command::new("sh").args(["-c", "command -v busybox"]));
    fs::copy(busybox.trim(), root.join("bin/busybox")).unwrap();
    let libraries = Command::new("ldd").arg(busybox.trim()).output().unwrap(); // none if it is static
    for word in
        String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let to = root.join(&word[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(word, to).unwrap();
    }
    for applet in ["sh", "sed", "grep", "cat", "basename"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    keep(&root.join("dev"), "null", b"");
    keep(&root.join("etc/init.d"), "meshseed", b"#!/bin/sh\necho \"meshseed $*\" >> /log\n");
    keep(&root.join("lib"), "functions.sh", FUNCTIONS.as_bytes());
}

fn keep(folder: &Path, name: &str, content: &[u8]) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(name), content).unwrap();
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}
