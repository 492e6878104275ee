//! The bytes of a .torrent: its keys, of all formats, in their order.
//!
//! Read first: BEP 3, 12 (announce-list), 5 (`nodes`), 19 and 17 (web seeds), 27 (private), 30 (`root hash`), 38
//! (`similar`), 39 (`update-url`), 47 (`attr`), 52 (`file tree`, `piece layers`). Holds the torrent once.

use super::{Entry, Format, Options, Plan};
use crate::bencode::{DictWriter, Writer};
use crate::metainfo::{hex, merkle};

/// What the content's bytes gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashes {
    /// SHA-1 of each piece, where the format has v1.
    pub pieces: Vec<[u8; 20]>,
    /// The node of each piece in its file's tree, where the format has v2; of a file of one piece it is the root.
    pub nodes: Vec<[u8; 32]>,
    /// MD5 of each file, where it is wished.
    pub md5: Vec<[u8; 16]>,
}

/// A file as both lists of files show it.
struct Shown<'a> {
    entry: &'a Entry,
    attributes: String,
    /// Of a file with a byte in it.
    root: Option<[u8; 32]>,
}

/// The .torrent.
pub fn encode(plan: &Plan, options: &Options, hashes: &Hashes) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 * hashes.pieces.len() + 32 * hashes.nodes.len() + 1024);
    let urls: Vec<&String> = options.trackers.iter().flatten().collect();
    let roots = roots(plan, hashes);
    Writer::new(&mut out).dict(|d| {
        if let Some(first) = urls.first() {
            d.bytes("announce", first);
        }
        if urls.len() > 1 {
            d.list("announce-list", |tiers| {
                options.trackers.iter().for_each(|tier| tiers.list(|urls| strings(urls, tier)));
            });
        }
        text(d, "comment", options.comment.as_ref());
        text(d, "created by", options.created_by.as_ref());
        if let Some(date) = options.creation_date {
            d.int("creation date", date);
        }
        list(d, "httpseeds", &options.http_seeds);
        d.dict("info", |info| encode_info(info, plan, options, hashes, &roots));
        if !options.nodes.is_empty() {
            d.list("nodes", |nodes| {
                for (host, port) in &options.nodes {
                    nodes.list(|node| {
                        node.bytes(host);
                        node.int(i64::from(*port));
                    });
                }
            });
        }
        if plan.format.is_v2() {
            d.dict("piece layers", |layers| encode_layers(layers, plan, hashes, &roots));
        }
        match options.web_seeds.as_slice() {
            // The oldest readers know the string alone.
            [one] => d.bytes("url-list", one),
            many => list(d, "url-list", many),
        }
    });
    out
}

/// `pieces root` of each file, where the format has v2.
fn roots(plan: &Plan, hashes: &Hashes) -> Vec<[u8; 32]> {
    let piece_length = plan.lengths.piece_length();
    let root = |file| match layer(plan, hashes, file) {
        [] => [0; 32],
        [root] => *root,
        layer => merkle::root_of_layer(layer, piece_length),
    };
    if plan.format.is_v2() { (0..plan.files.len()).map(root).collect() } else { Vec::new() }
}

/// The nodes of a file's pieces.
fn layer<'a>(plan: &Plan, hashes: &'a Hashes, file: usize) -> &'a [[u8; 32]] {
    let piece_length = u64::from(plan.lengths.piece_length());
    let (Some(end), Some(entry)) = (plan.ends.get(file), plan.files.get(file)) else { return &[] };
    let piece = |offset: u64| usize::try_from(offset / piece_length).unwrap_or(usize::MAX);
    let range = piece(end - entry.length)..piece(end + piece_length - 1);
    hashes.nodes.get(range).filter(|_| entry.length > 0).unwrap_or_default()
}

