//! Web seeds (BEP 17, BEP 19): what is asked of a web server, and what is made of its answers.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "real processes, files and sockets; a test may panic"
)]

mod common;

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use common::torrent::Torrent;
use common::webserver::{Answer, WebServer};
use meshseed::http::Url;
use meshseed::http::io::{Ask, Client, Error, Opened, Progress};
use meshseed::net::io::Resolver;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks for some bytes and reads `most` of them. The status of an answer without content is an error.
async fn read(
    client: &mut Client,
    url: &Url,
    from: Option<IpAddr>,
    range: Range<u64>,
    most: usize,
) -> Result<(Vec<u8>, Option<(Url, IpAddr)>), Result<u16, Error>> {
    let ask = Ask { url, from, query: b"", range: Some(range), family: None };
    let mut stream = match client.open(&Resolver::new(), &ask, PATIENCE).await.map_err(Err)? {
        Opened::Content(stream) => stream,
        Opened::Other(response) => return Err(Ok(response.status)),
    };
    let redirected = stream.redirected().cloned();
    let (mut content, mut place) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let progress = stream.read(&mut place, |_, part| {
            content.extend_from_slice(part);
            content.len() < most
        });
        match progress.map_err(Err)? {
            Progress::Some => {}
            Progress::Nothing => stream.ready(1, PATIENCE).await.map_err(Err)?,
            Progress::End => break client.keep(stream),
            Progress::Stopped => break,
        }
    }
    Ok((content, redirected))
}

fn torrent() -> Torrent {
    Torrent::single("image", 300_000, 16_384)
}

fn url(server: &WebServer, path: &str) -> Url {
    Url::parse(&format!("{}{path}", server.folder())).unwrap()
}

#[test]
fn a_body_is_read_whatever_way_it_comes_and_connections_are_used_again() {
    let torrent = torrent();
    let content = torrent.content();
    let ways = |n: usize| match n % 4 {
        0 => Answer::Proper,
        1 => Answer::Chunked(1),
        2 => Answer::Chunked(5000),
        _ => Answer::UntilClose,
    };
    let server = WebServer::start(&torrent, move |request| ways(request.number));
    let url = url(&server, "image");
    smol::block_on(async {
        let mut client = Client::for_content();
        for (n, range) in
            [(0, 0..300_000), (1, 5..6), (2, 100_000..250_000), (3, 7..70_000), (4, 299_999..300_000)]
        {
            let (got, redirected) = read(&mut client, &url, None, range.clone(), usize::MAX).await.unwrap();
            let wanted = &content[range.start as usize..range.end as usize];
            assert!(got == wanted && redirected.is_none(), "{:?} {range:?}", ways(n));
        }
        // What is given up takes its connection with it.
        let (got, _) = read(&mut client, &url, None, 0..300_000, 10_000).await.unwrap();
        assert!(got.len() >= 10_000 && content.starts_with(&got));
        read(&mut client, &url, None, 0..10, usize::MAX).await.unwrap();
    });
    let used: Vec<u32> = server.requests().iter().map(|request| request.connection).collect();
    assert_eq!(used, [0, 0, 0, 0, 1, 1, 2]);
    assert_eq!(server.requests()[2].range, Some((100_000, 249_999)));
}

#[test]
fn where_a_redirect_led_is_told_and_the_range_goes_along() {
    let torrent = torrent();
    let mirror = WebServer::proper(&torrent);
    let to = url(&mirror, "image");
    let target = to.clone();
    let first = WebServer::start(&torrent, move |_| Answer::Redirect(target.to_string()));
    smol::block_on(async {
        let mut client = Client::for_content();
        let (got, redirected) =
            read(&mut client, &url(&first, "image"), None, 50..90, usize::MAX).await.unwrap();
        assert_eq!(got, torrent.content()[50..90]);
        let (there, from) = redirected.unwrap();
        assert_eq!((&there, from), (&to, first.address.ip()));
        let (got, redirected) = read(&mut client, &there, Some(from), 60..70, usize::MAX).await.unwrap();
        assert_eq!((&got[..], redirected), (&torrent.content()[60..70], None));
        // Somebody on the Internet who sent us here once does not do so later, whatever the name means then.
        let outside = Some(IpAddr::from([203, 0, 113, 1]));
        let denied = read(&mut Client::for_content(), &there, outside, 0..1, usize::MAX).await;
        assert!(matches!(denied, Err(Err(Error::Denied(_)))), "{denied:?}");
    });
    assert_eq!((first.requests().len(), mirror.requests().len(), mirror.connections()), (1, 2, 1));
    assert_eq!(mirror.requests()[0].range, Some((50, 89)));
}

#[test]
fn what_can_not_be_content_is_an_error_that_says_so() {
    let torrent = torrent();
    let answers = [
        Answer::Gzip,
        Answer::Cut(1000),
        Answer::Status(404, None, "none"),
        Answer::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()),
        Answer::Raw(Vec::new()),
        Answer::Redirect("https://h.example/".into()),
        Answer::Redirect("/pub/image".into()),
        Answer::Redirect("/pub/image?order=pizza".into()),
    ];
    let expected = [
        "the reply is encoded in a way that was not asked for",
        "the connection was closed in the middle of the reply",
        "404",
        "the reply is not HTTP",
        "the connection was closed without a reply",
        "https:// is not supported yet",
        "redirected more than 5 times",
        "a URL with a query is not asked on our own network",
    ];
    for (answer, expected) in answers.into_iter().zip(expected) {
        let server = WebServer::start(&torrent, move |_| answer.clone());
        let result = smol::block_on(read(
            &mut Client::for_content(),
            &url(&server, "image"),
            None,
            0..9000,
            usize::MAX,
        ));
        let said = match result.unwrap_err() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said, expected);
    }
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let torrent = torrent();
    let silent = WebServer::start(&torrent, |_| Answer::Stall);
    let started = std::time::Instant::now();
    let result = smol::block_on(async {
        let url = url(&silent, "image");
        let ask = Ask { url: &url, from: None, query: b"", range: None, family: None };
        let mut client = Client::for_content();
        client.open(&Resolver::new(), &ask, Duration::from_millis(300)).await.map(|_| ())
    });
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
    assert!(started.elapsed() < PATIENCE);
}
