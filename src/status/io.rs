//! The control socket: one JSON object a line in, one out; and the client of it.
//!
//! Whoever may write to the socket may pause torrents and reload the configuration; nothing else is asked of it. Holds
//! up to eight clients of a line each, and gives each ten seconds.
#![expect(clippy::disallowed_types, reason = "I/O shell")]

use std::fmt::{self, Display};
use std::fs::{self, Permissions};
use std::future::poll_fn;
use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

use async_io::{Async, Timer};
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::{Error, MAX_LINE, Method, Reply, Value, json};

/// Clients at the same time; others wait.
const MAX_CLIENTS: usize = 8;

/// For a request to come in, for a reply to go out.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// After an accept that failed, most likely for want of descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Bytes that a client reads of a reply: one with a single entry may pass [`MAX_LINE`].
const MAX_REPLY: u64 = 4 << 20;

/// The listening socket; its file goes when this does.
pub struct Control {
    listener: Async<UnixListener>,
    path: PathBuf,
    /// File system and inode, so that a successor's file is left alone.
    file: (u64, u64),
}

/// Why a daemon did not answer. `Display` is what a user reads.
#[derive(Debug)]
pub enum AskError {
    /// It could not be asked.
    Io(PathBuf, io::Error),
    /// It refused.
    Refused(String),
}

impl Control {
    /// Listens at `path`, with mode 0660. A file that a dead daemon left is replaced, a living one's is not.
    pub fn bind(path: &Path) -> io::Result<Control> {
        if let Some(directory) = path.parent()
            && let Err(error) = fs::create_dir(directory)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
            }
            match UnixStream::connect(path) {
                Ok(_) => return Err(io::Error::new(ErrorKind::AddrInUse, "another daemon answers there")),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
                Err(error) => return Err(error),
            }
        }
        // Until the mode is set nobody but our own user can connect, whatever the umask (0777 apart).
        let listener = Async::new(UnixListener::bind(path)?)?;
        fs::set_permissions(path, Permissions::from_mode(0o660))?;
        let metadata = fs::symlink_metadata(path)?;
        Ok(Control { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    /// Answers for ever.
    pub async fn serve(&self, answer: &dyn Fn(Method) -> Result<Reply, Error>) {
        let mut slots: Vec<_> = (0..MAX_CLIENTS).map(|_| Box::pin(self.serve_in_turn(answer))).collect();
        poll_fn(|context| {
            for slot in &mut slots {
                let _: Poll<()> = slot.as_mut().poll(context);
            }
            Poll::Pending
        })
        .await
    }

    /// One client after the other.
    async fn serve_in_turn(&self, answer: &dyn Fn(Method) -> Result<Reply, Error>) {
        loop {
            let served = match self.listener.accept().await {
                // Boxed, so that nobody's buffers take no room.
                Ok((stream, _)) => Box::pin(client(stream, answer)).await,
                Err(error) => {
                    Timer::after(PAUSE).await;
                    Err(error)
                }
            };
            if let Err(error) = served {
                log::debug!("control socket: {error}");
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let same = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(same) {
            // Fails where privileges were dropped; then the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn client(
    mut stream: Async<UnixStream>,
    answer: &dyn Fn(Method) -> Result<Reply, Error>,
) -> io::Result<()> {
    let mut read = Vec::new();
    loop {
        let line = in_time(next_line(&mut stream, &mut read)).await?;
        let (reply, last) = match line {
            Line::End => return Ok(()),
            Line::Whole(line) if line.iter().all(u8::is_ascii_whitespace) => continue,
            Line::Whole(line) => (Method::decode(&line).and_then(answer), false),
            Line::TooLong => (Err(Error::Syntax(format!("a request has at most {MAX_LINE} bytes"))), true),
        };
        let reply = Reply::encode(reply);
        in_time(stream.write_all(&reply)).await?;
        if last {
            return Ok(());
        }
    }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

/// The next line, without its end; what follows it stays in `read`.
async fn next_line(stream: &mut Async<UnixStream>, read: &mut Vec<u8>) -> io::Result<Line> {
    let mut looked = 0;
    loop {
        if let Some(end) = read[looked..].iter().position(|byte| *byte == b'\n') {
            let rest = read.split_off(looked + end + 1);
            let mut line = std::mem::replace(read, rest);
            line.pop();
            return Ok(Line::Whole(line));
        }
        if read.len() >= MAX_LINE {
            return Ok(Line::TooLong);
        }
        looked = read.len();
        let mut chunk = [0; 1024];
        let wanted = chunk.len().min(MAX_LINE - looked);
        match stream.read(&mut chunk[..wanted]).await? {
            0 if read.is_empty() => return Ok(Line::End),
            // `printf` and the like forget the end.
            0 => return Ok(Line::Whole(std::mem::take(read))),
            len => read.extend_from_slice(&chunk[..len]),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = async {
        Timer::after(PATIENCE).await;
        Err(ErrorKind::TimedOut.into())
    };
    work.or(late).await
}

/// Asks the daemon at `path`, and waits.
pub fn ask(path: &Path, method: &Method) -> Result<Value, AskError> {
    let ask = || {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&method.encode())?;
        let mut line = Vec::new();
        BufReader::new(stream.take(MAX_REPLY)).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        json::decode(&line).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))
    };
    let answer = ask().map_err(|error| AskError::Io(path.to_owned(), error))?;
    match answer {
        Value::Table(fields) => match fields.into_iter().next() {
            Some((name, result)) if name == "result" => Ok(result),
            error => {
                Err(AskError::Refused(error.map_or(String::new(), |(_, reason)| reason.text().to_owned())))
            }
        },
        _ => Err(AskError::Refused("no answer of meshseed's".to_owned())),
    }
}

impl Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Refused(reason) => f.write_str(reason),
            AskError::Io(path, error) => {
                let path = path.display();
                match error.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                        write!(
                            f,
                            "nobody answers at {path}: is the daemon running? (`meshseed daemon` starts it)"
                        )
                    }
                    ErrorKind::PermissionDenied => {
                        write!(
                            f,
                            "{path} may be used by root and by the daemon's user and group alone: {error}"
                        )
                    }
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        write!(f, "the daemon at {path} did not answer in {} seconds", PATIENCE.as_secs())
                    }
                    _ => write!(f, "{path}: {error}"),
                }
            }
        }
    }
}