fn encode_info(
    info: &mut DictWriter<'_>,
    plan: &Plan,
    options: &Options,
    hashes: &Hashes,
    roots: &[[u8; 32]],
) {
    let shown: Vec<Shown<'_>> = (plan.files.iter().enumerate())
        .map(|(i, entry)| Shown {
            entry,
            attributes: attributes(entry, &plan.name, options),
            root: roots.get(i).copied().filter(|_| entry.length > 0),
        })
        .collect();
    let single = shown.first().filter(|_| plan.format.is_v1() && !plan.multi_file);
    if let Some(file) = single {
        attr(info, &file.attributes);
    }
    list(info, "collections", &options.collections);
    if plan.format.is_v2() {
        info.dict("file tree", |tree| {
            if plan.multi_file {
                encode_tree(tree, &shown, 0);
            } else if let Some(file) = shown.first() {
                encode_leaf(tree, &plan.name, file);
            }
        });
    }
    if plan.format.is_v1() && plan.multi_file {
        info.list("files", |files| encode_files(files, plan, hashes, &shown));
    }
    if let Some(file) = single {
        info.int("length", int(file.entry.length));
        md5(info, hashes.md5.first());
    }
    if plan.format.is_v2() {
        info.int("meta version", 2);
    }
    info.bytes("name", &plan.name);
    info.int("piece length", plan.lengths.piece_length().into());
    match plan.format {
        Format::V1 | Format::Hybrid => info.bytes("pieces", hashes.pieces.as_flattened()),
        Format::V2 | Format::Merkle => {}
    }
    if options.private {
        info.int("private", 1);
    }
    if plan.format == Format::Merkle {
        info.bytes("root hash", merkle::root_v1(&hashes.pieces));
    }
    if !options.similar.is_empty() {
        info.list("similar", |similar| options.similar.iter().for_each(|hash| similar.bytes(hash)));
    }
    text(info, "source", options.source.as_ref());
    text(info, "update-url", options.update_url.as_ref());
}

/// The list of files of v1, with the padding of a hybrid.
fn encode_files(files: &mut Writer<'_>, plan: &Plan, hashes: &Hashes, shown: &[Shown<'_>]) {
    for (i, file) in shown.iter().enumerate() {
        let padding = plan.padding_before(i);
        if padding > 0 {
            files.dict(|d| {
                attr(d, "p");
                d.int("length", int(padding));
                path(d, "path", &format!(".pad/{padding}"));
            });
        }
        files.dict(|d| {
            attr(d, &file.attributes);
            d.int("length", int(file.entry.length));
            md5(d, hashes.md5.get(i).filter(|_| file.entry.link.is_none()));
            path(d, "path", &file.entry.path);
            if let Some(link) = &file.entry.link {
                path(d, "symlink path", link);
            }
        });
    }
}

/// The part of the file tree whose files share that many names.
fn encode_tree(tree: &mut DictWriter<'_>, mut files: &[Shown<'_>], depth: usize) {
    let name = |file: &Shown<'_>| file.entry.path.split('/').nth(depth).map(str::to_owned);
    while let Some((first, rest)) = files.split_first() {
        let Some(own) = name(first) else { return };
        if first.entry.path.split('/').nth(depth + 1).is_none() {
            encode_leaf(tree, &own, first);
            files = rest;
            continue;
        }
        let many = files.partition_point(|file| name(file).as_ref() == Some(&own));
        let (folder, others) = files.split_at(many);
        tree.entry(&own, |value| value.dict(|d| encode_tree(d, folder, depth + 1)));
        files = others;
    }
}

fn encode_leaf(tree: &mut DictWriter<'_>, name: &str, file: &Shown<'_>) {
    tree.dict(name, |d| {
        d.dict("", |d| {
            attr(d, &file.attributes);
            match &file.entry.link {
                Some(link) => path(d, "symlink path", link),
                None => d.int("length", int(file.entry.length)),
            }
            if let Some(root) = file.root {
                d.bytes("pieces root", root);
            }
        });
    });
}

/// The layers of all files of several pieces; of two with the same content there is one.
fn encode_layers(layers: &mut DictWriter<'_>, plan: &Plan, hashes: &Hashes, roots: &[[u8; 32]]) {
    let piece_length = u64::from(plan.lengths.piece_length());
    let mut order: Vec<usize> = (0..roots.len())
        .filter(|file| plan.files.get(*file).is_some_and(|f| f.length > piece_length))
        .collect();
    order.sort_unstable_by_key(|file| roots[*file]);
    order.dedup_by_key(|file| roots[*file]);
    for file in order {
        layers.bytes(roots[file], layer(plan, hashes, file).as_flattened());
    }
}

