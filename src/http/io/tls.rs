//! TLS over a socket, as the client's side of it: rustls speaks it, this moves its bytes.
//!
//! Read first: RFC 8446 §5.1 (records); whom we believe is in `trust`. Omits: resumption (a tracker is asked twice an
//! hour, and tickets are dead by then), certificates of our own. Holds what rustls does: 15 KiB while hands are shaken,
//! 50 while a large body is under way.
#![expect(clippy::disallowed_types, reason = "I/O shell")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ClientConnection, Error};
use smol::Async;

use super::link::Refused;
use super::trust::Judge;
use crate::clock::{time_of_day, utc};

/// Bytes before a record's content: its kind, a version, and how long it is.
const HEAD: usize = 5;

/// Reads of a socket in a row that gave nothing: records may be empty, and a server that sends nothing else is not to hold
/// up all others. One of the usual size takes five.
const TURN: usize = 16;

/// TLS with a server that has proved who it is.
pub struct Session {
    connection: Box<ClientConnection>,
    records: Records,
}

/// Where in the stream of records the last byte lies that was read.
#[derive(Default)]
struct Records {
    head: [u8; HEAD],
    /// Bytes of the record, its head included.
    seen: usize,
}

/// A socket, and what is read of it.
struct Watched<'a> {
    socket: &'a TcpStream,
    records: &'a mut Records,
}

/// The time at which a certificate is judged.
#[derive(Debug)]
struct Now(UnixTime);

impl Session {
    /// Shakes hands. The arithmetic, and the reading of certificates, is left to another thread: on a small router
    /// they take longer than peers should wait.
    pub async fn open(socket: &Async<TcpStream>, host: &str, now: SystemTime) -> Result<Session, Refused> {
        let connection = ClientConnection::new(config(now)?, name(host)?).map_err(|error| said(&error))?;
        let mut session = Session { connection: Box::new(connection), records: Records::default() };
        session.flush(socket).await.map_err(Refused::Broken)?;
        while session.connection.is_handshaking() {
            socket.readable().await.map_err(Refused::Broken)?;
            match session.take_in(socket.get_ref()) {
                Ok(0) => return Err(Refused::Said("the server ends the connection instead of TLS".into())),
                Ok(_) => {}
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(Refused::Broken(error)),
            }
            let (back, result) = smol::unblock(move || {
                let result = session.connection.process_new_packets();
                (session, result)
            })
            .await;
            session = back;
            // What we do not like the server is told.
            let sent = session.flush(socket).await;
            result.map_err(|error| said(&error))?;
            sent.map_err(Refused::Broken)?;
        }
        Ok(session)
    }

    /// Writes all of it.
    pub async fn write_all(&mut self, socket: &Async<TcpStream>, bytes: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(bytes)?;
        self.flush(socket).await
    }

    /// Reads what is there.
    pub fn read(&mut self, socket: &TcpStream, place: &mut [u8]) -> io::Result<usize> {
        let mut turns = 0;
        loop {
            match self.connection.reader().read(place) {
                // The socket may have more: whoever waits for it hears so, when others have had their turn.
                Err(error) if error.kind() == ErrorKind::WouldBlock && turns == TURN => return Err(error),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // It ended without a farewell. As without TLS: what is cut short shows in what came.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            turns += 1;
            self.take_in(socket)?;
            let state = self.connection.process_new_packets().map_err(|error| broken(&error))?;
            if state.tls_bytes_to_write() > 0
                && let Err(error) = self.connection.write_tls(&mut &*socket)
                && !is_passing(&error)
            {
                return Err(error);
            }
        }
    }

    /// Nothing has come that was not read.
    pub fn is_empty(&mut self) -> bool {
        self.begun() == 0
            && self.connection.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() == 0)
    }

    /// Bytes of a record that have come and can not be read before its last one has.
    pub fn begun(&self) -> u32 {
        u32::try_from(self.records.seen).unwrap_or(0)
    }

    fn take_in(&mut self, socket: &TcpStream) -> io::Result<usize> {
        self.connection.read_tls(&mut Watched { socket, records: &mut self.records })
    }

    async fn flush(&mut self, socket: &Async<TcpStream>) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut socket.get_ref()) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable().await?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => _ = result?,
            }
        }
        Ok(())
    }
}

