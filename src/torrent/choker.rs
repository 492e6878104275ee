//! Who may download from us now: tit for tat while we fetch, after that the choker of a seed.
//!
//! Read first: BEP 3 ("choking"). Of a torrent that is fetched those get slots who give us most, and one slot, for half a
//! minute at a time, is everybody's in turn: how else would anybody begin. A newcomer has nothing to give yet, so it
//! gets that turn three times as soon. A seed has nothing to be paid back and does as the first BitTorrent client did: a
//! peer that just got its turn keeps it for half a minute, and those that take most keep theirs, but for a third of the
//! slots, which goes in that time to the ones that have waited longest. So slots are used well, and every interested
//! peer gets its turn. Differs from the first client in the queue: there it is chance who is next, here it is whoever
//! has waited longest, so that no dice are needed and nobody is forgotten.
//!
//! Slots are a thing of the link: when there are not enough, half are for the torrents that are fetched, two for each of
//! them if a quarter is left to the others then. What one side has no use for the other gets, and no turn that has only
//! begun is cut short for it. Omits rates of its own: the caller knows what each peer took and gave. Holds no memory
//! between calls.

use crate::list::{self, Gather, Keep};

/// Seconds between two calls of [`Choker::tick`].
pub const PERIOD: u32 = 10;

/// Seconds for which a turn is safe: long enough for TCP to get up to speed and deliver something, and for the peer to
/// give something in return.
pub const TURN: u32 = 3 * PERIOD;

/// After so many calls the choker does as it did at the first: it does some things every second turn and others every
/// third.
const CYCLE: u8 = 3 * 2 * 3;

/// The choker of all torrents.
#[derive(Clone, Debug, Default)]
pub struct Choker {
    /// Calls of [`Choker::tick`], modulo [`CYCLE`].
    ticks: u8,
}

/// How many may be unchoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// In all.
    pub total: u32,
    /// In one torrent.
    pub each: u32,
}

/// What the choker needs to know of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// Which peer, for the caller.
    pub peer: u32,
    /// Which torrent.
    pub torrent: u32,
    /// We fetch that torrent.
    pub fetching: bool,
    /// When it was last unchoked if it is, else when it began to wait: became interested or was choked, whichever came
    /// later. Seconds on any clock that runs evenly.
    pub since: u32,
    /// Had no turn yet.
    pub newcomer: bool,
    /// Bytes a second that it took of late.
    pub rate: u32,
    /// Bytes a second that it gave us of late.
    pub given: u32,
    /// Has given nothing for a minute though it was asked: gets no slot for what it gave before.
    pub snubs_us: bool,
    /// Interested in something we have. One that is not gets no slot.
    pub interested: bool,
    /// Has everything, or said that it will not download. Gets no slot.
    pub seed: bool,
    /// Has requests waiting and takes what we send: it is worth letting finish.
    pub draining: bool,
    /// Comes in as it is, goes out as it is to be.
    pub unchoked: bool,
}

/// What a torrent has got in the course of one call.
struct Share {
    torrent: u32,
    granted: u32,
    /// Somebody in it waits for a turn.
    is_wanted: bool,
}

/// Where a peer of a torrent that is fetched stands in the line for slots.
struct Place {
    /// The index of the peer.
    at: usize,
    claim: Claim,
    /// How many of its own torrent stand before it.
    rank: u32,
    /// Among those of the same claim and rank; the lower the sooner.
    order: u32,
}

/// Why a peer of a torrent that is fetched may have a slot, the best reason first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// Has it, and pays for it.
    Paid,
    /// Has it, and may not lose it now.
    Held,
    /// Pays for one that it has not got.
    Paying,
    /// Has it out of turn, as nobody paid for it.
    Lent,
    /// Waits for its turn.
    Waiting,
    /// Had its turn.
    Spent,
}

impl Choker {
    /// Nobody has had a turn yet.
    pub fn new() -> Choker {
        Choker::default()
    }

    /// Every [`PERIOD`]: takes slots from some for those that pay or wait. Sets `unchoked`, and changes the order of
    /// `peers`.
    pub fn tick(&mut self, peers: &mut [Contender], slots: Slots, now: u32) {
        self.ticks = (self.ticks + 1) % CYCLE;
        self.assign(peers, slots, true, now);
    }

    /// At once when a peer became interested or left: gives free slots to those that wait, takes none from anybody who
    /// is still interested. Sets `unchoked`, and changes the order of `peers`.
    pub fn fill(&self, peers: &mut [Contender], slots: Slots, now: u32) {
        self.assign(peers, slots, false, now);
    }

