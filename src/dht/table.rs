//! The routing table of one family: nodes that have answered us, few for each distance.
//!
//! Read first: BEP 5 ("routing table"), 42. Buckets are not split: a node's bucket is the number of leading bits that its id
//! shares with ours, which keeps all nodes that are near and eight of each half of the rest. Of the nodes of one address
//! few are kept, so that nobody fills a bucket alone; nodes of our own mesh have a place in each, and an id that suits its
//! address goes before one that does not. Omits asking: who is to be asked next is said, what is asked is not.
//! Holds 64 bytes a node, at most [`MAX_NODES`] of them.

use std::net::{IpAddr, SocketAddr};

use super::id::Id;
use super::reach::is_near;
use crate::net::Host;

/// Nodes of one bucket (BEP 5), and of one answer.
pub const K: usize = 8;

/// Nodes in all: a table of the Internet's DHT has about twenty full buckets.
pub const MAX_NODES: usize = 24 * K;

/// Of a bucket's nodes so many may be of the Internet if there are others: a mesh behind a gateway knows its own.
const MAX_GLOBAL: usize = 5;

/// Nodes of one address that is not the Internet's: of machines behind one address of a mesh, or of tests.
const MAX_OF_ADDRESS: usize = 8;

/// Silences in a row after which a node is dropped, if others speak.
const MAX_SILENCES: u8 = 3;

/// Seconds after which a node is asked for a sign of life (BEP 5: 15 minutes) …
const QUIET: u32 = 15 * 60;
/// … and one that was silent, times two for each time.
const AGAIN: u32 = 30;

/// A node that has answered.
#[derive(Clone, Copy, Debug)]
pub struct Contact {
    /// What it calls itself.
    pub id: Id,
    /// Where it is.
    pub addr: SocketAddr,
    /// When it answered last, in seconds.
    pub heard: u32,
    /// When it was asked last for its own sake, in seconds.
    asked: u32,
    /// Silences since then.
    pub silent: u8,
    /// Another has answered since the first of them.
    outlived: bool,
}

/// The nodes, in no order.
#[derive(Debug)]
pub struct Table {
    own: Id,
    contacts: Vec<Contact>,
}

impl Contact {
    /// It was not silent when it was asked last.
    pub fn is_good(&self) -> bool {
        self.silent == 0
    }

    /// It is of a mesh, or of this machine.
    pub fn is_near(&self) -> bool {
        is_near(self.addr.host())
    }

    /// When it is to be asked for a sign of life, in seconds.
    fn due(&self) -> u32 {
        match self.silent {
            0 => self.heard.max(self.asked).saturating_add(QUIET),
            silent => self.asked.saturating_add(AGAIN << silent.min(MAX_SILENCES)),
        }
    }

    /// The higher, the rather it gives way to another.
    fn worth_least(&self) -> (u8, bool, u32) {
        (self.silent, !self.id.suits(self.addr.host()), self.heard)
    }
}

impl Table {
    /// No nodes.
    pub fn new(own: Id) -> Table {
        Table { own, contacts: Vec::new() }
    }

    /// All nodes.
    pub fn contacts(&self) -> &[Contact] {
        &self.contacts
    }

    /// Those that are not silent.
    pub fn good(&self) -> usize {
        self.contacts.iter().filter(|contact| contact.is_good()).count()
    }

    /// Whether a node is there and not silent.
    pub fn has_good(&self, addr: SocketAddr) -> bool {
        self.contacts.iter().any(|contact| contact.addr == addr && contact.is_good())
    }

    /// We are another now: what does not fit any more goes.
    pub fn set_own(&mut self, own: Id) {
        self.own = own;
        for contact in std::mem::take(&mut self.contacts) {
            if self.place(contact.id, contact.addr).is_some_and(|place| place == self.contacts.len()) {
                self.contacts.push(contact);
            }
        }
    }

    /// Whether a node would be kept if it answered.
    pub fn wants(&self, id: Id, addr: SocketAddr) -> bool {
        !self.contacts.iter().any(|contact| contact.addr == addr) && self.place(id, addr).is_some()
    }

