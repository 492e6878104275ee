//! What stands for `maker` in a build without it: each of its commands says where it is to be had.

use std::process::ExitCode;

use super::arguments::Parser;
use super::output;

/// The help of the program lists what there is.
pub const COMMANDS: &str = "";

/// The last line of that help.
pub const EXAMPLE: &str = "Example: meshseed daemon --torrents /etc/torrents --data /mnt/usb/torrents\n";

/// Refuses the command of that name.
pub fn run(command: &str, _: Parser) -> ExitCode {
    output::note(format_args!(
        "{command} is left out of this build to keep it small: the package `meshseed` (the whole one) has it, or run it \
         on another computer and drop the .torrent file into the watched directory here"
    ));
    ExitCode::from(output::USAGE)
}
