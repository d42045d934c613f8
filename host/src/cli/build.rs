//! `falkirk build`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

#[derive(Args, Debug)]
pub(super) struct Build {
    /// The folder of the transform's Rust package.
    folder: PathBuf,
    /// The component to write.
    #[arg(long, short)]
    output: PathBuf,
}

impl Build {
    pub(super) fn run(self) -> ExitCode {
        match crate::build::build(&self.folder, &self.output) {
            Ok(report) => {
                println!(
                    "{}: {} {} -> {}, {} bytes, sha256:{}",
                    self.output.display(),
                    report.name,
                    report.from,
                    report.to,
                    report.size_bytes,
                    report.sha256
                );
                ExitCode::SUCCESS
            }
            Err(problem) => {
                eprintln!("{problem}");
                ExitCode::FAILURE
            }
        }
    }
}
