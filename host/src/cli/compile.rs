//! The hidden command that a host starts its own program with, to compile where it can hurt nobody.

use std::process::ExitCode;

use clap::Args;

use crate::transform::{NOT_A_COMPONENT, compile_for_parent};

#[derive(Args, Debug)]
pub(super) struct Compile {
    #[arg(long)]
    memory_mib: u32,
    #[arg(long)]
    time_s: u32,
}

impl Compile {
    pub(super) fn run(self) -> ExitCode {
        match compile_for_parent(self.memory_mib, self.time_s) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::from(NOT_A_COMPONENT)
            }
        }
    }
}