    /// `takes`: from some for others.
    fn assign(&self, peers: &mut [Contender], slots: Slots, takes: bool, now: u32) {
        list::sort_by_key(peers, |peer| (!peer.fetching, peer.torrent));
        let (fetched, seeded) = peers.split_at_mut(peers.partition_point(|peer| peer.fetching));
        let total = self.for_fetched(fetched, seeded, slots, |peer| !takes || peer.is_safe(now));
        self.reciprocate(fetched, Slots { total, ..slots }, takes, now);
        let third = u32::from(self.ticks % 3);
        let fresh = |slots: u32| if takes { (slots.div_ceil(3) + third) / 3 } else { 0 };
        serve(seeded, Slots { total: slots.total - total, ..slots }, fresh, now);
    }

    /// How many of all slots are for the torrents that are fetched. Both lists are in order of torrents.
    fn for_fetched(
        &self,
        fetched: &[Contender],
        seeded: &[Contender],
        slots: Slots,
        keeps: impl Fn(&Contender) -> bool,
    ) -> u32 {
        let total = slots.total;
        let wanted = demand(fetched, slots.each);
        let others = demand(seeded, slots.each);
        if others <= total.saturating_sub(wanted) {
            return wanted.min(total);
        }
        let fair = match total {
            0 => 0,
            // The only slot is theirs every second turn.
            1 => u32::from(self.turn().is_multiple_of(2)),
            _ => {
                let two_each = demand(fetched, slots.each.min(2));
                two_each.min(total - (total / 4).max(1)).max(total.div_ceil(2))
            }
        };
        let fair = fair.min(wanted).max(total.saturating_sub(others));
        let kept = |peers: &[Contender]| {
            count(peers.iter().filter(|peer| peer.is_eligible() && peer.unchoked && keeps(peer)))
        };
        match total.checked_sub(kept(seeded)) {
            Some(most) => fair.max(kept(fetched)).min(most),
            // There are fewer slots than there were.
            None => fair,
        }
    }

    /// Tit for tat. Each torrent's best come before any torrent's second best.
    fn reciprocate(&self, peers: &mut [Contender], slots: Slots, takes: bool, now: u32) {
        // The only slot of a torrent, or of all of them, is for whoever is next every third turn, else for who pays.
        let only = u32::from(self.turn().is_multiple_of(3));
        let turns = if slots.total == 1 { only } else { demand(peers, 1).min(slots.total / 2) };
        let turns_each = if slots.each == 1 { only } else { 1 };

        let mut line =
            in_line(peers, |peer| (peer.worth() > 0).then_some((Claim::Paid, u32::MAX - peer.worth())));
        list::sort_by_key(&mut line, |place| (place.rank, place.order));
        line.keep(|place| place.rank < slots.each.saturating_sub(turns_each));
        line.truncate(usize::try_from(slots.total - turns).unwrap_or(usize::MAX));
        for place in line.iter_mut().filter(|place| !peers[place.at].unchoked) {
            place.claim = Claim::Paying;
        }
        let paying: Vec<(u32, u32)> =
            line.iter().map(|place| (peers[place.at].torrent, peers[place.at].peer)).collect();
        let mut others = in_line(peers, |peer| {
            let wait = now.saturating_sub(peer.since);
            match peer.unchoked {
                _ if paying.contains(&(peer.torrent, peer.peer)) => None,
                true if !takes || peer.is_safe(now) => Some((Claim::Held, wait)),
                true => Some((Claim::Spent, u32::MAX - peer.worth())),
                false => Some((Claim::Waiting, u32::MAX - peer.weight(wait))),
            }
        });
        for place in &mut others {
            if takes && place.claim == Claim::Held && place.rank >= turns_each {
                place.claim = Claim::Lent;
            }
            // A torrent in which nobody pays comes first.
            place.rank += u32::from(paying.iter().any(|(torrent, _)| *torrent == peers[place.at].torrent));
        }
        line.append(&mut others);
        list::sort_by_key(&mut line, |place| (place.claim, place.rank, place.order));

        peers.iter_mut().for_each(|peer| peer.unchoked = false);
        let (mut left, mut shares) = (slots.total, Vec::new());
        for place in line {
            let peer = &mut peers[place.at];
            let share = share(&mut shares, peer.torrent);
            if left > 0 && share.granted < slots.each {
                peer.unchoked = true;
                share.granted += 1;
                left -= 1;
            }
        }
    }

    /// How many turns have gone by, modulo two times three.
    fn turn(&self) -> u8 {
        self.ticks / 3
    }
}

