//! The developer commands: `cargo xtask check` is what has to pass, `cargo xtask fix` repairs
//! what a tool can repair.
#![forbid(unsafe_code)]

#[path = "../xtask/mod.rs"]
mod xtask;

fn main() -> std::process::ExitCode {
    xtask::run()
}
