//! One connection to a server, plain or under TLS: the client above it need not know which.
//!
//! Holds the socket, and what `tls` holds where it is used.
#![expect(clippy::disallowed_types, reason = "I/O shell")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::SystemTime;

use smol::Async;

use super::tls::Session;

/// Why there is no TLS with a server.
#[derive(Debug)]
pub enum Refused {
    /// In words.
    Said(Box<str>),
    /// The connection broke.
    Broken(io::Error),
}

/// A connection.
pub struct Link {
    socket: Async<TcpStream>,
    tls: Option<Session>,
    /// How many bytes make the socket readable.
    expecting: u32,
}

impl Link {
    /// Over a socket as it is.
    pub fn plain(socket: Async<TcpStream>) -> Link {
        Link { socket, tls: None, expecting: 1 }
    }

    /// Under TLS, with a server that proves at this time that it is `host`.
    pub async fn secure(socket: Async<TcpStream>, host: &str, now: SystemTime) -> Result<Link, Refused> {
        let tls = Some(Session::open(&socket, host, now).await?);
        Ok(Link { socket, tls, expecting: 1 })
    }

    /// Writes all of it.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            return tls.write_all(&self.socket, bytes).await;
        }
        while !bytes.is_empty() {
            match self.socket.get_ref().write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.socket.writable().await?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until there is something to read, or less than a record of it.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Reads as soon as something is there; nothing is the end.
    pub async fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.try_read(place) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable().await?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Reads what is there.
    pub fn try_read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.get_ref().read(place),
            Some(tls) => tls.read(self.socket.get_ref(), place),
        }
    }

    /// Whether a read that gave `n` bytes for a place of `room` took all that was there.
    pub fn is_drained(&self, n: usize, room: usize) -> bool {
        // A record that is begun or read already tells only when it is asked again.
        self.tls.is_none() && n < room
    }

    /// Nothing has come that was not read.
    pub fn is_empty(&mut self) -> bool {
        self.tls.as_mut().is_none_or(Session::is_empty)
    }

    /// Sets how many bytes of those that are sure to come make it readable. A socket that can not do it wakes us more
    /// often.
    pub fn expect(&mut self, bytes: u32) {
        let begun = self.tls.as_ref().map_or(0, Session::begun);
        let bytes = bytes.saturating_sub(begun).max(1);
        if bytes != self.expecting && crate::sys::expect_bytes(self.socket.get_ref().as_fd(), bytes).is_ok() {
            self.expecting = bytes;
        }
    }
}
