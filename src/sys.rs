//! The only unsafe code: system calls and socket options that no crate in the tree wraps, each block with its reason.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// `SIOCOUTQNSD` of linux/sockios.h: the same number on every architecture.
const SIOCOUTQNSD: u32 = 0x894B;

/// Bytes given to a TCP socket that it has not sent even once. What has been sent and not acknowledged is not counted.
pub fn unsent(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int to the address it is given, which is that of a live int.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCOUTQNSD as _, &raw mut bytes) };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Bytes of send buffer that a socket has left, as the kernel counts them (with its own overhead).
pub fn send_room(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // The fields of `SK_MEMINFO_*` in linux/sock_diag.h.
    const SNDBUF: usize = 3;
    const WMEM_QUEUED: usize = 5;
    let mut info = [0u32; 9];
    let mut len = libc::socklen_t::try_from(size_of::<[u32; 9]>()).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes into `info`, and tells how many in `len`.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    // An emulator takes the option for an int: what it did not write is no full buffer.
    if usize::try_from(len).is_ok_and(|len| len <= WMEM_QUEUED * size_of::<u32>()) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(info[SNDBUF].saturating_sub(info[WMEM_QUEUED]))
}

/// Makes a TCP socket count as writable only while fewer than half of `bytes` wait unsent, and take no more than that.
pub fn limit_unsent(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// Makes a socket count as readable only once so many bytes wait in it, or it was closed.
pub fn expect_bytes(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads one int from the address of a live int, whose size it is given.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0),
        )
    };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the allocator keep little of what is freed. glibc raises its thresholds each time a large block goes, until
/// megabytes stay; setting them ends that. musl's allocator is lean as it is.
pub fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: called before the first thread is started, with parameters that glibc documents.
    unsafe {
        const LARGE: libc::c_int = 64 * 1024;
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives memory that is free inside the heap back to the system. After a thousand torrents were parsed, glibc would keep
/// the pages between what stays; musl's allocator needs no asking.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no precondition; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_types, reason = "a real socket is what is tested")]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn a_full_socket_has_unsent_bytes_and_a_fresh_one_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _reader = listener.accept().unwrap();
        assert_eq!(unsent(socket.as_fd()).unwrap(), 0);
        let room = send_room(socket.as_fd()).unwrap();
        assert!(room > 0);
        limit_unsent(socket.as_fd(), 128 * 1024).unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.write(&[0; 65_536]).is_ok() {}
        assert!(unsent(socket.as_fd()).unwrap() > 0);
        assert!(send_room(socket.as_fd()).unwrap() < room.max(1 << 22));
    }
}
