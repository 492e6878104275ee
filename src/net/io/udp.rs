//! The one UDP port: a socket for each address on which we listen for TCP too, shared by trackers, the DHT and those who
//! try uTP.
//!
//! Read first: `net::datagram`, which tells apart what comes. Who tries uTP gets its reset and comes by TCP at once;
//! without one it would wait for some seconds. Answers go out from the address that was asked, or nobody would know them:
//! a router has many. Holds one task, the last 32 who may be answered, and for each exchange with a tracker who waits.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "I/O shell")]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use async_io::Async;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use rustix::net::sockopt::ipv6_v6only;

use crate::daemon::House;
use crate::daemon::executor::Task;
use crate::net::datagram::{Datagram, tell_apart};
use crate::net::{Canonical, Family, Host, plain};
use crate::rate::Bucket;

/// Bytes of a datagram that are read: what goes over a link in one piece. Of a longer one the rest is lost.
const MAX_DATAGRAM: usize = 2048;

/// Datagrams of one socket that are read before the others have their turn.
const TURN: usize = 32;

/// Datagrams after which nobody is answered any more.
const MAX_ASKED: usize = 32;

/// Resets a second, and at once: more than all peers that a router can serve ask for.
const RESETS: (u64, u64) = (20, 100);

/// The sockets, and who waits for an answer.
pub struct Udp {
    /// Those bound to an address before those bound to all.
    sockets: RefCell<Vec<Socket>>,
    waiting: RefCell<Vec<Waiting>>,
    /// Who asked lately, and at which address of ours.
    asked: RefCell<Vec<(SocketAddr, IpAddr)>>,
    resets: RefCell<Bucket>,
    task: RefCell<Option<Task>>,
}

struct Socket {
    address: SocketAddr,
    socket: Async<UdpSocket>,
    /// An IPv6 socket that IPv4 comes and goes through as well.
    both: bool,
}

/// Somebody who waits for an answer.
struct Waiting {
    from: SocketAddr,
    transaction: u32,
    answer: Rc<Slot>,
}

/// Where an answer is put.
#[derive(Default)]
struct Slot {
    datagram: Cell<Option<Box<[u8]>>>,
    waker: Cell<Option<Waker>>,
}

/// An answer that will come, or not.
pub struct Awaited(Rc<Slot>);

impl Future for Awaited {
    type Output = Box<[u8]>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Box<[u8]>> {
        let datagram = self.0.datagram.take();
        if datagram.is_none() {
            self.0.waker.set(Some(cx.waker().clone()));
        }
        datagram.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Udp {
    /// No socket yet.
    pub fn new() -> Udp {
        Udp {
            sockets: RefCell::default(),
            waiting: RefCell::default(),
            asked: RefCell::default(),
            resets: RefCell::new(Bucket::new(RESETS.0, RESETS.1, Instant::now())),
            task: RefCell::default(),
        }
    }

    /// Opens sockets on these addresses and closes all others. One that cannot be opened is nothing to the rest.
    pub fn open(&self, addresses: &[SocketAddr]) {
        let mut sockets = self.sockets.borrow_mut();
        sockets.retain(|socket| addresses.contains(&socket.address));
        for &address in addresses {
            if sockets.iter().any(|socket| socket.address == address) {
                continue;
            }
            match Async::<UdpSocket>::bind(address) {
                Ok(socket) => {
                    // Those with an address of their own come first.
                    let own = |socket: &Socket| !socket.address.host().is_unspecified();
                    let socket = Socket::new(address, socket);
                    let at = if own(&socket) { sockets.partition_point(own) } else { sockets.len() };
                    sockets.insert(at, socket);
                }
                Err(error) => log::warn!("no UDP on {address}: {error}"),
            }
        }
    }

    /// The same, and reads what comes from now on.
    pub fn listen(&self, house: &Rc<House>, addresses: &[SocketAddr]) {
        self.open(addresses);
        *self.task.borrow_mut() = Some(house.task(read(house.clone())));
    }

    /// Sends a datagram without waiting: to one who asked lately from where he asked, to others from where
    /// the system would send.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let sockets = self.sockets.borrow();
        let family = Family::of(to.host());
        let able: Vec<&Socket> = sockets.iter().filter(|socket| socket.serves(family)).collect();
        let asked = self.asked.borrow().iter().rev().find(|(from, _)| *from == to).map(|(_, at)| *at);
        // Whoever is asked from an address of another link may have no way back to it.
        let source = if able.len() > 1 { asked.or_else(|| source(to)) } else { None };
        let fits = |socket: &&&Socket| Some(socket.address.host()) == source;
        let mut sent = Err(io::ErrorKind::AddrNotAvailable.into());
        for socket in able.iter().filter(fits).chain(able.iter().filter(|socket| !fits(socket))) {
            // The address may be gone by now.
            sent = socket.send(datagram, to, asked).or_else(|_| socket.send(datagram, to, None));
            if sent.is_ok() {
                break;
            }
        }
        sent
    }

    /// Whether there is a socket for such addresses.
    pub fn has(&self, family: Family) -> bool {
        self.sockets.borrow().iter().any(|socket| socket.serves(family))
    }

    /// What this tracker will answer in the transaction of this number. Whoever drops it does not wait any more.
    pub fn answer(&self, from: SocketAddr, transaction: u32) -> Awaited {
        let answer: Rc<Slot> = Rc::default();
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|other| Rc::strong_count(&other.answer) > 1);
        waiting.push(Waiting { from, transaction, answer: answer.clone() });
        Awaited(answer)
    }