    /// A node has answered. Says whether that is news: nobody was known there, or all were silent. Who calls himself by
    /// another name each time is none.
    pub fn answered(&mut self, id: Id, addr: SocketAddr, now: u32) -> bool {
        let (alone, mut known) = (self.good() == 0, false);
        for other in self.contacts.iter_mut().filter(|other| other.silent > 0 && !other.outlived) {
            // Until now it may have been our own link.
            (other.silent, other.outlived) = (1, true);
        }
        if let Some(at) = self.contacts.iter().position(|contact| contact.addr == addr) {
            let contact = &mut self.contacts[at];
            if contact.id == id {
                (contact.heard, contact.silent, contact.outlived) = (now, 0, false);
                return alone;
            }
            // Begun anew, or another behind the same address.
            self.contacts.swap_remove(at);
            known = true;
        }
        let Some(place) = self.place(id, addr) else { return false };
        let contact = Contact { id, addr, heard: now, asked: now, silent: 0, outlived: false };
        match self.contacts.get_mut(place) {
            Some(old) => *old = contact,
            None => self.contacts.push(contact),
        }
        alone || !known
    }

    /// A node was asked at that time and did not answer. It is dropped for that only if another has answered since it fell
    /// silent: where nobody does it is our own link that is down.
    pub fn silent(&mut self, addr: SocketAddr, asked: u32) {
        let Some(at) = self.contacts.iter().position(|contact| contact.addr == addr) else { return };
        let contact = &mut self.contacts[at];
        contact.silent = contact.silent.saturating_add(1);
        contact.asked = contact.asked.max(asked);
        if contact.outlived && contact.silent >= MAX_SILENCES {
            self.contacts.swap_remove(at);
        }
    }

    /// The node that is to be asked for a sign of life, and the seconds at which it is.
    pub fn due(&self) -> Option<(u32, Contact)> {
        let contact = self.contacts.iter().min_by_key(|contact| contact.due())?;
        Some((contact.due(), *contact))
    }

    /// It is asked now.
    pub fn ask(&mut self, addr: SocketAddr, now: u32) {
        if let Some(contact) = self.contacts.iter_mut().find(|contact| contact.addr == addr) {
            contact.asked = now;
        }
    }

    /// At most `most` nodes of those that `fit`, the nearest first; those that were silent come last.
    pub fn nearest(&self, target: Id, most: usize, fit: &dyn Fn(&Contact) -> bool) -> Vec<Contact> {
        let mut nearest: Vec<&Contact> = self.contacts.iter().filter(|contact| fit(contact)).collect();
        nearest.sort_unstable_by_key(|contact| (!contact.is_good(), contact.id.distance(target)));
        nearest.into_iter().take(most).copied().collect()
    }

    /// Bytes that the nodes take.
    pub fn memory(&self) -> usize {
        self.contacts.capacity() * size_of::<Contact>()
    }

    /// Where in the list a node would stand: in another's place, or at the end.
    fn place(&self, id: Id, addr: SocketAddr) -> Option<usize> {
        if id == self.own {
            return None;
        }
        if let Some(at) = self.contacts.iter().position(|contact| contact.id == id) {
            // Another may call itself by a node's name only when that one is silent.
            return (!self.contacts[at].is_good()).then_some(at);
        }
        let of_address = self.contacts.iter().filter(|contact| contact.addr.host() == addr.host()).count();
        if of_address >= most_of(addr.host()) {
            return None;
        }
        let bits = self.own.shared_bits(id);
        let bucket = || {
            let all = self.contacts.iter().enumerate();
            all.filter(|(_, contact)| self.own.shared_bits(contact.id) == bits)
        };
        if bucket().count() < K && self.contacts.len() < MAX_NODES {
            return Some(self.contacts.len());
        }
        let (worst, old) = bucket().max_by_key(|(_, contact)| contact.worth_least())?;
        let better = old.silent > 0 || (!old.id.suits(old.addr.host()) && id.suits(addr.host()));
        if better {
            return Some(worst);
        }
        let global = || bucket().filter(|(_, contact)| !contact.is_near());
        let crowded = is_near(addr.host()) && global().count() > MAX_GLOBAL;
        crowded.then(|| global().max_by_key(|(_, contact)| contact.worth_least()).map(|(at, _)| at))?
    }
}

/// Nodes of one address that are kept together.
pub fn most_of(address: IpAddr) -> usize {
    if is_near(address) { MAX_OF_ADDRESS } else { 1 }
}
