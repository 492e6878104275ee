//! A router as far as an init script meets one: a folder for its root, UCI, busybox's shell, and procd, which starts,
//! signals and stops what is declared. The shell functions of OpenWrt are in `rc.common` and `network.sh` beside this.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use meshseed::config::Config;
use serde_json::{Value, json};

use super::common::{Folder, meshseed, run};

pub const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/init/meshseed.init");

/// A router that runs nothing yet.
pub struct Router {
    folder: Folder,
    /// What stands for /usr/bin/meshseed.
    pub program: PathBuf,
    /// What procd runs: the declaration by which it was started or last signalled, and what its `file` held then.
    running: Option<(Instance, String)>,
    /// What procd was told to end and has not gone yet.
    ending: Option<Instance>,
}

/// What procd was told to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance {
    pub parameters: Vec<(String, Vec<String>)>,
    pub jail: Option<Vec<String>>,
    /// `ro` or `rw`, and the path.
    pub mounts: Vec<(String, String)>,
    /// For the firewall and umdns.
    pub data: Value,
}

/// What became of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It runs on, or stays stopped.
    #[default]
    Left,
    Started,
    Hup,
    Restarted,
    Stopped,
}

/// What one call of the script came to.
#[derive(Debug)]
pub struct Ran {
    pub fate: Fate,
    pub log: Vec<String>,
    /// The other calls, in their order: triggers, owners, what others are told.
    pub calls: Vec<Vec<String>>,
}

impl Ran {
    /// The calls of this name.
    pub fn of(&self, name: &str) -> Vec<String> {
        self.calls.iter().filter(|call| call[0] == name).map(|call| call[1..].join(" ")).collect()
    }
}

impl Instance {
    /// The values of a parameter; none where it is not given.
    pub fn parameter(&self, name: &str) -> Option<&[String]> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, values)| &values[..])
    }
}

impl Router {
    pub fn new() -> Router {
        let router = Router { folder: Folder::new(), program: meshseed(), running: None, ending: None };
        for directory in ["bin", "etc", "lib/functions", "networks", "sbin", "var/run"] {
            fs::create_dir_all(router.path(directory)).unwrap();
        }
        let network = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/init/network.sh");
        fs::copy(network, router.path("lib/functions/network.sh")).unwrap();
        run(Command::new("busybox").args(["--install", "-s"]).arg(router.path("bin")));
        router
    }

    /// A place on the router.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    /// One of busybox's programs, which finds no other programs than those.
    pub fn busybox(&self, name: &str) -> Command {
        let mut command = Command::new(self.path("bin").join(name));
        command.env("PATH", self.path("bin")).current_dir(self.folder.path());
        command
    }

    /// /etc/config/meshseed, and `reload`: what happens after an edit.
    pub fn reload(&mut self, uci: &str) -> Ran {
        self.configure(uci);
        self.run("reload")
    }

    /// Writes /etc/config/meshseed.
    pub fn configure(&self, uci: &str) {
        let (export, error) = (self.path("meshseed.export"), self.path("meshseed.error"));
        match sections(uci) {
            Ok(sections) => {
                fs::write(export, export_of(&sections)).unwrap();
                fs::remove_file(error).ok();
            }
            Err(reason) => fs::write(error, format!("uci: Parse error ({reason}\n")).unwrap(),
        }
    }

