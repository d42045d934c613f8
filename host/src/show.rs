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

/// Shows until the link has ended.
pub async fn show(mut live: watch::Receiver<Live>, for_eyes: bool) {
    let mut bars = for_eyes.then(Bars::new);
    let every = if for_eyes { REFRESH } else { LINE_EVERY };
    let mut last = String::new();
    loop {
        let ended = tokio::select! {
            () = tokio::time::sleep(every) => false,
            () = ended(&mut live) => true,
        };
        let now = live.borrow_and_update().clone();
        match &mut bars {
            Some(bars) => bars.draw(&now),
            None => {
                let line = line(&now);
                if line != last {
                    tracing::info!("{line}");
                    last = line;
                }
            }
        }
        if ended {
            bars.iter().for_each(Bars::clear);
            return;
        }
    }
}

async fn ended(live: &mut watch::Receiver<Live>) {
    while live.changed().await.is_ok() {}
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
        Stage::Waiting => "waiting to start again from the checkpoint".to_owned(),
    }
}

/// A bar for every table while it is copied, and one line for the stream.
struct Bars {
    all: MultiProgress,
    tables: HashMap<TableName, ProgressBar>,
    state: ProgressBar,
}

impl Bars {
    fn new() -> Bars {
        let all = MultiProgress::new();
        let state = all.add(ProgressBar::new_spinner());
        Bars { all, tables: HashMap::new(), state }
    }

    fn draw(&mut self, live: &Live) {
        for table in &live.tables {
            let bar = self.tables.entry(table.table.clone()).or_insert_with(|| {
                let bar = self.all.insert_before(&self.state, ProgressBar::new(table.rows_estimate.max(1)));
                bar.set_style(style());
                bar.set_message(table.table.to_string());
                bar
            });
            draw_table(bar, table);
        }
        self.state.set_message(line(live));
        self.state.tick();
    }

    fn clear(&self) {
        self.state.finish_and_clear();
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
