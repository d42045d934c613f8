//! `falkirk clean`.

use std::process::ExitCode;

use clap::Args;

use crate::clean;

use super::Common;

#[derive(Args, Debug)]
pub(super) struct Clean {
    #[command(flatten)]
    common: Common,
}

impl Clean {
    pub(super) async fn run(self) -> ExitCode {
        let settings = match self.common.settings() {
            Ok(settings) => settings,
            Err(problem) => return self.common.failed(&[problem]),
        };
        match clean::clean(&settings).await {
            Ok(removed) if self.common.json => {
                println!("{}", serde_json::json!({ "ok": true, "removed": removed.removed, "left": removed.left }));
                ExitCode::SUCCESS
            }
            Ok(removed) => {
                removed.removed.iter().for_each(|what| println!("removed {what}"));
                removed.left.iter().for_each(|what| println!("left to you: {what}"));
                if removed.removed.is_empty() {
                    println!("nothing of {} was there", settings.name);
                }
                ExitCode::SUCCESS
            }
            Err(problem) => self.common.failed(&[problem]),
        }
    }
}
