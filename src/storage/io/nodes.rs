//! The nodes of the DHT that were good the last time, in a small file of the state directory.
//!
//! Read first: `records`, which writes its file the same way. What the bytes mean is for [`crate::dht`] to say: a file
//! that is damaged is one without nodes. Holds nothing.

use std::io;
use std::path::Path;

use super::records::{create, open, open_directory, read_at, rename, sync, write};

/// Bytes of a file that is looked at: several times what is ever written.
const MAX: usize = 16 * 1024;

/// What the file holds; nothing where it cannot be read, or is none of ours.
pub(super) fn load(directory: &Path) -> Box<[u8]> {
    let mut bytes = Vec::new();
    if let Ok((file, ident)) = open(&directory.join("dht"))
        && ident.size <= MAX as u64
    {
        bytes.resize(MAX, 0);
        let read = read_at(&file, &mut bytes, 0).unwrap_or(0);
        bytes.truncate(read);
    }
    bytes.into()
}

/// Replaces the file, whole or not at all. Where that cannot be, there is nothing to be done.
pub(super) fn save(directory: &Path, bytes: &[u8]) {
    if let Err(error) = replace(directory, bytes) {
        log::debug!("{}: nodes of the DHT are not saved: {error}", directory.display());
    }
}

fn replace(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let (new, current) = (directory.join("dht.new"), directory.join("dht"));
    let file = create(&new)?;
    write(&file, bytes)?;
    sync(&file)?;
    rename(&new, &current)?;
    sync(&open_directory(directory)?)
}

#[cfg(test)]
mod tests {
    use super::super::fault::tests::Faults;
    use super::super::tests::Temp;
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_is_saved_is_loaded_and_elsewhere_there_is_nothing() {
        let temp = Temp::new();
        let state = temp.path("state");
        save(&state, b"to nowhere");
        assert!(load(&state).is_empty() && !state.exists());
        std::fs::create_dir(&state).unwrap();
        save(&state, b"some nodes");
        assert_eq!(*load(&state), *b"some nodes");
        std::fs::write(state.join("dht"), vec![b'x'; MAX + 1]).unwrap();
        assert!(load(&state).is_empty());
        std::fs::remove_file(state.join("dht")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", state.join("dht")).unwrap();
        assert!(load(&state).is_empty());
        std::fs::remove_file(state.join("dht")).unwrap();
        std::fs::create_dir(state.join("dht")).unwrap();
        assert!(load(&state).is_empty());
    }

    #[test]
    fn a_power_cut_at_any_moment_leaves_the_old_ones_or_the_new_ones() {
        let temp = Temp::new();
        let state = temp.path("state");
        std::fs::create_dir(&state).unwrap();
        save(&state, b"old");
        for n in 1.. {
            let faults = Faults::at(n, Errno::IO, true);
            save(&state, b"new");
            let calls = faults.calls();
            drop(faults);
            let found = load(&state);
            assert!(*found == *b"old" || *found == *b"new", "{n}");
            if calls < n {
                assert_eq!(*found, *b"new");
                return;
            }
        }
    }
}