impl Contender {
    fn is_eligible(&self) -> bool {
        self.interested && !self.seed
    }

    /// What it gives us, as far as that earns it a slot. What two give about equally must not change places each time.
    fn worth(&self) -> u32 {
        match self.snubs_us {
            true => 0,
            false if self.unchoked => self.given.saturating_add(self.given / 8),
            false => self.given,
        }
    }

    /// Its wait, as it counts against that of others.
    fn weight(&self, wait: u32) -> u32 {
        if self.newcomer { wait.saturating_mul(3) } else { wait }
    }

    /// Whether its turn has only begun.
    fn is_safe(&self, now: u32) -> bool {
        now.saturating_sub(self.since) < TURN
    }

    /// For a seed: sorts those that may keep their slot before those that wait, and each best first.
    fn order(&self, now: u32) -> (u8, u32, u32, u32) {
        let young = u32::MAX - self.since;
        let fast = u32::MAX - self.rate;
        match () {
            () if !self.is_eligible() => (3, 0, 0, self.peer),
            () if !self.unchoked => (2, self.since, 0, self.peer),
            () if self.draining || self.is_safe(now) => (0, young, fast, self.peer),
            () => (1, fast, young, self.peer),
        }
    }
}

/// A line of those to whom `claim` gives a claim and their order among others with the same.
fn in_line(peers: &[Contender], claim: impl Fn(&Contender) -> Option<(Claim, u32)>) -> Vec<Place> {
    let eligible = peers.iter().enumerate().filter(|(_, peer)| peer.is_eligible());
    let mut line: Vec<Place> = eligible
        .filter_map(|(at, peer)| claim(peer).map(|(claim, order)| Place { at, claim, rank: 0, order }))
        .gather();
    list::sort_by_key(&mut line, |place| (place.claim, place.order));
    let mut shares = Vec::new();
    for place in &mut line {
        let share = share(&mut shares, peers[place.at].torrent);
        place.rank = share.granted;
        share.granted += 1;
    }
    line
}

/// The choker of a seed. `fresh` tells how many of so many slots are to be given anew.
fn serve(peers: &mut [Contender], slots: Slots, fresh: impl Fn(u32) -> u32, now: u32) {
    list::sort_by_key(peers, |peer| peer.order(now));
    let held = peers.partition_point(|peer| peer.is_eligible() && peer.unchoked);
    let eligible = peers.partition_point(Contender::is_eligible);
    let (holding, rest) = peers.split_at_mut(held);
    let (waiting, others) = rest.split_at_mut(eligible - held);
    others.iter_mut().for_each(|peer| peer.unchoked = false);

    let mut shares = Vec::new();
    for peer in holding.iter() {
        share(&mut shares, peer.torrent);
    }
    for peer in waiting.iter() {
        if let Some(share) = shares.iter_mut().find(|share| share.torrent == peer.torrent) {
            share.is_wanted = true;
        }
    }
    let mut left = slots.total;
    // Those that wait would take no more than there are of them.
    let anew = fresh(slots.total).min(count(waiting.iter()));
    for peer in holding.iter_mut() {
        let share = share(&mut shares, peer.torrent);
        let (keep, keep_each) = match share.is_wanted {
            // The young stand first, so it is the others that give way.
            _ if peer.is_safe(now) => (0, 0),
            true => (anew, fresh(slots.each)),
            false => (anew, 0),
        };
        peer.unchoked = left > keep && share.granted < slots.each.saturating_sub(keep_each);
        if peer.unchoked {
            share.granted += 1;
            left -= 1;
        }
    }
    for peer in waiting.iter_mut().chain(holding.iter_mut().filter(|peer| !peer.unchoked)) {
        if left == 0 {
            break;
        }
        let share = share(&mut shares, peer.torrent);
        if share.granted < slots.each {
            peer.unchoked = true;
            share.granted += 1;
            left -= 1;
        }
    }
}

/// As many as there are slots at most: a list is faster than a map.
fn share(shares: &mut Vec<Share>, torrent: u32) -> &mut Share {
    let at = shares.iter().position(|share| share.torrent == torrent).unwrap_or_else(|| {
        shares.push(Share { torrent, granted: 0, is_wanted: false });
        shares.len() - 1
    });
    &mut shares[at]
}

/// How many slots they would fill. In order of torrents.
fn demand(peers: &[Contender], each: u32) -> u32 {
    let torrents = peers.chunk_by(|a, b| a.torrent == b.torrent);
    torrents
        .map(|peers| count(peers.iter().filter(|peer| peer.is_eligible())).min(each))
        .fold(0, u32::saturating_add)
}

