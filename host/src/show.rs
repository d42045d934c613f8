//! Shows a running link: progress bars on a terminal, plain lines every few seconds otherwise. Reads the live state and
//! nothing else; ends when nobody can change it any more.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::live::{Live, Stage, TableProgress};
use crate::names::TableName;

const REFRESH: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows links, each under its name, until all of them have ended.
pub async fn show(links: Vec<(&'static str, watch::Receiver<Live>)>, for_eyes: bool) {
    let mut bars = for_eyes.then(|| Bars::new(links.len()));
    let every = if for_eyes { REFRESH } else { LINE_EVERY };
    let named = links.len() > 1;
    let mut last = vec![String::new(); links.len()];
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep(every) => false,
            () = ended(&links) => true,
        };
        for (at, (name, live)) in links.iter().enumerate() {
            let now = live.borrow().clone();
            let line = if named { format!("{name}: {}", line(&now)) } else { line(&now) };
            match &mut bars {
                Some(bars) => bars.draw(at, &now, line),
                None if line != last[at] => {
                    tracing::info!("{line}");
                    last[at] = line;
                }
                None => {}
            }
        }
        if ended {
            bars.iter().for_each(Bars::clear);
            return;
        }
    }
}

async fn ended(links: &[(&'static str, watch::Receiver<Live>)]) {
    for (_, live) in links {
        let mut live = live.clone();
        while live.changed().await.is_ok() {}
    }
}

/// The live state in one line.
pub fn line(live: &Live) -> String {
    match live.stage {
        Stage::Starting => "starting".to_owned(),
        Stage::Copying => {
            let rows: u64 = live.tables.iter().map(|table| table.rows).sum();
            let finished: usize = live.tables.iter().map(|table| table.chunks_finished).sum();
            let chunks: usize = live.tables.iter().map(|table| table.chunks).sum();
            format!("copying: {rows} rows, {finished} of {chunks} chunks")
        }
        Stage::Streaming | Stage::Draining => format!(
            "streaming: {} transactions, {} rows, lag {} ms, at {}",
            live.transactions, live.rows_changed, live.lag_ms, live.position
        ),
        Stage::Watching => match live.waiting.since {
            None => "watching: its source has no changes of its own".to_owned(),
            Some(since) => format!(
                "watching: {} transactions of its source's own wait to be applied, from {since} on",
                live.waiting.transactions
            ),
        },
        Stage::Waiting => "waiting to start again from the checkpoint".to_owned(),
    }
}

/// A bar for every table while it is copied, and one line for the stream.
struct Bars {
    all: MultiProgress,
    tables: HashMap<TableName, ProgressBar>,
    states: Vec<ProgressBar>,
}

impl Bars {
    fn new(links: usize) -> Bars {
        let all = MultiProgress::new();
        let states = (0..links).map(|_| all.add(ProgressBar::new_spinner())).collect();
        Bars { all, tables: HashMap::new(), states }
    }

    fn draw(&mut self, link: usize, live: &Live, line: String) {
        for table in &live.tables {
            let bar = self.tables.entry(table.table.clone()).or_insert_with(|| {
                let bar = self.all.insert_before(&self.states[0], ProgressBar::new(table.rows_estimate.max(1)));
                bar.set_style(style());
                bar.set_message(table.table.to_string());
                bar
            });
            draw_table(bar, table);
        }
        self.states[link].set_message(line);
        self.states[link].tick();
    }

    fn clear(&self) {
        self.states.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn draw_table(bar: &ProgressBar, table: &TableProgress) {
    if bar.is_finished() {
        return;
    }
    // The planner's estimate may be too small; a bar never runs over its end.
    bar.set_length(table.rows_estimate.max(table.rows).max(1));
    bar.set_position(table.rows);
    if table.chunks > 0 && table.chunks_finished == table.chunks {
        bar.set_length(table.rows.max(1));
        bar.finish();
    }
}

fn style() -> ProgressStyle {
    // The template is a constant and right; if it were not, the bars would be plain.
    ProgressStyle::with_template("{msg:28} {bar:32.cyan/dim} {pos:>9}/{len:<9} rows {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
