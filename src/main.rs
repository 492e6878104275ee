//! The program: everything it does is in the library, one file a command under `cli/`.
fn main() -> std::process::ExitCode {
    meshseed::cli::main()
}
