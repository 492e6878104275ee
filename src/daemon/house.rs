//! What all tasks of the one thread share: the session, the open files, the scratch buffers and the storage thread.
//!
//! Each is borrowed, used and released between two awaits, never across one.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::executor::{Executor, Task};
use crate::net::io::udp::Udp;
use crate::peer::outbox::Part;
use crate::session::{BATCH, Session};
use crate::storage::intake::Intake;
use crate::storage::io::{Files, Storage};

/// One read: some nine hundred requests.
const READ: usize = 16 * 1024;
/// Messages of one write: small blocks are 16 KiB, so this many fill a batch with room to spare.
const PARTS: usize = 64;

/// Buffers for what comes: one is filled while the others are written.
const BUFFERS: usize = 4;
/// With so much kept the storage thread is given it, if it has nothing to write.
const WORTH_WRITING: usize = 64 * 1024;

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
    /// What came from peers and web seeds and is to be written.
    pub intake: RefCell<Intake>,
    /// The thread for all that may block.
    pub storage: Storage,
    /// The UDP port.
    pub udp: Rc<Udp>,
    /// Those that wait for room in the intake.
    intake_waiters: RefCell<Vec<Waker>>,
    /// Runs all there is beside the main loop.
    pub executor: Rc<Executor>,
    /// Until when the main loop sleeps, and what wakes it.
    asleep: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl House {
    /// Puts the parts together.
    pub fn new(session: Session, files: Files, storage: Storage, udp: Rc<Udp>) -> House {
        House {
            session: RefCell::new(session),
            files: RefCell::new(files),
            scratch: RefCell::default(),
            intake: RefCell::new(Intake::new(BUFFERS)),
            storage,
            udp,
            intake_waiters: RefCell::default(),
            executor: Rc::default(),
            asleep: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// Runs a task beside the others until it ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(Box::pin(task));
    }

    /// The same for one that can be ended.
    pub fn task(&self, task: impl Future<Output = ()> + 'static) -> Task {
        self.executor.task(Box::pin(task))
    }

    /// Gives the storage thread what has come, if it is worth it.
    pub fn write_out(&self) {
        let mut intake = self.intake.borrow_mut();
        let idle = self.storage.writes_under_way() == 0;
        let due = idle && (intake.pending() >= WORTH_WRITING || self.session.borrow().wants_write());
        if intake.is_full() || (due && intake.pending() > 0) {
            let Some(filled) = intake.take() else { return };
            let job = self.session.borrow_mut().write(filled);
            // There are no more buffers than the thread takes jobs.
            if self.storage.try_submit(job).is_err() {
                log::error!("a write was refused by the storage thread");
            }
        }
    }

    /// A buffer has been written and can be filled again.
    pub fn written(&self, bytes: Box<[u8]>) {
        self.intake.borrow_mut().give_back(bytes);
        self.write_out();
        self.intake_waiters.take().into_iter().for_each(Waker::wake);
    }

    /// Lets the buffers go when nothing is fetched any more.
    pub fn rest_intake(&self) {
        if !self.session.borrow().is_fetching() {
            self.intake.borrow_mut().rest();
        }
    }

    /// Wakes when there may be room in the intake.
    pub fn wait_for_intake(&self, waker: &Waker) {
        let mut waiters = self.intake_waiters.borrow_mut();
        if !waiters.iter().any(|waiter| waiter.will_wake(waker)) {
            waiters.push(waker.clone());
        }
    }

    /// Ends when there may be room in the intake.
    pub async fn intake_free(&self) {
        let mut waited = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.wait_for_intake(cx.waker());
            Poll::Pending
        })
        .await;
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
