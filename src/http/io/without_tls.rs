//! What stands for `tls` in a build without it: nobody ever has a session.
#![expect(clippy::disallowed_types, reason = "I/O shell")]

use std::io;
use std::net::TcpStream;
use std::time::SystemTime;

use smol::Async;

use super::link::Refused;
use crate::http::NO_TLS;

/// TLS with a server.
pub enum Session {}

impl Session {
    /// There is none to be had.
    #[expect(clippy::unused_async, reason = "the same call as that of a build with TLS")]
    pub async fn open(_: &Async<TcpStream>, _: &str, _: SystemTime) -> Result<Session, Refused> {
        Err(Refused::Said(NO_TLS.into()))
    }

    /// Writes all of it.
    #[expect(clippy::unused_async, reason = "the same call as that of a build with TLS")]
    pub async fn write_all(&mut self, _: &Async<TcpStream>, _: &[u8]) -> io::Result<()> {
        match *self {}
    }

    /// Reads what is there.
    pub fn read(&mut self, _: &TcpStream, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    /// Nothing has come that was not read.
    pub fn is_empty(&mut self) -> bool {
        match *self {}
    }

    /// Bytes of a record that have come and can not be read before its last one has.
    pub fn begun(&self) -> u32 {
        match *self {}
    }
}
