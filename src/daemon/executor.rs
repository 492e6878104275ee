//! The tasks of the one thread: each is polled when its waker was woken, from whatever thread.
//!
//! Omits results, priorities and threads, which those of the crates bring along. Holds a boxed future and a waker a task.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::sorted::SortedMap;

/// Tasks that are polled before sockets and timers are looked at again.
const TURN: usize = 200;

/// Runs tasks.
#[derive(Default)]
pub struct Executor {
    /// Each with its work, but for while that is polled.
    tasks: RefCell<SortedMap<u64, Option<Work>>>,
    /// The number of the last task.
    last: Cell<u64>,
    woken: Arc<Mutex<Woken>>,
}

struct Work {
    future: Pin<Box<dyn Future<Output = ()>>>,
    bell: Arc<Bell>,
}

/// The tasks to poll.
#[derive(Default)]
struct Woken {
    tasks: Vec<u64>,
    /// Wakes who polls them, once there are none.
    runner: Option<Waker>,
}

/// Wakes a task.
struct Bell {
    task: u64,
    /// It is among the woken.
    rung: AtomicBool,
    woken: Arc<Mutex<Woken>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut woken = lock(&self.woken);
        woken.tasks.push(self.task);
        let runner = woken.runner.take();
        drop(woken);
        if let Some(runner) = runner {
            runner.wake();
        }
    }
}

/// A task that ends when this is dropped.
pub struct Task {
    task: u64,
    executor: Rc<Executor>,
}

impl Task {
    /// Whether it ended by itself.
    pub fn is_finished(&self) -> bool {
        !self.executor.tasks.borrow().contains_key(&self.task)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // A borrow that ends before what is dropped is.
        let work = self.executor.tasks.borrow_mut().remove(&self.task);
        drop(work);
    }
}

impl Executor {
    /// Begins a task, which goes on until it ends by itself.
    pub fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>) -> u64 {
        let task = self.last.get() + 1;
        self.last.set(task);
        let bell = Arc::new(Bell { task, rung: AtomicBool::new(false), woken: self.woken.clone() });
        bell.wake_by_ref();
        self.tasks.borrow_mut().insert(task, Some(Work { future, bell }));
        task
    }

    /// The same for one that can be ended.
    pub fn task(self: &Rc<Executor>, future: Pin<Box<dyn Future<Output = ()>>>) -> Task {
        Task { task: self.spawn(future), executor: self.clone() }
    }

    /// Ends all tasks.
    pub fn clear(&self) {
        let tasks = self.tasks.take();
        drop(tasks);
    }

    /// Polls the tasks until `main` ends, which is polled too.
    pub async fn run(&self, main: impl Future<Output = ()>) {
        let mut main = pin!(main);
        poll_fn(|cx| {
            if main.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.poll(cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Polls the tasks that were woken. Has `runner` woken when there are more.
    fn poll(&self, runner: &Waker) {
        let mut polled = 0;
        while polled < TURN {
            let mut woken = lock(&self.woken);
            let tasks = std::mem::take(&mut woken.tasks);
            if tasks.is_empty() {
                woken.runner = Some(runner.clone());
                return;
            }
            drop(woken);
            polled += tasks.len();
            tasks.into_iter().for_each(|task| self.poll_task(task));
        }
        runner.wake_by_ref();
    }

    fn poll_task(&self, task: u64) {
        let work = self.tasks.borrow_mut().get_mut(&task).and_then(Option::take);
        let Some(Work { mut future, bell }) = work else { return };
        // From here on it may be woken again; what was done before it was woken is seen by it.
        bell.rung.swap(false, Ordering::AcqRel);
        let ended = future.as_mut().poll(&mut Context::from_waker(&bell.clone().into())).is_ready();
        let mut tasks = self.tasks.borrow_mut();
        match tasks.get_mut(&task) {
            Some(work) if !ended => *work = Some(Work { future, bell }),
            // Or it was ended meanwhile. The borrow ends before what is dropped then.
            _ => drop(tasks.remove(&task)),
        }
    }
}

fn lock(woken: &Mutex<Woken>) -> MutexGuard<'_, Woken> {
    woken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use smol::future::{block_on, pending, yield_now};

    use super::*;

    #[test]
    fn a_task_goes_on_where_another_thread_wakes_it() {
        let executor = Executor::default();
        let (sender, receiver) = smol::channel::bounded(1);
        let heard = Rc::new(Cell::new(false));
        let (tells, told) = smol::channel::bounded(1);
        let hears = heard.clone();
        executor.spawn(Box::pin(async move {
            hears.set(receiver.recv().await.is_ok());
            tells.send(()).await.unwrap();
        }));
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            sender.send_blocking(()).unwrap();
        });
        block_on(executor.run(async { told.recv().await.unwrap() }));
        thread.join().unwrap();
        assert!(heard.get());
        assert!(executor.tasks.borrow().is_empty(), "it has ended");
    }

    #[test]
    fn a_task_is_gone_with_all_it_holds_as_soon_as_it_is_dropped() {
        let executor = Rc::new(Executor::default());
        let held = Rc::new(());
        let holds = held.clone();
        let task = executor.task(Box::pin(async move {
            let _holds = holds;
            pending().await
        }));
        block_on(executor.run(yield_now()));
        assert!(!task.is_finished() && Rc::strong_count(&held) == 2);
        drop(task);
        assert_eq!(Rc::strong_count(&held), 1);
    }

    #[test]
    fn a_task_may_end_itself_or_have_ended_before_it_is_dropped() {
        let executor = Rc::new(Executor::default());
        let own = Rc::new(Cell::new(None::<Task>));
        let held = Rc::new(());
        let (ends, holds) = (own.clone(), held.clone());
        own.set(Some(executor.task(Box::pin(async move {
            let _holds = holds;
            drop(ends.take());
            pending().await
        }))));
        let quick = executor.task(Box::pin(async {}));
        block_on(executor.run(yield_now()));
        assert_eq!(Rc::strong_count(&held), 1);
        assert!(quick.is_finished());
        drop(quick);
    }

    #[test]
    fn all_tasks_end_where_they_hold_the_executor() {
        let executor = Rc::new(Executor::default());
        let holds = executor.clone();
        executor.spawn(Box::pin(async move {
            let _task = holds.task(Box::pin(pending()));
            pending().await
        }));
        block_on(executor.run(yield_now()));
        executor.clear();
        assert_eq!(Rc::strong_count(&executor), 1);
    }

    #[test]
    fn tasks_that_always_go_on_leave_the_rest_its_turn() {
        let executor = Executor::default();
        for _ in 0..2 {
            executor.spawn(Box::pin(async {
                loop {
                    yield_now().await;
                }
            }));
        }
        block_on(executor.run(async {
            for _ in 0..3 {
                yield_now().await;
            }
        }));
    }
}
