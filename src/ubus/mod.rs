//! OpenWrt's bus: an object on it that answers calls, and events that are told there.
//!
//! A state machine: bytes of the bus come in, bytes for it and calls come out; connecting is `io.rs`. It is refused as
//! long as the bus has not read who may publish what, so it asks again, quietly. A bus that goes away is looked for at
//! once, then ever more rarely, in the end only when told to ([`Client::look`]). Events are told while there is an object,
//! a few a second; of more the newest are kept, and the status tells the rest. Omits calling others, subscribers and
//! file descriptors. Holds a frame of [`MAX_FRAME`] that comes in, [`MAX_QUEUE`] that go out and [`MAX_EVENTS`] events.

pub mod blob;
pub mod io;

use std::time::{Duration, Instant};

use crate::status::{Kind, Value};
use blob::{Body, HEAD, Head, Malformed, Status, attribute, message};

/// Bytes of a call that is read: its arguments are an info-hash or two numbers. Of more none is kept.
pub const MAX_FRAME: usize = 64 * 1024;

/// Bytes that wait for the bus to take them, at most.
pub const MAX_QUEUE: usize = 256 * 1024;

/// With so much waiting no call is answered: whoever reads slowly is answered slowly.
const BUSY: usize = 64 * 1024;

/// Bytes of a reply: with it the queue is full.
const MAX_REPLY: usize = MAX_QUEUE - BUSY - 1024;

/// Events that wait for their turn: who wants to know all asks for the status.
pub const MAX_EVENTS: usize = 64;

/// Events sent at once, and then a second none: for each listener the bus queues no more than a megabyte.
const BURST: usize = 16;
const BURST_PAUSE: Duration = Duration::from_secs(1);

/// The bus has this long to greet, to answer, to take what waits for it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// After losing the bus it is looked for after this, then after twice as long each time …
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// … up to here, where it is left to [`Client::look`].
const LAST_LOOK: Duration = Duration::from_secs(60);
/// A connection that lasted so long was a good one.
const STEADY: Duration = Duration::from_secs(60);

/// A refusal is asked about again after this, twice as long each time, up to a minute.
const FIRST_AGAIN: Duration = Duration::from_secs(1);
const LAST_AGAIN: Duration = Duration::from_secs(60);

/// The bus's own object for events.
const EVENTS: u32 = 1;

/// What OpenWrt's web server adds to the arguments of each call that it passes on.
const SESSION: &str = "ubus_rpc_session";

/// What we are on the bus.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// Its name.
    pub path: &'static str,
    /// What can be asked of it, with the arguments of each.
    pub methods: &'static [(&'static str, &'static [(&'static str, Kind)])],
}

/// Something to be done for the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Todo {
    /// Connect to the bus, and say how that went by [`Client::connected`] or [`Client::lost`].
    Connect,
    /// Close the connection, for this reason.
    Close(&'static str),
    /// Do what is asked, and give it to [`Client::answer`].
    Answer(Call),
}

/// A call of our object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// By its name.
    pub method: String,
    /// A table.
    pub arguments: Value,
    seq: u16,
    peer: u32,
    object: u32,
    no_reply: bool,
}

/// Our side of a connection to the bus, and the looking for it.
#[derive(Debug)]
pub struct Client {
    object: Object,
    state: State,
    /// Our object's number, once the bus has given it.
    id: Option<u32>,
    /// Of the last request of ours.
    seq: u16,
    /// What has come of the next frame.
    read: Vec<u8>,
    /// Bytes of a frame that is passed over, still to come.
    skip: usize,
    /// What waits for the bus.
    out: Vec<u8>,
    /// Events that wait, as DATA holds them, and when the next may go.
    events: Vec<Vec<u8>>,
    next_events: Option<Instant>,
    /// Events that had no room.
    lost_events: u32,
    /// By then the bus has said what is waited for.
    answer_by: Option<Instant>,
    /// By then it has taken something.
    taken_by: Option<Instant>,
    /// Since when it is connected, and whether it ever was.
    since: Option<Instant>,
    known: bool,
    look_pause: Duration,
    again_pause: Duration,
    /// Since when it refuses our object, and whether the user knows.
    refused: Option<Instant>,
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not connected, and when to try.
    Away(Option<Instant>),
    /// It is to say HELLO.
    Greeting,
    /// It is to say whether we may have our object.
    Asking,
    /// We may not, and when to ask again.
    Refused(Instant),
    /// Our object is there.
    Published,
}

/// What has come.
enum Next {
    /// A call to be answered.
    Call(Call),
    /// Something else, which is done with.
    Frame,
    /// Not all of a frame.
    Nothing,
}

impl Client {
    /// Looks for the bus at once.
    pub fn new(object: Object, now: Instant) -> Client {
        Client {
            object,
            state: State::Away(Some(now)),
            id: None,
            seq: 0,
            read: Vec::new(),
            skip: 0,
            out: Vec::new(),
            events: Vec::new(),
            next_events: None,
            lost_events: 0,
            answer_by: None,
            taken_by: None,
            since: None,
            known: false,
            look_pause: FIRST_LOOK,
            again_pause: FIRST_AGAIN,
            refused: None,
            told: false,
        }
    }