    /// Hands a tracker's answer to whoever waits for it: nobody, if it comes from elsewhere or with another number.
    fn answered(&self, datagram: &[u8], from: SocketAddr, transaction: u32) {
        let mut waiting = self.waiting.borrow_mut();
        let place = waiting.iter().position(|waiting| {
            let asked = waiting.from;
            waiting.transaction == transaction && (asked.host(), asked.port()) == (from.host(), from.port())
        });
        if let Some(place) = place {
            let answer = waiting.swap_remove(place).answer;
            answer.datagram.set(Some(datagram.into()));
            if let Some(waker) = answer.waker.take() {
                waker.wake();
            }
        }
    }

    /// Reads what has come and hands on what is the DHT's; ready if anything did.
    fn poll_read(&self, cx: &mut Context<'_>, mut dht: impl FnMut(&[u8], SocketAddr, Instant)) -> Poll<()> {
        let mut came = Poll::Pending;
        let mut buffer = [0; MAX_DATAGRAM];
        for socket in &*self.sockets.borrow() {
            if socket.socket.poll_readable(cx).is_pending() {
                continue;
            }
            came = Poll::Ready(());
            let now = Instant::now();
            for _ in 0..TURN {
                match socket.receive(&mut buffer) {
                    Ok((len, from, at)) => {
                        let datagram = &buffer[..len];
                        match tell_apart(datagram) {
                            Datagram::Dht => {
                                self.asked_by(from, at);
                                dht(datagram, from, now);
                            }
                            Datagram::Tracker(transaction) => self.answered(datagram, from, transaction),
                            Datagram::Connect(reset) => self.refuse(socket, &reset, from, at, now),
                            Datagram::Other => {}
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        log::debug!("UDP on {}: {error}", socket.address);
                        break;
                    }
                }
            }
        }
        came
    }

    fn asked_by(&self, from: SocketAddr, at: Option<IpAddr>) {
        let Some(at) = at else { return };
        let mut asked = self.asked.borrow_mut();
        if asked.len() >= MAX_ASKED {
            asked.remove(0);
        }
        asked.push((from, at));
    }

    fn refuse(&self, socket: &Socket, reset: &[u8], to: SocketAddr, at: Option<IpAddr>, now: Instant) {
        let mut resets = self.resets.borrow_mut();
        if resets.available(now) > 0 {
            resets.take(1, now);
            // Who does not hear it takes us for one behind a firewall, which is no worse.
            let _ = socket.send(reset, to, at);
        }
    }
}

#[cfg(test)]
impl Udp {
    /// Reads until `what` is done.
    pub(crate) async fn reading<T>(&self, what: impl Future<Output = T>) -> T {
        let reads = async {
            loop {
                poll_fn(|cx| self.poll_read(cx, |_, _, _| {})).await;
            }
        };
        smol::future::or(what, reads).await
    }
}

impl Default for Udp {
    fn default() -> Udp {
        Udp::new()
    }
}

impl Socket {
    fn new(address: SocketAddr, socket: Async<UdpSocket>) -> Socket {
        let any = address.host().is_unspecified();
        // A socket that has one address needs not be told; one that is not told answers from where the system chooses.
        let told = match address {
            SocketAddr::V4(_) if any => setsockopt(socket.get_ref(), sockopt::Ipv4PacketInfo, &true),
            SocketAddr::V6(_) if any => setsockopt(socket.get_ref(), sockopt::Ipv6RecvPacketInfo, &true),
            _ => Ok(()),
        };
        if let Err(error) = told.map_err(io::Error::from) {
            log::debug!("UDP on {address}: {error}");
        }
        let both = any && address.is_ipv6() && !ipv6_v6only(socket.get_ref()).unwrap_or(true);
        Socket { address, socket, both }
    }