    /// Calls the script, as `service meshseed ACTION` does.
    pub fn run(&mut self, action: &str) -> Ran {
        let root = self.folder.path();
        fs::write(root.join("log"), "").unwrap();
        fs::write(root.join("procd"), "").unwrap();
        let out = self
            .busybox("ash")
            .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/init/rc.common"), SCRIPT, action])
            .env("IPKG_INSTROOT", root)
            .env("MESHSEED", &self.program)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let [said, errors] = [out.stdout, out.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!((said.as_str(), errors.as_str()), ("", ""), "the script talks to nobody but the log");
        let log = fs::read_to_string(root.join("log")).unwrap().lines().map(str::to_owned).collect();
        let written = fs::read_to_string(root.join("procd")).unwrap();
        let calls = written.lines().map(|line| {
            line.trim_end_matches('\u{1f}').split('\u{1f}').map(str::to_owned).collect::<Vec<String>>()
        });
        self.procd(calls.collect(), log)
    }

    /// procd's part: no instance declared is one stopped, and one that is not as before is signalled or restarted.
    fn procd(&mut self, calls: Vec<Vec<String>>, log: Vec<String>) -> Ran {
        let mut ran = Ran { fate: Fate::Left, log, calls: Vec::new() };
        let mut declared: Option<Instance> = None;
        let mut data = Vec::new();
        for call in calls {
            let words: Vec<&str> = call.iter().map(String::as_str).collect();
            let instance = &mut declared;
            match &words[..] {
                ["broken", ..] => panic!("{call:?}"),
                ["open_service", name] => assert_eq!(*name, "meshseed"),
                ["open_instance"] => *instance = Some(Instance::default()),
                ["param", name, values @ ..] => {
                    let values = values.iter().map(|&value| value.to_owned()).collect();
                    instance.as_mut().unwrap().parameters.push(((*name).to_owned(), values));
                }
                ["jail", words @ ..] => {
                    instance.as_mut().unwrap().jail = Some(words.iter().map(|&w| w.to_owned()).collect());
                }
                ["mount", mode, path] => {
                    instance.as_mut().unwrap().mounts.push(((*mode).to_owned(), (*path).to_owned()));
                }
                ["open" | "value" | "close", ..] => data.push(call),
                ["close_instance"] => {
                    instance.as_mut().unwrap().data = tree(&mut data.drain(..))["data"].take()
                }
                ["close_service"] => {
                    let before = std::mem::take(&mut ran.fate);
                    ran.fate = self.set(declared.take());
                    if (before, ran.fate) == (Fate::Stopped, Fate::Started) {
                        ran.fate = Fate::Restarted;
                    }
                }
                ["kill", name] => {
                    assert_eq!(*name, "meshseed");
                    if let Some((instance, _)) = self.running.take() {
                        self.ending = Some(instance);
                        ran.fate = Fate::Stopped;
                    }
                }
                ["gone"] => self.ending = None,
                _ => ran.calls.push(call),
            }
        }
        ran
    }

    fn set(&mut self, declared: Option<Instance>) -> Fate {
        let declared = declared.map(|mut instance| {
            // One that has not gone yet is started anew with another command and other mounts, and no more.
            if let Some(old) = self.ending.take() {
                instance.jail = old.jail;
                instance.parameters.retain(|(name, _)| name != "reload_signal");
                instance
                    .parameters
                    .extend(old.parameters.into_iter().filter(|(name, _)| name == "reload_signal"));
            }
            let file = &instance.parameter("file").expect("it is watched")[0];
            let text = fs::read_to_string(file).unwrap();
            (instance, text)
        });
        let before = std::mem::replace(&mut self.running, declared);
        match (&before, &self.running) {
            (None, None) => Fate::Left,
            (Some(_), None) => Fate::Stopped,
            (None, Some(_)) => Fate::Started,
            (Some(before), Some(now)) if before == now => Fate::Left,
            (Some((before, _)), _) if before.parameter("reload_signal").is_some() => Fate::Hup,
            _ => Fate::Restarted,
        }
    }

    /// What procd runs.
    pub fn instance(&self) -> &Instance {
        &self.running.as_ref().expect("it runs").0
    }

    /// The file that the daemon reads.
    pub fn toml(&self) -> String {
        fs::read_to_string(self.path("var/etc/meshseed.toml")).unwrap()
    }

    /// What the file means to the daemon.
    pub fn config(&self) -> Config {
        Config::parse(&self.toml()).unwrap()
    }

    /// A network has that device, or is down.
    pub fn network(&self, name: &str, device: Option<&str>) {
        let file = self.path("networks").join(name);
        match device {
            Some(device) => fs::write(file, device).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
    }

    /// From now on there is a disk at this place.
    pub fn mount(&self, path: &Path) {
        fs::write(self.path("disks"), format!("{}\n", path.display())).unwrap();
    }
}

/// What json_* calls made: an object, or where members have no names a list.
fn tree(calls: &mut dyn Iterator<Item = Vec<String>>) -> Value {
    let mut members: Vec<(String, Value)> = Vec::new();
    while let Some(call) = calls.next() {
        match call[0].as_str() {
            "open" => members.push((call.get(1).cloned().unwrap_or_default(), tree(calls))),
            "value" => members.push((call[1].clone(), json!(call[2]))),
            _ => break,
        }
    }
    if !members.is_empty() && members.iter().all(|(name, _)| name.is_empty()) {
        return members.into_iter().map(|(_, value)| value).collect();
    }
    let count = members.len();
    let object: serde_json::Map<String, Value> = members.into_iter().collect();
    assert_eq!(object.len(), count, "a name twice: the second takes the place of the first");
    object.into()
}

/// A section of a UCI file.
#[derive(Debug)]
pub struct Section {
    pub kind: String,
    pub name: String,
    /// Whether it is a list, its name, its value or values.
    pub options: Vec<(bool, String, Vec<String>)>,
}

/// A UCI file as libuci reads it.
pub fn sections(text: &str) -> Result<Vec<Section>, String> {
    let mut sections: Vec<Section> = Vec::new();
    for (line, words) in lines(text)? {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let wrong = |what: &str| Err(format!("{what}) at line {line}, byte 0"));
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match words[..] {
            [] => {}
            ["config", kind] => {
                let name = format!("cfg{:06x}", sections.len());
                sections.push(Section { kind: kind.into(), name, options: Vec::new() });
            }
            ["config", kind, name] if is_name(name) => {
                // A name that was there before goes on.
                let known = sections.iter().position(|section| section.name == name);
                let section = known.map(|at| sections.remove(at));
                let options = section.map_or(Vec::new(), |section| section.options);
                sections.push(Section { kind: kind.into(), name: name.into(), options });
            }
            [form @ ("option" | "list"), name, value] if is_name(name) => {
                let Some(section) = sections.last_mut() else {
                    return wrong("option/list command found before the first section");
                };
                match section.options.iter_mut().find(|(_, known, _)| known == name) {
                    // libuci forgets empty options.
                    _ if form == "option" && value.is_empty() => {}
                    Some((is_list @ true, _, values)) if form == "list" && *is_list => {
                        values.push(value.into())
                    }
                    Some(known) => *known = (form == "list", name.into(), vec![value.into()]),
                    None => section.options.push((form == "list", name.into(), vec![value.into()])),
                }
            }
            ["config", ..] | ["option" | "list", ..] => return wrong("invalid character in name field"),
            _ => return wrong("invalid command"),
        }
    }
    Ok(sections)
}

/// The words of each line, and the number of the line.
fn lines(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let (mut lines, mut words, mut word): (Vec<_>, Vec<String>, Option<String>) = Default::default();
    let (mut number, mut quote, mut chars) = (1, None, text.chars().peekable());
    while let Some(c) = chars.next() {
        number += usize::from(c == '\n');
        match c {
            _ if quote == Some(c) => quote = None,
            '\\' if quote != Some('\'') => word.get_or_insert_default().extend(chars.next()),
            _ if quote.is_some() => word.get_or_insert_default().push(c),
            '\'' | '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            '#' if word.is_none() => while chars.next_if(|&c| c != '\n').is_some() {},
            _ if c.is_whitespace() => {
                words.extend(word.take());
                if c == '\n' {
                    lines.push((number - 1, std::mem::take(&mut words)));
                }
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return Err(format!("EOF with unterminated {quote}) at line {number}, byte 0"));
    }
    words.extend(word);
    lines.push((number, words));
    Ok(lines)
}

/// What `uci export` writes, and config_load evaluates.
fn export_of(sections: &[Section]) -> String {
    let mut text = "package meshseed\n".to_owned();
    for section in sections {
        text += &format!("\nconfig {} {}\n", section.kind, quoted(&section.name));
        for (is_list, name, values) in &section.options {
            let form = if *is_list { "list" } else { "option" };
            for value in values {
                text += &format!("\t{form} {name} {}\n", quoted(value));
            }
        }
    }
    text
}

/// A value in a UCI file or in the shell.
pub fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}
