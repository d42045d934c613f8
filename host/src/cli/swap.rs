//! `falkirk swap`: puts another revision of the transform into the running host.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::admin::client;
use crate::problem::{Blame, Outcome, Problem};
use crate::transform::Artifact;

use super::Common;

#[derive(Args, Debug)]
pub(super) struct Swap {
    #[command(flatten)]
    common: Common,
    /// The new revision's file; FILE@sha256:... if it must have that digest.
    #[arg(required_unless_present_any = ["back", "again"])]
    file: Option<String>,
    /// If it does not fit the source's columns: keep it, and let it take over where they change.
    #[arg(long, requires = "file")]
    when_fits: bool,
    /// First lift the next so many changes beside the running revision, and compare what both would write.
    #[arg(long, value_name = "CHANGES", requires = "file")]
    shadow: Option<u64>,
    /// Put it in although they differ.
    #[arg(long, requires = "shadow")]
    promote: bool,
    /// Show the keys of differing rows.
    #[arg(long, requires = "shadow")]
    values: bool,
    /// Go back to the revision that ran before.
    #[arg(long, conflicts_with_all = ["file", "again"])]
    back: bool,
    /// Bind the running revision to the columns as they are now.
    #[arg(long, conflicts_with = "file")]
    again: bool,
}

impl Swap {
    pub(super) async fn run(self) -> ExitCode {
        match self.ask().await {
            Err(problem) => self.common.failed(&[problem]),
            Ok(answer) => self.print(&answer),
        }
    }

    async fn ask(&self) -> Outcome<Value> {
        let settings = self.common.settings()?;
        let admin = settings.admin.ok_or_else(|| {
            Problem::refuse(Blame::Config, "NO_ADMIN", "the configuration has no [admin], so the running host cannot be asked")
                .remedy("add [admin] with listen = \"127.0.0.1:7373\" and start the host again; or set watch = true and replace the file")
        })?;
        let Some(file) = &self.file else {
            return client::post(&admin, if self.back { "/swap/back" } else { "/swap/again" }, Vec::new()).await;
        };
        let (path, pin) = super::pinned(file);
        let bytes = Artifact::read(path)?;
        let mut how = format!("/swap?name={}", escaped(&super::file_name(path)));
        if let Some(pin) = pin {
            how += &format!("&pin={}", escaped(pin));
        }
        for (name, _) in [("when_fits", self.when_fits), ("promote", self.promote), ("values", self.values)]
            .iter()
            .filter(|(_, set)| *set)
        {
            how += &format!("&{name}=true");
        }
        if let Some(changes) = self.shadow {
            how += &format!("&shadow={changes}");
        }
        client::post(&admin, &how, bytes).await
    }

    fn print(&self, answer: &Value) -> ExitCode {
        let ok = answer["ok"] == Value::Bool(true);
        let exchanged = answer["exchanged"] == Value::Bool(true);
        // A trial that found differences and was not to be promoted is no success: the old revision runs on.
        let kept = ok && !exchanged && !answer["trial"].is_null();
        if self.common.json {
            println!("{answer}");
        } else if ok {
            texts(&answer["warnings"]).iter().for_each(|warning| eprintln!("warning: {warning}"));
            if !answer["trial"].is_null() {
                print_trial(&answer["trial"]);
            }
            let artifact = answer["artifact"].as_str().unwrap_or_default();
            match (exchanged, kept) {
                (false, false) => {
                    println!("{artifact} runs already");
                    print_hold(answer);
                }
                (false, true) => println!("{artifact} runs on; --promote puts the new revision in all the same"),
                (true, _) => print_exchange(artifact, answer),
            }
        } else {
            texts(&answer["texts"]).iter().for_each(|text| eprintln!("{text}"));
        }
        ExitCode::from(if ok && !kept { 0 } else { 1 })
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn print_exchange(artifact: &str, answer: &Value) {
    let from = |(link, at): (&String, &Value)| format!("{link} from {}", at.as_str().unwrap_or_default());
    let from: Vec<String> = answer["positions"].as_object().into_iter().flatten().map(from).collect();
    let stall_us = answer["stall_us"].as_u64().unwrap_or_default();
    println!("{artifact} runs, {}; writing stood for {} us", from.join(", "), stall_us);
    print_hold(answer);
}

/// What runs after the next start.
fn print_hold(answer: &Value) {
    match answer["commanded"] == Value::Bool(true) {
        true => println!(
            "it runs after a restart as well, for as long as the configuration's files stay as they are; to make it \
             permanent, name its file in migration.transforms"
        ),
        false => println!("it is what the configuration names"),
    }
}

fn print_trial(trial: &Value) {
    let number = |name: &str| trial[name].as_u64().unwrap_or_default();
    for row in trial["shown"].as_array().into_iter().flatten() {
        let columns = texts(&row["columns"]);
        let what = match columns.is_empty() {
            true => "the row is there by one of them only".to_owned(),
            false => columns.join(", "),
        };
        println!("{} {}: {what}", row["table"].as_str().unwrap_or_default(), row["key"].as_str().unwrap_or_default());
    }
    trial["failed"].as_str().iter().for_each(|failed| println!("the new revision fails: {failed}"));
    println!("{} changes, {} rows compared, {} differ", number("changes"), number("rows"), number("differing"));
}

/// Fit for a query.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