    /// Reads a datagram: its length, from whom it is, and to which address of ours it came.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
        let mut control = nix::cmsg_space!(in6_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let fd = self.socket.get_ref().as_raw_fd();
        let read = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
        let from = read.address.as_ref().and_then(super::socket_address);
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        let told = read.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr)).into())
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(IpAddr::from(info.ipi6_addr.s6_addr).canonical())
            }
            _ => None,
        });
        let bound = Some(self.address.host()).filter(|ip| !ip.is_unspecified());
        Ok((read.bytes, plain(from), told.or(bound)))
    }

    fn serves(&self, family: Family) -> bool {
        self.both || Family::of(self.address.host()) == family
    }

    /// Sends it from an address of ours, or from where the system chooses.
    fn send(&self, datagram: &[u8], to: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
        let mapped = |ip: IpAddr| match ip.canonical() {
            IpAddr::V4(v4) if self.address.is_ipv6() => IpAddr::V6(v4.to_ipv6_mapped()),
            ip => ip,
        };
        let to = match to {
            SocketAddr::V4(v4) => SocketAddr::new(mapped(to.host()), v4.port()),
            SocketAddr::V6(_) => to,
        };
        let (v4, v6);
        let control = match source.filter(|_| self.address.host().is_unspecified()).map(mapped) {
            None => None,
            Some(IpAddr::V4(ip)) => {
                let none = in_addr { s_addr: 0 };
                let source = in_addr { s_addr: ip.to_bits().to_be() };
                v4 = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: none };
                Some(ControlMessage::Ipv4PacketInfo(&v4))
            }
            Some(IpAddr::V6(ip)) => {
                v6 = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
                Some(ControlMessage::Ipv6PacketInfo(&v6))
            }
        };
        let fd = self.socket.get_ref().as_raw_fd();
        let (parts, to) = ([IoSlice::new(datagram)], SockaddrStorage::from(to));
        match sendmsg(fd, &parts, control.as_slice(), MsgFlags::empty(), Some(&to)) {
            // What finds no room is lost, as on the way.
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The address of ours from which the system would send there.
fn source(to: SocketAddr) -> Option<IpAddr> {
    let any = if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    // Nothing is sent by this.
    let probe = UdpSocket::bind((any, 0)).ok()?;
    probe.connect(to).ok()?;
    Some(probe.local_addr().ok()?.host())
}

/// Reads for as long as it lives.
async fn read(house: Rc<House>) {
    loop {
        let hear = |datagram: &[u8], from, now| house.session.borrow_mut().dht_received(datagram, from, now);
        poll_fn(|cx| house.udp.poll_read(cx, hear)).await;
        house.kick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(udp: &Udp) -> SocketAddr {
        udp.sockets.borrow()[0].socket.get_ref().local_addr().unwrap()
    }

    #[test]
    fn who_tries_utp_hears_its_reset_but_a_flood_does_not() {
        smol::block_on(async {
            let udp = Udp::new();
            udp.open(&["[::]:0".parse().unwrap()]);
            for (from, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
                let other = Async::<UdpSocket>::bind(from.parse::<SocketAddr>().unwrap()).unwrap();
                let to = SocketAddr::new(to.parse().unwrap(), port(&udp).port());
                let mut syn = [0; 25];
                (syn[0], syn[2], syn[3], syn[17]) = (0x41, 7, 8, 1);
                other.send_to(&syn, to).await.unwrap();
                let mut buffer = [0; 64];
                let (len, heard) = udp.reading(other.recv_from(&mut buffer)).await.unwrap();
                assert_eq!((len, heard, &buffer[..4], buffer[19]), (20, to, &[0x31, 0, 7, 8][..], 1));
                udp.resets.borrow_mut().take(2 * RESETS.1, Instant::now());
                other.send_to(&syn, to).await.unwrap();
                other.send_to(b"d1:y1:qe", to).await.unwrap();
                let mut messages = 0;
                while messages == 0 {
                    poll_fn(|cx| udp.poll_read(cx, |_, _, _| messages += 1)).await;
                }
                assert_eq!(other.get_ref().recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
                *udp.resets.borrow_mut() = Bucket::new(RESETS.0, RESETS.1, Instant::now());
            }
        });
    }

    #[test]
    fn who_asks_hears_the_address_that_was_asked() {
        let take = |other: &UdpSocket| other.recv_from(&mut [0; 64]).unwrap().1.ip();
        smol::block_on(async {
            for listen in [&["[::]:0"][..], &["0.0.0.0:0"], &["127.0.0.1:0", "127.0.0.7:0"]] {
                let udp = Udp::new();
                udp.open(&listen.iter().map(|address| address.parse().unwrap()).collect::<Vec<_>>());
                let other = UdpSocket::bind("127.0.0.1:0").unwrap();
                let here = other.local_addr().unwrap();
                let at = udp.sockets.borrow().last().unwrap().socket.get_ref().local_addr().unwrap().port();
                for first in [0x41, b'd'] {
                    let mut datagram = [b'e'; 20];
                    datagram[0] = first;
                    other.send_to(&datagram, ("127.0.0.7", at)).unwrap();
                    poll_fn(|cx| udp.poll_read(cx, |_, from, _| udp.send(b"answer", from).unwrap())).await;
                    assert_eq!(take(&other).to_string(), "127.0.0.7", "{listen:?}");
                }
                for n in 0..1000 {
                    udp.asked_by(here, Some([10, 9, 9, 9].into()));
                    assert!(n % 100 > 0 || udp.send(b"its address is gone", here).is_ok());
                }
                assert_eq!(
                    (take(&other).to_string(), udp.asked.borrow().len()),
                    ("127.0.0.1".into(), MAX_ASKED)
                );
            }
        });
    }

    #[test]
    fn an_answer_is_believed_from_whom_it_was_asked_with_its_number_and_once() {
        smol::block_on(async {
            let udp = Udp::new();
            udp.open(&["127.0.0.1:0".parse().unwrap()]);
            let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
            let (tracker, stranger) = (bind(), bind());
            let answer = udp.answer(tracker.local_addr().unwrap(), 0x0102_0304);
            let say = |socket: &UdpSocket, number: u8, word: u8| {
                socket.send_to(&[0, 0, 0, 0, 1, 2, 3, number, word], port(&udp)).unwrap();
            };
            say(&stranger, 4, b'a');
            say(&tracker, 5, b'b');
            say(&tracker, 4, b'c');
            say(&tracker, 4, b'd');
            assert_eq!(*udp.reading(answer).await, [0, 0, 0, 0, 1, 2, 3, 4, b'c']);
            assert!(udp.waiting.borrow().is_empty());
            // Whoever gave up is forgotten when the next one asks.
            for number in 0..100 {
                drop(udp.answer(tracker.local_addr().unwrap(), number));
            }
            assert_eq!(udp.waiting.borrow().len(), 1);
        });
    }

    #[test]
    fn a_datagram_leaves_by_a_socket_that_can_and_sockets_are_replaced() {
        let udp = Udp::new();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = other.local_addr().unwrap();
        assert!(udp.send(b"x", to).is_err() && !udp.has(Family::V4));
        udp.open(&["[::1]:0".parse().unwrap()]);
        assert!(udp.send(b"x", to).is_err() && udp.has(Family::V6) && !udp.has(Family::V4));
        udp.open(&["[::]:0", "127.0.0.1:0"].map(|address| address.parse().unwrap()));
        assert_eq!(udp.sockets.borrow().len(), 2);
        udp.send(b"hello", to).unwrap();
        let mut buffer = [0; 64];
        let (len, from) = other.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"hello"[..], port(&udp)), "an address before all addresses");
        udp.open(&["127.0.0.2:0", "127.0.0.1:0"].map(|address| address.parse().unwrap()));
        udp.send(b"hello", to).unwrap();
        let (_, from) = other.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), to.ip(), "as the system would choose");
        // The same port again, for another address: the old socket is closed by then.
        let again = port(&udp).port();
        udp.open(&[SocketAddr::new("0.0.0.0".parse().unwrap(), again)]);
        assert_eq!((udp.sockets.borrow().len(), udp.has(Family::V6)), (1, false));
        udp.open(&[]);
        assert!(!udp.has(Family::V4));
    }
}
