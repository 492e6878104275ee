//! Disks that a test fills, spoils and takes away: file systems in memory and on loop devices. Needs root.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PATIENCE, python, run, wait};

/// A mounted file system; unmounted when dropped, even while in use.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// A disk in memory of so many mebibytes.
    pub fn tmpfs(path: &Path, mebibytes: u32) -> Self {
        let size = format!("size={mebibytes}m");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path));
        Self(path.to_owned())
    }

    /// Takes it off its place once nobody holds anything open there any more.
    pub fn unmount(self) {
        wait("nobody uses the disk", PATIENCE, || {
            let out = Command::new("umount").arg(&self.0).output().expect("it is installed");
            out.status.success().then_some(())
        });
        std::mem::forget(self);
    }

    /// The disk reports an error, as a worn one does: from now on it can be read only.
    pub fn spoil(&self) {
        let device = run(Command::new("findmnt").args(["-no", "SOURCE"]).arg(&self.0));
        let name = device.trim().trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1").expect("it is ext4");
    }

    /// The disk is gone from under its file system, as when it is torn out: every access to it fails.
    pub fn tear_out(&self) {
        let shut_down = "import fcntl, os, struct, sys
EXT4_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), EXT4_IOC_SHUTDOWN, struct.pack('I', NOLOGFLUSH))";
        run(Command::new(python()).args(["-c", shut_down]).arg(&self.0));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// A disk in a file.
#[derive(Debug)]
pub struct Image(PathBuf);

impl Image {
    /// Of so many mebibytes, with a file system made by `mkfs.KIND`.
    pub fn new(path: PathBuf, mebibytes: u64, kind: &str) -> Self {
        let file = File::create(&path).expect("the folder is ours");
        file.set_len(mebibytes << 20).expect("a file system with sparse files");
        run(Command::new(format!("/sbin/mkfs.{kind}")).arg(&path));
        Self(path)
    }

    pub fn mount(&self, at: &Path, options: &str) -> Mount {
        run(Command::new("mount").args(["-o", &format!("loop,{options}")]).args([self.0.as_path(), at]));
        Mount(at.to_owned())
    }

    /// What its owner does before a spoilt disk is mounted again.
    pub fn repair(&self) {
        // It ends with 1 when it had something to repair.
        let out = Command::new("/sbin/e2fsck").arg("-fy").arg(&self.0).output().expect("it is installed");
        assert!(matches!(out.status.code(), Some(0 | 1)), "{out:?}");
    }
}

/// The room that a file takes on its disk, in bytes.
pub fn room(path: &Path) -> u64 {
    std::fs::metadata(path).expect("it is there").blocks() * 512
}

/// Changes a byte as a user's editor would: the time of change moves on.
pub fn overwrite(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is long enough");
    file.write_all_at(&[!byte[0]], offset).expect("it can be written");
}

/// Changes a byte behind everybody's back: size and time stay. Who hashes finds it; who trusts the record does not.
pub fn tamper(path: &Path, offset: u64) {
    let time = std::fs::metadata(path).expect("it is there").modified().expect("Linux knows it");
    overwrite(path, offset);
    let file = File::options().write(true).open(path).expect("it is there");
    file.set_modified(time).expect("it is ours");
}
