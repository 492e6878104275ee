//! Who may download from us now: the choker of a seed, after that of the first BitTorrent client.
//!
//! Read first: BEP 3 ("choking"), whose text is about downloading; a seed has nothing to be paid back, so it looks at
//! two things: a peer that just got its turn keeps it for half a minute, and those that take most keep theirs, but for
//! a third of the slots, which goes in that time to the ones that have waited longest. So slots are used well, and
//! every interested peer gets its turn. Differs from the first client in the queue: there newcomers are put into a
//! rotating list at random, here whoever waits longest is next, so that reconnecting gains nothing and no dice are
//! needed. Omits rates of its own: the caller knows what each peer took. Holds no memory between calls.

/// Seconds between two calls of [`Choker::tick`].
pub const PERIOD: u32 = 10;

/// Seconds for which a turn is safe: long enough for TCP to get up to speed and deliver something.
pub const TURN: u32 = 3 * PERIOD;

/// The choker of all torrents: slots are a thing of the link, not of a torrent.
#[derive(Clone, Debug, Default)]
pub struct Choker {
    /// Which third of a turn: a third of the slots is spread over three ticks.
    phase: u8,
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
    /// When it was last unchoked if it is, else when it began to wait: became interested or was choked, whichever came
    /// later. Seconds on any clock that runs evenly.
    pub since: u32,
    /// Bytes a second that it took of late.
    pub rate: u32,
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

impl Choker {
    /// Nobody has had a turn yet.
    pub fn new() -> Choker {
        Choker::default()
    }

    /// Every [`PERIOD`]: takes slots from some for those that wait. Sets `unchoked`, and changes the order of `peers`.
    pub fn tick(&mut self, peers: &mut [Contender], slots: Slots, now: u32) {
        self.phase = (self.phase + 1) % 3;
        let phase = u32::from(self.phase);
        assign(peers, slots, |slots| (slots.div_ceil(3) + phase) / 3, now);
    }

    /// At once when a peer became interested or left: gives free slots to those that wait, takes none from anybody who
    /// is still interested. Sets `unchoked`, and changes the order of `peers`.
    pub fn fill(&self, peers: &mut [Contender], slots: Slots, now: u32) {
        assign(peers, slots, |_| 0, now);
    }
}

impl Contender {
    fn is_eligible(&self) -> bool {
        self.interested && !self.seed
    }

    /// Whether its turn has only begun.
    fn is_safe(&self, now: u32) -> bool {
        now.saturating_sub(self.since) < TURN
    }

    /// Sorts those that may keep their slot before those that wait, and each best first.
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

/// `fresh` tells how many of so many slots are to be given anew.
fn assign(peers: &mut [Contender], slots: Slots, fresh: impl Fn(u32) -> u32, now: u32) {
    peers.sort_unstable_by_key(|peer| peer.order(now));
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
    let anew = fresh(slots.total).min(count(waiting));
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

fn count(peers: &[Contender]) -> u32 {
    u32::try_from(peers.len()).unwrap_or(u32::MAX)
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
            since: 0,
            rate: 0,
            interested: true,
            seed: false,
            draining: false,
            unchoked: false,
        }
    }

    fn count_of(peers: &[Contender], is: impl Fn(&Contender) -> bool) -> u32 {
        count(&peers.iter().copied().filter(is).collect::<Vec<_>>())
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
}
