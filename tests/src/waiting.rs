//! A host with an operator at hand: asked by probes, told by commands.

use crate::{Running, SOON, Stage, free_port, until};

/// A stage whose host listens for probes and for its operator.
pub struct Waiting {
    /// The stage.
    pub stage: Stage,
    port: u16,
}

impl Waiting {
    /// With the forward link alone.
    pub fn one_way(name: &str, schema: [&str; 2], more: &str) -> Waiting {
        Waiting::new(Stage::one_way(name), "forward", schema, more)
    }

    /// With both links, of which both apply, or the backward one watches.
    pub fn two_way(name: &str, direction: &str, schema: [&str; 2], more: &str) -> Waiting {
        let way = if direction == "both" { "conflict = \"green_wins\"" } else { "rollback = \"watch\"" };
        Waiting::new(Stage::new(name), direction, schema, &format!("{way}\n{more}"))
    }

    /// With a stage that is there already.
    pub fn new(stage: Stage, direction: &str, schema: [&str; 2], more: &str) -> Waiting {
        stage.schemas(schema[0], schema[1]);
        let waiting = Waiting { stage, port: free_port() };
        waiting.configure(direction, more);
        waiting
    }

    /// The configuration; every table is copied as it is unless `more` names transforms.
    pub fn configure(&self, direction: &str, more: &str) {
        let port = self.port;
        let more = if more.contains("transforms") { more.to_owned() } else { format!("transforms = []\n{more}") };
        self.stage.config(direction, &format!("{more}\n[admin]\nlisten = \"127.0.0.1:{port}\"\n"));
    }

    /// Starts the host, and waits until every link streams.
    pub fn start(&self) -> Running {
        let host = self.stage.start_falkirk(&["run"]);
        until("it is ready", SOON, || self.get("/ready").contains(" 200 "));
        host
    }

    /// What a probe gets; nothing before the listener is there.
    pub fn get(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut answer = String::new();
        if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) {
            let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }

    /// A link waits for other columns, and probe, log and status say so.
    #[track_caller]
    pub fn waits(&self, host: &mut Running, words: &str) {
        until("it waits", SOON, || {
            let answer = self.get("/ready");
            answer.contains(" 503 ") && answer.contains(words) && answer.contains("SCHEMA_CHANGED")
        });
        until("the log says so", SOON, || host.err().contains("waits for a revision that fits"));
        until("status says so", SOON, || self.stage.falkirk(&["status"]).out.contains(words));
        assert!(host.is_running());
    }
}
