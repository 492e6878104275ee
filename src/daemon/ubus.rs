//! The daemon on OpenWrt's bus: the object `meshseed` with the methods of the status, and the event `meshseed.torrent`.
//!
//! What is told is what changes: torrents that were there at the start are no news, nor that they are still complete.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use super::Daemon;
use crate::config::Ubus;
use crate::log::escaped;
use crate::metainfo::InfoHash;
use crate::session::{Event, Happened, Session};
use crate::sorted::SortedSet;
use crate::status::{Error, METHODS, Method, Value};
use crate::ubus::blob::{self, Status};
use crate::ubus::io::{Bus, PLACES};
use crate::ubus::{Call, Object};

/// What we are on the bus.
const OBJECT: Object = Object { path: "meshseed", methods: &METHODS };

/// What is told when something changed with a torrent.
const EVENT: &str = "meshseed.torrent";

/// The bus, and what is news there.
pub(super) struct OnBus {
    bus: Bus,
    /// Torrents with a number below this were found by the first look at the watched directories; `None`: it goes on.
    first_new: Cell<Option<u32>>,
    /// What was dropped meanwhile: it may be found again.
    dropped: RefCell<Vec<Event>>,
    /// Torrents whose error was told and not its end.
    in_error: RefCell<SortedSet<InfoHash>>,
}

impl OnBus {
    pub fn new() -> OnBus {
        OnBus {
            bus: Bus::new(OBJECT),
            first_new: Cell::new(None),
            dropped: RefCell::default(),
            in_error: RefCell::default(),
        }
    }

    /// A look at the watched directories has ended.
    pub fn looked(&self, session: &Session) {
        if self.first_new.get().is_none() {
            let last = session.torrents().map(|(key, _)| key.0).max();
            self.first_new.set(Some(last.map_or(0, |last| last + 1)));
        }
        for event in self.dropped.take() {
            if session.key(event.info_hash).is_none() {
                self.tell(&event);
            }
        }
    }

    /// What the next look finds is there already for the user.
    pub fn look_anew(&self) {
        self.first_new.set(None);
    }

    /// Looks for the bus where it was not found before.
    pub fn look(&self) {
        self.bus.look();
    }

    /// Its place may be another now.
    pub fn renew(&self) {
        self.bus.renew();
    }

    fn is_news(&self, event: &Event, session: &Session) -> bool {
        let Some(key) = session.key(event.info_hash) else { return true };
        let is_new = self.first_new.get().is_some_and(|first| key.0 >= first);
        match event.action {
            Happened::Added => is_new,
            Happened::Completed => is_new || event.fetched,
            Happened::Removed | Happened::Error | Happened::Recovered => true,
        }
    }

    fn tell(&self, event: &Event) {
        if event.action == Happened::Error {
            self.in_error.borrow_mut().insert(event.info_hash);
        } else {
            self.in_error.borrow_mut().remove(&event.info_hash);
        }
        let action = match event.action {
            Happened::Added => "added",
            Happened::Removed => "removed",
            Happened::Completed => "completed",
            Happened::Error => "error",
            Happened::Recovered => "recovered",
        };
        let reason = Some(&event.reason).filter(|reason| !reason.is_empty());
        let reason = reason.map(|reason| escaped(reason)).into();
        let values = vec![action.into(), event.info_hash.into(), event.name.as_ref().into(), reason];
        let data = Value::named(&["action", "info_hash", "name", "reason"], values);
        self.bus.tell(EVENT, data);
    }
}

impl Daemon {
    /// Follows the bus, wherever the configuration has it.
    pub(super) async fn follow_bus(self: Rc<Daemon>) {
        self.on_bus.bus.follow(|| places(&self.config.borrow().ubus), |call| self.called(call)).await;
    }

    fn called(self: &Rc<Daemon>, call: &Call) -> Result<Vec<u8>, Status> {
        let reply = Method::new(&call.method, &call.arguments).and_then(|method| self.answer(method));
        reply.map(|reply| reply.fit(&blob::encode)).map_err(|error| match error {
            Error::Syntax(_) | Error::Argument(_) => Status::InvalidArgument,
            Error::Method(_) => Status::MethodNotFound,
            Error::Unknown(_) => Status::NotFound,
            Error::Failed(_) => Status::UnknownError,
        })
    }

    /// Tells an event there, if it is news.
    pub(super) fn tell_bus(&self, mut event: Event) {
        let on_bus = &self.on_bus;
        // It was dropped with its error, and has been found again.
        if event.action == Happened::Completed && on_bus.in_error.borrow().contains(&event.info_hash) {
            event.action = Happened::Recovered;
        }
        if event.action == Happened::Removed && on_bus.first_new.get().is_none() {
            on_bus.dropped.borrow_mut().push(event);
        } else if on_bus.is_news(&event, &self.house.session.borrow()) {
            on_bus.tell(&event);
        }
    }
}

fn places(config: &Ubus) -> Vec<PathBuf> {
    match &config.socket {
        _ if !config.enabled => Vec::new(),
        Some(socket) => vec![socket.clone()],
        None => PLACES.map(PathBuf::from).into(),
    }
}