/// The letters of BEP 47.
fn attributes(entry: &Entry, name: &str, options: &Options) -> String {
    let last = entry.path.rsplit('/').next().filter(|last| !last.is_empty()).unwrap_or(name);
    let mut letters = String::new();
    if options.attributes && entry.link.is_none() && last.starts_with('.') {
        letters.push('h');
    }
    if entry.link.is_some() {
        letters.push('l');
    }
    if options.attributes && entry.executable {
        letters.push('x');
    }
    letters
}

fn attr(d: &mut DictWriter<'_>, letters: &str) {
    if !letters.is_empty() {
        d.bytes("attr", letters);
    }
}

fn md5(d: &mut DictWriter<'_>, digest: Option<&[u8; 16]>) {
    if let Some(digest) = digest {
        d.bytes("md5sum", hex(digest));
    }
}

fn path(d: &mut DictWriter<'_>, key: &str, path: &str) {
    d.list(key, |names| path.split('/').for_each(|name| names.bytes(name)));
}

fn text(d: &mut DictWriter<'_>, key: &str, value: Option<&String>) {
    if let Some(value) = value {
        d.bytes(key, value);
    }
}

fn list(d: &mut DictWriter<'_>, key: &str, values: &[String]) {
    if !values.is_empty() {
        d.list(key, |list| strings(list, values));
    }
}

fn strings(list: &mut Writer<'_>, values: &[String]) {
    values.iter().for_each(|value| list.bytes(value));
}