fn count<'a>(peers: impl Iterator<Item = &'a Contender>) -> u32 {
    u32::try_from(peers.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The swarm as the caller keeps it: `since` changes with `unchoked`.
    struct Swarm {
        peers: Vec<Contender>,
        choker: Choker,
        slots: Slots,
        now: u32,
        /// For each peer: turns it had, seconds in all, and the longest wait.
        turns: Vec<(u32, u32, u32)>,
    }

    impl Swarm {
        fn new(torrents: &[u32], slots: Slots) -> Swarm {
            let peers: Vec<_> =
                torrents.iter().zip(0..).map(|(&torrent, peer)| contender(peer, torrent)).collect();
            Swarm { turns: vec![(0, 0, 0); peers.len()], peers, choker: Choker::new(), slots, now: 0 }
        }

        fn step(&mut self, is_tick: bool) {
            let mut next = self.peers.clone();
            match is_tick {
                true => self.choker.tick(&mut next, self.slots, self.now),
                false => self.choker.fill(&mut next, self.slots, self.now),
            }
            for after in next {
                let before = &mut self.peers[after.peer as usize];
                let turn = &mut self.turns[after.peer as usize];
                if before.unchoked != after.unchoked {
                    if after.unchoked {
                        turn.0 += 1;
                        turn.2 = turn.2.max(self.now - before.since);
                    } else {
                        turn.1 += self.now - before.since;
                    }
                    before.unchoked = after.unchoked;
                    before.since = self.now;
                }
            }
            self.check();
        }

        fn check(&self) {
            let unchoked = |torrent: Option<u32>| {
                count_of(&self.peers, |peer| {
                    peer.unchoked && torrent.is_none_or(|torrent| peer.torrent == torrent)
                })
            };
            assert!(unchoked(None) <= self.slots.total);
            for peer in &self.peers {
                assert!(unchoked(Some(peer.torrent)) <= self.slots.each);
                assert!(!peer.unchoked || peer.is_eligible());
                let could_have_one = peer.is_eligible() && !peer.unchoked;
                assert!(
                    !could_have_one
                        || unchoked(None) == self.slots.total
                        || unchoked(Some(peer.torrent)) == self.slots.each,
                    "peer {} waits beside a free slot",
                    peer.peer
                );
            }
        }

        fn run(&mut self, seconds: u32, mut each_second: impl FnMut(&mut [Contender], u32)) {
            for _ in 0..seconds {
                self.now += 1;
                each_second(&mut self.peers, self.now);
                self.step(self.now.is_multiple_of(PERIOD));
            }
        }
    }

    fn contender(peer: u32, torrent: u32) -> Contender {
        Contender {
            peer,
            torrent,
            fetching: false,
            since: 0,
            newcomer: false,
            rate: 0,
            given: 0,
            snubs_us: false,
            interested: true,
            seed: false,
            draining: false,
            unchoked: false,
        }
    }

    fn count_of(peers: &[Contender], is: impl Fn(&Contender) -> bool) -> u32 {
        count(peers.iter().filter(|peer| is(peer)))
    }

    #[test]
    fn in_an_hour_each_of_fifty_peers_gets_its_turn_on_four_slots() {
        for all_drain in [false, true] {
            let mut swarm = Swarm::new(&[1; 50], Slots { total: 4, each: 4 });
            swarm.run(3600, |peers, _| {
                for peer in peers {
                    // Peer 0 is the fastest by far and peer 49 takes nothing at all.
                    peer.rate = if peer.unchoked { (49 - peer.peer) * 10_000 } else { 0 };
                    peer.draining = peer.unchoked && (all_drain || peer.peer % 7 == 0);
                }
            });
            // Two slots are given anew in 30 s: all fifty come round in 750 s, but for those that keep theirs.
            for (peer, (turns, seconds, longest_wait)) in swarm.turns.iter().enumerate() {
                assert!(
                    *turns > 0 && *longest_wait <= 780,
                    "peer {peer}: {turns} turns, waited {longest_wait} s"
                );
                assert!(
                    *turns < 2 || *seconds >= (turns - 1) * TURN,
                    "peer {peer}: {turns} turns, {seconds} s"
                );
            }
        }
    }

    #[test]
    fn the_fast_keep_more_than_their_share() {
        let mut swarm = Swarm::new(&[1; 20], Slots { total: 6, each: 6 });
        let mut seconds = [0; 20];
        swarm.run(3600, |peers, _| {
            for peer in peers {
                peer.rate = if peer.peer < 2 { 1_000_000 } else { 1000 };
                seconds[peer.peer as usize] += u32::from(peer.unchoked);
            }
        });
        let slow = seconds[2..].iter().max().unwrap();
        assert!(seconds[0] > 2 * slow && seconds[1] > 2 * slow, "{seconds:?}");
    }

    #[test]
    fn a_lone_downloader_does_not_wait_behind_a_crowd_in_another_torrent() {
        let mut torrents = vec![1; 100];
        torrents.push(2);
        let mut swarm = Swarm::new(&torrents, Slots { total: 8, each: 6 });
        // The crowd had all it may have, and the other comes last.
        swarm.peers[100].interested = false;
        swarm.run(60, |_, _| {});
        assert_eq!(count_of(&swarm.peers, |peer| peer.unchoked), 6);
        swarm.peers[100].interested = true;
        swarm.peers[100].since = swarm.now;
        swarm.run(1, |_, _| {});
        assert!(swarm.peers[100].unchoked);
    }

    #[test]
    fn many_torrents_share_the_slots_and_all_get_turns() {
        let torrents: Vec<u32> = (0..60).map(|peer| peer / 3).collect();
        let mut swarm = Swarm::new(&torrents, Slots { total: 5, each: 2 });
        swarm.run(3600, |_, _| {});
        assert!(swarm.turns.iter().all(|(turns, ..)| *turns >= 3), "{:?}", swarm.turns);
    }

    #[test]
    fn nobody_loses_a_slot_that_nobody_else_wants() {
        let mut swarm = Swarm::new(&[1, 1, 1, 2], Slots { total: 4, each: 3 });
        swarm.run(600, |_, _| {});
        assert!(
            swarm.turns.iter().all(|(turns, seconds, _)| (*turns, *seconds) == (1, 0)),
            "{:?}",
            swarm.turns
        );
    }

    #[test]
    fn a_slot_that_comes_free_is_given_at_once_to_whoever_waits_longest() {
        let mut swarm = Swarm::new(&[1; 4], Slots { total: 2, each: 2 });
        for (peer, since) in [(0, 0), (1, 1), (2, 3), (3, 2)] {
            swarm.peers[peer].since = since;
        }
        swarm.now = 4;
        swarm.step(false);
        assert!(swarm.peers[0].unchoked && swarm.peers[1].unchoked);
        swarm.peers[0].interested = false;
        swarm.now = 5;
        swarm.step(false);
        assert!(!swarm.peers[0].unchoked && swarm.peers[3].unchoked && !swarm.peers[2].unchoked);
    }

    #[test]
    fn a_seed_and_one_that_wants_nothing_get_no_slot() {
        let mut swarm = Swarm::new(&[1; 3], Slots { total: 3, each: 3 });
        swarm.step(false);
        swarm.peers[0].seed = true;
        swarm.peers[1].interested = false;
        swarm.now = 1;
        swarm.step(false);
        assert_eq!(swarm.peers.iter().map(|peer| peer.unchoked).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_turn_is_safe_for_half_a_minute() {
        let mut swarm = Swarm::new(&[1; 9], Slots { total: 3, each: 3 });
        let mut began = [None; 9];
        swarm.run(900, |peers, now| {
            for peer in peers.iter() {
                let began = &mut began[peer.peer as usize];
                match (peer.unchoked, *began) {
                    (true, None) => *began = Some(now),
                    (false, Some(at)) => {
                        assert!(now - at >= TURN, "peer {} had {} s", peer.peer, now - at);
                        *began = None;
                    }
                    _ => {}
                }
            }
        });
    }

    #[test]
    fn fewer_slots_and_none_at_all_are_obeyed() {
        let mut swarm = Swarm::new(&[1; 10], Slots { total: 8, each: 8 });
        for (total, each) in [(8, 8), (8, 3), (1, 8), (0, 8), (8, 0), (u32::MAX, u32::MAX)] {
            swarm.slots = Slots { total, each };
            swarm.now += 10;
            swarm.step(true);
            let unchoked = count_of(&swarm.peers, |peer| peer.unchoked);
            assert_eq!(unchoked, total.min(each).min(10));
        }
        swarm.choker.tick(&mut [], swarm.slots, 0);
    }

    /// Nodes that fetch one torrent from each other, each with its choker. Nobody is ever done.
    struct Trade {
        nodes: Vec<Node>,
        slots: Slots,
        now: u32,
    }

    struct Node {
        choker: Choker,
        /// Kilobytes a second that it can send.
        capacity: u32,
        /// Takes and gives nothing.
        rides: bool,
        peers: Vec<Contender>,
        /// Kilobytes from each, in this period and the one before.
        came: Vec<[u32; 2]>,
        got: u64,
    }

    impl Trade {
        fn new(capacities: &[u32], riders: usize, slots: Slots) -> Trade {
            let count = capacities.len() + riders;
            let nodes = (0..count).map(|at| Node {
                choker: Choker::new(),
                capacity: capacities.get(at).copied().unwrap_or(0),
                rides: at >= capacities.len(),
                peers: (0..).zip(0..count).map(|(peer, _)| fetcher(peer, 1)).collect(),
                came: vec![[0; 2]; count],
                got: 0,
            });
            let mut nodes: Vec<Node> = nodes.collect();
            for (at, node) in nodes.iter_mut().enumerate() {
                // Nobody is his own peer.
                node.peers[at].interested = false;
            }
            Trade { nodes, slots, now: 0 }
        }

        fn run(&mut self, seconds: u32) {
            for _ in 0..seconds {
                self.now += 1;
                for from in 0..self.nodes.len() {
                    let node = &self.nodes[from];
                    let takers: Vec<Contender> = node.peers.iter().filter(|p| p.unchoked).copied().collect();
                    let share = node.capacity / count(takers.iter()).max(1);
                    for taker in takers {
                        let to = taker.peer as usize;
                        self.nodes[to].came[from][0] += share;
                        self.nodes[to].got += u64::from(share);
                    }
                }
                if self.now.is_multiple_of(PERIOD) {
                    self.nodes.iter_mut().for_each(|node| node.choose(self.slots, self.now));
                }
            }
        }

        fn got(&self, rides: bool) -> Vec<f64> {
            self.nodes.iter().filter(|node| node.rides == rides).map(|node| node.got as f64).collect()
        }
    }

    impl Node {
        fn choose(&mut self, slots: Slots, now: u32) {
            let mut next = self.peers.clone();
            for peer in &mut next {
                let came = &mut self.came[peer.peer as usize];
                peer.given = (came[0] + came[1]) * 1000 / (2 * PERIOD);
                *came = [0, came[0]];
            }
            if self.rides {
                return;
            }
            self.choker.tick(&mut next, slots, now);
            for mut after in next {
                let before = &mut self.peers[after.peer as usize];
                if before.unchoked != after.unchoked {
                    (after.since, after.newcomer) = (now, false);
                }
                *before = after;
            }
        }
    }

    fn fetcher(peer: u32, torrent: u32) -> Contender {
        Contender { fetching: true, newcomer: true, ..contender(peer, torrent) }
    }

    fn mean(of: &[f64]) -> f64 {
        of.iter().sum::<f64>() / of.len() as f64
    }

    /// Jain's index: 1 where all got the same, one in n where one got it all.
    fn fairness(of: &[f64]) -> f64 {
        mean(of).powi(2) / mean(&of.iter().map(|x| x * x).collect::<Vec<_>>())
    }

    #[test]
    fn who_gives_gets_many_times_what_a_free_rider_gets() {
        let mut trade = Trade::new(&[100; 24], 8, Slots { total: 5, each: 5 });
        trade.run(3600);
        let (givers, riders) = (trade.got(false), trade.got(true));
        let (times, index) = (mean(&givers) / mean(&riders), fairness(&givers));
        println!("a giver gets {times:.1} times what a free-rider gets; fairness among givers {index:.3}");
        assert!(times > 4.0, "{times}");
        assert!(index > 0.98, "{index}");
        // They are not left out either: the turn that everybody gets is a fifth of all that is sent.
        assert!(riders.iter().all(|&got| got > 0.0), "{riders:?}");
    }

    #[test]
    fn who_gives_more_gets_more_and_equals_get_the_same() {
        let mut trade = Trade::new(&[[40; 10], [80; 10], [160; 10]].concat(), 0, Slots { total: 5, each: 5 });
        trade.run(3600);
        let got = trade.got(false);
        let classes: Vec<f64> = got.chunks(10).map(mean).collect();
        let indices: Vec<f64> = got.chunks(10).map(fairness).collect();
        println!(
            "who gives 1, 2, 4 gets {:.0} {:.0} {:.0}; fairness {indices:.3?}",
            classes[0], classes[1], classes[2]
        );
        assert!(classes[1] > 1.3 * classes[0] && classes[2] > 1.3 * classes[1], "{classes:?}");
        assert!(indices.iter().all(|&index| index > 0.97), "{indices:?}");
    }

    #[test]
    fn everybody_who_wants_some_of_what_we_fetch_gets_a_turn_in_bounded_time() {
        for slots in [Slots { total: 5, each: 5 }, Slots { total: 2, each: 2 }, Slots { total: 1, each: 1 }] {
            let mut swarm = Swarm::new(&[1; 40], slots);
            swarm.peers.iter_mut().for_each(|peer| (peer.fetching, peer.newcomer) = (true, true));
            swarm.run(7200, |peers, _| {
                for peer in peers {
                    // Six give as much as anybody could wish.
                    peer.given = if peer.peer < 6 { 100_000 - peer.peer } else { 0 };
                    peer.newcomer = peer.since == 0;
                }
            });
            // One in half a minute; of a lone slot that is one in a minute and a half.
            let most = 40 * TURN * if slots.total == 1 { 3 } else { 1 } + 2 * TURN;
            for (peer, (turns, _, longest_wait)) in swarm.turns.iter().enumerate() {
                assert!(*turns > 0 && *longest_wait <= most, "{slots:?} {peer}: {turns}, {longest_wait} s");
            }
            // The best is kept, but for the turns of the only slot.
            assert_eq!(swarm.turns[0].0 == 1, slots.total > 1, "{slots:?}");
        }
    }

    #[test]
    fn a_newcomer_waits_a_third_as_long() {
        let mut swarm = Swarm::new(&[1; 41], Slots { total: 2, each: 2 });
        swarm.peers.iter_mut().for_each(|peer| peer.fetching = true);
        swarm.peers[40].interested = false;
        let give = |peers: &mut [Contender], _| peers[0].given = 100_000;
        swarm.run(3 * 40 * TURN, give);
        (swarm.peers[40].interested, swarm.peers[40].newcomer) = (true, true);
        let came = swarm.now;
        swarm.peers[40].since = came;
        while !swarm.peers[40].unchoked {
            swarm.run(1, give);
        }
        let waited = swarm.now - came;
        assert!((12 * TURN..=14 * TURN).contains(&waited), "{waited} s of {}", 40 * TURN);
    }

    #[test]
    fn who_snubs_us_loses_a_slot_that_another_pays_for() {
        let mut swarm = Swarm::new(&[1; 4], Slots { total: 2, each: 2 });
        for (peer, given) in [(0, 9000), (1, 0), (2, 5000), (3, 0)] {
            (swarm.peers[peer].fetching, swarm.peers[peer].given) = (true, given);
        }
        swarm.run(300, |_, _| {});
        assert_eq!(swarm.turns[0].0, 1);
        swarm.peers[0].snubs_us = true;
        swarm.run(90, |_, _| {});
        assert!(swarm.peers[2].unchoked);
        // It has its turns like anybody.
        swarm.run(300, |_, _| {});
        assert!(swarm.turns[0].0 > 1 && swarm.peers[2].unchoked);
    }

    #[test]
    fn two_that_give_about_the_same_do_not_change_places_each_time() {
        let mut swarm = Swarm::new(&[1; 6], Slots { total: 3, each: 3 });
        swarm.peers.iter_mut().for_each(|peer| peer.fetching = true);
        swarm.run(1800, |peers, now| {
            for peer in peers {
                let noise = (peer.peer * 7 + now / PERIOD * 3) % 10;
                peer.given = if peer.peer < 3 { 10_000 + 100 * noise } else { 0 };
            }
        });
        let changes: u32 = swarm.turns[..3].iter().map(|turn| turn.0).sum();
        // The third of them has its turn with those that give nothing.
        assert!(changes <= 3 + 1800 / (4 * TURN) + 1, "{changes}");
    }

    #[test]
    fn a_torrent_that_is_fetched_can_pay_back_however_many_others_are_seeded() {
        for (total, paid) in [(2, 1), (3, 2), (4, 2), (8, 4), (24, 6)] {
            // One is fetched, fifteen are seeded, and the crowd was there first.
            let mut torrents: Vec<u32> = (0..45).map(|peer| 2 + peer / 3).collect();
            torrents.extend([1; 10]);
            let mut swarm = Swarm::new(&torrents, Slots { total, each: 6 });
            swarm.peers[45..].iter_mut().for_each(|peer| (peer.fetching, peer.interested) = (true, false));
            swarm.run(100, |_, _| {});
            swarm.peers[45..].iter_mut().for_each(|peer| (peer.interested, peer.since) = (true, 100));
            swarm.run(TURN + PERIOD, |_, _| {});
            let fetched = |swarm: &Swarm| count_of(&swarm.peers, |peer| peer.fetching && peer.unchoked);
            assert_eq!(fetched(&swarm), paid, "of {total}");
            swarm.run(1800, |_, _| {});
            assert_eq!(fetched(&swarm), paid, "of {total}");
            let most_wait = 45 * TURN * 3 / (total - paid) + 2 * TURN;
            assert!(swarm.turns.iter().all(|turn| turn.0 > 0 && turn.2 <= most_wait), "of {total}");
        }
    }

    #[test]
    fn of_many_that_are_fetched_each_has_some_and_a_quarter_is_left_to_the_seeded() {
        // Ten peers in each of eight torrents, five of which are fetched.
        let torrents: Vec<u32> = (0..80).map(|peer| peer / 10).collect();
        for (total, least) in [(24, 2), (8, 1)] {
            let mut swarm = Swarm::new(&torrents, Slots { total, each: 6 });
            swarm.peers[..50].iter_mut().for_each(|peer| peer.fetching = true);
            swarm.run(600, |peers, _| {
                for peer in peers {
                    peer.given = if peer.peer < 10 { 1_000_000 } else { 1000 };
                }
            });
            let unchoked = |of: &dyn Fn(&Contender) -> bool| count_of(&swarm.peers, |p| p.unchoked && of(p));
            for torrent in 0..5 {
                let has = unchoked(&|peer| peer.torrent == torrent);
                assert!(has >= least, "{torrent} has {has} of {total}");
            }
            assert!(unchoked(&|peer| !peer.fetching) >= total / 4, "of {total}");
        }
    }

    #[test]
    fn the_only_slot_is_each_sides_in_turn() {
        let mut swarm = Swarm::new(&[1, 1, 2, 2], Slots { total: 1, each: 1 });
        swarm.peers[..2].iter_mut().for_each(|peer| peer.fetching = true);
        let mut seconds = [0; 4];
        swarm.run(3600, |peers, _| {
            for peer in peers {
                seconds[peer.peer as usize] += u32::from(peer.unchoked);
                peer.given = if peer.peer == 0 { 5000 } else { 0 };
            }
        });
        assert!((1600..=2000).contains(&(seconds[0] + seconds[1])), "{seconds:?}");
        assert!(seconds[0] > seconds[1] && seconds[1] >= 500, "{seconds:?}");
        assert!(seconds[2].abs_diff(seconds[3]) <= 60, "{seconds:?}");
    }

    #[test]
    fn when_a_torrent_is_complete_nobody_loses_a_turn_that_has_only_begun() {
        for at in [0, 3, 10, 17, 29] {
            let torrents: Vec<u32> = (0..60).map(|peer| peer % 3).collect();
            let mut swarm = Swarm::new(&torrents, Slots { total: 8, each: 6 });
            for peer in &mut swarm.peers {
                peer.fetching = peer.torrent < 2;
                peer.given = if peer.peer < 20 { 1000 + peer.peer } else { 0 };
            }
            swarm.run(600 + at, |_, _| {});
            let held: Vec<Contender> = swarm.peers.iter().filter(|p| p.unchoked).copied().collect();
            for peer in &mut swarm.peers {
                peer.fetching &= peer.torrent != 0;
                (peer.given, peer.rate) = (0, peer.given);
            }
            swarm.step(false);
            assert!(held.iter().all(|peer| swarm.peers[peer.peer as usize].unchoked));
            swarm.run(PERIOD, |_, _| {});
            for peer in held {
                let kept = swarm.peers[peer.peer as usize].unchoked;
                assert!(kept || swarm.now - peer.since >= TURN, "{at}: {peer:?}");
            }
            // And those that waited are next, the longest first, as they would have been.
            let mut order: Vec<(u32, u32)> = Vec::new();
            let since: Vec<(u32, u32)> = swarm
                .peers
                .iter()
                .filter(|p| p.torrent == 0 && !p.unchoked)
                .map(|p| (p.since, p.peer))
                .collect();
            swarm.run(900, |peers, now| {
                for peer in peers {
                    let waited = since.iter().find(|(_, waits)| *waits == peer.peer);
                    if let Some(&(since, _)) = waited
                        && peer.unchoked
                        && peer.since + 1 == now
                        && !order.contains(&(since, peer.peer))
                    {
                        order.push((since, peer.peer));
                    }
                }
            });
            assert_eq!(order.len(), since.len(), "{at}");
            assert!(order.is_sorted_by_key(|(since, _)| *since), "{at}: {order:?}");
        }
    }
}
