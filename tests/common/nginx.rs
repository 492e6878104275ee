//! nginx of Debian on the loopback interface, one site a port. It is one process, so that none outlives the test.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::{Folder, PATIENCE, Running, number, wait};

/// It runs until it is dropped.
#[derive(Debug)]
pub struct Nginx {
    /// Of each site, in their order.
    pub addresses: Vec<SocketAddr>,
    folder: Folder,
    _process: Running,
}

impl Nginx {
    /// With sites, each what `listen` says behind the address (such as `ssl`) and what else is in its `server`.
    pub fn start(sites: &[(&str, &str)]) -> Self {
        let folder = Folder::new();
        let first = 20_000 + (std::process::id() * 400 + number() * 10) % 40_000;
        let addresses: Vec<SocketAddr> = (first..)
            .zip(sites)
            .map(|(port, _)| ([127, 0, 0, 1], u16::try_from(port).expect("below 65536")).into())
            .collect();
        let mut config = format!(
            "daemon off; master_process off; pid {folder}/pid; error_log stderr; events {{}} http {{
             log_format short '$connection $ssl_protocol $uri'; access_log {folder}/log short;
             client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
             uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;",
            folder = folder.path().display(),
        );
        for (address, (how, site)) in addresses.iter().zip(sites) {
            config += &format!("server {{ listen {address} {how}; {site} }}\n");
        }
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, config + "}").expect("the folder is ours");
        let mut nginx = Command::new("nginx");
        nginx.arg("-e").arg("stderr").arg("-c").arg(&path).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Running(nginx.spawn().expect("nginx starts"));
        for address in &addresses {
            wait("nginx listens", PATIENCE, || std::net::TcpStream::connect(address).ok());
        }
        Self { addresses, folder, _process: process }
    }

    /// A line for each request: the number of its connection, the kind of TLS, and the path.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("nginx has made it")
    }
}
