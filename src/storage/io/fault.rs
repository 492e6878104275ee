//! Where tests make system calls fail, one after the other. Nothing of it is in the binary.

use rustix::io::Errno;

/// Stands before each system call that a disk may refuse.
#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "the seam at which tests make calls fail")]
pub(super) fn attempt() -> Result<(), Errno> {
    Ok(())
}

#[cfg(test)]
pub(super) use tests::attempt;

#[cfg(test)]
pub(super) mod tests {
    use super::Errno;
    use std::cell::Cell;

    thread_local! {
        static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
        static CALLS: Cell<u32> = const { Cell::new(0) };
    }

    #[derive(Clone, Copy)]
    struct Fault {
        at: u32,
        error: Errno,
        /// No call after it succeeds either: the process has been killed, or the disk is gone.
        dead: bool,
    }

    /// While it lives, calls of this thread are counted and one of them fails.
    pub(in crate::storage::io) struct Faults;

    impl Faults {
        /// The `n`-th call fails, and with `dead` all after it.
        pub(in crate::storage::io) fn at(n: u32, error: Errno, dead: bool) -> Faults {
            CALLS.set(0);
            FAULT.set(Some(Fault { at: n, error, dead }));
            Faults
        }

        /// Calls so far.
        pub(in crate::storage::io) fn calls(&self) -> u32 {
            CALLS.get()
        }
    }

    impl Drop for Faults {
        fn drop(&mut self) {
            FAULT.set(None);
        }
    }

    pub(in crate::storage::io) fn attempt() -> Result<(), Errno> {
        let call = CALLS.get() + 1;
        CALLS.set(call);
        match FAULT.get() {
            Some(Fault { at, error, .. }) if call == at => Err(error),
            Some(Fault { at, dead: true, .. }) if call > at => Err(Errno::IO),
            _ => Ok(()),
        }
    }
}
