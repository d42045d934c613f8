//! The `falkirk` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

/// How long work that nobody waits for any more may go on.
const LAST_WORK: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(falkirk::cli::main());
            // A transform that still compiles is not waited for: its process ends with this one.
            runtime.shutdown_timeout(LAST_WORK);
            code
        }
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