impl std::error::Error for AskError {}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test of a shell")]
mod tests {
    use std::time::Instant;

    use super::super::{Part, Status};
    use super::*;

    fn socket_path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("meshseed-control-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path.join("control.sock")
    }

    fn answer(method: Method) -> Result<Reply, Error> {
        match method {
            Method::Status => Ok(Reply::Status(Box::new(Status { uptime: 5, ..Status::default() }))),
            Method::List(Part { offset, limit }) => Err(Error::Failed(format!("{offset} {limit}"))),
            Method::Torrent(info_hash) => Err(Error::Unknown(info_hash)),
            _ => Ok(Reply::Done),
        }
    }

    /// Runs blocking clients beside the server.
    fn with_server<T: Send + 'static>(path: &Path, clients: impl FnOnce() -> T + Send + 'static) -> T {
        let control = Control::bind(path).unwrap();
        let serve = async {
            control.serve(&answer).await;
            unreachable!()
        };
        smol::block_on(serve.or(smol::unblock(clients)))
    }

    fn exchange(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn a_client_asks_and_gets_its_answer() {
        let path = socket_path("ask");
        let client = path.clone();
        with_server(&path, move || {
            let status = ask(&client, &Method::Status).unwrap();
            assert_eq!(status.field("uptime").number(), 5);
            assert_eq!(ask(&client, &Method::Rescan).unwrap(), Value::Table(Vec::new()));
            let list = Method::List(Part { offset: 1, limit: 2 });
            assert_eq!(ask(&client, &list).unwrap_err().to_string(), "1 2");
        });
        assert!(!path.exists(), "the file goes with its server");
        let error = ask(&path, &Method::Status).unwrap_err().to_string();
        assert!(error.ends_with("is the daemon running? (`meshseed daemon` starts it)"), "{error}");
    }

    #[test]
    fn several_lines_in_one_write_are_answered_in_order_also_without_the_last_end() {
        let path = socket_path("lines");
        let client = path.clone();
        with_server(&path, move || {
            let reply = exchange(&client, b"{\"method\":\"rescan\"}\n\nnonsense\r\n{\"method\":\"reload\"}");
            let lines: Vec<&str> = reply.lines().collect();
            assert_eq!((lines.len(), lines[0], lines[2]), (3, "{\"result\":{}}", "{\"result\":{}}"));
            assert!(lines[1].starts_with("{\"error\":\"expected"), "{}", lines[1]);
            let reply = exchange(&client, &[b'x'; MAX_LINE]);
            assert_eq!(reply, "{\"error\":\"a request has at most 65536 bytes\"}\n");
        });
    }

    #[test]
    fn idle_clients_keep_nobody_out_for_long() {
        let path = socket_path("idle");
        let client = path.clone();
        with_server(&path, move || {
            let idle: Vec<UnixStream> =
                (0..MAX_CLIENTS).map(|_| UnixStream::connect(&client).unwrap()).collect();
            let mut late = UnixStream::connect(&client).unwrap();
            let start = Instant::now();
            late.write_all(b"{\"method\":\"rescan\"}\n").unwrap();
            let mut reply = [0; 13];
            late.read_exact(&mut reply).unwrap();
            assert!(start.elapsed() > PATIENCE / 2 && start.elapsed() < PATIENCE * 2);
            drop(idle);
        });
    }

    #[test]
    fn a_stale_socket_is_replaced_a_living_one_and_other_files_are_not() {
        let path = socket_path("stale");
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let control = Control::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(Control::bind(&path).err().unwrap().kind(), ErrorKind::AddrInUse);
        // A successor's file outlives its predecessor.
        fs::remove_file(&path).unwrap();
        let next = Control::bind(&path).unwrap();
        drop(control);
        assert!(path.exists());
        drop(next);
        assert!(!path.exists());
        fs::File::create(&path).unwrap();
        assert_eq!(Control::bind(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert!(path.exists());
        let _ = fs::remove_dir_all(path.parent().unwrap());
    }
}
