//! One search: towards an id from node to node, and at its end those nearest are told of us.
//!
//! Read first: BEP 5 ("get_peers"), 42 (whom to tell). A search asks the nearest that it knows, a few at a time, and is over
//! when the nearest eight have answered, or all there are. Nodes that are slow are not waited for, nodes that someone made
//! up cost little: of whom the names were false three times the others are not asked. It ends in any case, see
//! [`MAX_QUERIES`]. Omits datagrams and clocks: the node tells it who answered, stalled or was silent.
//! Holds 80 bytes a node that it has heard of, at most [`MAX_FOUND`] of them, and their tokens.

use std::net::SocketAddr;

use super::id::Id;
use super::reach::is_near;
use super::table::{K, Table, most_of};
use crate::metainfo::InfoHash;
use crate::net::{Family, Host};

/// Queries of one search; with [`K`] announces that is less than 40 datagrams.
pub const MAX_QUERIES: u8 = 30;

/// Nodes that it has heard of.
const MAX_FOUND: usize = 48;

/// Queries on their way at once.
const ALPHA: usize = 3;

/// Nodes that one answer may bring.
const MAX_NAMED: usize = K;

/// So many of whom one named may be silent.
const MAX_FALSE: usize = 3;

/// Of those who are asked, named and told so many are of our own mesh, if there are: they are there when the gateway is not.
pub const NEAR: usize = 3;

/// Of those who are asked and told so many may have ids that do not suit their addresses, if there are others: whoever
/// chooses ids next to a torrent's has that torrent for himself otherwise.
const UNSUITED: usize = 4;

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Peers of a torrent, and to be known as one that listens there.
    Peers(InfoHash, u16),
    /// Nodes.
    Nodes,
}

/// A search going on.
#[derive(Debug)]
pub struct Search {
    /// By which its queries are known.
    pub number: u32,
    /// What it is for.
    pub goal: Goal,
    /// What it approaches.
    pub target: Id,
    /// In which of the two DHTs.
    pub family: Family,
    /// Peers that were named to it.
    pub peers: usize,
    /// The nearest first.
    found: Vec<Found>,
    queries: u8,
    /// Those who are to be told, once they have been chosen.
    tell: Option<Vec<(SocketAddr, Box<[u8]>)>>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this node.
    Ask(SocketAddr),
    /// Tell this one, with its token.
    Tell(SocketAddr, Box<[u8]>),
    /// Wait for answers.
    Wait,
    /// Nothing any more.
    Done,
}

#[derive(Debug)]
struct Found {
    id: Id,
    addr: SocketAddr,
    /// Who named it first, by the number of its query; `None` for those that we knew.
    by: Option<u8>,
    /// It is of our own mesh, as far as we or another of the mesh know.
    mesh: bool,
    /// Its id suits its address.
    suits: bool,
    /// The number of the query that it got.
    query: u8,
    state: State,
    token: Option<Box<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not asked.
    New,
    /// Asked, and to be waited for.
    Asked,
    /// Asked, and late.
    Late,
    /// It has answered.
    Answered,
    /// It has not.
    Silent,
}

impl Search {
    /// From those that we know: the nearest, and those of our own mesh.
    pub fn new(number: u32, goal: Goal, target: Id, table: &Table, family: Family) -> Search {
        let mut search =
            Search { number, goal, target, family, peers: 0, found: Vec::new(), queries: 0, tell: None };
        let nearest = table.nearest(target, K, &|_| true);
        let of_mesh = table.nearest(target, NEAR, &|contact| contact.is_good() && contact.is_near());
        for contact in nearest.into_iter().chain(of_mesh) {
            search.insert(contact.id, contact.addr, None, true);
        }
        search
    }

    /// What is to be done next.
    pub fn step(&mut self) -> Step {
        if self.tell.is_none() {
            if let Some(found) = self.next() {
                return Step::Ask(found.addr);
            }
            if !self.is_over() {
                return Step::Wait;
            }
            self.tell = Some(self.chosen());
        }
        match self.tell.as_ref().and_then(|tell| tell.last()) {
            Some((addr, token)) => Step::Tell(*addr, token.clone()),
            None => Step::Done,
        }
    }

    /// That one was asked.
    pub fn asked(&mut self, addr: SocketAddr) {
        self.queries += 1;
        let query = self.queries;
        if let Some(found) = self.at(addr) {
            (found.state, found.query) = (State::Asked, query);
        }
    }

    /// The last of those to be told was told.
    pub fn told(&mut self) {
        self.tell.as_mut().and_then(Vec::pop);
    }

    /// A node has answered, by its true name, and has named others.
    pub fn answered(&mut self, addr: SocketAddr, id: Id, token: Option<&[u8]>, named: &[(Id, SocketAddr)]) {
        let Some(found) = self.at(addr) else { return };
        let query = found.query;
        found.state = State::Answered;
        found.token = token.map(Into::into);
        if found.id != id {
            // Somebody named it so that we would ask it sooner.
            found.id = id;
            found.suits = id.suits(addr.host());
            self.found.sort_unstable_by_key(|found| found.id.distance(self.target));
        }
        let near = is_near(addr.host());
        for &(id, addr) in named.iter().take(MAX_NAMED) {
            self.insert(id, addr, Some(query), near);
        }
    }

