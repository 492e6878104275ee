//! Network namespaces joined by a bridge: real addresses of 10.77.0.0/24 and fd77::/64 that no route leaves. Some
//! clients refuse peers on the loopback interface. Needs root.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{number, run};

/// Some namespaces and the one that holds their bridge. All are removed in the end.
#[derive(Debug)]
pub struct World {
    hub: String,
    spaces: Vec<Namespace>,
}

/// One machine of the world, so to speak.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
    pub address: Ipv4Addr,
    pub address6: Ipv6Addr,
}

impl World {
    /// As many namespaces as asked for, with the addresses 10.77.0.1, 10.77.0.2 …
    pub fn new<const N: usize>() -> Self {
        let id = format!("ms{}-{}", std::process::id(), number());
        let hub = format!("{id}-hub");
        let mut world = Self { hub: hub.clone(), spaces: Vec::new() };
        ip(&["netns", "add", &hub]);
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &hub, "link", "set", "bridge", "up"]);
        for n in 1..=u8::try_from(N).expect("a small world") {
            let space = Namespace {
                name: format!("{id}-{n}"),
                address: Ipv4Addr::new(10, 77, 0, n),
                address6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n.into()),
            };
            let port = format!("port{n}");
            ip(&["netns", "add", &space.name]);
            ip(&[
                "-n",
                &hub,
                "link",
                "add",
                &port,
                "type",
                "veth",
                "peer",
                "name",
                "mesh",
                "netns",
                &space.name,
            ]);
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"]);
            ip(&["-n", &space.name, "link", "set", "lo", "up"]);
            ip(&["-n", &space.name, "link", "set", "mesh", "up"]);
            ip(&["-n", &space.name, "address", "add", &format!("{}/24", space.address), "dev", "mesh"]);
            ip(&[
                "-n",
                &space.name,
                "address",
                "add",
                &format!("{}/64", space.address6),
                "dev",
                "mesh",
                "nodad",
            ]);
            world.spaces.push(space);
        }
        world
    }

    /// Plugs the cable of one of them in (`up`), or pulls it out (`down`).
    pub fn cable(&self, space: &Namespace, state: &str) {
        let [.., n] = space.address.octets();
        ip(&["-n", &self.hub, "link", "set", &format!("port{n}"), state]);
    }

    /// Takes some of them to a bridge of their own. No cable of theirs is pulled: they are told of nothing.
    pub fn part(&self, away: &[&Namespace]) {
        ip(&["-n", &self.hub, "link", "add", "other", "type", "bridge"]);
        ip(&["-n", &self.hub, "link", "set", "other", "up"]);
        self.move_to("other", away);
    }

    /// Brings them back.
    pub fn heal(&self, away: &[&Namespace]) {
        self.move_to("bridge", away);
    }

    fn move_to(&self, bridge: &str, spaces: &[&Namespace]) {
        for space in spaces {
            let [.., n] = space.address.octets();
            ip(&["-n", &self.hub, "link", "set", &format!("port{n}"), "master", bridge]);
        }
    }

    /// The namespaces by name: `let [seed, tracker, client] = world.spaces();`
    pub fn spaces<const N: usize>(&self) -> [&Namespace; N] {
        self.spaces.iter().collect::<Vec<_>>().try_into().expect("as many as were made")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in self.spaces.iter().map(|space| &space.name).chain([&self.hub]) {
            Command::new("ip").args(["netns", "delete", name]).status().ok();
        }
    }
}

impl Namespace {
    /// A command that will run inside. `ip` replaces itself by it, so the child's id is the program's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.name], arguments].concat());
    }

    /// Runs code inside: the sockets it opens belong to the namespace and may be kept.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.name)).expect("it was made");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}