    /// There is a connection.
    pub fn connected(&mut self, now: Instant) {
        self.state = State::Greeting;
        self.since = Some(now);
        self.answer_by = Some(now + PATIENCE);
    }

    /// There is none, or no more. Where no bus has ever answered nobody waits for one.
    pub fn lost(&mut self, now: Instant) {
        if self.since.take().is_some_and(|since| now - since >= STEADY) {
            self.look_pause = FIRST_LOOK;
        }
        let soon = self.known && self.look_pause < LAST_LOOK;
        self.state = State::Away(soon.then(|| now + self.look_pause));
        self.look_pause = (self.look_pause * 2).min(LAST_LOOK);
        self.id = None;
        self.seq = 0;
        self.skip = 0;
        (self.answer_by, self.taken_by, self.next_events) = (None, None, None);
        // Their memory goes with them.
        self.read = Vec::new();
        self.out = Vec::new();
        self.events = Vec::new();
    }

    /// Looks for the bus now, if nobody looks for it any more.
    pub fn look(&mut self, now: Instant) {
        if self.state == State::Away(None) {
            self.state = State::Away(Some(now));
        }
    }

    /// What to do next. A call may come after this one; `None` is the end of them.
    pub fn poll(&mut self, now: Instant) -> Option<Todo> {
        match self.state {
            State::Away(at) => return at.filter(|at| *at <= now).map(|_| Todo::Connect),
            State::Refused(at) if at <= now => self.ask(now),
            _ => {}
        }
        if self.answer_by.is_some_and(|by| by <= now) {
            return Some(self.close("it does not answer", now));
        }
        if self.taken_by.is_some_and(|by| by <= now) {
            return Some(self.close("it does not take what we say", now));
        }
        while self.out.len() < BUSY {
            match self.frame(now) {
                Ok(Next::Call(call)) => return Some(Todo::Answer(call)),
                Ok(Next::Frame) => {}
                Ok(Next::Nothing) => break,
                Err(Malformed) => return Some(self.close("it says what we do not understand", now)),
            }
        }
        self.send_events(now);
        if !self.out.is_empty() && self.taken_by.is_none() {
            self.taken_by = Some(now + PATIENCE);
        }
        None
    }

    /// When to ask [`Client::poll`] again if nothing comes.
    pub fn deadline(&self) -> Option<Instant> {
        let at = match self.state {
            State::Away(at) => at,
            State::Refused(at) => Some(at),
            _ => None,
        };
        // While the queue is long it is the bus that is waited for.
        let events = self.next_events.filter(|_| !self.events.is_empty() && self.out.len() < BUSY);
        [at, self.answer_by, self.taken_by, events].into_iter().flatten().min()
    }

    /// Whether more bytes are wanted: not before those are answered that came.
    pub fn wants_input(&self) -> bool {
        !matches!(self.state, State::Away(_)) && self.out.len() < BUSY
    }

    /// Bytes of the bus, to be followed by [`Client::poll`].
    pub fn handle(&mut self, bytes: &[u8]) {
        let passed = self.skip.min(bytes.len());
        self.skip -= passed;
        self.read.extend_from_slice(&bytes[passed..]);
    }

    /// What waits for the bus.
    pub fn out(&self) -> &[u8] {
        &self.out
    }

    /// So much of it was taken.
    pub fn sent(&mut self, len: usize) {
        self.out.drain(..len);
        if self.out.is_empty() {
            // A long reply was the exception.
            self.out.shrink_to(4096);
        }
        self.taken_by = None;
    }

    /// Answers a call with a table as DATA holds it, or with what is wrong with it.
    pub fn answer(&mut self, call: &Call, result: Result<Vec<u8>, Status>) {
        // The connection may be another by now.
        if call.no_reply || self.id != Some(call.object) {
            return;
        }
        let status = match result {
            Ok(data) if data.len() > MAX_REPLY => Status::UnknownError,
            Ok(data) => {
                blob::frame(&mut self.out, message::DATA, call.seq, call.peer, |out| {
                    blob::number(out, attribute::OBJID, call.object);
                    blob::put(out, attribute::DATA, &data);
                });
                Status::Ok
            }
            Err(status) => status,
        };
        self.say_status(call.seq, call.peer, call.object, status);
    }

    /// Tells whoever listens. Without an object nobody knows us.
    pub fn tell(&mut self, event: &str, data: Value) {
        if self.state != State::Published {
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            self.events.remove(0);
            self.lost_events += 1;
        }
        let event = Value::Table(vec![("id".into(), event.into()), ("data".into(), data)]);
        self.events.push(blob::encode(&event));
    }

