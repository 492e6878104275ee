//! A certificate authority of the test's own, by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Folder, number, run};

/// Signs what it is asked to.
#[derive(Debug)]
pub struct Authority {
    folder: Folder,
    /// Its own certificate, as trust has it.
    pub certificate: PathBuf,
}

/// What kind of key a server has.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    Rsa,
    Curve,
}

/// Days for which it is valid.
pub const VALID: [&str; 2] = ["20240101000000Z", "20491231000000Z"];
pub const EXPIRED: [&str; 2] = ["20200101000000Z", "20230304000000Z"];
pub const EARLY: [&str; 2] = ["20480102000000Z", "20491231000000Z"];

impl Authority {
    pub fn new() -> Self {
        let folder = Folder::new();
        let certificate = folder.path().join("authority.pem");
        let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n\
            policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n";
        std::fs::write(folder.path().join("config"), config).expect("the folder is ours");
        std::fs::write(folder.path().join("index"), "").expect("the folder is ours");
        let authority = Self { folder, certificate };
        let name = format!("/CN=Authority {}", number());
        authority
            .openssl(&["req", "-x509", "-days", "30", "-subj", &name, "-out", "authority.pem"], Key::Curve);
        authority
    }

    /// The lines of nginx for a server with these names (`DNS:localhost,IP:127.0.0.1`).
    pub fn server(&self, names: &str, [from, to]: [&str; 2], key: Key) -> String {
        let id = format!("server{}", number());
        let [request, certificate, extensions] = ["csr", "pem", "ext"].map(|kind| format!("{id}.{kind}"));
        let text = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.path(&extensions), text).expect("the folder is ours");
        self.openssl(&["req", "-new", "-subj", &format!("/CN={id}"), "-out", &request, "-keyout", &id], key);
        let mut sign = Command::new("openssl");
        sign.args(["ca", "-config", "config", "-batch", "-notext", "-in", &request, "-out", &certificate]);
        sign.args(["-cert", "authority.pem", "-keyfile", "key", "-startdate", from, "-enddate", to]);
        sign.args(["-extfile", &extensions]);
        run(sign.current_dir(self.folder.path()));
        let [certificate, key] = [certificate, id].map(|name| self.path(&name));
        format!("ssl_certificate {}; ssl_certificate_key {};", certificate.display(), key.display())
    }

    fn openssl(&self, words: &[&str], key: Key) {
        let mut openssl = Command::new("openssl");
        openssl.args(words).arg("-nodes").args(match key {
            Key::Rsa => ["-newkey", "rsa:2048"].as_slice(),
            Key::Curve => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        });
        if !words.contains(&"-keyout") {
            openssl.args(["-keyout", "key"]);
        }
        run(openssl.current_dir(self.folder.path()));
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}