impl Records {
    /// These bytes were read.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let lacking = match HEAD.checked_sub(self.seen) {
                Some(lacking @ 1..) => lacking,
                _ => self.length() - self.seen,
            };
            let n = lacking.min(bytes.len());
            if let Some(place) = self.head.get_mut(self.seen..self.seen + n) {
                place.copy_from_slice(&bytes[..n]);
            }
            self.seen += n;
            bytes = &bytes[n..];
            if self.seen >= HEAD && self.seen == self.length() {
                self.seen = 0;
            }
        }
    }

    /// Bytes of the record whose head is there.
    fn length(&self) -> usize {
        let [.., high, low] = self.head;
        HEAD + usize::from(u16::from_be_bytes([high, low]))
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        let n = self.socket.read(place)?;
        self.records.pass(&place[..n]);
        Ok(n)
    }
}

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// How we speak TLS, where the clock is such that a certificate can be judged.
fn config(now: SystemTime) -> Result<Arc<ClientConfig>, Refused> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if time_of_day(now).is_none() {
        let now = date(since.as_secs());
        let why =
            format!("the clock of this machine is not set (it says {now}): no certificate can be judged");
        return Err(Refused::Said(why.into()));
    }
    let provider = default_provider();
    let judge = Judge::new(provider.signature_verification_algorithms);
    let now = Now(UnixTime::since_unix_epoch(since));
    let mut config = ClientConfig::builder_with_details(Arc::new(provider), Arc::new(now))
        .with_safe_default_protocol_versions()
        .map_err(|error| said(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn name(host: &str) -> Result<ServerName<'static>, Refused> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| Refused::Said("no certificate can have the server's name".into()))
}

/// Whether the same will do later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn broken(error: &Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason(error))
}

fn said(error: &Error) -> Refused {
    Refused::Said(reason(error).into())
}

/// What is wrong, in words that say who can do something about it.
fn reason(error: &Error) -> String {
    let certificate = match error {
        Error::InvalidCertificate(certificate) => certificate,
        Error::InvalidMessage(_) => return "the server does not speak TLS on this port".into(),
        Error::PeerIncompatible(_) => return "the server speaks no kind of TLS that we do".into(),
        Error::AlertReceived(alert) => return format!("the server refuses TLS with us: {alert:?}"),
        error => return format!("TLS: {error}"),
    };
    match certificate {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the server's certificate expired on {}; by this machine's clock it is {}",
            date(not_after.as_secs()),
            date(time.as_secs())
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the server's certificate is valid from {} on; by this machine's clock it is {}",
            date(not_before.as_secs()),
            date(time.as_secs())
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another name".into()
        }
        CertificateError::UnknownIssuer => {
            "the server's certificate is signed by nobody whom this machine trusts".into()
        }
        CertificateError::Other(error) => format!("the server's certificate is not accepted: {}", error.0),
        error => format!("the server's certificate is not accepted: {error:?}"),
    }
}

/// A day.
fn date(seconds: u64) -> String {
    let text = i64::try_from(seconds).ok().and_then(utc);
    text.and_then(|text| text.split_once(' ').map(|(day, _)| day.to_owned()))
        .unwrap_or_else(|| "never".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_nobody_has_set_is_named_as_what_is_wrong() {
        let Err(Refused::Said(why)) = config(at(86_400)) else { panic!("1970 is no time for certificates") };
        assert!(why.contains("the clock of this machine is not set (it says 1970-01-02)"), "{why}");
        assert!(config(at(1_800_000_000)).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_with_days() {
        let day = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400));
        let expired = CertificateError::ExpiredContext { time: day(20_000), not_after: day(19_999) };
        let text = reason(&Error::InvalidCertificate(expired));
        assert!(text.contains("expired on 2024-10-03") && text.ends_with("it is 2024-10-04"), "{text}");
        let early = CertificateError::NotValidYetContext { time: day(20_000), not_before: day(20_001) };
        let text = reason(&Error::InvalidCertificate(early));
        assert!(text.contains("valid from 2024-10-05 on") && text.ends_with("it is 2024-10-04"), "{text}");
    }

    #[test]
    fn records_are_followed_however_their_bytes_come() {
        let record = |length: u16| {
            let mut bytes = vec![23, 3, 3];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.resize(HEAD + usize::from(length), 255);
            bytes
        };
        let stream = [record(3), record(0), record(300)].concat();
        for step in [1, 2, 7, 1000] {
            let mut records = Records::default();
            for part in stream.chunks(step) {
                records.pass(part);
            }
            assert_eq!(records.seen, 0, "steps of {step}");
            records.pass(&stream[..6]);
            assert_eq!(records.seen, 6);
        }
    }
}