/// No length passes 63 bits: their sum is checked when pieces are counted.
fn int(length: u64) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::*;
    use crate::metainfo::parse;
    use crate::metainfo::survey::Survey;

    fn entry(path: &str, length: u64) -> Entry {
        Entry { path: path.into(), length, ..Entry::default() }
    }

    fn text_of(bytes: &[u8]) -> String {
        bytes.escape_ascii().to_string()
    }

    #[test]
    fn a_folder_is_written_byte_for_byte() {
        let options = Options {
            trackers: vec![vec!["http://a/".into(), "http://b/".into()], vec!["http://c/".into()]],
            web_seeds: vec!["http://w/".into()],
            http_seeds: vec!["http://s".into()],
            nodes: vec![("h".into(), 1)],
            private: true,
            source: Some("s".into()),
            comment: Some("c".into()),
            created_by: Some("p".into()),
            creation_date: Some(5),
            similar: vec![[b'i'; 20]],
            collections: vec!["k".into()],
            update_url: Some("http://u".into()),
            md5: true,
            ..Options::default()
        };
        let plan = plan("n", vec![entry("b", 0), entry("a/c", 3)], &options).unwrap();
        let hashes = Hashes { pieces: vec![[b'a'; 20]], md5: vec![[0xab; 16]; 2], ..Hashes::default() };
        let bytes = encode(&plan, &options, &hashes);
        let expected =
            b"d8:announce9:http://a/13:announce-listll9:http://a/9:http://b/el9:http://c/ee7:comment1:c\
            10:created by1:p13:creation datei5e9:httpseedsl8:http://se4:infod11:collectionsl1:ke5:filesl\
            d6:lengthi3e6:md5sum32:abababababababababababababababab4:pathl1:a1:cee\
            d6:lengthi0e6:md5sum32:abababababababababababababababab4:pathl1:beee\
            4:name1:n12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa7:privatei1e\
            7:similarl20:iiiiiiiiiiiiiiiiiiiie6:source1:s10:update-url8:http://ue5:nodesll1:hi1eee\
            8:url-list9:http://w/e";
        assert_eq!(text_of(&bytes), text_of(expected));
        let torrent = parse(&bytes).unwrap();
        assert_eq!(
            (torrent.trackers, torrent.web_seeds, torrent.http_seeds, torrent.nodes),
            (options.trackers, options.web_seeds, options.http_seeds, options.nodes)
        );
        assert!(torrent.private && torrent.warnings.is_empty());
        let survey = Survey::read(&bytes).unwrap();
        let texts = (survey.comment, survey.created_by, survey.source, survey.creation_date);
        assert_eq!(texts, (options.comment, options.created_by, options.source, Some(5)));
    }

    #[test]
    fn a_file_is_written_byte_for_byte() {
        let options = Options {
            trackers: vec![vec!["udp://t:1".into()]],
            web_seeds: vec!["http://v".into(), "http://w".into()],
            attributes: true,
            ..Options::default()
        };
        let file = Entry { executable: true, ..entry("", 20_000) };
        let plan = plan("n", vec![file], &options).unwrap();
        let bytes = encode(&plan, &options, &Hashes { pieces: vec![[b'x'; 20]; 2], ..Hashes::default() });
        let expected =
            b"d8:announce9:udp://t:14:infod4:attr1:x6:lengthi20000e4:name1:n12:piece lengthi16384e\
            6:pieces40:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxe8:url-listl8:http://v8:http://wee";
        assert_eq!(text_of(&bytes), text_of(expected));
        assert!(!parse(&bytes).unwrap().multi_file);
    }

    #[test]
    fn a_hybrid_has_both_lists_in_one_order_with_padding_and_links() {
        let options = Options { format: Format::Hybrid, links: true, attributes: true, ..Options::default() };
        let link = Entry { link: Some("a/c".into()), ..entry("l", 0) };
        let files = vec![entry("a/c", 5), entry("a/.d", 3), link, entry("z", 0)];
        let plan = plan("n", files, &options).unwrap();
        let nodes = vec![[b'1'; 32], [b'2'; 32]];
        let bytes = encode(&plan, &options, &Hashes { pieces: vec![[b'x'; 20]; 2], nodes, md5: Vec::new() });
        let expected = b"d4:infod9:file treed1:ad2:.dd0:d4:attr1:h6:lengthi3e\
            11:pieces root32:11111111111111111111111111111111ee1:cd0:d6:lengthi5e\
            11:pieces root32:22222222222222222222222222222222eee\
            1:ld0:d4:attr1:l12:symlink pathl1:a1:ceee1:zd0:d6:lengthi0eeee\
            5:filesld4:attr1:h6:lengthi3e4:pathl1:a2:.deed4:attr1:p6:lengthi16381e4:pathl4:.pad5:16381ee\
            d6:lengthi5e4:pathl1:a1:ceed4:attr1:l6:lengthi0e4:pathl1:le12:symlink pathl1:a1:cee\
            d6:lengthi0e4:pathl1:zeee12:meta versioni2e4:name1:n12:piece lengthi16384e\
            6:pieces40:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxe12:piece layersdee";
        assert_eq!(text_of(&bytes), text_of(expected));
        let torrent = parse(&bytes).unwrap();
        let lengths: Vec<_> = torrent.files.iter().map(|file| (file.pad, file.length)).collect();
        assert_eq!(lengths, [(false, 3), (true, 16_381), (false, 5), (false, 0)]);
        assert_eq!(plan.listed().len(), torrent.files.len());
    }

    #[test]
    fn files_of_the_same_content_share_a_layer() {
        let options = Options { format: Format::V2, ..Options::default() };
        let files = vec![entry("a", 20_000), entry("b", 1), entry("c", 20_000)];
        let plan = plan("n", files, &options).unwrap();
        let nodes = vec![[1; 32], [2; 32], [3; 32], [1; 32], [2; 32]];
        let root = merkle::root_of_layer(&nodes[..2], 16_384);
        let bytes = encode(&plan, &options, &Hashes { nodes, ..Hashes::default() });
        let layers = [b"12:piece layersd32:", &root[..], b"64:", &[1; 32], &[2; 32], b"ee"].concat();
        assert!(bytes.ends_with(&layers), "{}", text_of(&bytes));
        assert!(!text_of(&bytes).contains("6:pieces"));
    }

    #[test]
    fn merkle_has_a_root_in_the_place_of_pieces() {
        let options = Options { format: Format::Merkle, ..Options::default() };
        let plan = plan("n", vec![entry("", 40_000)], &options).unwrap();
        let pieces = vec![[1; 20], [2; 20], [3; 20]];
        let root = merkle::root_v1(&pieces);
        let bytes = encode(&plan, &options, &Hashes { pieces, ..Hashes::default() });
        let head = b"d4:infod6:lengthi40000e4:name1:n12:piece lengthi16384e9:root hash20:";
        assert_eq!(text_of(&bytes), text_of(&[&head[..], &root, b"ee"].concat()));
    }
}