    /// It is not waited for any more, though it may still answer.
    pub fn late(&mut self, addr: SocketAddr) {
        if let Some(found) = self.at(addr)
            && found.state == State::Asked
        {
            found.state = State::Late;
        }
    }

    /// It will not answer.
    pub fn silent(&mut self, addr: SocketAddr) {
        if let Some(found) = self.at(addr) {
            found.state = State::Silent;
        }
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        let tokens = self.found.iter().filter_map(|found| found.token.as_ref()).map(|token| token.len() + 16);
        self.found.capacity() * size_of::<Found>() + tokens.sum::<usize>()
    }

    fn at(&mut self, addr: SocketAddr) -> Option<&mut Found> {
        self.found.iter_mut().find(|found| found.addr == addr)
    }

    /// `near`: who names it is of the mesh. A stranger knows no addresses of ours, and could make us ask at any.
    fn insert(&mut self, id: Id, addr: SocketAddr, by: Option<u8>, near: bool) {
        if let Some(found) = self.at(addr) {
            if found.by != by {
                // Two say so.
                found.by = None;
            }
            return;
        }
        let of_address = self.found.iter().filter(|found| found.addr.host() == addr.host()).count();
        if of_address >= most_of(addr.host()) || self.found.iter().any(|found| found.id == id) {
            return;
        }
        let distance = id.distance(self.target);
        let at = self.found.partition_point(|found| found.id.distance(self.target) < distance);
        if self.found.len() == MAX_FOUND {
            let last = self.found.iter().rposition(|found| matches!(found.state, State::New | State::Silent));
            match last {
                Some(last) if last >= at => self.found.remove(last),
                _ => return,
            };
        }
        let (mesh, suits) = (near && is_near(addr.host()), id.suits(addr.host()));
        self.found.insert(at, Found { id, addr, by, mesh, suits, query: 0, state: State::New, token: None });
    }

    /// The nearest that is not asked, of the eight nearest that are of any use, and before it that of the mesh.
    fn next(&self) -> Option<&Found> {
        let on_their_way = self.found.iter().filter(|found| found.state == State::Asked).count();
        if on_their_way >= ALPHA || self.queries >= MAX_QUERIES {
            return None;
        }
        let of_use = |found: &&Found| match found.state {
            State::Asked | State::Answered => true,
            State::New => found.by.is_none_or(|by| self.is_trusted(by)),
            State::Late | State::Silent => false,
        };
        let is_new = |found: &&Found| found.state == State::New;
        let of_mesh = self.found.iter().filter(|found| found.mesh);
        let of_mesh = of_mesh.filter(of_use).take(NEAR).find(is_new);
        let mut unsuited = UNSUITED;
        let counts = |found: &&Found| found.suits || take(&mut unsuited);
        of_mesh.or_else(|| self.found.iter().filter(of_use).filter(counts).take(K).find(is_new))
    }

    /// Whether those that the one of that query named have proved to be there, more or less.
    fn is_trusted(&self, by: u8) -> bool {
        let named = || self.found.iter().filter(|found| found.by == Some(by));
        let silent = named().filter(|found| matches!(found.state, State::Late | State::Silent)).count();
        silent < MAX_FALSE || named().any(|found| found.state == State::Answered)
    }

    /// Nobody is waited for who could be one of the nearest.
    fn is_over(&self) -> bool {
        let waited = |found: &&Found| matches!(found.state, State::Asked | State::Late);
        let nearest =
            self.found.iter().filter(|found| found.state == State::Answered || waited(found)).take(K);
        !self.found.iter().any(|found| found.state == State::Asked)
            && !nearest.clone().any(|found| waited(&found))
    }

    /// Those who are to be told: the nearest, but some of the mesh, and no more than some whose ids do not suit.
    fn chosen(&mut self) -> Vec<(SocketAddr, Box<[u8]>)> {
        if self.goal == Goal::Nodes {
            return Vec::new();
        }
        let mut able: Vec<&mut Found> = self.found.iter_mut().filter(|found| found.token.is_some()).collect();
        let mut chosen = Vec::new();
        let mut near = NEAR;
        let mut unsuited = UNSUITED;
        for round in 0..3 {
            for found in &mut able {
                let fits = match round {
                    0 => found.mesh && take(&mut near),
                    1 => found.suits || (found.token.is_some() && take(&mut unsuited)),
                    _ => true,
                };
                if fits
                    && chosen.len() < K
                    && let Some(token) = found.token.take()
                {
                    chosen.push((found.addr, token));
                }
            }
        }
        chosen
    }
}

/// One less, if there is one.
fn take(left: &mut usize) -> bool {
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}
