//! A Linux of our own as a process (user mode Linux), for a file system that the kernel of this machine lacks, or a clock
//! that may be set: the test is run once more, inside. It sees the files of this machine and can not change them.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Folder, PATIENCE, Running, meshseed, python, run, wait};

/// The program.
pub const LINUX: &str = "linux.uml";

/// Its modules for FAT on a loop device, in order of dependency.
const MODULES: [&str; 5] =
    ["drivers/block/loop", "fs/fat/fat", "fs/fat/vfat", "fs/nls/nls_cp437", "fs/nls/nls_iso8859-1"];

/// Tells those inside.
const INSIDE: &str = "MESHSEED_MACHINE";

/// Whether the calling test is to go on here, where the kernel knows FAT. If not it has been run inside, and passed.
pub fn knows_fat() -> bool {
    kernel_knows("vfat") || run_inside()
}

/// The same where all of the machine is ours, its clock too.
pub fn is_our_own() -> bool {
    std::env::var_os(INSIDE).is_some() || run_inside()
}

fn run_inside() -> bool {
    let folder = Folder::new();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("tmp")).expect("the folder is ours");
    std::fs::write(path("init"), init(folder.path())).expect("the folder is ours");
    run(Command::new("chmod").arg("+x").arg(path("init")));
    let log = std::fs::File::create(path("log")).expect("the folder is ours");
    let mut linux = Command::new(LINUX);
    linux.args(["rootfstype=hostfs", "rootflags=/", "ro", "mem=256M", "con=null", "con0=null,fd:1"]);
    linux.arg(format!("init={}", path("init").display())).env("HOME", folder.path());
    linux.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    let mut linux = Running(linux.spawn().expect("it is installed"));
    wait("the machine ends", 3 * PATIENCE, || linux.0.try_wait().expect("it is our child"));
    let code = std::fs::read_to_string(path("code")).unwrap_or_default();
    let log = std::fs::read(path("log")).unwrap_or_default();
    assert_eq!(code.trim(), "0", "the test fails inside: {}", String::from_utf8_lossy(&log));
    false
}

/// Whether this file system can be mounted.
pub fn kernel_knows(filesystem: &str) -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").expect("Linux tells it");
    known.lines().any(|line| line.trim() == filesystem)
}

/// What runs first inside: it runs the calling test.
fn init(folder: &Path) -> String {
    let test = std::thread::current().name().expect("a test has a name").to_owned();
    let this = std::env::current_exe().expect("Linux tells it");
    let (folder, this) = (folder.display(), this.display());
    let (meshseed, python) = (meshseed(), python());
    let (meshseed, python) = (meshseed.display(), python.display());
    let modules = MODULES.map(|name| format!("insmod \"$modules/{name}.ko\"\n")).concat();
    format!(
        "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t hostfs -o '{folder}' none '{folder}'
mount -t tmpfs tmpfs '{folder}/tmp'
modules=/usr/lib/uml/modules/$(uname -r)/kernel
export PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR='{folder}/tmp' MESHSEED='{meshseed}' MESHSEED_PYTHON='{python}' {INSIDE}=1
{modules}ip link set lo up
'{this}' --exact '{test}' --nocapture
echo $? >'{folder}/code'
echo o >/proc/sysrq-trigger
sleep 60
"
    )
}
