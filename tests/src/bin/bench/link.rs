//! A link as its users run it: the built `falkirk` as a child process with a configuration file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use falkirk_tests::free_port;
use serde_json::Value;

use crate::ground::{Database, Ground, Outcome};

/// How a configuration begins.
const ONE_LINK: &str = "direction = \"forward\"\nrollback = \"none\"";

/// A configured link.
pub struct Link {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

/// A running host; killed if it is dropped while running.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Link {
    /// Writes the configuration of a forward link. `name` is the migration's.
    pub fn new(
        ground: &Ground,
        name: &str,
        source: &Database,
        target: &Database,
        transform: Option<&Path>,
    ) -> Outcome<Link> {
        let config = ground.files.path().join(format!("{name}.toml"));
        let transforms = transform.map(|path| format!("{:?}", path.display().to_string())).unwrap_or_default();
        let green_version = if transform.is_some() { "2" } else { "1" };
        let text = format!(
            "[migration]\nname = \"{name}\"\n{ONE_LINK}\ntransforms = [{transforms}]\n\n\
             [blue]\nurl = \"{}\"\nschema_version = \"1\"\n\n[green]\nurl = \"{}\"\nschema_version = \"{green_version}\"\n",
            source.url, target.url
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let log = ground.files.path().join(format!("{name}.log"));
        Ok(Link { program: ground.programs.join("falkirk"), config, log })
    }

    /// The same migration with both links.
    pub fn both(self) -> Outcome<Link> {
        self.written(|text| text.replace(ONE_LINK, "direction = \"both\"\nconflict = \"green_wins\""))
    }

    /// The same with the backward link alone.
    pub fn backward(self) -> Outcome<Link> {
        self.written(|text| text.replace(ONE_LINK, "direction = \"backward\"\nrollback = \"none\""))
    }

    /// The same with a listener, so that the running host can be asked.
    pub fn with_admin(self) -> Outcome<Link> {
        self.written(|text| format!("{text}\n[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port()))
    }

    fn written(self, change: impl Fn(String) -> String) -> Outcome<Link> {
        let text = fs::read_to_string(&self.config).map_err(|error| error.to_string())?;
        fs::write(&self.config, change(text)).map_err(|error| error.to_string())?;
        Ok(self)
    }

    /// Waits until every link of the running host streams.
    pub async fn streams(&self) -> Outcome<()> {
        for _ in 0..600 {
            let status = self.ask(&["status", "--json"]).await?;
            let phase = |value: &Value| value["phase"].as_str().map(str::to_owned);
            let phases = [phase(&status), phase(&status["other"])];
            if phases.iter().flatten().count() > 0 && phases.iter().flatten().all(|phase| phase == "streaming") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("the links did not stream within a minute".to_owned())
    }

    /// Puts a revision into the running host; for how many microseconds nothing was written because of it.
    pub async fn swap(&self, file: &Path) -> Outcome<u64> {
        let answer = self.ask(&["swap", "--json", &file.to_string_lossy()]).await?;
        answer["stall_us"].as_u64().ok_or_else(|| format!("the revision was not put in: {answer}"))
    }

    async fn ask(&self, words: &[&str]) -> Outcome<Value> {
        let mut command = tokio::process::Command::new(&self.program);
        let output = command.args(words).arg("--config").arg(&self.config).output().await;
        let output = output.map_err(|error| format!("{}: {error}", self.program.display()))?;
        serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr)))
    }

    /// Starts the host; with `until_caught_up` it ends by itself.
    pub fn start(&self, until_caught_up: bool) -> Outcome<Running> {
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(&self.config);
        if until_caught_up {
            command.args(["--until", "caught-up"]);
        }
        let output = File::create(&self.log).map_err(|error| error.to_string())?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))?;
        Ok(Running { child, log: self.log.clone() })
    }

    /// Runs until caught up.
    pub async fn catch_up(&self) -> Outcome<()> {
        self.start(true)?.finish().await
    }
}

impl Running {
    /// Waits for its end, which must be a good one.
    pub async fn finish(mut self) -> Outcome<()> {
        loop {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("falkirk ended with {status}:\n{}", self.last_words())),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Fails if it has ended badly, and says with what words.
    pub fn must_not_fail(&mut self) -> Outcome<()> {
        match self.child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if !status.success() => Err(format!("falkirk ended with {status}:\n{}", self.last_words())),
            _ => Ok(()),
        }
    }

    /// Asks it to drain and end; by a signal its exit code is 143.
    pub async fn stop(mut self) -> Outcome<()> {
        let asked = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        asked.map_err(|error| error.to_string())?;
        for _ in 0..2_000 {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                return match status.code() {
                    Some(0 | 143) => Ok(()),
                    _ => Err(format!("falkirk ended with {status}:\n{}", self.last_words())),
                };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err("falkirk did not end within 20 s of being asked to".to_owned())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either it has ended, or the bench is failing and must not leave it behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
