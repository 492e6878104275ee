//! The feed's Makefile, read by make itself.

use std::fs;
use std::process::Command;

use crate::common::Need::Program;
use crate::common::{Folder, able, run};
use crate::{EPOCH, TOOLS, package, program, repository, unpacked};

/// What make itself reads in the feed's Makefile, with the rest of OpenWrt's build left out, is what was packed.
#[test]
fn the_feeds_makefile_installs_what_was_packed_with_our_profile() {
    if !able(&TOOLS) || !able(&[Program("make")]) {
        return;
    }
    let dist = Folder::new();
    let top = dist.path().join("top");
    let rust = top.join("feeds/packages/lang/rust");
    fs::create_dir_all(&rust).unwrap();
    fs::write(
        top.join("rules.mk"),
        "INCLUDE_DIR:=$(TOPDIR)\nINSTALL_DIR:=install -d -m0755\nINSTALL_BIN:=install -m0755\n\
         INSTALL_DATA:=install -m0644\nINSTALL_CONF:=install -m0600\n",
    )
    .unwrap();
    fs::write(
        top.join("package.mk"),
        "define BuildPackage\n$(eval $(call Package/$(1)))\n\
         $(1)/fields:\n\t@printf '%s|' $(1) '$(PKG_VERSION)-r$(PKG_RELEASE)' '$(DEPENDS)' '$(PROVIDES)' '$(CONFLICTS)' \
         '$(VARIANT)' '$(USERID)' '$(call Package/$(1)/conffiles)'\n\
         $(1)/install:\n\t$$(call Package/$(1)/install,$$(TO))\n\
         export $(1)_postinst=$$(call Package/$(1)/postinst)\n$(1)/postinst:\n\t@printenv $(1)_postinst\n\
         endef\n",
    )
    .unwrap();
    // As the feed sets them.
    fs::write(
        rust.join("rust-package.mk"),
        "RUST_ARCH_DEPENDS:=@(mips||mipsel)\nCARGO_RUSTFLAGS+=-Ctarget-feature=-crt-static\n\
         CARGO_PKG_VARS=CARGO_PROFILE_RELEASE_PANIC=unwind CARGO_PROFILE_RELEASE_OPT_LEVEL=z \
         CARGO_PROFILE_RELEASE_LTO=true RUSTFLAGS=\"$(CARGO_RUSTFLAGS)\"\nCARGO_PKG_ARGS=--locked\n\
         environment:\n\t@$(CARGO_PKG_VARS) env; echo arguments=$(CARGO_PKG_ARGS)\n",
    )
    .unwrap();
    let bin = dist.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("meshseed"), program()).unwrap();
    let make = |target: &str, more: &[&str]| {
        run(Command::new("make")
            .args(["-s", "-f"])
            .arg(repository("openwrt/Makefile"))
            .arg(format!("TOPDIR={}", top.display()))
            .arg(format!("PKG_BUILD_DIR={}", env!("CARGO_MANIFEST_DIR")))
            .arg(format!("PKG_INSTALL_DIR={}", dist.path().display()))
            .args(more)
            .arg(target))
    };

    let cargo = env!("CARGO_PKG_VERSION");
    assert_eq!(
        make("meshseed/fields", &[]),
        format!(
            "meshseed|{cargo}-r1|@(mips||mipsel) +ca-bundle|||tls|meshseed=6881:meshseed=6881|/etc/config/meshseed|"
        )
    );
    assert_eq!(
        make("meshseed-nossl/fields", &[]),
        format!(
            "meshseed-nossl|{cargo}-r1|@(mips||mipsel)|meshseed|meshseed|nossl|meshseed=6881:meshseed=6881|/etc/config/meshseed|"
        )
    );

    for (name, flags) in [("meshseed", &[][..]), ("meshseed-nossl", &["--nossl"])] {
        let made = package(dist.path(), "mips_24kc", flags);
        let _ = fs::remove_dir_all(dist.path().join("outer"));
        let data = unpacked(&made.ipk, dist.path());
        let to = dist.path().join(name);
        make(&format!("{name}/install"), &[&format!("TO={}", to.display())]);
        let out = dist.path().join("made.tar");
        run(Command::new("tar")
            .args(["--format=gnu", "--numeric-owner", "--owner=0", "--group=0", "--sort=name", "--mode=u+w"])
            .arg(format!("--mtime=@{EPOCH}"))
            .arg("-cpf")
            .arg(&out)
            .arg("-C")
            .arg(&to)
            .arg("."));
        assert!(fs::read(out).unwrap() == data, "{name}");
        assert_eq!(
            make(&format!("{name}/postinst"), &[]),
            fs::read_to_string(dist.path().join("control/postinst-pkg")).unwrap()
        );
    }

    let profile = fs::read_to_string(repository("Cargo.toml")).unwrap();
    let profile = profile.split("[profile.release]\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let environment = make("environment", &["ARCH=mipsel", "BUILD_VARIANT=tls"]);
    for line in profile.lines() {
        let (key, value) = line.split('#').next().unwrap().split_once('=').unwrap();
        let key = key.trim().to_uppercase().replace('-', "_");
        let expected = format!("CARGO_PROFILE_RELEASE_{key}={}\n", value.trim().trim_matches('"'));
        assert!(environment.contains(&expected), "{expected}");
    }
    assert!(
        environment.contains("\nRUSTFLAGS=-Ctarget-feature=-crt-static --cfg=fix_y2038\n"),
        "{environment}"
    );
    assert!(environment.ends_with("arguments=--locked\n"));
    let environment = make("environment", &["ARCH=aarch64", "BUILD_VARIANT=nossl"]);
    assert!(environment.contains("\nRUSTFLAGS=-Ctarget-feature=-crt-static\n"));
    assert!(environment.ends_with("arguments=--locked --no-default-features\n"));
}