    fn send_events(&mut self, now: Instant) {
        if self.events.is_empty() || self.out.len() >= BUSY || self.next_events.is_some_and(|at| at > now) {
            return;
        }
        self.next_events = Some(now + BURST_PAUSE);
        for event in self.events.drain(..self.events.len().min(BURST)) {
            self.seq = self.seq.wrapping_add(1);
            blob::frame(&mut self.out, message::INVOKE, self.seq, EVENTS, |out| {
                blob::number(out, attribute::OBJID, EVENTS);
                blob::text(out, attribute::METHOD, "send");
                blob::put(out, attribute::DATA, &event);
            });
        }
        if self.events.is_empty() && self.lost_events > 0 {
            log::debug!(
                "ubus: {} events were too many and are not told",
                std::mem::take(&mut self.lost_events)
            );
        }
    }

    /// Asks for our object.
    fn ask(&mut self, now: Instant) {
        self.state = State::Asking;
        self.answer_by = Some(now + PATIENCE);
        self.seq = self.seq.wrapping_add(1);
        blob::frame(&mut self.out, message::ADD_OBJECT, self.seq, 0, |out| {
            blob::text(out, attribute::OBJPATH, self.object.path);
            let at = blob::begin(out, attribute::SIGNATURE);
            self.object.methods.iter().for_each(|(method, takes)| blob::policy(out, method, takes));
            blob::end(out, at);
        });
    }

    fn say_status(&mut self, seq: u16, peer: u32, object: u32, status: Status) {
        blob::frame(&mut self.out, message::STATUS, seq, peer, |out| {
            blob::number(out, attribute::STATUS, status as u32);
            blob::number(out, attribute::OBJID, object);
        });
    }

    fn close(&mut self, reason: &'static str, now: Instant) -> Todo {
        self.lost(now);
        Todo::Close(reason)
    }

    /// Takes the next frame.
    fn frame(&mut self, now: Instant) -> Result<Next, Malformed> {
        let Some(head) = Head::decode(&self.read)? else { return Ok(Next::Nothing) };
        if head.len > MAX_FRAME {
            // Whoever calls us like that must not cost us the connection.
            if let Some(object) = self.id.filter(|_| head.kind == message::INVOKE) {
                self.say_status(head.seq, head.peer, object, Status::InvalidArgument);
            }
            let came = self.read.len().min(head.len);
            self.read.drain(..came);
            self.skip = head.len - came;
            return Ok(Next::Frame);
        }
        if self.read.len() < head.len {
            return Ok(Next::Nothing);
        }
        let frame: Vec<u8> = self.read.drain(..head.len).collect();
        if self.read.is_empty() {
            self.read = Vec::new();
        }
        let body = Body::decode(&frame[HEAD..])?;
        match (head.kind, self.state) {
            (message::HELLO, State::Greeting) => {
                self.known = true;
                self.ask(now);
            }
            (_, State::Greeting) => return Err(Malformed),
            (message::DATA, State::Asking) if (head.seq, head.peer) == (self.seq, 0) => {
                self.id = body.object;
            }
            (message::STATUS, State::Asking) if (head.seq, head.peer) == (self.seq, 0) => {
                self.answer_by = None;
                match (body.status, self.id) {
                    (Some(0), Some(_)) => self.published(),
                    (Some(0) | None, _) => return Err(Malformed),
                    (Some(status), _) => self.refused(status, now),
                }
            }
            (message::INVOKE, _) => return Ok(self.called(&head, &body).map_or(Next::Frame, Next::Call)),
            (message::STATUS, _) => {
                if let Some(status @ 1..) = body.status {
                    log::debug!("ubus: an event is refused with status {status}");
                }
            }
            _ => {}
        }
        Ok(Next::Frame)
    }

    fn published(&mut self) {
        self.state = State::Published;
        self.again_pause = FIRST_AGAIN;
        (self.refused, self.told) = (None, false);
        log::info!("ubus: object \"{}\" is there", self.object.path);
    }

    /// Both for want of permission, which comes when the bus reads its ACL, and for a name that is taken.
    fn refused(&mut self, status: u32, now: Instant) {
        self.id = None;
        self.state = State::Refused(now + self.again_pause);
        self.again_pause = (self.again_pause * 2).min(LAST_AGAIN);
        let since = *self.refused.get_or_insert(now);
        if now - since >= LAST_AGAIN && !std::mem::replace(&mut self.told, true) {
            log::info!(
                "ubus: object \"{}\" is refused (status {status}): its ACL is not loaded, or another has the name; \
                 tried again each minute",
                self.object.path
            );
        }
    }

    /// A call, unless it can be refused at once.
    fn called(&mut self, head: &Head, body: &Body) -> Option<Call> {
        let object = self.id.filter(|id| body.object == Some(*id))?;
        let mut arguments = body.data.and_then(|data| blob::table(data).ok());
        if let Some(Value::Table(given)) = &mut arguments {
            given.retain(|(name, _)| name != SESSION);
        }
        let call = Call {
            method: body.method.as_deref().unwrap_or_default().to_owned(),
            arguments: arguments.unwrap_or(Value::Null),
            seq: head.seq,
            peer: head.peer,
            object,
            no_reply: body.no_reply,
        };
        if call.arguments.is_null() {
            self.answer(&call, Err(Status::InvalidArgument));
            return None;
        }
        Some(call)
    }
}

#[cfg(test)]
mod tests;
