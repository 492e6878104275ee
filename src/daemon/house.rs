//! What all tasks of the one thread share: the session, the open files, the scratch buffers and the storage thread.
//!
//! Each is borrowed, used and released between two awaits, never across one.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use smol::{LocalExecutor, Task};

use crate::peer::outbox::Part;
use crate::session::{BATCH, Session};
use crate::storage::io::{Files, Storage};

/// One read: some nine hundred requests.
const READ: usize = 16 * 1024;
/// Messages of one write: small blocks are 16 KiB, so this many fill a batch with room to spare.
const PARTS: usize = 64;

/// The buffers that all connections share.
pub struct Scratch {
    /// Of a read.
    pub read: Box<[u8]>,
    /// Of a write.
    pub write: Box<[u8]>,
    /// What a write is made of.
    pub parts: Vec<Part>,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch {
            read: vec![0; READ].into(),
            write: vec![0; BATCH as usize].into(),
            parts: Vec::with_capacity(PARTS),
        }
    }
}

/// Everything that is shared.
pub struct House {
    /// Torrents, peers, clocks.
    pub session: RefCell<Session>,
    /// Content files that are open.
    pub files: RefCell<Files>,
    /// Buffers of reads and writes on sockets.
    pub scratch: RefCell<Scratch>,
    /// The thread for all that may block.
    pub storage: Storage,
    executor: RefCell<Rc<LocalExecutor<'static>>>,
    /// Until when the main loop sleeps, and what wakes it.
    asleep: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl House {
    /// Puts the parts together.
    pub fn new(session: Session, files: Files, storage: Storage) -> House {
        House {
            session: RefCell::new(session),
            files: RefCell::new(files),
            scratch: RefCell::default(),
            storage,
            executor: RefCell::default(),
            asleep: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// Runs a task beside the others until it ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.borrow().spawn(task).detach();
    }

    /// The same for one that can be ended.
    pub fn task(&self, task: impl Future<Output = ()> + 'static) -> Task<()> {
        self.executor.borrow().spawn(task)
    }

    /// The executor, to run everything until `future` ends.
    pub fn executor(&self) -> Rc<LocalExecutor<'static>> {
        self.executor.borrow().clone()
    }

    /// Drops all tasks: they hold this, so that nothing would end otherwise.
    pub fn end_tasks(&self) {
        self.executor.take();
    }

    /// Wakes the main loop if the session has a job for it, or wants to be asked before the loop would look.
    pub fn kick(&self) {
        let session = self.session.borrow();
        if (session.wants_poll_before(self.asleep.get()) || session.is_shut_down())
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// The main loop goes to sleep.
    pub fn sleep(&self, until: Option<Instant>, waker: Waker) {
        self.asleep.set(until);
        *self.waker.borrow_mut() = Some(waker);
    }
}
