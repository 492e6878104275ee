//! Whom we believe: the authorities whose certificates the system has.
//!
//! Read first: RFC 5280 §6. Holds nothing: for each handshake those authorities alone are read that the server's
//! certificates name as their issuers, one or two of some 140, instead of keeping a hundred kilobytes for all of them.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use webpki::{EndEntityCert, anchor_from_trusted_cert};

/// Names a file that is believed instead of the system's, as other programs have it.
const VARIABLE: &str = "SSL_CERT_FILE";

/// Where systems keep all of them in one file: OpenWrt, Debian, Alpine; Fedora; OpenSUSE.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Where they lie one by one, and where a mesh puts its own.
const FOLDER: &str = "/etc/ssl/certs";

/// Bytes of a file that may hold certificates: all the world's authorities have 250 KB.
const MAX_FILE: u64 = 4 << 20;

/// Authorities of one handshake: more of one name nobody has.
const MAX_ROOTS: usize = 16;

/// Judges what servers prove.
#[derive(Debug)]
pub struct Judge {
    algorithms: WebPkiSupportedAlgorithms,
}

/// Nobody is believed.
#[derive(Debug)]
struct Nobody(Option<PathBuf>);

impl Judge {
    /// Of signatures by these algorithms.
    pub fn new(algorithms: WebPkiSupportedAlgorithms) -> Judge {
        Judge { algorithms }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let mut search = Search { wanted: Vec::new(), roots: RootCertStore::empty(), seen: false };
        for der in std::iter::once(end_entity).chain(intermediates) {
            search.wanted.extend(EndEntityCert::try_from(der).map(|read| read.issuer().to_vec()));
        }
        search.look().map_err(|nobody| CertificateError::Other(OtherError(Arc::new(nobody))))?;
        let (roots, algorithms) = (&search.roots, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A look through the system's certificates.
struct Search {
    /// Names of authorities.
    wanted: Vec<Vec<u8>>,
    /// Those that were found.
    roots: RootCertStore,
    /// There are certificates at all.
    seen: bool,
}

impl Search {
    /// Looks in the file that the user names, else in the system's, else in its folder.
    fn look(&mut self) -> Result<(), Nobody> {
        let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        if let Some(path) = &named {
            self.file(path);
        } else {
            BUNDLES.iter().map(Path::new).find(|path| self.file(path));
            if self.roots.is_empty() {
                let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
                entries.for_each(|entry| _ = self.file(&entry.path()));
            }
        }
        if self.seen { Ok(()) } else { Err(Nobody(named)) }
    }

    /// Looks in one file. Whether it is one that can be read.
    fn file(&mut self, path: &Path) -> bool {
        // What is no file, such as a pipe, must not be opened.
        if !path.metadata().is_ok_and(|data| data.is_file() && data.len() <= MAX_FILE) {
            return false;
        }
        let Ok(file) = File::open(path) else { return false };
        for certificate in CertificateDer::pem_reader_iter(file) {
            match certificate {
                Ok(certificate) => self.certificate(&certificate),
                Err(pem::Error::Io(_)) => return false,
                // One that is broken leaves the others as they are.
                Err(_) => {}
            }
        }
        true
    }

    fn certificate(&mut self, certificate: &CertificateDer<'_>) {
        let Ok(anchor) = anchor_from_trusted_cert(certificate) else { return };
        self.seen = true;
        let wanted = self.wanted.iter().any(|name| **name == *anchor.subject);
        if wanted && self.roots.len() < MAX_ROOTS {
            self.roots.roots.push(anchor.to_owned());
        }
    }
}

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "{}, which {VARIABLE} names, has no certificates", path.display()),
            None => write!(
                f,
                "this machine has no certificates of authorities (install ca-bundle or ca-certificates)"
            ),
        }
    }
}

impl std::error::Error for Nobody {}
