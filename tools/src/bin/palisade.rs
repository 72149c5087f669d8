//! The palisade program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    palisade_tools::run()
}
